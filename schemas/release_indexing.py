"""Writes a release's own index of its media, the same bytes for the same rows and builds."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medloom.schemas.build import Build, conform
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.manifest import parse
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import resolve_uri
from medloom.schemas.release_index import BATCHES, batches_path, index_path
from medloom.schemas.shard import ShardName, shard_name
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, INDEX, RELEASE_INDEX, RELEASE_ROW

BATCH_ROWS = 4096  # at most: about a megabyte, so that what a draw touches is checked in a tenth of a millisecond


def write_release_index(
    store: Store, name: str, rows: pa.Table, pinned: Sequence[dict[str, Any]]
) -> tuple[pa.Table, dict[str, Any]]:
    """Write the index of the media that `rows` use; the same files for the same rows and builds.

    Args:
        store: the folder of releases.
        name: of the release's folder there, such as "0001".
        rows: of `RELEASE_ROW`; their `media_at` need not be filled.
        pinned: the builds as release.json pins them: uri, number, manifest.

    Returns:
        The rows with `media_at` filled, and what release.json says of the index:
        {"batches_sha256", "files": {"<split>-<layout>": {"rows", "size", "sha256"}}}.

    Raises:
        FormatError: an index of a build is not the pinned one, or a medium stands in none.
    """
    used = _Used.of(rows)
    builds = [_Pinned.open(entry, store) for entry in pinned]
    batches: list[dict[str, Any]] = []
    files: dict[str, dict[str, Any]] = {}
    for split in used.splits:
        for layout in LAYOUTS:
            pieces = [
                piece for number, build in enumerate(builds) for piece in build.pieces(number, split, layout, used)
            ]
            if not pieces:
                continue
            with store.writing(index_path(name, split, layout)) as file:
                made = _IndexFile(file, split, layout)
                for piece in pieces:
                    made.add(piece)
                files[f"{split}-{layout}"] = made.close()
            batches += made.batches
            used.place(split, pieces)
    used.must_be_placed(rows)
    store.write_table(
        batches_path(name), pa.Table.from_pylist(batches, schema=BATCHES), {"format_version": str(FORMAT_VERSION)}
    )
    rows = rows.set_column(RELEASE_ROW.get_field_index("media_at"), "media_at", used.column())
    return rows, {"batches_sha256": sha256_hex(store.read(batches_path(name))), "files": files}


@dataclass
class _Used:
    """The media that rows use, one after the other: of each its build, split, key and place, -1 while it has none."""

    splits: list[str]
    lengths: np.ndarray
    build: np.ndarray
    split: np.ndarray
    keys: pa.Array
    at: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> "_Used":
        media, split = rows["media"].combine_chunks(), rows["split"].combine_chunks().dictionary_encode()
        lengths = np.asarray(pc.fill_null(pc.list_value_length(media), 0), np.int64)
        names = split.dictionary.to_pylist()
        order = {name: code for code, name in enumerate(sorted(names))}
        codes = np.array([order[name] for name in names], np.int32)[np.asarray(split.indices, np.int32)]
        keys = pc.list_flatten(media).cast(pa.string())
        build = np.repeat(np.asarray(rows["build"], np.int32), lengths)
        return cls(sorted(names), lengths, build, np.repeat(codes, lengths), keys, np.full(len(keys), -1, np.int64))

    def of_build(self, number: int, split: str) -> np.ndarray:
        """Which of them are of a build and a split, as positions."""
        return np.flatnonzero((self.build == number) & (self.split == self.splits.index(split)))

    def place(self, split: str, pieces: "list[_Piece]") -> None:
        """Note where the media of `pieces` stand, the rows of an index one after the other."""
        first = 0
        for number in sorted({piece.build_number for piece in pieces}):
            stored = pa.chunked_array(
                [piece.kept_keys for piece in pieces if piece.build_number == number], pa.string()
            )
            mine = self.of_build(number, split)
            places = pc.index_in(self.keys.take(pa.array(mine)), value_set=stored)
            places = np.asarray(pc.fill_null(places, -1), np.int64)
            self.at[mine[places >= 0]] = first + places[places >= 0]
            first += len(stored)

    def must_be_placed(self, rows: pa.Table) -> None:
        if not (self.at < 0).any():
            return
        lost = int(np.flatnonzero(self.at < 0)[0])
        row = int(np.searchsorted(np.cumsum(self.lengths), lost, side="right"))
        raise FormatError(
            f"example {rows['example_id'][row].as_py()} refers to medium {self.keys[lost].as_py()}, which no index of "
            f"build {int(self.build[lost])} and split {self.splits[self.split[lost]]} holds; run `medloom lint` on the "
            "build"
        )

    def column(self) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(self.at))


@dataclass(frozen=True)
class _Piece:
    """The used members of one tar: `mask` says which rows of the tar's index they are, `kept_keys` their keys."""

    build_number: int
    build: "_Pinned"
    shard: ShardName
    mask: pa.Array
    kept_keys: pa.Array


