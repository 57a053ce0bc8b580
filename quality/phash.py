"""Perceptual hash of a picture: which pictures show the same thing, whatever their size, encoding, margin or mirroring.

The hash is the signs of the 24 × 24 lowest coefficients of the DCT of the luminance, seen at 64 × 64 without uniform
margins. To mirror a picture changes the sign of every coefficient that is odd along that axis, to invert it that of all
but the mean, and to turn it swaps the axes: so the hash of one picture says the hashes of its sixteen variants.

Of 401 pictures (65 real ones, 168 charts in eight styles, 168 slices of three scans) no two that show different things
were within `MAX_DISTANCE`, but receiver operating curves of one style, which differ by a line's width.
"""

from functools import cache

import numpy as np

SIDE = 64
ORDER = 24  # coefficients along each axis; 16 take the next slice of a CT for the same one more often
HALF = ORDER // 2
CLASS_BYTES = HALF * HALF // 8  # bits of a class: both indices even, second odd, first odd, both odd
HASH_BYTES = 4 * CLASS_BYTES
BITS = ORDER * ORDER - 1  # the mean says nothing of what is shown: its bit is always 0
MAX_DISTANCE = 52  # of 575: 9 %

SEEN_AT_PX = 512  # margins are looked for with the longer side at this, so that their width scales with the picture
MARGIN_LEVELS = 32  # a line is margin while it stays this near the outermost one ...
MARGIN_SHARE = 0.01  # ... but for this share of its pixels: rings of a JPEG, dust
EDGE_LEVELS = 64  # a margin ends at an edge: where a picture fades in, any end would be an accident
EDGE_LINES = 8
BLURRED_LINES = 1  # of neither the margin nor the picture, where it was resized
MIN_CONTENT_PX = 8
WEAK = 0.5  # grey levels: a smaller coefficient of the orthonormal DCT is rounding
MIN_STRONG = 0.5  # share of coefficients that must be more than that

BANDS = 32
BAND_CELLS = 20  # and as many mirrored at the diagonal
BAND_ORDER = 16  # bands are taken from the lower coefficients, whose signs are the more stable
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

