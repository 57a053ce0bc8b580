"""VinDr sets, read by radiologists: chest (adults and children), breast and spine."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from medloom.connectors.label_tables.spec import Finding, Labelled, LabelSet, Row, Tables, agreed, name_of
from medloom.connectors.label_tables.vocabulary import NORMAL, finding_name

LICENCE = "PhysioNet Credentialed Health Data License"
_KEYS = ("image_id", "rad_id", "rad_ID")


def _chest(tables: Tables) -> Iterator[Labelled]:
    yield from _with_readers(tables, "annotations/")


def _children(tables: Tables) -> Iterator[Labelled]:
    yield from _with_readers(tables, "")


def _with_readers(tables: Tables, folder: str) -> Iterator[Labelled]:
    """Give the images of a set whose tables have a column per finding and a row per reader, and boxes beside."""
    for split in ("train", "test"):
        boxes = defaultdict(list)
        for row in tables.rows(rf"{folder}annotations_{split}\.csv", "image_id", "class_name", "x_min"):
            box = _box(row, "x_min", "y_min", "x_max", "y_max")
            if box:
                reader = row.get("rad_id") or row.get("rad_ID") or ""
                by = f"reader {reader}" if reader else "readers together"
                stated = row["class_name"]
                boxes[row["image_id"]].append(Finding(finding_name(stated), "present", stated, box, by))
        votes: dict[str, list[Row]] = defaultdict(list)
        for row in tables.rows(rf"{folder}image_labels_{split}\.csv", "image_id"):
            votes[row["image_id"]].append(row)
        for image, rows in votes.items():
            findings = [
                agreed((row[stated] in ("1", "1.0") for row in rows), stated, finding_name(stated))
                for stated in rows[0]
                if stated not in _KEYS
            ]
            yield Labelled(image, patient=image, split=split, findings=(*findings, *boxes[image]))


def _box(row: Row, x0: str, y0: str, x1: str, y1: str) -> tuple[float, ...]:
    """Return the box of a row, () when it has none."""
    if not all(row.get(name) for name in (x0, y0, x1, y1)):
        return ()
    return tuple(float(row[name]) for name in (y0, x0, y1, x1))


def _breast(tables: Tables) -> Iterator[Labelled]:
    splits = {"training": "train", "test": "test"}
    found: dict[str, list[Finding]] = defaultdict(list)
    for row in tables.rows(r"finding_annotations\.csv", "image_id", "finding_categories", "finding_birads"):
        box = _box(row, "xmin", "ymin", "xmax", "ymax")
        for stated in ast.literal_eval(row["finding_categories"] or "[]"):
            finding = Finding(finding_name(str(stated)), "present", str(stated), box, "readers together")
            if finding not in found[row["image_id"]]:
                found[row["image_id"]].append(finding)
    columns = ("image_id", "study_id", "laterality", "view_position", "breast_birads", "breast_density", "split")
    for row in tables.rows(r"breast-level_annotations\.csv", *columns):
        stated = (row["breast_birads"], row["breast_density"])
        assessed = [Finding(text.lower(), "present", text, by="readers together") for text in stated if text]
        yield Labelled(
            image=row["image_id"],
            patient=row["study_id"],
            study=row["study_id"],
            split=splits.get(row["split"], ""),
            view=f"{row['laterality']} {row['view_position']}".strip(),
            findings=(*found[row["image_id"]], *assessed),
        )


def _spine(tables: Tables) -> Iterator[Labelled]:
    for split in ("train", "test"):
        images: dict[str, tuple[str, list[Finding]]] = {}
        for row in tables.rows(rf"annotations/{split}\.csv", "image_id", "study_id", "lesion_type"):
            study, findings = images.setdefault(row["image_id"], (row["study_id"], []))
            name = finding_name(row["lesion_type"])
            by = f"reader {row['rad_id']}" if row.get("rad_id") else ""
            findings.append(Finding(name, "present", row["lesion_type"], _box(row, "xmin", "ymin", "xmax", "ymax"), by))
        for image, (study, findings) in images.items():
            normal = all(finding.name == NORMAL for finding in findings)
            once = dict.fromkeys(f for f in findings if normal or f.name != NORMAL)
            yield Labelled(image, patient=study, study=study, split=split, findings=tuple(once))


VINDR_CXR = LabelSet(
    "vindr_cxr", "VinDr-CXR", "DX", "chest", LICENCE, "credentialed", "Nguyen et al., PhysioNet",
    (r"annotations/image_labels_train\.csv",), 18_000, _chest, name_of,
)  # fmt: skip
VINDR_PCXR = LabelSet(
    "vindr_pcxr", "VinDr-PCXR", "DX", "chest", LICENCE, "credentialed", "Pham et al., PhysioNet",
    (r"(?<!annotations/)image_labels_train\.csv", r"(?<!annotations/)annotations_train\.csv"), 9_125, _children,
    name_of,
)  # fmt: skip
VINDR_MAMMO = LabelSet(
    "vindr_mammo", "VinDr-Mammo", "MG", "breast", LICENCE, "credentialed", "Nguyen et al., PhysioNet",
    (r"breast-level_annotations\.csv", r"finding_annotations\.csv"), 20_000, _breast, name_of,
)  # fmt: skip
VINDR_SPINEXR = LabelSet(
    "vindr_spinexr", "VinDr-SpineXR", "DX", "spine", LICENCE, "credentialed", "Nguyen et al., PhysioNet",
    (r"annotations/train\.csv", r"annotations/test\.csv"), 10_466, _spine, name_of,
)  # fmt: skip
