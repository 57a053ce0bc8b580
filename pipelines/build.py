"""Build: the steps one after the other, and what to tell people at the end."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from medloom.pipelines import report, steps
from medloom.pipelines.release.job import make_release, must_be_live
from medloom.pipelines.release.states import Policy
from medloom.pipelines.steps import Step
from medloom.schemas.errors import GateError
from medloom.schemas.release import Release

REASONS_SHOWN = 8
T = TypeVar("T")


def build(step: Step, recipe: str) -> dict[str, Any]:
    """Run tables, media, examples, gate, release and report; return what was made.

    Raises:
        GateError: the gate did not pass or nothing was kept; the report is written all the same.
    """
    seconds: dict[str, float] = {}
    _timed(seconds, "tables", lambda: steps.tables(step, recipe))
    _timed(seconds, "media", lambda: steps.media(step))
    manifest = _timed(seconds, "examples", lambda: steps.examples(step))
    try:
        _timed(seconds, "gate", lambda: steps.gate(step))
    except GateError as fault:
        report.write_timings(step.out, seconds)
        raise GateError(f"{fault}; open {report.write(step.out)['files'][0]}") from fault
    release = _timed(seconds, "release", lambda: _release(step))
    report.write_timings(step.out, seconds)
    written = report.write(step.out)
    must_be_live(release)
    return {
        "out": step.out,
        "manifest": manifest["number"],
        "recipe": manifest["recipe"],
        "counts": manifest["counts"],
        "release": {"number": release.number, "url": release.url, **release.facts["counts"]},
        "report": written["files"],
    }


def _release(step: Step) -> Release:
    step.tell.begin("release", 1)
    policy, master = Policy(), step.where.spark_master
    release = make_release([step.out], f"{step.out.rstrip('/')}/releases", policy=policy, master=master)
    step.tell.piece(f"number {release.number}, {release.facts['counts']['rows']} examples")
    step.tell.end()
    return release


def _timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    began_s = time.monotonic()
    done = work()
    seconds[name] = time.monotonic() - began_s
    return done


def counted(counts: dict[str, Any]) -> str:
    """Return the numbers of a manifest in a line."""
    return (
        f"{amount(counts['units'], 'unit')} ({amount(counts['articles'], 'article')}, {counts['series']} series), "
        f"media: {listed(counts['media'])}, examples: {listed(counts['examples'])}, "
        f"refused: {sum(counts['refused'].values()):,}"
    )


def told(made: dict[str, Any]) -> str:
    """Return what a person reads at the end of a build."""
    release = made["release"]
    refused = sorted(made["counts"]["refused"].items(), key=lambda pair: (-pair[1], pair[0]))
    more = f", and {len(refused) - REASONS_SHOWN} more reasons" if len(refused) > REASONS_SHOWN else ""
    return "\n".join(
        [
            f"built      {made['out']}, manifest {made['manifest']}: {counted(made['counts'])}",
            f"refused    {listed(dict(refused[:REASONS_SHOWN]), none='nothing')}{more}",
            f"release    {release['number']}: {release['rows']:,} examples, live: {listed(release['live'])}",
            f"withheld   {listed(release['withheld'], none='nothing')}",
            f"open next  {made['report'][0]}",
        ]
    )


def amount(number: int, noun: str) -> str:
    """Return "1 unit", "2,000 units"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(counts: dict[str, int], *, none: str = "none") -> str:
    """Return counts as "3 caption, 1 vqa"; zeros are left out."""
    return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or none
