"""Inspect: what is in files before anything is built: series, geometry, and what would be refused and why."""

import os
from pathlib import Path
from typing import Any

from medloom.connectors import dicom, images, jats, nifti
from medloom.connectors.guard import Guard
from medloom.pipelines.sources.listing import list_objects, place_of
from medloom.pipelines.sources.scans import plane_of
from medloom.schemas.errors import Refused, SourceError
from medloom.schemas.medium import Picture
from medloom.schemas.raw import is_raw_zone
from medloom.schemas.volume import Volume

TIMEOUT_S = 300.0


def inspect(path: str) -> list[dict[str, Any]]:
    """Return a row per series, volume, image, article or refused file: file, objects, kind, modality, shape (Z, Y, X),
    spacing_mm, axes, plane and verdict ("ok", or the reason of refusal with its detail).

    Nothing is written, and names in headers are not shown; paths are the user's own. Objects of a raw zone are shown
    by their names in it.

    Raises:
        SourceError: there is no such file or folder.
    """
    if not os.path.exists(path):
        raise SourceError(f"cannot inspect {path}: there is no such file or folder")
    names = _names_in_raw_zone(path)
    files = sorted(names) or _files(path)
    if not files:
        raise SourceError(f"cannot inspect {path}: the folder holds no file")
    rows: list[dict[str, Any]] = []
    series: dict[str, list[str]] = {}
    with Guard() as guard:
        for file in files:
            try:
                uid = _series_of(guard, file)
            except Refused as refused:
                rows.append(_row(file, verdict=str(refused)))
                continue
            if uid:
                series.setdefault(uid, []).append(file)
            else:
                rows += _guarded(guard, [file])
        for members in series.values():
            rows += _guarded(guard, members)
    rows = [row | {"file": names.get(row["file"], row["file"])} for row in rows]
    return sorted(rows, key=lambda row: (row["file"], row["part"]))


def _files(path: str) -> list[str]:
    return [path] if os.path.isfile(path) else sorted(str(p) for p in Path(path).rglob("*") if p.is_file())


def _names_in_raw_zone(path: str) -> dict[str, str]:
    """Return {path on this machine: name} of the objects of a raw zone, {} of another folder."""
    if not is_raw_zone(path):
        return {}
    listed = list_objects(path).to_pylist()
    return {place_of(path, row["url"], row["etag"])[1]: row["url"] for row in reversed(listed)}


def _series_of(guard: Guard, file: str) -> str:
    """Return the series of a DICOM file, "" for what stands alone."""
    if os.path.getsize(file) == 0:
        raise Refused("source.empty_file", "the file holds no byte")
    with open(file, "rb") as opened:
        kind = images.sniff(opened.read(4096))
    if kind != "dicom":
        return ""
    return guard.call(dicom.read_header, file, timeout_s=TIMEOUT_S).series_uid or file


def _guarded(guard: Guard, files: list[str]) -> list[dict[str, Any]]:
    try:
        return guard.call(look, files, timeout_s=TIMEOUT_S)
    except Refused as refused:
        return [_row(files[0], objects=len(files), verdict=str(refused))]


def look(files: list[str]) -> list[dict[str, Any]]:
    """Return the rows of the objects of one unit; called in the guarded child."""
    first = files[0]
    with open(first, "rb") as opened:
        kind = images.sniff(opened.read(4096))
    if kind == "dicom":
        modality = dicom.read_header(first).modality
        read = dicom.read_series(files)
        rows = [_shown(first, len(files), kind, s.content, part=s.suffix, modality=modality) for s in read.stacks]
        for suffix, reason, detail in read.refused:
            rows.append(_row(first, objects=len(files), kind=kind, part=suffix, modality=modality,
                             verdict=f"{reason}: {detail}"))  # fmt: skip
        return rows
    if kind.startswith("nifti"):
        return [
            _shown(first, 1, kind, v, part=f"-{i + 1}" if i else "") for i, v in enumerate(nifti.read_volumes(first))
        ]
    if kind == "xml":
        article = jats.parse_article(Path(first).read_bytes(), source=first)["article"][0]
        case = ", case report" if article["is_case_report"] else ""
        return [_row(first, kind="article", verdict=f"ok: {article['n_figs']} figures, {article['terms_id']}{case}")]
    if kind in ("jpg", "png", "tiff", "gif"):
        return [_shown(first, 1, kind, images.read_picture(Path(first).read_bytes()))]
    raise Refused("source.format", f"{kind} is no DICOM, NIfTI, JPEG, PNG, TIFF, GIF or JATS file")


def _shown(
    file: str, objects: int, kind: str, content: Volume | Picture, *, part: str = "", modality: str = ""
) -> dict[str, Any]:
    row = _row(file, objects=objects, kind=kind, part=part, modality=modality, verdict="ok")
    if isinstance(content, Picture):
        return row | {"shape": [content.height, content.width, content.channels]}
    return row | {
        "shape": list(content.shape),
        "spacing_mm": [round(s, 4) for s in content.spacing_mm],
        "axes": content.orientation,
        "plane": plane_of(content),
    }


def _row(
    file: str, *, objects: int = 1, kind: str = "", part: str = "", modality: str = "", verdict: str
) -> dict[str, Any]:
    return {
        "file": file, "part": part, "objects": objects, "kind": kind, "modality": modality, "shape": [],
        "spacing_mm": [], "axes": "", "plane": "", "verdict": verdict,
    }  # fmt: skip
