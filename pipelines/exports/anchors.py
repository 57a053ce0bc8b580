"""Anchors: a text as spans of an article's own texts, and back; what stands nowhere in the article stays text.

A piece is `{"where", "start", "end", "sha256"}` (half-open characters of a paragraph or caption, 16 hex digits of the
sha256 of what stands there) or `{"text"}`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medloom.pipelines.unit import UnitView
from medloom.schemas.errors import Refused
from medloom.schemas.keys import sha256_hex

RUN_WORDS = 3  # a run of so many words of the article is never written out
_WORD = re.compile(r"\w+")
Piece = dict[str, Any]


@dataclass
class Anchors:
    """The texts of one article by name: "caption:<fig_key>", "paragraph:<par_id>"."""

    texts: Mapping[str, str]
    _runs: dict[tuple[str, ...], list[tuple[str, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, view: UnitView) -> "Anchors":
        """Return those of a unit's tables."""
        return cls.of_rows(view.figures, view.paragraphs)

    @classmethod
    def of_rows(cls, figures: Any, paragraphs: Any) -> "Anchors":
        """Return those of rows of `figure` and `paragraph`."""
        captions = {f"caption:{row['fig_key']}": row["caption"] or "" for row in figures}
        return cls({**captions, **{f"paragraph:{row['par_id']}": row["text"] for row in paragraphs}})

    def pieces(self, text: str) -> list[Piece]:
        """Return `text` in pieces: runs of at least `RUN_WORDS` words of the article as spans, longest first found.

        A text that as a whole stands in the article is one span, however short.
        """
        for where, known in self.texts.items() if text.strip() else ():
            at = known.find(text) if len(known) >= len(text) > 0 else -1
            if at >= 0:
                return [self.span(where, at, at + len(text))]
        if not self._runs:
            self._fill()
        found: list[Piece] = []
        done, words = 0, list(_WORD.finditer(text))
        i = 0
        while i <= len(words) - RUN_WORDS:
            best = self._longest(text, done, words, i)
            if best is None:
                i += 1
                continue
            where, start, at, size = best
            if start > done:
                found.append({"text": text[done:start]})
            found.append(self.span(where, at, at + size))
            done = start + size
            while i < len(words) and words[i].start() < done:
                i += 1
        if done < len(text):
            found.append({"text": text[done:]})
        return found

    def span(self, where: str, start: int, end: int) -> Piece:
        """Return the piece that names a span."""
        return {"where": where, "start": start, "end": end, "sha256": _digest(self.texts[where][start:end])}

    def _fill(self) -> None:
        for where, text in self.texts.items():
            words = list(_WORD.finditer(text))
            for i in range(len(words) - RUN_WORDS + 1):
                run = tuple(w[0] for w in words[i : i + RUN_WORDS])
                self._runs.setdefault(run, []).append((where, words[i].start()))

    def _longest(self, text: str, done: int, words: list[re.Match[str]], i: int) -> tuple[str, int, int, int] | None:
        """Return (where, start in `text`, start there, length) of the longest run from word i on, None for none."""
        best: tuple[str, int, int, int] | None = None
        for where, at in self._runs.get(tuple(w[0] for w in words[i : i + RUN_WORDS]), ()):
            known, start = self.texts[where], words[i].start()
            size = _common(text, start, known, at)
            while start > done and at > 0 and text[start - 1] == known[at - 1]:
                start, at, size = start - 1, at - 1, size + 1
            if size >= words[i + RUN_WORDS - 1].end() - words[i].start() and (best is None or size > best[3]):
                best = where, start, at, size
        return best

    def text(self, pieces: list[Piece]) -> str:
        """Return the text of pieces.

        Raises:
            Refused("text.missing"): the article has no such paragraph or caption.
            Refused("text.digest"): something else stands there.
        """
        return "".join(str(piece["text"]) if "text" in piece else self._read(piece) for piece in pieces)

    def _read(self, piece: Piece) -> str:
        where, start, end = str(piece["where"]), int(piece["start"]), int(piece["end"])
        if where not in self.texts:
            raise Refused("text.missing", f"the copy of the article has no {where}")
        found = self.texts[where][start:end] if 0 <= start <= end else ""
        if _digest(found) != piece["sha256"]:
            raise Refused("text.digest", f"other words stand in {where} [{start}:{end}] of the copy of the article")
        return found


def _common(text: str, start: int, known: str, at: int) -> int:
    """Return how many characters are the same from `start` on in one text and from `at` on in another."""
    size, step, most = 0, 64, min(len(text) - start, len(known) - at)
    while step := min(step, most - size):
        if text[start + size : start + size + step] == known[at + size : at + size + step]:
            size, step = size + step, step * 2
        else:
            step //= 2
    return size


def _digest(text: str) -> str:
    return sha256_hex(text)[:16]
