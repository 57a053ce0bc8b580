"""Parsing papers with Spark on one core and on two: articles a second of the stage that `tables` spends its time in.

The real articles are laid out again and again under new names, enough to hide what a session costs to start; each run
is a process of its own, and one core and two take turns.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MASTERS = ("local[1]", "local[2]")
ROUNDS = 2


def spark_rows(files: list[Path], articles: int) -> list[dict[str, Any]]:
    """Return a row per number of cores: articles a second, and how many times those of one core."""
    runs: dict[str, list[dict[str, float]]] = {master: [] for master in MASTERS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(articles):
            path = files[number % len(files)]
            shutil.copyfile(path, Path(folder) / f"{number:06d}-{path.name}")
        for _ in range(ROUNDS):
            for master in MASTERS:
                command = [sys.executable, "-m", "tests.bench.jats_spark", master, folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                runs[master].append(json.loads(done.stdout.splitlines()[-1]))
    rates = {master: [run["articles"] / run["wall"] for run in runs[master]] for master in MASTERS}
    one = rates[MASTERS[0]]
    rows = []
    for master in MASTERS:
        ratios = [rate / alone for rate, alone in zip(rates[master], one, strict=True)]
        busy = statistics.median(run["cpu"] / run["wall"] for run in runs[master])
        per_core = statistics.median(run["articles"] / run["cpu"] for run in runs[master])
        rows.append({
            "name": f"tables, parsing stage, {master}", "unit": "articles/s",
            "median": statistics.median(rates[master]), "spread": [min(rates[master]), max(rates[master])],
            "ratio": round(statistics.median(ratios), 2),
            "per_core": per_core, "cores_busy": busy,
            "detail": f"{busy:.2f} cores busy, {per_core:.0f} articles/s of processor time",
        })  # fmt: skip
    return rows


def main() -> None:
    """Parse the articles of a folder with one session, and print what it took as one JSON line."""
    from medloom.pipelines.sources.listing import list_objects
    from medloom.pipelines.spark import session
    from medloom.pipelines.tables.job import TASK_BYTES
    from medloom.pipelines.tables.papers import parse_papers

    master, folder = sys.argv[1:]
    objects = list_objects(folder)
    spark = session(master, name="bench jats")

    def parse(part: Any, partitions: int) -> None:
        parsed = parse_papers(spark, folder, part, partitions=partitions, files=1)
        parsed.write.format("noop").mode("overwrite").save()

    parse(objects.slice(0, 40), len(MASTERS))
    size = sum(objects["size"].to_pylist())
    wall, cpu = time.perf_counter(), _tree_seconds(os.getpid())
    parse(objects, max(len(MASTERS), size // TASK_BYTES))
    took = {"wall": time.perf_counter() - wall, "cpu": _tree_seconds(os.getpid()) - cpu}
    print(json.dumps(took | {"articles": objects.num_rows}))
    spark.stop()


def _tree_seconds(pid: int) -> float:
    """Return the processor seconds of a process, of all below it, and of those of theirs that have ended."""
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                facts = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile; its parent has its time
            stats[int(entry.name)] = (int(facts[1]), sum(map(int, facts[11:15])))
    family = {pid}
    while grown := {p for p, (parent, _) in stats.items() if parent in family} - family:
        family |= grown
    return sum(stats[p][1] for p in family if p in stats) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
