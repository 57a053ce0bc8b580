"""Cache: blocks of what was read, in a local folder of bounded size that any number of processes share.

Files are kept in slots of 1 MiB, sparse, each with a table of its blocks' checksums: a read fetches the 16 KiB blocks
that it lacks and no more, whatever way later reads are cut (a cache by exact range would miss when a batch coalesces
its reads otherwise, one by whole slots would fetch a megabyte for a small picture). A block counts from the moment that
its checksum stands and agrees, so that a writer may be killed at any time and several may write the same.
"""

import errno
import hashlib
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import crc32c
import filelock

from medloom.model.byte_source import ByteSource, Identity, Request, check_range, check_room
from medloom.model.meter import Meter
from medloom.schemas.errors import ConfigError, WrongBytes

BLOCK, SLOT = 16 << 10, 1 << 20
_BLOCKS = SLOT // BLOCK
_MAGIC = b"medloom cache 1\n"
_TABLE = len(_MAGIC) + 32  # where the table begins, after magic and digest: per block its crc32c and its size
_NONE = bytes(8)  # entry of a block that is not kept
_HEAD = 4096  # bytes before the first block
LEAST_BYTES = 8 * (SLOT + _HEAD)
_KEPT = 0.9  # of the limit stays when slots must go, so that they need not go again at once
_LOCK_S = 5.0  # a process that was stopped may hold the lock: then nothing is kept, and reading goes on

log = logging.getLogger(__name__)
_told: set[Path] = set()  # folders of which it was said that they take no more


@dataclass(frozen=True)
class Slot:
    """One megabyte of one state of one file.

    Attributes:
        digest: by which it is found: of the store, path, identity and number.
        size: bytes of the file in it, at most `SLOT`.
    """

    digest: bytes
    size: int

    def size_of(self, block: int) -> int:
        """Bytes of the file in a block: `BLOCK` but for the file's last."""
        return min(BLOCK, self.size - block * BLOCK)


class BlockCache:
    """A folder of slots, least lately used go first.

    Args:
        folder: local folder, made when it is not there.
        size_bytes: the most that slots take of the disk, over all processes that share the folder.

    Attributes:
        counts: hits and misses, in blocks, and evicted, in slots, of this process.

    Raises:
        ConfigError: the folder cannot be used, or `size_bytes` is too small.
    """

    def __init__(self, folder: str | Path, *, size_bytes: int):
        if size_bytes < LEAST_BYTES:
            raise ConfigError(f"cache_bytes={size_bytes}: a cache needs at least {LEAST_BYTES} bytes")
        self.folder, self.size_bytes = Path(folder).absolute(), size_bytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "lock").touch(mode=0o600)
        except OSError as fault:
            raise ConfigError(f"cannot keep a cache in {folder}: {fault.strerror}; name another folder") from fault
        self._begin()

    def _begin(self) -> None:
        self.counts = {"hits": 0, "misses": 0, "evicted": 0}
        self._pid, self._lock, self._writable = os.getpid(), threading.Lock(), True
        self._file_lock = filelock.FileLock(self.folder / "lock", poll_interval=0.005, mode=0o600)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "size_bytes": self.size_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def load(self, slot: Slot, blocks: range) -> dict[int, memoryview]:
        """Return those of a slot's blocks that are kept and whole; damaged ones are dropped."""
        self._renew_after_fork()
        found: dict[int, memoryview] = {}
        with suppress(OSError), _opened(self._path(slot), os.O_RDWR) as fd:  # most often there is no such file
            head = os.pread(fd, _TABLE + 8 * _BLOCKS, 0)
            data = memoryview(os.pread(fd, len(blocks) * BLOCK, _HEAD + blocks.start * BLOCK))
            if head[:_TABLE] == _MAGIC + slot.digest:
                found = self._whole(fd, slot, blocks, table=head[_TABLE:], data=data)
            elif len(head) >= _TABLE:  # else it is being made
                self._path(slot).unlink()
            if found:
                os.utime(fd)
        with self._lock:
            self.counts["hits"] += len(found)
            self.counts["misses"] += len(blocks) - len(found)
        return found

    def _whole(self, fd: int, slot: Slot, blocks: range, *, table: bytes, data: memoryview) -> dict[int, memoryview]:
        found, damaged = {}, 0
        for i, block in enumerate(blocks):
            entry = table[8 * block : 8 * block + 8] or _NONE
            piece = data[i * BLOCK : i * BLOCK + slot.size_of(block)]
            if entry == _entry(slot, block, piece) and len(piece) == slot.size_of(block):
                found[block] = piece
            elif entry != _NONE:
                damaged += 1
                os.pwrite(fd, _NONE, _TABLE + 8 * block)
        if damaged:
            log.warning("%d blocks of the cache in %s were damaged and are fetched anew", damaged, self.folder)
        return found

    def keep(self, slot: Slot, first: int, data: memoryview) -> None:
        """Keep the blocks that `data` holds, from block `first` of a slot on, unless the disk is full."""
        self._renew_after_fork()
        if not self._writable:
            return
        blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        try:
            with self._lock, self._file_lock.acquire(timeout=_LOCK_S):
                path = self._path(slot)
                self._make_room(len(blocks) * BLOCK + (0 if path.exists() else _HEAD))
                with _opened(path, os.O_RDWR | os.O_CREAT) as fd:
                    _write(fd, _MAGIC + slot.digest, 0)
                    _write(fd, data, _HEAD + first * BLOCK)
                    _write(fd, b"".join(_entry(slot, *block) for block in enumerate(blocks, first)), _TABLE + 8 * first)
        except OSError as fault:  # or another process holds the lock and does not go on
            self._give_up(fault.strerror or str(fault))

    def drop(self, slot: Slot, blocks: range) -> None:
        """Forget blocks whose bytes proved wrong."""
        with suppress(OSError), _opened(self._path(slot), os.O_RDWR) as fd:
            os.pwrite(fd, _NONE * len(blocks), _TABLE + 8 * blocks.start)

    def used_bytes(self) -> int:
        """Bytes of the disk that all slots take, counted now."""
        return sum(size for _, size, _ in self._slots())

    def _path(self, slot: Slot) -> Path:
        name = slot.digest.hex()
        return self.folder / name[:2] / name[2:]

    def _renew_after_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin()  # another thread may have held the lock

    def _give_up(self, why: str) -> None:
        self._writable = False
        if self.folder not in _told:
            _told.add(self.folder)
            log.warning(
                "the cache in %s takes no more (%s); what it does not hold comes from the store", self.folder, why
            )

    def _make_room(self, size: int) -> None:
        """Count `size` bytes as used before they are written, and delete slots where that would be too many."""
        used = self._counted()
        if used + size > self.size_bytes:
            used = self._evict(int(_KEPT * self.size_bytes) - size)
        told = struct.pack("<Q", used + size)
        with _opened(self.folder / "used", os.O_RDWR | os.O_CREAT) as fd:
            _write(fd, told + struct.pack("<I", crc32c.crc32c(told)), 0)

    def _counted(self) -> int:
        """What `used` says; where it says nothing sound, what is there."""
        with suppress(FileNotFoundError):
            told = (self.folder / "used").read_bytes()
            if len(told) == 12 and crc32c.crc32c(told[:8]) == int.from_bytes(told[8:], "little"):
                return int.from_bytes(told[:8], "little")
        return self.used_bytes()

    def _evict(self, most: int) -> int:
        """Delete slots, those used longest ago first, until they take at most `most` bytes; return what they take."""
        slots = sorted(self._slots())
        total = sum(size for _, size, _ in slots)
        for _, size, path in slots:
            if total <= most:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
            self.counts["evicted"] += 1
        return total

    def _slots(self) -> Iterator[tuple[int, int, str]]:
        """Time of last use in ns, bytes taken and path of every slot."""
        for folder in self.folder.iterdir():
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    facts = entry.stat()
                    yield facts.st_mtime_ns, facts.st_blocks * 512, entry.path


