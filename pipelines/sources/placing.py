"""Placing: a label map of another grid laid on an image's: exactly where they share voxels, else by largest share.

Nothing is guessed: a map that is not on the image's grid, and whose set does not say how it comes there, is refused.
"""

from dataclasses import replace

import numpy as np

from medloom.connectors.segmentation_sets.spec import Fix
from medloom.pipelines.stages.resample import resample_to
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Volume, reorient

AS_DCM2NIIX = "LAS"  # how dcm2niix turns axial slices: columns to the left, rows to the front, slices up
_AXES = {"x": 2, "y": 1, "z": 0}


def on_grid(layer: Volume, grid: Volume, fix: Fix) -> Volume:
    """Return `layer` on the voxels of `grid`, mended as its set needs it.

    Raises:
        Refused("seg.grid"): it is on another grid, or reaches out of the image's.
    """
    array = np.flip(layer.array, tuple(_AXES[axis] for axis in fix.flip)) if fix.flip else layer.array
    layer = replace(layer, array=array)
    if fix.by_index:
        reference = reorient(grid, AS_DCM2NIIX)
        if layer.shape != reference.shape:
            raise _other_grid(layer, grid)
        layer = replace(layer, affine=reference.affine)
    turned = layer if _is_near(layer.affine, grid, fix) else reorient(layer, grid.orientation)
    if turned.shape == grid.shape and _is_near(turned.affine, grid, fix):
        return replace(turned, affine=grid.affine)
    if (part := _part_of(turned, grid, fix)) is not None:
        return replace(turned, array=part, affine=grid.affine)
    if fix.resample:
        return _resampled(layer, grid)
    raise _other_grid(layer, grid)


def _other_grid(layer: Volume, grid: Volume) -> Refused:
    return Refused("seg.grid", f"a mask of shape {layer.shape} is not on the grid of its image, {grid.shape}")


def _corners(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the eight corner voxels (x, y, z, 1) as columns."""
    z, y, x = (n - 1 for n in shape)
    return np.array([[i, j, k, 1] for i in (0, x) for j in (0, y) for k in (0, z)], np.float64).T


def _apart_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Return how far two affines place the same corner voxel apart, at most."""
    corners = _corners(shape)
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def _is_near(affine: np.ndarray, grid: Volume, fix: Fix) -> bool:
    return _apart_mm(affine, grid.affine, grid.shape) <= fix.tolerance_mm


def _part_of(layer: Volume, grid: Volume, fix: Fix) -> np.ndarray | None:
    """Return the voxels of a layer whose grid is `grid`'s, moved by whole voxels and of another extent; else None.

    Raises:
        Refused("seg.grid"): classes reach out of the image.
    """
    moved = np.rint((np.linalg.inv(grid.affine) @ layer.affine)[:3, 3])
    expected = grid.affine.copy()
    expected[:3, 3] = (grid.affine @ [*moved, 1.0])[:3]
    if _apart_mm(layer.affine, expected, layer.shape) > fix.tolerance_mm:
        return None
    placed = np.zeros(grid.shape, layer.array.dtype)
    into, out_of = [], []
    for start, size, room in zip((int(n) for n in moved[::-1]), layer.shape, grid.shape, strict=True):
        begin, end = max(start, 0), min(start + size, room)
        if begin >= end:
            raise Refused("seg.grid", "a mask lies wholly outside of its image")
        into.append(slice(begin, end))
        out_of.append(slice(begin - start, end - start))
    inside = layer.array[tuple(out_of)]
    lost = np.count_nonzero(layer.array) - np.count_nonzero(inside)
    if lost:
        raise Refused("seg.grid", f"{lost} voxels of a mask lie outside of its image")
    placed[tuple(into)] = inside
    return placed


def _resampled(layer: Volume, grid: Volume) -> Volume:
    """Return a layer on another grid by the largest share of each voxel.

    Raises:
        Refused("seg.grid"): the axes of the grids are not parallel, or classes reach out of the image.
    """
    at = np.argwhere(layer.array)
    if len(at):
        low, high = at.min(axis=0), at.max(axis=0)
        box = np.array([[x, y, z, 1] for x in (low[2], high[2]) for y in (low[1], high[1]) for z in (low[0], high[0])])
        inside = (np.linalg.inv(grid.affine) @ layer.affine @ box.T)[:3]
        if (inside < -1).any() or (inside > np.array(grid.shape[::-1])[:, np.newaxis]).any():
            raise Refused("seg.grid", "classes of a mask lie outside of its image")
    try:
        return resample_to(layer, affine=grid.affine, shape=grid.shape)
    except Refused as fault:
        raise Refused("seg.grid", fault.detail) from fault
