"""UnitView: what a task sees of one unit: its rows and the media that were kept, never pixels; stages and tasks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example
from medloom.schemas.medium import Medium, PanelBox, Region


@dataclass(frozen=True)
class MediumView:
    """What the index says of one kept medium: of a volume with masks also its classes (`regions`), the names that were
    labelled at all, and its affine, (x, y, z) to LPS mm, 16 numbers row by row.
    """

    key: str
    layout: str
    modality: str
    body_part: str
    plane: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    terms_id: str
    text: str = ""
    panels: tuple[PanelBox, ...] = ()
    regions: tuple[Region, ...] = ()
    labelled: tuple[str, ...] = ()
    affine: tuple[float, ...] = ()
    units: str = ""
    face: str = ""


@dataclass(frozen=True)
class UnitView:
    """One unit with its group, split, tables' rows (columns as in `medloom.schemas.tables`) and kept media.

    Attributes:
        article: row of `article`, {} for a scan.
        sections, paragraphs, figures, mentions: rows in the order of the paper; () for a scan.
        series: row of `series`, {} for a paper.
        findings: rows of `finding`: what the source's table says of the unit's images.
        media: kept media by key; a figure whose bytes were refused is not here.
    """

    unit: str
    source: str
    group: str
    split: str
    licence: str
    terms_id: str
    article: dict[str, Any] = field(default_factory=dict)
    sections: tuple[dict[str, Any], ...] = ()
    paragraphs: tuple[dict[str, Any], ...] = ()
    figures: tuple[dict[str, Any], ...] = ()
    mentions: tuple[dict[str, Any], ...] = ()
    series: dict[str, Any] = field(default_factory=dict)
    findings: tuple[dict[str, Any], ...] = ()
    media: dict[str, MediumView] = field(default_factory=dict)

    def media_of(self, figure: dict[str, Any]) -> tuple[MediumView, ...]:
        """The kept media of a row of `figure`, in its order, each once (its thumbnail and copies share its key)."""
        keys = dict.fromkeys(m["key"] for m in figure["media"])
        return tuple(self.media[key] for key in keys if key in self.media)


class Stage(Protocol):
    """What is done to a medium: a frozen dataclass with a version, from one medium to zero or more, or `Refused`."""

    @property
    def version(self) -> str:
        """Changes when equal inputs would give other bytes."""
        ...

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the media made of one."""
        ...


class Task(Protocol):
    """A kind of example: a frozen dataclass whose fields and version decide its rows."""

    @property
    def task(self) -> str:
        """Name of the task, `[a-z0-9_]+`; the folder of its rows."""
        ...

    @property
    def version(self) -> str:
        """Changes when equal inputs would give other rows."""
        ...

    @property
    def asks(self) -> bool:
        """Whether it needs a language model."""
        ...

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the examples of one unit and what was refused, in a fixed order, ids from `fingerprint`."""
        ...
