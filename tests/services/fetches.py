"""Fetching in tests: a run of a service into a raw zone, one that is killed at a request, and what a zone holds."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medloom.connectors.http import Http
from medloom.connectors.rates import Rates
from medloom.pipelines.fetch.job import FetchDone, fetch
from medloom.pipelines.progress import Bars
from medloom.schemas.raw import RawZone
from tests.services.loopback import Asked, Loopback, Reply

PROGRAM = """
import json, sys
from medloom.pipelines.fetch.job import fetch
from medloom.pipelines.progress import Bars
fetch(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Bars(quiet=True))
"""


def run(service: str, to: Path, **settings: Any) -> FetchDone:
    """Fetch in this process, with few and short retries."""
    with Http(rates=Rates(to.parent / "rates"), timeout_s=5.0, attempts=2, longest_wait_s=5.0) as http:
        done = fetch(service, str(to), {k: str(v) for k, v in settings.items()}, Bars(quiet=True), http=http)
    assert done.asked == done.kept + done.known + done.refused
    return done


def killed(service: str, to: Path, server: Loopback, at: int, **settings: Any) -> None:
    """Fetch in another process, which is killed when it sends its request number `at` (from 0)."""
    told = json.dumps({k: str(v) for k, v in settings.items()})
    environment = os.environ | {"MEDLOOM_RATES": str(to.parent / "rates")}
    started = threading.Event()
    child: list[subprocess.Popen[bytes]] = []
    answer, before = server.answer, len(server.seen)
    assert answer is not None

    def deadly(asked: Asked) -> Reply:
        if len(server.seen) - before == at + 1:
            started.wait()
            child[0].send_signal(signal.SIGKILL)
            child[0].wait()
        return answer(asked)

    server.answer = deadly
    try:
        child.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM, service, str(to), told], env=environment, stderr=-1)
        )
        started.set()
        _, said = child[0].communicate(timeout=120)
        assert child[0].returncode == -signal.SIGKILL, said.decode()
    finally:
        server.answer = answer


def held(to: Path, *, but: Callable[[dict[str, Any]], bool] = lambda row: False) -> dict[str, dict[str, Any]]:
    """Return the newest rows of a zone by name, without times and ports, each kept object read and checked."""
    zone = RawZone(str(to))
    rows = {row["name"]: row for row in zone.rows().to_pylist() if not but(row)}
    for row in rows.values():
        row.pop("retrieved_at")
        row["url"] = row["url"].partition("//")[2].partition("/")[2]
        if row["digest"]:
            zone.read(row["digest"])
    return rows


def reasons(to: Path) -> dict[str, str]:
    """Return why each refused, withdrawn or superseded thing is, by name."""
    return {name: row["reason"] for name, row in held(to).items() if row["outcome"] != "kept"}


def kept(to: Path) -> set[str]:
    """Return the names of articles and media that are kept."""
    return {n for n, row in held(to).items() if row["outcome"] == "kept" and row["role"] in ("article", "media")}


def everything_in(to: Path) -> bytes:
    """Return all that a zone's catalog says and all that its objects hold, as one text."""
    rows = repr(RawZone(str(to)).rows().to_pylist()).encode()
    return rows + b"".join(path.read_bytes() for path in sorted(to.rglob("*")) if path.is_file())
