"""DICOM: the objects of one series become volumes and pictures, or refusals that say why.

A series is split into stacks by what its frames are and where they are; one stack that is refused costs no other.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from medloom.connectors.dicom_geometry import Frame, affine_of, arrange, frames_of, plane_of, split
from medloom.connectors.dicom_headers import (
    HEADER_TAGS,
    IDENTIFYING,
    DicomHeader,
    header_of,
    load,
    quiet,
    read_header,
    word,
)
from medloom.connectors.dicom_pixels import Pixels, check_size, measured_values, picture_of, volume_array
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture
from medloom.schemas.volume import MAX_VOXELS, Volume

__all__ = ["IDENTIFYING", "DicomHeader", "SeriesRead", "Stack", "read_header", "read_series"]

VOLUME_MODALITIES = ("CT", "MR", "PT")
_PET_UNITS = {"BQML": "Bq/ml", "GML": "g/ml", "CNTS": "{counts}"}  # PS3.3 C.8.9.1.1.3 to UCUM


@dataclass(frozen=True, eq=False)
class Stack:
    """One volume or picture of a series.

    Attributes:
        suffix: "" for the first, then "-2", "-3", …: largest group first, then by content, refused ones counted too.
        content: voxels in measured values and LPS geometry, or an 8-bit PNG.
        plane: "axial", "coronal", "sagittal" or "".
        transforms: what was done to make a picture ("window(40,400)", "invert").
        header: facts of its first frame's object.
    """

    suffix: str
    content: Volume | Picture
    plane: str
    transforms: tuple[str, ...]
    header: DicomHeader


@dataclass(frozen=True, eq=False)
class SeriesRead:
    """What became of a series.

    Attributes:
        stacks: what could be read.
        refused: (part, reason, detail); the part is a stack's suffix, or "-object-3" for the third of the paths.
    """

    stacks: tuple[Stack, ...]
    refused: tuple[tuple[str, str, str], ...]


def read_series(paths: Sequence[str | os.PathLike[str]]) -> SeriesRead:
    """Return the stacks of the objects of one series, the same for any order of `paths`."""
    frames: list[Frame] = []
    units: dict[int, str] = {}
    refused: list[tuple[str, str, str]] = []
    for source, path in enumerate(paths):
        try:
            found, units[source] = _headers(path, source)
            frames += found
        except Refused as error:
            refused.append((f"-object-{source + 1}", error.reason, error.detail))
    pixels, stacks, number = Pixels(paths), [], 0
    for group in split(frames):
        try:
            parts = _parts(group, pixels)
        except Refused as error:
            number += 1
            refused.append((_suffix(number), error.reason, error.detail))
            continue
        for part in parts:
            number += 1
            try:
                stacks.append(_stack(part, pixels, _suffix(number), units[part[0].source]))
            except Refused as error:
                refused.append((_suffix(number), error.reason, error.detail))
    return SeriesRead(tuple(stacks), tuple(refused))


def _suffix(number: int) -> str:
    return "" if number == 1 else f"-{number}"


def _headers(path: str | os.PathLike[str], source: int) -> tuple[list[Frame], str]:
    """Return the frames of an object and the units of its values."""
    dataset, has_pixels = load(path, [*HEADER_TAGS, "RescaleType", "Units"])
    header = header_of(dataset, has_pixels=has_pixels)
    check_size(header, dataset, os.stat(path).st_size)
    with quiet():
        frames = frames_of(dataset, header, source)
        if header.modality == "CT" and word(dataset, "RescaleType").upper() in ("", "HU"):
            return frames, "HU"
        if header.modality == "PT":
            return frames, _PET_UNITS.get(word(dataset, "Units").upper(), "arbitrary")
    return frames, "arbitrary"


def _parts(group: list[Frame], pixels: Pixels) -> list[list[Frame]]:
    """Return the frames of each volume or picture of a group.

    Raises:
        Refused("dicom.mosaic"), ("dicom.localizer"): tiles of many slices in one image, and scouts, are not read.
        Refused("dicom.geometry"): several slices of a volume do not say where they are.
        Refused: as `arrange`.
    """
    first = group[0]
    if "MOSAIC" in first.header.image_type:
        raise Refused("dicom.mosaic", "slices are tiled in one image; export them as single or enhanced images")
    if "LOCALIZER" in first.header.image_type:
        raise Refused("dicom.localizer", f"{len(group)} frames are localizers")
    if not _is_volume(first):
        if len(group) > 1 and first.header.modality in VOLUME_MODALITIES and first.header.samples_per_pixel == 1:
            raise Refused("dicom.geometry", f"{len(group)} slices do not say where they are")
        return [[frame] for frame in group]
    return arrange(group, pixels.digest)


def _is_volume(frame: Frame) -> bool:
    is_scalar = frame.header.photometric in ("MONOCHROME1", "MONOCHROME2") and frame.header.samples_per_pixel == 1
    return frame.has_place and is_scalar and frame.header.modality in VOLUME_MODALITIES


def _stack(part: list[Frame], pixels: Pixels, suffix: str, units: str) -> Stack:
    first = part[0]
    if not _is_volume(first):
        dataset, stored = pixels.frame(first)
        picture, done = picture_of(dataset, first, stored)
        return Stack(suffix, picture, plane_of(first), done, first.header)
    if len(part) * first.header.rows * first.header.columns > MAX_VOXELS:
        raise Refused("dicom.size", f"{len(part)} slices hold more than {MAX_VOXELS} voxels")
    slices = []
    for frame in part:
        dataset, stored = pixels.frame(frame)
        slices.append(measured_values(dataset, frame, stored))
    array = volume_array(slices)
    return Stack(suffix, Volume(array, affine_of(part), units=units), plane_of(first), (), first.header)
