"""RadFM: the manifests that RadFM's data sets read, with volumes as stacked .npy and pictures as stored."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from medloom.connectors.nifti_writing import is_sheared, write_nifti
from medloom.pipelines.exports.arrays import write_npy
from medloom.pipelines.exports.m3d import said_of
from medloom.pipelines.exports.stored import StoredMedium
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import CHOOSE, MODALITIES, PLANES

OF_SCANS = True  # they go back to whoever declared them public
CHANNELS = 3  # RadFM repeats a grey volume as red, green and blue
VQA, MODALITY, REPORTS = "radiology_vqa", "radio_modality", "radiology_article_npy"
PICTURES, PICTURE_VQA, FINDINGS, DISEASES = "MedPix_single", "vqa", "chestxray", "chestxray_balance"
YES = {"yes": "1", "no": "0"}


def export(to: Writing) -> None:
    """RadFM: CSV and JSON manifests with the columns that its classes read, and the images they name.

    Of volumes, which are `npy/KEY.npy`, 1 × 3 × Y × X × Z float32 (one series, three equal channels):

    - `radiology_vqa_SPLIT.csv`: `image_path, question, answer`; options stand in the question.
    - `radio_modality_SPLIT.csv`: `image_path, answer`, the image as `nifti/KEY.nii.gz`; `modality_set.json` lists the
      modalities. A volume on a sheared grid, which ITK cannot read, has no row.
    - `radiology_article_npy_SPLIT.json`: a list of `{pre, pat, npy_path, finding, impression}`; the report is the
      finding, since nothing says where an impression begins.

    Of pictures, which are `images/KEY.jpg` or `.png`:

    - `MedPix_single_SPLIT.csv`: `name, type, context`, types caption, modality and plane.
    - `vqa_SPLIT.csv`: `img_root_dir, Figure_path, Question, Answer`.
    - `chestxray_SPLIT.csv`: `image_path, label`, findings with commas between; `chestxray_balance_SPLIT.csv`:
      `image_path, disease, label` with 1 for yes.

    All paths are relative to the folder. `media.jsonl` says what the form drops: affine, spacing, type, units. Voxels
    run to the patient's left, posterior and superior (LPS), values are those that are stored. Examples about several
    media, masks and papers have no place in it; `pmc_inline_sentences`, `pmc_case_report` and `pmc_oa` are the forms of
    papers that RadFM reads.
    """
    reports: dict[str, list[dict[str, str]]] = {}
    for medium in to.media():
        if medium.row["modality"] == "figure":
            continue
        files = _Files(to, medium)
        for row in medium.examples:
            if row["media"] != [medium.key]:
                continue
            place = _of_picture if medium.is_picture else _of_volume
            if place(to, medium, files, row, reports):
                to.example(row)
        if files.written:
            to.stored(medium, files.written, **files.told)
    for split, found in sorted(reports.items()):
        to.file(f"{REPORTS}_{split}.json", _json(found))
    to.file("modality_set.json", _json({"modality": sorted(set(MODALITIES.values()))}))


class _Files:
    """The files of one medium, each written when it is first named."""

    def __init__(self, to: Writing, medium: StoredMedium):
        self._to, self._medium = to, medium
        self.written: dict[str, str] = {}
        self.told: dict[str, Any] = {}

    def npy(self) -> str:
        """The stack of a volume."""
        return self._once("npy", f"npy/{self._medium.key}.npy", self._write_npy)

    def nifti(self) -> str:
        """A volume with its geometry."""
        return self._once("nifti", f"nifti/{self._medium.key}.nii.gz", self._write_nifti)

    def picture(self) -> str:
        """A picture as stored."""
        name = f"images/{self._medium.key}.{self._medium.row['layout']}"
        return self._once("picture", name, lambda name: self._to.file(name, self._medium.picture()))

    def _once(self, what: str, name: str, write: Callable[[str], None]) -> str:
        if what not in self.written:
            write(name)
            self.written[what] = name
        return name

    def _write_npy(self, name: str) -> None:
        canonical = self._medium.volume().canonical()
        self.told["npy_affine"] = canonical.affine.tolist()
        with self._to.writing(name) as file:
            write_npy(file, canonical.array.transpose(1, 2, 0), lead=(1, CHANNELS))

    def _write_nifti(self, name: str) -> None:
        with self._to.writing(name) as file:
            write_nifti([self._medium.volume()], file)


def _of_volume(
    to: Writing, medium: StoredMedium, files: _Files, row: dict[str, Any], reports: dict[str, list[dict[str, str]]]
) -> bool:
    """Write an example about a volume; whether the form has a place for it."""
    split = medium.shard.split
    question, answer = said_of(row)
    if row["task"] == Captions.task:
        said = {"pre": "", "pat": "", "npy_path": files.npy(), "finding": answer, "impression": ""}
        reports.setdefault(split, []).append(said)
    elif _kind_of_header(row) == "modality":
        if is_sheared(np.array(medium.facts["affine"])):  # ITK, with which RadFM reads it, refuses such a file
            to.back("examples", "grid.sheared")
            return False
        to.row(f"{MODALITY}_{split}.csv", {"image_path": files.nifti(), "answer": MODALITIES[row["labels"][0]]})
    elif row["task"].endswith("vqa"):
        to.row(f"{VQA}_{split}.csv", {"image_path": files.npy(), "question": question, "answer": answer})
    else:
        return False
    return True


def _of_picture(
    to: Writing, medium: StoredMedium, files: _Files, row: dict[str, Any], reports: dict[str, list[dict[str, str]]]
) -> bool:
    """Write an example about a picture; whether the form has a place for it."""
    split, labels = medium.shard.split, row["labels"] or []
    question, answer = said_of(row)
    kind = "caption" if row["task"] == Captions.task else _kind_of_header(row)
    if kind:
        context = answer if kind == "caption" else {**MODALITIES, **PLANES}[labels[0]]
        to.row(f"{PICTURES}_{split}.csv", {"name": files.picture(), "type": kind, "context": context})
    elif row["task"] == "findings" and not row["regions"] and labels[0] in YES:
        said = {"image_path": files.picture(), "disease": labels[1], "label": YES[labels[0]]}
        to.row(f"{DISEASES}_{split}.csv", said)
    elif row["task"] == "findings" and not row["regions"]:
        to.row(f"{FINDINGS}_{split}.csv", {"image_path": files.picture(), "label": ", ".join(labels)})
    elif row["task"].endswith("vqa"):
        where = {"img_root_dir": "images", "Figure_path": files.picture().removeprefix("images/")}
        to.row(f"{PICTURE_VQA}_{split}.csv", {**where, "Question": question, "Answer": answer})
    else:
        return False
    return True


def _kind_of_header(row: dict[str, Any]) -> str:
    """Return "modality" or "plane" for an open question that a header answers, "" for others."""
    label = (row["labels"] or [""])[0]
    if row["task"] != "header_vqa" or CHOOSE in said_of(row)[0]:
        return ""
    return "modality" if label in MODALITIES else "plane" if label in PLANES else ""


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
