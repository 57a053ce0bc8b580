"""The raw zone: what was fetched, kept as it came, so that no build asks a service twice.

    RAW/raw.json                        {"format_version": 1, "kind": "raw"}
    RAW/objects/<2 hex>/<sha256>        bytes, once, however many names they have
    RAW/catalog/part-00000.parquet      rows of `RAW_OBJECT`, only ever added; the newest row of a name counts

Names from outside are data in the catalog and never a path: objects lie under the sha256 of their bytes.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from medloom.schemas.errors import FormatError, RetryLater, SourceError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.store import Store, mendable

RAW_FORMAT = 1
MARK = "raw.json"
CATALOG = "catalog"
LOCK = ".lock"
LOCK_WAIT_S = 5.0  # an append takes far less
MOST_ROWS = 1_000_000  # of a part that joins others: it is held in memory
MANY_PARTS = 64  # from then on, an append joins the newest of them
PARTIAL_AGE_S = 86_400.0  # a partial object this old belongs to no run that still writes

ROLES = ("article", "metadata", "media", "record")
OUTCOMES = ("kept", "refused", "withdrawn", "superseded")

# One row per thing that was asked for. `name` is path-like ("PMC11370360.1/NPR2-43-85-g001.jpg"), `article` the unit it
# belongs to ("PMC11370360.1"); `digest` is the sha256 of the bytes, "" when none are kept; `md5` and `etag` are as the
# service states them; `retrieved_at` is UTC ("2026-11-22T18:00:00Z"); `reason` and `detail` are as in `Refused`.
RAW_OBJECT = pa.schema([
    *((name, pa.string()) for name in ("name", "article", "role", "url", "digest", "md5")),
    ("size", pa.int64()),
    *((name, pa.string()) for name in ("etag", "retrieved_at", "outcome", "reason", "detail")),
])  # fmt: skip
_NOTHING = {field.name: 0 if field.type == pa.int64() else "" for field in RAW_OBJECT}


class RawZone:
    """A raw zone that is there.

    Objects may be put by any number of processes at once; rows are appended by one at a time.

    Raises:
        SourceError: there is none at `url` (a folder by path or fsspec URL).
        FormatError: it is of a newer format.
    """

    def __init__(self, url: str):
        self.store = Store(url)
        self.url = self.store.url
        mark = _mark(self.store)
        if mark is None:
            raise SourceError(f"{self.url} is no raw zone: there is no {MARK} in it; `medloom fetch` makes one")
        if mark.get("format_version", 0) > RAW_FORMAT:
            raise FormatError(
                f"the raw zone {self.url} has format {mark['format_version']}, and this version reads up to "
                f"{RAW_FORMAT}; use a newer medloom"
            )

    @classmethod
    def at(cls, url: str) -> "RawZone":
        """Return the raw zone at `url`, made when there is nothing yet.

        Raises:
            SourceError: the folder holds something else, or cannot be written.
        """
        store = Store(url)
        if _mark(store) is None:
            held = store.names("") or store.folders("")
            if held and _mark(store) is None:  # else another process made it meanwhile
                raise SourceError(f"{store.url} holds files and is no raw zone; choose a new or empty folder")
            store.create(MARK, (canonical_json({"format_version": RAW_FORMAT, "kind": "raw"}) + "\n").encode())
        return cls(url)

    def rows(self, among: Iterable[str] | None = None) -> pa.Table:
        """Return the newest row of each name, sorted by name; with `among`, of these articles only."""
        wanted = ("article", sorted(set(among))) if among is not None else None
        for _ in range(10):
            try:
                return _newest([self._part(name, wanted) for name in self._parts()])
            except FileNotFoundError:  # `compact` took a part away that was listed: list again
                continue
        raise RetryLater(f"the catalog of {self.url} changes while it is read; run the same command again")

    def _part(self, name: str, among: tuple[str, list[str]] | None) -> pa.Table:
        """Return a part's rows, out of bytes that are read at once: it may be replaced by another meanwhile."""
        if among and not among[1]:
            return RAW_OBJECT.empty_table()
        file = pa.BufferReader(self.store.read(f"{CATALOG}/{name}"))
        table = pq.read_table(file, filters=[(among[0], "in", among[1])] if among else None)
        return table.select(RAW_OBJECT.names).cast(RAW_OBJECT)

    def _parts(self) -> list[str]:
        """Return the parts' names, oldest first."""
        names = [name for name in self.store.names(CATALOG) if re.fullmatch(r"part-\d{5,}\.parquet", name)]
        return sorted(names, key=_number)

    def put(self, content: bytes | Path) -> tuple[str, int]:
        """Keep bytes, or those of a file, and return their sha256 and size; equal bytes are kept once.

        Raises:
            RetryLater: the disk is full, or the file changed while it was read.
        """
        digest, size = _digest(content)
        name = object_name(digest)
        if self.store.exists(name) and self.store.size(name) == size:
            return digest, size
        with self.store.writing(name) as file:
            written = hashlib.sha256()
            for block in _blocks(content):
                written.update(block)
                file.write(block)
            if written.hexdigest() != digest:
                raise RetryLater(f"{content!s} changed while it was read; run the same command again")
        return digest, size

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows of `RAW_OBJECT` as a new part, sorted by name; a column that a row lacks is "" or 0.

        Where parts have become many, small neighbours are joined, so that a catalog is read in tens of pieces.

        Raises:
            RetryLater: another run holds the catalog for more than `LOCK_WAIT_S`, or the disk is full.
            ValueError: a row has an unknown column, role or outcome, or is kept without the digest of its bytes.
        """
        if not rows:
            return
        table = _table(rows)
        with self._writing():
            parts = self._parts()
            number = _number(parts[-1]) + 1 if parts else 0
            # Where there is no lock (an object store), another writer may take the number first.
            while not self.store.create_table(f"{CATALOG}/part-{number:05d}.parquet", table):
                number += 1
            if len(parts) + 1 >= MANY_PARTS:
                self._tidy()

    def object_path(self, digest: str) -> str:
        """Return the path of an object, relative to the zone."""
        return object_name(digest)

    def read(self, digest: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FormatError: they are not there, or are others than those that were kept.
        """
        try:
            data = self.store.read(object_name(digest))
        except FileNotFoundError:
            raise FormatError(f"object {digest[:12]} of {self.url} is missing; fetch it again") from None
        if sha256_hex(data) != digest:
            raise FormatError(f"object {digest[:12]} of {self.url} is damaged; delete it and fetch it again")
        return data

    def compact(self) -> None:
        """Join neighbouring parts, of `MOST_ROWS` rows together at most, into the last of them; clear what was left.

        Readers may go on: a part is replaced by one that says the same and more before the older ones go.

        Raises:
            RetryLater: as `append` does.
        """
        with self._writing():
            run: list[tuple[str, pa.Table]] = []
            for name in self._parts():
                table = self._part(name, None)
                if run and sum(t.num_rows for _, t in run) + table.num_rows > MOST_ROWS:
                    self._join(run)
                    run = []
                run.append((name, table))
            self._join(run)
            self._sweep_objects()

    def _tidy(self) -> None:
        """Join the newest parts with as many before them as are not much larger, so that a row is rewritten seldom."""
        run: list[tuple[str, pa.Table]] = []
        total = 0
        try:
            for name in reversed(self._parts()):
                rows = self.store.rows_of(f"{CATALOG}/{name}")
                if run and (rows > 4 * total or total + rows > MOST_ROWS):
                    break
                run.insert(0, (name, self._part(name, None)))
                total += rows
        except FileNotFoundError:  # where there is no lock, another writer joined them just now
            return
        self._join(run)

    def _join(self, run: list[tuple[str, pa.Table]]) -> None:
        if len(run) < 2:
            return
        self.store.write_table(f"{CATALOG}/{run[-1][0]}", _newest([table for _, table in run]))
        for name, _ in run[:-1]:
            self.store.delete(f"{CATALOG}/{name}")

    def _sweep_objects(self) -> None:
        if not self.store.is_local:
            return
        for left in self.store.local("objects").glob("*/.partial-*"):
            if time.time() - left.stat().st_mtime > PARTIAL_AGE_S:
                left.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the catalog; an object store has no lock that dies with its holder, and needs none to append."""
        if not self.store.is_local:
            yield
            return
        lock = filelock.FileLock(self.store.local(LOCK), timeout=LOCK_WAIT_S)
        try:
            lock.acquire()
        except filelock.Timeout:  # before OSError, which it is as well
            raise RetryLater(f"another run is writing the catalog of {self.url}; run the same command again") from None
        except OSError as fault:
            raise mendable(fault, self.url) from fault
        try:
            self.store.sweep(CATALOG)
            yield
        finally:
            lock.release()


def is_raw_zone(url: str) -> bool:
    """Whether there is a raw zone at `url`."""
    return _mark(Store(url)) is not None


def object_name(digest: str) -> str:
    """Return the path of the object with a sha256, relative to its zone.

    Raises:
        FormatError: it is no sha256.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise FormatError(f"{digest[:80]!r} is no sha256, and names no object of a raw zone")
    return f"objects/{digest[:2]}/{digest}"


