"""Chest radiographs labelled from their reports: ChestX-ray14, CheXpert, MIMIC-CXR-JPG and PadChest."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from medloom.connectors.label_tables.spec import Finding, Labelled, LabelSet, Presence, Row, Tables, name_of
from medloom.connectors.label_tables.vocabulary import NORMAL, finding_name
from medloom.schemas.errors import Refused

CHEST14 = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
_SAID: dict[str, Presence] = {"1": "present", "0": "absent", "-1": "uncertain"}
REPORT = "report"


def _chestxray14(tables: Tables) -> Iterator[Labelled]:
    test = set(tables.read(r"test_list\.txt").decode().split())
    train = set(tables.read(r"train_val_list\.txt").decode().split())
    boxes = defaultdict(list)
    for row in tables.rows(r"BBox_List_2017\.csv", "Image Index", "Finding Label"):
        x, y, width, height = (float(v) for v in list(row.values())[2:6])
        stated = {"Infiltrate": "Infiltration"}.get(row["Finding Label"], row["Finding Label"])
        box = (y, x, y + height, x + width)
        boxes[row["Image Index"]].append(Finding(finding_name(stated), "present", row["Finding Label"], box, "reader"))
    for row in tables.rows(r"Data_Entry_2017(_v2020)?\.csv", "Image Index", "Finding Labels", "Patient ID"):
        said, image = set(row["Finding Labels"].split("|")), row["Image Index"]
        # Its fourteen labels were looked for in every report: what is not named was not found there.
        findings = [
            Finding(finding_name(label), "present" if label in said else "absent", label, by=REPORT)
            for label in CHEST14
        ]
        if "No Finding" in said:
            findings.append(Finding(NORMAL, "present", "No Finding", by=REPORT))
        yield Labelled(
            image=name_of(image),
            patient=row["Patient ID"],
            split="test" if image in test else "train" if image in train else "",
            view=row.get("View Position", ""),
            findings=(*findings, *boxes[image]),
        )


def _chexpert(tables: Tables) -> Iterator[Labelled]:
    splits = {"train": "train", "valid": "validation", "test": "test"}
    for table, split in splits.items():
        for row in tables.rows(rf"CheXpert-v1\.0[^/]*/{table}\.csv", "Path", *CHEXPERT):
            image = _chexpert_image(row["Path"])
            parts = image.split("/")
            if len(parts) < 4:
                raise Refused("labels.path", f"a path of {table}.csv is no split/patient/study/view")
            lateral = row.get("Frontal/Lateral", "") == "Lateral"
            yield Labelled(
                image=image,
                patient=parts[1],
                study="/".join(parts[1:3]),
                split=split,
                view="lateral" if lateral else row.get("AP/PA", ""),
                findings=_of_columns(row, by="reader" if split != "train" else REPORT),
            )


def _chexpert_image(path: str) -> str:
    found = path.partition("CheXpert-v1.0")[2].partition("/")[2]
    return found if name_of(found) else ""


def _of_columns(row: Row, *, by: str) -> tuple[Finding, ...]:
    """Return the findings of the fourteen columns of CheXpert's labeller; an empty cell says nothing."""
    said = ((stated, _SAID.get(row[stated].removesuffix(".0"))) for stated in CHEXPERT)
    return tuple(Finding(finding_name(stated), presence, stated, by=by) for stated, presence in said if presence)


def _mimic(tables: Tables) -> Iterator[Labelled]:
    splits = {"train": "train", "validate": "validation", "test": "test"}
    findings = {
        (row["subject_id"], row["study_id"]): _of_columns(row, by=REPORT)
        for row in tables.rows(r"mimic-cxr-[\d.]+-chexpert\.csv(\.gz)?", "subject_id", "study_id", *CHEXPERT)
    }
    views = {
        row["dicom_id"]: row["ViewPosition"]
        for row in tables.rows(r"mimic-cxr-[\d.]+-metadata\.csv(\.gz)?", "dicom_id", "ViewPosition")
    }
    for row in tables.rows(r"mimic-cxr-[\d.]+-split\.csv(\.gz)?", "dicom_id", "study_id", "subject_id", "split"):
        yield Labelled(
            image=row["dicom_id"],
            patient=row["subject_id"],
            study=row["study_id"],
            split=splits.get(row["split"], ""),
            view=views.get(row["dicom_id"], ""),
            findings=findings.get((row["subject_id"], row["study_id"]), ()),
        )


def _padchest(tables: Tables) -> Iterator[Labelled]:
    columns = ("ImageID", "StudyID", "PatientID", "Labels", "MethodLabel")
    for row in tables.rows(r"PADCHEST_chest_x_ray_images_labels_160K[^/]*\.csv(\.gz)?", *columns):
        by = "reader" if row["MethodLabel"] == "Physician" else REPORT
        yield Labelled(
            image=name_of(row["ImageID"]),
            patient=row["PatientID"],
            study=row["StudyID"],
            view=row.get("Projection", ""),
            findings=tuple(
                Finding(finding_name(stated), "present", stated, by=by)
                for stated in dict.fromkeys(label.strip() for label in _listed(row["Labels"]))
                if stated and stated not in ("exclude", "suboptimal study", "unchanged")
            ),
        )


def _listed(text: str) -> list[str]:
    """Return the words of a cell that holds a Python list, [] when it holds none."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(word) for word in found] if isinstance(found, list) else []


CHESTXRAY14 = LabelSet(
    "chestxray14", "NIH ChestX-ray14", "DX", "chest", "unrestricted; the NIH Clinical Center is to be named", "nih-cxr",
    "NIH Clinical Center; Wang et al., CVPR 2017", (r"Data_Entry_2017(_v2020)?\.csv",), 112_120, _chestxray14, name_of,
)  # fmt: skip
CHEXPERT_SET = LabelSet(
    "chexpert", "CheXpert", "DX", "chest", "Stanford University Dataset Research Use Agreement", "credentialed",
    "Irvin et al., AAAI 2019", (r"CheXpert-v1\.0[^/]*/train\.csv",), 223_648, _chexpert, _chexpert_image,
)  # fmt: skip
MIMIC = LabelSet(
    "mimic_cxr_jpg", "MIMIC-CXR-JPG", "DX", "chest", "PhysioNet Credentialed Health Data License", "credentialed",
    "Johnson et al., PhysioNet", (r"mimic-cxr-[\d.]+-split\.csv(\.gz)?",), 377_110, _mimic, name_of,
)  # fmt: skip
PADCHEST = LabelSet(
    "padchest", "PadChest", "DX", "chest", "PadChest Dataset Research Use Agreement", "credentialed",
    "BIMCV; Bustos et al., Medical Image Analysis 2020", (r"PADCHEST_chest_x_ray_images_labels_160K[^/]*\.csv(\.gz)?",),
    160_868, _padchest, name_of,
)  # fmt: skip
