"""DICOM SEG: segmentations as label maps on the grid of the image that they were drawn on (PS3.3 A.51, C.8.20).

A frame is placed by its position alone, never by its order or by the image that it names, and exactly: a grid that is
not the image's is refused. Names are of fixed vocabularies (`dicom_labels`), since a SegmentLabel may hold a person's.
The functional groups are read here and not through highdicom, which refuses objects without a frame of reference and
run-length coded bits; the tests hold both, and dcmqi, against this reader.
"""

import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.connectors.dicom_frames import Shape, frames_in, shape_of
from medloom.connectors.dicom_headers import functional_group, geometry_of, items_of, quiet, whole, word
from medloom.connectors.dicom_labels import label_of, meaning_of
from medloom.connectors.dicom_layers import Mask, layers_of, masks_of
from medloom.connectors.dicom_placement import Grid, Placement
from medloom.connectors.dicom_reference import KIND_TAGS, kind_of
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume

THRESHOLD = 0.5  # of MaximumFractionalValue; `dicom_reference.transforms_of` tells of it
_TYPE = "SegmentedPropertyTypeCodeSequence"
_TAGS = [
    *KIND_TAGS, "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation",
    "SegmentationType", "MaximumFractionalValue", "PixelPaddingValue", "SegmentSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PhotometricInterpretation", "BitsStored",
    "HighBit", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip


def read_seg(path: str | os.PathLike[str], grid: Volume) -> tuple[Volume, ...]:
    """Return the label maps of a SEG on the shape and affine of `grid`, as few as hold its segments side by side.

    A value is the segment's number; segments overlap in different layers only. Pixels in no frame are background, and
    so is the PixelPaddingValue of a label map. A fraction counts from half of the MaximumFractionalValue on. Frames
    beyond the edges of the grid are left out, if others are within; a segment without a pixel keeps its label.

    Raises:
        Refused("reference.kind"): it is no SEG.
        Refused("seg.grid"): its frames are not on the voxels of the image, or all of them outside.
        Refused("seg.header"), ("seg.segments"), ("seg.geometry"), ("seg.frames"), ("seg.values"), ("seg.size"): what it
            states is missing, contradicts itself, or is too much.
        Refused("dicom.truncated"), ("dicom.pixels"), ("dicom.size"), ("dicom.header"): as `frames_in` and
            `dicom.read_header`.
    """
    with quiet():
        elements = read_elements(path, _TAGS)
        if kind_of(elements) != "seg":
            raise Refused("reference.kind", "it is no segmentation")
        shape, labels = shape_of(elements), _labels(elements)
        places, frames = _places(elements, grid, shape), frames_in(elements)
        kind = word(elements, "SegmentationType").upper()
        if kind == "LABELMAP":
            return (_label_map(elements, grid, labels=labels, pairs=zip(places, frames, strict=True)),)
        if kind not in ("BINARY", "FRACTIONAL"):
            raise Refused("seg.header", "its type is none of BINARY, FRACTIONAL and LABELMAP")
        full = _full_value(elements) if kind == "FRACTIONAL" else 1
        numbers = _numbers(elements, places, labels)
        masks: dict[int, list[Mask]] = {number: [] for number in labels}
        for number, place, frame in zip(numbers, places, frames, strict=True):
            if frame.max() > full:
                raise Refused("seg.values", f"a pixel is {frame.max()}, and the whole is {full}")
            if place.target(grid.array, frame.shape) is not None:
                masks[number] += masks_of(frame >= math.ceil(THRESHOLD * full), place)
        return layers_of(grid, labels=labels, masks=masks, shape=(shape.rows, shape.columns))


def _labels(elements: Elements) -> dict[int, Label]:
    """Return what each segment is, by its number; 0 is a segment of label maps only.

    Raises:
        Refused("seg.segments"): none, or two of a number.
    """
    labels: dict[int, Label] = {}
    is_map = word(elements, "SegmentationType").upper() == "LABELMAP"
    for item in items_of(elements, "SegmentSequence"):
        number = whole(item, "SegmentNumber", -1)
        if number in labels or not (0 if is_map else 1) <= number < 2**16:
            raise Refused("seg.segments", "a segment has no number of its own")
        if is_map and any(meaning_of(code) == "Background" for code in items_of(item, _TYPE)):
            continue
        labels[number] = label_of(item, text=word(item, "SegmentLabel"), number=number)
    if not labels:
        raise Refused("seg.segments", "no segment is described")
    return labels


def _places(elements: Elements, grid: Volume, shape: Shape) -> list[Placement]:
    """Return where each frame stands, one of them within the grid at least.

    Raises:
        Refused("seg.geometry"): a frame does not say where it is.
        Refused("seg.grid")
    """
    voxels, places = Grid(grid), []
    size = shape.rows, shape.columns
    for frame in range(shape.n_frames):
        position, orientation, spacing, _ = geometry_of(elements, frame)
        if not (position and orientation and spacing):
            raise Refused("seg.geometry", f"frame {frame + 1} does not say where it is")
        places.append(voxels.place(position, orientation=orientation, spacing=spacing, shape=size))
    if all(place.target(grid.array, size) is None for place in places):
        raise Refused("seg.grid", f"all {len(places)} frames are beyond the edges of the image")
    return places


def _full_value(elements: Elements) -> int:
    full = whole(elements, "MaximumFractionalValue")
    if full < 1:
        raise Refused("seg.header", "it holds fractions and does not say of what")
    return full


def _numbers(elements: Elements, places: Sequence[Placement], labels: dict[int, Label]) -> list[int]:
    """Return the segment that each frame is of.

    Raises:
        Refused("seg.segments"): it is of none that is described.
        Refused("seg.frames"): two frames of one segment stand at the same place.
    """
    numbers = []
    for frame in range(len(places)):
        group = functional_group(elements, frame, "SegmentIdentificationSequence")
        numbers.append(whole(group, "ReferencedSegmentNumber", -1) if group is not None else -1)
        if numbers[-1] not in labels:
            raise Refused("seg.segments", f"frame {frame + 1} is of no segment that is described")
    if len(set(zip(numbers, places, strict=True))) < len(places):
        raise Refused("seg.frames", "two frames of one segment claim the same place")
    return numbers


def _label_map(
    elements: Elements, grid: Volume, *, labels: dict[int, Label], pairs: Iterable[tuple[Placement, np.ndarray]]
) -> Volume:
    """Return the frames of a label map in one volume; a segment of the number 0 takes the next free number.

    Raises:
        Refused("seg.values"): a value is of no segment.
        Refused("seg.frames"): two frames claim the same slice.
    """
    padding = whole(elements, "PixelPaddingValue", -1)
    values = {number: number for number in labels if number != padding}
    if 0 in values:
        values[0] = max(values) + 1
    if max(values.values(), default=0) >= 2**16:
        raise Refused("seg.segments", "no number is free for the segment 0")
    table = np.full(2**16, -1, np.int32)
    table[[0, max(padding, 0)]] = 0
    for number, value in values.items():
        table[number] = value
    array = np.zeros(grid.shape, np.uint8 if max(values.values(), default=0) < 2**8 else np.uint16)
    taken: set[tuple[int, int]] = set()
    for place, frame in pairs:
        found = table[frame]
        if found.min() < 0:
            raise Refused("seg.values", "a value is of no segment that is described")
        if (place.slice_axis, place.slice_index) in taken:
            raise Refused("seg.frames", "two frames of a label map claim the same slice")
        taken.add((place.slice_axis, place.slice_index))
        target = place.target(array, frame.shape)
        if target is not None:
            target[0][...] = found[target[1]]
    kept = {value: labels[number] for number, value in values.items()}
    return Volume(array, grid.affine, units="label", kind="label", labels=kept)
