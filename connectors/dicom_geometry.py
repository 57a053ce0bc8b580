"""DICOM geometry: which frames form a volume, in which order, and where it is (PS3.3 C.7.6.2.1.1).

Frames are ordered and spaced by their positions alone: file names, InstanceNumber, SliceThickness and
SpacingBetweenSlices are wrong in the wild (a real case: thickness 3, positions 2 mm apart). Nothing is averaged.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.dicom_headers import (
    DicomHeader,
    functional_group,
    geometry_of,
    image_types,
    numbers,
    whole,
    word,
)
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COSINE_TOLERANCE = 1e-3  # between direction cosines of one volume
SAME_PLACE_MM = 0.01  # frames closer than this along the normal stand at the same place
STEP_TOLERANCE = 0.01  # relative; how far a step may differ from the others
WHOLE_STEPS_TOLERANCE = 0.05  # a gap this close to a multiple of the step means missing slices
PLANES = ("sagittal", "coronal", "axial")  # normal along x, y, z
PLANE_COSINE = 0.8  # below it a plane is oblique and has no name


@dataclass(frozen=True)
class Frame:
    """One 2-D image of an object.

    Attributes:
        source: which of the series' objects, counted from 0; frame: which of its frames.
        position, orientation, spacing: as in `DicomHeader`, of this frame.
        thickness: in mm, 0 when not stated.
        kind: what tells volumes of one series apart: frame type, echo.
        order: in which order frames at the same place were made.
    """

    source: int
    frame: int
    header: DicomHeader
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float
    kind: tuple[Hashable, ...]
    order: tuple[float, ...] = field(default=())

    @property
    def has_place(self) -> bool:
        """Whether position, orientation and spacing are stated and possible."""
        if not (self.position and self.orientation and self.spacing) or min(self.spacing) <= 0:
            return False
        row, column = np.reshape(self.orientation, (2, 3))
        lengths = np.linalg.norm(row), np.linalg.norm(column)
        return bool(np.allclose(lengths, 1, atol=0.01) and abs(row @ column) < 0.01)


def frames_of(dataset: "Dataset", header: DicomHeader, source: int) -> list[Frame]:
    """Return the frames of an object.

    Raises:
        Refused("dicom.cine"): several frames without a place each.
    """
    if header.n_frames > 1 and functional_group(dataset, 0, "PlanePositionSequence") is None:
        raise Refused("dicom.cine", f"{header.n_frames} frames without a position each are a film, not a volume")
    return [_frame(dataset, header, source, index) for index in range(header.n_frames)]


def _frame(dataset: "Dataset", header: DicomHeader, source: int, index: int) -> Frame:
    position, orientation, spacing, thickness = geometry_of(dataset, index)
    types, echo = header.image_type, float(header.echo_number)
    for keyword in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
        found = functional_group(dataset, index, keyword)
        if found is not None:
            types = (*image_types(found, "FrameType"), word(found, "ComplexImageComponent").upper())
    found = functional_group(dataset, index, "MREchoSequence")
    if found is not None:
        echo = (numbers(found, "EffectiveEchoTime", 1) or (0.0,))[0]
    order = [float(header.temporal_position), float(whole(dataset, "AcquisitionNumber"))]
    for keyword, name in (
        ("FrameContentSequence", "TemporalPositionIndex"),
        ("MRDiffusionSequence", "DiffusionBValue"),
    ):
        found = functional_group(dataset, index, keyword)
        order.append((numbers(found, name, 1) or (0.0,))[0] if found is not None else 0.0)
    order += [float(header.instance_number), float(index)]
    kind = (header.rows, header.columns, header.samples_per_pixel, header.photometric, types, echo)
    return Frame(source, index, header, position, orientation, spacing, thickness, kind, tuple(order))


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
    if not one.has_place:
        return True
    turned = np.abs(np.subtract(one.orientation, other.orientation)).max() > COSINE_TOLERANCE
    return not turned and bool(np.allclose(one.spacing, other.spacing, rtol=1e-3))


def arrange(frames: Sequence[Frame], digest: Callable[[Frame], bytes]) -> list[list[Frame]]:
    """Return the volumes that `frames` (of one group) form, each in the order of its slices along the normal.

    One volume when every place occurs once; several when every place occurs equally often (time, diffusion).

    Args:
        digest: of a frame's pixels; frames that repeat another at the same place are dropped.

    Raises:
        Refused("dicom.duplicate"): different frames claim the same place.
        Refused("dicom.gap"), ("dicom.spacing"), ("dicom.position"): slices are missing, unevenly spaced, off the line.
    """
    places = _places(frames)
    if {len(place) for place in places} != {1}:
        if len({len(place) for place in places}) > 1 or all(_all_same(place, digest) for place in places):
            places = [_without_copies(place, digest) for place in places]
        if len({len(place) for place in places}) > 1:
            most, least = max(map(len, places)), min(map(len, places))
            raise Refused("dicom.duplicate", f"some places hold {most} different frames, others {least}")
    volumes = [list(volume) for volume in zip(*places, strict=True)]
    for volume in volumes:
        _check_steps(volume)
    return volumes


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return frames by place along the normal, ascending, those of one place in the order they were made."""
    normal = _normal(frames[0])
    depths = {id(frame): float(normal @ frame.position) for frame in frames}
    places: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: depths[id(frame)]):
        if places and depths[id(frame)] - depths[id(places[-1][0])] < SAME_PLACE_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
    for place in places:
        if any(np.abs(np.subtract(f.position, place[0].position)).max() > 10 * SAME_PLACE_MM for f in place):
            raise Refused("dicom.position", "frames of one plane are shifted against each other in the plane")
    return [sorted(place, key=lambda frame: (frame.order, frame.header.sop_uid)) for place in places]


