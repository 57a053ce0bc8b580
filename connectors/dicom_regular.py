"""Stacks that are no regular grid: slices with gaps between them, and stacks that lean (a tilted gantry).

What is made here was not measured, so nothing of it happens unless a policy asks for it, and it is always recorded.
"""

from collections.abc import Sequence

import numpy as np

from medloom.connectors.dicom_geometry import SAME_PLACE_MM, STEP_TOLERANCE, Frame, depths_of, normal_of
from medloom.schemas.errors import Refused
from medloom.schemas.volume import MAX_VOXELS, Volume

LEAN_MM = 0.01  # how far a step may go aside of the normal before the stack counts as tilted
MAX_SLICES = 4096


def runs_of(volume: Sequence[Frame]) -> list[list[Frame]]:
    """Return the runs of even steps of a volume with gaps, in order.

    A slice joins the run when its step equals the run's; a run of one takes the next slice unless the step after that
    is shorter, which makes this one a gap.
    """
    steps = np.diff(depths_of(volume))
    tolerance = max(STEP_TOLERANCE * float(np.median(steps)), SAME_PLACE_MM)
    runs = [[volume[0]]]
    for index, step in enumerate(steps):
        if len(runs[-1]) > 1:
            joins = abs(step - steps[index - 1]) <= tolerance
        else:
            joins = index + 1 == len(steps) or step <= steps[index + 1] + tolerance
        if joins:
            runs[-1].append(volume[index + 1])
        else:
            runs.append([volume[index + 1]])
    return runs


def regularise(array: np.ndarray, volume: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return slices on a grid of the smallest step, the step as (x, y, z) in mm, and how many slices were made.

    Linear between the two slices around a place; nothing lies beyond the last slice. Slices stand on one line.

    Args:
        array: (Z, Y, X), its slices those of `volume`.

    Raises:
        Refused("dicom.gap"): the grid would be too large.
    """
    depths = depths_of(volume)
    smallest = float(np.diff(depths).min())
    count = int(np.floor((depths[-1] - depths[0]) / smallest + STEP_TOLERANCE)) + 1
    if count > MAX_SLICES or count * array[0].size > MAX_VOXELS:
        raise Refused("dicom.gap", f"a grid of {smallest:g} mm would have {count} slices")
    made = np.empty((count, *array.shape[1:]), array.dtype)
    n_made = 0
    for index, plane in enumerate(made):
        place = depths[0] + index * smallest
        near = int(np.abs(depths - place).argmin())
        if abs(depths[near] - place) <= max(STEP_TOLERANCE * smallest, SAME_PLACE_MM):
            plane[...] = array[near]
            continue
        above = int(np.searchsorted(depths, place))
        share = (place - depths[above - 1]) / (depths[above] - depths[above - 1])
        mixed = array[above - 1] * np.float32(1 - share) + array[above] * np.float32(share)
        plane[...] = mixed if array.dtype == np.float32 else np.rint(mixed)
        n_made += 1
    line = np.subtract(volume[-1].position, volume[0].position) / (depths[-1] - depths[0])
    return made, line * smallest, n_made


def lean_of(affine: np.ndarray, frame: Frame) -> float:
    """Return by how many degrees the stack leans: the angle between its steps and its normal, 0 within `LEAN_MM`."""
    step, normal = affine[:3, 2], normal_of(frame)
    aside = np.linalg.norm(step - (step @ normal) * normal)
    return float(np.degrees(np.arctan2(aside, abs(step @ normal)))) if aside > LEAN_MM else 0.0


def unshear(volume: Volume, frame: Frame, air: float) -> Volume:
    """Return a leaning stack as a box: each slice shifted in its plane, by parts of a pixel (linear), none cut off.

    Args:
        frame: the first slice, which stays where it is.
        air: the value around the slices.
    """
    step, normal = volume.affine[:3, 2], normal_of(frame)
    upright = (step @ normal) * normal
    axes = volume.affine[:3, :2]
    aside_xy = np.linalg.lstsq(axes, step - upright, rcond=None)[0]  # voxels a slice
    shifts = np.arange(volume.shape[0])[:, np.newaxis] * aside_xy
    before = np.ceil(-np.minimum(shifts.min(axis=0), 0) - 1e-6).astype(int)
    after = np.ceil(np.maximum(shifts.max(axis=0), 0) - 1e-6).astype(int)
    depth, rows, columns = volume.shape
    made = np.full((depth, rows + before[1] + after[1], columns + before[0] + after[0]), air, volume.array.dtype)
    for plane, source, shift in zip(made, volume.array, shifts, strict=True):
        moved = source.astype(np.float32)
        for axis, offset in ((0, shift[1] + before[1]), (1, shift[0] + before[0])):
            moved = _shifted(moved, axis, float(offset), plane.shape[axis], air)
        plane[...] = moved if volume.array.dtype == np.float32 else np.rint(moved)
    affine = volume.affine.copy()
    affine[:3, 2] = upright
    affine[:3, 3] -= axes @ before
    return Volume(made, affine, units=volume.units)


def _shifted(plane: np.ndarray, axis: int, offset: float, size: int, air: float) -> np.ndarray:
    """Return `plane` moved along `axis` by `offset` pixels (0 or more) into `size` pixels of air."""
    whole = int(np.floor(offset + 1e-6))
    part = np.float32(max(offset - whole, 0.0))
    n = plane.shape[axis]
    padded = np.full([size + 1 if a == axis else s for a, s in enumerate(plane.shape)], air, np.float32)
    lines = np.moveaxis(padded, axis, 0)
    lines[whole : whole + n] = np.moveaxis(plane, axis, 0)
    if part > 1e-6:
        first = lines[0] * (1 - part) + air * part
        lines[1:] = lines[1:] * (1 - part) + lines[:-1] * part
        lines[0] = first
    return np.moveaxis(lines[:size], 0, axis)