def _number(part: str) -> int:
    return int(part.removeprefix("part-").removesuffix(".parquet"))


def _mark(store: Store) -> dict[str, Any] | None:
    """Return what makes a folder a raw zone, None when it is none."""
    try:
        said = json.loads(store.read(MARK))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("kind") == "raw" else None


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as a table sorted by name; of rows with one name, the last counts."""
    by_name: dict[str, dict[str, Any]] = {}
    for row in rows:
        full = {**_NOTHING, **row}
        if full.keys() != _NOTHING.keys():
            raise ValueError(f"columns {sorted(full.keys() - _NOTHING.keys())} are none of a raw zone's catalog")
        if full["role"] not in ROLES or full["outcome"] not in OUTCOMES or not full["name"]:
            raise ValueError(f"role {full['role']!r}, outcome {full['outcome']!r} or name {full['name']!r} is none")
        if full["outcome"] == "kept":
            object_name(full["digest"])
        by_name[full["name"]] = full
    return pa.Table.from_pylist([by_name[name] for name in sorted(by_name)], schema=RAW_OBJECT)


def _newest(parts: list[pa.Table]) -> pa.Table:
    """Return the last row of each name, sorted by name."""
    if not parts:
        return RAW_OBJECT.empty_table()
    rows = pa.concat_tables(parts)
    numbered = pa.table({"name": rows["name"], "at": pa.array(range(rows.num_rows), pa.int64())})
    last = numbered.group_by("name").aggregate([("at", "max")]).sort_by("name")
    return rows.take(last["at_max"]).combine_chunks()


def _digest(content: bytes | Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for block in _blocks(content):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def _blocks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while block := file.read(1 << 20):
            yield block
