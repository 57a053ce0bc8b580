"""Resample: volumes and their masks on another grid of the same field of view, their affine exact.

Separable along the volume's own axes, which need not be the world's. Plane by plane and without BLAS, so that memory
stays at a few planes and every processor and thread count gives the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.volume import MAX_VOXELS, Volume

SHEAR_TOLERANCE = 1e-3  # cosine between two axes up to which they count as perpendicular
TIE = 1e-9  # shares of labels that differ by less are equal; the lower class wins


@dataclass(frozen=True)
class Resample:
    """Bring volumes to canonical LPS axes, and to `spacing_mm` or `shape` (Z, Y, X) when one of them is given.

    Pictures pass untouched. What was done stands in `transforms`, with the classes that became too small to survive.
    """

    spacing_mm: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    version: str = "1"

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and self.shape is not None:
            raise ConfigError("Resample takes spacing_mm or shape, and both are given; the one decides the other")

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back on its new grid; raises as `resample`."""
        if isinstance(medium.content, Picture):
            yield medium
            return
        content = resample(medium.content, spacing_mm=self.spacing_mm, shape=self.shape)
        seg = tuple(resample(layer, spacing_mm=self.spacing_mm, shape=self.shape) for layer in medium.seg)
        done = list(medium.transforms)
        if medium.content.orientation != "LPS":
            done.append(f"reorient({medium.content.orientation},LPS)")
        if self.spacing_mm is not None:
            done.append(f"resample({','.join(f'{s:g}' for s in self.spacing_mm)})")
        if self.shape is not None:
            done.append(f"resize({','.join(str(n) for n in self.shape)})")
        for number, (before, after) in enumerate(zip(medium.seg, seg, strict=True)):
            lost = sorted(set(np.unique(before.array).tolist()) - set(np.unique(after.array).tolist()) - {0})
            if lost:
                done.append(f"lost-labels({number}:{','.join(map(str, lost))})")
        yield replace(medium, content=content, seg=seg, transforms=tuple(done))


