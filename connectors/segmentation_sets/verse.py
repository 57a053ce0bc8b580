"""VerSe19 and VerSe20: vertebrae on CT by number, in three official parts; scans of one patient share its number.

Subjects below 450 stand in both sets. Masks: 1 to 7 C1 to C7, 8 to 19 T1 to T12, 20 to 25 L1 to L6, 26 sacrum,
27 coccyx, 28 T13. https://osf.io/nqjyw, https://osf.io/t98fz
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

_BONES = numbered(
    *(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 13)), *(f"L{n}" for n in range(1, 7)), "sacrum",
    "coccyx", "T13",
)  # fmt: skip


def _part(folder: str, ids: str) -> Part:
    scan = rf"sub-{{id:{ids}}}/sub-{{id}}{{scan:_split-\w+?|}}"
    return Part(
        f"{folder}/rawdata/{scan}_ct.nii.gz", f"{folder}/derivatives/{scan}_seg-vert_msk.nii.gz", classes=_BONES,
        case="{id}{scan}", patient="{id}",
    )  # fmt: skip


_CHALLENGE = r"{folder:[Vv]er[Ss]e_?(?:20)?19[^/]*}/{id:verse\d+}"  # files as the challenge gave them out
_UNUSED = ("derivatives/*/*.json", "derivatives/*/*.png", "rawdata/*/*.json", "*.tsv", "dataset_description.json")

SETS = (
    SetSpec(
        name="verse19",
        number="0014",
        parts=(
            _part(r"dataset-verse19{split:training|validation|test}", r"verse\d+"),
            Part(f"{_CHALLENGE}.nii.gz", f"{_CHALLENGE}_seg.nii.gz", classes=_BONES),
        ),
        terms_id="cc-by-sa",
        licence="CC BY-SA 4.0",
        attribution="VerSe 2019: Large Scale Vertebrae Segmentation Challenge, OSF nqjyw",
        body_part="spine",
        patients="verse",
        unused=_UNUSED,
        n_cases=(160,),
    ),
    SetSpec(
        name="verse20",
        number="0015",
        parts=(
            _part(
                r"{name:dataset-|}{split:01_?training|02_?validation|03_?test}",
                r"(?:verse|gl)\d+",
            ),
        ),
        terms_id="cc-by-sa",
        licence="CC BY-SA 4.0",
        attribution="VerSe 2020: Large Scale Vertebrae Segmentation Challenge, OSF t98fz",
        body_part="spine",
        patients="verse",
        unused=_UNUSED,
        n_cases=(319, 300),
    ),
)
