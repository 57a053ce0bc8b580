"""How a loader is timed: the same for ours, for every peer and for the limits, each in a process of its own.

`serve` reads a request a line, {"job", "root", "epochs", "workers", …}, and answers with a line of JSON: what the job
took, or {"error"} of what it raised. Imports nothing of ours, so that the peers' environment can run it too.
"""

import gc
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PAGE = 4096

Epoch = Callable[[], Iterable[Iterable[Any]]]  # gives batches of arrays; each call is one pass over all samples


def touch(array: Any) -> int:
    """Read one byte of every page of an array (numpy, or a tensor in memory), so that no page stays unread."""
    import numpy as np

    flat = np.ravel(np.asarray(array), order="K")  # "K": a view of C and of Fortran order alike
    return int(flat.view(np.uint8)[::PAGE].max()) if flat.size else 0


def count(batches: Iterable[Iterable[Any]]) -> tuple[int, int]:
    """Take all batches and touch them; return how many samples and how many bytes they hold."""
    samples = size = 0
    for batch in batches:
        for array in batch:
            touch(array)
            samples += len(array) if array.ndim == 4 else 1  # a stack of volumes or pictures, or one
            size += array.nbytes
    return samples, size


def timed(epoch: Epoch, *, epochs: int, warm: bool = True) -> dict[str, Any]:
    """Return {"samples", "bytes", "cpu", "wall"} of `epochs` passes, after an untimed one (`warm`)."""
    if warm:
        count(epoch())
    gc.collect()
    cpu, wall, samples, size = _cpu(), time.perf_counter(), 0, 0
    for _ in range(epochs):
        one = count(epoch())
        samples, size = samples + one[0], size + one[1]
    took = {"cpu": _cpu() - cpu, "wall": time.perf_counter() - wall}
    return {"samples": samples, "bytes": size, **took}


def _cpu() -> float:
    """Processor seconds of this process and of its worker processes."""
    ticks = 0
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            ticks += int(user) + int(system)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def pin(workers: int) -> None:
    """Keep this thread and those it starts on one core, or with workers on all that were given."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = {int(core) for core in os.environ["MEDLOOM_BENCH_CORES"].split(",")}
    os.sched_setaffinity(0, allowed if workers else {max(allowed)})


def serve(jobs: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests until standard input closes; what a job prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        pin(asked.get("workers", 0))
        try:
            answer = jobs[asked.pop("job")](**asked)
        except Exception as error:  # noqa: BLE001  what a loader raises is told, whatever it is
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
