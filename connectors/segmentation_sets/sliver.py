"""SLIVER07: livers on CT as MetaImage, header and voxels in two files; orientation differs between cases."""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

SETS = (
    SetSpec(
        name="sliver07",
        number="0016",
        parts=(
            Part(
                r"training-scans/scan/liver-orig{id:\d+}.{file:mhd|raw|zraw}",
                r"training-labels/label/liver-seg{id:\d+}.{file:mhd|raw|zraw}",
                classes=numbered("liver"),
            ),
        ),
        terms_id="cc-by-nc-nd",
        licence="CC BY-NC-ND 4.0 (to be checked at Zenodo 2597908)",
        attribution="SLIVER07: Segmentation of the Liver 2007, Zenodo 2597908",
        body_part="abdomen",
        within="liver",
        n_cases=(20,),
    ),
)
