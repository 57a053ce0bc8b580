"""What a raw zone holds, told by its catalog and held against the service; and a fetch that is stopped on its way."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.services.pmc import Pmc, plain

from medloom.schemas.raw import RawZone

MANY = [plain(500 + n, n_figures=1 + n % 3) for n in range(12)]


def rows(raw: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in RawZone(str(raw)).rows().to_pylist()}


def outcomes(raw: Path) -> dict[str, str]:
    """Outcome of every object but records, with the reason where there is one."""
    return {
        name: f"{row['outcome']} {row['reason']}".strip()
        for name, row in rows(raw).items() if row["role"] != "metadata"
    }  # fmt: skip


def kept(raw: Path) -> dict[str, str]:
    return {name: row["digest"] for name, row in rows(raw).items() if row["outcome"] == "kept"}


def must_be_what_the_service_gave(raw: Path, service: Pmc) -> None:
    for name, row in rows(raw).items():
        if row["outcome"] == "kept":
            data = service.objects[name]
            assert RawZone(str(raw)).read(row["digest"]) == data
            assert (row["size"], row["md5"]) == (len(data), hashlib.md5(data).hexdigest())
            assert row["retrieved_at"].endswith("Z")
            assert row["url"].startswith("http://127.0.0.1")


def stopped_after(
    service: Pmc, raw: Path, n_requests: int, *arguments: str, by: int = signal.SIGKILL
) -> tuple[int, str]:
    """Start the command in a process of its own and signal it once the server has seen so many requests.

    Return its status and standard error.
    """
    command = [sys.executable, "-m", "medloom", "fetch", "pmc", "--to", str(raw), *arguments]
    seen = len(service.server.seen)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline_s = time.monotonic() + 60
        while len(service.server.seen) - seen < n_requests and time.monotonic() < deadline_s:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
        process.send_signal(by)
        told = process.communicate(timeout=60)[1]
    return process.returncode, told
