"""Divide: the panels of a compound figure as boxes of the stored picture, each with the letter its caption declares.

Nothing is cropped and no byte changes. A figure whose panels are not sure enough is left whole: a wrong panel teaches a
wrong caption, a missing one costs a figure that is still there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np

from medloom.connectors.figures import declared_panels
from medloom.connectors.images import decode_picture
from medloom.pipelines.stages.ink import Box, Steps, flat, ink_on, luma, scale_of, sheets
from medloom.pipelines.stages.layout import SOLID, SURE, Cutter, Pieces, grown
from medloom.pipelines.stages.lettering import assign, held, place_of, words_axis
from medloom.pipelines.stages.letters import Glyph, read_letters
from medloom.schemas.medium import Medium, PanelBox, Picture

MIN_SIDE_PX = 48  # of a figure that may be divided: below, a panel would have no content
MOST_PANELS = 26
MOST_UNDECLARED = 12  # panels that are looked for where the caption declares none
UNLIKE = 4.0  # largest over smallest area of panels that no caption declares
CERTAIN = 0.85  # confidence from which no other sheet is tried
UNDECLARED = 0.8  # confidence of such panels
UNREAD = 0.8  # where no letter was read and no straight side stands at a gutter
DARK = 64  # of 255: a sheet is dark below
DARK_TRUST = 0.85  # black stands between the organs of one scan as well as between two scans


class Detector(Protocol):
    """A trained detector of panels: a frozen dataclass, whose fields (a version, a digest of its weights) are facts.

    It is importable by name or stands in the recipe's file, so that it travels to workers with the stage.
    """

    def __call__(self, pixels_YXC: np.ndarray) -> Sequence[tuple[Box, float]]:
        """Return half-open boxes (y0, x0, y1, x1) and scores (0 to 1) for uint8 pixels of 1 or 3 channels."""
        ...


@dataclass(frozen=True)
class Divide:
    """Fill `panels` of a figure; other media pass unchanged.

    Attributes:
        threshold: least confidence (0 to 1) of a figure's panels together; below it the figure is left whole.
        detector: finds the boxes instead of the layout; letters are given the same way.
    """

    threshold: float = 0.7
    detector: Detector | None = None
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back, with the boxes of its panels when there are some.

        Raises:
            Refused("image.…"): a picture does not decode.
        """
        if not isinstance(medium.content, Picture) or medium.modality == "label":
            yield medium
            return
        declared = medium.declared or tuple(dict.fromkeys(p.letter for p in declared_panels(medium.text)))
        pixels_YXC = flat(decode_picture(medium.content))
        panels = divide(pixels_YXC, declared, detector=self.detector)
        sure = min((p.confidence for p in panels), default=0.0)
        yield replace(medium, panels=panels if sure >= self.threshold else ())


def divide(
    pixels_YXC: np.ndarray, declared: Sequence[str] = (), *, detector: Detector | None = None
) -> tuple[PanelBox, ...]:
    """Return the likeliest panels in the order declared, however unlikely; () for one picture.

    Args:
        pixels_YXC: uint8 of 1 or 3 channels.
        declared: upper-case letters, or words of place ("left", "top row"), as the caption has them; () when it
            declares none, and then only panels that photographs' straight sides part are told, without letters.
    """
    height, width = pixels_YXC.shape[:2]
    letters = tuple(dict.fromkeys(d for d in declared if len(d) == 1 and d.isalpha()))[:MOST_PANELS]
    words = tuple(dict.fromkeys(d for d in declared if max(place_of(d)) >= 0))
    names = letters if len(letters) > 1 else words if len(words) > 1 else ()
    if min(height, width) < MIN_SIDE_PX:
        return ()
    scale = scale_of(height, width)
    luma_YX = luma(pixels_YXC, scale)
    glyphs = read_letters(luma_YX, letters) if names == letters and names else ()
    if detector is not None:
        found = [(_clipped(box, height, width), float(score)) for box, score in detector(pixels_YXC)]
        return _lettered([f for f in found if f[0] is not None], names, glyphs, (height, width))  # type: ignore[misc]
    figure = _Figure(pixels_YXC, luma_YX, scale, glyphs)
    pieces, sure = figure.named(names) if names else figure.unnamed()
    boxes = [figure.in_pixels(box) for box in pieces.boxes] if pieces else []
    return _lettered([(box, sure) for box in boxes], names, glyphs, (height, width)) if len(boxes) > 1 else ()


