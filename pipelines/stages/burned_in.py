"""Burned-in text: names, dates and numbers that stand in pixels are covered, or the medium is refused."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from medloom.connectors.images import decode_picture, encode_png
from medloom.connectors.ocr import TextBox, engine, text_boxes
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.volume import Volume

Policy = Literal["mask", "quarantine", "off"]
UNREAD = ("figure", "label")  # modalities that were published as they are
NOT_LOOKED_FOR = -1.0

# What technologists put beside the anatomy on a film; it names nobody and a model should see it.
MARKERS = frozenset({
    "l", "r", "left", "right", "lt", "rt", "ap", "pa", "lat", "lateral", "obl", "oblique", "decub", "decubitus",
    "erect", "upright", "supine", "prone", "sitting", "standing", "portable", "mobile", "semi", "semierect", "insp",
    "inspiration", "exp", "expiration", "flexion", "extension", "weight", "bearing", "cc", "mlo", "lcc", "rcc", "lmlo",
    "rmlo", "lm", "ml", "xccl",
})  # fmt: skip
MARKER_READ = 0.8  # confidence from which a marker is believed to be one
LONE = 3  # single characters from which they are writing; one or two are what a reader sees in bones
ALIKE = 2  # largest over smallest height of letters that belong together
PASSES = 3
MOST_COVERED = 0.5  # share of a picture: above, it is a page and not an image
EDGE_PX, EDGE_SHARE = 3, 0.2  # by how much a box is widened, at least and of its height: letters reach out of it
RING_PX = 4  # around a box, whose median fills it
PERCENTILES = (1.0, 99.0)  # of a slice, shown as black and white


@dataclass(frozen=True)
class BurnedInText:
    """Cover text in pictures ("mask"), or refuse what has some ("quarantine"); "off" looks for none.

    Pictures are always looked at, but for figures of papers, which were published as they are. Volumes are looked at
    where the header says that they were drawn from other images; they are refused, since text stands in every slice.
    `measured["text_boxes"]` is how many places were covered, -1 where none was looked for. Nothing is proved by it:
    what a reader misses stays.

    Attributes:
        reader: what finds the text, with its versions.

    Raises:
        ConfigError: the reader is not installed.
    """

    policy: Policy = "mask"
    reader: str = field(default="", init=False)
    version: str = "1"

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"burned-in text can be {', '.join(get_args(Policy))}, not {self.policy!r}")
        object.__setattr__(self, "reader", "" if self.policy == "off" else engine())

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back, without text where it is a picture.

        Raises:
            Refused("pixels.text"): it holds text, and the policy or its kind forbids to cover it.
            Refused("pixels.stated_text"): the header says that names stand in its pixels, and no text was covered.
        """
        if self.policy == "off" or medium.modality in UNREAD:
            yield _counted(medium, NOT_LOOKED_FOR)
        elif isinstance(medium.content, Picture):
            yield self._picture(medium, medium.content)
        else:
            _refuse_volume(medium, medium.content)
            yield _counted(medium, 0.0 if "derived" in medium.stated else NOT_LOOKED_FOR)

    def _picture(self, medium: Medium, picture: Picture) -> Medium:
        pixels_YXC = decode_picture(picture)
        found = writing(text_boxes(pixels_YXC))
        if found and self.policy == "quarantine":
            raise Refused("pixels.text", f"{len(found)} places hold text that is no marker")
        if not found:
            if "burned_in" in medium.stated:
                raise Refused("pixels.stated_text", "the header says that names stand in the pixels; none was found")
            return _counted(medium, 0.0)
        clean_YXC, count = covered(pixels_YXC, found)
        done = (*medium.transforms, f"mask-text({count})")
        return _counted(replace(medium, content=encode_png(clean_YXC), transforms=done), float(count))


def _counted(medium: Medium, count: float) -> Medium:
    return replace(medium, measured={**medium.measured, "text_boxes": count})


