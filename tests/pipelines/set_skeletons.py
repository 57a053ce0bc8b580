"""Skeletons of public segmentation sets: each set's real folders and file names around volumes of 8 x 12 x 16 voxels.

Written from the published layouts, and knowing nothing of how MedLoom describes them. Of three images the first has its
mask, the mask of the second is missing, that of the third lies on another grid; `._` files and a stray file lie beside.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SHAPE = (8, 12, 16)  # Z, Y, X
OTHER_SHAPE = (6, 12, 16)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
BTCV = (
    "spleen|right kidney|left kidney|gallbladder|esophagus|liver|stomach|aorta|inferior vena cava|"
    "portal vein and splenic vein|pancreas|right adrenal gland|left adrenal gland"
)
AMOS = (
    "spleen|right kidney|left kidney|gall bladder|esophagus|liver|stomach|aorta|postcava|pancreas|right adrenal gland|"
    "left adrenal gland|duodenum|bladder|prostate or uterus"
)
FLARE = (
    "liver|right kidney|spleen|pancreas|aorta|inferior vena cava|right adrenal gland|left adrenal gland|gallbladder|"
    "esophagus|stomach|duodenum|left kidney"
)
WORD = (
    "liver|spleen|kidney left|kidney right|stomach|gallbladder|esophagus|pancreas|duodenum|colon|small bowel|adrenal|"
    "rectum|bladder|head of femur left|head of femur right"
)
ATLAS = "aorta|gall bladder|left kidney|right kidney|liver|pancreas|postcava|spleen|stomach"
SPINE = "|".join(
    [f"C{n}" for n in range(1, 8)] + [f"T{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 7)]
    + ["sacrum", "coccyx", "T13"]
)  # fmt: skip


@dataclass(frozen=True)
class Skeleton:
    """A set of one file an image and one label map an image.

    Attributes:
        name: what MedLoom calls it.
        images, masks: paths, one of each for each case, in the same order; "" for an image that has none officially.
        cases: what tells a unit apart.
        labels: what the values of a mask are, by M3D-Seg's names, separated by "|"; from `first` up.
        modalities, splits: of each case; "" for a split that nobody states.
        stray: a file that is none of the set's.
    """

    name: str
    images: tuple[str, ...]
    masks: tuple[str, ...]
    cases: tuple[str, ...]
    labels: str
    first: int = 1
    modalities: tuple[str, ...] = ("CT", "CT", "CT")
    splits: tuple[str, ...] = ("", "", "")
    stray: str = "notes/readme.txt"
    same_patient: tuple[tuple[int, int], ...] = ()
    others: tuple[str, ...] = field(default=())  # files of the set that are not read

    @property
    def folder(self) -> str:
        return self.name.upper()


def msd(name: str, folder: str, labels: str, ids: tuple[str, str, str]) -> Skeleton:
    stem = folder.split("_")[1].lower()
    images = tuple(f"{folder}/imagesTr/{stem}_{i}.nii.gz" for i in ids)
    masks = tuple(f"{folder}/labelsTr/{stem}_{i}.nii.gz" for i in ids)
    test = f"{folder}/imagesTs/{stem}_900.nii.gz"
    return Skeleton(
        f"msd-{name}", (*images, test), (*masks, ""), (*ids, "900"), labels, modalities=("CT",) * 4,
        splits=("", "", "", "test"), stray=f"{folder}/labelsTr/notes.txt", others=(f"{folder}/dataset.json",),
    )  # fmt: skip


_K = "case_{}/imaging.nii.gz", "case_{}/segmentation.nii.gz"
_V19 = "dataset-verse19{0}/{1}/sub-verse{2}/sub-verse{2}{3}"
_V20 = "dataset-{0}/{1}/sub-{2}/sub-{2}"
SERIES = "1.3.6.1.4.1.14519.5.2.1.6279.6001.10522593126859380240279645{}"
PLAIN: dict[str, Skeleton] = {
    "0002": Skeleton(
        "amos22",
        tuple(f"amos22/images{s}/amos_{n}.nii.gz" for s, n in (("Tr", "0004"), ("Va", "0500"), ("Tr", "0507"),
                                                              ("Ts", "5513"))),
        ("amos22/labelsTr/amos_0004.nii.gz", "amos22/labelsVa/amos_0500.nii.gz", "amos22/labelsTr/amos_0507.nii.gz",
         ""),
        ("0004", "0500", "0507", "5513"), AMOS, modalities=("CT", "CT", "MR", "CT"),
        splits=("train", "validation", "train", "test"), stray="amos22/imagesTr/amos_4.nii.gz",
        others=("amos22/dataset.json",),
    ),
    "0003": Skeleton(
        "abdomenct-1k",
        ("AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz", "AbdomenCT-1K-ImagePart2/Case_00400_0000.nii.gz",
         "AbdomenCT-1K-ImagePart3/Case_00900_0000.nii.gz"),
        ("Mask/Case_00001.nii.gz", "Mask/Case_00400.nii.gz", "Mask/Case_00900.nii.gz"),
        ("00001", "00400", "00900"), "liver|kidney|spleen|pancreas", stray="Mask/Case_1.nii.gz",
    ),
    "0004": Skeleton(
        "kits23", tuple(f"dataset/{_K[0].format(n)}" for n in ("00000", "00005", "00588")),
        tuple(f"dataset/{_K[1].format(n)}" for n in ("00000", "00005", "00588")), ("00000", "00005", "00588"),
        "kidney|kidney tumor|kidney cyst", stray="dataset/case_00000/imaging_old.nii.gz",
        others=("dataset/case_00000/instances/kidney_instance-1_annotation-1.nii.gz",),
    ),
    "0005": Skeleton(
        "kipa22", ("train/image/1.nii.gz", "train/image/17.nii.gz", "train/image/70.nii.gz"),
        ("train/label/1.nii.gz", "train/label/17.nii.gz", "train/label/70.nii.gz"), ("1", "17", "70"),
        "renal vein|kidney|renal artery|kidney tumor", stray="train/list.txt",
    ),
    "0006": Skeleton(
        "kits19", tuple(f"data/{_K[0].format(n)}" for n in ("00000", "00160", "00209", "00210")),
        (*(f"data/{_K[1].format(n)}" for n in ("00000", "00160", "00209")), ""), ("00000", "00160", "00209", "00210"),
        "kidney|kidney tumor", modalities=("CT",) * 4, splits=("", "", "", "test"), stray="data/case_00000/a.nii.gz",
        others=("data/kits.json",),
    ),
    "0007": Skeleton(
        "btcv", tuple(f"Abdomen/RawData/Training/img/img00{n}.nii.gz" for n in ("01", "02", "40")),
        tuple(f"Abdomen/RawData/Training/label/label00{n}.nii.gz" for n in ("01", "02", "40")),
        ("0001", "0002", "0040"), BTCV, stray="Abdomen/RawData/Training/img/label0001.nii.gz",
    ),
    "0010": Skeleton(
        "flare22",
        (*(f"Training/FLARE22_LabeledCase50/images/FLARE22_Tr_{n}_0000.nii.gz" for n in ("0001", "0010", "0050")),
         "Training/FLARE22_UnlabeledCase1-500/Case_00001_0000.nii.gz", "Validation/FLARETs_0001_0000.nii.gz"),
        (*(f"Training/FLARE22_LabeledCase50/labels/FLARE22_Tr_{n}.nii.gz" for n in ("0001", "0010", "0050")), "", ""),
        ("tr-0001", "tr-0010", "tr-0050", "case-00001", "ts-0001"), FLARE, modalities=("CT",) * 5,
        splits=("", "", "", "train", "validation"), stray="Training/FLARE22_LabeledCase50/images/a.txt",
    ),
    "0012": Skeleton(
        "ct-org", tuple(f"OrganSegmentations/volume-{n}.nii.gz" for n in (21, 0, 139)),
        tuple(f"OrganSegmentations/labels-{n}.nii.gz" for n in (21, 0, 139)), ("21", "0", "139"),
        "liver|bladder|lungs|kidneys|bone|brain", splits=("train", "test", "train"),
        stray="OrganSegmentations/volume-200.nii.gz",
    ),
    "0013": Skeleton(
        "word", ("WORD-V0.1.0/imagesTr/word_0002.nii.gz", "WORD-V0.1.0/imagesVal/word_0001.nii.gz",
                 "WORD-V0.1.0/imagesTs/word_0007.nii.gz"),
        ("WORD-V0.1.0/labelsTr/word_0002.nii.gz", "WORD-V0.1.0/labelsVal/word_0001.nii.gz",
         "WORD-V0.1.0/labelsTs/word_0007.nii.gz"),
        ("0002", "0001", "0007"), WORD, splits=("train", "validation", "test"), stray="WORD-V0.1.0/LICENSE",
    ),
    "0014": Skeleton(
        "verse19",
        tuple(_V19.format(s, "rawdata", n, part) + "_ct.nii.gz" for s, n, part in (
            ("training", "004", ""), ("validation", "400", "_split-verse153"), ("test", "400", "_split-verse155"))),
        tuple(_V19.format(s, "derivatives", n, part) + "_seg-vert_msk.nii.gz" for s, n, part in (
            ("training", "004", ""), ("validation", "400", "_split-verse153"), ("test", "400", "_split-verse155"))),
        ("verse004", "verse400_split-verse153", "verse400_split-verse155"), SPINE,
        splits=("train", "validation", "test"), stray="dataset-verse19training/rawdata/sub-verse004/a_ct.nii.gz",
        same_patient=((1, 2),),
        others=(_V19.format("training", "derivatives", "004", "") + "_seg-subreg_ctd.json",),
    ),
    "0015": Skeleton(
        "verse20",
        tuple(_V20.format(s, "rawdata", n) + "_ct.nii.gz" for s, n in (
            ("01training", "gl003"), ("02validation", "verse500"), ("03test", "verse815"))),
        tuple(_V20.format(s, "derivatives", n) + "_seg-vert_msk.nii.gz" for s, n in (
            ("01training", "gl003"), ("02validation", "verse500"), ("03test", "verse815"))),
        ("gl003", "verse500", "verse815"), SPINE, splits=("train", "validation", "test"),
        stray="dataset-01training/rawdata/sub-gl003/other.nii.gz",
    ),
    "0016": Skeleton(
        "sliver07", tuple(f"training-scans/scan/liver-orig{n}.mhd" for n in ("001", "002", "020")),
        tuple(f"training-labels/label/liver-seg{n}.mhd" for n in ("001", "002", "020")), ("001", "002", "020"),
        "liver", stray="training-scans/scan/readme.txt",
    ),
    "0018": msd("colon", "Task10_Colon", "colon cancer", ("001", "005", "221")),
    "0019": msd("hepaticvessel", "Task08_HepaticVessel", "hepatic vessels|liver tumor", ("001", "004", "455")),
    "0020": msd("liver", "Task03_Liver", "liver|liver tumor", ("0", "10", "130")),
    "0021": msd("lung", "Task06_Lung", "lung tumours", ("001", "003", "096")),
    "0022": msd("pancreas", "Task07_Pancreas", "pancreas|pancreas tumor", ("001", "004", "421")),
    "0023": msd("spleen", "Task09_Spleen", "spleen", ("2", "10", "63")),
    "0024": Skeleton(
        "luna16", tuple(f"subset{k}/{SERIES.format(k)}.mhd" for k in (0, 1, 9)),
        tuple(f"seg-lungs-LUNA16/{SERIES.format(k)}.mhd" for k in (0, 1, 9)),
        tuple(SERIES.format(k).replace(".", "-") for k in (0, 1, 9)), "left lung|right lung|trachea", first=3,
        stray="subset0/list.txt", others=("annotations.csv", "candidates_V2.csv"),
    ),
    "0025": Skeleton(
        "abdomenatlas-mini", tuple(f"AbdomenAtlas1.0Mini/BDMAP_{n}/ct.nii.gz" for n in ("00000001", "00000002",
                                                                                       "00005195")),
        tuple(f"AbdomenAtlas1.0Mini/BDMAP_{n}/combined_labels.nii.gz" for n in ("00000001", "00000002", "00005195")),
        ("00000001", "00000002", "00005195"), ATLAS, stray="AbdomenAtlas1.0Mini/BDMAP_00000001/ct_low.nii.gz",
        others=("AbdomenAtlas1.0Mini/BDMAP_00000001/segmentations/aorta.nii.gz",),
    ),
}  # fmt: skip


def affine(case: int) -> np.ndarray:
    """Oblique, LPS mm, other spacings for each case."""
    a, b = np.radians([10.0 + case, 7.0])
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    made = np.eye(4)
    made[:3, :3] = turn_z @ turn_x @ np.diag([0.7, 0.8, 2.5 + 0.5 * case])
    made[:3, 3] = -120.5, 30.25 + case, -700.75
    return made


def values(case: int) -> np.ndarray:
    """The image of a case: whole numbers from 0 to 2500, all cases different."""
    return np.random.default_rng(case).integers(0, 2500, SHAPE).astype(np.int16)


def classes(numbers: range) -> np.ndarray:
    """A label map in which the n-th class of `numbers` has 3 + n % 3 voxels."""
    made = np.zeros(SHAPE, np.uint8)
    for n, value in enumerate(numbers):
        made.flat[40 * n : 40 * n + 3 + n % 3] = value
    return made


def write(path: Path, array: np.ndarray, place: np.ndarray) -> None:
    """Write a volume as NIfTI, NRRD or MetaImage, by the ending of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii.gz", ".nii")):
        nibabel.Nifti1Image(array.transpose(2, 1, 0), RAS @ place).to_filename(path)
        return
    image = SimpleITK.GetImageFromArray(array)
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(v) for v in place[:3, 3]])
    image.SetDirection([float(v) for v in (place[:3, :3] / spacing).ravel()])
    SimpleITK.WriteImage(image, str(path))


