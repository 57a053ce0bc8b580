"""Soak: ranks as processes stream from a real S3 server (moto) for a while; requests and bytes against the prediction.

`python -m tests.bench.soak [--json FILE] [--seconds 60] [--quick]`: the server counts every request; `release_cost`
and `volume_cost` of medloom.model.costs said beforehand how many there would be. It also watches what grows: memory,
descriptors and threads of every rank, and whether each epoch gave every example once. Exit status 1 when a prediction
is off by more than `TOLERANCE` and what chance does to so few requests (1.5 / square root of their number), something
was drawn twice or not at all, or a rank grew by more than `GROWTH_MB`.
Synthetic volumes; one machine: times are those of a loopback with `LATENCY_S` added, requests and bytes are not.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medloom.model.costs import Cost, release_cost, volume_cost
from medloom.model.rows import live_rows
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex
from medloom.schemas.store import Store
from tests.bench.stream import machine
from tests.bench.stream_data import ct, medium, stored, unit, volume
from tests.builds import write_build

TOLERANCE, GROWTH_MB, LATENCY_S = 0.05, 60, 0.02
EPOCHS = 6  # at least, however slow the machine
CHUNK = (32, 128, 128)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Size:
    """How much: volumes, of which the first sixth has two more examples each; ranks; examples a step; time."""

    volumes: int = 48
    shape: tuple[int, int, int] = (64, 256, 256)
    patch: tuple[int, int, int] = (24, 96, 96)
    ranks: int = 3
    workers: int = 2
    global_batch: int = 6
    seconds: float = 60.0


QUICK = Size(volumes=30, shape=(32, 256, 256), patch=(16, 96, 96), ranks=2, workers=1, global_batch=4, seconds=1.0)


@dataclass
class Traffic:
    """What the server was asked for, by kind of object ("media", "rows", …): requests, and bytes that it sent."""

    requests: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def counted(self, app: Callable[..., Iterable[bytes]], latency_s: float) -> Callable[..., Iterable[bytes]]:
        """`app` with its GETs counted and late."""

        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            body = b"".join(app(environ, start))
            if environ["REQUEST_METHOD"] == "GET":
                time.sleep(latency_s)
                with self.lock:
                    self.requests[kind := _kind(environ["PATH_INFO"])] += 1
                    self.size_bytes[kind] += len(body)
            return [body]

        return answer

    def take(self) -> tuple[Counter[str], Counter[str]]:
        """Return the counts since the last time."""
        with self.lock:
            told = self.requests, self.size_bytes
            self.requests, self.size_bytes = Counter(), Counter()
        return told


def _kind(path: str) -> str:
    parts = path.strip("/").split("/")
    if parts[-1].endswith(".tar"):
        return "media"
    return "examples" if "examples" in parts else "opening"


@contextmanager
def s3(traffic: Traffic, latency_s: float) -> Iterator[str]:
    """Serve an empty bucket on loopback; the environment tells fsspec, here and in processes started here."""
    import s3fs
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = traffic.counted(DomainDispatcherApplication(create_backend_app), latency_s)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wanted = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        s3fs.S3FileSystem().mkdir("soak")
        yield "s3://soak"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def make_build(folder: Path, size: Size) -> str:
    """Write a build and its release; return its URL."""
    units = []
    for number in range(size.volumes):
        tasks = {"caption": 1} | ({"header_vqa": 2} if number < size.volumes // 6 else {})
        units.append(unit([medium(f"v{number:04d}", volume(ct(size.shape, number)))], tasks=tasks))
    return write_build(Store(f"{folder}/build"), units, parameters={}, units_per_shard=12, as_stored=stored)


def upload(build: str, bucket: str) -> str:
    """Copy a build into a bucket; return its URL there."""
    import s3fs

    s3fs.S3FileSystem().put(f"{build}/", f"{bucket.removeprefix('s3://')}/build/", recursive=True)
    return f"{bucket}/build"


@dataclass(frozen=True)
class Ask:
    """What each rank does: stream for `seconds` and to the end of the epoch, then tell."""

    url: str
    settings: dict[str, Any]
    world_size: int
    seconds: float


def _rank(ask: Ask, rank: int, barrier: Any, enough: Any, line: Any) -> None:
    """Stream epochs together with the other ranks; tell keys by epoch, what grew and what the meter says."""
    from medloom.model.stream import ShardStream

    stream = ShardStream(ask.url, **ask.settings, rank=rank, world_size=ask.world_size)
    epochs: list[list[str]] = []
    grown, began = [_grown()], time.monotonic()
    while not enough.value:
        epochs.append([key for batch in stream for key in batch.keys])
        grown.append(_grown())
        barrier.wait()
        if rank == 0:  # decides for all, while they wait
            enough.value = len(epochs) >= EPOCHS and time.monotonic() - began > ask.seconds
        barrier.wait()
    line.send({
        "epochs": epochs, "steps": stream.next_step, "grown": grown,
        "verdict": stream.meter.verdict(None), "quarantined": len(stream.quarantined),
    })  # fmt: skip


def _grown() -> dict[str, int]:
    """Resident memory in MB, open descriptors and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_mb": pages * os.sysconf("SC_PAGE_SIZE") // 10**6,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def stream(url: str, size: Size, **settings: Any) -> list[dict[str, Any]]:
    """Run all ranks as processes until `size.seconds` have passed; return what each tells."""
    ask = Ask(
        url,
        {"seed": 9, "global_batch": size.global_batch, "workers": size.workers, **settings},
        size.ranks,
        size.seconds,
    )
    spawn = multiprocessing.get_context("spawn")
    barrier, enough = spawn.Barrier(size.ranks), spawn.Value("b", 0)
    pairs = [spawn.Pipe() for _ in range(size.ranks)]
    ranks = [spawn.Process(target=_rank, args=(ask, r, barrier, enough, pairs[r][1])) for r in range(size.ranks)]
    for process, (_, theirs) in zip(ranks, pairs, strict=True):
        process.start()
        theirs.close()
    told = [ours.recv() for ours, _ in pairs]
    for process in ranks:
        process.join()
    return told


