"""KiTS19 and KiTS23: kidneys with tumors (and, in KiTS23, cysts) on contrast-enhanced CT; the same patients' numbers.

Array axes are (slice, row, column) with an affine that says so. Case 160 of KiTS19 had a wrong geometry in early
releases: there its mask is refused or not by the affine, as everywhere.
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered


def _part(folder: str, ids: str, *classes: str, split: str = "") -> Part:
    image, mask = (f"{folder}/case_{{id:{ids}}}/{name}.nii.gz" for name in ("imaging", "segmentation"))
    return Part(image, mask if classes else "", classes=numbered(*classes), split=split)


SETS = (
    SetSpec(
        name="kits23",
        number="0004",
        parts=(_part("dataset", r"\d{5}", "kidney", "tumor", "cyst"),),
        terms_id="cc-by-nc-sa",
        licence="CC BY-NC-SA 4.0",
        attribution="The 2023 Kidney Tumor Segmentation Challenge (KiTS23)",
        body_part="abdomen",
        within="kidney",
        patients="kits",
        unused=("case_{id}/instances/*", "kits23.json", "dataset/*.json"),
        n_cases=(489,),
    ),
    SetSpec(
        name="kits19",
        number="0006",
        parts=(
            _part("data", r"00[01]\d\d|0020\d", "kidney", "kidney tumor"),
            _part("data", r"002[1-9]\d", split="test"),
        ),
        terms_id="cc-by-nc-sa",
        licence="CC BY-NC-SA 4.0",
        attribution="The 2019 Kidney Tumor Segmentation Challenge (KiTS19)",
        body_part="abdomen",
        within="kidney",
        patients="kits",
        unused=("kits.json", "data/*.json", "data/LICENSE"),
        n_cases=(210,),
    ),
)
