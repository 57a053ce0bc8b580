"""Example: one training example, a row of turns that refer to media, never a copy of their bytes."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["document", "user", "assistant"]
Box = tuple[int, ...]  # half-open indices of the stored array: (y0, x0, y1, x1) in 2D, (z0, y0, x0, z1, y1, x1) in 3D


@dataclass(frozen=True)
class Part:
    """A piece of a turn: text, or a medium (with the box of it that is meant), never both."""

    text: str = ""
    media: str = ""
    box: Box = ()

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.media):
            raise ValueError("a part is either text or a medium")
        if self.box and (not self.media or len(self.box) not in (4, 6)):
            raise ValueError(f"box {self.box} needs a medium and 4 or 6 indices")


@dataclass(frozen=True)
class Turn:
    """What one side says: `document` for papers, `user` and `assistant` for questions and answers."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Region:
    """A part of a medium that the example speaks of.

    Attributes:
        media: key of the medium.
        layer, value: where its mask stands in `seg.b2nd` of shape (layer, Z, Y, X); -1, -1 without a mask.
        box: half-open indices of the stored array, () when only the mask says where.
        phrase: the words of the text that mean it.
        name, side: its name in our vocabulary and "left", "right" or "".
    """

    media: str
    layer: int = -1
    value: int = -1
    box: Box = ()
    phrase: str = ""
    name: str = ""
    side: str = ""


@dataclass(frozen=True)
class Evidence:
    """The words that an answer rests on: `text == <source text>[start:end]`.

    Attributes:
        where: "caption:<fig_key>", "paragraph:<par_id>" or "header:<unit>".
        start, end: half-open character offsets into that text; 0, 0 for a header.
    """

    where: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        example_id: see `medloom.schemas.keys.example_id`.
        unit, group, split: of the unit it was made from; a group never splits.
        task: kind of example ("caption", "interleaved", "modality", "vqa").
        language: BCP 47 code of its text.
        generator: what made it: a rule's name and version, or a model and its digest.
        source, licence, terms_id: of its text; the terms of its media stand in their index rows.
        turns: what is said, in order.
        regions, labels, evidence, measured: see the classes; measured values by name.
    """

    example_id: str
    unit: str
    group: str
    split: str
    task: str
    language: str
    generator: str
    source: str
    licence: str
    terms_id: str
    turns: tuple[Turn, ...]
    regions: tuple[Region, ...] = ()
    labels: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def media(self) -> tuple[str, ...]:
        """Keys of the media it refers to, in order of first use."""
        keys = [p.media for t in self.turns for p in t.parts if p.media] + [r.media for r in self.regions]
        return tuple(dict.fromkeys(keys))
