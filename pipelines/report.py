"""The step `report`: the curator's page, the data card and croissant.json of a build and its newest release."""

import json
from pathlib import Path
from typing import Any

from medloom.quality.report import write_report

from medloom.pipelines import steps
from medloom.quality.card import write_card
from medloom.schemas.build import Build
from medloom.schemas.errors import SourceError
from medloom.schemas.release import Release


def write(out: str, *, run: str = "") -> dict[str, Any]:
    """Write the report of the build at `out`; return the files written.

    Raises:
        SourceError: `out` is no build, or `run` no training run.
    """
    build = Build(out).must_exist()
    release = Release(out) if build.store.exists("releases") else None
    page = write_report(build, release=release, gate=steps.read_gate(build), losses=_losses(run) if run else None)
    return {"files": [page, *write_card(build, release)]}


def _losses(run: str) -> list[tuple[int, float]]:
    """Return (step, loss) of a training run."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise SourceError(f"{run} is no training run: it has no metrics.jsonl; `medloom train` writes one")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(int(row["step"]), float(row["loss"])) for row in rows]
