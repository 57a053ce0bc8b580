"""RadFM, read: the manifests of its data sets, with volumes as stacked .npy, any file with geometry, and pictures."""

import io
import json
import posixpath
from collections.abc import Callable
from typing import Any

import numpy as np

from medloom.connectors import volumes
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.pipelines.imports.csv_rows import csv_rows
from medloom.pipelines.imports.job import Import
from medloom.pipelines.imports.m3d_cap import fields_of
from medloom.pipelines.imports.m3d_seg import found_at
from medloom.pipelines.imports.scans_folder import ScansFolder, npy_array, placed, stated_geometry
from medloom.pipelines.sources.local import local_copy
from medloom.schemas.errors import Refused

settings = stated_geometry  # what --set fills
Row = dict[str, str]
_REPORT = ("pre", "pat", "finding", "impression")
_YES = {"1": "Yes.", "0": "No."}


def read(job: Import) -> None:
    """RadFM: its CSV and JSON manifests, told apart by their columns, with the images that they name.

    Read are `image_path, question, answer` (radiology_vqa), `image_path, answer` (radio_modality), `image_path, label`
    and `image_path, disease, label` (chestxray), `name, type, context` (MedPix_single), `img_root_dir, Figure_path,
    Question, Answer` (vqa), and lists of `{npy_path, finding, impression}`. Paths of another machine are read by their
    ends.

    Writes `scans/`, which `medloom build scans --set source=DIR/scans --set deidentify=off --set
    sources_file=SOURCES.json` builds, and `scans/SOURCES.json`, which says of each volume or picture its report, facts
    and questions. A .npy is series × 3 equal channels × Y × X × Z; each series
    becomes a volume. It keeps neither spacing nor orientation: `--set spacing_mm=Z,Y,X --set orientation=LPS` say them,
    unless the folder is an export of ours.
    """
    folder = ScansFolder(job)
    for url in sorted(job.files):
        name = url.rpartition("/")[2]
        if url.lower().endswith(".csv"):
            _table(folder, url)
        elif url.lower().endswith(".json") and name not in ("manifest.json", "modality_set.json"):
            _reports(folder, url)
    folder.finish()


def _table(folder: ScansFolder, url: str) -> None:
    with local_copy(folder.job.source, url) as local, open(local, "rb") as raw:
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
        for number, given in enumerate(csv_rows(folder.job, url, lines, ()), 2):
            try:
                row = fields_of(given, is_ours=folder.job.is_ours)
                tell = _KINDS.get(frozenset(name for name in row if name))
                if tell is None:
                    raise Refused("row.columns", "its columns are those of no manifest of RadFM")
                tell(folder, url, row)
            except Refused as refused:
                folder.job.refuse("row", f"{url}:{number}", refused)


def _reports(folder: ScansFolder, url: str) -> None:
    try:
        rows = json.loads(folder.job.read(url).decode("utf-8-sig"))
        if not isinstance(rows, list):
            raise Refused("list.form", "it is no list of reports")
    except (ValueError, RecursionError) as fault:
        folder.job.refuse("file", url, Refused("list.form", f"it is no JSON ({type(fault).__name__})"))
        return
    except Refused as refused:
        folder.job.refuse("file", url, refused)
        return
    for number, row in enumerate(rows, 1):
        try:
            if not isinstance(row, dict) or not isinstance(row.get("npy_path"), str):
                raise Refused("report.form", "it names no npy_path")
            said = {name: row[name] for name in _REPORT if isinstance(row.get(name), str) and row[name].strip()}
            text = "\n".join(said[name] for name in ("finding", "impression") if name in said)
            if not text:
                raise Refused("report.empty", "it has neither finding nor impression")
            for path in _images(folder, row["npy_path"], url):
                folder.tell(path, text=text)
            folder.job.made["text"] += 1
        except Refused as refused:
            folder.job.refuse("text", f"{url}:{number}", refused)


def _vqa(folder: ScansFolder, url: str, row: Row) -> None:
    _ask(folder, _images(folder, row["image_path"], url), row["question"], row["answer"])


