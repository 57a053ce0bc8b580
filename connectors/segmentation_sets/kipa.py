"""KiPA22: kidney, tumor, renal artery and vein on CT angiography cropped around one kidney.

Stored from 0 up, without a slope that says so: 1024 is taken off to give HU.
"""

from medloom.connectors.segmentation_sets.spec import Intensity, Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="kipa22",
        number="0005",
        parts=(
            Part(
                "train/image/{id}.nii.gz",
                "train/label/{id}.nii.gz",
                classes=numbered("renal vein", "kidney", "renal artery", "tumor"),
            ),
            Part("open_test/image/{id}.nii.gz", split="test"),
        ),
        terms_id="cc-by-nc",
        licence="CC BY-NC 4.0",
        attribution="KiPA22: Kidney PArsing Challenge 2022",
        body_part="abdomen",
        within="kidney",
        intensity=Intensity("HU", offset=-1024),
        hint="kipa",
        n_cases=(70,),
    ),
)
