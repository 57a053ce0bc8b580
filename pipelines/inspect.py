"""Inspect: what is in files before anything is built: series, geometry, and what would be refused and why."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medloom.connectors import dicom, images, jats, volumes
from medloom.connectors.archives import kind_of
from medloom.connectors.dicom_reference import Reference, read_reference
from medloom.connectors.guard import Guard
from medloom.pipelines.sources.listing import list_objects, place_of
from medloom.pipelines.sources.members import members_of, save_member
from medloom.pipelines.sources.scans import plane_of
from medloom.schemas.errors import Refused, SourceError
from medloom.schemas.medium import Picture
from medloom.schemas.raw import is_raw_zone
from medloom.schemas.volume import Volume

TIMEOUT_S = 300.0


def inspect(path: str) -> list[dict[str, Any]]:
    """Return a row per series, volume, mask, image, article or refused file: file, objects, kind, modality, shape
    (Z, Y, X), spacing_mm, axes, plane and verdict ("ok", or the reason of refusal with its detail).

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
    archives = [] if names else [file for file in files if kind_of(file)]
    with Guard() as guard:
        rows = _looked_at(guard, [file for file in files if file not in set(archives)])
        for archive in archives:
            rows += _in_archive(guard, archive)
    rows = [row | {"file": names.get(row["file"], row["file"])} for row in rows]
    return sorted(rows, key=lambda row: (row["file"], row["part"]))


def _looked_at(guard: Guard, files: list[str]) -> list[dict[str, Any]]:
    """Return the rows of files that are grouped with each other."""
    found = _Found()
    for file in files:
        try:
            found.add(guard, file)
        except Refused as refused:
            found.rows.append(_row(file, verdict=str(refused)))
    looked = [row for members, masks in list(found.units()) for row in _guarded(guard, members, masks)]
    return [*found.rows, *looked]


def _in_archive(guard: Guard, archive: str) -> list[dict[str, Any]]:
    """Return the rows of the members of an archive, which are unpacked for as long as they are looked at."""
    root, name = os.path.split(archive)
    names: dict[str, str] = {}
    refused: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
        for number, url in enumerate(row["url"] for row in members_of(root, name)):
            to, shown = os.path.join(folder, f"{number:08d}"), os.path.join(root, url)
            try:
                save_member(root, url, to)
                names[to] = shown
            except Refused as fault:
                refused.append(_row(shown, verdict=str(fault)))
        rows = _looked_at(guard, sorted(names))
    return refused + [row | {"file": names[row["file"]]} for row in rows]


