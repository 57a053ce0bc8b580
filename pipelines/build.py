"""Build: the steps one after the other."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from medloom.pipelines import report, steps
from medloom.pipelines.release.job import make_release, must_be_live
from medloom.pipelines.release.states import Policy
from medloom.pipelines.steps import Step
from medloom.schemas.errors import GateError
from medloom.schemas.release import Release

T = TypeVar("T")


def build(step: Step, recipe: str) -> dict[str, Any]:
    """Run tables, media, examples, gate, release and report; return what was made.

    Raises:
        GateError: the gate did not pass or nothing was kept; the report is written all the same.
    """
    seconds: dict[str, float] = {}
    _timed(seconds, "tables", lambda: steps.tables(step, recipe))
    _timed(seconds, "media", lambda: steps.media(step))
    _timed(seconds, "examples", lambda: steps.examples(step))
    try:
        _timed(seconds, "gate", lambda: steps.gate(step))
    except GateError as fault:
        report.write_timings(step.out, seconds)
        raise GateError(f"{fault}; open {report.write(step.out)['files'][0]}") from fault
    release = _timed(seconds, "release", lambda: _release(step))
    report.write_timings(step.out, seconds)
    written = report.write(step.out)
    must_be_live(release)
    return written


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
