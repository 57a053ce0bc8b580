"""Remote source: ranges of objects of any fsspec store, many at once; faults are retried, and no read waits for ever.

A request holds one of `CONNECTIONS` places and has `timeout_s` for all its attempts. A request that waits for a place
is given up when no answer at all has come for that long: a slow store is waited for, one that stands still is not.
"""

import asyncio
import concurrent.futures
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import fsspec.asyn
import tenacity

from medloom.model.byte_source import Identity, Request, check_range, check_room
from medloom.model.meter import Meter
from medloom.schemas.errors import MedloomError, RetryLater, SourceError, WrongBytes
from medloom.schemas.store import Store

CONNECTIONS = 10  # botocore's pool of connections: more would wait there while their time runs
PIECE = 8 << 20  # bytes of one request; S3's guide advises 8 to 16 MiB for ranges read at once
_MANY = 1 << 30  # bytes from which on a range is looked at before it is cut into requests
_LONGEST_WAIT_S, _GRACE_S = 5.0, 1.0
_MEND = "the store is slow or down: run again later, or raise timeout_s"
# Any letter case: file systems name their store's answers each in their own way, HTTP's as its headers are written.
_STAMPS = (
    "etag", "md5", "version_id", "generation", "content-md5", "digest", "lastmodified", "last_modified",
    "last-modified", "mtime", "created",
)  # fmt: skip
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that another attempt may not meet
T = TypeVar("T")


class _Short(Exception):
    """A store gave fewer bytes than asked for."""


