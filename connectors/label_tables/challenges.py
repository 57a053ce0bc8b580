"""Challenges on chest radiographs of ChestX-ray14: RSNA pneumonia and SIIM-ACR pneumothorax; and the reports of Open-i.

Images of both challenges stand in ChestX-ray14 too: a release that holds both finds them by their pictures.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

from lxml import etree

from medloom.connectors.label_tables.spec import Finding, Labelled, LabelSet, Tables, name_of
from medloom.connectors.label_tables.vocabulary import NORMAL, finding_name
from medloom.schemas.errors import Refused

SIIM_SIDE_PX = 1024  # of every image of the set
READERS = "readers together"


def _rsna(tables: Tables) -> Iterator[Labelled]:
    classes = {
        row["patientId"]: row["class"] for row in tables.rows(r"stage_2_detailed_class_info\.csv", "patientId", "class")
    }
    found: dict[str, list[Finding]] = defaultdict(list)
    for row in tables.rows(r"stage_2_train_labels\.csv", "patientId", "x", "y", "width", "height", "Target"):
        boxes = found[row["patientId"]]
        if row["Target"] == "1":
            x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
            box = (y, x, y + height, x + width)
            boxes.append(Finding("lung opacity", "present", "Lung Opacity", box, READERS))
    for image, boxes in found.items():
        stated = classes.get(image, "")
        findings = [Finding("lung opacity", "present" if boxes else "absent", stated or "Target", by=READERS), *boxes]
        if stated and stated != "Lung Opacity":
            findings.append(Finding(finding_name(stated), "present", stated, by=READERS))
        yield Labelled(image, patient=image, split="train", findings=tuple(findings))


def _siim(tables: Tables) -> Iterator[Labelled]:
    found = defaultdict(list)
    for row in tables.rows(r"(stage_2_train|train-rle)\.csv", "ImageId", "EncodedPixels"):
        runs = row["EncodedPixels"]
        box = () if runs in ("-1", "") else box_of_runs(runs, SIIM_SIDE_PX)
        found[row["ImageId"]].append(box)
    for image, boxes in found.items():
        drawn = [Finding("pneumothorax", "present", "pneumothorax", box, READERS) for box in boxes if box]
        whole = Finding("pneumothorax", "present" if drawn else "absent", "pneumothorax", by=READERS)
        yield Labelled(image, patient=image, split="train", findings=(whole, *drawn))


def box_of_runs(text: str, side: int) -> tuple[float, ...]:
    """Return the box (y0, x0, y1, x1) of a mask in SIIM's coding: pairs of (distance from the end of the last run,
    length), counted down the columns.

    Raises:
        Refused("labels.mask"): the numbers are no pairs, or lead out of the image.
    """
    try:
        numbers = [int(word) for word in text.split()]
    except ValueError:
        raise Refused("labels.mask", "a run-length mask holds what is no number") from None
    if not numbers or len(numbers) % 2 or min(numbers) < 0:
        raise Refused("labels.mask", "a run-length mask is not made of pairs")
    at, low, high, columns = 0, side, 0, set()
    for skip, length in zip(numbers[::2], numbers[1::2], strict=True):
        start, at = at + skip, at + skip + length
        if at > side * side:
            raise Refused("labels.mask", f"a run-length mask leads out of an image of {side} x {side} pixels")
        if length:
            first, last = divmod(start, side), divmod(at - 1, side)
            columns |= {first[0], last[0]}
            spans = first[0] != last[0]
            low, high = min(low, 0 if spans else first[1]), max(high, side - 1 if spans else last[1])
    if not columns:
        raise Refused("labels.mask", "a run-length mask holds no pixel")
    return (float(low), float(min(columns)), float(high + 1), float(max(columns) + 1))


def _openi(tables: Tables) -> Iterator[Labelled]:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    for path in tables.paths(r"ecgen-radiology/\d+\.xml"):
        try:
            report = etree.fromstring(tables.read(re.escape(path)), parser)
        except etree.XMLSyntaxError:
            raise Refused("labels.damaged", "a report is no XML") from None
        said = {part.get("Label", ""): _words(part) for part in report.iter("AbstractText")}
        text = "\n".join(f"{name.capitalize()}: {said[name]}" for name in ("FINDINGS", "IMPRESSION") if said.get(name))
        patient = path.rpartition("/")[2].removesuffix(".xml")
        findings = tuple(_headings(report))
        for image in report.iter("parentImage"):
            yield Labelled(image.get("id", ""), patient, patient, text=text, findings=findings)


def _words(element: "etree._Element") -> str:
    return " ".join("".join(str(text) for text in element.itertext()).split())


def _headings(report: "etree._Element") -> Iterator[Finding]:
    """Give the findings of a report's MeSH headings ("Cardiomegaly/mild"); others than "normal" name what is there."""
    for name in dict.fromkeys((heading.text or "").partition("/")[0].strip() for heading in report.iter("major")):
        if name.lower() == "normal":
            yield Finding(NORMAL, "present", name, by="report")
        elif name and name.lower() != "no indexing":
            yield Finding(finding_name(name), "present", name, by="report")


RSNA = LabelSet(
    "rsna_pneumonia", "RSNA Pneumonia Detection Challenge", "DX", "chest", "RSNA challenge terms of use",
    "credentialed", "RSNA; Shih et al., Radiology: AI 2019", (r"stage_2_train_labels\.csv",), 26_684, _rsna, name_of,
)  # fmt: skip
SIIM = LabelSet(
    "siim_pneumothorax", "SIIM-ACR Pneumothorax Segmentation", "DX", "chest", "Kaggle competition rules",
    "credentialed", "SIIM-ACR", (r"(stage_2_train|train-rle)\.csv",), 12_047, _siim, name_of,
)  # fmt: skip
OPENI = LabelSet(
    "openi", "Open-i Indiana University chest X-rays", "DX", "chest", "CC BY-NC-ND 4.0", "cc-by-nc-nd",
    "Demner-Fushman et al., JAMIA 2016", (r"ecgen-radiology/\d+\.xml",), 7_470, _openi, name_of,
)  # fmt: skip
