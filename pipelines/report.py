"""The step `report`: the curator's page, the data card and croissant.json of a build and its newest release."""

import json
from pathlib import Path
from typing import Any

from medloom.pipelines import steps
from medloom.pipelines.state import counts
from medloom.quality.card import write_card
from medloom.quality.gates import Finding, GateResult
from medloom.quality.report import write_report
from medloom.schemas.build import Build
from medloom.schemas.errors import SourceError
from medloom.schemas.keys import canonical_json
from medloom.schemas.release import find_release
from medloom.schemas.store import Store

TIMINGS = "report/run/timings.json"  # seconds by step of the last build, outside the manifest
REASONS_SHOWN = 8
CARDS = ("report/README.md", "report/examples/README.md", "report/croissant.json")


def write(out: str, *, run: str = "") -> dict[str, Any]:
    """Write the report of the build at `out`; return its numbers and the files written, the curator's page first.

    Raises:
        SourceError: `out` is no build, or `run` no training run.
        FormatError: the build has committed nothing yet.
    """
    build = Build(out).must_exist()
    manifest = build.manifest()
    metrics = _metrics(run) if run else []
    losses = [float(row["loss"]) for row in metrics if "loss" in row] or None
    release = find_release(build.url)
    page = write_report(build, release=release, gate=_gate(build), timings=read_timings(build), losses=losses)
    write_card(build, release)
    held_out = [float(row["held_out_loss"]) for row in metrics if "held_out_loss" in row]
    return {
        "out": out,
        "manifest": manifest["number"],
        "recipe": manifest["recipe"],
        "counts": counts(build.store, manifest["recipe"]["tasks"]),
        "release": {"number": release.number, "url": release.url, **release.facts["counts"]} if release else None,
        "training": {"run": run, "steps": len(losses or ()), "held_out": held_out} if run else None,
        "files": [page, *(f"{build.url}/{path}" for path in CARDS)],
    }


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


def _metrics(run: str) -> list[dict[str, Any]]:
    """Return the lines of a training run's metrics."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise SourceError(f"{run} is no training run: it has no metrics.jsonl; `medloom train` writes one")
    return [json.loads(line) for line in path.read_text().splitlines()]


def counted(counts: dict[str, Any]) -> str:
    """Return the numbers of a manifest in a line."""
    return (
        f"{amount(counts['units'], 'unit')} ({amount(counts['articles'], 'article')}, {counts['series']} series), "
        f"media: {listed(counts['media'])}, examples: {listed(counts['examples'])}, "
        f"refused: {sum(counts['refused'].values()):,}"
    )


def told(made: dict[str, Any]) -> str:
    """Return what a person reads at the end of a build."""
    release, training = made["release"], made["training"]
    refused = sorted(made["counts"]["refused"].items(), key=lambda pair: (-pair[1], pair[0]))
    more = f", and {len(refused) - REASONS_SHOWN} more reasons" if len(refused) > REASONS_SHOWN else ""
    lines = [
        f"built      {made['out']}, manifest {made['manifest']}: {counted(made['counts'])}",
        f"refused    {listed(dict(refused[:REASONS_SHOWN]), none='nothing')}{more}",
    ]
    if release:
        lines += [
            f"release    {release['number']}: {release['rows']:,} examples, live: {listed(release['live'])}",
            f"withheld   {listed(release['withheld'], none='nothing')}",
        ]
    if training and training["held_out"]:
        before, after = training["held_out"][0], training["held_out"][-1]
        lines.append(f"trained    {training['steps']} steps, held-out loss {before:.3f} before and {after:.3f} after")
    return "\n".join([*lines, f"open next  {made['files'][0]}"])


def amount(number: int, noun: str) -> str:
    """Return "1 unit", "2,000 units"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(counts: dict[str, int], *, none: str = "none") -> str:
    """Return counts as "3 caption, 1 vqa"; zeros are left out."""
    return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or none
