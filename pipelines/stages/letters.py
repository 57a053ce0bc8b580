"""Letters: the single letters that stand in a figure and name its panels, read by their shape.

Only what stands alone is looked at, dark on light or light on dark, and only letters that the caption declares are
told: it is evidence for a layout, never a reading of the figure.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from medloom.pipelines.stages.ink import Box

READ_SIDE_PX = 900  # longest side at which letters are read
LEAST_PX, MOST_SHARE = 7, 0.09  # height of a letter: in pixels read, and of the figure's longest side
DARK, LIGHT = 110, 190  # luminance of a letter's strokes, dark on light or light on dark
MAX_RUNS = 60_000  # of strokes; a picture with more is texture from side to side
MAX_PIECES = 900  # of the size of letters; a figure with more is a dot plot, or text all over
REACH = 0.22  # of a letter's height: what stands nearer beside it is of the same word
GRID = 16  # side on which shapes are compared
ALIKE = 0.6  # least correlation of a letter with its own shape
SAME_SIZE = 1.2  # between the letters of one figure
IN_ORDER = 0.6  # share of the letters read that must stand in order
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Glyph:
    """A letter that was read: upper-case, its half-open box as shares of the figure's sides, how alike it is."""

    letter: str
    box: tuple[float, float, float, float]
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x), shares of the figure's sides."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def read_letters(luma_YX: np.ndarray, declared: tuple[str, ...]) -> tuple[Glyph, ...]:
    """Return at most one glyph for each of the `declared` letters, all of one size and case.

    Args:
        luma_YX: uint8 luminance of the figure; it is reduced to `READ_SIDE_PX` first.
    """
    wanted = {d for d in declared if len(d) == 1 and d.isalpha()}
    if not wanted or min(luma_YX.shape) < 4 * LEAST_PX:
        return ()
    small_YX = _reduced(luma_YX)
    found: list[tuple[str, float, Box, float]] = []  # as printed, size of its type, box, score
    for strokes in (small_YX < DARK, small_YX > LIGHT):
        boxes = _alone(_components(strokes), small_YX.shape)
        found += _recognised(strokes, boxes, wanted)
    height, width = small_YX.shape
    best = _of_one_size(found)
    glyphs = [
        Glyph(text.upper(), (box[0] / height, box[1] / width, box[2] / height, box[3] / width), score)
        for text, (box, score) in sorted(best.items())
    ]
    return _in_order(glyphs)


def _reduced(luma_YX: np.ndarray) -> np.ndarray:
    from PIL import Image

    factor = READ_SIDE_PX / max(luma_YX.shape)
    if factor >= 1:
        return luma_YX
    size = max(1, round(luma_YX.shape[1] * factor)), max(1, round(luma_YX.shape[0] * factor))
    return np.asarray(Image.fromarray(luma_YX).resize(size, Image.Resampling.BOX))


def _components(mask_YX: np.ndarray) -> np.ndarray:
    """Return (N, 5) int64 of y0, x0, y1, x1, area: the pieces of `mask_YX` that hang together, diagonals included."""
    height, width = mask_YX.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask_YX
    changes = np.flatnonzero(np.diff(padded.ravel()))
    starts, ends = changes[::2], changes[1::2]  # runs of strokes; places in rows of width + 2, `ends` half-open
    if not 0 < len(starts) <= MAX_RUNS:
        return np.zeros((0, 5), np.int64)
    row_length = width + 2
    first = np.searchsorted(ends, starts + row_length, side="left")  # runs of the next row that touch this one
    last = np.searchsorted(starts, ends + row_length, side="right")
    counts = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    label = _lowest(len(starts), above, below)
    rows, lefts, rights = starts // row_length, starts % row_length, ends % row_length
    _, label = np.unique(label, return_inverse=True)
    count = int(label.max()) + 1
    boxes = np.zeros((count, 5), np.int64)
    boxes[:, :2] = max(height, width)
    np.minimum.at(boxes[:, 0], label, rows)
    np.minimum.at(boxes[:, 1], label, lefts)
    np.maximum.at(boxes[:, 2], label, rows + 1)
    np.maximum.at(boxes[:, 3], label, rights)
    boxes[:, 4] = np.bincount(label, weights=ends - starts, minlength=count)
    return boxes


