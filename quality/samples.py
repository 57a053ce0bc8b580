"""Samples: which media and examples a curator is shown, always the same ones, and how each looks on a page."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.quality.checks import content_field
from medloom.quality.facts import Facts
from medloom.schemas.errors import FormatError

THUMB_HEIGHT_PX, THUMB_WIDTH_PX = 160, 480  # a volume's thumb.jpg holds three planes side by side
THUMB_QUALITY = 80
CAPTION_CHARACTERS = 260
TURN_CHARACTERS = 900
CONTEXT_CHARACTERS = 140  # before and after the evidence
MEDIA_OF_EXAMPLE = 3
READ = ["key", "field", "layout", "offset", "size", "crc32c", "shape", "spacing_mm"]


@dataclass(frozen=True)
class Shown:
    """Text cut to what fits, and how many characters were left out."""

    text: str
    left_out: int = 0


@dataclass(frozen=True)
class MediumCard:
    """One medium on the page; `image` is a data URI, "" where `problem` says why there is none."""

    key: str
    layout: str
    modality: str
    body_part: str
    plane: str
    split: str
    source: str
    terms_id: str
    licence: str
    shape: str
    spacing_mm: str
    caption: Shown
    image: str
    problem: str = ""
    height: int = 0
    width: int = 0

    @property
    def is_volume(self) -> bool:
        """Whether it is three-dimensional."""
        return self.layout.startswith("volume")


@dataclass(frozen=True)
class PartCard:
    """A piece of a turn: text, or a medium and the box of it that is meant."""

    text: str
    media: str
    box: tuple[int, ...]


@dataclass(frozen=True)
class TurnCard:
    """What one side says, as much of it as fits, and how many characters were left out."""

    role: str
    parts: tuple[PartCard, ...]
    left_out: int


@dataclass(frozen=True)
class EvidenceCard:
    """Evidence in its source: what stands before it, its words, what stands after."""

    where: str
    before: str
    words: str
    after: str
    holds: bool


@dataclass(frozen=True)
class ExampleCard:
    """One example on the page."""

    example_id: str
    task: str
    split: str
    generator: str
    terms_id: str
    turns: tuple[TurnCard, ...]
    media: tuple[MediumCard, ...]
    more_media: int
    boxes: dict[str, list[str]]
    evidence: tuple[EvidenceCard, ...]
    labels: tuple[str, ...]


def spread(table: pa.Table, columns: Sequence[str], limit: int) -> list[int]:
    """Return up to `limit` row numbers: kinds (by `columns`) in turn, within a kind evenly spaced over its rows."""
    numbered = table.select(list(columns)).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    grouped = numbered.group_by(list(columns), use_threads=False).aggregate([("row", "list")])
    grouped = grouped.sort_by([(c, "ascending") for c in columns])
    kinds = [_evenly(rows, limit) for rows in grouped["row_list"].to_pylist()]
    turns = [kind[turn] for turn in range(limit) for kind in kinds if turn < len(kind)]
    return turns[:limit]


def _evenly(rows: list[int], limit: int) -> list[int]:
    count = min(limit, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def media_cards(facts: Facts, rows: Sequence[int]) -> list[MediumCard]:
    """Return the cards of rows of `facts.media`, in their order."""
    chosen = facts.media.take(pa.array(rows, pa.int64())).to_pylist()
    members = _members(facts, chosen)
    return [_medium_card(facts, row, members[row["key"]]) for row in chosen]


def _members(facts: Facts, chosen: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return index rows by key and field; each shard's index is read once."""
    found: dict[str, dict[str, dict[str, Any]]] = {row["key"]: {} for row in chosen}
    for number in sorted({row["shard"] for row in chosen}):
        rows = facts.build.index(facts.shards[number], READ)
        keys = pa.array([row["key"] for row in chosen if row["shard"] == number], pa.string())
        for row in rows.filter(pc.is_in(rows["key"], value_set=keys)).to_pylist():
            found[row["key"]][row["field"]] = row
    return found


def _medium_card(facts: Facts, row: dict[str, Any], members: dict[str, dict[str, Any]]) -> MediumCard:
    shard, layout = facts.shards[row["shard"]], row["layout"]
    content = members[content_field(layout)]
    said, image, problem = {}, "", ""
    try:
        said = json.loads(facts.build.member(members["json"], shard))
        shown = members["thumb.jpg" if "thumb.jpg" in members else content_field(layout)]
        image = thumbnail(facts.build.member(shown, shard))
    except (FormatError, OSError, ValueError) as fault:
        problem = f"cannot be shown: {type(fault).__name__}; `medloom lint` says more"
    shape = list(content["shape"] or ())
    sides = shape[1:] if layout.startswith("volume") else shape[:2]
    return MediumCard(
        **{name: row[name] or "" for name in ("key", "layout", "modality", "body_part", "split", "source", "terms_id")},
        plane=said.get("plane", ""),
        licence=said.get("licence", ""),
        shape=" × ".join(map(str, shape if layout.startswith("volume") else shape[:2])),
        spacing_mm=" × ".join(f"{s:.3g}" for s in content["spacing_mm"] or ()),
        caption=cut(said.get("text", ""), CAPTION_CHARACTERS),
        image=image,
        problem=problem,
        height=sides[0] if sides else 0,
        width=sides[1] if len(sides) > 1 else 0,
    )