def _all_same(place: Sequence[Frame], digest: Callable[[Frame], bytes]) -> bool:
    return all(digest(frame) == digest(place[0]) for frame in place[1:])


def _without_copies(place: Sequence[Frame], digest: Callable[[Frame], bytes]) -> list[Frame]:
    return list({digest(frame): frame for frame in reversed(place)}.values())[::-1] if len(place) > 1 else list(place)


def _check_steps(volume: Sequence[Frame]) -> None:
    if len(volume) == 1:
        return
    normal, positions = _normal(volume[0]), np.array([frame.position for frame in volume])
    depths = positions @ normal
    steps = np.diff(depths)
    usual = float(np.median(steps))
    tolerance = max(STEP_TOLERANCE * usual, SAME_PLACE_MM)
    if (np.abs(steps - usual) > tolerance).any():
        smallest = float(steps.min())
        multiples = np.rint(steps / smallest)
        widest = int(np.argmax(steps))
        found = f"slices {widest + 1} and {widest + 2} are {steps[widest]:g} mm apart, others {smallest:g} mm"
        if (np.abs(steps / smallest - multiples) <= WHOLE_STEPS_TOLERANCE).all():
            raise Refused("dicom.gap", f"{int(multiples.sum()) - len(steps)} slices are missing: {found}")
        raise Refused("dicom.spacing", f"slices are unevenly spaced: {found}")
    along = (depths - depths[0]) / (depths[-1] - depths[0])
    off_line = positions - positions[0] - along[:, np.newaxis] * (positions[-1] - positions[0])
    if np.abs(off_line).max() > tolerance:
        raise Refused("dicom.position", f"slices stand up to {np.abs(off_line).max():g} mm off a straight line")


def _normal(frame: Frame) -> np.ndarray:
    row, column = np.reshape(frame.orientation, (2, 3))
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def affine_of(volume: Sequence[Frame]) -> np.ndarray:
    """Return the (4, 4) affine, voxel (x, y, z) to LPS mm, of slices in order; a tilted stack keeps its shear.

    One slice alone is as thick as it says, 1 mm when it does not.
    """
    first = volume[0]
    row, column = np.reshape(first.orientation, (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    if len(volume) > 1:
        affine[:3, 2] = np.subtract(volume[-1].position, first.position) / (len(volume) - 1)
    else:
        affine[:3, 2] = _normal(first) * (first.thickness if first.thickness > 0 else 1.0)
    affine[:3, 3] = first.position
    return affine


def plane_of(frame: Frame) -> str:
    """Return "axial", "coronal" or "sagittal", "" for an oblique plane or one without a place."""
    if not frame.has_place:
        return ""
    normal = np.abs(_normal(frame))
    axis = int(np.argmax(normal))
    return PLANES[axis] if normal[axis] >= PLANE_COSINE else ""
