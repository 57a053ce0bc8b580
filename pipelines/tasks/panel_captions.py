"""Panel captions: a panel of a compound figure, as a box of the whole, and what its caption says of that panel alone.

The whole figure with its whole caption is another task's row (`medloom.pipelines.tasks.captions`), whose id must not
change with this one. What the caption says before its first panel stands in the question: it is true of the figure, and
cannot be seen in the panel.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from medloom.pipelines.tasks.rows import Rows, chosen, language_of
from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence, Example, Part, Turn
from medloom.schemas.medium import PanelBox

WORDINGS = (
    "Write what the caption says of this panel.",
    "What does this panel show? Describe it as its authors would.",
    "Describe this panel of the figure for a medical reader.",
    "Caption this part of the figure.",
)
LEAST_WORDS = 3  # of a panel's part of the caption
_MARKER = re.compile(r"[(\[]?\s*[A-Za-z](?:\s?(?:[-–—,&/]|and|to)\s?[(\[]?[A-Za-z])*\s?[)\]]?\s*[.,:;)–—-]?\s+")
_CLAUSE_ENDS = frozenset(".;:,!?)\n")


@dataclass(frozen=True)
class PanelCaptions:
    """One row per panel of a divided figure that has a letter and words of its own.

    Letters that share their words ("(A, B) Before and after") make one row with a box each. A caption whose letters
    follow what they name ("the liver (A) and the spleen (B)") cannot be cut at them, so its figure gives no row.

    Attributes:
        confidence: least confidence of a panel's box, 0 to 1.
    """

    task: ClassVar[str] = "panel_caption"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    confidence: float = 0.7

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a paper's divided figures; a scan has none."""
        if not unit.article:
            return
        rows = Rows(self, unit, fingerprint, language_of(unit), f"panel_captions:{self.version}")
        for figure in unit.figures:
            for medium in unit.media_of(figure):
                boxes = {p.letter: p for p in medium.panels if p.letter and p.confidence >= self.confidence}
                if not boxes:
                    continue
                if not begins_clauses(figure):
                    detail = "its letters follow what they name, or have no words of their own"
                    yield rows.refusal(medium.key, "panel_caption.fragments", detail)
                    continue
                yield from self._panels(rows, figure, medium, boxes)

    def _panels(
        self, rows: Rows, figure: dict[str, Any], medium: MediumView, boxes: dict[str, PanelBox]
    ) -> Iterator[Example]:
        caption = figure["caption"]
        before = caption[: min(p["start"] for p in figure["panels"])].strip()
        for (start, end), letters in spans(figure).items():
            if not all(letter in boxes for letter in letters):
                continue
            start += _marker_length(caption[start:end])
            words = caption[start:end].rstrip()
            ordinal = f"{medium.key}|{'+'.join(letters)}"
            asked = chosen(WORDINGS, seed=rows.id_of(ordinal))
            shown = tuple(Part(media=medium.key, box=boxes[letter].box) for letter in letters)
            question = Part(text=f"{before}\n{asked}" if before else asked)
            yield rows.example(
                ordinal,
                turns=(Turn("user", (*shown, question)), Turn("assistant", (Part(text=words),))),
                figure=figure,
                evidence=(Evidence(f"caption:{figure['fig_key']}", start, start + len(words), words),),
                measured={"panel_confidence": min(boxes[letter].confidence for letter in letters)},
            )


def spans(figure: dict[str, Any]) -> dict[tuple[int, int], tuple[str, ...]]:
    """Return the letters that a figure's caption declares, by the half-open span of their words, in its order."""
    found: dict[tuple[int, int], tuple[str, ...]] = {}
    for panel in figure["panels"]:
        span = panel["start"], panel["end"]
        found[span] = (*found.get(span, ()), panel["letter"])
    return found


def begins_clauses(figure: dict[str, Any]) -> bool:
    """Whether each panel's letter begins a clause of the caption and has `LEAST_WORDS` words behind it."""
    caption = figure["caption"]
    for start, end in spans(figure):
        before = caption[:start].rstrip(" ")
        words = caption[start + _marker_length(caption[start:end]) : end].split()
        if (before and before[-1] not in _CLAUSE_ENDS) or len(words) < LEAST_WORDS:
            return False
    return True


def _marker_length(text: str) -> int:
    """Return how many characters of `text`, a panel's words, are its letter and what sets that off."""
    match = _MARKER.match(text)
    return match.end() if match else 0
