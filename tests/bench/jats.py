"""Reading JATS: how right (M1–M5), how fast beside its limit and its peers, and how well it spreads over cores.

`python -m tests.bench.jats [--json FILE] [--rounds N] [--spark-articles N]` reads the 122 real articles that the
package allofplos brings, and those of MEDLOOM_TEST_CORPUS where it is set. The limit is a bare lxml parse; the peers
are the standard library's ElementTree, which only parses, and pubmed_parser's three passes (metadata, captions,
paragraphs), pinned in an environment of their own. All run interleaved, article by article, and are measured in
processor time, so that a busy machine slows all alike; wall time stands beside it. A file on which a peer raises is
counted, and left out of that ratio on both sides.
"""

import argparse
import importlib.resources
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lxml import etree

from medloom.connectors.jats import parse_article
from medloom.schemas.errors import Refused
from tests.bench.jats_spark import spark_rows
from tests.connectors import alignment_truth

OURS, LIMIT, STDLIB, PUBMED = "parse_article", "bare lxml parse", "ElementTree parse", "pubmed_parser 0.5.1"
PASSES = ("xml", "caption", "paragraph")
PINS = ("pubmed_parser==0.5.1", f"lxml=={etree.__version__}")
_LIMIT_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


def corpora() -> Iterator[tuple[str, list[Path]]]:
    """Give each corpus by name: the files of its articles."""
    starter = Path(str(importlib.resources.files("allofplos"))) / "starter_corpus"
    yield "allofplos", sorted(starter.glob("*.xml"))
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if folder:
        yield "pmc", sorted((Path(folder) / "pmc" / "xml").glob("*.xml"))


def bare(data: bytes) -> None:
    """Parse and do nothing else: the limit."""
    etree.fromstring(data, _LIMIT_PARSER)


def ours(data: bytes) -> None:
    """Read the rows of one article; a refusal is counted as work done."""
    try:
        parse_article(data, source="bench")
    except Refused:
        return


def stdlib(data: bytes) -> None:
    """Parse with the standard library."""
    ElementTree.fromstring(data)


class Peers:
    """pubmed_parser in a process of its own, as a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(environment() / "bin" / "python"), str(Path(__file__).with_name("jats_peers.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def passes(self, path: Path) -> dict[str, dict[str, Any]]:
        """Return what each pass over an article took, or what it raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def environment() -> Path:
    """Return the peers' environment, made at the first run in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medloom-bench"
    folder = cache / "-".join(pin.replace("==", "-") for pin in PINS)
    if not (folder / "made").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PINS]
        subprocess.run(pip, check=True)
        (folder / "made").touch()
    return folder


@dataclass
class Times:
    """Seconds of one job: by round, by article; an article on which it raised is in `failed` with the error's class."""

    cpu: list[dict[Path, float]] = field(default_factory=list)
    wall: list[dict[Path, float]] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)

    def add(self, number: int, path: Path, took: dict[str, Any]) -> None:
        """Keep what round `number` took on one article."""
        for seconds in (self.cpu, self.wall):
            if len(seconds) <= number:
                seconds.append({})
        if "error" in took:
            self.failed[path] = took["error"]
        else:
            self.cpu[number][path], self.wall[number][path] = took["cpu"], took["wall"]


def timed(job: Callable[[bytes], None], data: bytes) -> dict[str, Any]:
    """Return what one call took, or the class of what it raised."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        job(data)
    except (ElementTree.ParseError, etree.XMLSyntaxError) as error:
        return {"error": type(error).__name__}
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def measure(files: list[Path], rounds: int) -> dict[str, Times]:
    """Return the times of all jobs, interleaved article by article."""
    jobs = {LIMIT: bare, OURS: ours, STDLIB: stdlib}
    times = {name: Times() for name in (*jobs, PUBMED, *(f"{PUBMED} {one}" for one in PASSES))}
    articles = [(path, path.read_bytes()) for path in files]
    with Peers() as peers:
        for number in range(rounds):
            for path, data in articles:
                for name, job in jobs.items():
                    times[name].add(number, path, timed(job, data))
                took = peers.passes(path)
                for one in PASSES:
                    times[f"{PUBMED} {one}"].add(number, path, took[one])
                times[PUBMED].add(number, path, _together(took))
    return times


def _together(took: dict[str, dict[str, Any]]) -> dict[str, Any]:
    failed = [one["error"] for one in took.values() if "error" in one]
    if failed:
        return {"error": failed[0]}
    return {clock: sum(one[clock] for one in took.values()) for clock in ("cpu", "wall")}


def rows_of(corpus: str, files: list[Path], rounds: int) -> list[dict[str, Any]]:
    """Return a row per job: articles a second and core, its time as a multiple of the limit's, and ours beside it."""
    times = measure(files, rounds)
    rows = []
    for name, took in times.items():
        good = [path for path in files if path not in took.failed]
        cpu, wall, limit, mine = (
            [sum(seconds[path] for path in good) for seconds in each]
            for each in (took.cpu, took.wall, times[LIMIT].cpu, times[OURS].cpu)
        )
        rates = sorted(len(good) / s for s in cpu)
        rows.append({
            "name": f"{corpus}: {name}", "unit": "articles/s/core", "median": round(statistics.median(rates), 1),
            "spread": [round(rates[0], 1), round(rates[-1], 1)],
            "wall": round(statistics.median(len(good) / s for s in wall), 1), "files": len(good),
            "failed": len(took.failed), "ratio_to_limit": _ratio(cpu, limit), "ours_is_faster": _ratio(cpu, mine),
        })  # fmt: skip
    return rows


def _ratio(seconds: list[float], others: list[float]) -> float:
    return round(statistics.median(s / o for s, o in zip(seconds, others, strict=True)), 2)


def quality() -> list[str]:
    """Return the lines of M1 to M5; none without the checking data."""
    corpus = os.environ.get("MEDLOOM_TEST_CORPUS", "")
    measures = (
        alignment_truth.measured_pairs, alignment_truth.measured_labels, alignment_truth.measured_figures,
        alignment_truth.measured_offsets,
    )  # fmt: skip
    return [str(measured(corpus)) for measured in measures] if corpus else []


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that decide the numbers."""
    return {
        "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
        "lxml": etree.__version__, "libxml2": ".".join(map(str, etree.LIBXML_VERSION)), "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Print the table, and keep it with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spark-articles", type=int, default=3000, help="0 leaves Spark out")
    options = parser.parse_args()
    told = quality()
    print("\n".join(told))
    print(f"{'articles/s/core in processor time':44} median    spread       wall  files   × limit  ours is × as fast")
    rows = []
    for corpus, files in corpora():
        for row in rows_of(corpus, files, options.rounds):
            rows.append(row)
            low, high = row["spread"]
            failed = f" ({row['failed']} raise)" if row["failed"] else ""
            print(
                f"{row['name']:44} {row['median']:6.0f} {low:6.0f}–{high:<6.0f} {row['wall']:6.0f}  {row['files']:5} "
                f"{row['ratio_to_limit']:9.2f} {row['ours_is_faster']:9.2f}{failed}"
            )
            sys.stdout.flush()
    if options.spark_articles:
        files = [path for _, files in corpora() for path in files]
        for row in spark_rows(files, options.spark_articles):
            rows.append(row)
            rate = f"{row['median']:6.0f} {row['unit']}"
            print(f"{row['name']:44} {rate}, {row['ratio']:.2f} × one core; {row['detail']}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "quality": told, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