def thumbnail(data: bytes) -> str:
    """Return an encoded image as a JPEG data URI of at most `THUMB_WIDTH_PX` × `THUMB_HEIGHT_PX`.

    Raises:
        ValueError, OSError: Pillow does not read it, or it has more pixels than Pillow opens.
    """
    from PIL import Image

    try:
        opened = Image.open(io.BytesIO(data))
        opened.draft("RGB", (THUMB_WIDTH_PX, THUMB_HEIGHT_PX))
        image: Image.Image = opened
        if image.mode.startswith("I"):  # 16-bit grey: convert("L") alone clips at 255
            image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        image.thumbnail((THUMB_WIDTH_PX, THUMB_HEIGHT_PX), Image.Resampling.LANCZOS)
    except Image.DecompressionBombError as fault:
        raise ValueError(str(fault)) from fault
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=THUMB_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def example_cards(facts: Facts, limit: int) -> list[ExampleCard]:
    """Return the cards of up to `limit` current examples, tasks and splits in turn."""
    rows = _example_rows(facts, spread(facts.examples, ["task", "split"], limit))
    keys = list(dict.fromkeys(key for row in rows for key in (row["media"] or ())[:MEDIA_OF_EXAMPLE]))
    places = pc.index_in(pa.array(keys, pa.string()), value_set=facts.media["key"].combine_chunks()).to_pylist()
    cards = {c.key: c for c in media_cards(facts, [place for place in places if place is not None])}
    texts = _texts(facts, rows)
    return [_example_card(row, cards, texts) for row in rows]


def _example_rows(facts: Facts, numbers: list[int]) -> list[dict[str, Any]]:
    """Return whole rows by their number in `facts.examples`, reading only the parts that hold them."""
    found: dict[int, dict[str, Any]] = {}
    first = 0
    for task, print_ in sorted(facts.manifest["recipe"]["tasks"].items()):
        for path in facts.build.example_parts(task, print_[:12]):
            ids = facts.build.store.read_table(path, ["example_id"])
            wanted = [n for n in numbers if first <= n < first + ids.num_rows]
            if wanted:
                part = facts.build.store.read_table(path).take(pa.array([n - first for n in wanted], pa.int64()))
                found.update(zip(wanted, part.to_pylist(), strict=True))
            first += ids.num_rows
    return [found[n] for n in numbers]


def _texts(facts: Facts, rows: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the texts that evidence points into, by (unit, where)."""
    units = sorted({row["unit"] for row in rows if row["evidence"]})
    figures = facts.build.table("figure", ["article_key", "fig_key", "caption"], units=units).to_pylist()
    paragraphs = facts.build.table("paragraph", ["article_key", "par_id", "text"], units=units).to_pylist()
    texts = {(f["article_key"], f"caption:{f['fig_key']}"): f["caption"] for f in figures}
    return texts | {(p["article_key"], f"paragraph:{p['par_id']}"): p["text"] for p in paragraphs}


def _example_card(row: dict[str, Any], cards: dict[str, MediumCard], texts: dict[tuple[str, str], str]) -> ExampleCard:
    media = row["media"] or []
    boxes: dict[str, list[str]] = {}
    places = [part for turn in row["turns"] for part in turn["parts"]] + (row["regions"] or [])
    for place in places:
        card = cards.get(place["media"] or "")
        if card and len(place["box"] or ()) == 4 and card.height and card.width:
            boxes.setdefault(card.key, []).append(_overlay(place["box"], card))
    return ExampleCard(
        **{name: row[name] for name in ("example_id", "task", "split", "generator", "terms_id")},
        turns=tuple(_turn_card(turn) for turn in row["turns"]),
        media=tuple(cards[key] for key in media[:MEDIA_OF_EXAMPLE] if key in cards),
        more_media=max(0, len(media) - MEDIA_OF_EXAMPLE),
        boxes=boxes,
        evidence=tuple(_evidence_card(e, texts.get((row["unit"], e["where"]))) for e in row["evidence"] or ()),
        labels=tuple(row["labels"] or ()),
    )


def _turn_card(turn: dict[str, Any]) -> TurnCard:
    parts, room, left_out = [], TURN_CHARACTERS, 0
    for part in turn["parts"]:
        shown = cut(part["text"] or "", room)
        room, left_out = room - len(shown.text), left_out + shown.left_out
        if shown.text or (part["media"] and not left_out):
            parts.append(PartCard(shown.text, part["media"] or "", tuple(part["box"] or ())))
    return TurnCard(turn["role"], tuple(parts), left_out)


def _overlay(box: list[int], card: MediumCard) -> str:
    """Return the CSS place of a half-open box (y0, x0, y1, x1) over the whole image."""
    y0, x0, y1, x1 = box
    sides = (x0 / card.width, y0 / card.height, (x1 - x0) / card.width, (y1 - y0) / card.height)
    return "left:{:.2%};top:{:.2%};width:{:.2%};height:{:.2%}".format(*sides)


def _evidence_card(evidence: dict[str, Any], text: str | None) -> EvidenceCard:
    """Return evidence with its surroundings; evidence from a header has no text around it."""
    start, end, words = evidence["start"], evidence["end"], evidence["text"]
    if text is None:
        return EvidenceCard(evidence["where"], "", words, "", holds=evidence["where"].startswith("header:"))
    before, after = text[:start], text[end:]
    return EvidenceCard(
        where=evidence["where"],
        before=("… " if len(before) > CONTEXT_CHARACTERS else "") + before[-CONTEXT_CHARACTERS:],
        words=text[start:end],
        after=after[:CONTEXT_CHARACTERS] + (" …" if len(after) > CONTEXT_CHARACTERS else ""),
        holds=text[start:end] == words,
    )


def cut(text: str, limit: int) -> Shown:
    """Return `text` cut at a space near `limit` characters, with the number of those left out."""
    if len(text) <= limit:
        return Shown(text)
    kept = text[: max(0, limit)]
    kept = kept.rsplit(" ", 1)[0] if " " in kept else kept
    return Shown(kept, len(text) - len(kept))