def _modality(folder: ScansFolder, url: str, row: Row) -> None:
    for path in _images(folder, row["image_path"], url):
        folder.tell(path, modality=row["answer"])
    folder.job.made["fact"] += 1


def _findings(folder: ScansFolder, url: str, row: Row) -> None:
    for path in _images(folder, row["image_path"], url):
        folder.tell(path, findings=[name.strip() for name in row["label"].split(",") if name.strip()])
    folder.job.made["fact"] += 1


def _disease(folder: ScansFolder, url: str, row: Row) -> None:
    if row["label"] not in _YES:
        raise Refused("row.label", "the label is neither 1 nor 0")
    question = f"Does this image show {row['disease']}?"
    _ask(folder, _images(folder, row["image_path"], url), question, _YES[row["label"]])


def _medpix(folder: ScansFolder, url: str, row: Row) -> None:
    kinds = {"caption": "text", "modality": "modality", "plane": "plane"}
    if row["type"] not in kinds:
        raise Refused("row.type", "the type is none of caption, modality and plane")
    for path in _images(folder, row["name"], url):
        folder.tell(path, **{kinds[row["type"]]: row["context"]})
    folder.job.made["text" if row["type"] == "caption" else "fact"] += 1


def _picture_vqa(folder: ScansFolder, url: str, row: Row) -> None:
    path = posixpath.join(row["img_root_dir"], row["Figure_path"])
    _ask(folder, _images(folder, path, url), row["Question"], row["Answer"])


_KINDS: dict[frozenset[str], Callable[[ScansFolder, str, Row], None]] = {
    frozenset(("image_path", "question", "answer")): _vqa,
    frozenset(("image_path", "answer")): _modality,
    frozenset(("image_path", "label")): _findings,
    frozenset(("image_path", "disease", "label")): _disease,
    frozenset(("name", "type", "context")): _medpix,
    frozenset(("img_root_dir", "Figure_path", "Question", "Answer")): _picture_vqa,
}


def _ask(folder: ScansFolder, paths: list[str], question: str, answer: str) -> None:
    if not question.strip() or not answer.strip():
        raise Refused("question.empty", "the question or the answer is empty")
    if len(paths) > 1:
        raise Refused("question.many", "it is about several series, which are volumes of their own here")
    folder.ask(paths[0], {"question": question, "answer": answer})


def _images(folder: ScansFolder, stated: str, beside: str) -> list[str]:
    """Return the paths in the new folder of the images in a file, which are written when they are met first."""
    url = found_at(folder.job, stated, beside)
    if url.lower().endswith(".npy"):
        return _stacks(folder, url)
    with local_copy(folder.job.source, url) as path:
        with open(path, "rb") as file:
            kind = sniff(file.read(HEAD_BYTES))
        if kind not in volumes.KINDS:
            return [folder.picture(url)]
        name = folder.name_of(url)
        if not folder.has(name):
            found = volumes.read_volumes(path, kind)
            if len(found) != 1:
                raise Refused("volume.many", f"it holds {len(found)} volumes")
            folder.volume(name, found[0], ours=folder.ours.get(url))
    return [f"{name}/{name}.nii.gz"]


def _stacks(folder: ScansFolder, url: str) -> list[str]:
    ours: dict[str, Any] = folder.ours.get(url, {})
    name = folder.name_of(url)
    known = [path for path in folder.told if path.startswith((f"{name}/", f"{name}-series-"))]
    if known:
        return known
    stack = npy_array(folder.job, url, n_axes=5)
    if not (stack == stack[:, :1]).all():
        raise Refused("npy.channels", "its channels differ, so that no volume of one value each can be made of them")
    paths = []
    for number, series in enumerate(stack[:, 0], 1):
        one = f"{name}-series-{number}" if len(stack) > 1 else name
        said = {"dtype": str(ours["dtype"]), "units": str(ours["units"])} if ours else {}
        folder.volume(one, placed(folder, url, np.ascontiguousarray(series.transpose(2, 0, 1)), **said), ours=ours)
        paths.append(f"{one}/{one}.nii.gz")
    return paths
