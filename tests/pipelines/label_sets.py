"""Skeletons of public sets of labelled images: their real names, columns and folders, with tiny synthetic images.

Each holds two patients or more, an image that no table speaks of, and a row whose image is not there.
"""

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

SIDE = 64
FOURTEEN = [
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
]  # fmt: skip


def picture(path: Path) -> None:
    """Write an image whose pixels are its name's: PNG, JPEG or DICOM by its ending."""
    pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".dcm", ".dicom"):
        _dicom(path, pixels)
    else:
        Image.fromarray(pixels).save(path, format="PNG" if path.suffix == ".png" else "JPEG")


def _dicom(path: Path, pixels: np.ndarray) -> None:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    file.SeriesInstanceUID, file.Modality = generate_uid(entropy_srcs=[path.name, "series"]), "DX"
    file.Rows, file.Columns, file.SamplesPerPixel = *pixels.shape, 1
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation, file.PhotometricInterpretation = 7, 0, "MONOCHROME2"
    file.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)


def table(path: Path, columns: list[str], *rows: list) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def chestxray14(root: Path) -> None:
    names = [f"{patient:08d}_{visit:03d}.png" for patient, visit in ((1, 0), (1, 1), (2, 0), (3, 0))]
    for folder, name in zip(("images_001", "images_001", "images_002", "images_012"), names, strict=True):
        picture(root / folder / "images" / name)
    picture(root / "images_012/images/00000099_000.png")
    head = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
            "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", ""]  # fmt: skip
    said = ["Cardiomegaly|Effusion", "No Finding", "Infiltration", "No Finding"]
    size = [64, 64, 0.1, 0.1, ""]
    pairs = zip(names, said, strict=True)
    rows = [[name, label, 0, int(name[:8]), "058Y", "M", "PA", *size] for name, label in pairs]
    rows.append(["00000050_000.png", "No Finding", 0, 50, "058Y", "M", "AP", 64, 64, 0.1, 0.1, ""])
    table(root / "Data_Entry_2017_v2020.csv", head, *rows)
    head = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""]
    table(root / "BBox_List_2017.csv", head, [names[2], "Infiltrate", 10.5, 20.0, 8.0, 12.25, "", "", ""])
    (root / "train_val_list.txt").write_text(f"{names[0]}\n{names[1]}\n{names[2]}\n")
    (root / "test_list.txt").write_text(f"{names[3]}\n")


def chexpert(root: Path) -> None:
    base = "CheXpert-v1.0-small"
    head = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FOURTEEN]
    blank = [""] * 14
    sick = ["", "0.0", "1.0", "", "", "-1.0", *[""] * 4, "1.0", "", "", "1.0"]
    views = ["train/patient00001/study1/view1_frontal", "train/patient00001/study1/view2_lateral",
             "train/patient00002/study1/view1_frontal", "train/patient00007/study1/view1_frontal",
             "valid/patient64541/study1/view1_frontal"]  # fmt: skip
    paths = [f"{base}/{view}.jpg" for view in views]
    for path in (*paths[:3], paths[4], f"{base}/train/patient00099/study1/view1_frontal.jpg"):
        picture(root / path)
    table(root / base / "train.csv", head, [paths[0], "Female", 68, "Frontal", "AP", *sick],
          [paths[1], "Female", 68, "Lateral", "", *sick], [paths[2], "Male", 50, "Frontal", "PA", "1.0", *blank[1:]],
          [paths[3], "Male", 50, "Frontal", "PA", *blank])  # fmt: skip
    table(root / base / "valid.csv", head, [paths[4], "Male", 73, "Frontal", "AP", *["0.0"] * 14])


def mimic_cxr_jpg(root: Path) -> None:
    ids = ["02aa804e-bde0afdd", "174413ec-4ec4c1f7", "2a2277a9-b0ded155", "d3e85d84-missing0"]
    places = [("10000032", "50414267"), ("10000032", "50414267"), ("10000764", "57375967"), ("10000935", "50578979")]
    for name, (subject, study) in list(zip(ids, places, strict=True))[:3]:
        picture(root / f"files/p10/p{subject}/s{study}/{name}.jpg")
    picture(root / "files/p10/p10000980/s50985099/6ad03ed1-unlisted.jpg")
    head = ["dicom_id", "study_id", "subject_id", "split"]
    splits = ["train", "train", "validate", "test"]
    rows = [[n, study, subject, s] for n, (subject, study), s in zip(ids, places, splits, strict=True)]
    table(root / "mimic-cxr-2.0.0-split.csv.gz", head, *rows)
    head = ["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows"]
    rows = [
        [n, subject, study, "CHEST", v, 64]
        for n, (subject, study), v in zip(ids, places, ["PA", "LATERAL", "AP", "AP"], strict=True)
    ]
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz", head, *rows)
    columns = sorted(FOURTEEN)
    said = {"Edema": "1.0", "Pneumonia": "-1.0", "Pneumothorax": "0.0"}
    table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *columns],
          ["10000032", "50414267", *[said.get(c, "") for c in columns]],
          ["10000764", "57375967", *["1.0" if c == "No Finding" else "" for c in columns]])  # fmt: skip


