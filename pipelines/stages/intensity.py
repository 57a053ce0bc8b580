"""Intensity: named transforms of values, recorded with their numbers so that they can be undone.

Every one is `(clip(x, low, high) - shift) / scale` with numbers that are fixed or found in the volume. The medium's
`transforms` hold `scale(name;low,high,shift,scale;units)`; `undone` reads them back. What was clipped stays clipped.
Values are float32 afterwards; masks stay as they are; pictures pass untouched.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medloom.schemas.errors import Refused
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.volume import Volume

Window = Literal["lung", "soft", "bone", "wide"]
WINDOWS_HU: dict[str, tuple[float, float]] = {  # level, width
    "lung": (-600, 1500),
    "soft": (40, 400),
    "bone": (400, 1800),
    "wide": (0, 2000),
}
SMALLEST_SCALE = 1e-8  # what M3D divides by where there is no spread
_NUMBER = r"([^;,()]+)"
_RECORD = re.compile(rf"scale\(([a-z0-9.-]+);{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER};(.*)\)")


@dataclass(frozen=True)
class Scale:
    """(clip(x, low, high) - shift) / scale; `low` and `high` may be infinite."""

    low: float
    high: float
    shift: float
    scale: float

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return the values transformed, float32."""
        if array.dtype.kind in "iu" and array.itemsize <= 2:  # a table of all values: no float copy on the way
            info = np.iinfo(array.dtype)
            table = self._of(np.arange(info.min, info.max + 1, dtype=np.float64)).astype(np.float32)
            table = np.roll(table, info.min)
            return table[array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{array.itemsize}")]
        return self._of(array.astype(np.float32)).astype(np.float32)

    def invert(self, array: np.ndarray) -> np.ndarray:
        """Return the values as they were before, but for what was clipped; float32."""
        return (array.astype(np.float64) * self.scale + self.shift).astype(np.float32)

    def _of(self, values: np.ndarray) -> np.ndarray:
        return (np.clip(values, self.low, self.high) - self.shift) / self.scale

    def record(self, name: str, units: str) -> str:
        """Return the line for `transforms`."""
        numbers = ",".join(repr(float(v)) for v in (self.low, self.high, self.shift, self.scale))
        return f"scale({name};{numbers};{units})"


def undone(volume: Volume, transforms: Sequence[str]) -> Volume:
    """Return `volume` in the values it had before the intensity transforms that `transforms` record, as float32."""
    for done in reversed(transforms):
        found = _RECORD.fullmatch(done)
        if found:
            numbers = [float(number) for number in found.groups()[1:5]]
            volume = replace(volume, array=Scale(*numbers).invert(volume.array), units=found[6])
    return volume


def _scaled(medium: Medium, volume: Volume, scale: Scale, name: str) -> Medium:
    content = replace(volume, array=scale.apply(volume.array), units="1")
    return replace(medium, content=content, transforms=(*medium.transforms, scale.record(name, volume.units)))


@dataclass(frozen=True)
class CtWindow:
    """Bring Hounsfield units of a named window to 0 to 1."""

    window: Window
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back.

        Raises:
            Refused("intensity.units"): the volume is not in HU.
        """
        if isinstance(medium.content, Picture):
            yield medium
            return
        if medium.content.units != "HU":
            raise Refused("intensity.units", f"a CT window needs HU, and values are {medium.content.units}")
        level, width = WINDOWS_HU[self.window]
        low = level - width / 2
        yield _scaled(medium, medium.content, Scale(low, low + width, low, width), f"ct-{self.window}")


@dataclass(frozen=True)
class Fixed:
    """Clip and scale by given numbers, as of a whole data set.

    Attributes:
        name: lower case, digits, dots and hyphens.
        low, high, shift, scale: as in `Scale`.
    """

    name: str
    low: float
    high: float
    shift: float
    scale: float
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back."""
        if isinstance(medium.content, Picture):
            yield medium
            return
        yield _scaled(medium, medium.content, Scale(self.low, self.high, self.shift, self.scale), self.name)


@dataclass(frozen=True)
class ForegroundZScore:
    """Clip to percentiles of the foreground, then take its mean away and divide by its standard deviation.

    Foreground is what lies above the volume's mean. (0.5, 99.5) is good practice for MR; (0.05, 99.95) is M3D-Seg's.
    """

    low_percentile: float = 0.5
    high_percentile: float = 99.5
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back.

        Raises:
            Refused("intensity.constant"): all values, or all of the foreground, are equal.
        """
        if isinstance(medium.content, Picture):
            yield medium
            return
        yield _scaled(medium, medium.content, self.scale_of(medium.content.array), "foreground-z-score")

    def scale_of(self, array: np.ndarray) -> Scale:
        """Return the numbers found in `array`."""
        ranks = (self.low_percentile, self.high_percentile)
        if array.dtype.kind == "f":
            foreground = array[array > array.mean(dtype=np.float64)]
            mean, spread = _moments_of(foreground) if foreground.size else (0.0, 0.0)
            low, high = np.percentile(foreground, ranks).tolist() if foreground.size else (0.0, 0.0)
        else:
            values, counts = counted(array)
            above = values > float((values * counts).sum() / counts.sum())
            values, counts = values[above], counts[above]
            mean, spread = moments(values, counts) if counts.size else (0.0, 0.0)
            low, high = (percentile(values, counts, rank) for rank in ranks) if counts.size else (0.0, 0.0)
        if not high > low:
            raise Refused("intensity.constant", "all values of the foreground are equal")
        return Scale(low, high, mean, max(spread, SMALLEST_SCALE))


@dataclass(frozen=True)
class ZScore:
    """Take the mean of all values away and divide by their standard deviation, without clipping (nnU-Net, not CT)."""

    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back."""
        if isinstance(medium.content, Picture):
            yield medium
            return
        mean, spread = _moments_of(medium.content.array)
        scale = Scale(-np.inf, np.inf, mean, max(spread, SMALLEST_SCALE))
        yield _scaled(medium, medium.content, scale, "z-score")


@dataclass(frozen=True)
class MinMax:
    """Bring the least value to 0 and the greatest to 1."""

    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back.

        Raises:
            Refused("intensity.constant"): all values are equal.
        """
        from medloom.pipelines.stages.tally import extent

        if isinstance(medium.content, Picture):
            yield medium
            return
        low, high = extent(medium.content.array)
        if not high > low:
            raise Refused("intensity.constant", "all values are equal")
        yield _scaled(medium, medium.content, Scale(low, high, low, high - low), "min-max")


def moments(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of values that occur `counts` times."""
    mean = float((values * counts).sum() / counts.sum())
    return mean, float(np.sqrt((np.square(values - mean) * counts).sum() / counts.sum()))


def _moments_of(array: np.ndarray) -> tuple[float, float]:
    if array.dtype.kind == "f":
        return float(array.mean(dtype=np.float64)), float(array.std(dtype=np.float64))
    return moments(*counted(array))


def counted(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of an integer array that occur, ascending, as float64, and how often each does."""
    from medloom.pipelines.stages.tally import histogram

    counts = histogram(array)
    (present,) = np.nonzero(counts)
    return (present + int(np.iinfo(array.dtype).min)).astype(np.float64), counts[present]


def percentile(values: np.ndarray, counts: np.ndarray, percent: float) -> float:
    """Return the percentile of values that occur `counts` times, between two values by their distance (numpy's rule).

    Args:
        values: ascending.
        percent: 0 to 100.
    """
    ends = np.cumsum(counts)
    rank = percent / 100 * (int(ends[-1]) - 1)
    below, above = (float(values[np.searchsorted(ends, r, side="right")]) for r in (np.floor(rank), np.ceil(rank)))
    return below + (above - below) * (rank - np.floor(rank))


# Two-dimensional images, as arrays: readers and stages of pictures call these.


def grey_of_equal_channels(pixels_YXC: np.ndarray, tolerance: int = 8) -> np.ndarray:
    """Return (Y, X, 1) where the three channels are equal but for the rounding of JPEG, else the pixels as they are."""
    colour = pixels_YXC[:, :, :3].astype(np.int16)
    if colour.shape[2] == 1 or np.ptp(colour, axis=2).max() > tolerance:
        return pixels_YXC
    return pixels_YXC[:, :, 1:2]  # of YBR's three, green carries luminance best


def xray_view(
    values_YX: np.ndarray, *, inverted: bool, window: tuple[float, float] | None = None
) -> tuple[np.ndarray, Scale]:
    """Return an X-ray as uint8 with bone bright, and the scale that leads to it (times 255).

    Args:
        values_YX: measured values of any type.
        inverted: MONOCHROME1: small values are bright.
        window: level and width as the file states them; None takes percentiles 0.5 to 99.5.
    """
    if window is not None:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    else:
        low, high = (float(v) for v in np.percentile(values_YX, (0.5, 99.5)))
    high = high if high > low else low + 1
    scale = Scale(low, high, high, low - high) if inverted else Scale(low, high, low, high - low)
    return np.rint(scale.apply(values_YX) * 255).astype(np.uint8), scale


def ultrasound_sector(pixels_YX: np.ndarray, *, dark: int = 8, cell_px: int = 8) -> np.ndarray:
    """Return where the scanned sector of an ultrasound image lies, (Y, X) bool: its largest lit region, filled by rows.

    Text, scales and logos beside it, which touch it nowhere, stay outside.

    Args:
        pixels_YX: uint8.
        dark: a cell counts as lit when its mean is above.
        cell_px: side of the cells in which light is looked for.
    """
    rows, columns = (-(-n // cell_px) for n in pixels_YX.shape)
    padded = np.zeros((rows * cell_px, columns * cell_px))
    padded[: pixels_YX.shape[0], : pixels_YX.shape[1]] = pixels_YX
    lit = padded.reshape(rows, cell_px, columns, cell_px).mean(axis=(1, 3)) > dark
    region = _largest(lit)
    mask = np.zeros_like(region)
    for row in np.flatnonzero(region.any(axis=1)):
        ends = np.flatnonzero(region[row])
        mask[row, ends[0] : ends[-1] + 1] = True
    return mask.repeat(cell_px, 0).repeat(cell_px, 1)[: pixels_YX.shape[0], : pixels_YX.shape[1]]


def _largest(lit: np.ndarray) -> np.ndarray:
    """Return the largest region of neighbours (4-connected) of a bool array."""
    left, best = lit.copy(), np.zeros_like(lit)
    while left.any():
        seed = tuple(np.argwhere(left)[0])
        region = np.zeros_like(lit)
        region[seed] = True
        stack = [seed]
        while stack:
            y, x = stack.pop()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= near[0] < lit.shape[0] and 0 <= near[1] < lit.shape[1] and left[near] and not region[near]:
                    region[near] = True
                    stack.append(near)
        left &= ~region
        best = region if region.sum() > best.sum() else best
    return best
