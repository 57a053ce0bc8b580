"""Streaming: ShardStream beside five peers and the limits of the machine, in one run.

`make bench-stream`, or `python -m tests.bench.stream [--json FILE] [--rounds N] [--only WORD] [--quick] [--data DIR]`.
The data are made anew in a temporary folder (1.6 GB), or kept in `--data`. Peers live in an environment of their own,
made at the first run in the user's cache folder. One process: processor time, pinned to one core; two workers: the
clock on the wall. Each round has fresh processes; ratios are medians of the rounds' ratios. `--quick` runs everything
of ours at tiny size and leaves the peers out: its figures mean nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import stream_data
from tests.bench.stream_data import QUICK, Size
from tests.bench.stream_goals import aims
from tests.bench.stream_jobs import Answer, Job, Section, sections
from tests.bench.stream_run import OURS, PEERS, Worker, allowed_cores, environment

Answers = dict[tuple[str, str], list[Answer]]  # by section and job, one of each round
SHUFFLES = ("global", "window:4")
SPAN = 32  # draws among which shards are counted


def measure(root: Path, found: list[Section], rounds: int, python: Path | None) -> tuple[Answers, list[Answer]]:
    """Return what every job took in every round, and how well the rows are shuffled (which has no noise)."""
    answers: Answers = {}
    shuffles: list[Answer] = []
    for number in range(rounds):
        with _workers(root, found, python) as workers:
            for section in found:
                for job in section.jobs:
                    answer = {"error": "left out"}
                    if job.who in workers:
                        answer = workers[job.who].ask(_request(root, job))
                    answers.setdefault((section.title, job.name), []).append(answer)
            if not number:
                asked = {"job": "shuffle", "root": str(root), "epochs": 4, "span": SPAN, "wide": 256}
                shuffles = [workers[OURS].ask({**asked, "how": how}) | {"how": how} for how in SHUFFLES]
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return answers, shuffles


def _request(root: Path, job: Job) -> dict[str, Any]:
    needs_data = job.ask["job"] not in ("order", "write")
    return {**job.ask, "root": str(root)} if needs_data else dict(job.ask)


@contextlib.contextmanager
def _workers(root: Path, found: list[Section], python: Path | None) -> Iterator[dict[str, Worker]]:
    """The processes of one round, with everything imported."""
    wanted = {job.who for section in found for job in section.jobs} | {OURS}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in (OURS, *(PEERS if python else ())):
            if name in wanted:
                program = sys.executable if name == OURS or python is None else python
                worker = Worker(name, program, cores=allowed_cores(), log=root / f"log-{name}.txt")
                workers[name] = stack.enter_context(worker)
                worker.say({"job": "ready", "peer": name})
        for worker in workers.values():
            worker.hear()
        yield workers


def rows_of(section: Section, answers: Answers) -> list[dict[str, Any]]:
    """Return a row per job: median, spread, ratio to the limit, and how many times as good ours is (or each peer)."""
    values = {job.name: _values(section, answers[section.title, job.name]) for job in section.jobs}
    by_role = {role: [job.name for job in section.jobs if job.role == role] for role in ("ours", "limit", "peer")}
    mine = by_role["ours"][0]
    rows = []
    for job in section.jobs:
        row: dict[str, Any] = {"section": section.title, "name": job.name, "unit": section.unit, "role": job.role}
        last = answers[section.title, job.name][-1]
        if not values[job.name]:
            rows.append({**row, "median": None, "failed": str(last.get("error", "no figure"))[:300]})
            continue
        got = [value for value in values[job.name] if value is not None]
        row |= {"median": _short(statistics.median(got)), "spread": [_short(min(got)), _short(max(got))]}
        for limit in by_role["limit"]:
            row["ratio_to_limit"] = _better(section, values[job.name], values[limit])
        if job.name == mine:
            row["ratio_to_peers"] = {peer: _better(section, values[mine], values[peer]) for peer in by_role["peer"]}
        else:
            row["ours_is_better"] = _better(section, values[mine], values[job.name])
        rows.append({**row, **section.extra(last)})
    return rows


def _values(section: Section, answers: list[Answer]) -> list[float]:
    """Values of the rounds; [] when one of them failed."""
    return [] if any("error" in answer for answer in answers) else [section.value(answer) for answer in answers]


def _better(section: Section, mine: list[float], other: list[float]) -> float | None:
    """How many times as good `mine` is as `other`, round by round; None without figures."""
    if not mine or not other:
        return None
    ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
    return round(ratio if section.more_is_better else 1 / ratio, 3)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def shuffle_rows(shuffles: list[Answer]) -> list[dict[str, Any]]:
    """Return a row per shuffle: shards among `SPAN` draws against drawing at random, and those among 256 draws."""
    rows = []
    for answer in shuffles:
        row = {"section": "shuffle", "name": answer["how"], "unit": f"shards in {SPAN} draws", "role": "ours"}
        if "error" in answer:
            rows.append({**row, "median": None, "failed": str(answer["error"])[:300]})
            continue
        row |= {"median": round(answer["span"], 2), "ratio_to_limit": round(answer["span"] / answer["uniform"], 4)}
        rows.append(row | {"uniform": round(answer["uniform"], 2), "shards_in_256_draws": round(answer["wide"], 2)})
    return rows


def told(rows: list[dict[str, Any]], goals: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the tables and of the goals."""
    lines, section = [], ""
    for row in rows:
        if row["section"] != section:
            section = row["section"]
            lines += [
                "",
                f"{section}  [{row['unit']}]",
                f"  {'':38} {'median':>10}  {'spread':18} {'x limit':>8} ours is x",
            ]
        lines.append(_line(row))
    lines += ["", "goals"]
    for goal in goals:
        value = "not measured" if goal["value"] is None else f"{goal['value']:.3g}"
        lines.append(f"  {goal['verdict']:7} {goal['name']}: {value}, goal {goal['sign']} {goal['goal']}")
    return lines


