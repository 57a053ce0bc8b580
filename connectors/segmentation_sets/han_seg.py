"""HaN-Seg: CT and MR of head and neck with 30 organs at risk drawn on the CT, one .seg.nrrd an organ.

A mask may cover a part of the CT's field and have an axis of layers; the MR has a grid of its own and no mask.
https://doi.org/10.5281/zenodo.7442914
"""

from medloom.connectors.segmentation_sets.spec import Fix, Part, SetSpec, numbered

_ORGANS = numbered(  # in the order of M3D-Seg
    "A_Carotid_L", "A_Carotid_R", "Arytenoid", "Bone_Mandible", "Brainstem", "BuccalMucosa", "Cavity_Oral", "Cochlea_L",
    "Cochlea_R", "Cricopharyngeus", "Esophagus_S", "Eye_AL", "Eye_AR", "Eye_PL", "Eye_PR", "Glnd_Lacrimal_L",
    "Glnd_Lacrimal_R", "Glnd_Submand_L", "Glnd_Submand_R", "Glnd_Thyroid", "Glottis", "Larynx_SG", "Lips",
    "OpticChiasm", "OpticNrv_L", "OpticNrv_R", "Parotid_L", "Parotid_R", "Pituitary", "SpinalCord",
)  # fmt: skip

SETS = (
    SetSpec(
        name="han-seg",
        number="0001",
        parts=(
            Part(
                "case_{id}/case_{id}_IMG_CT.nrrd", "case_{id}/case_{id}_OAR_{label}.seg.nrrd", "per_class_files",
                _ORGANS, "CT", "{id}-ct",
            ),
            Part("case_{id}/case_{id}_IMG_MR_T1.nrrd", modality="MR", case="{id}-mr"),
        ),
        terms_id="cc-by-nc-nd",
        licence="CC BY-NC-ND 4.0",
        attribution="HaN-Seg: The head and neck organ-at-risk CT & MR segmentation dataset, Zenodo 7442914",
        body_part="head",
        fix=Fix(resample=True),
        n_cases=(42,),
    ),
)  # fmt: skip
