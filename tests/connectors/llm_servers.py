"""Servers for the tests of language models: the real llama.cpp server, and a proxy that makes it fail on purpose."""

import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from medloom.connectors.local_llm import LocalServer, embedded_weights, serve_embedded
from medloom.schemas.errors import ConfigError

QUESTION_SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}},
    "required": ["question"],
    "additionalProperties": False,
}


@contextmanager
def real_server() -> Iterator[LocalServer]:
    """Serve SmolLM2, or skip when its packages are not installed."""
    try:
        embedded_weights()
    except ConfigError as missing:
        pytest.skip(str(missing))
    with serve_embedded() as server:
        yield server


@dataclass
class Proxy:
    """A loopback proxy in front of `upstream` that meets the next requests with `faults`, one each, then passes on
    (without an upstream: drops the connection, so that a script that is too short is noticed).

    Faults: ("status", 429, {"Retry-After": "1"}), ("cut",) a body shorter than announced, ("hang", seconds),
    ("drop",) a connection closed without a word, ("body", text) a 200 with that body.
    """

    upstream: str = ""
    faults: list[tuple[Any, ...]] = field(default_factory=list)
    seen: list[tuple[float, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def asked(self) -> int:
        return sum(1 for _, path, _, _ in self.seen if path.endswith("/chat/completions"))


@contextmanager
def proxy(upstream: str = "") -> Iterator[Proxy]:
    """Serve a `Proxy` in front of `upstream`, the `/v1` address of a server ("" for none)."""
    state = Proxy(upstream)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def completion(text: str | None, *, finish: str = "stop", **message: Any) -> tuple[Any, ...]:
    """Return the fault that answers as a chat completion would."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return ("body", json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}))


def _handler(state: Proxy) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.seen.append((time.monotonic(), self.path, dict(self.headers), body))
            fault = state.faults.pop(0) if state.faults else ("pass",)
            if fault[0] == "status":
                headers = fault[2] if len(fault) > 2 else {}
                self._reply(fault[1], fault[3].encode() if len(fault) > 3 else b"{}", headers)
            elif fault[0] == "body":
                self._reply(200, fault[1].encode(), {})
            elif fault[0] == "drop" or (fault[0] == "pass" and not state.upstream):
                self.close_connection = True
            elif fault[0] == "hang":
                time.sleep(fault[1])
                self.close_connection = True
            else:
                status, data = self._upstream(body)
                if fault[0] == "cut":
                    self._reply(status, data[: len(data) // 2], {}, announced=len(data))
                    self.close_connection = True
                else:
                    self._reply(status, data, {})

        def _upstream(self, body: bytes) -> tuple[int, bytes]:
            host = state.upstream.removeprefix("http://").removesuffix("/v1")
            connection = http.client.HTTPConnection(host, timeout=120)
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            connection.close()
            return response.status, data

        def _reply(self, status: int, data: bytes, headers: dict[str, str], announced: int = -1) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data) if announced < 0 else announced))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

    return Handler