def row_of(name: str, told: list[dict[str, Any]], cost: Cost, traffic: Traffic, size: Size) -> dict[str, Any]:
    """What was predicted and what was counted, of one way of reading."""
    requests, size_bytes = traffic.take()
    drawn = sum(len(epoch) for rank in told for epoch in rank["epochs"])
    predicted = {"requests": drawn * cost.requests, "bytes": drawn * cost.fetched_bytes}
    return {
        "name": name, "unit": "measured / predicted", "examples": drawn, "epochs": len(told[0]["epochs"]),
        "requests": requests["media"], "bytes": size_bytes["media"],
        "predicted_requests": round(predicted["requests"]), "predicted_bytes": round(predicted["bytes"]),
        "median": round(size_bytes["media"] / predicted["bytes"], 4),
        "ratio_requests": round(requests["media"] / predicted["requests"], 4),
        "other_requests": {kind: n for kind, n in requests.items() if kind != "media"},
        "grown": [_difference(rank["grown"]) for rank in told],
        "verdict": told[0]["verdict"],
        "whole_epochs": _whole(told, size), "quarantined": sum(rank["quarantined"] for rank in told),
    }  # fmt: skip


def _difference(grown: list[dict[str, int]]) -> dict[str, int]:
    """From the end of the second epoch, when all is open, to the last."""
    first, last = grown[min(2, len(grown) - 1)], grown[-1]
    return {name: last[name] - first[name] for name in last}


def _whole(told: list[dict[str, Any]], size: Size) -> bool:
    """Whether every epoch of global batches gave each example as often as any other, once or, at its end, twice."""
    rows = Counter(key for rank in told for epoch in rank["epochs"] for key in epoch)
    return max(rows.values()) - min(rows.values()) <= 1


def measure(size: Size, folder: Path) -> list[dict[str, Any]]:
    """Return a row for whole volumes, one for patches and one for whole volumes that a cache holds after an epoch."""
    build, traffic = make_build(folder, size), Traffic()
    release = Release(build)
    drawn = live_rows(release, split="train")
    together = math.ceil(size.global_batch / size.ranks)
    whole = release_cost(release, drawn, together=together)
    patch = volume_cost(size.shape, patch=size.patch, chunk=CHUNK, ratio=_ratio(release))
    with s3(traffic, LATENCY_S) as bucket:
        url = upload(build, bucket)
        traffic.take()
        rows = [
            row_of("whole volumes", stream(url, size), whole, traffic, size),
            row_of("patches", stream(url, size, roi=size.patch, where={"task": "caption"}), patch, traffic, size),
        ]
        cached = stream(url, size, cache=str(folder / "cache"), cache_bytes=1 << 30)
        rows.append(row_of("whole volumes, cached", cached, whole, traffic, size))
    return rows


def _ratio(release: Release) -> float:
    """Raw bytes of the volumes of a release against stored ones."""
    index = ReleaseIndex(release, "train", "volume")
    columns = (index.column(name).to_pylist() for name in ("field", "shape", "size"))
    volumes = [(2 * math.prod(shape), size) for name, shape, size in zip(*columns, strict=True) if name == "ct.b2nd"]
    return sum(raw for raw, _ in volumes) / sum(size for _, size in volumes)


def faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, in words."""
    found = []
    if "cached" in row["name"]:
        if row["bytes"] > row["predicted_bytes"]:
            found.append("the cache made the store work more")
    else:
        for name, ratio in (("bytes", row["median"]), ("requests", row["ratio_requests"])):
            if abs(ratio - 1) > TOLERANCE + 1.5 / math.sqrt(row["requests"]):
                found.append(f"{name} are {ratio} of the prediction")
    if not row["whole_epochs"] or row["quarantined"]:
        found.append("examples repeated, lost or quarantined")
    if any(
        grown["memory_mb"] > GROWTH_MB or grown["descriptors"] > 8 or grown["threads"] > 4 for grown in row["grown"]
    ):
        found.append(f"a rank grew: {row['grown']}")
    return found


def main() -> int:
    """Print the table, keep it with `--json FILE`, and return 1 when something is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=None, help="of each of the three parts")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    size = Size(**{**vars(size), "seconds": options.seconds or size.seconds})
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(size, Path(folder))
    print(
        f"{size.ranks} ranks x {size.workers} workers, {size.global_batch} examples a step, S3 (moto) {LATENCY_S:g} s"
    )
    for row in rows:
        print(
            f"{row['name']:22} {row['epochs']:3} epochs  {row['requests']:6} requests, predicted "
            f"{row['predicted_requests']:6} ({row['ratio_requests']:.3f})  {row['bytes'] / 1e6:8.1f} MB, predicted "
            f"{row['predicted_bytes'] / 1e6:8.1f} ({row['median']:.3f})  {sum(row['other_requests'].values())} others"
        )
    wrong = [f"{row['name']}: {fault}" for row in rows for fault in faults(row)]
    print("\n".join(wrong or ["all as predicted; nothing repeated, lost or growing"]))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