def _lowest(count: int, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return for each of `count` nodes the lowest node that its edges (`above`, `below`) lead to."""
    label = np.arange(count)
    while True:
        least = np.minimum(label[above], label[below])
        after = label.copy()
        np.minimum.at(after, label[above], least)
        np.minimum.at(after, label[below], least)
        while True:
            jumped = after[after]
            if np.array_equal(jumped, after):
                break
            after = jumped
        if np.array_equal(after, label):
            return label
        label = after


def _alone(pieces: np.ndarray, shape: tuple[int, int]) -> list[Box]:
    """Return the boxes that may be a letter by size and by having no neighbour in a word, but for brackets."""
    if not len(pieces):
        return []
    heights, widths = pieces[:, 2] - pieces[:, 0], pieces[:, 3] - pieces[:, 1]
    fits = (heights >= LEAST_PX) & (heights <= MOST_SHARE * max(shape)) & (widths <= 1.4 * heights)
    fits &= (widths >= 0.15 * heights) & (pieces[:, 4] >= 0.12 * heights * widths)
    sized = pieces[fits]
    if len(sized) > MAX_PIECES:
        return []
    y0, x0, y1, x1 = (sized[:, n].astype(np.int32) for n in range(4))
    tall, wide = y1 - y0, x1 - x0
    over = np.minimum(y1[:, None], y1[None]) - np.maximum(y0[:, None], y0[None])
    in_line = 2 * over > np.minimum(tall[:, None], tall[None])  # [i, j]: j stands in the line of i
    in_line &= (tall[None] > 0.45 * tall[:, None]) & (tall[None] < 2.2 * tall[:, None])
    np.fill_diagonal(in_line, val=False)
    reach = (REACH * tall)[:, None]
    after = in_line & (x0[None] >= x1[:, None] - 1) & (x0[None] - x1[:, None] < reach)
    before = in_line & (x1[None] <= x0[:, None] + 1) & (x0[:, None] - x1[None] < reach)
    bracket = (2 * wide < tall)[None] & (tall[None] > 1.05 * tall[:, None])
    inner = bracket & ~after.any(axis=1)[None], bracket & ~before.any(axis=1)[None]
    alone = ~(after & ~inner[0]).any(axis=1) & ~(before & ~inner[1]).any(axis=1)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d, _ in sized[alone].tolist()]


def _recognised(mask_YX: np.ndarray, boxes: list[Box], wanted: set[str]) -> list[tuple[str, float, Box, float]]:
    """Return what is most like one of the wanted letters, with the size of type that its height says."""
    if not boxes:
        return []
    names, shapes, heights, aspects = _templates()
    seen = _on_grid([mask_YX[y0:y1, x0:x1] for y0, x0, y1, x1 in boxes])
    alike = seen @ shapes.T
    ratio = np.array([(x1 - x0) / (y1 - y0) for y0, x0, y1, x1 in boxes])
    alike -= 0.35 * np.abs(np.log(ratio[:, None] / aspects[None, :]))
    found = []
    for box, scores in zip(boxes, alike, strict=True):
        ceiling = float(scores.max())
        for number in np.flatnonzero((scores >= ALIKE) & (scores >= ceiling - 0.03)).tolist():
            name = names[number]
            if name.upper() in wanted:
                found.append((name, (box[2] - box[0]) / heights[number], box, float(scores[number])))
    return found


def _of_one_size(found: list[tuple[str, float, Box, float]]) -> dict[str, tuple[Box, float]]:
    """Return the best box of each letter, among those of the case and size that tell the most letters."""
    best: dict[str, tuple[Box, float]] = {}
    for upper in (True, False):
        cased = [f for f in found if f[0].isupper() == upper]
        for _, size, _, _ in cased:
            told: dict[str, tuple[Box, float]] = {}
            for name, other, box, score in cased:
                if size <= other <= size * SAME_SIZE and (name not in told or score > told[name][1]):
                    told[name] = box, score
            if (len(told), sum(s for _, s in told.values())) > (len(best), sum(s for _, s in best.values())):
                best = told
    return best if len(best) > 1 else {}  # one alone is as likely a word, or noise


def _in_order(glyphs: list[Glyph]) -> tuple[Glyph, ...]:
    """Return the glyphs that stand as letters are read, none before an earlier one; () when too many do not."""
    kept = list(glyphs)
    while kept:
        wrong = [sum(_reversed(a, b) or _reversed(b, a) for b in kept) for a in kept]
        if not any(wrong):
            break
        kept.pop(wrong.index(max(wrong)))
    return tuple(kept) if len(kept) > max(1, IN_ORDER * len(glyphs)) else ()


def _reversed(one: Glyph, other: Glyph) -> bool:
    """Whether `other`, a later letter, stands before `one`: left of it and not below, or above it and not right."""
    if other.letter <= one.letter:
        return False
    tall, wide = one.box[2] - one.box[0], one.box[3] - one.box[1]
    down, right = other.centre[0] - one.centre[0], other.centre[1] - one.centre[1]
    return (right < -wide and down < tall) or (down < -tall and right < wide)


def _on_grid(masks: list[np.ndarray]) -> np.ndarray:
    """Return shapes (Y, X) on the grid, as rows of mean 0 and length 1."""
    from PIL import Image

    cells = np.zeros((len(masks), GRID + 2, GRID + 2), np.float32)
    for number, mask_YX in enumerate(masks):
        image = Image.fromarray(mask_YX.view(np.uint8) * np.uint8(255)).resize((GRID, GRID), Image.Resampling.BOX)
        cells[number, 1:-1, 1:-1] = np.asarray(image)
    cells = cells[:, :-2] + 2 * cells[:, 1:-1] + cells[:, 2:]  # a stroke a cell aside is still much the same stroke
    rows = (cells[:, :, :-2] + 2 * cells[:, :, 1:-1] + cells[:, :, 2:]).reshape(len(masks), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@cache
def _templates() -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return names, shapes, heights (of a type of size 1) and aspects of letters and digits, plain, bold and italic."""
    from PIL import Image, ImageDraw, ImageFont

    size, names, shapes, heights, aspects = 64, [], [], [], []
    font = ImageFont.load_default(size)
    for name in ALPHABET:
        for stroke, lean in ((0, 0.0), (2, 0.0), (4, 0.0), (2, 0.25)):
            image = Image.new("L", (2 * size, 2 * size))
            ImageDraw.Draw(image).text((size // 2, size // 4), name, fill=255, font=font, stroke_width=stroke)
            image = image.transform(image.size, Image.Transform.AFFINE, (1, lean, -lean * size, 0, 1, 0))
            mask = np.asarray(image) > 127
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            names.append(name)
            shapes.append(cut)
            heights.append(cut.shape[0] / size)
            aspects.append(cut.shape[1] / cut.shape[0])
    return names, _on_grid(shapes), np.array(heights), np.array(aspects)