@dataclass(frozen=True, eq=False)
class _Figure:
    """A figure on its way to being cut."""

    pixels_YXC: np.ndarray  # noqa: N815
    luma_YX: np.ndarray  # noqa: N815
    scale: int
    glyphs: tuple[Glyph, ...]

    def in_pixels(self, box: Box) -> Box:
        """Return a box of cells in pixels."""
        height, width = self.pixels_YXC.shape[:2]
        y0, x0, y1, x1 = (v * self.scale for v in box)
        return y0, x0, min(y1, height), min(x1, width)

    def _cutters(self, most: int, axis: int, steps: Steps | None) -> Iterator[tuple[Cutter, bool]]:
        """Give a cutter for each sheet that the panels may stand on, and whether that sheet is dark."""
        rows, columns = self.luma_YX.shape
        points = tuple((g.centre[0] * rows, g.centre[1] * columns) for g in self.glyphs)
        for colour in sheets(self.pixels_YXC):
            ink = ink_on(self.pixels_YXC, colour, self.scale)
            yield Cutter(ink, steps, most, points, axis), bool(colour) and max(colour) < DARK

    def named(self, names: Sequence[str]) -> tuple[Pieces | None, float]:
        """Return the best cut into as many pieces as there are names, and how sure it is (0 to 1)."""
        letters = all(len(name) == 1 for name in names)
        axis = -1 if letters else words_axis(names)
        best: tuple[Pieces | None, float] = (None, 0.0)
        for cutter, dark in self._cutters(len(names), axis, Steps(self.pixels_YXC, self.scale)):
            if best[1] >= CERTAIN:
                break
            found = cutter.cut()
            if len(names) not in found:
                continue
            pieces = found[len(names)]
            sure = self._sureness(pieces, cutter.rivals.get(len(names), []), letters) * (DARK_TRUST if dark else 1.0)
            if dark and pieces.weakest < SURE:
                pieces = replace(pieces, boxes=tuple(grown(pieces.boxes, cutter.ink.box)))
            if sure > best[1]:
                best = pieces, sure
        return best

    def _sureness(self, pieces: Pieces, rivals: list[Pieces], lettered: bool) -> float:
        """Return how likely the pieces are the panels, 0 to 1: gutters cut and left, letters read, no rival.

        Panels that words of place name have no letter to be read, and may be made of several pictures.
        """
        cells = self.luma_YX.shape
        seen = held(pieces.boxes, self.glyphs, (cells[0], cells[1]))
        read = sum(len(s) == 1 for s in seen) / len(seen)
        crowded = sum(len(s) > 1 for s in seen)
        areas = sorted((b[2] - b[0]) * (b[3] - b[1]) for b in pieces.boxes)
        sure = 0.45 + 0.55 * pieces.weakest
        if lettered:
            sure -= 0.7 * max(0.0, pieces.left - 0.6 * pieces.weakest)
            sure *= UNREAD if not read and pieces.weakest < SURE else 1.0
        sure -= 0.25 * (areas[0] * 8 < areas[-1])
        rivalled = any(r.cost < pieces.cost + 0.25 and not _alike(r.boxes, pieces.boxes) for r in rivals)
        sure -= 0.3 * rivalled
        sure += (1 - sure) * 0.7 * read**2
        sure -= 0.25 * min(2, crowded)
        return float(np.clip(sure, 0.0, 0.99))

    def unnamed(self) -> tuple[Pieces | None, float]:
        """Return the finest cut along gutters that nobody could doubt, and how sure it is."""
        for cutter, dark in islice(self._cutters(MOST_UNDECLARED, -1, None), 1):
            for count, pieces in sorted(cutter.cut().items(), reverse=True):
                areas = sorted((b[2] - b[0]) * (b[3] - b[1]) for b in pieces.boxes)
                certain = count > 1 and pieces.weakest >= SURE and pieces.left < 0.5
                solid = all(cutter.ink.share(box) >= SOLID for box in pieces.boxes)
                if certain and solid and areas[-1] <= UNLIKE * areas[0]:
                    return pieces, UNDECLARED * (DARK_TRUST if dark else 1.0)
        return None, 0.0


def _lettered(
    found: Sequence[tuple[Box, float]], names: Sequence[str], glyphs: Sequence[Glyph], size: tuple[int, int]
) -> tuple[PanelBox, ...]:
    """Return boxes with scores as panels in the order declared; of another number, only with letters that were read."""
    boxes = [box for box, _ in found]
    if not names:
        return tuple(PanelBox("", box, round(score, 3)) for box, score in found)
    seen = held(boxes, glyphs, size)
    if len(boxes) != len(names):  # then a letter is told only where it was read
        told = [s[0] if len(s) == 1 else "" for s in seen]
        return tuple(PanelBox(name, b, round(0.5 * score, 3)) for name, (b, score) in zip(told, found, strict=True))
    ordered = sorted(names, key=place_of) if max(map(len, names)) > 1 else list(names)
    letters, sure = assign(boxes, ordered, seen)
    panels = [
        PanelBox(letter, box, round(score * sure, 3)) for letter, (box, score) in zip(letters, found, strict=True)
    ]
    return tuple(sorted(panels, key=lambda p: list(names).index(p.letter)))


def _clipped(box: Box, height: int, width: int) -> Box | None:
    y0, x0, y1, x1 = max(0, int(box[0])), max(0, int(box[1])), min(height, int(box[2])), min(width, int(box[3]))
    return (y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


def _alike(some: Sequence[Box], others: Sequence[Box]) -> bool:
    """Whether each box of `some` has one of `others` in much the same place."""
    return all(any(overlap(a, b) > 0.75 for b in others) for a in some)


def overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share over the area that either covers (0 to 1)."""
    high, wide = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, high) * max(0, wide)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
