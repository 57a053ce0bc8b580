"""HTTP: the one polite way to ask a service: bounded retries, shared rates, whole and verified bodies, no secrets told.

What a server says of a failure is not repeated in an error: it may quote the request, and with it a key.
"""

import email.utils
import hashlib
import io
import logging
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import httpx
import tenacity

from medloom.connectors.addresses import full_url, host_of, redirected, without_secrets
from medloom.connectors.rates import Rates, is_loopback
from medloom.schemas.errors import Refused, RetryLater
from medloom.schemas.store import mendable

MAX_REDIRECTS = 5
SLOWEST_BYTES_PER_S = 1024  # below this, on average after `timeout_s`, a body counts as stalled
BLOCK_BYTES = 1 << 16

PERMANENT = {401: "forbidden", 403: "forbidden", 451: "forbidden", 404: "not_found", 410: "gone"}


@dataclass(frozen=True)
class Answer:
    """What a server gave.

    Attributes:
        url: what was asked at last, after redirects, without key and address of whoever asked.
        status: 200, 206 (a part, when `Range` was asked) or 304 (unchanged, when `If-None-Match` was asked).
        headers: by lower-case name.
        content: the body, decoded; b"" of a download.
        retrieved_at: when it was whole, UTC, "2026-11-22T18:00:00Z".
    """

    url: str
    status: int
    headers: dict[str, str]
    content: bytes
    retrieved_at: str


class Again(Exception):
    """A `check` raises it: the answer is an error in the clothes of HTTP 200; ask again, after `after_s` at least."""

    def __init__(self, what: str, after_s: float = 0.0):
        super().__init__(what)
        self.what = what
        self.after_s = after_s


class _Transient(Exception):
    """A fault that the next attempt may not meet; `refused` is what it comes to when none was without it."""

    def __init__(self, host: str, what: str, *, after_s: float = 0.0, refused: Refused | None = None):
        super().__init__(what)
        self.host = host
        self.what = what
        self.after_s = after_s
        self.refused = refused


