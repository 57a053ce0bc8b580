"""From raw DICOM to a shard: scans a minute on one core, the share of each step, and peak memory.

`python -m tests.bench.volumes_pipeline FOLDER GRID SHARD_FOLDER` runs the steps once, after a small series has warmed
the process, and prints a line of JSON: {step: processor seconds, "peak_mb": above what stood before, "volume_mb"}.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

STEPS = ("read", "digest", "resample", "measure", "encode", "write")
GRIDS: dict[str, dict[str, Any]] = {
    "native": {}, "1.5 mm isotropic": {"spacing_mm": (1.5, 1.5, 1.5)}, "256x256x32": {"shape": (32, 256, 256)}
}  # fmt: skip
ROUNDS = 3


def one_scan(paths: list[Path], grid: dict[str, Any], to: Path) -> dict[str, float]:
    """Take a series to a shard in the folder `to`; return the processor seconds of each step, and the volume's size."""
    from medloom.connectors.dicom import read_series
    from medloom.pipelines.stages.encode import encode
    from medloom.pipelines.stages.measure import Measure, voxel_digest
    from medloom.pipelines.stages.resample import Resample
    from medloom.schemas.medium import Medium
    from medloom.schemas.origin import Origin
    from medloom.schemas.shard import ShardName, ShardWriter
    from medloom.schemas.store import Store

    origin = Origin("bench", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)
    clock = [time.process_time()]
    (stack,) = read_series(paths).stacks
    clock.append(time.process_time())
    medium = Medium(key="k", unit="u", group="g", origin=origin, content=stack.content, modality="CT")
    medium = replace(medium, voxel_digest=voxel_digest(stack.content))
    volume_mb = stack.content.array.nbytes / 2**20
    clock.append(time.process_time())
    del stack
    (medium,) = Resample(**grid)(medium)
    clock.append(time.process_time())
    (medium,) = Measure()(medium)
    clock.append(time.process_time())
    sample = encode(medium, split="train")
    clock.append(time.process_time())
    with ShardWriter(Store(str(to)), ShardName("train", 0)) as writer:
        writer.add(sample)
        writer.close()
    clock.append(time.process_time())
    took = [after - before for before, after in itertools.pairwise(clock)]
    return {**dict(zip(STEPS, took, strict=True)), "volume_mb": volume_mb}


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """Be the child: run one scan warm and tell what it took."""
    folder, grid, to = Path(sys.argv[1]), GRIDS[sys.argv[2]], Path(sys.argv[3])
    paths = sorted(folder.iterdir())
    one_scan(paths[:5], grid, to / "warm")
    before = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    took = one_scan(paths, grid, to / "scan")
    print(json.dumps({**took, "peak_mb": _status_mb("VmHWM") - before}))


def bench_pipeline(folder: Path) -> list[dict[str, Any]]:
    """Return a row per grid for the one series in `folder`."""
    rows = []
    for grid in GRIDS:
        runs = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as to:
                command = [sys.executable, "-m", "tests.bench.volumes_pipeline", str(folder), grid, to]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
                runs.append(json.loads(done.stdout))
        seconds = {step: statistics.median(run[step] for run in runs) for step in STEPS}
        total = sum(seconds.values())
        totals = [60 / sum(run[step] for step in STEPS) for run in runs]
        rows.append({
            "name": f"DICOM to shard, {grid}", "unit": "scans/minute/core", "median": round(60 / total, 1),
            "spread": [round(min(totals), 1), round(max(totals), 1)],
            "share": {step: round(took / total, 3) for step, took in seconds.items()},
            "peak_mb": round(max(run["peak_mb"] for run in runs), 1),
            "limit_mb": round(2 * runs[0]["volume_mb"] + 64, 1),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
