"""RTSTRUCT: contours of regions of interest as label maps on the grid of the image (PS3.3 A.19, C.8.8.5, C.8.8.6).

A voxel is of a region when its centre is inside of an odd number of the region's contours on its slice, so that a
contour within another is a hole. Slices without a contour stay empty: nothing is interpolated between slices. Names
are of fixed vocabularies (`dicom_labels`), since an ROIName may hold a person's.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.connectors.dicom_headers import BROKEN, items_of, quiet, whole, word
from medloom.connectors.dicom_labels import label_of
from medloom.connectors.dicom_layers import Mask, layers_of, masks_of
from medloom.connectors.dicom_placement import Placement
from medloom.connectors.dicom_reference import KIND_TAGS, kind_of
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TAGS = [*KIND_TAGS, "StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"]
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # other contours are points and lines: they have no inside
MAX_REGIONS = 4096
MAX_POINTS = 2**25  # 800 MB as text
MAX_MM = 1e6  # a kilometre from the origin is no place in a patient
HALF_SLICE = 0.5  # how far a contour may be from the slice that it is drawn on
SAME_PLANE = 0.05  # in slices: contours nearer to each other than this are of one plane
_EDGES = 2**12  # how many are worked on at once, each crossing every row at most


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed line.

    Attributes:
        region: number of its region, counted from 1.
        points: (N, 3), voxels (x, y, z) of the grid, as fractions.
    """

    region: int
    points: np.ndarray


def read_rtstruct(path: str | os.PathLike[str], grid: Volume) -> tuple[Volume, ...]:
    """Return the regions of a structure set on the shape and affine of `grid`, as few layers as hold them.

    A value is the place of its region in StructureSetROISequence, counted from 1; regions of points or open lines are
    left out. A contour is on the slice nearest to it; of several planes of contours that are nearest to one slice
    (contours drawn on thinner slices) the nearest plane counts. Contours beyond the edges of the grid are left out, if
    others are within; a region without a voxel keeps its label.

    Raises:
        Refused("reference.kind"): it is no structure set.
        Refused("rtstruct.plane"): contours are not in the planes of the slices.
        Refused("rtstruct.grid"): all contours are beyond the edges of the image.
        Refused("rtstruct.contours"): no region has an inside, or what a contour states is no list of points.
        Refused("rtstruct.frames"): its regions are in several frames of reference.
        Refused("rtstruct.size"): it has too many regions or points.
        Refused("seg.size"): so many regions overlap that their layers are too large.
        Refused("dicom.header"), ("dicom.not_dicom"), ("dicom.deflated"): see `dicom.read_header`.
    """
    with quiet():
        elements = read_elements(path, _TAGS)
        if kind_of(elements) != "rtstruct":
            raise Refused("reference.kind", "it is no structure set")
        labels, contours = _regions(elements, np.linalg.inv(grid.affine))
    axis = _slice_axis(contours)
    shape = grid.array.shape[2 - axis]
    by_slice = _by_slice(contours, axis, shape)
    if not by_slice:
        raise Refused("rtstruct.grid", f"all {len(contours)} contours are beyond the edges of the image")
    x_axis, y_axis = (other for other in range(3) if other != axis)
    size = grid.array.shape[2 - y_axis], grid.array.shape[2 - x_axis]
    masks: dict[int, list[Mask]] = {region: [] for region in labels}
    for (region, index), lines in sorted(by_slice.items()):
        first = [0, 0, 0]
        first[axis] = index
        place = Placement((first[0], first[1], first[2]), (x_axis, 1), (y_axis, 1))
        masks[region] += masks_of(filled([line[:, [x_axis, y_axis]] for line in lines], size), place)
    return layers_of(grid, labels=labels, masks=masks, shape=size)


def _regions(elements: Elements, to_voxels: np.ndarray) -> tuple[dict[int, Label], list[Contour]]:
    """Return the label of each region that has an inside, and its contours."""
    observed = {
        whole(item, "ReferencedROINumber", -1): item for item in items_of(elements, "RTROIObservationsSequence")
    }
    drawn: dict[int, list[Dataset | Elements]] = {}
    for item in items_of(elements, "ROIContourSequence"):
        drawn.setdefault(whole(item, "ReferencedROINumber", -1), []).append(item)
    regions = items_of(elements, "StructureSetROISequence")
    if len(regions) > MAX_REGIONS:
        raise Refused("rtstruct.size", f"{len(regions)} regions are too many")
    if len({frame for item in regions if (frame := word(item, "ReferencedFrameOfReferenceUID"))}) > 1:
        raise Refused("rtstruct.frames", "its regions are in several frames of reference, and the image is in one")
    labels: dict[int, Label] = {}
    contours: list[Contour] = []
    n_points = 0
    for region, item in enumerate(regions, 1):
        number = whole(item, "ROINumber", -1)
        for points in (points for part in drawn.pop(number, []) for points in _closed(part, to_voxels)):
            n_points += len(points)
            if n_points > MAX_POINTS:
                raise Refused("rtstruct.size", f"more than {MAX_POINTS} points are too many")
            contours.append(Contour(region, points))
            if region not in labels:
                labels[region] = label_of(observed.get(number, item), text=word(item, "ROIName"), number=region)
    if not contours:
        raise Refused("rtstruct.contours", f"none of {len(regions)} regions has a closed contour")
    return labels, contours