class RemoteSource:
    """Reads ranges through fsspec: asynchronous file systems on fsspec's own loop, others on threads that may be left.

    What stays wrong after all attempts is told apart: fewer bytes than asked for are `WrongBytes` (the object is
    shorter), faults and silence are `RetryLater`, since a store that is down must not change what is drawn.
    """

    def __init__(self, store: Store, *, timeout_s: float, attempts: int, meter: Meter | None = None):
        self.store, self.timeout_s, self.attempts, self.meter = store, timeout_s, attempts, meter or Meter()
        self._begin()

    def _begin(self) -> None:
        self._pid, self._answered, self._given_up = os.getpid(), 0.0, 0.0
        self._places: asyncio.Semaphore | None = None  # made on the loop that it belongs to

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("store", "timeout_s", "attempts", "meter")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of an object."""
        return self._wait_for(lambda: self._read(path, start, end), path)

    def read_into(self, path: str, start: int, end: int, out: memoryview) -> None:
        """Read the bytes [start, end) into `out`."""
        out = check_room(out, check_range(path, start, end))
        out[:] = self.read(path, start, end)

    def read_many(self, requests: Sequence[Request]) -> list[bytes | WrongBytes]:
        """Read many ranges at once."""
        if not requests:
            return []
        return self._wait_for(lambda: self._read_many(requests), requests[0][0])

    def identity(self, path: str) -> Identity:
        """Return an object's size (-1 where its store does not say), and its ETag or what else tells its state."""
        return self._wait_for(lambda: self._identity(path), path)

    def identities(self, paths: Sequence[str]) -> list[Identity]:
        """Return the identity of each object, asked for at once."""
        return self._wait_for(lambda: _all([self._identity(path) for path in paths]), "")

    def forget(self, path: str, start: int, end: int) -> None:
        """Keep nothing, and so forget nothing."""

    def close(self) -> None:
        """Hold nothing open: connections are fsspec's."""

    async def _read_many(self, requests: Sequence[Request]) -> list[bytes | WrongBytes]:
        async def one(request: Request) -> bytes | WrongBytes:
            try:
                return await self._read(*request)
            except WrongBytes as fault:
                return fault

        return await _all([one(request) for request in requests])

    async def _read(self, path: str, start: int, end: int) -> bytes:
        check_range(path, start, end)
        if end - start > _MANY:  # a damaged index promises any size: is there a last byte?
            await self._piece(path, end - 1, end)
        cuts = [*range(start, end, PIECE), end]
        pieces = await _all([self._piece(path, a, b) for a, b in pairwise(cuts)])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _identity(self, path: str) -> Identity:
        async def ask() -> dict[str, Any]:
            self.store.fs.invalidate_cache()  # a listing that s3fs keeps would answer for an object rewritten since
            try:
                return dict(await self._call("info", self.store.path(path)))
            except FileNotFoundError as fault:  # what fsspec's HTTP says of whatever goes wrong there
                if fault.__cause__ and may_pass(fault.__cause__):
                    raise fault.__cause__ from None
                raise

        facts = await self._tried(self._name(path), ask)
        size = facts.get("size")
        return Identity(-1 if size is None else int(size), _tag(facts))

    async def _piece(self, path: str, start: int, end: int) -> bytes:
        full = self.store.path(path)

        async def ask() -> bytes:
            began = time.perf_counter()
            data: bytes = await self._call("cat_file", full, start=start, end=end)
            if len(data) < end - start:
                raise _Short(f"it gave {len(data)} bytes of {end - start}")
            if len(data) > end - start:
                raise SourceError(
                    f"cannot read {self._name(path)}: asked for {end - start} bytes it gave {len(data)}; "
                    "the server does not serve ranges: use one that does, or copy the data"
                )
            self.meter.fetched(time.perf_counter() - began, len(data))
            return data

        return await self._tried(f"{self._name(path)}, bytes {start} to {end}", ask)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.store.fs.async_impl:
            return await getattr(self.store.fs, f"_{method}")(*args, **kwargs)
        return await _on_thread(partial(getattr(self.store.fs, method), *args, **kwargs))

    def _name(self, path: str) -> str:
        return f"{self.store.url}/{path}"

    async def _tried(self, where: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what `ask` gives at its first good attempt; where there is none, raise what a reader understands."""
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            retry=tenacity.retry_if_exception(may_pass),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=_LONGEST_WAIT_S),  # full jitter
            before_sleep=lambda state: self.meter.retried(),
            reraise=True,
        )

        async def attempt() -> T:
            async with asyncio.timeout(self.timeout_s / self.attempts):
                found = await ask()
            self._answered = time.monotonic()
            return found

        async with self._place(where):
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await retrying(attempt)
            except Exception as fault:
                told = self._told(where, fault)
                if told is fault:
                    raise
                raise told from fault

    @asynccontextmanager
    async def _place(self, where: str) -> AsyncIterator[None]:
        """Wait for a place among the requests at work, as long as these get answers."""
        if self._places is None:
            # One at a time where a file system is not asynchronous: FTP shares one connection, zip one open file.
            self._places = asyncio.Semaphore(CONNECTIONS if self.store.fs.async_impl else 1)
        since = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._left(since)):
                    await self._places.acquire()
                break
            if self._left(since) <= 0:
                raise self._silent(where)
        try:
            if self._given_up > since > self._answered:  # the place is free because nothing answers
                raise self._silent(where)
            yield
        finally:
            self._places.release()

    def _left(self, since: float) -> float:
        """Seconds until no answer at all will have come for `timeout_s`."""
        return max(since, self._answered) + self.timeout_s - time.monotonic()

    def _silent(self, where: str) -> RetryLater:
        return RetryLater(f"cannot read {where}: no answer to any request within {self.timeout_s:g} s; {_MEND}")

    def _told(self, where: str, fault: Exception) -> Exception:
        """Return the error that tells a reader what a fault means."""
        status = _status(fault)
        if isinstance(fault, MedloomError) or _is_bug(fault):
            return fault
        if isinstance(fault, FileNotFoundError) or status == 404:
            return FileNotFoundError(errno.ENOENT, "there is no such object", where)
        if isinstance(fault, _Short) or status == 416 or getattr(fault, "errno", None) == errno.EINVAL:
            return WrongBytes(f"cannot read {where}: {_words(fault)}; the object is shorter than promised")
        if isinstance(fault, TimeoutError):
            self._given_up = time.monotonic()
            return RetryLater(f"cannot read {where}: no answer within {self.timeout_s:g} s; {_MEND}")
        if may_pass(fault):
            return RetryLater(
                f"cannot read {where}: {self.attempts} attempts failed, the last with {_words(fault)}; {_MEND}"
            )
        return SourceError(
            f"cannot read {where}: {_words(fault)}; look at its address, its rights and your credentials"
        )

    def _wait_for(self, work: Callable[[], Coroutine[Any, Any, T]], where: str) -> T:
        """Return what a coroutine on fsspec's loop gives, even should that loop stand still."""
        if self._pid != os.getpid():
            self.store = Store(self.store.url)  # fsspec's loop and connections do not survive a fork
            self._begin()
        loop = self.store.fs.loop if self.store.fs.async_impl else fsspec.asyn.get_loop()
        future, began = asyncio.run_coroutine_threadsafe(work(), loop), time.monotonic()
        try:
            while not future.done() and self._left(began) > -self.timeout_s - _GRACE_S:
                concurrent.futures.wait([future], timeout=1.0)
            if not future.done():
                raise RetryLater(f"cannot read {where}: fsspec's event loop stands still; nothing else may block it")
            return future.result()
        finally:
            future.cancel()


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once; when one fails, the others are cancelled."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _on_thread(call: Callable[[], T]) -> T:
    """Run a blocking call on a thread that nothing waits for, should it never end; an executor's would be joined."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            found = call()
        except BaseException as fault:  # noqa: BLE001 - it is the caller's to judge, wherever it is raised
            with suppress(concurrent.futures.InvalidStateError):  # it was given up
                outcome.set_exception(fault)
        else:
            with suppress(concurrent.futures.InvalidStateError):
                outcome.set_result(found)

    threading.Thread(target=run, name="medloom-read", daemon=True).start()
    return await asyncio.wrap_future(outcome)


def may_pass(fault: BaseException) -> bool:
    """Whether another attempt may go better: not what an object, its rights or our own code decide."""
    if isinstance(fault, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, MedloomError)):
        return False
    status = _status(fault)
    if status:
        return status in _PASSING
    if isinstance(fault, OSError):
        return fault.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM)
    return not _is_bug(fault) and "Credential" not in type(fault).__name__


def _is_bug(fault: BaseException) -> bool:
    """Whether it is an error of Python's own that no store raises; client libraries have classes of theirs."""
    return type(fault).__module__ == "builtins" and not isinstance(fault, (OSError, EOFError))


def _status(fault: BaseException) -> int:
    """Return the HTTP status that a client's error speaks of, 0 for none."""
    for name in ("status", "status_code", "code"):  # aiohttp, azure, google
        if isinstance(value := getattr(fault, name, None), int):
            return value
    response = getattr(fault, "response", None)
    if isinstance(response, dict):  # botocore
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return int(getattr(response, "status_code", 0))  # httpx, requests


def _words(fault: Exception) -> str:
    """Say a fault in a few words, without the address that clients repeat, which may hold a signature."""
    status = _status(fault)
    if status:
        return f"status {status}"
    return str(fault) or type(fault).__name__


def _tag(facts: dict[str, Any]) -> str:
    """Return what a store says of an object's state, by any of the names that file systems give it."""
    said = {str(name).lower(): value for name, value in facts.items() if value}
    return " ".join(str(said[name]) for name in _STAMPS if name in said)
