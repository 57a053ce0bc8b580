"""AMOS22: CT (ids to 500, and above 600 without masks) and MR (501 to 600) of the abdomen, 15 organs.

Stated as CC BY 4.0 by the archive and as CC BY-NC-SA by the paper's page: the stricter holds here.
https://doi.org/10.5281/zenodo.7262581
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

_ORGANS = numbered(
    "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus",
)  # fmt: skip
_CT, _MR = r"{id:0[0-4]\d\d|0500|[1-9]\d{3}}", r"{id:050[1-9]|05[1-9]\d|0600}"


def _parts(ids: str, modality: str) -> tuple[Part, ...]:
    drawn = Part(
        f"images{{split:Tr|Va}}/amos_{ids}.nii.gz", f"labels{{split:Tr|Va}}/amos_{ids}.nii.gz", classes=_ORGANS,
        modality=modality,
    )  # fmt: skip
    return drawn, Part(f"imagesTs/amos_{ids}.nii.gz", modality=modality, split="test")


SETS = (
    SetSpec(
        name="amos22",
        number="0002",
        parts=(*_parts(_CT, "CT"), *_parts(_MR, "MR")),
        terms_id="cc-by-nc-sa",
        licence="CC BY 4.0 (Zenodo 7262581); CC BY-NC-SA (OpenReview)",
        attribution="AMOS: A Large-Scale Abdominal Multi-Organ Benchmark, Zenodo 7262581",
        body_part="abdomen",
        unused=("dataset.json", "*.csv", "*.md"),
        n_cases=(360, 300),  # the challenge's CT task has 300
    ),
)
