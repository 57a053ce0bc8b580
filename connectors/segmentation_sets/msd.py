"""Medical Segmentation Decathlon: the six tasks that M3D-Seg takes, laid out alike. http://medicaldecathlon.com

Archives carry macOS's `._` files beside the real ones; numbers may be padded or not.
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered


def _task(number: str, folder: str, organ: str, *classes: str, body_part: str = "abdomen", n_cases: int) -> SetSpec:
    file = folder.partition("_")[2].lower()
    return SetSpec(
        name=f"msd-{file}",
        number=number,
        parts=(
            Part(
                rf"{folder}/imagesTr/{file}_{{id:\d+}}.nii.gz",
                rf"{folder}/labelsTr/{file}_{{id:\d+}}.nii.gz",
                classes=numbered(*classes),
            ),
            Part(rf"{folder}/imagesTs/{file}_{{id:\d+}}.nii.gz", split="test"),
        ),
        terms_id="cc-by-sa",
        licence="CC BY-SA 4.0",
        attribution=f"Medical Segmentation Decathlon, {folder}",
        body_part=body_part,
        within=organ,
        unused=(f"{folder}/dataset.json",),
        n_cases=(n_cases,),
    )


SETS = (
    _task("0018", "Task10_Colon", "colon", "colon cancer primaries", n_cases=126),
    _task("0019", "Task08_HepaticVessel", "liver", "vessel", "tumour", n_cases=303),
    _task("0020", "Task03_Liver", "liver", "liver", "tumour", n_cases=131),
    _task("0021", "Task06_Lung", "lung", "cancer", body_part="chest", n_cases=63),
    _task("0022", "Task07_Pancreas", "pancreas", "pancreas", "tumour", n_cases=281),
    _task("0023", "Task09_Spleen", "spleen", "spleen", n_cases=41),
)