@dataclass(frozen=True)
class _File:
    """One state of a file of a store."""

    store: str
    path: str
    identity: Identity

    def covers(self, start: int, end: int) -> bool:
        """Whether it is known to have the bytes [start, end)."""
        return 0 <= start <= end <= self.identity.size

    def slot(self, number: int) -> Slot:
        """The `number`th megabyte of it."""
        size, tag = self.identity.size, self.identity.tag
        state = f"{self.store}\0{self.path}\0{size}\0{tag}\0{number}"
        return Slot(hashlib.sha256(state.encode()).digest(), min(SLOT, size - number * SLOT))

    def request(self, run: range) -> Request:
        """What to ask the source for a run of its blocks."""
        return self.path, run.start * BLOCK, min(run.stop * BLOCK, self.identity.size)


class CachedSource:
    """A source whose reads are answered from a cache as far as it holds them; what is missing is fetched at once.

    A file's identity is asked once, so that a cache never answers for a file that was replaced before.

    Args:
        source: what is read from.
        cache: what keeps it.
        name: of the store, the same in all processes that are to share what is kept.
        meter: counts blocks as hits and misses, and the bytes that hits gave.
    """

    def __init__(self, source: ByteSource, cache: BlockCache, *, name: str, meter: Meter | None = None):
        self.source, self.cache, self.name, self.meter = source, cache, name, meter or Meter()
        self._known: dict[str, _File] = {}
        self._doubted: set[str] = set()  # paths whose identity is asked anew at their next read

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}, "_doubted": set()}

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a file."""
        (found,) = self.read_many([(path, start, end)])
        if isinstance(found, WrongBytes):
            raise found
        return found

    def read_into(self, path: str, start: int, end: int, out: memoryview) -> None:
        """Read the bytes [start, end) into `out`."""
        check_room(out, check_range(path, start, end))[:] = self.read(path, start, end)

    def read_many(self, requests: Sequence[Request]) -> list[bytes | WrongBytes]:
        """Read many ranges: from the cache, and what it lacks from the source at once."""
        files = self._files({path for path, _, _ in requests})
        wanted: dict[str, set[int]] = {}
        past = []  # a file's end, or what is known of it: the source will say what is wrong
        for path, start, end in requests:
            if files[path].covers(start, end):
                wanted.setdefault(path, set()).update(_blocks(start, end))
            else:
                past.append((path, start, end))
        found = {path: self._load(files[path], sorted(blocks)) for path, blocks in wanted.items()}
        missing = [(path, run) for path, blocks in wanted.items() for run in _runs(sorted(blocks - found[path].keys()))]
        fetched = self.source.read_many([*(files[path].request(run) for path, run in missing), *past])
        for (path, run), data in zip(missing, fetched, strict=False):
            found[path] |= self._kept(files[path], run, data)
        told = dict(zip(past, fetched[len(missing) :], strict=True))
        return [told[request] if request in told else _cut(found[request[0]], *request[1:]) for request in requests]

    def identity(self, path: str) -> Identity:
        """Return what tells this state of a file from another, asked now."""
        return self.source.identity(path)

    def identities(self, paths: Sequence[str]) -> list[Identity]:
        """Return `identity` of many files, asked now."""
        return self.source.identities(paths)

    def forget(self, path: str, start: int, end: int) -> None:
        """Drop what is kept of a range, and ask for the file's identity anew at the next read."""
        file = self._known.get(path)
        if file and file.covers(start, end):
            for number, run in _by_slot(_blocks(start, end)):
                self.cache.drop(file.slot(number), run)
        self._doubted.add(path)
        self.source.forget(path, start, end)

    def close(self) -> None:
        """Release what the source holds open."""
        self.source.close()

    def _files(self, paths: set[str]) -> dict[str, _File]:
        known = {path: self._known.get(path) for path in paths}
        new = sorted(path for path, file in known.items() if file is None or path in self._doubted)
        asked = self.source.identities(new) if new else []
        self._doubted.difference_update(new)
        fresh = {path: _File(self.name, path, identity) for path, identity in zip(new, asked, strict=True)}
        self._known.update(fresh)
        return {path: fresh.get(path) or cast(_File, file) for path, file in known.items()}

    def _load(self, file: _File, blocks: Sequence[int]) -> dict[int, memoryview | WrongBytes]:
        found: dict[int, memoryview | WrongBytes] = {}
        began, size = time.perf_counter(), 0
        for whole in _runs(blocks):
            for number, run in _by_slot(whole):
                for block, data in self.cache.load(file.slot(number), run).items():
                    found[number * _BLOCKS + block] = data
                    size += len(data)
        if found:
            self.meter.hit(len(found))
            self.meter.fetched(time.perf_counter() - began, size)
        if len(found) < len(blocks):
            self.meter.miss(len(blocks) - len(found))
        return found

    def _kept(self, file: _File, run: range, data: bytes | WrongBytes) -> dict[int, memoryview | WrongBytes]:
        """Keep what was fetched for a run of blocks, and return it by block."""
        if isinstance(data, WrongBytes):
            return dict.fromkeys(run, data)
        view = memoryview(data)
        for number, part in _by_slot(run):
            at = (number * _BLOCKS + part.start - run.start) * BLOCK
            self.cache.keep(file.slot(number), part.start, view[at : at + len(part) * BLOCK])
        return {block: view[i * BLOCK : (i + 1) * BLOCK] for i, block in enumerate(run)}


