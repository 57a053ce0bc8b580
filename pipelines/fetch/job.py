"""Fetch: what a service has is kept once in a raw zone; the catalog is the ledger, so that a run again goes on.

A service is a module of this package with one frozen dataclass that has a `fetch`; its fields are what --set fills.
Rows are appended in batches: a killed run loses the rows of one batch at most, and asks for those objects again.
"""

import importlib
import inspect
import logging
import pkgutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import medloom.pipelines.fetch as package
from medloom.connectors.http import Answer, Http
from medloom.pipelines.recipe import fill, parameters_of
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from medloom.schemas.raw import CATALOG, RawZone

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH = 100  # things asked for between two appends to the catalog
FLUSH_S = 30.0  # and the longest time between two, while things come in
AHEAD = 4  # things begun per worker before the oldest is waited for
COMPACT_AFTER = 500  # parts of the catalog that one run appends
MANY_PARTS = 50  # that are left at the end of a run
GIVE_UP_AFTER = 3  # things put off one after the other, per worker: the service is down


@dataclass(frozen=True, kw_only=True)
class FetchDone:
    """What a fetch came to, in objects: every one asked for is kept, known or refused.

    Attributes:
        asked: kept + known + refused.
        kept: fetched now.
        known: in the raw zone already.
        refused: for good, each a row of the catalog, now or before.
        withdrawn: kept before, now taken back by the service or replaced by a newer version.
        bytes: of what was kept now.
        requests: sent to the service.
        later: things that a transient fault kept from being asked; a run again asks for them.
        reasons: how often each reason refused or withdrew something.
        why_later: the last of the transient faults.
    """

    asked: int
    kept: int
    known: int = 0
    refused: int = 0
    withdrawn: int = 0
    bytes: int = 0
    requests: int = 0
    later: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    why_later: str = ""

    def __post_init__(self) -> None:
        assert self.asked == self.kept + self.known + self.refused, self


class Fetch(Protocol):
    """A service with what is wanted of it: a frozen dataclass."""

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep in `raw` what is wanted and not yet there."""
        ...


@dataclass
class Taken:
    """What one thing that was asked for (an article, mostly) came to: rows to append, and what they count for.

    Attributes:
        later: the transient fault that kept it from being finished; its rows are then those of whole objects.
    """

    asked: int = 0
    kept: int = 0
    known: int = 0
    refused: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    later: RetryLater | None = None

    def keep(self, row: dict[str, Any]) -> None:
        """One object asked for was fetched."""
        self.kept += 1
        self.rows.append(row)

    def know(self, rows: Iterable[dict[str, Any]]) -> None:
        """Objects asked for stand in the catalog already, kept or refused."""
        for row in rows:
            self.asked += 1
            if row["outcome"] == "kept":
                self.known += 1
            else:
                self.refuse(row["reason"])

    def refuse(self, reason: str, row: dict[str, Any] | None = None) -> None:
        """One object asked for is refused; without a row when the catalog says so already."""
        self.refused += 1
        self.reasons[reason] += 1
        if row is not None:
            self.rows.append(row)

    def take_back(self, row: dict[str, Any], *, outcome: str, reason: str, detail: str) -> None:
        """An object kept before counts no more: outcome "withdrawn" or "superseded"."""
        self.rows.append(row | {"outcome": outcome, "reason": reason, "detail": detail})
        self.reasons[reason] += 1


class Ledger:
    """Appends what was taken to the catalog of a raw zone, batch by batch, and counts it."""

    def __init__(self, raw: RawZone):
        self.raw = raw
        self.total = Taken()
        self.withdrawn = self.bytes = self.later = 0
        self.why_later = ""
        self._rows: list[dict[str, Any]] = []
        self._parts = 0
        self._flushed_s = time.monotonic()

    def add(self, taken: Taken) -> None:
        """Count one thing; its rows are appended at the latest `FLUSH_S` later, or by `flush`."""
        for name in ("asked", "kept", "known", "refused"):
            setattr(self.total, name, getattr(self.total, name) + getattr(taken, name))
        self.total.reasons += taken.reasons
        self.withdrawn += sum(row["outcome"] in ("withdrawn", "superseded") for row in taken.rows)
        self.bytes += sum(row["size"] for row in taken.rows if row["outcome"] == "kept")
        if taken.later is not None:
            self.later += 1
            self.why_later = str(taken.later)
        self._rows += taken.rows
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Append what has not been appended yet."""
        rows, self._rows = self._rows, []
        if rows:
            self.raw.append(rows)
            self._parts += 1
        if self._parts >= COMPACT_AFTER:
            self._compact()
        self._flushed_s = time.monotonic()

    def _compact(self) -> None:
        """Join the catalog's small parts; what keeps it from being done now does not keep it from being done later."""
        self._parts = 0
        try:
            self.raw.compact()
        except RetryLater as fault:
            log.info("the catalog stays in many parts: %s", fault)

    def done(self, http: Http, *, requests_before: int = 0) -> FetchDone:
        """Append the rest and return the counts."""
        self.flush()
        if len(self.raw.store.names(CATALOG)) > MANY_PARTS:
            self._compact()
        total = self.total
        return FetchDone(
            asked=total.asked, kept=total.kept, known=total.known, refused=total.refused, withdrawn=self.withdrawn,
            bytes=self.bytes, requests=http.requests - requests_before, later=self.later,
            reasons=dict(sorted(total.reasons.items())), why_later=self.why_later,
        )  # fmt: skip


