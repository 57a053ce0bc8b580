"""A loopback HTTP server for tests: objects that it holds, a function that answers, and faults to meet requests with.

A service's imitation is a function from `Asked` to `Reply`; the faults of a network are laid over it by `faults`.
"""

import email.utils
import gzip
import hashlib
import http.server
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request: its path (unquoted, with the slash), query (the first value of each name), headers (lower-case)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float  # time.time() of its arrival
    raw: str  # path and query as they came
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """An answer, and how it is spoilt on its way.

    Attributes:
        status, body, headers: as usual; Content-Length is added.
        cut: send only so many bytes of the body, and close.
        slow_s: wait so long before the body's every tenth.
        reset: cut the connection with a TCP reset after `cut` bytes (or before any answer, when `cut` is None).
        gzipped: send the body gzipped when the client accepts that.
        chunked: send it in chunks, without a length.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    slow_s: float = 0.0
    reset: bool = False
    gzipped: bool = False
    chunked: bool = False


Answerer = Callable[[Asked], Reply]
Fault = Reply | Callable[[Reply], Reply]


@dataclass
class Loopback:
    """A running server.

    Attributes:
        url: its base, "http://127.0.0.1:PORT".
        objects: bytes by path without the first slash; given out as a plain object store does.
        answer: asked first; None: `objects` alone. It may call `give_object`.
        faults: what meets the next requests, one each: a `Reply` in place of the answer, or a function of the answer.
        faults_of: the same for one path ("/a/b.xml"), met before `faults`.
        seen: every request, in order of arrival.
    """

    answer: Answerer | None = None
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    faults_of: dict[str, list[Fault]] = field(default_factory=dict)
    seen: list[Asked] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def paths(self) -> list[str]:
        """Paths asked so far, in order."""
        return [asked.path for asked in self.seen]

    def reply_to(self, asked: Asked) -> Reply:
        with self._lock:
            self.seen.append(asked)
            queue = self.faults_of.get(asked.path) or self.faults
            fault = queue.pop(0) if queue else None
        if isinstance(fault, Reply):
            return fault
        reply = self.answer(asked) if self.answer else give_object(self.objects, asked)
        return fault(reply) if fault else reply


def give_object(objects: dict[str, bytes], asked: Asked) -> Reply:
    """Answer as an object store does: ETag (the md5), If-None-Match, Range, and NoSuchKey as XML."""
    body = objects.get(asked.path.lstrip("/"))
    if body is None:
        return s3_error(404, "NoSuchKey")
    etag = f'"{md5_hex(body)}"'
    headers = {"ETag": etag, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    if asked.headers.get("if-none-match") in (etag, etag.strip('"'), "*"):
        return Reply(304, b"", headers)
    wanted = asked.headers.get("range", "")
    if wanted.startswith("bytes=") and asked.headers.get("if-range", etag) == etag:
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(body) - int(last))
        end = min(int(last) + 1, len(body)) if first and last else len(body)
        if start >= len(body):
            return s3_error(416, "InvalidRange")
        return Reply(206, body[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"})
    return Reply(200, body, headers)


def s3_error(status: int, code: str) -> Reply:
    """Return an error as S3 words it: 404 NoSuchKey, 503 SlowDown, 403 AccessDenied."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><RequestId>1</RequestId></Error>'
    return Reply(status, body.encode(), {"Content-Type": "application/xml"})


SLOW_DOWN = s3_error(503, "SlowDown")
RESET = Reply(reset=True)


def too_many(retry_after: str = "1") -> Reply:
    """Return 429 as E-utilities give it; `retry_after` in seconds, or an HTTP date."""
    body = b'{"error":"API rate limit exceeded","api-key":"1.2.3.4","count":"4","limit":"3"}'
    return Reply(429, body, {"Retry-After": retry_after, "Content-Type": "application/json"})


def in_seconds(seconds: float) -> str:
    """Return the HTTP date of so many seconds from now."""
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


def redirect(to: str, status: int = 301) -> Reply:
    """Return a redirect."""
    return Reply(status, b"moved", {"Location": to})


def truncated(reply: Reply) -> Reply:
    """Announce the whole body and send half of it."""
    return replace(reply, cut=len(reply.body) // 2)


def damaged(reply: Reply) -> Reply:
    """Change the body's last byte: right length, wrong md5."""
    return replace(reply, body=reply.body[:-1] + bytes([reply.body[-1] ^ 1]))


def reset_halfway(reply: Reply) -> Reply:
    """Reset the connection in the middle of the body."""
    return replace(reply, cut=len(reply.body) // 2, reset=True)


def slow(seconds: float) -> Callable[[Reply], Reply]:
    """Wait before every tenth of the body."""
    return lambda reply: replace(reply, slow_s=seconds)


def gzipped(reply: Reply) -> Reply:
    """Send the body with `Content-Encoding: gzip`."""
    return replace(reply, gzipped=True)


def md5_hex(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@contextmanager
def loopback(answer: Answerer | None = None, *, objects: dict[str, bytes] | None = None) -> Iterator[Loopback]:
    """Serve until the block ends."""
    state = Loopback(answer, objects=objects if objects is not None else {})
    server = _Server(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is no news
            super().handle_error(request, client_address)


def _handler(state: Loopback) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            at = time.time()
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length") or 0))
            asked = Asked(self.command, unquote(parts.path), query, headers, at, self.path, body)
            try:
                self._send(asked, state.reply_to(asked))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _send(self, asked: Asked, reply: Reply) -> None:
            if reply.reset and reply.cut is None:
                self._reset()
                return
            body, headers = reply.body, dict(reply.headers)
            if reply.gzipped and "gzip" in asked.headers.get("accept-encoding", ""):
                body = gzip.compress(body)
                headers["Content-Encoding"] = "gzip"
            headers |= {"Transfer-Encoding": "chunked"} if reply.chunked else {"Content-Length": str(len(body))}
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if asked.method != "HEAD" and reply.status != 304:
                self._send_body(reply, body[: reply.cut] if reply.cut is not None else body)
            if reply.reset:
                self._reset()
            elif reply.cut is not None:
                self.close_connection = True

        def _send_body(self, reply: Reply, body: bytes) -> None:
            step = max(1, len(body) // 10) if reply.slow_s or reply.chunked else max(1, len(body))
            for start in range(0, len(body), step):
                time.sleep(reply.slow_s)
                block = body[start : start + step]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if reply.chunked else block)
                self.wfile.flush()
            if reply.chunked and reply.cut is None:
                self.wfile.write(b"0\r\n\r\n")

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def finish(self) -> None:
            with suppress(OSError, ValueError):  # the connection was reset on purpose
                super().finish()

    return Handler


def header(reply: Reply, **headers: Any) -> Reply:
    """Return `reply` with more headers; `_` in a name stands for `-`."""
    return replace(reply, headers=reply.headers | {k.replace("_", "-"): str(v) for k, v in headers.items()})
