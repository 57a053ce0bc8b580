"""Byte source: ranges of the files of a folder, local or remote; a range comes whole, or an error says why."""

import errno
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from medloom.model.meter import Meter
from medloom.schemas.errors import ConfigError, RetryLater, SourceError, WrongBytes
from medloom.schemas.store import Store

ATTEMPTS, TIMEOUT_S = 3, 60.0
_KEPT = 256  # descriptors kept open by a local source, a quarter of the usual limit of 1024
_CALL = 1 << 30  # bytes of one preadv; Linux gives at most 2 GiB - 4 KiB at once


@dataclass(frozen=True)
class Identity:
    """What tells one state of a file from another: its size, and a tag (ETag, time of change), "" where none is had."""

    size: int
    tag: str


Request = tuple[str, int, int]  # path inside the store, start, end: the bytes [start, end)


class ByteSource(Protocol):
    """Reads ranges of the files of one folder; safe to share between threads, picklable, usable after a fork.

    Every read gives all the bytes asked for, or raises:
        WrongBytes: the file is shorter than that, or its disk cannot read it: another example may be drawn.
        FileNotFoundError: there is no such file.
        RetryLater: the store did not answer, or only with faults, within the time-out and the attempts given.
        SourceError: it may not be read, or the store does not serve ranges.
    """

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a file."""

    def read_into(self, path: str, start: int, end: int, out: memoryview) -> None:
        """Read the bytes [start, end) into `out`, a writable C-contiguous buffer of just that many bytes.

        After an error, what `out` holds is undefined.
        """

    def read_many(self, requests: Sequence[Request]) -> list[bytes | WrongBytes]:
        """Read many ranges, at once where that is faster; wrong bytes take their place, other errors are raised."""

    def identity(self, path: str) -> Identity:
        """Return what tells this state of a file from another."""

    def identities(self, paths: Sequence[str]) -> list[Identity]:
        """Return `identity` of many files, at once where that is faster."""

    def forget(self, path: str, start: int, end: int) -> None:
        """Drop what is kept of a range whose bytes proved wrong, so that the next read asks the store."""

    def close(self) -> None:
        """Release what is held open; a later read opens it anew."""


def open_source(
    store: Store,
    *,
    cache: str = "",
    cache_bytes: int = 0,
    timeout_s: float = TIMEOUT_S,
    attempts: int = ATTEMPTS,
    meter: Meter | None = None,
) -> ByteSource:
    """Return the source of a store's files.

    Args:
        store: the folder that paths are relative to.
        cache: local folder that keeps what was read, shared by all processes that name it; "" for none.
        cache_bytes: the most that the cache may hold.
        timeout_s: the longest a request to a remote store may go without an answer, its retries included.
        attempts: requests sent for one range before it is given up.
        meter: counts what was fetched and what the cache had.

    Raises:
        ConfigError: a limit is not positive, or the cache's folder cannot be used.
    """
    if timeout_s <= 0 or attempts < 1:
        raise ConfigError(f"timeout_s={timeout_s} and attempts={attempts}: both must be positive")
    source: ByteSource
    if store.is_local:
        source = LocalSource(store, meter=meter)
    else:
        from medloom.model.remote_source import RemoteSource

        source = RemoteSource(store, timeout_s=timeout_s, attempts=attempts, meter=meter)
    if not cache:
        return source
    from medloom.model.cache import BlockCache, CachedSource

    return CachedSource(source, BlockCache(cache, size_bytes=cache_bytes), name=store.absolute_url, meter=meter)


class _Descriptor:
    """An open file, closed when the last one that reads from it lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, path: str):
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # or a pipe of that name would hang us
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise SourceError(f"cannot read {path}: it is not a file")

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class LocalSource:
    """Reads files of this machine through descriptors that stay open, straight into the buffer given.

    A file that is replaced or deleted while its descriptor is open is still read as it was; one that is another when it
    is opened again is wrong bytes, until `forget` or `close`. There is no time-out: a network disk that hangs is a
    matter of its mount options.
    """

    def __init__(self, store: Store, *, meter: Meter | None = None):
        self.store, self.meter = store, meter or Meter()
        self._states: dict[str, tuple[int, int, int]] = {}  # of each file when it was first opened
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "meter": self.meter}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._states = {}
        self._begin()

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a file."""
        size, began = check_range(path, start, end), time.perf_counter()
        with self._readable(path) as fd:
            _must_hold(fd, path, start, end)
            pieces = []
            while size:
                pieces.append(os.pread(fd, min(size, _CALL), end - size) or _short(path, start, end, size))
                size -= len(pieces[-1])
        self.meter.fetched(time.perf_counter() - began, end - start)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, path: str, start: int, end: int, out: memoryview) -> None:
        """Read the bytes [start, end) into `out`."""
        size, began = check_range(path, start, end), time.perf_counter()
        out = check_room(out, size)
        with self._readable(path) as fd:
            _must_hold(fd, path, start, end)
            at = 0
            while at < size:
                at += os.preadv(fd, [out[at : at + _CALL]], start + at) or len(_short(path, start, end, size - at))
        self.meter.fetched(time.perf_counter() - began, size)

    def read_many(self, requests: Sequence[Request]) -> list[bytes | WrongBytes]:
        """Read many ranges, one after the other."""
        return [or_wrong(self.read, request) for request in requests]

    def identity(self, path: str) -> Identity:
        """Return its size, inode and time of change."""
        with self._readable(path, as_it_was=False) as fd:
            facts = os.fstat(fd)
        return Identity(facts.st_size, f"{facts.st_ino}-{facts.st_mtime_ns}")

    def identities(self, paths: Sequence[str]) -> list[Identity]:
        """Return the identity of each file."""
        return [self.identity(path) for path in paths]

    def forget(self, path: str, start: int, end: int) -> None:
        """Open the file anew at the next read."""
        self._drop(path)
        with self._lock:
            self._states.pop(self.store.path(path), None)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._open.clear()
            self._states.clear()

    @contextmanager
    def _readable(self, path: str, *, as_it_was: bool = True) -> Iterator[int]:
        """Give a descriptor of the file that stays open for the block, and tell what goes wrong with it."""
        full = self.store.path(path)
        try:
            descriptor = self._descriptor(full, as_it_was=as_it_was)
            yield descriptor.fd
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", full) from fault
        except PermissionError as fault:
            raise SourceError(f"cannot read {full}: permission denied; make it readable") from fault
        except OSError as fault:
            self._drop(path)
            if fault.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise RetryLater(f"cannot read {full}: {fault.strerror}; raise the limit (ulimit -n)") from fault
            raise WrongBytes(f"cannot read {full}: {fault.strerror or fault}") from fault

    def _descriptor(self, full: str, *, as_it_was: bool) -> _Descriptor:
        if self._pid != os.getpid():
            self._begin()  # after a fork: another thread may have held the lock
        with self._lock:
            found = self._open.pop(full, None)
            if found is None:
                found = _Descriptor(full)
                facts = os.fstat(found.fd)
                state = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
                if self._states.setdefault(full, state) != state:
                    if as_it_was:
                        raise WrongBytes(f"cannot read {full}: it was replaced or changed since it was first read")
                    return found
            self._open[full] = found
            if len(self._open) > _KEPT:
                self._open.popitem(last=False)
            return found

    def _drop(self, path: str) -> None:
        with self._lock:
            self._open.pop(self.store.path(path), None)


def check_range(path: str, start: int, end: int) -> int:
    """Return the number of bytes of [start, end).

    Raises:
        WrongBytes: it is no range, so what promised it is wrong.
    """
    if not 0 <= start <= end:
        raise WrongBytes(f"cannot read {path}: bytes {start} to {end} are no range")
    return end - start


def check_room(out: memoryview, size: int) -> memoryview:
    """Return `out` as bytes, which it must have `size` of.

    Raises:
        ValueError: it has not.
    """
    if out.nbytes != size:
        raise ValueError(f"a buffer of {out.nbytes} bytes for {size}")
    return out.cast("B") if size else memoryview(bytearray())


def or_wrong(read: Callable[..., bytes], request: Request) -> bytes | WrongBytes:
    """Return what `read` gives for a request, or that its bytes are wrong."""
    try:
        return read(*request)
    except WrongBytes as fault:
        return fault


def _must_hold(fd: int, path: str, start: int, end: int) -> None:
    """Look before memory is taken for it: a wrong index may promise any size."""
    size = os.fstat(fd).st_size
    if end > size:
        raise WrongBytes(f"cannot read {path}, bytes {start} to {end}: it has {size}")


def _short(path: str, start: int, end: int, missing: int) -> bytes:
    raise WrongBytes(f"cannot read {path}, bytes {start} to {end}: it was cut while being read, {missing} are missing")