def _blocks(start: int, end: int) -> range:
    """Return the blocks that hold the bytes [start, end); none for no bytes."""
    return range(start // BLOCK, -(-end // BLOCK)) if start < end else range(0)


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Cut ascending numbers into ranges without gaps."""
    begin = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield range(numbers[begin], numbers[i - 1] + 1)
            begin = i


def _by_slot(run: range) -> Iterator[tuple[int, range]]:
    """Cut a run of a file's blocks by slot: the slot's number, and the blocks as that slot counts them."""
    for number in range(run.start // _BLOCKS, -(-run.stop // _BLOCKS)):
        first = number * _BLOCKS
        yield number, range(max(run.start - first, 0), min(run.stop - first, _BLOCKS))


def _cut(blocks: dict[int, memoryview | WrongBytes], start: int, end: int) -> bytes | WrongBytes:
    """Put the bytes [start, end) together out of the blocks that cover them."""
    pieces = []
    for block in _blocks(start, end):
        data = blocks[block]
        if isinstance(data, WrongBytes):
            return data
        at = block * BLOCK
        pieces.append(data[max(start - at, 0) : end - at])
    return b"".join(pieces)


def _entry(slot: Slot, block: int, data: memoryview) -> bytes:
    """What the table says of a block: its size, never 0, and its crc32c, begun so that no other block's would do."""
    begun = int.from_bytes(slot.digest[:4], "little") ^ block
    return struct.pack("<II", crc32c.crc32c(data, begun), len(data))


def _write(fd: int, data: bytes | memoryview, at: int) -> None:
    written = os.pwrite(fd, data, at)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
