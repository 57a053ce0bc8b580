"""Resample: volumes and their masks on another grid of the same field of view, their affine exact.

Grids are edge-aligned: the outer edge of the first voxel stays where it was. The arithmetic is in `kernel` and
`label_kernel`, which are compiled; any thread count gives the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medloom.pipelines.stages.taps import KERNELS, Axis, Taps, aligned, overlap
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.volume import MAX_VOXELS, Volume, orientation_of, reorient

Kernel = Literal["cubic", "linear", "box", "lanczos3"]
LabelRule = Literal["share", "nearest"]
LABEL_DTYPES = ("uint8", "uint16")
SHEAR_TOLERANCE = 1e-3  # cosine between two axes up to which they count as perpendicular
DRIFT_TOLERANCE = 0.05  # voxels by which two grids' axes may part over the whole volume and still count as parallel


@dataclass(frozen=True)
class Resample:
    """Bring volumes to canonical LPS axes, and to `spacing_mm` or `shape` (Z, Y, X) when one of them is given.

    Pictures pass untouched. What was done stands in `transforms`, with the classes that became too small to survive.

    Attributes:
        kernel: of intensities; "linear" does not smooth what the new grid cannot hold.
        keep_small: a class that would vanish keeps the voxel of which it has the largest share.
        labels: "share" takes the class with the largest share of a voxel; "nearest" is the rule of torch's
            `interpolate`, kept for the presets that reproduce others.
    """

    spacing_mm: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    kernel: Kernel = "cubic"
    keep_small: bool = False
    labels: LabelRule = "share"
    version: str = "2"

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and self.shape is not None:
            raise ConfigError("Resample takes spacing_mm or shape, and both are given; the one decides the other")
        if self.kernel not in KERNELS:
            raise ConfigError(f"Resample knows no kernel {self.kernel!r}; it knows {', '.join(KERNELS)}")

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back on its new grid; raises as `resample`."""
        if isinstance(medium.content, Picture):
            yield medium
            return
        content = resample(medium.content, spacing_mm=self.spacing_mm, shape=self.shape, kernel=self.kernel)
        done = list(medium.transforms)
        if medium.content.orientation != "LPS":
            done.append(f"reorient({medium.content.orientation},LPS)")
        kernel = "" if self.kernel == "cubic" else f",{self.kernel}"
        if self.spacing_mm is not None:
            done.append(f"resample({','.join(f'{s:g}' for s in self.spacing_mm)}{kernel})")
        if self.shape is not None:
            done.append(f"resize({','.join(str(n) for n in self.shape)}{kernel})")
        layers = []
        for number, layer in enumerate(medium.seg):
            made = self._layer(layer)
            layers.append(made.volume)
            for what, classes in (("lost-labels", made.lost), ("kept-small", made.kept)):
                if classes:
                    done.append(f"{what}({number}:{','.join(map(str, classes))})")
        yield replace(medium, content=content, seg=tuple(layers), transforms=tuple(done))

    def _layer(self, layer: Volume) -> "LabelsMade":
        if layer.kind != "label":
            raise Refused("seg.kind", f"a mask holds {layer.units} intensities, not classes")
        canonical = layer.canonical()
        if self.spacing_mm is None and self.shape is None:
            return LabelsMade(canonical)
        axes = _axes(canonical, self.spacing_mm, self.shape)
        return _labels(canonical, axes, keep_small=self.keep_small, rule=self.labels)


@dataclass(frozen=True, eq=False)
class LabelsMade:
    """A label map on its new grid, the classes that vanished, and those that kept a voxel they had not won."""

    volume: Volume
    lost: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


def resample(
    volume: Volume,
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    shape: tuple[int, int, int] | None = None,
    kernel: Kernel = "cubic",
) -> Volume:
    """Return `volume` in canonical LPS axes, on a grid of `spacing_mm` or of `shape` (Z, Y, X) if one is given.

    Both grids start at the outer edge of the input's first voxel. `shape` keeps the field of view exactly;
    `spacing_mm` is kept exactly, and the field of view to half a voxel.

    Intensities: by `kernel`, edges repeated, in the input's type, rounded half to even and clipped to the input's
    range since some kernels have negative lobes. Labels: the class with the largest share of the voxel.

    Raises:
        Refused("volume.spacing"): a spacing or size is not positive, or the result would exceed `MAX_VOXELS`.
        Refused("volume.shear"): the axes are not perpendicular (a tilted stack); keep its native grid.
        Refused("measure.not_finite"): it holds NaN or infinity.
        Refused("seg.dtype"): a label map is neither uint8 nor uint16.
    """
    if spacing_mm is not None and shape is not None:
        raise ValueError("spacing_mm decides the shape, and shape the spacing: give one")
    canonical = volume.canonical()
    if spacing_mm is None and shape is None:
        return canonical
    axes = _axes(canonical, spacing_mm, shape)
    if canonical.kind == "label":
        return _labels(canonical, axes, keep_small=False, rule="share").volume
    return _placed(canonical, _values(canonical.array, axes, kernel), axes)


