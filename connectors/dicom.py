"""DICOM: the objects of one series become volumes and pictures, or refusals that say why.

A series is split into stacks by what its frames are and where they are; one stack that is refused costs no other.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medloom.connectors.dicom_display import picture_of
from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.connectors.dicom_geometry import (
    ORDER_TAGS,
    SAME_PLACE_MM,
    Frame,
    affine_of,
    arrange,
    check_steps,
    depths_of,
    frames_of,
    is_film,
    plane_of,
    split,
)
from medloom.connectors.dicom_headers import (
    HEADER_TAGS,
    IDENTIFYING,
    DicomHeader,
    header_of,
    quiet,
    read_header,
    word,
)
from medloom.connectors.dicom_mosaic import is_mosaic, tiles_of
from medloom.connectors.dicom_pixels import PIXEL_TAGS, ImageObject, Pixels, check_length, format_of, volume_array
from medloom.connectors.dicom_regular import lean_of, regularise, runs_of, unshear
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture
from medloom.schemas.volume import MAX_VOXELS, Volume

__all__ = ["IDENTIFYING", "DicomHeader", "Policy", "SeriesRead", "Stack", "read_header", "read_series"]

VOLUME_MODALITIES = ("CT", "MR", "PT")
FLAT_MODALITIES = ("US", "CR", "DX")  # of pictures, wherever they claim to lie
AIR_HU = -1024
_PET_UNITS = {"BQML": "Bq/ml", "GML": "g/ml", "CNTS": "{counts}"}  # PS3.3 C.8.9.1.1.3 to UCUM


_TAGS = [
    *HEADER_TAGS, *PIXEL_TAGS, "RescaleType", "Units", *ORDER_TAGS, "SpacingBetweenSlices",
    "DiffusionGradientOrientation",
]  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What is done with series that are no regular volume as they are; whatever is done is recorded in `transforms`.

    Attributes:
        gaps: of slices that are not evenly spaced: "refuse"; "regularise" makes the missing ones, linear in z, on a
            grid of the smallest step; "split" makes each run of even steps a volume of its own.
        tilt: of stacks that lean: "keep" their exact, sheared affine; "refuse"; "unshear" shifts each slice in plane.
        films: of multi-frame objects whose frames have no place: "refuse"; "key_frames" shows three of them.
        padding: of CT voxels with the stated padding value: "keep" it, as converters do; "air" makes it -1024 HU.
    """

    gaps: Literal["refuse", "regularise", "split"] = "refuse"
    tilt: Literal["keep", "refuse", "unshear"] = "keep"
    films: Literal["refuse", "key_frames"] = "refuse"
    padding: Literal["keep", "air"] = "keep"


@dataclass(frozen=True, eq=False)
class Stack:
    """One volume or picture of a series.

    Attributes:
        suffix: "" for the first, then "-2", "-3", …: largest group first, then by content, refused ones counted too.
        content: voxels in measured values and LPS geometry, or an 8-bit PNG.
        plane: "axial", "coronal", "sagittal" or "".
        transforms: what was done to make it ("window(40,400)", "invert", "regularise(gap,2)", "unshear(18.5)").
        header: facts of its first frame's object; `burned_in` is "YES" when that of any is.
        sop_uids: of the objects that its frames are of, for joining with what refers to them, and never shown.
    """

    suffix: str
    content: Volume | Picture
    plane: str
    transforms: tuple[str, ...]
    header: DicomHeader
    sop_uids: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, eq=False)
class SeriesRead:
    """What became of a series.

    Attributes:
        stacks: what could be read.
        refused: (part, reason, detail); the part is a stack's suffix, or "-object-3" for the third of the paths.
    """

    stacks: tuple[Stack, ...]
    refused: tuple[tuple[str, str, str], ...]


def read_series(paths: Sequence[str | os.PathLike[str]], *, policy: Policy | None = None) -> SeriesRead:
    """Return the stacks of the objects of one series, the same for any order of `paths`."""
    reader, refused = _Reader(policy or Policy()), []
    for source, path in enumerate(paths):
        try:
            reader.add(path, source)
        except Refused as error:
            refused.append((f"-object-{source + 1}", error.reason, error.detail))
    stacks, number = [], 0
    for group in split(reader.frames):
        try:
            parts = reader.parts(group)
        except Refused as error:
            number += 1
            refused.append((_suffix(number), error.reason, error.detail))
            continue
        for part in parts:
            number += 1
            try:
                if part.refusal:
                    raise part.refusal
                stacks.append(reader.stack(part, _suffix(number)))
            except Refused as error:
                refused.append((_suffix(number), error.reason, error.detail))
    return SeriesRead(tuple(stacks), tuple(refused))


def _suffix(number: int) -> str:
    return "" if number == 1 else f"-{number}"


@dataclass(frozen=True)
class _Part:
    """Frames of one volume or picture, in order: `irregular` where a grid is to be made, `refusal` where none can."""

    frames: list[Frame]
    is_volume: bool
    irregular: bool = False
    transforms: tuple[str, ...] = ()
    refusal: Refused | None = None