@dataclass
class _Found:
    """Files by what they are: members of a series, masks that are about one, or alone."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    series: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)
    about: list[tuple[str, Reference]] = field(default_factory=list)
    beside: set[str] = field(default_factory=set)  # files that hold the voxels of a header

    def add(self, guard: Guard, file: str) -> None:
        """Enter one file.

        Raises:
            Refused: it is empty, or a DICOM object that cannot be used.
        """
        if os.path.getsize(file) == 0:
            raise Refused("source.empty_file", "the file holds no byte")
        kind = _kind(file)
        if kind != "dicom":
            self.series[file] = [file]
            if kind in volumes.KINDS:
                held = guard.call(volumes.read_header, file, kind, timeout_s=TIMEOUT_S).companions
                self.beside |= {os.path.join(os.path.dirname(file), name) for name in held}
            return
        try:
            header = guard.call(dicom.read_header, file, timeout_s=TIMEOUT_S)
        except Refused as refused:
            if refused.reason != "dicom.not_an_image":
                raise
            self._refer(guard, file, refused)
            return
        uid = header.series_in(os.path.dirname(file)) or file
        self.series.setdefault(uid, []).append(file)
        self.objects[header.sop_uid] = uid

    def _refer(self, guard: Guard, file: str, refused: Refused) -> None:
        try:
            about = guard.call(read_reference, file, timeout_s=TIMEOUT_S)
        except Refused as fault:
            raise refused if fault.reason == "reference.kind" else fault from None
        if about.kind == "parametric":
            self.series[file] = [file]
        else:
            self.about.append((file, about))

    def units(self) -> Iterator[tuple[list[str], list[tuple[str, str]]]]:
        """Give the files of each series, and the (file, kind) of the masks that are about it."""
        masks: dict[str, list[tuple[str, str]]] = {}
        for file, about in self.about:
            named = (*about.series_uids, *(self.objects.get(uid, "") for uid in about.sop_uids[:1]))
            masks.setdefault(next((uid for uid in named if uid in self.series), ""), []).append((file, about.kind))
        for uid, members in self.series.items():
            if uid in self.beside:
                continue
            yield members, masks.get(uid, [])
        for file, kind in masks.get("", []):
            self.rows.append(_row(file, kind=kind, verdict="seg.no_image: the series that it is about is not here"))


def _files(path: str) -> list[str]:
    return [path] if os.path.isfile(path) else sorted(str(p) for p in Path(path).rglob("*") if p.is_file())


def _names_in_raw_zone(path: str) -> dict[str, str]:
    """Return {path on this machine: name} of the objects of a raw zone, {} of another folder."""
    if not is_raw_zone(path):
        return {}
    listed = list_objects(path).to_pylist()
    return {place_of(path, row["url"], row["etag"])[1]: row["url"] for row in reversed(listed)}


def _kind(file: str) -> str:
    with open(file, "rb") as opened:
        return images.sniff(opened.read(images.HEAD_BYTES))


def _guarded(guard: Guard, files: list[str], masks: list[tuple[str, str]]) -> list[dict[str, Any]]:
    try:
        return guard.call(look, files, masks, timeout_s=TIMEOUT_S)
    except Refused as refused:
        return [_row(files[0], objects=len(files), verdict=str(refused))]


def look(files: list[str], masks: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of the objects of one unit and of its masks; called in the guarded child."""
    first, kind = files[0], _kind(files[0])
    if kind == "dicom":
        return _look_at_dicom(files, masks)
    if kind in volumes.KINDS:
        return _look_at_volume(first, kind)
    if kind == "xml":
        article = jats.parse_article(Path(first).read_bytes(), source=first)["article"][0]
        case = ", case report" if article["is_case_report"] else ""
        return [_row(first, kind="article", verdict=f"ok: {article['n_figs']} figures, {article['terms_id']}{case}")]
    if kind in ("jpg", "png", "tiff", "gif"):
        return [_shown(first, 1, kind, images.read_picture(Path(first).read_bytes()))]
    raise Refused("source.format", f"{kind} is no DICOM, NIfTI, NRRD, MetaImage, MGH, image or JATS file")


def _look_at_dicom(files: list[str], masks: list[tuple[str, str]]) -> list[dict[str, Any]]:
    first, many = files[0], len(files)
    try:
        modality = dicom.read_header(first).modality
    except Refused:
        from medloom.connectors.dicom_parametric import read_parametric

        return [_shown(first, many, "parametric", v, part=_part(i)) for i, v in enumerate(read_parametric(first))]
    read = dicom.read_series(files)
    rows = [_shown(first, many, "dicom", s.content, part=s.suffix, modality=modality) for s in read.stacks]
    for suffix, reason, detail in read.refused:
        told = f"{reason}: {detail}"
        rows.append(_row(first, objects=many, kind="dicom", part=suffix, modality=modality, verdict=told))
    scans = [stack.content for stack in read.stacks if isinstance(stack.content, Volume)]
    return rows + [_row(file, kind=kind, verdict=_laid(file, kind, scans)) for file, kind in masks]


def _look_at_volume(file: str, kind: str) -> list[dict[str, Any]]:
    if not volumes.read_header(file, kind).is_segmentation:
        return [_shown(file, 1, kind, v, part=_part(i)) for i, v in enumerate(volumes.read_volumes(file, kind))]
    layers = volumes.read_labels(file, kind)
    shown = _shown(file, 1, "segmentation", layers[0])
    return [shown | {"verdict": f"ok: {_classes(layers)}"}]


def _laid(file: str, kind: str, scans: list[Volume]) -> str:
    """Return what becomes of a SEG or RTSTRUCT on the volumes of its series."""
    from medloom.connectors.dicom_rtstruct import read_rtstruct
    from medloom.connectors.dicom_seg import read_seg

    verdict = "seg.no_image: no volume of its series can be read"
    for scan in scans:
        try:
            layers = read_seg(file, scan) if kind == "seg" else read_rtstruct(file, scan)
        except Refused as refused:
            verdict = str(refused)
            continue
        return f"ok: {_classes(layers)}"
    return verdict


def _classes(layers: Sequence[Volume]) -> str:
    n = sum(len(layer.labels) for layer in layers)
    return f"{n} class{'' if n == 1 else 'es'} in {len(layers)} layer{'' if len(layers) == 1 else 's'}"


def _part(number: int) -> str:
    return f"-{number + 1}" if number else ""


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
