"""CT-ORG: six organs on CT, some of PET-CT and some of LiTS; the first 21 volumes are the official test part.

Masks carry a slope with a rounding error, and an affine that may differ slightly from their image's.
"""

from medloom.connectors.segmentation_sets.spec import Fix, Part, SetSpec, numbered

_ORGANS = numbered("liver", "bladder", "lungs", "kidneys", "bone", "brain")


def _part(ids: str, split: str) -> Part:
    image, mask = (f"OrganSegmentations/{name}-{{id:{ids}}}.nii.gz" for name in ("volume", "labels"))
    return Part(image, mask, classes=_ORGANS, split=split)


SETS = (
    SetSpec(
        name="ct-org",
        number="0012",
        parts=(_part(r"\d|1\d|20", "test"), _part(r"2[1-9]|[3-9]\d|1\d\d", "train")),
        terms_id="cc-by",
        licence="CC BY 3.0",
        attribution="CT-ORG, The Cancer Imaging Archive, doi:10.7937/tcia.2019.tt7f4v7o",
        fix=Fix(whole=True, tolerance_mm=0.5),
        n_cases=(140,),
    ),
)
