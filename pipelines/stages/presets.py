"""Presets: how other systems prepare a volume, as stages; and better forms of the same.

Volumes are stored as float32 on the grid of the original, axes in LPS (Z, Y, X). `m3d` and `radfm` give the values of
the originals for input in that orientation; M3D keeps whatever orientation a file has, and RadFM writes (Y, X, Z) with
the one channel three times, which a reader does by `transpose(1, 2, 0)` and `repeat`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from medloom.pipelines.stages.intensity import Fixed, ForegroundZScore, MinMax, ZScore
from medloom.pipelines.stages.resample import Resample
from medloom.pipelines.unit import Stage
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.volume import Volume

Preset = Literal["m3d", "m3d_aa", "radfm", "ct_rate", "nnunet"]
Spacing = tuple[float, float, float]
Stages = tuple[Stage, ...]
M3D_SHAPE = (32, 256, 256)
CT_RATE_SPACING_MM, CT_RATE_SHAPE = (1.5, 0.75, 0.75), (240, 480, 480)


def preset(
    name: Preset, *, spacing_mm: Spacing | None = None, foreground: tuple[float, float, float, float] | None = None
) -> Stages:
    """Return the stages of a preset, to stand before `Measure`.

    - m3d: M3D-Seg's: percentiles 0.05 to 99.95 and z-score of what lies above the mean, min-max, crop to what is above
      the minimum, 32 x 256 x 256 by linear interpolation without smoothing; masks by nearest.
    - m3d_aa: the same values and grid, smoothed as far as the grid demands; masks by largest share, none lost.
    - radfm: 512 x 512 in plane linear, at most 64 slices by order 0, min-max, then the multiple of 4 slices nearest to
      their number.
    - ct_rate: clipped to -1000 to 1000 HU, over 1000, 1.5 x 0.75 x 0.75 mm linear, cropped or padded to
      240 x 480 x 480. (The original truncates the number of voxels, and this rounds it.)
    - nnunet: normalised before it is resampled to `spacing_mm`, by `foreground`, or by its own z-score without.

    Args:
        spacing_mm: (Z, Y, X), of nnunet, which plans it for each data set.
        foreground: of nnunet on CT: percentiles 0.5 and 99.5, mean and standard deviation of the data set's foreground.

    Raises:
        ConfigError: an argument is missing or belongs to another preset; an unknown name.
    """
    if name != "nnunet" and (spacing_mm is not None or foreground is not None):
        raise ConfigError(f"preset {name} decides its grid and values itself; spacing_mm and foreground are nnunet's")
    norm = (Resample(), ForegroundZScore(0.05, 99.95), MinMax(), CropForeground())
    if name == "m3d":
        return (*norm, Resample(shape=M3D_SHAPE, kernel="linear", labels="nearest"))
    if name == "m3d_aa":
        return (*norm, Resample(shape=M3D_SHAPE, keep_small=True))
    if name == "radfm":
        return (Resample(), InPlane(512), Slices("at-most-64"), MinMax(), Slices("multiple-of-4"))
    if name == "ct_rate":
        clip = Fixed("ct-rate", -1000, 1000, 0, 1000)
        return (clip, Resample(spacing_mm=CT_RATE_SPACING_MM, kernel="linear"), Fit(CT_RATE_SHAPE, -1.0))
    if name == "nnunet":
        if spacing_mm is None:
            raise ConfigError("preset nnunet needs the spacing that was planned for the data set: spacing_mm")
        norm_of: Any = Fixed("nnunet-ct", *foreground) if foreground else ZScore()
        return (norm_of, Resample(spacing_mm=spacing_mm, keep_small=True))
    raise ConfigError(f"there is no preset {name!r}; there are m3d, m3d_aa, radfm, ct_rate and nnunet")


@dataclass(frozen=True)
class CropForeground:
    """Crop a volume and its masks to the box of values above 0."""

    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back.

        Raises:
            Refused("crop.empty"): no value is above 0.
        """
        if isinstance(medium.content, Picture):
            yield medium
            return
        inside = medium.content.array > 0
        ends = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        if not all(end.size for end in ends):
            raise Refused("crop.empty", "no value is above 0")
        box = [(int(end[0]), int(end[-1]) + 1) for end in ends]
        part = tuple(slice(*ends) for ends in box)
        origin_xyz = [start for start, _ in box[::-1]]
        done = f"crop({','.join(str(start) for start, _ in box)},{','.join(str(end) for _, end in box)})"
        yield _moved(medium, lambda v: v.array[part], origin_xyz, np.ones(3), done)