# The variants: which of the four classes change all their signs when a picture is mirrored, flipped or inverted.
_FLIPS = np.array([
    [(inverted + flipped * (c // 2) + mirrored * (c % 2)) % 2 for c in range(4)]
    for inverted in (0, 1) for flipped in (0, 1) for mirrored in (0, 1)
])  # fmt: skip
_CLASS_BITS = np.array([HALF * HALF - 1, HALF * HALF, HALF * HALF, HALF * HALF])


def picture_phash(pixels_YXC: np.ndarray) -> str:
    """Return the hash as 144 hex digits, or "" for a picture without enough structure to tell it from others.

    A blank page, a colour bar or a gradient has hardly any coefficient but the mean, and what is exactly its own mirror
    image has half of them: the signs of the rest are rounding, alike in all such pictures.

    Args:
        pixels_YXC: uint8 with 1, 3 or 4 channels; what is transparent is seen on white.
    """
    shown = _content(_luma(pixels_YXC))
    if shown is None:
        return ""
    basis = _basis()
    coefficients = basis @ shown @ basis.T
    coefficients[0, 0] = 0
    if np.count_nonzero(np.abs(coefficients) >= WEAK) < MIN_STRONG * BITS:
        return ""
    return np.packbits(_by_class(coefficients > 0)).tobytes().hex()


def _luma(pixels_YXC: np.ndarray) -> np.ndarray:
    if pixels_YXC.shape[2] == 1:
        return pixels_YXC[:, :, 0].astype(np.float32)
    luma: np.ndarray = pixels_YXC[:, :, :3].astype(np.float32) @ np.array(LUMA, np.float32)
    if pixels_YXC.shape[2] == 4:
        opaque = pixels_YXC[:, :, 3].astype(np.float32) / 255
        luma = luma * opaque + 255 * (1 - opaque)
    return luma


def _content(luma_YX: np.ndarray) -> np.ndarray | None:
    """Return what stands within the margins as `SIDE` × `SIDE` means; None where there is nothing but margin."""
    from PIL import Image

    image = Image.fromarray(luma_YX)
    scale = SEEN_AT_PX / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    seen = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float64)  # BOX takes whole pixels, and lopsided
    edges = _within_margins(seen)
    if edges is None:
        return None
    top, bottom, left, right = edges
    return _means(_means(seen, top, bottom).T, left, right).T


def _means(lines: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return `SIDE` lines, each the mean of its share of the lines from `start` to `stop`."""
    below = np.concatenate([np.zeros((1, lines.shape[1])), np.cumsum(lines, axis=0)])
    cuts = np.linspace(start, stop, SIDE + 1)
    whole = np.minimum(cuts.astype(np.int64), len(lines) - 1)
    sums = below[whole] + (cuts - whole)[:, np.newaxis] * lines[whole]
    return np.diff(sums, axis=0) * (SIDE / (stop - start))


def _within_margins(luma_YX: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return (top, bottom, left, right) without uniform margins, one within the other; None when nothing is left."""
    top, left = 0, 0
    bottom, right = luma_YX.shape
    while bottom - top >= MIN_CONTENT_PX and right - left >= MIN_CONTENT_PX:
        inner = luma_YX[top:bottom, left:right]
        above, below = _margin(inner), _margin(inner[::-1])
        before, after = _margin(inner.T), _margin(inner.T[::-1])
        if above + below + before + after == 0:
            return top, bottom, left, right
        top, bottom, left, right = top + above, bottom - below, left + before, right - after
    return None


def _margin(lines: np.ndarray) -> int:
    """Return how many lines from the first are margin, all of one level; none where the picture fades in."""
    level = np.median(lines[0])
    for number, line in enumerate(lines):
        if _share(line, level, MARGIN_LEVELS) > MARGIN_SHARE:
            edge = lines[number : number + EDGE_LINES]
            ends = number and any(_share(line, level, EDGE_LEVELS) > MARGIN_SHARE for line in edge)
            return number + BLURRED_LINES if ends else 0
    return len(lines)


def _share(line: np.ndarray, level: float, levels: int) -> float:
    return float(np.count_nonzero(np.abs(line - level) > levels) / len(line))


@cache
def _basis() -> np.ndarray:
    """Return the first `ORDER` rows of the orthonormal DCT-II of `SIDE` points."""
    k, n = np.arange(ORDER)[:, np.newaxis], np.arange(SIDE)[np.newaxis]
    rows = np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows


def _by_class(cells_YX: np.ndarray) -> np.ndarray:
    """Return the cells in the order of a hash: by the parity of both indices, each class row by row."""
    return np.concatenate([cells_YX[i::2, j::2].ravel() for i in (0, 1) for j in (0, 1)])


def to_bytes(phashes: list[str]) -> np.ndarray:
    """Return hashes as uint8 (n, `HASH_BYTES`)."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), np.uint8).reshape(-1, HASH_BYTES)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return in how many of the `BITS` signs each pair differs, at the best of the sixteen variants.

    Args:
        a, b: uint8 (n, `HASH_BYTES`), pair by pair.
    """
    return np.minimum(_upright(a, b), _upright(a, _transposed(b)))


def _upright(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    apart = (a ^ b).reshape(len(a), 4, CLASS_BYTES).view(np.uint16)
    by_class = np.bitwise_count(apart).sum(axis=2, dtype=np.int64)
    return (by_class @ (1 - 2 * _FLIPS.T) + _CLASS_BITS @ _FLIPS.T).min(axis=1)


def _transposed(hashes: np.ndarray) -> np.ndarray:
    """Return the hashes of the pictures with rows and columns swapped."""
    bits = np.unpackbits(hashes, axis=1).reshape(-1, 4, HALF, HALF)
    return np.packbits(bits[:, (0, 2, 1, 3)].swapaxes(2, 3).reshape(len(hashes), -1), axis=1)


def band_keys(hashes: np.ndarray) -> np.ndarray:
    """Return `BANDS` keys of each hash, int64 (n, `BANDS`), the same for all variants of a picture.

    Two pictures within `MAX_DISTANCE` share at least one with high probability; those that share none are not compared.
    The key of a band is the signs of its cells, each relative to the first cell of its class, so that a class that
    changes its signs as a whole changes nothing; together with those of the cells mirrored at the diagonal, unordered.
    """
    bits = np.unpackbits(hashes, axis=1)
    keys = np.empty((len(hashes), BANDS), np.int64)
    for number, (cells, mirrored) in enumerate(_bands()):
        one, other = _key(bits, cells), _key(bits, mirrored)
        low, high = np.minimum(one, other), np.maximum(one, other)
        keys[:, number] = (number << 2 * BAND_CELLS) | (low << BAND_CELLS) | high
    return keys


def _key(bits: np.ndarray, cells: list[np.ndarray]) -> np.ndarray:
    relative = np.concatenate([bits[:, of_class] ^ bits[:, of_class[:1]] for of_class in cells], axis=1)
    return relative.astype(np.int64) @ (1 << np.arange(relative.shape[1], dtype=np.int64))


@cache
def _bands() -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Return the cells of each band and the same mirrored at the diagonal, class by class, as places in a hash."""
    place = np.empty((ORDER, ORDER), np.int64)
    place.ravel()[_by_class(np.arange(ORDER * ORDER).reshape(ORDER, ORDER))] = np.arange(ORDER * ORDER)
    low = place[:BAND_ORDER, :BAND_ORDER]
    drawn = np.random.Generator(np.random.PCG64(20_240)).random((BANDS, BAND_ORDER, BAND_ORDER))
    bands = []
    for order in drawn:
        order[0, 0] = 2  # the mean's bit is always 0
        chosen = []
        for i in (0, 1):
            for j in (0, 1):
                ranks = np.argsort(order[i::2, j::2].ravel())[: BAND_CELLS // 4]
                half = BAND_ORDER // 2
                chosen.append((2 * (ranks // half) + i, 2 * (ranks % half) + j))
        bands.append(([low[u, v] for u, v in chosen], [low[v, u] for u, v in chosen]))
    return bands
