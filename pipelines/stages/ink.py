"""Ink: where a picture differs from the sheet it stands on, summed so that any line of any region is counted at once.

Boxes are half-open (y0, x0, y1, x1); axis 0 runs down the rows, axis 1 along the columns. Pictures of more than
about twice `WORK_PIXELS` are counted in cells of `scale` × `scale` pixels, every pixel still counting.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

WORK_PIXELS = 1_000_000
TOLERANCE = 36  # of 255: what JPEG leaves of an edge in the blank pixels beside it, at quality 60
STRIP_PIXELS = 1 << 21  # compared at once, so that a large picture needs no large copy
STEP = 14  # of 255: a change in any channel that counts as an edge
WHITE_SHARE, BLACK_SHARE = 0.01, 0.08  # of the pixels that such a sheet shows at least; text is black, too
RIM_SHARE = 0.6  # of the outermost pixels that a sheet of another colour must show

Box = tuple[int, int, int, int]
Colour = tuple[int, ...]


def scale_of(height: int, width: int) -> int:
    """Return the side in pixels of the cells in which a picture is counted."""
    return max(1, round(float(np.sqrt(height * width / WORK_PIXELS))))


@dataclass(frozen=True, eq=False)
class Ink:
    """The cells of a picture that differ from a sheet of one colour.

    Attributes:
        sums: counts of differing pixels, summed down the columns (h + 1, w) and along the rows (h, w + 1).
        scale: pixels of the picture to a side of a cell.
    """

    sums: tuple[np.ndarray, np.ndarray]
    scale: int

    @property
    def box(self) -> Box:
        """All of it, in cells."""
        return 0, 0, self.sums[1].shape[0], self.sums[0].shape[1]

    def profile(self, box: Box, axis: int) -> np.ndarray:
        """Return the share of ink, 0 to 1, of each line of `box` across `axis`: of rows for 0, of columns for 1."""
        y0, x0, y1, x1 = box
        if axis == 0:
            counts, across = self.sums[1][y0:y1, x1] - self.sums[1][y0:y1, x0], x1 - x0
        else:
            counts, across = self.sums[0][y1, x0:x1] - self.sums[0][y0, x0:x1], y1 - y0
        return counts / (across * self.scale**2)

    def share(self, box: Box) -> float:
        """Return the share of ink of all of `box`."""
        return float(self.profile(box, 0).mean())

    def trimmed(self, box: Box) -> Box | None:
        """Return `box` without its blank margins, None when nothing is left."""
        rows = np.flatnonzero(self.profile(box, 0))
        if not len(rows):
            return None
        columns = np.flatnonzero(self.profile(box, 1))
        y0, x0 = box[0], box[1]
        return y0 + int(rows[0]), x0 + int(columns[0]), y0 + int(rows[-1]) + 1, x0 + int(columns[-1]) + 1


def ink_on(pixels_YXC: np.ndarray, colour: Colour, scale: int) -> Ink:
    """Return where uint8 `pixels_YXC` differ from `colour` in any channel by more than `TOLERANCE`; all, for ()."""
    height, width = pixels_YXC.shape[:2]
    cells = np.zeros((-(-height // scale), -(-width // scale)), np.uint16)
    rows = scale * max(1, STRIP_PIXELS // (width * scale))
    for top in range(0, height, rows):
        strip = pixels_YXC[top : top + rows]
        far = np.full(strip.shape[:2], not colour)
        for channel in range(len(colour)):
            plane, value = strip[:, :, channel], colour[channel]
            if value + TOLERANCE < 255:
                far |= plane > value + TOLERANCE
            if value - TOLERANCE > 0:
                far |= plane < value - TOLERANCE
        cells[top // scale : -(-(top + len(strip)) // scale)] = _counted(far, scale)
    down = np.zeros((len(cells) + 1, cells.shape[1]), np.int32)
    along = np.zeros((len(cells), cells.shape[1] + 1), np.int32)
    np.cumsum(cells, axis=0, dtype=np.int32, out=down[1:])
    np.cumsum(cells, axis=1, dtype=np.int32, out=along[:, 1:])
    return Ink((down, along), scale)


def _counted(far_YX: np.ndarray, scale: int) -> np.ndarray:
    """Return how many pixels hold in each cell of `scale` × `scale`; the last cells stand for whole ones."""
    if scale == 1:
        return far_YX.view(np.uint8)
    shares = averaged(far_YX.view(np.uint8) * np.uint8(255), scale)
    return np.rint(shares * np.float32(scale**2 / 255)).astype(np.uint16)


def sheets(pixels_YXC: np.ndarray) -> list[Colour]:
    """Return the colours that a picture's panels may stand on, the likeliest first; () says that they stand on none.

    They are white and black where the picture has some of it, and the colour of its rim where that is of one colour.
    """
    height, width, channels = pixels_YXC.shape
    step = max(1, int(np.sqrt(height * width / 40_000)))
    sampled = pixels_YXC[::step, ::step].reshape(-1, channels)
    rim = np.concatenate([
        pixels_YXC[0, ::step], pixels_YXC[-1, ::step], pixels_YXC[::step, 0], pixels_YXC[::step, -1]
    ])  # fmt: skip
    commonest = _commonest(rim)
    kept = [commonest] if _near(rim, commonest) >= RIM_SHARE else []
    for colour, least in (((255,) * channels, WHITE_SHARE), ((0,) * channels, BLACK_SHARE)):
        known = any(max(abs(a - b) for a, b in zip(colour, other, strict=True)) <= TOLERANCE for other in kept)
        if not known and _near(sampled, colour) >= least:
            kept.append(colour)
    return kept or [()]


def _near(pixels_NC: np.ndarray, colour: Colour) -> float:
    """Return the share of pixels within `TOLERANCE` of `colour`."""
    far = np.abs(pixels_NC.astype(np.int16) - np.asarray(colour, np.int16)) > TOLERANCE
    return float(1 - far.any(axis=1).mean())


def _commonest(pixels_NC: np.ndarray) -> Colour:
    """Return the median colour of the commonest cube of side 32 of colours."""
    cubes = (pixels_NC >> 5).astype(np.int32) @ (8 ** np.arange(pixels_NC.shape[1], dtype=np.int32))
    inside = pixels_NC[cubes == np.bincount(cubes).argmax()]
    return tuple(int(v) for v in np.median(inside, axis=0))


@dataclass(frozen=True, eq=False)
class Steps:
    """Where a picture changes from one cell to the next: edges of panels that touch.

    Attributes:
        pixels_YXC: uint8 of 1 or 3 channels.
        scale: pixels to a side of a cell.
    """

    pixels_YXC: np.ndarray  # noqa: N815
    scale: int

    def profile(self, box: Box, axis: int) -> np.ndarray:
        """Return the share, 0 to 1, of each line of `box` across `axis` that differs from the line before it."""
        y0, x0, y1, x1 = box
        if axis == 0:
            return (self._sums[0][y0:y1, x1] - self._sums[0][y0:y1, x0]) / (x1 - x0)
        return (self._sums[1][y1, x0:x1] - self._sums[1][y0, x0:x1]) / (y1 - y0)

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Changes from the row above, summed along rows; changes from the column before, summed down columns."""
        planes = [averaged(self.pixels_YXC[:, :, c], self.scale) for c in range(self.pixels_YXC.shape[2])]
        height, width = planes[0].shape
        rows, columns = np.zeros((height, width + 1), np.int32), np.zeros((height + 1, width), np.int32)
        for axis, sums in ((0, rows[1:, 1:]), (1, columns[1:, 1:])):
            changed = np.zeros(sums.shape, bool)
            for plane in planes:
                one, other = (plane[1:], plane[:-1]) if axis == 0 else (plane[:, 1:], plane[:, :-1])
                changed |= np.maximum(one, other) - np.minimum(one, other) > STEP
            np.cumsum(changed, axis=1 - axis, out=sums)
        return rows, columns


