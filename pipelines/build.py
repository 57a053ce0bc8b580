"""Build: the steps one after the other, and what to tell people at the end."""

from typing import Any

from medloom.pipelines import report, steps
from medloom.pipelines.release.job import make_release, must_be_live
from medloom.pipelines.release.states import Policy
from medloom.pipelines.steps import Step

REASONS_SHOWN = 8


def build(step: Step, recipe: str) -> dict[str, Any]:
    """Run tables, media, examples, gate, release and report; return what was made.

    Raises:
        GateError: the gate did not pass or nothing was kept.
    """
    steps.tables(step, recipe)
    steps.media(step)
    manifest = steps.examples(step)
    steps.gate(step)
    step.tell.begin("release", 1)
    release = make_release([step.out], f"{step.out}/releases", policy=Policy(), master=step.where.spark_master)
    step.tell.piece(f"number {release.number}")
    step.tell.end()
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


def counted(counts: dict[str, Any]) -> str:
    """Return the numbers of a manifest in a line."""
    media = ", ".join(f"{n} {layout}" for layout, n in sorted(counts["media"].items())) or "none"
    made = ", ".join(f"{n} {task}" for task, n in sorted(counts["examples"].items())) or "none"
    return (
        f"{counts['units']} units ({counts['articles']} articles, {counts['series']} series), media: {media}, "
        f"examples: {made}, refused: {sum(counts['refused'].values())}"
    )


def told(made: dict[str, Any]) -> str:
    """Return what a person reads at the end of a build."""
    release = made["release"]
    refused = sorted(made["counts"]["refused"].items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{n} {reason}" for reason, n in refused[:REASONS_SHOWN])
    more = f", and {len(refused) - REASONS_SHOWN} more reasons" if len(refused) > REASONS_SHOWN else ""
    live = ", ".join(f"{n} {split}" for split, n in release["live"].items())
    withheld = ", ".join(f"{n} {reason}" for reason, n in release["withheld"].items()) or "none"
    return "\n".join(
        [
            f"built     {made['out']}, manifest {made['manifest']}: {counted(made['counts'])}",
            f"refused   {shown or 'nothing'}{more}",
            f"release   {release['number']}: {release['rows']} examples, live: {live}; withheld: {withheld}",
            f"open next {made['report'][0]}",
        ]
    )
