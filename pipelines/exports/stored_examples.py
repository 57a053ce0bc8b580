"""Stored examples as they may leave a release, with their media in files that every library opens, made once each."""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import IO, Any

from medloom.connectors.nifti_writing import write_nifti
from medloom.pipelines.exports.papers import name_of, shard_of
from medloom.pipelines.exports.stored import StoredMedium, stored_media
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.outgoing import Outgoing
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import Refused
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import EXAMPLE

NIFTI, MASK = "nii.gz", "seg.nii.gz"


@dataclass(frozen=True)
class StoredExample:
    """An example that may leave.

    Attributes:
        shard: where it stands.
        row: of the examples, as in `EXAMPLE`.
        media: those it refers to, in the order of their first use.
        article: its row of the table `article`, None for one that is not of a paper.
        attribution: whom to name for its text.
    """

    shard: ShardName
    row: dict[str, Any]
    media: tuple[StoredMedium, ...]
    article: dict[str, Any] | None
    attribution: str


def stored_examples(out: Outgoing) -> Iterator[list[StoredExample]]:
    """Give the examples of a release that may leave, shard by shard, in the order of their digests: any sort of them
    stands everywhere among the others.
    """
    places: dict[ShardName, dict[str, list[int]]] = {}
    for part, row in zip(out.rows["part"].to_pylist(), out.rows["row"].to_pylist(), strict=True):
        places.setdefault(shard_of(part), {}).setdefault(part, []).append(row)
    media = _MediaByShard(out)
    for shard, parts in sorted(places.items()):
        mine = media.of(shard)
        rows = [row for part, at in sorted(parts.items()) for row in _rows(out.build, part, at)]
        rows.sort(key=lambda row: (row["example_id"].rpartition("-")[2], row["example_id"]))
        articles, named = _said(out.build, sorted({row["unit"] for row in rows}))
        yield [
            StoredExample(
                shard,
                row,
                tuple(mine[key] for key in row["media"] or ()),
                articles.get(row["unit"]),
                named.get(row["unit"], ""),
            )
            for row in rows
        ]


def examples_with_files(to: Writing) -> Iterator[tuple[StoredExample, list[dict[str, bytes]]]]:
    """Give each example that may leave with the files of its media; what was done with it is told when the next is
    asked for. One whose media have no place in this form is left out, and counted.
    """
    with MediaFiles() as files:
        for examples in stored_examples(to.out):
            for example in examples:
                made = files.of_all(to, example)
                if made is not None:
                    yield example, made
                    tell(to, example)
            files.forget()


class _MediaByShard:
    """The media that may leave, of one shard at a time, shards asked for in order."""

    def __init__(self, out: Outgoing) -> None:
        self._groups = groupby(stored_media(out), key=lambda medium: medium.shard)
        self._next = next(self._groups, None)

    def of(self, shard: ShardName) -> dict[str, StoredMedium]:
        found: dict[str, StoredMedium] = {}
        while self._next and self._next[0] <= shard:
            found = {medium.key: medium for medium in self._next[1]} if self._next[0] == shard else found
            self._next = next(self._groups, None)
        return found


def _rows(build: Build, part: str, at: list[int]) -> list[dict[str, Any]]:
    return conform(build.store.read_table(part), EXAMPLE).take(sorted(at)).to_pylist()


def _said(build: Build, units: list[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the rows of articles, and whom to name, by unit."""
    articles = {row["article_key"]: row for row in build.table("article", units=units).to_pylist()}
    series = build.table("series", ["unit", "attribution"], units=units).to_pylist()
    named = {row["unit"]: row["attribution"] or "" for row in series}
    return articles, named | {unit: row["attribution"] or "" for unit, row in articles.items()}


def tell(to: Writing, example: StoredExample) -> None:
    """Count an example as written, and say whom to name for it and for its media."""
    to.example(example.row)
    to.licences[example.row["terms_id"]] += 1
    unit = example.row["unit"]
    if example.article:
        to.cite(name_of(example.article, unit), unit, example.shard.split, example.article)
    for medium in example.media:
        if not to.knows(medium):
            to.stored(medium, {})


class MediaFiles:
    """The files of media: pictures as stored, volumes and masks as NIfTI, kept in a spool once made."""

    def __init__(self) -> None:
        self._spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._at: dict[str, dict[str, tuple[int, int]]] = {}

    def __enter__(self) -> "MediaFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def forget(self) -> None:
        """Drop what was made, so that the spool holds the media of one shard."""
        self._at.clear()
        self._spool.seek(0)
        self._spool.truncate()

    def of(self, medium: StoredMedium) -> dict[str, bytes]:
        """Return the files of a medium by ending: "jpg", "png", `NIFTI`, `MASK`.

        Raises:
            Refused("nifti.size"): an axis is longer than NIfTI-1 can say.
        """
        if medium.key not in self._at:
            placed = {}
            for ending, data in _made(medium).items():
                placed[ending] = self._spool.seek(0, io.SEEK_END), len(data)
                self._spool.write(data)
            self._at[medium.key] = placed
        found = {}
        for ending, (at, size) in self._at[medium.key].items():
            self._spool.seek(at)
            found[ending] = self._spool.read(size)
        return found

    def of_all(self, to: Writing, example: StoredExample) -> list[dict[str, bytes]] | None:
        """Return the files of each medium of an example; None, and counted, where the form has no place for one."""
        try:
            return [self.of(medium) for medium in example.media]
        except Refused as refused:
            to.back("examples", refused.reason)
            return None


def _made(medium: StoredMedium) -> dict[str, bytes]:
    if medium.is_picture:
        return {medium.row["layout"]: medium.picture()}
    made = {}
    for ending, volumes in ((NIFTI, (medium.volume(),)), (MASK, medium.masks())):
        if volumes:
            file = io.BytesIO()
            write_nifti(volumes, file)
            made[ending] = file.getvalue()
    return made