def _closed(item: "Dataset | Elements", to_voxels: np.ndarray) -> list[np.ndarray]:
    """Return the closed contours of an item of ROIContourSequence, each once, (N, 3) in voxels."""
    found: dict[bytes, np.ndarray] = {}
    for contour in items_of(item, "ContourSequence"):
        if word(contour, "ContourGeometricType").upper() not in _AREAS:
            continue
        points = _points(contour)
        if len(points) >= 3:  # one or two have no inside
            found.setdefault(points.tobytes(), points @ to_voxels[:3, :3].T + to_voxels[:3, 3])
    return list(found.values())


def _points(contour: "Dataset | Elements") -> np.ndarray:
    """Return the points of a contour, (N, 3) in mm, LPS."""
    try:
        value = contour.get("ContourData")
        texts = [] if value is None else [value] if isinstance(value, str) else list(value)
        numbers = np.array([float(text) for text in texts if text != ""])
    except BROKEN as error:
        raise Refused("rtstruct.contours", f"a contour cannot be read ({type(error).__name__})") from error
    if numbers.size % 3 or not (np.abs(numbers) < MAX_MM).all():
        raise Refused("rtstruct.contours", "a contour is no list of points in space")
    return numbers.reshape(-1, 3)


def _slice_axis(contours: Sequence[Contour]) -> int:
    """Return the axis of the grid (0 is x) along which every contour is flat.

    Raises:
        Refused("rtstruct.plane"): along none is each within one slice.
    """
    spread = np.max([np.ptp(contour.points, axis=0) for contour in contours], axis=0)
    axis = int(np.argmin(spread[::-1]))
    if spread[2 - axis] > HALF_SLICE:
        raise Refused("rtstruct.plane", "contours are not in the planes of the image's slices")
    return 2 - axis


def _by_slice(contours: Sequence[Contour], axis: int, length: int) -> dict[tuple[int, int], list[np.ndarray]]:
    """Return the lines of each region on each slice that the grid has."""
    found: dict[tuple[int, int], list[tuple[float, np.ndarray]]] = {}
    for contour in contours:
        depth = float(contour.points[:, axis].mean())
        index = int(np.floor(depth + HALF_SLICE))
        if 0 <= index < length:
            found.setdefault((contour.region, index), []).append((depth - index, contour.points))
    kept = {}
    for key, lines in found.items():
        nearest = min((off for off, _ in lines), key=lambda off: (abs(off), off))
        kept[key] = [points for off, points in lines if abs(off - nearest) <= SAME_PLANE]
    return kept


def filled(lines: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return which pixels of (rows, columns) have their centre within an odd number of closed `lines`, (N, 2) of x, y.

    Exact at pixel centres: a centre on a left or upper edge is inside, on a right or lower one outside, so that regions
    that share an edge share no pixel.
    """
    mask = np.zeros(shape, bool)
    points = np.concatenate(lines)
    left, top = (int(low) for low in np.clip(np.ceil(points.min(axis=0)), 0, (shape[1], shape[0])))
    right, bottom = (int(high) + 1 for high in np.clip(np.floor(points.max(axis=0)), -1, (shape[1] - 1, shape[0] - 1)))
    if left >= right or top >= bottom:
        return mask
    toggles = np.zeros((bottom - top, right - left + 1), np.uint32)  # the last column is beyond the box
    for line in lines:
        starts = line - (left, top)
        ends = np.roll(starts, -1, axis=0)
        is_down = (starts[:, 1] > ends[:, 1])[:, np.newaxis]
        low, high = np.where(is_down, ends, starts), np.where(is_down, starts, ends)
        first = np.clip(np.ceil(low[:, 1]), 0, bottom - top).astype(np.int64)
        last = np.clip(np.ceil(high[:, 1]), 0, bottom - top).astype(np.int64)
        for part in (slice(begin, begin + _EDGES) for begin in range(0, len(line), _EDGES)):
            _cross(toggles, low[part], high[part], first[part], last[part])
    mask[top:bottom, left:right] = np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint32) & 1
    return mask


def _cross(toggles: np.ndarray, low: np.ndarray, high: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
    """Count, in `toggles`, from which column on each row is to the right of each edge."""
    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (row - low[edge, 1]) / (high[edge, 1] - low[edge, 1])
    x = low[edge, 0] + share * (high[edge, 0] - low[edge, 0])
    column = np.clip(np.ceil(x), 0, toggles.shape[1] - 1).astype(np.int64)
    np.add.at(toggles, (row, column), 1)
