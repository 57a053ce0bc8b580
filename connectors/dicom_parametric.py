"""DICOM parametric maps: measured quantities (diffusion, perfusion, T1) as volumes in their units (PS3.3 A.75, C.8.23).

A volume is the frames of one real world value mapping, ordered by position; frames that stand on no even grid are
refused, never averaged. Units are UCUM codes of a fixed list, since a code may be free text.
"""

import os
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.connectors.dicom_frames import check_groups, check_length, frames_in
from medloom.connectors.dicom_headers import functional_group, geometry_of, items_of, numbers, quiet, whole, word
from medloom.connectors.dicom_placement import Grid
from medloom.connectors.dicom_reference import KIND_TAGS, kind_of
from medloom.connectors.images import MAX_PIXELS
from medloom.schemas.errors import Refused
from medloom.schemas.volume import MAX_VOXELS, Volume

_TAGS = [
    *KIND_TAGS, "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PhotometricInterpretation", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip
_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}
_UNITS = {"[hnsf'U]": "HU", "1": "1", "{no units}": "1", "[hnsf'u]": "HU"}
# UCUM terms of prefixed units, powers of ten and products; words in braces are not read.
_TERM = r"(10\*?[-+]?[0-9]{1,2}|[munpkMGcd]?(m|s|g|l|L|mol|Hz|Pa|T|Bq|Gy|eV|V|J|N|K)[-+]?[0-9]?|min|h|deg|rad|%|1)"
_UCUM = re.compile(rf"/?{_TERM}([./]{_TERM})*$")


@dataclass(frozen=True)
class Mapping:
    """How stored values become measured ones (PS3.3 C.7.6.16.2.11): by slope and intercept, or by a table.

    Attributes:
        units: as in `Volume`.
        quantity: code of what is measured, which tells maps of one object apart.
        table: measured value of the stored ones from `first` on; () when slope and intercept hold.
    """

    units: str
    quantity: tuple[str, ...]
    slope: float
    intercept: float
    first: int
    table: tuple[float, ...]

    def measured(self, stored: np.ndarray) -> np.ndarray:
        """Return measured values, float64.

        Raises:
            Refused("parametric.values"): a stored value is not in the table.
        """
        if not self.table:
            return stored.astype(np.float64) * self.slope + self.intercept
        index = stored.astype(np.int64) - self.first
        if index.min() < 0 or index.max() >= len(self.table):
            raise Refused("parametric.values", "a stored value is not in the table of measured values")
        return np.array(self.table)[index]


def read_parametric(path: str | os.PathLike[str]) -> list[Volume]:
    """Return the maps of an object as float32 volumes in their units, in the order in which they are first met.

    Of several mappings of one frame the first is taken. Values that are no numbers (NaN) stay so.

    Raises:
        Refused("reference.kind"): it is no parametric map.
        Refused("parametric.grid"): its frames form no even grid.
        Refused("parametric.mapping"): a frame does not say what its values measure.
        Refused("parametric.geometry"): a frame does not say where it is.
        Refused("parametric.values"): a value has no meaning, or does not fit float32.
        Refused("dicom.truncated"), ("dicom.pixels"), ("dicom.size"), ("dicom.header"): as `dicom.read_header`.
    """
    with quiet():
        elements = read_elements(path, _TAGS)
        if kind_of(elements) != "parametric":
            raise Refused("reference.kind", "it is no parametric map")
        stored = _stored(elements)
        maps: dict[Mapping, list[int]] = {}
        for frame in range(len(stored)):
            maps.setdefault(_mapping(elements, frame), []).append(frame)
        return [volume for mapping, frames in maps.items() for volume in _volumes(elements, stored, mapping, frames)]


def _stored(elements: Elements) -> np.ndarray:
    """Return stored values, (frame, Y, X)."""
    frames, rows, columns = (
        whole(elements, "NumberOfFrames", 1) or 1,
        whole(elements, "Rows"),
        whole(elements, "Columns"),
    )
    if min(frames, rows, columns) < 1 or rows * columns > MAX_PIXELS or frames * rows * columns > MAX_VOXELS:
        raise Refused("dicom.size", f"{frames} frames of {rows} x {columns} pixels are not read")
    check_groups(elements, frames)
    place = elements.pixels
    if place is None:
        raise Refused("dicom.no_pixels", "the object holds no values")
    if place.keyword not in _FLOATS:
        return np.stack(list(frames_in(elements)))
    if place.encapsulated:
        raise Refused("dicom.pixels", "compressed floating point values are not read")
    kind = np.dtype(("<" if elements.syntax.little else ">") + _FLOATS[place.keyword])
    count = frames * rows * columns
    check_length(place.length, count * kind.itemsize)
    return np.frombuffer(elements.pixel_bytes(), kind, count).reshape(frames, rows, columns)