def take_each(
    things: Sequence[T],
    take: Callable[[T], Taken],
    ledger: Ledger,
    told: "Tell",
    *,
    what: str,
    workers: int = 8,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Call `take` on each of `things` in a few threads and enter what comes of them in the ledger, in their order.

    The rates of the hosts, not the threads, bound how often a service is asked. Stops when `enough()` says so.

    Raises:
        RetryLater: one thing after the other is put off: the service, or the disk, is out of order. What was taken
            before is in the ledger.
    """
    told.begin(what, -(-len(things) // BATCH))
    in_a_row, since = 0, 0
    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        try:
            for taken in _in_order(pool, things, take, workers * AHEAD, enough):
                ledger.add(taken)
                since += 1
                in_a_row = in_a_row + 1 if taken.later is not None else 0
                if since == BATCH:
                    since = 0
                    ledger.flush()
                    told.piece(_line(ledger))
                if taken.later is not None and in_a_row >= workers * GIVE_UP_AFTER:
                    raise taken.later
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            ledger.flush()
    if since:
        told.piece(_line(ledger))
    told.end()


def _in_order(
    pool: ThreadPoolExecutor, things: Sequence[T], take: Callable[[T], Taken], ahead: int, enough: Callable[[], bool]
) -> Iterator[Taken]:
    """Give the results in the order of `things`, a bounded number of which are begun before the first has come."""
    begun: deque[Future[Taken]] = deque()
    for thing in things:
        if enough():
            break
        begun.append(pool.submit(take, thing))
        if len(begun) >= ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _line(ledger: Ledger) -> str:
    total = ledger.total
    put_off = f", {ledger.later:,} put off" if ledger.later else ""
    return f"{total.kept:,} kept, {total.known:,} known, {total.refused:,} refused{put_off}, {ledger.bytes:,} bytes"


def kept_row(name: str, *, article: str, role: str, answer: Answer, digest: str, md5: str, size: int) -> dict[str, Any]:
    """Return the catalog's row of an object that was fetched."""
    return {
        "name": name, "article": article, "role": role, "url": answer.url, "digest": digest, "md5": md5, "size": size,
        "etag": answer.headers.get("etag", "").strip('"'), "retrieved_at": answer.retrieved_at, "outcome": "kept",
        "reason": "", "detail": "",
    }  # fmt: skip


def refused_row(name: str, refused: Refused, *, article: str, role: str, url: str = "", **known: Any) -> dict[str, Any]:
    """Return the catalog's row of an object that is refused; `known` are further columns, such as its etag."""
    return {
        "name": name, "article": article, "role": role, "url": url, "digest": "", "md5": "", "size": 0, "etag": "",
        "retrieved_at": "", "outcome": "refused", "reason": refused.reason, "detail": refused.detail,
    } | known  # fmt: skip


def services() -> dict[str, type[Fetch]]:
    """Return the services by name: the modules of this package that hold a dataclass with a `fetch`."""
    found = {name: _service(name) for name in _modules()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _modules() -> list[str]:
    return sorted(entry.name for entry in pkgutil.iter_modules(package.__path__))


def _service(name: str) -> type[Fetch] | None:
    module = importlib.import_module(f"{package.__name__}.{name}")
    own: list[Any] = [v for v in vars(module).values() if inspect.isclass(v) and v.__module__ == module.__name__]
    found: list[Any] = [kind for kind in own if is_dataclass(kind) and hasattr(kind, "fetch")]
    return found[0] if found else None


def describe(kind: type[Fetch]) -> tuple[str, dict[str, str]]:
    """Return the first line of a service's docstring, and its parameters as "type = default"."""
    return (inspect.getdoc(kind) or "").partition("\n")[0], parameters_of(kind)


def fetch(name: str, to: str, settings: dict[str, str], told: "Tell", *, http: Http | None = None) -> FetchDone:
    """Fetch from the service `name` into the raw zone at `to`, which is made when it is not there.

    Raises:
        ConfigError: there is no such service or parameter, or a value does not fit its type.
        SourceError: `to` is no raw zone and no place for one.
        RetryLater: the service does not answer; what was fetched is kept.
    """
    kind = _service(name) if name in _modules() else None
    if kind is None:
        raise ConfigError(f"there is no service {name!r}; known are {', '.join(services())}")
    wanted: Fetch = kind(**fill(kind, settings, where=name, what="service"))
    raw = RawZone.at(to)
    if http is not None:
        return wanted.fetch(raw, http, told)
    with Http() as own:
        return wanted.fetch(raw, own, told)
