"""What is said of structures without naming them: our own sentences, each true of that structure alone."""

# By name of `medloom.connectors.anatomy`; each reads on after "Find …" and holds none of the words of the name.
DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "liver": (
        "the large gland under the right dome of the diaphragm that makes bile",
        "the organ that receives the portal blood of the gut and stores glycogen",
    ),
    "spleen": (
        "the lymphoid organ under the left ribs that filters the blood and removes old red cells",
        "the soft, blood-rich organ that touches the stomach's greater curvature and the tail of the pancreas",
    ),
    "kidney": (
        "the bean-shaped organ behind the peritoneum that makes urine",
        "the organ whose cortex and medulla filter the blood and drain into a ureter",
    ),
    "pancreas": (
        "the long gland across the upper abdomen that gives off both digestive enzymes and insulin",
        "the retroperitoneal gland whose head lies in the curve of the duodenum",
    ),
    "stomach": (
        "the pouch of the digestive tract between the gullet and the duodenum, where acid begins to digest food",
        "the J-shaped hollow organ that has a fundus, a body and a pylorus",
    ),
    "gallbladder": (
        "the small sac under the liver in which bile is stored and thickened",
        "the pear-shaped pouch that empties through the cystic duct",
    ),
    "duodenum": (
        "the first, C-shaped part of the gut after the pylorus",
        "the part of the bowel into which bile and pancreatic juice flow",
    ),
    "colon": (
        "the wide bowel with haustra that frames the abdomen and takes water out of its content",
        "the last long part of the gut, between the cecum and the rectum",
    ),
    "small bowel": (
        "the long, narrow and coiled part of the gut where most of the food is absorbed",
        "the loops of gut between the pylorus and the cecum",
    ),
    "esophagus": (
        "the muscular tube behind the windpipe that carries food down through the chest",
        "the gullet, which runs from the pharynx to the stomach",
    ),
    "adrenal gland": (
        "the small hormone-making structure, like a Y or a cap, on top of a kidney",
        "the source of cortisol and epinephrine, just above a kidney",
    ),
    "urinary bladder": (
        "the hollow muscular organ of the pelvis that holds urine until it is passed",
        "the reservoir into which both ureters open",
    ),
    "prostate": (
        "the male gland around the beginning of the urethra",
        "the walnut-sized organ below the bladder that adds fluid to semen",
    ),
    "aorta": (
        "the largest artery, which leaves the left ventricle and runs down in front of the spine",
        "the main vessel that carries oxygenated blood to the whole body",
    ),
    "inferior vena cava": (
        "the large vein that brings the blood of the legs and the abdomen to the right atrium",
        "the wide vein on the right of the spine that passes behind the liver",
    ),
    "superior vena cava": (
        "the large vein that brings the blood of the head and the arms to the right atrium",
    ),
    "pulmonary artery": (
        "the vessel that carries the blood from the right ventricle to be oxygenated",
    ),
    "portal vein and splenic vein": (
        "the vessels that bring the blood of the gut and of the organ under the left ribs to the liver",
    ),
    "lung": (
        "the air-filled organ of the chest in which blood takes up oxygen",
        "the spongy organ in a pleural cavity that fills with every breath",
    ),
    "trachea": (
        "the windpipe, which divides into the two main bronchi",
        "the airway with rings of cartilage that runs down from the larynx",
    ),
    "heart": (
        "the four-chambered muscle in the middle of the chest that pumps the blood",
        "the beating organ within the pericardium",
    ),
    "brain": (
        "the organ inside the skull that holds the hemispheres and the cerebellum",
    ),
    "brainstem": (
        "the stalk of midbrain, pons and medulla that leads to the spinal cord",
    ),
    "spinal cord": (
        "the bundle of nervous tissue that runs down in the vertebral canal",
    ),
    "thyroid gland": (
        "the butterfly-shaped organ in front of the windpipe that takes up iodine",
    ),
    "mandible": (
        "the bone of the lower jaw",
    ),
    "femur": (
        "the long bone of the thigh",
    ),
    "humerus": (
        "the long bone of the upper arm",
    ),
    "scapula": (
        "the flat, triangular bone of the shoulder blade",
    ),
    "clavicle": (
        "the slender collarbone between breastbone and shoulder",
    ),
    "sacrum": (
        "the wedge of fused bone between the last lumbar vertebra and the tailbone",
    ),
    "hip bone": (
        "the half of the pelvic ring made of ilium, ischium and pubis",
    ),
}  # fmt: skip