def _mapping(elements: Elements, frame: int) -> Mapping:
    """Return the first mapping of a frame.

    Raises:
        Refused("parametric.mapping")
    """
    group = functional_group(elements, frame, "RealWorldValueMappingSequence")
    if group is None:
        raise Refused("parametric.mapping", f"frame {frame + 1} does not say what its values measure")
    slope, intercept = numbers(group, "RealWorldValueSlope", 1), numbers(group, "RealWorldValueIntercept", 1)
    first = whole(group, "RealWorldValueFirstValueMapped")
    last = whole(group, "RealWorldValueLastValueMapped")
    table = () if slope else numbers(group, "RealWorldValueLUTData", max(last - first + 1, 0) or 1)
    if not table and (not slope or slope[0] == 0):
        raise Refused("parametric.mapping", f"frame {frame + 1} has no slope and no table of measured values")
    units = [_units(word(code, "CodeValue")) for code in items_of(group, "MeasurementUnitsCodeSequence")]
    quantity = tuple(
        word(code, "CodeValue")
        for item in items_of(group, "QuantityDefinitionSequence")
        for code in items_of(item, "ConceptCodeSequence")
    )
    label = (word(group, "LUTLabel"), *quantity)  # told apart, never shown
    return Mapping(
        units[0] if units else "arbitrary",
        label,
        slope[0] if slope else 1.0,
        intercept[0] if intercept else 0.0,
        first,
        table,
    )


def _units(code: str) -> str:
    """Return a UCUM code that is known or made of known units, else "arbitrary"."""
    if code in _UNITS:
        return _UNITS[code]
    return code if code in _known_units() or (len(code) <= 24 and _UCUM.match(code)) else "arbitrary"


@lru_cache(maxsize=1)
def _known_units() -> frozenset[str]:
    from pydicom.sr.codedict import codes

    return frozenset(code.value for code in codes.UCUM.concepts.values())


def _volumes(elements: Elements, stored: np.ndarray, mapping: Mapping, frames: list[int]) -> list[Volume]:
    """Return the volumes of the frames of one mapping: several when every place occurs equally often."""
    geometry = [geometry_of(elements, frame) for frame in frames]
    if not all(position and orientation and spacing for position, orientation, spacing, _ in geometry):
        raise Refused("parametric.geometry", "a frame does not say where it is")
    _, orientation, spacing, thickness = geometry[0]
    row, column = np.reshape(orientation, (2, 3))
    if min(spacing) <= 0 or not np.allclose((row @ row, column @ column, row @ column), (1, 1, 0), atol=0.01):
        raise Refused("parametric.geometry", "a frame's spacing or direction is impossible")
    positions = np.array([position for position, *_ in geometry])
    depths = np.round(positions @ np.cross(row, column), 3)
    places, repeats = np.unique(depths, return_counts=True)
    if repeats.min() != repeats.max():
        raise Refused("parametric.grid", f"some places hold {repeats.max()} frames, others {repeats.min()}")
    order = np.argsort(depths, kind="stable").reshape(len(places), -1)  # (place, repeat)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = row * spacing[1], column * spacing[0], positions[order[0, 0]]
    affine[:3, 2] = np.cross(row, column) * (thickness if thickness > 0 else 1.0)
    if len(places) > 1:
        affine[:3, 2] = (positions[order[-1, 0]] - positions[order[0, 0]]) / (len(places) - 1)
    shape = (len(places), *stored.shape[1:])
    volumes = []
    for ranks in order.T:
        array = np.empty(shape, np.float32)
        for index, rank in enumerate(ranks):
            array[index] = _float32(mapping.measured(stored[frames[rank]]))
        volumes.append(Volume(array, affine, units=mapping.units))
    grid = Grid(volumes[0])
    for ranks in order.T:
        for index, rank in enumerate(ranks):
            _check_place(grid, geometry[rank][:3], shape[1:], index)
    return volumes


def _check_place(grid: Grid, geometry: tuple[tuple[float, ...], ...], shape: tuple[int, int], index: int) -> None:
    position, orientation, spacing = geometry
    try:
        place = grid.place(position, orientation=orientation, spacing=spacing, shape=shape)
    except Refused as refused:
        raise Refused("parametric.grid", "its frames are unevenly spaced, turned or shifted") from refused
    if place.first != (0, 0, index) or place.right != (0, 1) or place.down != (1, 1):
        raise Refused("parametric.grid", "its frames do not form one stack")


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        made = values.astype(np.float32)
    if (np.isinf(made) & ~np.isinf(values)).any():
        raise Refused("parametric.values", "a measured value is too large for float32")
    return made