def _line(row: dict[str, Any]) -> str:
    if row["median"] is None:
        return f"  {row['name']:38} {'–':>10}  {row['failed'].splitlines()[0][:90]}"
    low, high = row.get("spread", ("", ""))
    limit = row.get("ratio_to_limit")
    known = (
        "section",
        "name",
        "unit",
        "role",
        "median",
        "spread",
        "ratio_to_limit",
        "ratio_to_peers",
        "ours_is_better",
    )
    rest = "  ".join(f"{key} {value}" for key, value in row.items() if key not in known)
    spread = f"{low:g}–{high:g}" if "spread" in row else ""
    better = row.get("ours_is_better")
    return (
        f"  {row['name']:38} {row['median']:10g}  {spread:18} {'' if limit is None else f'{limit:8.3f}':8} "
        f"{'' if better is None else f'{better:8.2f}':8} {rest}"
    ).rstrip()


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that decide the numbers."""
    from importlib.metadata import version

    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    names = ("blosc2", "simplejpeg", "numpy", "nibabel", "zstandard", "pyarrow")
    return {
        "machine": platform.machine(), "cpu": model, "cores": os.cpu_count(), "python": platform.python_version(),
        "load": os.getloadavg()[0], **{name: version(name) for name in names},
    }  # fmt: skip


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _peers_python(quick: bool) -> tuple[Path | None, str]:
    """Return the peers' python, or None and why."""
    if quick:
        return None, "left out by --quick"
    try:
        return environment(), ""
    except subprocess.CalledProcessError as error:
        return None, f"pip cannot install them: {(error.stderr or '').strip().splitlines()[-1:]}"


def prepared(root: Path, size: Size, python: Path | None) -> dict[str, Any]:
    """Make the data in `root` where they are not there yet; return {"mb": by format, "peers": what writing took}."""
    facts = root / "facts.json"
    if facts.exists():
        return dict(json.loads(facts.read_text()))
    root.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"size": size.to_json(), "mb": stream_data.make(root, size)}
    if python:
        with Worker("peers", python, cores=allowed_cores(), log=root / "log-make.txt") as worker:
            made["peers"] = worker.ask({"job": "make", "root": str(root)})
            made["versions"] = worker.ask({"job": "versions"})
    facts.write_text(json.dumps(made))
    return made


def main() -> int:
    """Print the tables and the goals, and keep them with `--json FILE`; 1 when something of ours failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="sections whose title holds this word")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=None, help="folder that keeps the data")
    options = parser.parse_args()
    size, rounds = (QUICK, 1) if options.quick else (Size(), options.rounds)
    python, why = _peers_python(options.quick)
    found = [section for section in sections(size) if options.only in section.title]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        made = prepared(options.data or Path(place) / "data", size, python)
        print(f"data ready after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        answers, shuffles = measure(options.data or Path(place) / "data", found, rounds, python)
    rows = [row for section in found for row in rows_of(section, answers)]
    rows += shuffle_rows(shuffles)
    goals = aims(rows)
    if options.quick:
        goals = [{**goal, "verdict": "quick"} for goal in goals]
    print(f"peers: {why}" if why else f"peers: {made.get('versions', {})}")
    print("\n".join(told(rows, goals)))
    took = round(time.monotonic() - started)
    print(f"\n{took} s; {machine()}")
    if options.json:
        kept = {"machine": machine(), "seconds": took, "rounds": rounds, "quick": options.quick, "data": made}
        options.json.write_text(json.dumps({**kept, "rows": rows, "goals": goals}, indent=1) + "\n")
    return int(any(row["median"] is None and row["role"] in ("ours", "limit") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