def luma(pixels_YXC: np.ndarray, scale: int) -> np.ndarray:
    """Return the luminance (Y, X) as uint8 (ITU-R BT.601), averaged over cells of `scale` × `scale`."""
    if pixels_YXC.shape[2] == 1:
        return averaged(pixels_YXC[:, :, 0], scale)
    from PIL import Image

    return averaged(np.asarray(Image.fromarray(pixels_YXC).convert("L")), scale)


def averaged(plane_YX: np.ndarray, scale: int) -> np.ndarray:
    """Return a uint8 channel averaged over cells of `scale` × `scale`; the last cells may be smaller."""
    if scale == 1:
        return plane_YX
    from PIL import Image

    return np.asarray(Image.fromarray(plane_YX).reduce(scale))


def flat(pixels_YXC: np.ndarray) -> np.ndarray:
    """Return uint8 pixels of 1 or 3 channels: alpha on white, as a page shows it."""
    if pixels_YXC.shape[2] in (1, 3):
        return pixels_YXC
    colour, alpha = pixels_YXC[:, :, :-1], pixels_YXC[:, :, -1:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    out = np.empty(colour.shape, np.uint8)
    rows = max(1, STRIP_PIXELS // pixels_YXC.shape[1])
    for top in range(0, len(out), rows):
        part = slice(top, top + rows)
        opaque = alpha[part].astype(np.uint16)
        out[part] = (colour[part] * opaque + 255 * (255 - opaque) + 127) // 255
    return out
