"""Runs the streaming bench's processes: ours and the limits in one, each peer in one, all asked in turn.

Every round starts fresh processes, lets each import what it needs, and then asks A B C … job by job, so that a busy
moment of the machine meets everyone alike.
"""

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path
from typing import Any

OURS = "ours"
PEERS = ("webdataset", "mosaic", "litdata", "energon", "datasets")
# Installed without what they ask for. filelock: mosaicml-streaming hands its locks to forked workers, which later ones
# refuse.
PINS = (
    "mosaicml-streaming==0.13.0", "litdata==0.2.76", "megatron-energon==7.4.1", "webdataset==1.0.2", "filelock==3.20.0"
)  # fmt: skip
# What they import and our own environment has not; torch, datasets, blosc2, nibabel and numpy are shared with ours, so
# that everyone decodes by the same libraries.
NEEDED = (
    "multi-storage-client==1.3.1", "mfusepy==3.1.1", "rapidyaml==0.15.2", "filetype==1.2.0", "obstore==0.12.1",
    "braceexpand==0.1.7", "Brotli==1.2.0", "python-snappy==0.7.3", "xxhash==3.8.2", "zstd==1.5.7.2",
    "catalogue==2.0.10", "lightning-utilities>=0.14", "boto3>=1.34",
)  # fmt: skip


def environment() -> Path:
    """Return the python of the peers' environment, made at the first run in the user's cache folder.

    Raises:
        subprocess.CalledProcessError: pip cannot install them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medloom-bench"
    ours = sysconfig.get_path("purelib")
    name = hashlib.sha256(" ".join((sys.version, ours, *PINS, *NEEDED)).encode()).hexdigest()[:12]
    folder = cache / f"stream-{name}"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, with_pip=True, clear=True)
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "shared.pth").write_text(f"{ours}\n")  # behind the environment's own packages
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for command in ([*pip, *NEEDED], [*pip, "--no-deps", *PINS]):
            subprocess.run(command, check=True, capture_output=True, text=True)
        (folder / "made").touch()
    return python


class Worker:
    """One process that answers requests, as a context manager; one that hangs or dies is ended and says so."""

    def __init__(self, name: str, python: str | Path, *, cores: set[int], log: Path):
        self.name, self.why = name, ""
        module = "stream_ours" if name == OURS else "stream_peers"
        env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env |= {"MEDLOOM_BENCH_CORES": ",".join(map(str, sorted(cores))), "BLOSC_NTHREADS": "1"}
        env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        env |= {"DO_NOT_TRACK": "1", "LITDATA_DISABLE_VERSION_CHECK": "1"}
        root = Path(__file__).parents[2]
        if name == OURS:
            env["PYTHONPATH"] = os.pathsep.join((str(root), str(root / "src")))
        else:
            env["PYTHONPATH"] = str(root)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", f"tests.bench.{module}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=env, cwd=root, start_new_session=True,
            )  # fmt: skip
        self._rest = b""

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def say(self, request: dict[str, Any]) -> None:
        """Send a request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self.why = self.why or "its process ended"

    def hear(self, *, timeout_s: float = 240.0) -> dict[str, Any]:
        """Return the answer, or {"error"}."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout_s
        while not self.why and b"\n" not in self._rest:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                self.why = f"no answer within {timeout_s:.0f} s"
                self._end()
            elif block := os.read(self._process.stdout.fileno(), 1 << 16):
                self._rest += block
            else:
                self.why = "its process ended"
        if self.why:
            return {"error": self.why}
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def ask(self, request: dict[str, Any], *, timeout_s: float = 240.0) -> dict[str, Any]:
        """Send a request and return its answer, or {"error"}."""
        self.say(request)
        return self.hear(timeout_s=timeout_s)

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def allowed_cores() -> set[int]:
    """The cores that this process may use."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
