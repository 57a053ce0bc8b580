"""WORD: 16 organs of the abdomen on CT, in three official parts; to be had on request, for research."""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

_PLACE = r"{split:Tr|Val|Va|Ts}/word_{id:\d{4}}.nii.gz"

SETS = (
    SetSpec(
        name="word",
        number="0013",
        parts=(
            Part(
                f"images{_PLACE}",
                f"labels{_PLACE}",
                classes=numbered(
                    "liver", "spleen", "kidney left", "kidney right", "stomach", "gallbladder", "esophagus", "pancreas",
                    "duodenum", "colon", "intestine", "adrenal", "rectum", "bladder", "head of femur left",
                    "head of femur right",
                ),
            ),
        ),
        terms_id="credentialed",
        licence="research only, on request",
        attribution="WORD: A large scale dataset for abdominal organ segmentation from CT image",
        body_part="abdomen",
        aliases=(("intestine", "small bowel"),),  # beside colon, duodenum and rectum
        unused=("dataset.json",),
        n_cases=(150, 120),
    ),
)  # fmt: skip