@dataclass(frozen=True)
class _Pinned:
    """A build in the state that a release pins: the files that its manifest lists."""

    build: Build
    files: dict[str, Any]

    @classmethod
    def open(cls, entry: dict[str, Any], releases: Store) -> "_Pinned":
        build = Build(resolve_uri(entry["uri"], base=releases.url))
        path = f"manifests/{entry['number']:04d}.json"
        return cls(build, parse(build.store.read(path), where=f"{build.url}/{path}")["files"])

    def pieces(self, number: int, split: str, layout: str, used: _Used) -> list[_Piece]:
        """Return what `used` uses of each tar of a split and a layout, by shard."""
        wanted = used.keys.take(pa.array(used.of_build(number, split)))
        shards = self._shards(split, layout) if len(wanted) else []
        if not shards:
            return []
        keys = [self.build.store.read_table(s.index(layout), ["key"])["key"].combine_chunks() for s in shards]
        kept = np.asarray(pc.is_in(pa.chunked_array(keys, pa.string()), value_set=wanted))
        masks = [pa.array(mask) for mask in np.split(kept, np.cumsum([len(k) for k in keys])[:-1])]
        pieces = [_Piece(number, self, s, m, k.filter(m)) for s, m, k in zip(shards, masks, keys, strict=True)]
        return [piece for piece in pieces if len(piece.kept_keys)]

    def _shards(self, split: str, layout: str) -> list[ShardName]:
        names = [
            path.removeprefix("ledger/").removesuffix(".json") for path in self.files if path.startswith("ledger/")
        ]
        return sorted(s for s in map(shard_name, names) if s.split == split and s.index(layout) in self.files)

    def rows(self, path: str) -> pa.Table:
        """Rows of an index.

        Raises:
            FormatError: it is not the one that the manifest promises.
        """
        data = self.build.store.read(path)
        if sha256_hex(data) != self.files[path]["sha256"]:
            raise FormatError(
                f"{self.build.url}/{path} was changed after its manifest was written; `medloom lint` tells more"
            )
        return conform(pq.read_table(io.BytesIO(data)), INDEX)


class _IndexFile:
    """Writes the index of one split and layout, and keeps where each record batch stands."""

    def __init__(self, file: IO[bytes], split: str, layout: str):
        self.split, self.layout = split, layout
        self.batches: list[dict[str, Any]] = []
        self._sink = _Sink(file)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._sink, "w"), RELEASE_INDEX)
        self._rows = 0

    def add(self, piece: _Piece) -> None:
        """Write the used members of one tar, whole media to a record batch."""
        rows = piece.build.rows(piece.shard.index(self.layout)).filter(piece.mask)
        table = _release_rows(rows, piece.build_number, piece.shard.number)
        step = BATCH_ROWS // len(LAYOUTS[self.layout]) * len(LAYOUTS[self.layout])
        for start in range(0, table.num_rows, step):
            batch = table.slice(start, step).combine_chunks().to_batches()[0]
            size = pa.ipc.get_record_batch_size(batch)
            self._sink.kept.clear()
            self._writer.write_batch(batch)
            message = b"".join(self._sink.kept)[-size:]
            self.batches.append({
                "split": self.split, "layout": self.layout, "build": piece.build_number, "shard": piece.shard.number,
                "first": self._rows, "rows": batch.num_rows, "offset": self._sink.size - size, "size": size,
                "crc32c": crc32c.crc32c(message),
            })  # fmt: skip
            self._rows += batch.num_rows

    def close(self) -> dict[str, Any]:
        """Finish the file; return what release.json says of it."""
        self._writer.close()
        return {"rows": self._rows, "size": self._sink.size, "sha256": self._sink.digest.hexdigest()}


class _Sink:
    """Passes bytes on to a file, digests them, and keeps those of the present record batch."""

    closed = False

    def __init__(self, file: IO[bytes]):
        self.size, self.digest, self.kept = 0, hashlib.sha256(), list[bytes]()
        self._file = file

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._file.write(data)
        self.digest.update(data)
        self.kept.append(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leave the file to whom opened it."""


def _release_rows(rows: pa.Table, build: int, shard: int) -> pa.Table:
    """Return index rows as rows of `RELEASE_INDEX` without nulls: what an older format has not is empty."""
    constant = {"build": build, "shard": shard}
    columns = []
    for field in RELEASE_INDEX:
        if field.name in constant:
            columns.append(pa.array(np.full(rows.num_rows, constant[field.name], np.int32)))
            continue
        column = rows[field.name].combine_chunks()
        if column.null_count:
            empty: Any = [] if pa.types.is_list(field.type) else "" if pa.types.is_string(field.type) else 0
            column = pa.array([empty if v is None else v for v in column.to_pylist()], field.type)
        columns.append(column)
    return pa.table(columns, schema=RELEASE_INDEX)
