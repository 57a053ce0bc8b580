"""From a release's rows to examples with their media: what was pinned is read, checked and decoded, or it says so."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloom.schemas.build import Build, conform
from medloom.schemas.errors import FormatError
from medloom.schemas.example import Evidence, Example, Part, Region, Turn
from medloom.schemas.manifest import parse
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName, shard_name
from medloom.schemas.tables import EXAMPLE, measured_values

CONTENT = {"jpg": "jpg", "png": "png", "volume": "ct.b2nd", "volume-seg": "ct.b2nd"}  # field that is drawn, by layout
_PARTS, _INDEXES = 256, 1024  # tables of examples and indexes of shards kept in memory
_COLUMNS = ["key", "field", "layout", "offset", "size", "crc32c"]


class WrongBytes(Exception):
    """One medium's bytes are not what its index row promises, or do not decode; another example may be drawn."""


@dataclass(frozen=True, eq=False)
class MediaData:
    """One medium as read.

    Attributes:
        layout: of its tar ("jpg", "png", "volume", "volume-seg").
        facts: its `json` member.
        content: (Z, Y, X) of the stored dtype for a volume; (Y, X, C) uint8 with C 1, 3 or 4 for a picture.
    """

    layout: str
    facts: dict[str, Any]
    content: np.ndarray


@dataclass(frozen=True, eq=False)
class StreamedExample:
    """One example with its media by key, and the draw `t` that it answers (-1 outside a stream)."""

    example: Example
    media: dict[str, MediaData]
    t: int = -1


@dataclass(frozen=True)
class _Member:
    shard: ShardName
    layout: str
    offset: int
    size: int
    crc32c: int

    @property
    def tar(self) -> str:
        return self.shard.tar(self.layout)


class Reader:
    """Reads rows of one release; safe to share between threads.

    Raises:
        FormatError: a build no longer holds the manifest that the release pins.
    """

    def __init__(self, release: Release):
        self.release = release
        self._builds = release.builds()
        self._files = [
            _manifest_files(build, pinned["number"])
            for build, pinned in zip(self._builds, release.facts["builds"], strict=True)
        ]
        self._part = lru_cache(maxsize=_PARTS)(self._read_part)
        self._index = lru_cache(maxsize=_INDEXES)(self._read_index)
        self._shard_of = lru_cache(maxsize=None)(self._find_shards)

    def example(self, row: int) -> Example:
        """Return the example of a row of the release.

        Raises:
            FormatError: its file was rewritten since the release was made.
        """
        found = {name: self.release.rows[name][row].as_py() for name in ("build", "part", "row", "example_id")}
        table = self._part(found["build"], found["part"])
        if not 0 <= found["row"] < table.num_rows:
            raise FormatError(f"{self._builds[found['build']].url}/{found['part']} has no row {found['row']}")
        example = parse_example(table.slice(found["row"], 1).to_pylist()[0])
        if example.example_id != found["example_id"]:
            raise FormatError(
                f"{self._builds[found['build']].url}/{found['part']} holds {example.example_id} in row {found['row']}, "
                f"where release {self.release.number} promises {found['example_id']}"
            )
        return example

    def read(self, row: int, *, t: int = -1) -> StreamedExample:
        """Return the example of a row with all its media.

        Raises:
            WrongBytes: a medium's bytes are wrong, twice.
            FormatError: a shard was rewritten since the release was made.
        """
        example = self.example(row)
        build, part = (self.release.rows[name][row].as_py() for name in ("build", "part"))
        media = {key: self._medium(build, _shard_of_part(part), key) for key in example.media}
        return StreamedExample(example, media, t)

    def _medium(self, build: int, shard: ShardName, key: str) -> MediaData:
        members = self._index(build, shard).get(key)
        if members is None:
            members = self._index(build, self._shard_of(build).get(key, shard)).get(key)
        if members is None:
            raise FormatError(f"{self._builds[build].url}: no index of the pinned build holds medium {key}")
        try:
            return self._decode(build, key, members)
        except WrongBytes:
            # The last word on a shard is its ledger: if that is not the pinned one, the shard was rewritten.
            self._pinned_bytes(build, members["json"].shard.ledger)
            return self._decode(build, key, members)

    def _decode(self, build: int, key: str, members: Mapping[str, _Member]) -> MediaData:
        facts, content = members["json"], members[CONTENT[members["json"].layout]]
        start, end = facts.offset, content.offset + content.size  # neighbours in the tar: one read for both
        try:
            data = self._builds[build].store.read(facts.tar, start, end)
        except FileNotFoundError as fault:
            raise FormatError(f"{self._builds[build].url}/{facts.tar} is not there; restore it") from fault
        except OSError as fault:
            raise WrongBytes(f"{key}: cannot read {facts.tar} ({fault})") from fault
        text = _checked(data[: facts.size], facts, key)
        pixels = _checked(data[content.offset - start :], content, key)
        return MediaData(facts.layout, json.loads(text), _pixels(pixels, facts.layout, key))

    def _pinned_bytes(self, build: int, path: str) -> bytes:
        """Return a file of the pinned build, checked against the manifest."""
        at = self._builds[build]
        try:
            data = at.store.read(path)
            promised = self._files[build][path]["sha256"]
        except (FileNotFoundError, KeyError) as fault:
            raise FormatError(
                f"{at.url}/{path}, which release {self.release.number} rests on, is not in the build"
            ) from fault
        if hashlib.sha256(data).hexdigest() != promised:
            raise FormatError(
                f"{at.url}/{path} was rewritten after release {self.release.number} pinned it; "
                "make a new release and begin a new run or segment with it"
            )
        return data

    def _read_part(self, build: int, part: str) -> pa.Table:
        return conform(pq.read_table(io.BytesIO(self._pinned_bytes(build, part))), EXAMPLE)

    def _read_index(self, build: int, shard: ShardName) -> dict[str, dict[str, _Member]]:
        """Members of a shard's media by key and field, of every layout that the pinned build has."""
        if shard.ledger not in self._files[build]:
            return {}
        self._pinned_bytes(build, shard.ledger)
        found: dict[str, dict[str, _Member]] = {}
        for layout in CONTENT:
            if shard.index(layout) not in self._files[build]:
                continue
            data = self._pinned_bytes(build, shard.index(layout))
            for row in pq.read_table(io.BytesIO(data), columns=_COLUMNS).to_pylist():
                key, field = row.pop("key"), row.pop("field")
                found.setdefault(key, {})[field] = _Member(shard=shard, **row)
        return found

    def _find_shards(self, build: int) -> dict[str, ShardName]:
        """Shard of every medium: for the rare example that refers to another shard's media."""
        names = [shard_name(PurePosixPath(path).stem) for path in self._files[build] if path.startswith("ledger/")]
        return {key: shard for shard in names for key in self._index(build, shard)}


