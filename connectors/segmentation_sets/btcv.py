"""BTCV (Synapse, Beyond the Cranial Vault): 13 organs of the abdomen on CT; image and mask share a number only."""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="btcv",
        number="0007",
        parts=(
            Part(
                r"Training/img/img{id:\d+}.nii.gz",
                r"Training/label/label{id:\d+}.nii.gz",
                classes=numbered(
                    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
                    "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland",
                    "left adrenal gland",
                ),
            ),
            Part(r"Testing/img/img{id:\d+}.nii.gz", split="test"),
        ),
        terms_id="credentialed",
        licence="Synapse syn3193805 terms of use (registration)",
        attribution="Multi-Atlas Labeling Beyond the Cranial Vault, Synapse syn3193805",
        body_part="abdomen",
        n_cases=(30,),
    ),
)  # fmt: skip
