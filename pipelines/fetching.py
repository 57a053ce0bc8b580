"""The command `fetch`: articles and scans from their services into a raw zone, which a recipe reads as its source."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from medloom.pipelines.options import Json, Set, answer, parse_settings, print_parameters
from medloom.schemas.errors import ConfigError, RetryLater

if TYPE_CHECKING:
    from medloom.pipelines.fetch.job import FetchDone

EXAMPLES = (
    "medloom fetch",
    "medloom fetch pmc --to raw --set ids=PMC11370360,PMC7500000",
    "medloom fetch pmc --to raw --set inventory=on --set tiers=open,nc --set limit=10000",
    """medloom fetch pmc --to raw --set query='"case reports"[Filter] AND open_access[Filter]'""",
    "medloom build pmc_inline --to out/papers --set source=raw",
    "medloom fetch dicomweb --to scans --set modalities=CT,SEG --set since=20240101",
)

Service = Annotated[str, typer.Argument(metavar="[SERVICE]", help="Name of a service; without one, lists them.")]
RawZone = Annotated[str, typer.Option("--to", help="Folder or URL of the raw zone to make or go on with.")]


def fetch(service: Service = "", to: RawZone = "", settings: Set = None, as_json: Json = False) -> None:
    """Keep articles with the figures they may show, or scans, in a raw zone; what is there is not asked for again.

    Of articles, only what is open access, not retracted and of the licence tiers asked for is fetched. Exit status 75:
    a transient fault left something out; run the same command again.
    """
    if not service:
        from medloom.pipelines.fetch.job import describe, services

        print_parameters({name: describe(kind) for name, kind in services().items()}, as_json=as_json)
        return
    if not to:
        raise ConfigError(f"say where to: medloom fetch {service} --to RAW")
    from medloom.pipelines.fetch import job
    from medloom.pipelines.progress import Bars
    from medloom.pipelines.report import amount

    with Bars(quiet=as_json) as told:
        done = job.fetch(service, to, parse_settings(settings or []), told)
    answer(asdict(done), _line(to, done), as_json=as_json)
    if done.later:
        raise RetryLater(f"{amount(done.later, 'article')} put off: {done.why_later}")


def _line(to: str, done: "FetchDone") -> str:
    from medloom.pipelines.report import amount, listed

    gone = f"; {done.withdrawn:,} kept before count no more" if done.withdrawn else ""
    return (
        f"{to}: asked for {amount(done.asked, 'object')}: {done.kept:,} kept ({done.bytes:,} bytes), "
        f"{done.known:,} known, {done.refused:,} refused{gone}; {amount(done.requests, 'request')}\n"
        f"reasons: {listed(dict(done.reasons))}"
    )
