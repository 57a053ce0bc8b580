"""CHAOS: CT and MR of the abdomen of healthy donors, DICOM slices with masks as PNG files.

A PNG has no geometry: that of its slice holds. In MR a mask has its slice's name; in CT only a running number, in the
order of the slices' file names. The two phases of T1DUAL share one mask. https://doi.org/10.5281/zenodo.3431873
"""

from medloom.connectors.segmentation_sets.spec import Class, Part, SetSpec

_MR = (
    Class("liver", 55, 70),
    Class("right kidney", 110, 135),
    Class("left kidney", 175, 200),
    Class("spleen", 240, 255),
)
_LIVER = (Class("liver", 1, 255),)


def _parts(folder: str, split: str = "", mask: str = "") -> tuple[Part, ...]:
    ct, dual, spir = f"{folder}/CT/{{id}}", f"{folder}/MR/{{id}}/T1DUAL", f"{folder}/MR/{{id}}/T2SPIR"
    dicom = "/DICOM_anon/{slice}.dcm"
    phases = "/DICOM_anon/{phase:InPhase|OutPhase}/{slice}.dcm"
    ct_mask, dual_mask, spir_mask = (f"{image}{mask}" if mask else "" for image in (ct, dual, spir))
    return (
        Part(ct + dicom, ct_mask, "png_stack", _LIVER, "CT", "ct-{id}", "ct-{id}", split),
        Part(dual + phases, dual_mask, "png_stack", _MR, "MR", "mr-{id}-t1-{phase}", "mr-{id}", split),
        Part(spir + dicom, spir_mask, "png_stack", _MR, "MR", "mr-{id}-t2", "mr-{id}", split),
    )


SETS = (
    SetSpec(
        name="chaos",
        number="0000",
        parts=(*_parts("Train_Sets", mask="/Ground/{slice}.png"), *_parts("Test_Sets", "test")),
        terms_id="cc-by-nc-sa",
        licence="CC BY-NC-SA 4.0",
        attribution="CHAOS - Combined (CT-MR) Healthy Abdominal Organ Segmentation, Zenodo 3431873",
        body_part="abdomen",
        n_cases=(20, 80),  # CT alone, or with 20 MR of three images each
    ),
)
