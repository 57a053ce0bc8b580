"""Speed of reading JATS: articles per second and core, and how many times a bare lxml parse it costs.

`python -m tests.bench.jats [--json FILE] [--rounds N]` reads the 122 real articles that the package allofplos brings,
and those of MEDLOOM_TEST_CORPUS where it is set. Ours and the limit (a bare parse) run interleaved, article by
article, in processor time, so that a busy machine slows both alike.
"""

import argparse
import importlib.resources
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lxml import etree

from medloom.connectors.jats import parse_article
from medloom.schemas.errors import Refused


def corpora() -> Iterator[tuple[str, list[bytes]]]:
    """Give each corpus by name: the XML of its articles."""
    starter = importlib.resources.files("allofplos") / "starter_corpus"
    yield (
        "allofplos",
        [f.read_bytes() for f in sorted(starter.iterdir(), key=lambda f: f.name) if f.name.endswith(".xml")],
    )
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if folder:
        yield "pmc", [path.read_bytes() for path in sorted((Path(folder) / "pmc" / "xml").glob("*.xml"))]


def bare(data: bytes) -> None:
    """Parse and do nothing else: the limit."""
    etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))


def ours(data: bytes) -> None:
    """Read the rows of one article; a refusal is counted as work done."""
    try:
        parse_article(data, source="bench")
    except Refused:
        return


def measure(articles: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Return the processor seconds of each round, by what ran."""
    jobs: dict[str, Callable[[bytes], None]] = {"bare lxml parse": bare, "parse_article": ours}
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in jobs}
    for number in range(rounds):
        for data in articles:
            for name, job in jobs.items():
                started = time.process_time()
                job(data)
                seconds[name][number] += time.process_time() - started
    return seconds


def rows_of(corpus: str, articles: list[bytes], rounds: int) -> list[dict[str, Any]]:
    """Return a row per job: name, unit, median, spread (min and max), and its ratio to the limit in time."""
    seconds = measure(articles, rounds)
    ratios = [o / b for o, b in zip(seconds["parse_article"], seconds["bare lxml parse"], strict=True)]
    rows = []
    for name, taken in seconds.items():
        rates = [len(articles) / s for s in taken]
        rows.append({
            "name": f"{corpus}: {name}", "unit": "articles/s/core", "median": round(statistics.median(rates), 1),
            "spread": [round(min(rates), 1), round(max(rates), 1)],
            "ratio_to_limit": 1.0 if name != "parse_article" else round(statistics.median(ratios), 2),
        })  # fmt: skip
    return rows


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that decide the numbers."""
    return {
        "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
        "lxml": ".".join(map(str, etree.LXML_VERSION)), "libxml2": ".".join(map(str, etree.LIBXML_VERSION)),
    }  # fmt: skip


def main() -> None:
    """Print the table, and keep it with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [row for corpus, articles in corpora() for row in rows_of(corpus, articles, options.rounds)]
    for row in rows:
        low, high = row["spread"]
        print(
            f"{row['name']:32} {row['median']:8.1f} {row['unit']} ({low}–{high}), "
            f"{row['ratio_to_limit']} × the limit's time"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
