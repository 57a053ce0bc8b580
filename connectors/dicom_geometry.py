"""DICOM geometry: which frames form a volume, in which order, and where it is (PS3.3 C.7.6.2.1.1).

Frames are ordered and spaced by their positions alone: file names, InstanceNumber, SliceThickness and
SpacingBetweenSlices are wrong in the wild (a real case: thickness 3, positions 2 mm apart). Nothing is averaged.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medloom.connectors.dicom_elements import Elements
from medloom.connectors.dicom_headers import (
    COSINE_LENGTH_TOLERANCE,
    DicomHeader,
    functional_group,
    geometry_of,
    image_types,
    items_of,
    numbers,
    numbers_all,
    word,
)
from medloom.schemas.errors import Refused

COSINE_TOLERANCE = 1e-3  # between direction cosines of one volume
SPACING_TOLERANCE = 1e-3  # relative, between pixel spacings of one volume
SAME_PLACE_MM = 0.01  # frames closer than this along the normal stand at the same place
STEP_TOLERANCE = 0.01  # relative; how far a step may differ from the others
WHOLE_STEPS_TOLERANCE = 0.05  # a gap this close to a multiple of the step means missing slices
ORDER_TAGS = (  # what tells frames at one place apart, beside the temporal position
    "AcquisitionNumber", "TriggerTime", "DiffusionBValue", "EchoTime", "InversionTime", "FlipAngle", "AcquisitionTime",
)  # fmt: skip
_APART = (  # functional group and element, what tells frames at one place apart (PS3.3 C.7.6.16, C.8.13.5)
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
)
PLANES = ("sagittal", "coronal", "axial")  # normal along x, y, z
PLANE_COSINE = 0.8  # below it a plane is oblique and has no name


@dataclass(frozen=True, eq=False)
class Frame:
    """One 2-D image of an object, or one tile of a mosaic.

    Attributes:
        source: which of the series' objects, counted from 0; frame: which of its frames.
        position, orientation, spacing: as in `DicomHeader`, of this frame; `has_place` when all are possible.
        step_mm: between slices as stated, else their thickness, 0 when neither is: for a slice that stands alone.
        kind: what tells volumes of one series apart: size, frame type, echo.
        order: what tells frames at one place apart: time, acquisition, b-value, dimension indices.
        rows, columns: of the frame; tile: its first row and column in a mosaic, else ().
    """

    source: int
    frame: int
    header: DicomHeader
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    step_mm: float
    kind: tuple[Hashable, ...]
    rows: int
    columns: int
    order: tuple[float, ...] = ()
    tile: tuple[int, ...] = ()
    has_place: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_place", _is_possible(self.position, self.orientation, self.spacing))

    @property
    def made(self) -> tuple[int, int]:
        """When it was made among the frames of the series, as far as numbers tell."""
        return self.header.instance_number, self.frame


def _is_possible(position: tuple[float, ...], orientation: tuple[float, ...], spacing: tuple[float, ...]) -> bool:
    if not (position and orientation and spacing) or min(spacing) <= 0:
        return False
    row, column = orientation[:3], orientation[3:]
    along = sum(a * b for a, b in zip(row, column, strict=True))
    lengths = math.hypot(*row), math.hypot(*column)
    return all(abs(n - 1) < COSINE_LENGTH_TOLERANCE for n in lengths) and abs(along) < COSINE_LENGTH_TOLERANCE


def frames_of(elements: Elements, header: DicomHeader, source: int) -> list[Frame]:
    """Return the frames of an object; those of a film have no place.

    Raises:
        Refused("dicom.header"): it does not describe as many frames as it has.
    """
    described = len(items_of(elements, "PerFrameFunctionalGroupsSequence"))
    if described and described != header.n_frames:
        raise Refused("dicom.header", f"it describes {described} frames and has {header.n_frames}")
    if header.n_frames > 1 and functional_group(elements, 0, "PlanePositionSequence") is None:
        bare = replace(header, position=(), orientation=())
        return [_frame(elements, bare, source, index, place=False) for index in range(header.n_frames)]
    return [_frame(elements, header, source, index) for index in range(header.n_frames)]


def is_film(frame: Frame) -> bool:
    """Whether a frame is one of several without a place each."""
    return frame.header.n_frames > 1 and not frame.position


def _frame(elements: Elements, header: DicomHeader, source: int, index: int, *, place: bool = True) -> Frame:
    order = [float(header.temporal_position)]
    for keyword in ORDER_TAGS:
        order.append(_number_or_0(elements, keyword))
    order += _direction(elements)
    types, echo = header.image_type, float(header.echo_number)
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    step_mm: tuple[float, ...] = ()
    thickness = 0.0
    if place and not _is_enhanced(elements):
        position, orientation = header.position, header.orientation
        spacing, thickness = header.pixel_spacing, header.slice_thickness
        step_mm = numbers(elements, "SpacingBetweenSlices", 1)
    elif place:
        position, orientation, spacing, thickness = geometry_of(elements, index)
        step_mm = numbers(
            functional_group(elements, index, "PixelMeasuresSequence") or elements, "SpacingBetweenSlices", 1
        )
        types, echo, more = _of_groups(elements, index, types, echo)
        order += more
    depth_mm = step_mm[0] if step_mm and step_mm[0] > 0 else thickness
    kind = (header.rows, header.columns, header.samples_per_pixel, header.photometric, types, echo)
    return Frame(source, index, header, position, orientation, spacing, depth_mm, kind, header.rows, header.columns,
                 tuple(order))  # fmt: skip


def _direction(found: Any) -> tuple[float, ...]:
    """Return the direction of a diffusion gradient, zeros where none is stated."""
    return numbers(found, "DiffusionGradientOrientation", 3) or (0.0, 0.0, 0.0)


def _number_or_0(elements: Elements, keyword: str) -> float:
    """Return what only helps to order: a value that is no number ("12:00:01") helps as little as none."""
    try:
        return (numbers(elements, keyword, 1) or (0.0,))[0]
    except Refused:
        return 0.0


def _is_enhanced(elements: Elements) -> bool:
    return bool(
        items_of(elements, "PerFrameFunctionalGroupsSequence") or items_of(elements, "SharedFunctionalGroupsSequence")
    )


def _of_groups(
    elements: Elements, index: int, types: tuple[str, ...], echo: float
) -> tuple[tuple[str, ...], float, list[float]]:
    """Return frame type, echo and what else tells frames at one place apart, by a frame's functional groups."""
    for keyword in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
        found = functional_group(elements, index, keyword)
        if found is not None:
            types = (*image_types(found, "FrameType"), word(found, "ComplexImageComponent").upper())
    found = functional_group(elements, index, "MREchoSequence")
    if found is not None:
        echo = (numbers(found, "EffectiveEchoTime", 1) or (0.0,))[0]
    order = []
    for keyword, name in _APART:
        found = functional_group(elements, index, keyword)
        order.append((numbers(found, name, 1) or (0.0,))[0] if found is not None else 0.0)
    found = functional_group(elements, index, "MRDiffusionSequence")
    gradient = items_of(found, "DiffusionGradientDirectionSequence") if found is not None else []
    order += _direction(gradient[0]) if gradient else (0.0, 0.0, 0.0)
    found = functional_group(elements, index, "FrameContentSequence")
    if found is not None:
        order += numbers_all(found, "DimensionIndexValues")
    return types, echo, order


