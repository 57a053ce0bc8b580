"""The step `report`: the curator's page, the data card and croissant.json of a build and its newest release."""

import json
from pathlib import Path
from typing import Any

from medloom.pipelines import steps
from medloom.quality.card import write_card
from medloom.quality.gates import Finding, GateResult
from medloom.quality.report import write_report
from medloom.schemas.build import Build
from medloom.schemas.errors import SourceError
from medloom.schemas.keys import canonical_json
from medloom.schemas.release import find_release
from medloom.schemas.store import Store

TIMINGS = "report/run/timings.json"  # seconds by step of the last build, outside the manifest
CARDS = ("report/README.md", "report/examples/README.md", "report/croissant.json")


def write(out: str, *, run: str = "") -> dict[str, Any]:
    """Write the report of the build at `out`; return the files written, the curator's page first.

    Raises:
        SourceError: `out` is no build, or `run` no training run.
        FormatError: the build has committed nothing yet.
    """
    build = Build(out).must_exist()
    build.manifest()
    losses = _losses(run) if run else None
    release = find_release(build.url)
    page = write_report(build, release=release, gate=_gate(build), timings=read_timings(build), losses=losses)
    write_card(build, release)
    return {"files": [page, *(f"{build.url}/{path}" for path in CARDS)]}


def write_timings(out: str, seconds: dict[str, float]) -> None:
    """Keep how long each step of a build took."""
    Store(out).write(TIMINGS, (canonical_json({k: round(v, 3) for k, v in seconds.items()}) + "\n").encode())


def read_timings(build: Build) -> dict[str, float]:
    """Return seconds by step of the last build in the order of the steps, {} where none was kept."""
    if not build.store.exists(TIMINGS):
        return {}
    kept = json.loads(build.store.read(TIMINGS))
    order = ("tables", "media", "examples", "gate", "release")
    return {name: float(kept[name]) for name in order if name in kept}


def _gate(build: Build) -> GateResult | None:
    kept = steps.read_gate(build)
    return GateResult(kept["success"], tuple(Finding(**row) for row in kept["rows"])) if kept else None


def _losses(run: str) -> list[float]:
    """Return the loss of each step of a training run."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise SourceError(f"{run} is no training run: it has no metrics.jsonl; `medloom train` writes one")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [float(row["loss"]) for row in rows if "loss" in row]
