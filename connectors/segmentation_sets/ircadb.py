"""3D-IRCADb-01: CT of livers with tumors, every structure a folder of DICOM masks (0/255) with a name of free text.

Structures overlap: a liver contains its tumors, "kidneys" the left one. Files have no ending; image_10 follows image_9.
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec

SETS = (
    SetSpec(
        name="3d-ircadb-01",
        number="0009",
        parts=(
            Part(
                r"3Dircadb1.{id:\d+}/PATIENT_DICOM/image_{slice:\d+}",
                r"3Dircadb1.{id:\d+}/MASKS_DICOM/{label}/image_{slice:\d+}",
                "per_class_dicom",
            ),
        ),
        terms_id="cc-by-nc-nd",
        licence="CC BY-NC-ND 4.0",
        attribution="3D-IRCADb-01, IRCAD France",
        body_part="abdomen",
        within="liver",
        aliases=(("venacava", "inferior vena cava"), ("vena cava", "inferior vena cava")),
        unused=("3Dircadb1.{id}/LABELLED_DICOM/*", "3Dircadb1.{id}/MESHES_VTK/*"),
        n_cases=(20,),
    ),
)