@dataclass(frozen=True)
class Fit:
    """Crop or pad around the centre to a shape.

    Attributes:
        shape: (Z, Y, X).
        value: what intensities are padded with; masks with 0.
    """

    shape: tuple[int, int, int]
    value: float
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back."""
        if isinstance(medium.content, Picture):
            yield medium
            return
        starts = [(have - want) // 2 for have, want in zip(medium.content.shape, self.shape, strict=True)]
        done = f"fit({','.join(map(str, self.shape))})"
        yield _moved(medium, lambda v: self._fitted(v, starts), starts[::-1], np.ones(3), done)

    def _fitted(self, volume: Volume, starts: list[int]) -> np.ndarray:
        made = np.full(self.shape, self.value if volume.kind == "intensity" else 0, volume.array.dtype)
        old, new = [], []
        for have, want, start in zip(volume.shape, self.shape, starts, strict=True):
            old.append(slice(max(0, start), min(have, start + want)))
            new.append(slice(max(0, -start), max(0, -start) + min(have, start + want) - max(0, start)))
        made[tuple(new)] = volume.array[tuple(old)]
        return made


@dataclass(frozen=True)
class InPlane:
    """Bring slices to `side_px` x `side_px`, linear without smoothing, where they have another size."""

    side_px: int
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back; raises as `resample`."""
        if isinstance(medium.content, Picture) or medium.content.shape[1:] == (self.side_px, self.side_px):
            yield medium
            return
        shape = (medium.content.shape[0], self.side_px, self.side_px)
        yield from Resample(shape=shape, kernel="linear", labels="nearest")(medium)


@dataclass(frozen=True)
class Slices:
    """Take some slices, as RadFM does, and the others not.

    "at-most-64": of more than 64, 64 evenly from the first to the last (scipy's zoom of order 0). "multiple-of-4": the
    multiple of 4, from 4 to 64, that is nearest to their number (torch's nearest); of two, the lower.
    """

    rule: Literal["at-most-64", "multiple-of-4"]
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back."""
        if isinstance(medium.content, Picture):
            yield medium
            return
        depth = medium.content.shape[0]
        if self.rule == "at-most-64":
            count = min(depth, 64)
            step = (depth - 1) / (count - 1) if count > 1 else 1.0
            index = np.floor(np.arange(count) * step + 0.5).astype(np.int64)
        else:
            count = min(range(4, 65, 4), key=lambda n: abs(n - max(depth, 4)))
            step = depth / count
            index = np.floor(np.arange(count, dtype=np.float32) * np.float32(step)).astype(np.int64)
        if count == depth:
            yield medium
            return
        index = np.minimum(index, depth - 1)
        yield _moved(
            medium, lambda v: v.array[index], [0, 0, 0], np.array([1, 1, step]), f"slices({self.rule},{count})"
        )


def _moved(
    medium: Medium, part: Callable[[Volume], np.ndarray], origin_xyz: list[int], steps_xyz: np.ndarray, done: str
) -> Medium:
    """Return the medium with `part` of its volume and masks, of which the first voxel stood at `origin_xyz`."""

    def moved(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(origin_xyz, dtype=np.float64)
        affine[:3, :3] *= steps_xyz
        return replace(volume, array=part(volume), affine=affine)

    assert isinstance(medium.content, Volume)
    seg = tuple(moved(layer) for layer in medium.seg)
    return replace(medium, content=moved(medium.content), seg=seg, transforms=(*medium.transforms, done))