class _Reader:
    """The objects of a series, read once, and what becomes of their frames under a policy."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.pixels = Pixels({})
        self.frames: list[Frame] = []

    def add(self, path: str | os.PathLike[str], source: int) -> None:
        """Read an object's headers, and take its frames in."""
        elements = read_elements(path, _TAGS)
        header = header_of(elements)
        item = ImageObject(elements, header, format_of(elements, header), _units(elements, header))
        if header.n_frames > 1:  # else its whole stack is refused, when its pixels are read
            check_length(elements, header, item.format)
        with quiet():
            frames = frames_of(elements, header, source)
            if is_film(frames[0]):
                frames = self._of_film(frames)
        self.frames += frames
        self.pixels.objects[source] = item

    def _of_film(self, frames: list[Frame]) -> list[Frame]:
        """Return the first, the middle and the last frame of a film.

        Raises:
            Refused("dicom.cine"): the policy refuses films, or the frames are slices that do not say where they are.
        """
        if self.policy.films == "refuse" or frames[0].header.modality in VOLUME_MODALITIES:
            raise Refused("dicom.cine", f"{len(frames)} frames without a position each are a film, not a volume")
        return [frames[index] for index in sorted({0, len(frames) // 2, len(frames) - 1})]

    def parts(self, group: list[Frame]) -> list[_Part]:
        """Return the volumes or pictures of a group.

        Raises:
            Refused("dicom.localizer"): scouts are not read.
            Refused("dicom.geometry"): several slices of a volume do not say where they are.
            Refused: as `arrange`; of a mosaic, as `tiles_of`.
        """
        first = group[0]
        if "LOCALIZER" in first.header.image_type:
            raise Refused("dicom.localizer", f"{len(group)} frames are localizers")
        if is_mosaic(first):
            group = [tile for sheet in group for tile in tiles_of(sheet, self.pixels.elements(sheet))]
        if not _is_volume(group):
            if len(group) > 1 and first.header.modality in VOLUME_MODALITIES and first.header.samples_per_pixel == 1:
                raise Refused("dicom.geometry", f"{len(group)} slices do not say where they are")
            return [_Part([frame], is_volume=False, transforms=_frame_word(frame)) for frame in group]
        return [part for volume in arrange(group, self.pixels.digest) for part in self._regular(volume)]

    def _regular(self, volume: list[Frame]) -> list[_Part]:
        """Return what the policy makes of a volume's steps."""
        try:
            check_steps(volume)
        except Refused as error:
            if error.reason not in ("dicom.gap", "dicom.spacing") or self.policy.gaps == "refuse":
                return [_Part(volume, is_volume=True, refusal=error)]
            if self.policy.gaps == "regularise":
                return [_Part(volume, is_volume=True, irregular=True)]
            runs = runs_of(volume)
            words = [f"split(gap,{number}/{len(runs)})" for number in range(1, len(runs) + 1)]
            return [_Part(run, is_volume=True, transforms=(text,)) for run, text in zip(runs, words, strict=True)]
        return [_Part(volume, is_volume=True)]

    def stack(self, part: _Part, suffix: str) -> Stack:
        """Return the content of a part."""
        first = part.frames[0]
        item = self.pixels.objects[first.source]
        if not part.is_volume:
            picture, done = picture_of(first, self.pixels.frame(first), item)
            return Stack(suffix, picture, plane_of(first), (*part.transforms, *done), first.header)
        if len(part.frames) * first.rows * first.columns > MAX_VOXELS:
            raise Refused("dicom.size", f"{len(part.frames)} slices hold more than {MAX_VOXELS} voxels")
        affine = affine_of(part.frames)
        lean = lean_of(affine, first)
        if lean and self.policy.tilt == "refuse":
            raise Refused("dicom.tilt", f"the stack leans by {lean:.1f} degrees")
        air = AIR_HU if self.policy.padding == "air" and item.units == "HU" else None
        array, done = volume_array(part.frames, self.pixels, air=air)
        if part.irregular:
            array, affine[:3, 2], made = regularise(array, part.frames)
            done = (*done, f"regularise(gap,{made})")
        volume = Volume(array, affine, units=item.units)
        if lean and self.policy.tilt == "unshear":
            volume = unshear(volume, first, _air_of(volume))
            done = (*done, f"unshear({lean:.1f})")
        named = any(frame.header.burned_in == "YES" for frame in part.frames)
        header = replace(first.header, burned_in="YES") if named else first.header
        uids = frozenset(frame.header.sop_uid for frame in part.frames)
        return Stack(suffix, volume, plane_of(first), (*part.transforms, *done), header, uids)


def _units(elements: Elements, header: DicomHeader) -> str:
    with quiet():
        if header.modality == "CT" and word(elements, "RescaleType").upper() in ("", "HU"):
            return "HU"
        if header.modality == "PT":
            return _PET_UNITS.get(word(elements, "Units").upper(), "arbitrary")
    return "arbitrary"


def _is_volume(group: list[Frame]) -> bool:
    """Whether a group is of values in space: of a modality that makes volumes, or slices at more than one place."""
    header, place = group[0].header, depths_of(group) if group[0].has_place else np.zeros(1)
    is_scalar = header.photometric in ("MONOCHROME1", "MONOCHROME2", "") and header.samples_per_pixel == 1
    is_spread = bool(np.ptp(place) > SAME_PLACE_MM) and header.modality not in FLAT_MODALITIES
    return group[0].has_place and is_scalar and (header.modality in VOLUME_MODALITIES or is_spread)


def _frame_word(frame: Frame) -> tuple[str, ...]:
    return (f"frame({frame.frame + 1}/{frame.header.n_frames})",) if is_film(frame) else ()


def _air_of(volume: Volume) -> float:
    """Return what stands for nothing around a body: the least value of CT, where the detector counted all; else 0."""
    return float(volume.array.min()) if volume.units == "HU" else float(min(0, volume.array.min()))
