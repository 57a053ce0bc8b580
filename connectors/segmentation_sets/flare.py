"""FLARE22: 13 organs of the abdomen on 50 labelled CT; the rest has no masks. Ids are matched whole."""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

_LABELLED = "FLARE22_LabeledCase50/"

SETS = (
    SetSpec(
        name="flare22",
        number="0010",
        parts=(
            Part(
                _LABELLED + r"images/FLARE22_Tr_{id:\d+}_0000.nii.gz",
                _LABELLED + r"labels/FLARE22_Tr_{id:\d+}.nii.gz",
                classes=numbered(
                    "liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland",
                    "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney",
                ),
                case="tr-{id}",
                patient="tr-{id}",
            ),
            Part(r"Training/*/Case_{id:\d{5}}_0000.nii.gz", case="case-{id}", patient="case-{id}", split="train"),
            Part(r"Validation/FLARETs_{id:\d+}{tail:|_0000}.nii.gz", case="ts-{id}", patient="ts-{id}",
                 split="validation"),
        ),
        terms_id="credentialed",
        licence="FLARE22 challenge terms",
        attribution="MICCAI FLARE22: Fast and Low-resource semi-supervised Abdominal oRgan sEgmentation",
        body_part="abdomen",
        n_cases=(50,),
    ),
)  # fmt: skip
