"""Masks of frames put into label maps: side by side where they do not overlap, in layers where they do."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medloom.connectors.dicom_placement import Placement
from medloom.schemas.errors import Refused
from medloom.schemas.volume import MAX_VOXELS, Label, Volume


@dataclass(frozen=True, eq=False)
class Mask:
    """The part of one frame that is of one segment, cut to its box and packed eight pixels to a byte."""

    placement: Placement
    rows: tuple[int, int]
    columns: tuple[int, int]
    packed: bytes

    def part_of(self, array: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the pixels of `array` (Z, Y, X) under the box of the mask, and the mask there; None when outside."""
        found = self.placement.target(array, shape)
        if found is None:
            return None
        plane, (rows, columns) = found
        size = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=size[0] * size[1]).reshape(size).view(bool)
        top, left = max(rows.start, self.rows[0]), max(columns.start, self.columns[0])
        bottom, right = min(rows.stop, self.rows[1]), min(columns.stop, self.columns[1])
        if top >= bottom or left >= right:
            return None
        under = plane[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
        return under, bits[top - self.rows[0] : bottom - self.rows[0], left - self.columns[0] : right - self.columns[0]]


def masks_of(mask: np.ndarray, place: Placement) -> list[Mask]:
    """Return the box of a frame's mask, [] when it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return []
    columns = np.flatnonzero(mask.any(axis=0))
    (top, bottom), (left, right) = (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
    packed = np.packbits(mask[top:bottom, left:right]).tobytes()
    return [Mask(place, (top, bottom), (left, right), packed)]


def layers_of(
    grid: Volume, *, labels: dict[int, Label], masks: dict[int, list[Mask]], shape: tuple[int, int]
) -> tuple[Volume, ...]:
    """Return segments in label maps, each in the first that has room for all of its masks.

    Raises:
        Refused("seg.size"): so many overlap that their layers would hold more than `MAX_VOXELS`.
    """
    dtype = np.uint8 if max(labels) < 2**8 else np.uint16
    layers: list[tuple[np.ndarray, dict[int, Label]]] = [(np.zeros(grid.shape, dtype), {})]
    for number in sorted(labels):
        free = (layer for layer in layers if not _is_taken(layer[0], masks[number], shape))
        found = next(free, None)
        if found is None:
            if (len(layers) + 1) * grid.array.size > MAX_VOXELS:
                raise Refused("seg.size", f"more than {len(layers)} segments overlap")
            found = np.zeros(grid.shape, dtype), {}
            layers.append(found)
        array, held = found
        held[number] = labels[number]
        for under, bits in _parts(masks[number], array, shape):
            under[bits] = number
    return tuple(Volume(array, grid.affine, units="label", kind="label", labels=held) for array, held in layers)


def _is_taken(array: np.ndarray, masks: list[Mask], shape: tuple[int, int]) -> bool:
    return any(under[bits].any() for under, bits in _parts(masks, array, shape))


def _parts(masks: list[Mask], array: np.ndarray, shape: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return (part for mask in masks if (part := mask.part_of(array, shape)) is not None)
