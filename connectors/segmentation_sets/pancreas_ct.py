"""NIH Pancreas-CT: DICOM series with NIfTI masks whose rows lie the other way round than dcm2niix writes the image."""

from medloom.connectors.segmentation_sets.spec import Fix, Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="pancreas-ct",
        number="0008",
        parts=(
            Part(
                r"Pancreas-CT/PANCREAS_{id:\d{4}}/{study}/{series}/{slice}.dcm",
                r"TCIA_pancreas_labels-02-05-2017/label{id:\d{4}}.nii.gz",
                classes=numbered("pancreas"),
            ),
        ),
        terms_id="cc-by",
        licence="CC BY 3.0",
        attribution="Pancreas-CT, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2016.tNB1kqBU",
        body_part="abdomen",
        fix=Fix(flip=("y",), by_index=True),
        unused=("Pancreas-CT/LICENSE", "Pancreas-CT/*.csv"),
        n_cases=(80,),  # 25 and 70 of 82 were withdrawn
    ),
)