def resample_to(
    volume: Volume,
    *,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    kernel: Kernel = "cubic",
    background: bool = True,
) -> Volume:
    """Return `volume` on exactly the grid of another: that `affine` and `shape` (Z, Y, X), in any orientation.

    So predictions on a resampled grid go back to the native one. Intensities repeat their edge outside the input.

    Args:
        background: what of a label map's new grid lies outside the input is class 0; else the edge goes on (two
            edge-aligned grids may differ by half a voxel at their ends).

    Raises:
        Refused("volume.oblique"): the axes of the two grids are not parallel.
        Refused("volume.spacing"), ("measure.not_finite"), ("seg.dtype"): as `resample`.
    """
    goal = np.asarray(affine, dtype=np.float64)
    _refuse_size(shape)
    turned = reorient(volume, orientation_of(goal))
    between = np.linalg.inv(turned.affine) @ goal  # new voxel (x, y, z) to old voxel
    steps = np.diag(between)[:3]
    drift = np.abs(between[:3, :3] - np.diag(steps)) @ np.array(shape[::-1])
    if drift.max() > DRIFT_TOLERANCE or steps.min() <= 0:
        raise Refused(
            "volume.oblique", f"the axes of the grids part by {drift.max():.2g} voxels; they are not parallel"
        )
    rows = zip(turned.shape, shape, steps[::-1].tolist(), between[2::-1, 3].tolist(), strict=True)
    axes = [Axis(*row) for row in rows]
    if turned.kind == "label":
        made = _label_array(turned, [overlap(axis, padded=background) for axis in axes])
    else:
        made = _values(turned.array, axes, kernel)
    return replace(turned, array=made, affine=goal.copy())


def _axes(
    volume: Volume, spacing_mm: tuple[float, float, float] | None, shape: tuple[int, int, int] | None
) -> list[Axis]:
    """Return the axes (Z, Y, X) of the grid asked for."""
    _refuse_shear(volume)
    if shape is not None:
        _refuse_size(shape)
        return [aligned(n, m, n / m) for n, m in zip(volume.shape, shape, strict=True)]
    assert spacing_mm is not None
    if not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise Refused("volume.spacing", f"spacing {spacing_mm} is not positive")
    steps = [new / old for new, old in zip(spacing_mm, volume.spacing_mm, strict=True)]
    sizes = [max(1, round(min(n / step, MAX_VOXELS + 1))) for n, step in zip(volume.shape, steps, strict=True)]
    _refuse_size(sizes)
    return [aligned(*row) for row in zip(volume.shape, sizes, steps, strict=True)]


def _refuse_size(sizes: Sequence[int]) -> None:
    if min(sizes) < 1 or sizes[0] * sizes[1] * sizes[2] > MAX_VOXELS:
        raise Refused("volume.spacing", f"a grid of {tuple(sizes)} voxels is empty or exceeds {MAX_VOXELS}")


def _refuse_shear(volume: Volume) -> None:
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
    if cosine > SHEAR_TOLERANCE:
        raise Refused(
            "volume.shear", f"axes are {np.degrees(np.arccos(cosine)):.1f} degrees apart; keep the native grid"
        )


def _placed(volume: Volume, array: np.ndarray, axes: Sequence[Axis]) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([axis.first for axis in axes[::-1]])
    affine[:3, :3] *= np.array([axis.step for axis in axes[::-1]])
    return replace(volume, array=array, affine=affine)


def _values(array: np.ndarray, axes: Sequence[Axis], kernel: Kernel) -> np.ndarray:
    from medloom.pipelines.stages.kernel import values_on
    from medloom.pipelines.stages.tally import extent

    if array.dtype.kind in "iu" and kernel in ("linear", "box"):  # means cannot leave the input's range
        low, high = float(np.iinfo(array.dtype).min), float(np.iinfo(array.dtype).max)
    else:
        low, high = extent(array)
    if not np.isfinite(low) or not np.isfinite(high):
        count = int((~np.isfinite(array)).sum())
        raise Refused("measure.not_finite", f"{count} voxels are NaN or infinite")
    along_z, along_y, along_x = (KERNELS[kernel](axis) for axis in axes)
    return values_on(array, (along_z, along_y, along_x), low=low, high=high)


def _labels(volume: Volume, axes: Sequence[Axis], *, keep_small: bool, rule: LabelRule) -> LabelsMade:
    from medloom.pipelines.stages import label_kernel, tally

    _refuse_type(volume)
    taps = [overlap(axis, padded=False) for axis in axes]
    array = _label_array(volume, taps) if rule == "share" else _nearest(volume.array, axes)
    before, boxes = tally.regions(volume.array)
    after = tally.histogram(array)
    (lost,) = np.nonzero((before > 0) & (after == 0))
    classes, kept = [n for n in lost.tolist() if n], []
    if classes and keep_small:
        along_z, along_y, along_x = taps
        kept = label_kernel.keep_small(array, volume.array, (along_z, along_y, along_x), classes, boxes, after)
    made = _placed(volume, array, axes)
    return LabelsMade(made, tuple(n for n in classes if n not in kept), tuple(kept))


def _label_array(volume: Volume, taps: Sequence[Taps]) -> np.ndarray:
    from medloom.pipelines.stages.label_kernel import labels_on

    _refuse_type(volume)
    along_z, along_y, along_x = taps
    return labels_on(volume.array, (along_z, along_y, along_x))


def _refuse_type(volume: Volume) -> None:
    if volume.array.dtype.name not in LABEL_DTYPES:
        raise Refused("seg.dtype", f"a mask holds {volume.array.dtype}, not uint8 or uint16 classes")


def _nearest(array: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """Return the voxels that torch's nearest takes: floor(i * step) in float32, never beyond the last."""
    for number, axis in enumerate(axes):
        step = np.float32(axis.n_old) / np.float32(axis.n_new)
        index = np.floor(np.arange(axis.n_new, dtype=np.float32) * step).astype(np.int64)
        array = np.take(array, np.minimum(index, axis.n_old - 1), axis=number)
    return array
