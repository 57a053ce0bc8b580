"""Papers as they may leave a release: the text of their live windows, their pictures, and where text means a picture.

The text of a paper is that of its `interleaved` windows which are live: body paragraphs in order, without titles,
captions, tables, references and authors, each ended by a blank line. A sentence of a window that stays back is left
out, and what follows it begins a paragraph of its own.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medloom.connectors.sentences import sentence_spans
from medloom.pipelines.examples import unit_views
from medloom.pipelines.outgoing import Outgoing
from medloom.pipelines.tasks.interleaved import PARAGRAPH_END, Interleaved
from medloom.pipelines.unit import UnitView
from medloom.schemas.build import conform
from medloom.schemas.errors import Refused, SourceError
from medloom.schemas.keys import example_id
from medloom.schemas.shard import ShardName, shard_name
from medloom.schemas.tables import EXAMPLE

PICTURES = ("jpg", "png")
Members = dict[str, dict[str, dict[str, Any]]]  # rows of the index by key and field
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class PaperPicture:
    """A picture of a paper that may leave.

    Attributes:
        id: what text calls it: the figure's id in the article, `-2` and so on for its further graphics, or the key.
        figure: row of the table.
        row, said: of the index, of the member that holds the picture and of the one that says what it is.
    """

    id: str
    figure: dict[str, Any]
    row: dict[str, Any]
    said: dict[str, Any]

    @property
    def key(self) -> str:
        """Of the medium."""
        return str(self.row["key"])


@dataclass(frozen=True)
class Reference:
    """Where a text means a picture: `text[start:end]` are the words."""

    id: str
    start: int
    end: int


@dataclass(frozen=True)
class PaperText:
    """The live text of a paper.

    Attributes:
        sentences: half-open spans with the white space after them; joined they are the text.
        references: by start, end and id; only to pictures that may leave.
        unshown: how many mentions mean no picture that may.
        n_windows: of how many windows it is made.
    """

    text: str
    sentences: tuple[tuple[int, int], ...]
    references: tuple[Reference, ...]
    unshown: int
    n_windows: int


@dataclass(frozen=True)
class Paper:
    """One article version of a release.

    Attributes:
        shard: where its media stand.
        view: its rows in the tables.
        pictures: that may leave, by key, in the order of its figures.
        examples: rows that may leave, as in `EXAMPLE`.
        windows: of each of its windows, whether it may leave, by example_id.
        print: fingerprint of the task that made the windows.
    """

    shard: ShardName
    view: UnitView
    pictures: dict[str, PaperPicture]
    examples: list[dict[str, Any]]
    windows: dict[str, bool]
    print: str

    @property
    def name(self) -> str:
        """What files of it are called, see `name_of`."""
        return name_of(self.view.article, self.view.unit)

    @cached_property
    def text(self) -> PaperText:
        """Its live text.

        Raises:
            Refused("text.windows"): its windows are not cut at its sentences, so that nobody can tell what they hold.
        """
        return _text(self)


def papers(out: Outgoing) -> Iterator[Paper]:
    """Give the papers of a release that have something to leave, shard by shard, in the order of the plan.

    Raises:
        SourceError: the build has no table of paragraphs, as a published copy.
    """
    build = out.build
    if not build.store.names("tables/paragraph"):
        raise SourceError(
            f"{build.url} holds no text of its articles, as what was published; give the build that it was made from"
        )
    prints = build.manifest()["recipe"]["tasks"]
    parts = _places(out)
    for shard, units in build.shards.items():
        if out.split not in ("", shard.split):
            continue
        rows = _example_rows(out, parts.get(shard, {}))
        windows = _windows(out, prints, shard, parts.get(shard, {}))
        index: Members = {}
        for row in build.index(shard).to_pylist():
            if row["layout"] in PICTURES:
                index.setdefault(row["key"], {})[row["field"]] = row
        allowed = out.media.get(shard, set())
        for view in unit_views(build, shard, tuple(units)):
            pictures = _pictures(view, index, allowed) if view.article else {}
            mine = rows.get(view.unit, [])
            if view.article and (pictures or mine):
                yield Paper(shard, view, pictures, mine, windows.get(view.unit, {}), prints.get(Interleaved.task, ""))


def _places(out: Outgoing) -> dict[ShardName, dict[str, list[int]]]:
    """Return which rows of which parts may leave, by shard."""
    found: dict[ShardName, dict[str, list[int]]] = {}
    for part, row in zip(out.rows["part"].to_pylist(), out.rows["row"].to_pylist(), strict=True):
        found.setdefault(shard_of(part), {}).setdefault(part, []).append(row)
    return found


def name_of(article: dict[str, Any], unit: str) -> str:
    """Return what files of a paper are called: PMC7500000, with `.2` for its second version; the unit where it has no
    PMCID.
    """
    if not article["pmcid"]:
        return unit
    return f"{article['pmcid']}.{article['version']}" if (article["version"] or 1) > 1 else str(article["pmcid"])


def shard_of(part: str) -> ShardName:
    """Return the shard that a file of examples belongs to."""
    return shard_name(posixpath.basename(part).removeprefix("part-").removesuffix(".parquet"))


def _example_rows(out: Outgoing, places: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of examples that may leave, by unit."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part, rows in sorted(places.items()):
        table = conform(out.build.store.read_table(part), EXAMPLE)
        for row in table.take(sorted(rows)).to_pylist():
            found.setdefault(row["unit"], []).append(row)
    return found


def _windows(
    out: Outgoing, prints: dict[str, str], shard: ShardName, places: dict[str, list[int]]
) -> dict[str, dict[str, bool]]:
    """Return all windows of each unit, with whether they may leave."""
    found: dict[str, dict[str, bool]] = {}
    if Interleaved.task not in prints:
        return found
    part = f"examples/{Interleaved.task}/{prints[Interleaved.task][:12]}/part-{shard}.parquet"
    if not out.build.store.exists(part):
        return found
    leaving = set(places.get(part, ()))
    table = out.build.store.read_table(part, ["unit", "example_id"])
    for number, row in enumerate(table.to_pylist()):
        found.setdefault(row["unit"], {})[row["example_id"]] = number in leaving
    return found


def _pictures(view: UnitView, index: Members, allowed: set[str]) -> dict[str, PaperPicture]:
    found: dict[str, PaperPicture] = {}
    taken: set[str] = set()
    for figure in view.figures:
        for number, key in enumerate(dict.fromkeys(m["key"] for m in figure["media"])):
            name = f"{figure['xml_id']}-{number + 1}" if number else figure["xml_id"]
            if not _SAFE_ID.fullmatch(name or "") or name.lower() in taken:
                name = key
            taken.add(name.lower())
            if key in index and key in allowed and key not in found:
                members = index[key]
                found[key] = PaperPicture(name, figure, members[members["json"]["layout"]], members["json"])
    return found


def _text(paper: Paper) -> PaperText:
    view = paper.view
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    kept: dict[str, list[tuple[int, int, int]]] = {}  # of each paragraph, runs of kept text and where they went
    size, is_live, ended = 0, False, True
    seen: set[str] = set()
    for paragraph in view.paragraphs:
        text, par_id = paragraph["text"], paragraph["par_id"]
        if paragraph["where"] != "body" or not text:
            continue
        starts = [0, *(start for start, _ in sentence_spans(text)[1:])]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            window = example_id(Interleaved.task, paper.print, view.unit, f"{par_id}:{start}")
            if window in paper.windows:
                is_live = paper.windows[window]
                seen.add(window)
            if not is_live:
                continue
            runs = kept.setdefault(par_id, [])
            follows = bool(runs) and runs[-1][1] == start
            if not ended and not follows:  # what stood between stays back
                pieces[-1] = pieces[-1].rstrip() + PARAGRAPH_END
                size = spans[-1][0] + len(pieces[-1])
                spans[-1] = (spans[-1][0], size)
            if follows:
                runs[-1] = (runs[-1][0], end, runs[-1][2])
            else:
                runs.append((start, end, size))
            ended = end == len(text)
            said = text[start:end] + PARAGRAPH_END * ended
            pieces.append(said)
            spans.append((size, size + len(said)))
            size += len(said)
    if seen != set(paper.windows):
        raise Refused("text.windows", f"{len(paper.windows) - len(seen)} windows begin at none of its sentences")
    whole = "".join(pieces).rstrip()
    references, unshown = _references(paper, kept)
    spans = [(start, min(end, len(whole))) for start, end in spans]
    return PaperText(whole, tuple(spans), references, unshown, sum(paper.windows.values()))


def _references(paper: Paper, kept: dict[str, list[tuple[int, int, int]]]) -> tuple[tuple[Reference, ...], int]:
    """Return the references of the kept text, and the number of mentions of it that mean no picture that may leave."""
    ids: dict[str, list[str]] = {}
    for picture in paper.pictures.values():
        ids.setdefault(picture.figure["fig_key"], []).append(picture.id)
    found: set[tuple[int, int, str]] = set()
    unshown = 0
    for mention in paper.view.mentions:
        if mention["status"] != "resolved":
            continue
        for start, end, at in kept.get(mention["par_id"], ()):
            if start <= mention["start"] and mention["end"] <= end:
                here = at - start
                meant = [name for key in mention["fig_keys"] for name in ids.get(key, ())]
                found |= {(mention["start"] + here, mention["end"] + here, name) for name in meant}
                unshown += not meant
                break
    return tuple(Reference(name, start, end) for start, end, name in sorted(found)), unshown