def resample(
    volume: Volume,
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Volume:
    """Return `volume` in canonical LPS axes, on a grid of `spacing_mm` or of `shape` (Z, Y, X) if one is given.

    Both grids start at the outer edge of the input's first voxel. `shape` keeps the field of view exactly;
    `spacing_mm` is kept exactly, and the field of view to half a voxel.

    Intensities: cubic (Keys, a = -0.5), widened by the ratio of spacings where that is above 1, edges repeated, clipped
    to the input's range since the kernel has negative lobes. Labels: the class with the largest share of the voxel.

    Raises:
        Refused("volume.spacing"): a spacing or size is not positive, or the result would exceed `MAX_VOXELS`.
        Refused("volume.shear"): the axes are not perpendicular (a tilted stack); keep its native grid.
    """
    if spacing_mm is not None and shape is not None:
        raise ValueError("spacing_mm decides the shape, and shape the spacing: give one")
    canonical = volume.canonical()
    if spacing_mm is None and shape is None:
        return canonical
    _refuse_shear(canonical)
    steps, sizes = _grid(canonical, spacing_mm, shape)
    if canonical.kind == "label":
        array = _labels_on(canonical.array, [_box_taps(*a) for a in zip(canonical.shape, sizes, steps, strict=True)])
    else:
        array = _values_on(canonical.array, [_cubic_taps(*a) for a in zip(canonical.shape, sizes, steps, strict=True)])
    steps_xyz = np.array(steps[::-1])
    affine = canonical.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((steps_xyz - 1) / 2)  # the first centre stands half a new voxel from the edge
    affine[:3, :3] *= steps_xyz
    return replace(canonical, array=array, affine=affine)


def _refuse_shear(volume: Volume) -> None:
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
    if cosine > SHEAR_TOLERANCE:
        raise Refused(
            "volume.shear", f"axes are {np.degrees(np.arccos(cosine)):.1f} degrees apart; keep the native grid"
        )


def _grid(
    volume: Volume, spacing_mm: tuple[float, float, float] | None, shape: tuple[int, int, int] | None
) -> tuple[list[float], list[int]]:
    """Return per axis (Z, Y, X) how many old voxels a new one takes, and how many new ones there are."""
    if shape is not None:
        sizes = list(shape)
        steps = [n / max(m, 1) for n, m in zip(volume.shape, sizes, strict=True)]
    else:
        assert spacing_mm is not None
        if not all(np.isfinite(s) and s > 0 for s in spacing_mm):
            raise Refused("volume.spacing", f"spacing {spacing_mm} is not positive")
        steps = [new / old for new, old in zip(spacing_mm, volume.spacing_mm, strict=True)]
        sizes = [max(1, round(min(n / step, MAX_VOXELS + 1))) for n, step in zip(volume.shape, steps, strict=True)]
    if min(sizes) < 1 or sizes[0] * sizes[1] * sizes[2] > MAX_VOXELS:
        raise Refused("volume.spacing", f"a grid of {tuple(sizes)} voxels is empty or exceeds {MAX_VOXELS}")
    return steps, sizes


@dataclass(frozen=True, eq=False)
class _Taps:
    """Of one axis: which old voxels a new one takes and how much of each, both (new voxel, tap), rows summing to 1."""

    index: np.ndarray
    weight: np.ndarray


def _cubic_taps(n_old: int, n_new: int, step: float) -> _Taps:
    scale = max(step, 1.0)
    centre = (np.arange(n_new) + 0.5) * step - 0.5
    reach = int(np.ceil(2 * scale))
    index = np.floor(centre).astype(np.int64)[:, np.newaxis] + np.arange(1 - reach, reach + 1)
    weight = _keys((index - centre[:, np.newaxis]) / scale)
    return _Taps(index.clip(0, n_old - 1), weight / weight.sum(axis=1, keepdims=True))


def _keys(distance: np.ndarray) -> np.ndarray:
    """Return Keys' cubic convolution kernel (IEEE TASSP 29, 1981, a = -0.5)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _box_taps(n_old: int, n_new: int, step: float) -> _Taps:
    start = np.arange(n_new) * step
    end = start + step
    index = np.floor(start).astype(np.int64)[:, np.newaxis] + np.arange(int(np.ceil(step)) + 1)
    weight = np.minimum(index + 1, end[:, np.newaxis]) - np.maximum(index, start[:, np.newaxis])
    weight = weight.clip(0)
    weight[weight < TIE * step] = 0  # rounding of an edge that two voxels share
    return _Taps(index.clip(0, n_old - 1), weight / weight.sum(axis=1, keepdims=True))


def _values_on(array: np.ndarray, taps: list[_Taps]) -> np.ndarray:
    along_z, along_y, along_x = taps
    work = np.float64 if array.dtype == np.float32 else np.float32
    low, high = array.min(), array.max()
    made = np.empty((len(along_z.index), len(along_y.index), len(along_x.index)), array.dtype)
    planes: dict[int, np.ndarray] = {}
    for out, index, weight in zip(made, along_z.index, along_z.weight, strict=True):
        for z in [z for z in planes if z < index.min()]:
            del planes[z]
        total = np.zeros(out.shape, work)
        for z, share in zip(index.tolist(), weight.tolist(), strict=True):
            if share == 0:
                continue
            if z not in planes:
                planes[z] = _in_plane(array[z].astype(work), along_y, along_x)
            total += planes[z] * work(share)
        out[...] = np.clip(np.rint(total) if array.dtype.kind in "iu" else total, low, high)
    return made


def _in_plane(plane: np.ndarray, along_y: _Taps, along_x: _Taps) -> np.ndarray:
    return _down(_down(plane, along_y).T, along_x).T


def _down(plane: np.ndarray, taps: _Taps) -> np.ndarray:
    """Return `plane` (old, other) as (new, other)."""
    plane = np.ascontiguousarray(plane)
    total = np.zeros((len(taps.index), plane.shape[1]), plane.dtype)
    for index, weight in zip(taps.index.T, taps.weight.T, strict=True):
        if weight.any():
            total += plane[index] * weight.astype(plane.dtype)[:, np.newaxis]
    return total


def _labels_on(array: np.ndarray, taps: list[_Taps]) -> np.ndarray:
    along_z, along_y, along_x = taps
    made = np.zeros((len(along_z.index), len(along_y.index), len(along_x.index)), array.dtype)
    for out, index, weight in zip(made, along_z.index, along_z.weight, strict=True):
        shares = [(z, w) for z, w in zip(index.tolist(), weight.tolist(), strict=True) if w > 0]
        slab = array[[z for z, _ in shares]]
        best, foreground = np.zeros(out.shape), np.zeros(out.shape)
        for label in np.unique(slab[slab > 0]).tolist():
            mask = sum(w * (plane == label) for plane, (_, w) in zip(slab, shares, strict=True))
            rows, columns = _touched(mask.any(axis=1), along_y), _touched(mask.any(axis=0), along_x)
            share = _in_plane(mask, _part(along_y, rows), _part(along_x, columns))
            foreground[rows, columns] += share
            better = share > best[rows, columns] + TIE
            best[rows, columns][better] = share[better]
            out[rows, columns][better] = label
        out[1 - foreground >= best - TIE] = 0
    return made


def _touched(occupied: np.ndarray, taps: _Taps) -> slice:
    """Return which new voxels take anything of the old ones between the first and the last occupied."""
    (places,) = np.nonzero(occupied)
    reaches = ((taps.index >= places[0]) & (taps.index <= places[-1]) & (taps.weight > 0)).any(axis=1)
    (new,) = np.nonzero(reaches)
    return slice(int(new[0]), int(new[-1]) + 1)


def _part(taps: _Taps, new: slice) -> _Taps:
    return _Taps(taps.index[new], taps.weight[new])