def padchest(root: Path) -> None:
    ids = ["20536686640136348236148679891455886468_k6ga29.png", "135803415504923515076821959678074435083_fzis7d.png"]
    for folder, name in zip(("0", "13"), ids, strict=True):
        picture(root / folder / name)
    picture(root / "54/111_unlisted.png")
    head = ["", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
            "ViewPosition_DICOM", "Projection", "MethodProjection", "ReportID", "Report", "MethodLabel",
            "Labels"]  # fmt: skip
    rows = [
        [0, ids[0], 0, "20140915", "s1", "839860488694292331637988235681460987", "1930.0", "F", "POSTEROANTERIOR", "PA",
         "Manual review of DICOM fields", 4765777, "sin hallazgos", "Physician",
         "['pulmonary fibrosis', ' chronic changes', 'kyphosis']"],
        [1, ids[1], 13, "20120507", "s2", "313572750430997347502932654319389875966", "1929.0", "M", "", "L", "", 4,
         "x", "RNN_model", "['normal']"],
        [2, "333_missing.png", 1, "20120507", "s3", "7", "1929.0", "M", "", "AP", "", 5, "x", "RNN_model", "nan"],
    ]  # fmt: skip
    table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", head, *rows)


def _readers(root: Path, folder: str, reader: str, ending: str) -> None:
    head = ["image_id", reader, "Aortic enlargement", "Cardiomegaly", "Pleural effusion", "No finding"]
    table(root / f"{folder}image_labels_train.csv", head,
          ["a1", "R9", 1, 0, 1, 0], ["a1", "R10", 1, 0, 0, 0], ["a1", "R8", 1, 0, 0, 0],
          ["b2", "R9", 0, 0, 0, 1], ["b2", "R8", 0, 0, 1, 0], ["gone", "R9", 0, 0, 0, 1])  # fmt: skip
    head = ["image_id", reader, "class_name", "x_min", "y_min", "x_max", "y_max"]
    table(root / f"{folder}annotations_train.csv", head, ["a1", "R9", "Aortic enlargement", 10.2, 20, 30, 40.5],
          ["b2", "R9", "No finding", "", "", "", ""])  # fmt: skip
    table(root / f"{folder}image_labels_test.csv", ["image_id", "Cardiomegaly", "No finding"], ["c3", 1, 0])
    table(root / f"{folder}annotations_test.csv", ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"],
          ["c3", "Cardiomegaly", 1, 2, 30, 40])  # fmt: skip
    for split, name in (("train", "a1"), ("train", "b2"), ("test", "c3"), ("test", "unlisted")):
        picture(root / split / f"{name}{ending}")


def vindr_cxr(root: Path) -> None:
    _readers(root, "annotations/", "rad_id", ".dicom")


def vindr_pcxr(root: Path) -> None:
    _readers(root, "", "rad_ID", ".dicom")


def vindr_mammo(root: Path) -> None:
    head = ["study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads",
            "breast_density", "split"]  # fmt: skip
    rows = [["st1", "se1", "i1", "L", "CC", 64, 64, "BI-RADS 4", "DENSITY C", "training"],
            ["st1", "se1", "i2", "R", "MLO", 64, 64, "BI-RADS 1", "DENSITY C", "training"],
            ["st2", "se2", "i3", "L", "MLO", 64, 64, "BI-RADS 2", "DENSITY B", "test"],
            ["st3", "se3", "gone", "L", "MLO", 64, 64, "BI-RADS 2", "DENSITY B", "test"]]  # fmt: skip
    table(root / "breast-level_annotations.csv", head, *rows)
    head = ["image_id", "study_id", "series_id", "laterality", "view_position", "height", "width", "breast_birads",
            "breast_density", "finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax",
            "split"]  # fmt: skip
    table(root / "finding_annotations.csv", head,
          ["i1", "st1", "se1", "L", "CC", 64, 64, "BI-RADS 4", "DENSITY C", "['Mass', 'Suspicious Calcification']",
           "BI-RADS 4", 5.5, 6, 20, 30.2, "training"],
          ["i2", "st1", "se1", "R", "MLO", 64, 64, "BI-RADS 1", "DENSITY C", "['No Finding']", "", "", "", "", "",
           "training"])  # fmt: skip
    for study, name in (("st1", "i1"), ("st1", "i2"), ("st2", "i3"), ("st9", "unlisted")):
        picture(root / f"images/{study}/{name}.dicom")


