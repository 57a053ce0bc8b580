"""Mentions → figures: rows of `mention` with the figures and panels meant, how that is known, and how surely."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from medloom.connectors.elsewhere import stands_elsewhere
from medloom.connectors.figures import FigureIndex
from medloom.connectors.inline_text import has_figure_word, names
from medloom.connectors.jats_text import Paragraph
from medloom.connectors.mention_words import SeriesWords, series_words
from medloom.connectors.mentions import CrossReference, Item, Mention, find_mentions
from medloom.connectors.sentences import sentence_spans

# How surely a mention means its figures: a cross-reference says so; a label in the same scope, or in an enclosing one.
_CONFIDENCE = {"rid": 1.0, "rid_multi": 1.0, "range_fill": 0.95, "tail": 0.95, "label_text": 0.8}
_OUTER_LABEL = 0.7
_NOTICES = names("retraction correction expression-of-concern addendum partial-retraction")
_BESIDE = frozenset({"supplementary-material", "media"})


@dataclass(frozen=True)
class Aligner:
    """Aligns the paragraphs of one article.

    Attributes:
        article_key: stands in every row.
        fig_keys: keys of the figures, by their position in `figures`.
        figures: what ids and labels mean.
        notice: the article is about another one (a retraction, a correction), whose figures it names.
        reviews: scopes of reports and decision letters, which may speak of figures of an earlier version.
    """

    article_key: str
    fig_keys: tuple[str, ...]
    figures: FigureIndex
    notice: bool
    reviews: frozenset[str]

    def rows(self, paragraphs: Iterable[Paragraph]) -> list[dict[str, Any]]:
        """Return the rows of `mention`, in reading order."""
        words = series_words(series for _, series, _ in self.figures.labels)
        stems = _stems(words.series) if words else ()
        rows = []
        for paragraph in paragraphs:
            text = paragraph.row["text"]
            # The pattern is tried at every letter: looking for its words first is 20 times faster.
            other = words if any(map(text.__contains__, stems)) else None
            if paragraph.references or has_figure_word(text) or (other and other.search(text)):
                rows += self._of(paragraph, other)
        return rows

    def _of(self, paragraph: Paragraph, words: SeriesWords | None) -> list[dict[str, Any]]:
        row = paragraph.row
        references = [r for r in map(self._typed, paragraph.references) if r.figure or r.kind in _BESIDE]
        mentions = find_mentions(
            row["text"], references=references, figures=self.figures, scope=row["scope_id"],
            in_caption=row["where"] == "caption", other_words=words,
        )  # fmt: skip
        spans = sentence_spans(row["text"]) if mentions else []
        return [self._row(row, mention, spans) for mention in mentions]

    def _typed(self, reference: CrossReference) -> CrossReference:
        """Take a cross-reference of another type to a figure ("scheme", none) for what it is."""
        if not reference.figure and any(self.figures.by_id("", rid) for rid in reference.rids):
            return reference._replace(kind="fig")
        return reference

    def _row(self, paragraph: dict[str, Any], mention: Mention, spans: list[tuple[int, int]]) -> dict[str, Any]:
        scope, text = paragraph["scope_id"], paragraph["text"]
        meant, panels, method, outer = self._meaning(mention, scope)
        status = self._status(mention, meant, method, panels, paragraph)
        if status != "resolved":
            meant, panels = [], {}
        confidence = _OUTER_LABEL if outer and method == "label_text" else _CONFIDENCE[method]
        first = spans[max(0, bisect_right(spans, mention.start, key=itemgetter(0)) - 1)]
        last = spans[min(len(spans) - 1, bisect_left(spans, mention.end, key=itemgetter(1)))]
        return {
            "article_key": self.article_key, "par_id": paragraph["par_id"], "start": mention.start, "end": mention.end,
            "text": text[mention.start : mention.end], "sent_start": first[0], "sent_end": max(last[1], first[1]),
            "fig_keys": [self.fig_keys[p] for p in meant],
            "panels": {self.fig_keys[p]: letters for p, letters in panels.items()},
            "qualifier": mention.qualifier, "method": method,
            "confidence": confidence if status == "resolved" else 0.0, "where": paragraph["where"], "status": status,
        }  # fmt: skip

    def _meaning(self, mention: Mention, scope: str) -> tuple[list[int], dict[int, list[str]], str, bool]:
        """Return (figures, panels by figure, method, whether an enclosing scope had to be asked)."""
        only = self._only(mention, scope)
        if only is not None:
            letters = list(mention.items[0].panels)
            return [only], {only: letters} if letters else {}, "rid", False
        meant: list[int] = []
        panels: dict[int, list[str]] = {}
        outer, used = False, {"rid": 0, "label": 0, "fill": 0}
        for item in mention.items:
            positions, how, near = self._positions(item, mention, scope)
            outer |= not near
            letters = list(item.panels)
            if letters and any(p in self.figures.own_panel for p in positions):
                siblings = self.figures.by_label(scope, item.series, item.number)[0]
                positions = tuple(p for p in siblings if self.figures.own_panel.get(p) in letters) or positions
            used[how] += bool(positions)
            meant += [p for p in positions if p not in meant]
            for p in positions if letters else ():
                own = letters if len(positions) == 1 else [self.figures.own_panel.get(p, "")]
                known = panels.setdefault(p, [])
                known += [letter for letter in own if letter and letter not in known]
        rids = [rid for r in mention.references for rid in r.rids]
        for rid in rids:
            found = self.figures.by_id(scope, rid)
            if not any(p in meant for p in found):
                meant += found
            used["rid"] += bool(found)
        if used["fill"] and rids:
            method = "range_fill"
        elif used["rid"]:
            method = "tail" if used["label"] else "rid_multi" if len(set(rids)) > 1 else "rid"
        else:
            method = "label_text"
        return meant, panels, method, outer

    def _only(self, mention: Mention, scope: str) -> int | None:
        """Return the figure of a mention with one number inside one cross-reference with one id: most are so."""
        if len(mention.items) != 1 or len(mention.references) != 1 or len(mention.references[0].rids) != 1:
            return None
        item, reference = mention.items[0], mention.references[0]
        inside = reference.start <= item.start < reference.end or reference.start == item.start == reference.end
        found = self.figures.by_id(scope, reference.rids[0]) if inside and not item.filled else ()
        return found[0] if len(found) == 1 else None

    def _positions(self, item: Item, mention: Mention, scope: str) -> tuple[tuple[int, ...], str, bool]:
        """Return what one number means: the id of the cross-reference around it, else the label."""
        labelled, near = self.figures.by_label(scope, item.series, item.number)
        if item.filled:
            within = [p for r in mention.references for rid in r.rids for p in self.figures.by_id(scope, rid)]
            return labelled, "rid" if any(p in within for p in labelled) else "fill", near
        around = next(
            (r for r in mention.references if r.start <= item.start < r.end or r.start == item.start == r.end), None
        )
        if around is None:
            return labelled, "label", near
        of_ids = [self.figures.by_id(scope, rid) for rid in around.rids]
        matching = tuple(p for found in of_ids for p in found if p in labelled)
        if matching:
            return matching, "rid", True
        known = [found for found in of_ids if found]
        if (
            known
            and labelled
            and len(mention.items) > 1
            and self._told_by_others(item, around, mention, known[0], scope)
        ):
            return labelled, "label", near
        if len(known) <= 1:
            return (known[0], "rid", True) if known else (labelled, "label", near)
        end = max(around.end, around.start + 1)  # of an empty one, what stands at its place
        inside = [i for i in mention.items if around.start <= i.start < end and not i.filled]
        position = inside.index(item)
        return (known[position], "rid", True) if position < len(known) else ((), "rid", True)

    def _told_by_others(
        self, item: Item, around: CrossReference, mention: Mention, known: tuple[int, ...], scope: str
    ) -> bool:
        """Whether another number in the same cross-reference is the one that its id means ("Figure 2A/9D" → fig2)."""
        others = [i for i in mention.items if i is not item and around.start <= i.start < around.end]
        return any(set(self.figures.by_label(scope, i.series, i.number)[0]) & set(known) for i in others)

    def _status(
        self, mention: Mention, meant: list[int], method: str, panels: dict[int, list[str]], paragraph: dict[str, Any]
    ) -> str:
        if method != "label_text" and meant:
            return "resolved"
        text = paragraph["text"]
        if mention.supplementary and not meant and mention.items[0].number.startswith("S"):
            return "supplementary"
        numbers = [item.number for item in mention.items if item.number]
        elsewhere = stands_elsewhere(text, mention.start, mention.end)
        mixed = bool(meant) and any(n.startswith("S") for n in numbers)  # "Figures 1 and S1 in the Supplement"
        if elsewhere and not (elsewhere == "supplementary" and mixed):
            return elsewhere
        if meant and not (mention.supplementary and any(not n.startswith("S") for n in numbers)):
            if paragraph["scope_id"] in self.reviews and self._stale(panels):
                return "unresolved"
            return "resolved"
        if mention.supplementary or any(re.match("[A-Ze]", number) for number in numbers):
            return "supplementary"
        return "other_article" if self.notice else "unresolved"

    def _stale(self, panels: dict[int, list[str]]) -> bool:
        """Whether a panel is named that the published caption does not declare, though it declares some."""
        declared = {p: self.figures.declared([p]) for p in panels}
        return any(declared[p] and not declared[p].issuperset(letters) for p, letters in panels.items())


def _stems(forms: Iterable[str]) -> tuple[str, ...]:
    """Return beginnings of which one stands in every text that holds one of `forms`, as writers spell them."""
    first = sorted({form.split()[0] for form in forms})
    shortest = [word for word in first if not any(word != other and word.startswith(other) for other in first)]
    return tuple(dict.fromkeys(spelt for word in shortest for spelt in (word, word.capitalize(), word.upper())))


def is_notice(article_type: str) -> bool:
    """Whether an article of this type speaks about another article."""
    return article_type in _NOTICES
