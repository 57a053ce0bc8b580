"""AbdomenCT-1K: liver, kidneys, spleen and pancreas on CT of LiTS, KiTS19, MSD and NIH Pancreas-CT.

Most of its scans stand in other sets too; a release finds them by their voxels. https://doi.org/10.5281/zenodo.5903099
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="abdomenct-1k",
        number="0003",
        parts=(
            Part(
                r"{folder:AbdomenCT-1K-ImagePart\d|imagesTr}/Case_{id:\d{5}}_0000.nii.gz",
                r"{masks:Mask|labelsTr}/Case_{id:\d{5}}.nii.gz",
                classes=numbered("liver", "kidney", "spleen", "pancreas"),
            ),
        ),
        terms_id="cc-by",
        licence="CC BY 4.0",
        attribution="AbdomenCT-1K: Is Abdominal Organ Segmentation A Solved Problem?, Zenodo 5903099",
        body_part="abdomen",
        unused=("dataset.json",),
        n_cases=(1000,),
    ),
)