def write_dicom(path: Path, plane: np.ndarray, place: np.ndarray, k: int, *, series: str, modality: str = "CT") -> None:
    """Write slice k (Y, X) of a series."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{2 if modality == 'CT' else 4}"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    cosines = place[:3, :3] / spacing
    bits = 8 * plane.dtype.itemsize
    for name, value in {
        "SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": series, "StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4", "PatientID": "x",
        "Modality": modality, "Rows": plane.shape[0], "Columns": plane.shape[1], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(plane.dtype.kind == "i"), "RescaleSlope": 1, "RescaleIntercept": 0,
        "PixelSpacing": [f"{spacing[1]:.12g}", f"{spacing[0]:.12g}"],
        "ImageOrientationPatient": [f"{v:.12g}" for v in (*cosines[:, 0], *cosines[:, 1])],
        "ImagePositionPatient": [f"{v:.12g}" for v in (place @ [0, 0, k, 1])[:3]], "InstanceNumber": k + 1,
        "SliceThickness": f"{spacing[2]:.6g}", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }.items():  # fmt: skip
        setattr(made, name, value)
    made.PixelData = np.ascontiguousarray(plane).tobytes()
    made.save_as(path, enforce_file_format=True)


def write_png(path: Path, plane: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plane).save(path)


def write_beside(root: Path, stray: str, near: str) -> None:
    """Write what lies beside the real files: macOS's shadow of `near`, and the stray file."""
    shadow = root / near
    shadow.with_name("._" + shadow.name).write_bytes(b"\x00\x05\x16\x07 a shadow")
    (root / stray).parent.mkdir(parents=True, exist_ok=True)
    (root / stray).write_bytes(b"nothing of the set")


def write_plain(root: Path, skeleton: Skeleton, *, change: Callable[..., tuple] | None = None) -> None:
    """Write a set of one file an image and one label map an image.

    Args:
        change: (case, image, mask, place of the mask) -> the same, as the set's quirks want them.
    """
    numbers = range(skeleton.first, skeleton.first + skeleton.labels.count("|") + 1)
    for case, (image, mask) in enumerate(zip(skeleton.images, skeleton.masks, strict=True)):
        drawn, place = classes(numbers), affine(case)
        write(root / image, values(case), place)
        if case == 2:
            place = affine(case)
            place[:3, 3] += 0.4 * place[:3, 2] + (0.3, 0.0, 0.0)
        if change:
            drawn, place = change(case, drawn, place)
        if mask and case != 1:
            write(root / mask, drawn, place)
    for other in skeleton.others:
        (root / other).parent.mkdir(parents=True, exist_ok=True)
        (root / other).write_bytes(b"{}")
    write_beside(root, skeleton.stray, skeleton.masks[0])
