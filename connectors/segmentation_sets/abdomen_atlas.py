"""AbdomenAtlas 1.0 mini: nine organs on CT of other public sets, which a release finds by their voxels.

The one file of all classes is read; the files of single classes beside it say the same again.
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="abdomenatlas-mini",
        number="0025",
        parts=(
            Part(
                r"BDMAP_{id:\d{8}}/ct.nii.gz",
                r"BDMAP_{id:\d{8}}/combined_labels.nii.gz",
                classes=numbered(
                    "aorta", "gall_bladder", "kidney_left", "kidney_right", "liver", "pancreas", "postcava", "spleen",
                    "stomach",
                ),
            ),
        ),
        terms_id="cc-by-nc-sa",
        licence="CC BY-NC-SA 4.0",
        attribution="AbdomenAtlas 1.0 Mini",
        body_part="abdomen",
        unused=("BDMAP_{id}/segmentations/*",),
        n_cases=(5195,),
    ),
)  # fmt: skip