class Http:
    """A client of web services; threads may share one, and a copy goes with work to another process.

    Retried, with exponential back-off and full jitter: 408, 425, 429, 5xx, faults of the connection, bodies that are
    short, stalled or of another md5, and `Again`. A server's `Retry-After` is kept by all who share its rate.

    Args:
        rates: how often each host may be asked.
        timeout_s: for connecting, and for each silence of the server.
        attempts: per request, the first included.
        longest_wait_s: between two attempts; a server that asks for more ends the run with `RetryLater`.

    Attributes:
        requests: how many were sent so far, repeated ones and redirects included.
        received_bytes: of bodies, as transferred.
        first_wait_s: ceiling of the first back-off; each next one is twice as high.
    """

    first_wait_s = 0.5

    def __init__(
        self,
        *,
        rates: Rates | None = None,
        timeout_s: float = 60.0,
        attempts: int = 6,
        longest_wait_s: float = 120.0,
    ):
        self._rates = rates or Rates()
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._longest_wait_s = longest_wait_s
        self._start()

    def _start(self) -> None:
        self.requests = 0
        self.received_bytes = 0
        self._clients: dict[bool, httpx.Client] = {}
        self._counting = threading.Lock()
        for logger in ("httpx", "httpcore.http11"):
            logging.getLogger(logger).addFilter(_hide_secrets)

    def __reduce__(self) -> Any:
        return _again, (self._rates, self._timeout_s, self._attempts, self._longest_wait_s)

    def __enter__(self) -> "Http":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._counting:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 64 << 20,
        md5: str = "",
        check: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """Return the answer to a GET, its body whole and, where `md5` (hex) is given, verified.

        `check` looks at each answer of status 200 or 206; it raises `Again` for an error that a retry may mend, or
        `Refused`.

        Raises:
            Refused("http.forbidden" | "http.not_found" | "http.gone" | "http.status" | "http.redirect" | "http.url"):
                for good; asking again gives the same.
            Refused("http.large"): the body has more than `max_bytes`, decoded or as announced.
            Refused("http.md5" | "http.truncated"): the last attempt, too, gave another or a short body.
            RetryLater: the server does not answer as it should, whenever it was asked.
        """
        what = _Wanted(full_url(url, params), dict(headers or {}), max_bytes, md5.lower(), gzip=not md5)

        def attempt() -> Answer:
            body = io.BytesIO()
            answer = self._ask(what, body)
            if check is not None and answer.status != 304:
                try:
                    check(answer)
                except Again as fault:
                    raise _Transient(host_of(answer.url), fault.what, after_s=fault.after_s) from None
            return answer

        return self._patiently(attempt)

    def download(
        self,
        url: str,
        *,
        to: Path,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        md5: str = "",
        size: int | None = None,
    ) -> Answer:
        """Write a body to the file `to`, which is there only when it is whole, of `size` and of `md5` where given.

        It is written to `to` + ".part" first. When the answer is 304, `to` is left as it is.

        Raises:
            As `get` does; RetryLater, too, when the disk is full.
        """
        what = _Wanted(full_url(url, None), dict(headers or {}), max_bytes, md5.lower(), size=size)
        part = to.with_name(to.name + ".part")

        def attempt() -> Answer:
            with open(part, "wb") as body:
                answer = self._ask(what, body, keep=False)
            if answer.status != 304:
                os.replace(part, to)
            return answer

        try:
            return self._patiently(attempt)
        except OSError as fault:
            raise mendable(fault, str(to)) from fault
        finally:
            part.unlink(missing_ok=True)

    def _patiently(self, attempt: Callable[[], Answer]) -> Answer:
        retrying = tenacity.Retrying(
            stop=self._gives_up,
            wait=self._wait_s,
            retry=tenacity.retry_if_exception_type(_Transient),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Transient as fault:
            if fault.refused is not None:
                raise fault.refused from None
            asked = f", which asks to wait {fault.after_s:.0f} s" if fault.after_s > self._longest_wait_s else ""
            raise RetryLater(
                f"{fault.host} keeps failing: {fault.what}{asked}, attempt "
                f"{retrying.statistics.get('attempt_number', 1)} of {self._attempts}; run the same command again "
                "later: what was fetched is kept"
            ) from None

    def _gives_up(self, state: tenacity.RetryCallState) -> bool:
        return _fault(state).after_s > self._longest_wait_s or state.attempt_number >= self._attempts

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        """Back-off with full jitter; what the server asked for is waited out by the shared rate, on top of it."""
        ceiling_s = min(self._longest_wait_s, self.first_wait_s * 2 ** (state.attempt_number - 1))
        return random.uniform(0, ceiling_s)

    def _ask(self, what: "_Wanted", body: IO[bytes], *, keep: bool = True) -> Answer:
        """Send one request, follow its redirects, and return the answer; its body goes to `body`."""
        url = what.url
        for _ in range(MAX_REDIRECTS + 1):
            host = host_of(url)
            client = self._client(url)  # made before the turn is taken: it loads certificates
            self._rates.wait(host, longest_hold_s=self._longest_wait_s)
            try:
                with self._send(client, url, what) as response:
                    if not (300 <= response.status_code < 400 and "location" in response.headers):
                        return self._take(response, what, body, keep)
                    url = redirected(url, response.headers["location"])
            except httpx.InvalidURL:  # httpx itself looks where a redirect leads
                told = without_secrets(url)
                raise Refused("http.redirect", f"{told} leads to an address that is no URL") from None
            except httpx.TransportError as fault:
                raise _Transient(host, type(fault).__name__) from None
        raise Refused("http.redirect", f"{without_secrets(what.url)} leads through more than {MAX_REDIRECTS} redirects")

    def _client(self, url: str) -> httpx.Client:
        local = is_loopback(httpx.URL(url).host)
        with self._counting:
            if local not in self._clients:
                self._clients[local] = _client(self._timeout_s, local)
            return self._clients[local]

    def _send(self, client: httpx.Client, url: str, what: "_Wanted") -> AbstractContextManager[httpx.Response]:
        with self._counting:
            self.requests += 1
        headers = {"Accept-Encoding": "gzip" if what.gzip else "identity"} | what.headers
        return client.stream("GET", url, headers=headers)

    def _take(self, response: httpx.Response, what: "_Wanted", body: IO[bytes], keep: bool) -> Answer:
        url = str(response.url)
        self._check_status(response, what)
        if response.status_code != 304:
            self._read(response, what, body)
        return Answer(
            url=without_secrets(url),
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            content=body.getvalue() if keep and isinstance(body, io.BytesIO) else b"",
            retrieved_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def _check_status(self, response: httpx.Response, what: "_Wanted") -> None:
        """Raise what a status other than the expected ones means."""
        status, host = response.status_code, host_of(str(response.url))
        if status == 200 or status in what.expects:
            return
        if status in (408, 425, 429) or status >= 500:
            after_s = _retry_after_s(response.headers.get("retry-after", ""))
            self._rates.hold(host, after_s)
            raise _Transient(host, f"status {status}", after_s=after_s)
        told = without_secrets(str(response.url))
        raise Refused(f"http.{PERMANENT.get(status, 'status')}", f"{told} answers {status}")

    def _read(self, response: httpx.Response, what: "_Wanted", body: IO[bytes]) -> None:
        """Write the decoded body to `body`, checked for its size, its md5 and its pace."""
        told, host = without_secrets(str(response.url)), host_of(str(response.url))
        announced = response.headers.get("content-length", "")
        limit = what.max_bytes
        if announced.isdigit() and int(announced) > limit:
            raise Refused("http.large", f"{told} has {announced} bytes, and at most {limit} are taken")
        digest, size, began = hashlib.md5(usedforsecurity=False), 0, time.monotonic()
        try:
            for block in _decoded(response, told):
                size += len(block)
                if size > limit:
                    raise Refused("http.large", f"{told} has more than {limit} bytes")
                digest.update(block)
                body.write(block)
                if time.monotonic() - began > self._timeout_s + size / SLOWEST_BYTES_PER_S:
                    raise _Transient(host, f"a body at less than {SLOWEST_BYTES_PER_S} bytes/s")
        except (httpx.RemoteProtocolError, httpx.ReadError, zlib.error, EOFError) as fault:
            cut = Refused("http.truncated", f"{told} ends early, each time it is asked")
            raise _Transient(host, f"a body cut short ({type(fault).__name__})", refused=cut) from None
        finally:
            with self._counting:
                self.received_bytes += response.num_bytes_downloaded
        if what.size is not None and size != what.size:
            other = Refused("http.truncated", f"{told} has {size} bytes where {what.size} were announced")
            raise _Transient(host, "a body of another size", refused=other)
        if what.md5 and digest.hexdigest() != what.md5:
            other = Refused("http.md5", f"{told} has md5 {digest.hexdigest()} where {what.md5} was announced")
            raise _Transient(host, "a body of another md5", refused=other)


@dataclass(frozen=True)
class _Wanted:
    """What to ask for, and what to accept."""

    url: str
    headers: dict[str, str]
    max_bytes: int
    md5: str
    size: int | None = None
    gzip: bool = False

    @property
    def expects(self) -> set[int]:
        names = {name.lower() for name in self.headers}
        part = {206} if "range" in names else set()
        if "application/dicom+json" in self.headers.values():
            part |= {204}  # a search that finds nothing, PS3.18 10.6.3
        return part | ({304} if names & {"if-none-match", "if-modified-since"} else set())


def _again(rates: Rates, timeout_s: float, attempts: int, longest_wait_s: float) -> Http:
    return Http(rates=rates, timeout_s=timeout_s, attempts=attempts, longest_wait_s=longest_wait_s)


def _client(timeout_s: float, local: bool) -> httpx.Client:
    client = httpx.Client(
        headers={"User-Agent": f"medloom/{metadata.version('medloom')}"},
        timeout=httpx.Timeout(timeout_s, connect=min(20.0, timeout_s)),
        trust_env=not local,  # a proxy of the environment is for hosts beyond this machine
        follow_redirects=False,
    )
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


def _decoded(response: httpx.Response, told: str) -> Iterator[bytes]:
    """Give the body's blocks, unzipped in bounded steps; a gzip stream must be whole.

    Raises:
        EOFError, zlib.error: the stream ends early or is none.
        Refused("http.encoding"): an encoding that was not asked for.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding == "identity":
        yield from response.iter_raw(BLOCK_BYTES)
        return
    if encoding not in ("gzip", "x-gzip"):
        raise Refused("http.encoding", f"{told} comes in an encoding that was not asked for")
    unzip = zlib.decompressobj(31)
    for block in response.iter_raw(BLOCK_BYTES):
        while block:
            if unzip.eof:  # the next member of the stream, RFC 1952 2.2
                unzip = zlib.decompressobj(31)
            yield unzip.decompress(block, BLOCK_BYTES * 16)
            block = unzip.unconsumed_tail or unzip.unused_data
    if not unzip.eof:
        raise EOFError("the gzip stream ends early")


def _retry_after_s(header: str) -> float:
    """Return the seconds that `Retry-After` asks for (RFC 9110 10.2.3: seconds or a date), 0 without a usable one."""
    if re.fullmatch(r"\s*\d{1,9}(?:\.\d+)?\s*", header):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _fault(state: tenacity.RetryCallState) -> _Transient:
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, _Transient)
    return fault


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Take keys out of the lines that httpx logs of each request and answer; a logging filter."""
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True
