"""A release's own index of its media: one Arrow file per split and layout, checked piece by piece as it is touched.

`REL/NNNN/index/<split>-<layout>.arrow` holds rows of `RELEASE_INDEX` as uncompressed Arrow IPC, to be mapped into
memory. `index/batches.parquet` says where its record batches stand, with their checksums; release.json pins it.
"""

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medloom.schemas.build import conform
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.keys import sha256_hex
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release
from medloom.schemas.store import Store
from medloom.schemas.tables import RELEASE_INDEX

BATCHES_KEPT = 4096  # record batches whose columns stay open
BATCHES = pa.schema([
    ("split", pa.string()), ("layout", pa.string()), ("build", pa.int32()), ("shard", pa.int32()),
    ("first", pa.int64()), ("rows", pa.int32()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32c", pa.uint32()),
])  # fmt: skip
ALL = tuple(RELEASE_INDEX.names)
MEND = "`medloom lint --repair` writes it again"
Read = Callable[[str, int, int], Any]  # bytes [start, end) of a path of the release's store
_batches: WeakKeyDictionary[Release, pa.Table] = WeakKeyDictionary()


def index_path(release: str, split: str, layout: str) -> str:
    """Path of the index of one split and layout, in the folder of releases."""
    return f"{release}/index/{split}-{layout}.arrow"


def batches_path(release: str) -> str:
    """Path of the table of a release's record batches, in the folder of releases."""
    return f"{release}/index/batches.parquet"


def has_index(release: Release) -> bool:
    """Whether a release has an index of its own; the oldest have not."""
    return "index" in release.facts


def is_whole(release: Release) -> bool:
    """Whether the files of a release's index are there, of the sizes that release.json pins; their bytes are not read.

    Raises:
        FormatError: the table of its record batches is not the one that release.json pins.
    """
    read_batches(release)
    files = release.facts["index"]["files"]
    sizes = {f"{release.name}/index/{name}.arrow": facts["size"] for name, facts in files.items()}
    return all(release.store.exists(path) and release.store.size(path) == size for path, size in sizes.items())


class ReleaseIndex:
    """Rows of `RELEASE_INDEX` of one split and layout; safe to share between threads, and to send to a process.

    A record batch is checked against its checksum when it is first touched, and never given when it fails. On this
    machine the file is mapped; elsewhere each record batch is fetched once, into a file without a name.

    Args:
        release: must have an index (`has_index`).
        split, layout: which.
        read: how bytes of the release's store are had; the store's own reader by default.
        forget: what to call with a range whose bytes proved wrong, before they are read once more.

    Raises:
        FormatError: the index is not the one that release.json pins.
    """

    def __init__(
        self, release: Release, split: str, layout: str, *, read: Read | None = None, forget: Read | None = None
    ):
        self.release, self.split, self.layout = release, split, layout
        self.path = index_path(release.name, split, layout)
        self.read, self.forget = read, forget
        self._open()

    def _open(self) -> None:
        table = batches_of(self.release)
        facts = self.release.facts["index"]["files"].get(f"{self.split}-{self.layout}", {"rows": 0, "size": 0})
        self._rows, size = int(facts["rows"]), int(facts["size"])
        mine = pc.and_(pc.equal(table["split"], self.split), pc.equal(table["layout"], self.layout))
        table = table.filter(mine)
        self._first, self._offset, self._size, self._crc32c = (
            table[n].to_numpy() for n in ("first", "offset", "size", "crc32c")
        )
        self._bytes = _Mapped(self.release.store, self.path, size) if self._is_mapped else _Fetched(self, size)
        self._batch = functools.lru_cache(maxsize=BATCHES_KEPT)(self._open_batch)

    @property
    def _is_mapped(self) -> bool:
        return self.release.store.is_local and self.read is None

    def __len__(self) -> int:
        return self._rows

    def members(self, at: int, *, columns: Sequence[str] = ALL) -> list[dict[str, Any]]:
        """Return the rows of the medium whose first member stands in row `at`, one per field of its layout.

        A row costs about half a microsecond per column: a reader of many small media names those that it needs.

        Raises:
            FormatError: there is no such row, or its record batch fails its checksum.
        """
        count = len(LAYOUTS[self.layout])
        if not 0 <= at <= self._rows - count:
            raise FormatError(f"{self._where} has {self._rows} rows, and none for a medium in row {at}; {MEND}")
        self._must_be_whole()
        number = int(np.searchsorted(self._first, at, side="right")) - 1
        return self._batch(number).rows(at - int(self._first[number]), count, columns)

    def _must_be_whole(self) -> None:
        if self._bytes.is_cut:  # to touch what a mapped file no longer has would end the process
            raise FormatError(f"{self._where} was cut short while it was read; {MEND}")

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all rows, all of it checked."""
        self._must_be_whole()
        parts = [self._batch(number).batch.column(name) for number in range(len(self._first))]
        return pa.chunked_array(parts, RELEASE_INDEX.field(name).type)

    def check(self) -> Iterator[tuple[int, str]]:
        """Give number and fault of each record batch that fails its checksum."""
        for number in range(len(self._first)):
            try:
                self._open_batch(number)
            except FormatError as fault:
                yield number, str(fault)

    @property
    def _where(self) -> str:
        return f"{self.release.url}/{self.path}"

    def _open_batch(self, number: int) -> "_Batch":
        start, size = int(self._offset[number]), int(self._size[number])
        self._must_be_whole()
        for attempt in range(2):  # bytes may be damaged on their way
            data = self._bytes.read(number, start, size, anew=attempt > 0)
            if len(data) == size and crc32c.crc32c(data) == int(self._crc32c[number]):
                return _Batch(pa.ipc.read_record_batch(pa.py_buffer(data), RELEASE_INDEX))
        raise FormatError(f"{self._where}: record batch {number} at byte {start} fails its crc32c; {MEND}")

    def __getstate__(self) -> dict[str, Any]:
        return {
            "release": self.release,
            "split": self.split,
            "layout": self.layout,
            "path": self.path,
            "read": self.read,
            "forget": self.forget,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class _Mapped:
    """The index as a file of this machine, in memory as it is touched."""

    def __init__(self, store: Store, path: str, size: int):
        try:
            self._whole = pa.memory_map(str(store.local(path))).read_buffer() if size else pa.py_buffer(b"")
            self._size, self._file = size, os.open(store.local(path), os.O_RDONLY | os.O_CLOEXEC) if size else -1
        except FileNotFoundError:
            raise FormatError(f"{store.url}/{path} is not there; {MEND}") from None
        if self._whole.size != size:
            raise FormatError(f"{store.url}/{path} has {self._whole.size} bytes, its release says {size}; {MEND}")

    @property
    def is_cut(self) -> bool:
        """Whether the file became shorter since it was opened."""
        return self._file >= 0 and os.fstat(self._file).st_size < self._size

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)

    def read(self, number: int, start: int, size: int, *, anew: bool = False) -> Any:
        """Return the bytes of a record batch, as they are now."""
        return memoryview(self._whole.slice(start, size))


class _Fetched:
    """The index elsewhere: a record batch is fetched when it is first touched, and kept in a file without a name."""

    is_cut = False

    def __init__(self, index: ReleaseIndex, size: int):
        self._index, self._have = index, set[int]()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._file.truncate(size)

    def read(self, number: int, start: int, size: int, *, anew: bool = False) -> Any:
        """Return the bytes of a record batch, b"" where they cannot be had; `anew`: whatever is kept of them."""
        if number in self._have and not anew:
            return os.pread(self._file.fileno(), size, start)
        release, path = self._index.release, self._index.path
        if anew and self._index.forget:
            self._index.forget(path, start, start + size)
        try:
            data = bytes((self._index.read or release.store.read)(path, start, start + size))
        except FileNotFoundError:
            raise FormatError(f"{release.url}/{path} is not there; {MEND}") from None
        except WrongBytes:
            return b""
        if len(data) == size:
            with contextlib.suppress(OSError):  # a full disk: it is fetched again
                os.pwrite(self._file.fileno(), data, start)
                self._have.add(number)
        return data


class _Batch:
    """A record batch whose rows are had as Python values, without going through Arrow's scalars."""

    def __init__(self, batch: pa.RecordBatch):
        self.batch = batch
        self._cells = {name: _cells(batch.column(name)) for name in batch.schema.names}

    def rows(self, start: int, count: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return `count` rows from `start` on."""
        cells = [self._cells[name](start, start + count) for name in columns]
        return [dict(zip(columns, values, strict=True)) for values in zip(*cells, strict=True)]


def _cells(column: pa.Array) -> Callable[[int, int], list[Any]]:
    """Return what gives the values of rows [i, j) of a column without nulls."""
    if not (pa.types.is_string(column.type) or pa.types.is_list(column.type)):
        numbers = memoryview(column.to_numpy())
        return lambda i, j: numbers[i:j].tolist()
    _, offsets, *_ = column.buffers()
    ends = memoryview(offsets).cast("B").cast("i")
    if pa.types.is_string(column.type):
        text = memoryview(column.buffers()[2] or b"")
        return lambda i, j: [str(text[ends[k] : ends[k + 1]], "utf-8") for k in range(i, j)]
    values = memoryview(column.values.to_numpy())
    return lambda i, j: [values[ends[k] : ends[k + 1]].tolist() for k in range(i, j)]


def batches_of(release: Release) -> pa.Table:
    """Return what `read_batches` does, read once for a `Release`."""
    if release not in _batches:
        _batches[release] = read_batches(release)
    return _batches[release]


def read_batches(release: Release) -> pa.Table:
    """Return where the record batches of a release's index stand, rows of `BATCHES`.

    Raises:
        FormatError: the release has no index, or the table is not the one that release.json pins.
    """
    if not has_index(release):
        raise FormatError(f"release {release.number} at {release.url} is too old to have an index of its own")
    path = batches_path(release.name)
    try:
        data = release.store.read(path)
    except FileNotFoundError:
        raise FormatError(f"{release.url}/{path} is not there; {MEND}") from None
    if sha256_hex(data) != release.facts["index"]["batches_sha256"]:
        raise FormatError(f"{release.url}/{path} was changed after release {release.number}; {MEND}")
    return conform(pq.read_table(io.BytesIO(data)), BATCHES)
