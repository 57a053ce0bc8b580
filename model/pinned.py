"""Pinned builds: what a release rests on, each file held against the digest that its manifest promises."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medloom.model.byte_source import ByteSource
from medloom.model.example_rows import Rows
from medloom.model.places import FieldPlace, Place
from medloom.schemas.b2nd_read import ChunkTable
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.manifest import parse
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.shard import ShardName, shard_name
from medloom.schemas.tables import EXAMPLE, INDEX

_PARTS, _INDEXES = 256, 1024  # tables of examples and indexes of shards kept in memory
CHUNK_COLUMNS = ("chunk_shape", "block_shape", "chunk_offsets", "chunk_sizes", "chunk_crc32c")
COLUMNS = ("key", "field", "offset", "size", "crc32c", "shape", "dtype", *CHUNK_COLUMNS)


class Pinned:
    """One build of a release; safe to share between threads.

    Args:
        build: as the release names it.
        pinned: its entry in release.json.
        source: reads its files.
        release: number, for what is said when something is wrong.
    """

    def __init__(self, build: Build, pinned: Mapping[str, Any], source: ByteSource, *, release: int):
        self.build, self.source, self.release = build, source, release
        path = f"manifests/{pinned['number']:04d}.json"
        self._files = dict(parse(build.store.read(path), where=f"{build.url}/{path}")["files"])
        self.part = lru_cache(maxsize=_PARTS)(self._read_part)
        self._index = lru_cache(maxsize=_INDEXES)(self._read_index)
        self._shards = lru_cache(maxsize=1)(self._find_shards)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.build.url

    def read(self, path: str, *, anew: bool = False) -> bytes:
        """Return a file that the pinned manifest lists; `anew`: as it is now, whatever a cache holds.

        Raises:
            FormatError: it is not there, or not what was pinned.
        """
        facts = self._files.get(path)
        if facts is None:
            raise FormatError(f"{self.url}/{path}, which release {self.release} rests on, is not in the build")
        for attempt in range(2):
            if anew or attempt:
                self.source.forget(path, 0, facts["size"])
            try:
                data = bytes(self.source.read(path, 0, facts["size"]))
            except FileNotFoundError as fault:
                raise FormatError(
                    f"{self.url}/{path}, which release {self.release} rests on, is not there; restore it"
                ) from fault
            except WrongBytes:
                continue
            if hashlib.sha256(data).hexdigest() == facts["sha256"]:
                return data
        raise FormatError(
            f"{self.url}/{path} was rewritten after release {self.release} pinned it; "
            "make a new release and begin a new run or segment with it"
        )

    def check_shard(self, shard: ShardName) -> None:
        """Look whether a shard's ledger, the last word on its bytes, is still the pinned one.

        Raises:
            FormatError: it is not.
        """
        self.read(shard.ledger, anew=True)

    def place(self, key: str, near: ShardName) -> Place:
        """Return where a medium stands, by the indexes of shards.

        Args:
            near: the shard where it probably is.

        Raises:
            FormatError: none of the pinned build holds it.
        """
        found = self._index(near).get(key) or self._index(self._shards().get(key, near)).get(key)
        if found is None:
            raise FormatError(f"{self.url}: no index of the pinned build holds medium {key}")
        return place_of(found.rows(key), self.source, found.shard, found.layout)

    def _read_part(self, path: str) -> Rows:
        return Rows(conform(pq.read_table(io.BytesIO(self.read(path))), EXAMPLE))

    def _read_index(self, shard: ShardName) -> dict[str, "_Index"]:
        """The index that holds a medium, by key, over all layouts of a shard."""
        if shard.ledger not in self._files:
            return {}
        self.read(shard.ledger)
        found: dict[str, _Index] = {}
        for layout in LAYOUTS:
            if shard.index(layout) in self._files:
                table = pq.read_table(io.BytesIO(self.read(shard.index(layout))))
                index = _Index(table, shard, layout)
                found |= dict.fromkeys(index.at, index)
        return found

    def _find_shards(self) -> dict[str, ShardName]:
        """Shard of every medium: for the rare example that refers to another shard's media."""
        names = [shard_name(PurePosixPath(path).stem) for path in self._files if path.startswith("ledger/")]
        return {key: shard for shard in names for key in self._index(shard)}


class _Index:
    """The index of one tar."""

    def __init__(self, table: pa.Table, shard: ShardName, layout: str):
        self.shard, self.layout = shard, layout
        table = conform(table, pa.schema([INDEX.field(name) for name in COLUMNS]))
        self._rows = Rows(table.combine_chunks())
        self.at: dict[str, list[int]] = {}
        for row, key in enumerate(table["key"].to_pylist()):
            self.at.setdefault(key, []).append(row)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Return the rows of a medium's members."""
        return [self._rows[row] for row in self.at[key]]


def place_of(rows: Sequence[Mapping[str, Any]], where: ByteSource, shard: ShardName, layout: str) -> Place:
    """Return the place that the index rows of a medium's members say."""
    fields = {row["field"]: field_of(row) for row in rows}
    return Place(rows[0]["key"], where, shard.tar(layout), layout, fields)


def field_of(row: Mapping[str, Any]) -> FieldPlace:
    """Return the place of one member, by its row of `INDEX` or `RELEASE_INDEX`."""
    shape, dtype, chunks = tuple(row["shape"] or ()), row["dtype"] or "", None
    if row.get("chunk_shape"):
        chunks = ChunkTable(
            shape, dtype, tuple(row["chunk_shape"]), tuple(row["block_shape"]),
            row["chunk_offsets"] or (), row["chunk_sizes"] or (), row["chunk_crc32c"] or (),
        )  # fmt: skip
    return FieldPlace(row["offset"], row["size"], row["crc32c"], chunks, shape, dtype)