def split(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return the frames of one series in groups of equal kind, orientation and spacing, largest first.

    The order of groups depends on their content alone, never on the order of `frames`.
    """
    groups: list[list[Frame]] = []
    for frame in sorted(frames, key=_content_order):
        for group in groups:
            if _alike(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return sorted(groups, key=lambda group: (-len(group), _content_order(group[0])))


def _content_order(frame: Frame) -> tuple:
    return (frame.header.instance_number, frame.frame, repr(frame.kind), frame.orientation, frame.position,
            frame.header.sop_uid)  # fmt: skip


def _alike(one: Frame, other: Frame) -> bool:
    if one.kind != other.kind or one.has_place != other.has_place:
        return False
    if not one.has_place or (one.orientation == other.orientation and one.spacing == other.spacing):
        return True
    turned = max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True)) > COSINE_TOLERANCE
    scaled = max(abs(a - b) / a for a, b in zip(one.spacing, other.spacing, strict=True)) > SPACING_TOLERANCE
    return not turned and not scaled


def arrange(frames: Sequence[Frame], digest: Callable[[Frame], bytes]) -> list[list[Frame]]:
    """Return the volumes that `frames` (of one group) form, each in the order of its slices along the normal.

    One volume when every place occurs once; several when every place occurs equally often (time, diffusion).

    Args:
        digest: of a frame's pixels; frames that repeat another at the same place are dropped.

    Raises:
        Refused("dicom.duplicate"): different frames claim the same place, not equally many everywhere.
        Refused("dicom.order"): nothing tells which of them belong together.
        Refused("dicom.position"): frames of one plane are shifted in it.
    """
    places = _places(frames)
    if {len(place) for place in places} != {1}:
        if len({len(place) for place in places}) > 1 or all(_all_same(place, digest) for place in places):
            places = [_without_copies(place, digest) for place in places]
        if len({len(place) for place in places}) > 1:
            most, least = max(map(len, places)), min(map(len, places))
            raise Refused("dicom.duplicate", f"some places hold {most} different frames, others {least}")
    if len(places[0]) > 1:
        if not frames[0].header.series_uid and len({frame.source for frame in frames}) > 1:
            raise Refused("dicom.duplicate", "places repeat, and no SeriesInstanceUID tells whether it is one series")
        places = _in_order(places)
    return [list(volume) for volume in zip(*places, strict=True)]


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return frames by place along the normal, ascending, those of one place by when they were made."""
    normal = normal_of(frames[0])
    depths = np.array([frame.position for frame in frames]) @ normal
    near_mm = same_place_mm(frames[0])
    places: list[list[Frame]] = []
    start = -math.inf
    for index in np.argsort(depths, kind="stable"):
        if depths[index] - start < near_mm:
            places[-1].append(frames[index])
        else:
            places.append([frames[index]])
            start = depths[index]
    for place in places:
        if len(place) > 1 and np.ptp([frame.position for frame in place], axis=0).max() > 10 * near_mm:
            raise Refused("dicom.position", "frames of one plane are shifted against each other in the plane")
    return [sorted(place, key=lambda frame: (frame.made, frame.header.sop_uid)) for place in places]


def _in_order(places: Sequence[Sequence[Frame]]) -> list[list[Frame]]:
    """Return the frames of every place in one order, the same attributes deciding everywhere.

    An attribute decides when it has the same values at all places. What is left to the numbers of the frames is taken
    only where those run through all places of one volume, or all volumes of one place, before the next.
    """
    length = min(len(frame.order) for place in places for frame in place)
    deciding = []
    for index in range(length):
        values = {tuple(sorted(frame.order[index] for frame in place)) for place in places}
        if len(values) == 1 and len(set(next(iter(values)))) > 1:
            deciding.append(index)
    ordered = [
        sorted(place, key=lambda frame: (*(frame.order[index] for index in deciding), frame.made)) for place in places
    ]
    found = {tuple(tuple(frame.order[index] for index in deciding) for frame in place) for place in ordered}
    if len(found) > 1:  # each attribute by itself has the same values at all places, and together they do not
        raise Refused("dicom.order", f"time, echo or direction of the {len(places[0])} frames at each place disagree")
    (keys,) = found
    made = np.array([[frame.made for frame in place] for place in ordered])
    for key in sorted(set(keys)):
        _check_numbers(made[:, [other == key for other in keys]], len(keys))
    return ordered


def _check_numbers(made: np.ndarray, n_volumes: int) -> None:
    """Hold the numbers (place, volume, 2) of frames that nothing else tells apart against both ways of counting."""
    if made.shape[1] == 1:
        return
    ranks = np.unique(made.reshape(-1, 2), axis=0, return_inverse=True)[1].reshape(made.shape[:2])
    repeats = (np.diff(np.sort(ranks, axis=1), axis=1) == 0).any()
    if repeats or not (_runs(ranks) or _runs(ranks.T)):
        raise Refused("dicom.order", f"nothing tells which of the {n_volumes} frames at each place belong together")


def _runs(ranks: np.ndarray) -> bool:
    """Whether the numbers of each row end before those of another begin, in any order of rows."""
    rows = ranks[np.argsort(ranks.min(axis=1))]
    return bool((rows.max(axis=1)[:-1] < rows.min(axis=1)[1:]).all())


def _all_same(place: Sequence[Frame], digest: Callable[[Frame], bytes]) -> bool:
    return all(digest(frame) == digest(place[0]) for frame in place[1:])


def _without_copies(place: Sequence[Frame], digest: Callable[[Frame], bytes]) -> list[Frame]:
    return list({digest(frame): frame for frame in reversed(place)}.values())[::-1] if len(place) > 1 else list(place)


def check_steps(volume: Sequence[Frame]) -> None:
    """Hold the slices of a volume, in order, against a straight line and even steps.

    Raises:
        Refused("dicom.gap"), ("dicom.spacing"), ("dicom.position"): slices are missing, unevenly spaced, off the line.
    """
    if len(volume) == 1:
        return
    depths = depths_of(volume)
    positions = np.array([frame.position for frame in volume])
    steps = np.diff(depths)
    usual = float(np.median(steps))
    tolerance = max(STEP_TOLERANCE * usual, same_place_mm(volume[0]))
    along = (depths - depths[0]) / (depths[-1] - depths[0])
    off_line = positions - positions[0] - along[:, np.newaxis] * (positions[-1] - positions[0])
    if np.abs(off_line).max() > tolerance:
        raise Refused("dicom.position", f"slices stand up to {np.abs(off_line).max():g} mm off a straight line")
    if (np.abs(steps - usual) > tolerance).any():
        smallest = float(steps.min())
        multiples = np.rint(steps / smallest)
        widest = int(np.argmax(steps))
        found = f"slices {widest + 1} and {widest + 2} are {steps[widest]:g} mm apart, others {smallest:g} mm"
        if (np.abs(steps / smallest - multiples) <= WHOLE_STEPS_TOLERANCE).all() and multiples.max() > 1:
            raise Refused("dicom.gap", f"{int(multiples.sum()) - len(steps)} slices are missing: {found}")
        raise Refused("dicom.spacing", f"slices are unevenly spaced: {found}")


def same_place_mm(frame: Frame) -> float:
    """Return within which distance two frames stand at one place: less where pixels themselves are finer (micro-CT)."""
    return min(SAME_PLACE_MM, 0.1 * min(frame.spacing)) if frame.has_place else SAME_PLACE_MM


def depths_of(volume: Sequence[Frame]) -> np.ndarray:
    """Return where slices are along their normal, in mm."""
    return np.array([frame.position for frame in volume]) @ normal_of(volume[0])


def normal_of(frame: Frame) -> np.ndarray:
    """Return the unit vector at right angles to a frame with a place, on which slices are counted."""
    row, column = np.reshape(frame.orientation, (2, 3))
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def affine_of(volume: Sequence[Frame]) -> np.ndarray:
    """Return the (4, 4) affine, voxel (x, y, z) to LPS mm, of slices in order; a tilted stack keeps its shear.

    One slice alone is as deep as the step it states, else as thick as it says, 1 mm when it says neither.
    """
    first = volume[0]
    row, column = np.reshape(first.orientation, (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    if len(volume) > 1:
        affine[:3, 2] = np.subtract(volume[-1].position, first.position) / (len(volume) - 1)
    else:
        affine[:3, 2] = normal_of(first) * (first.step_mm if first.step_mm > 0 else 1.0)
    affine[:3, 3] = first.position
    return affine


def plane_of(frame: Frame) -> str:
    """Return "axial", "coronal" or "sagittal", "" for an oblique plane or one without a place."""
    if not frame.has_place:
        return ""
    normal = np.abs(normal_of(frame))
    axis = int(np.argmax(normal))
    return PLANES[axis] if normal[axis] >= PLANE_COSINE else ""