def _manifest_files(build: Build, number: int) -> dict[str, Any]:
    path = f"manifests/{number:04d}.json"
    return dict(parse(build.store.read(path), where=f"{build.url}/{path}")["files"])


def _shard_of_part(part: str) -> ShardName:
    return shard_name(PurePosixPath(part).stem.removeprefix("part-"))


def _checked(data: bytes, member: _Member, key: str) -> bytes:
    data = data[: member.size]
    if len(data) != member.size or crc32c.crc32c(data) != member.crc32c:
        raise WrongBytes(
            f"{key}: bytes {member.offset} to {member.offset + member.size} of {member.tar} fail their crc32c"
        )
    return data


def _pixels(data: bytes, layout: str, key: str) -> np.ndarray:
    if layout in ("jpg", "png"):
        return _picture(data, key)
    from medloom.schemas.b2nd import decode

    try:
        return decode(data)
    except FormatError as fault:
        raise WrongBytes(f"{key}: {fault}") from fault


def _picture(data: bytes, key: str) -> np.ndarray:
    """Return (Y, X, C) uint8: grey as C 1, colours as C 3, with alpha as C 4; 16-bit greys lose their lower byte."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            image.load()
            if image.mode.startswith("I"):
                array = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
            elif image.mode in ("1", "L"):
                array = np.asarray(image.convert("L"))
            else:
                array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise WrongBytes(f"{key}: the picture does not decode ({fault})") from fault
    return array if array.ndim == 3 else array[:, :, None]


def parse_example(row: Mapping[str, Any]) -> Example:
    """Return the example that a row of `EXAMPLE` holds."""
    names = ("example_id", "unit", "group", "split", "task", "language", "generator", "source", "licence", "terms_id")
    return Example(
        **{name: row[name] or "" for name in names},
        turns=tuple(Turn(turn["role"], tuple(_part(part) for part in turn["parts"])) for turn in row["turns"]),
        regions=tuple(_region(region) for region in row["regions"] or ()),
        labels=tuple(row["labels"] or ()),
        evidence=tuple(Evidence(**evidence) for evidence in row["evidence"] or ()),
        measured=measured_values(row["measured"]),
    )


def _part(part: Mapping[str, Any]) -> Part:
    return Part(text=part["text"] or "", media=part["media"] or "", box=tuple(part["box"] or ()))


def _region(region: Mapping[str, Any]) -> Region:
    return Region(**{**region, "box": tuple(region["box"] or ())})
