"""LUNA16: lungs and trachea on CT of LIDC-IDRI, MetaImage named by series; some scans lie flipped.

3 and 4 are the two lungs, and which is the left one is told by where it lies, not by its number.
"""

from medloom.connectors.segmentation_sets.spec import Fix, Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="luna16",
        number="0024",
        parts=(
            Part(
                r"subset{subset:\d}/{id:[\d.]+}.{file:mhd|raw|zraw}",
                r"seg-lungs-LUNA16/{id:[\d.]+}.{file:mhd|raw|zraw}",
                classes=numbered("lung", "lung", "trachea", start=3),
            ),
        ),
        terms_id="cc-by",
        licence="CC BY 4.0 (LIDC-IDRI: CC BY 3.0)",
        attribution="LUNA16: LUng Nodule Analysis 2016; LIDC-IDRI, The Cancer Imaging Archive",
        body_part="chest",
        fix=Fix(sides_by_place=(3, 4)),
        unused=("annotations.csv", "candidates*.csv", "sampleSubmission.csv", "evaluationScript*"),
        n_cases=(888,),
    ),
)