def writing(boxes: Sequence[TextBox]) -> list[TextBox]:
    """Return the boxes to cover, none where nothing is written.

    A box with two letters or figures is writing, unless it is a marker (`MARKERS`). A single character is writing where
    words of about its size stand, or `LONE` such characters: a body's outline is often read as one large O.
    """
    others = [box for box in boxes if not _is_marker(box)]
    words = [box for box in others if _length(box) >= 2]
    lone = sorted((box for box in others if _length(box) < 2), key=_height)
    largest = max(map(_height, words)) if words else _height(lone[0]) if lone else 0
    lone = [box for box in lone if _height(box) <= ALIKE * largest]
    return words + lone if words or sum(map(_length, lone)) >= LONE else []


def _length(box: TextBox) -> int:
    return sum(character.isalnum() for character in box.text)


def _height(box: TextBox) -> int:
    return min(box.box[2] - box.box[0], box.box[3] - box.box[1])


def _is_marker(box: TextBox) -> bool:
    words = re.findall(r"[^\W_]+", box.text.lower())
    return bool(words) and box.confidence >= MARKER_READ and all(word in MARKERS for word in words)


def covered(pixels_YXC: np.ndarray, found: list[TextBox]) -> tuple[np.ndarray, int]:
    """Return the pixels without text, looked at again until no text is left, and how many places were covered.

    Raises:
        Refused("pixels.text"): it is a page of text, or some is found however often it is covered.
    """
    clean, count = pixels_YXC.copy(), 0
    hidden = np.zeros(clean.shape[:2], bool)
    for _ in range(PASSES):
        count += len(found)
        for box in found:
            hidden[_widened(box.box, clean.shape)] = True
        if hidden.mean() > MOST_COVERED:
            raise Refused("pixels.text", f"text covers more than {MOST_COVERED:.0%} of it: a page, not an image")
        for box in found:
            _fill(clean, hidden, box)
        found = writing(text_boxes(clean))
        if not found:
            return clean, count
    raise Refused("pixels.text", f"text is still found after it was covered {PASSES} times")


def _widened(box: tuple[int, int, int, int], shape: tuple[int, ...], more_px: int = 0) -> tuple[slice, slice]:
    y0, x0, y1, x1 = box
    edge = max(EDGE_PX, round(EDGE_SHARE * min(y1 - y0, x1 - x0))) + more_px
    return slice(max(0, y0 - edge), min(shape[0], y1 + edge)), slice(max(0, x0 - edge), min(shape[1], x1 + edge))


def _fill(pixels_YXC: np.ndarray, hidden: np.ndarray, box: TextBox) -> None:
    """Fill a place with the median of what surrounds it and is no text itself, in place."""
    around = _widened(box.box, pixels_YXC.shape, RING_PX)
    ground = pixels_YXC[around][~hidden[around]]
    colour = np.median(ground, axis=0) if len(ground) else np.zeros(pixels_YXC.shape[2])
    pixels_YXC[_widened(box.box, pixels_YXC.shape)] = colour.astype(np.uint8)


def _refuse_volume(medium: Medium, volume: Volume) -> None:
    if "burned_in" in medium.stated:
        raise Refused("pixels.stated_text", "the header says that names stand in the pixels of a volume")
    if "derived" in medium.stated and any(writing(text_boxes(view)) for view in _views(volume)):
        raise Refused("pixels.text", "text stands in slices of a volume")


def _views(volume: Volume) -> Iterator[np.ndarray]:
    """Give the first, the middle and the last slice and what is brightest along all of them, as uint8 (Y, X, 1)."""
    slices = volume.array
    for number in sorted({0, len(slices) // 2, len(slices) - 1}):
        yield _shown(slices[number])
    if len(slices) > 1:
        yield _shown(slices.max(axis=0))


def _shown(plane_YX: np.ndarray) -> np.ndarray:
    plane = np.nan_to_num(plane_YX.astype(np.float64))
    low, high = np.percentile(plane, PERCENTILES)
    if high <= low:  # text alone on an even ground
        low, high = plane.min(), plane.max()
    shares = np.clip((plane - low) / max(high - low, 1e-9), 0, 1)
    return np.rint(shares * 255).astype(np.uint8)[:, :, np.newaxis]
