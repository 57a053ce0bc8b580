"""Captions: an image and what was written under it, or a scan and its report, word for word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from medloom.pipelines.tasks.rows import Rows, chosen, conversation, language_of
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence, Example

FIGURE_WORDINGS = (
    "Write the caption of this figure.",
    "What does this figure show? Describe it as its authors would.",
    "Describe this figure for a medical reader.",
    "Say in full what can be seen in this figure and how it was obtained.",
    "Give this image the caption it would carry in a journal.",
)
SCAN_WORDINGS = (
    "Write the report of this examination.",
    "Report what you see in this scan.",
    "Describe the findings of this study.",
    "Read this scan and dictate the report.",
)


@dataclass(frozen=True)
class Captions:
    """One row per kept medium that has words of its own: an instruction, then those words, complete and unchanged.

    Attributes:
        report_language: BCP 47 code of the reports of scans, which state none; "und" when not known.
    """

    task: ClassVar[str] = "caption"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    report_language: str = "und"

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give a row per captioned figure medium of a paper, or per medium of a scan that has a report."""
        generator = f"captions:{self.version}"
        if unit.article:
            yield from self._figures(unit, Rows(self, unit, fingerprint, language_of(unit), generator))
        else:
            yield from self._scans(unit, Rows(self, unit, fingerprint, self.report_language, generator))

    def _figures(self, unit: UnitView, rows: Rows) -> Iterator[Example]:
        for figure in unit.figures:
            caption = figure["caption"] or ""
            words = caption.strip()
            if not words:
                continue
            start = len(caption) - len(caption.lstrip())
            evidence = Evidence(f"caption:{figure['fig_key']}", start, start + len(words), words)
            for medium in unit.media_of(figure):
                asked = chosen(FIGURE_WORDINGS, seed=rows.id_of(medium.key))
                turns = conversation([medium.key], asked, words)
                yield rows.example(medium.key, turns=turns, figure=figure, evidence=(evidence,))

    def _scans(self, unit: UnitView, rows: Rows) -> Iterator[Example]:
        for key, medium in unit.media.items():
            words = (unit.series.get("text") or medium.text or "").strip()
            if not words:
                continue
            turns = conversation([key], chosen(SCAN_WORDINGS, seed=rows.id_of(key)), words)
            yield rows.example(key, turns=turns, evidence=(Evidence(f"header:{unit.unit}", 0, 0, words),))
