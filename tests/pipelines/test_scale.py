"""Scale: 20,000 articles with a driver whose memory does not grow with them, and 100 more that touch no shard."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import many_papers, sources

from medloom.schemas.build import Build

MIB = 1 << 20
RUN = """import sys
from medloom.__main__ import main
status = main(sys.argv[1:])
print(open("/proc/self/status").read())
sys.exit(status)
"""


def run(*arguments: str) -> int:
    """Run a command in a process of its own; return the most memory that this process held, in bytes."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)  # not ru_maxrss: that begins with the parent's
    assert found
    return int(found[1]) * 1024


def brought_up_to_date(out: Path, source: Path) -> dict[str, int]:
    """Run tables, media and examples; return what the driver of each held."""
    settings = ("--set", f"source={source}", "--set", "shard_bytes=8000000")
    return {
        "tables": run("tables", "pmc_inline", "--to", str(out), *settings),
        "media": run("media", str(out)),
        "examples": run("examples", str(out)),
    }


def counts(out: Path) -> dict[str, Any]:
    said: dict[str, Any] = Build(str(out)).manifest()["counts"]
    return said


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_20000_articles_in_bounded_memory_and_100_more_leave_every_shard_untouched(tmp_path: Path):
    source, out = tmp_path / "source", tmp_path / "out"
    many_papers.write(source, 5_000)
    few = brought_up_to_date(out, source)
    first = sources.facts_of(out, among=("media", "index", "ledger", "plan", "examples", "tables"))

    many_papers.write(source, 15_000, first=5_000)
    many = brought_up_to_date(out, source)
    assert counts(out)["articles"] == counts(out)["media"]["png"] == counts(out)["examples"]["caption"] == 20_000
    second = sources.facts_of(out, among=("media", "index", "ledger", "plan", "examples", "tables"))
    assert {name: facts for name, facts in second.items() if name in first} == first
    assert {step: held - few[step] < 128 * MIB for step, held in many.items()} == dict.fromkeys(many, True), (few, many)
    assert max(many.values()) < 640 * MIB, many

    many_papers.write(source, 100, first=20_000)
    later = brought_up_to_date(out, source)
    assert counts(out)["articles"] == 20_100
    third = sources.facts_of(out, among=("media", "index", "ledger", "plan", "examples", "tables"))
    assert {name: facts for name, facts in third.items() if name in second} == second
    assert max(later.values()) < 640 * MIB, later
    print({step: f"{few[step] // MIB} MiB, {many[step] // MIB} MiB, {later[step] // MIB} MiB" for step in many})
