"""TotalSegmentator, versions 1 (104 classes) and 2 (117): a binary file a class, the official split in meta.csv.

Values keep the order of version 1's files by name, as M3D-Seg numbers them; what version 2 added comes after.
https://doi.org/10.5281/zenodo.6802613 and https://doi.org/10.5281/zenodo.10047292
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, SplitTable, numbered

_PAIRED_1 = (
    "adrenal_gland", "autochthon", "clavicula", "femur", "gluteus_maximus", "gluteus_medius", "gluteus_minimus",
    "heart_atrium", "heart_ventricle", "hip", "humerus", "iliac_artery", "iliac_vena", "iliopsoas", "kidney",
    "lung_lower_lobe", "lung_upper_lobe", "scapula",
)  # fmt: skip
_SINGLE_1 = (
    "aorta", "brain", "colon", "duodenum", "esophagus", "face", "gallbladder", "heart_myocardium", "inferior_vena_cava",
    "liver", "lung_middle_lobe_right", "pancreas", "portal_vein_and_splenic_vein", "pulmonary_artery", "sacrum",
    "small_bowel", "spleen", "stomach", "trachea", "urinary_bladder",
)  # fmt: skip
_SIDES = ("left", "right")
_BONES = (
    *(f"rib_{side}_{n}" for side in _SIDES for n in range(1, 13)),
    *(f"vertebrae_{part}{n}" for part, last in (("C", 7), ("T", 12), ("L", 5)) for n in range(1, last + 1)),
)
_VERSION_1 = sorted((*(f"{name}_{side}" for name in _PAIRED_1 for side in _SIDES), *_SINGLE_1, *_BONES))
_ADDED = (
    "atrial_appendage_left", "brachiocephalic_trunk", "brachiocephalic_vein_left", "brachiocephalic_vein_right",
    "common_carotid_artery_left", "common_carotid_artery_right", "costal_cartilages", "heart", "kidney_cyst_left",
    "kidney_cyst_right", "prostate", "pulmonary_vein", "skull", "spinal_cord", "sternum", "subclavian_artery_left",
    "subclavian_artery_right", "superior_vena_cava", "thyroid_gland", "vertebrae_S1",
)  # fmt: skip

SETS = (
    SetSpec(
        name="totalsegmentator",
        number="0011",
        parts=(
            Part(
                r"s{id:\d{4}}/ct.nii.gz",
                r"s{id:\d{4}}/segmentations/{label}.nii.gz",
                "per_class_files",
                numbered(*_VERSION_1, *_ADDED),
                case="s{id}",
                patient="s{id}",
            ),
        ),
        terms_id="cc-by",
        licence="CC BY 4.0",
        attribution="TotalSegmentator: 104 anatomical structures in CT images, Zenodo 6802613",
        split_table=SplitTable("meta.csv", ";", "image_id", "split"),
        n_cases=(1204, 1228),
    ),
)