def vindr_spinexr(root: Path) -> None:
    head = ["image_id", "study_id", "series_id", "rad_id", "lesion_type", "xmin", "ymin", "xmax", "ymax"]
    table(root / "annotations/train.csv", head, ["a", "s1", "e1", "rad1", "Osteophytes", 1, 2, 10, 20],
          ["a", "s1", "e1", "rad1", "Osteophytes", 30, 2, 40, 20],
          ["b", "s1", "e1", "rad2", "No finding", "", "", "", ""],
          ["gone", "s2", "e1", "rad2", "No finding", "", "", "", ""])  # fmt: skip
    table(root / "annotations/test.csv", head, ["c", "s3", "e1", "rad1", "Disc space narrowing", 1, 2, 10, 20])
    for split, name in (("train", "a"), ("train", "b"), ("test", "c"), ("test", "unlisted")):
        picture(root / f"{split}_images/{name}.dicom")


def rsna_pneumonia(root: Path) -> None:
    table(root / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"],
          ["p1", 10.0, 20.0, 15.0, 30.0, 1], ["p1", 40.0, 20.0, 15.0, 30.0, 1], ["p2", "", "", "", "", 0],
          ["p3", "", "", "", "", 0], ["gone", "", "", "", "", 0])  # fmt: skip
    table(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], ["p1", "Lung Opacity"],
          ["p1", "Lung Opacity"], ["p2", "No Lung Opacity / Not Normal"], ["p3", "Normal"],
          ["gone", "Normal"])  # fmt: skip
    for name in ("p1", "p2", "p3"):
        picture(root / f"stage_2_train_images/{name}.dcm")
    picture(root / "stage_2_test_images/unlisted.dcm")


def siim_pneumothorax(root: Path) -> None:
    ids = ["1.2.276.0.7230010.3.1.4.1", "1.2.276.0.7230010.3.1.4.2", "1.2.276.0.7230010.3.1.4.3"]
    # Columns 100 and 101, rows 200 to 209 each: starts at 100 * 1024 + 200.
    table(root / "train-rle.csv", ["ImageId", " EncodedPixels"], [ids[0], f" {100 * 1024 + 200} 10 1014 10"],
          [ids[1], " -1"], [ids[2], " -1"])  # fmt: skip
    for name in ids[:2]:
        picture(root / f"dicom-images-train/{name}0/{name}1/{name}.dcm")
    picture(root / "dicom-images-test/9/9/9.9.dcm")


def openi(root: Path) -> None:
    for number, text, major in (
        (1, "Heart is large.", ["Cardiomegaly/mild", "Lung/hypoinflation"]),
        (2, "Clear.", ["normal"]),
    ):
        images = "".join(
            f'<parentImage id="CXR{number}_1_IM-000{number}-{v}"><caption>x</caption></parentImage>' for v in (1, 2)
        )
        headings = "".join(f"<major>{m}</major>" for m in major)
        path = root / f"ecgen-radiology/{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<?xml version="1.0" encoding="utf-8"?><eCitation><MedlineCitation><Article><Abstract>'
            f'<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">pain</AbstractText>'
            f'<AbstractText Label="FINDINGS">{text}</AbstractText>'
            f'<AbstractText Label="IMPRESSION">As said.</AbstractText>'
            f"</Abstract></Article></MedlineCitation><MeSH>{headings}</MeSH>{images}</eCitation>"
        )
    for name in ("CXR1_1_IM-0001-1", "CXR1_1_IM-0001-2", "CXR2_1_IM-0002-1", "CXR77_unlisted"):
        picture(root / f"NLMCXR_png/{name}.png")


SKELETONS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        chestxray14, chexpert, mimic_cxr_jpg, openi, padchest, rsna_pneumonia, siim_pneumothorax, vindr_cxr,
        vindr_mammo, vindr_pcxr, vindr_spinexr,
    )
}  # fmt: skip
