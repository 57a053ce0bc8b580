"""The commands of a data engineer and a curator: recipes, steps, releases, and looking into what was made."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from medloom.pipelines import deidentifying, estimating, fetching
from medloom.pipelines.options import Json, Set, answer, parse_settings, print_json, print_parameters, print_table
from medloom.schemas.errors import ConfigError, GateError

Out = Annotated[str, typer.Argument(help="Folder or URL of the build.")]
To = Annotated[str, typer.Option("--to", help="Folder or URL of the build to make or go on with.")]
RecipeName = Annotated[str, typer.Argument(help="Name of a recipe (see `medloom recipes`) or path of a .py file.")]
SparkMaster = Annotated[str, typer.Option(help="Spark master; local[*] starts Spark in this process.")]
RayAddress = Annotated[str, typer.Option(help="Ray cluster; `local` starts Ray here, `none` runs in this process.")]
RebuildAll = Annotated[bool, typer.Option("--rebuild", help="Build shards of another fingerprint again.")]
Adopt = Annotated[str, typer.Option(help="Keep finished shards of this fingerprint, although the recipe has another.")]
Except = Annotated[list[str] | None, typer.Option("--except", help="With --adopt: build this shard again; repeatable.")]
Because = Annotated[str, typer.Option(help="With --adopt: why; kept in the build's plan.")]

EXAMPLES = {  # shown below a command's options
    "recipes": ("medloom recipes",),
    "fetch": fetching.EXAMPLES,
    "estimate": estimating.EXAMPLES,
    "deidentify": deidentifying.EXAMPLES,
    "build": (
        "medloom build demo --to out/demo",
        "medloom build pmc_inline --to out/papers --set source=papers/",
        "medloom build my_recipe.py --to out/mine",
    ),
    "tables": ("medloom tables scans --to out/scans --set source=scans/",),
    "media": (
        "medloom media out/scans",
        'medloom media out/scans --adopt 3f2a… --except train-000003 --because "only CT changed"',
    ),
    "examples": ("medloom examples out/scans",),
    "gate": ("medloom gate out/scans",),
    "release": (
        "medloom release out/scans",
        "medloom release out/papers out/scans --to out/releases",
        'medloom release --to out/releases --withhold medium:KEY --reason "blurred"',
        'medloom release --to out/releases --withdraw group:ID --reason "asked by the patient"',
    ),
    "publish": ("medloom publish out/papers --to public/papers",),
    "inspect": ("medloom inspect scans/",),
    "lint": ("medloom lint out/papers", "medloom lint out/papers --repair"),
    "show": ("medloom show out/papers caption-72b17674a600d7df0cc9cb57",),
    "report": ("medloom report out/papers", "medloom report out/papers --run out/run"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to the root command line, in the order in which they are used."""
    for command in (
        recipes, estimating.estimate, fetching.fetch, deidentifying.deidentify, build, tables, media, examples, gate,
        release, publish, inspect, lint, show, report,
    ):  # fmt: skip
        app.command(epilog="\n\n".join(("Examples:", *EXAMPLES[command.__name__])))(command)


def recipes(as_json: Json = False) -> None:
    """List the recipes, and for each the parameters that --set can fill."""
    from medloom.pipelines.recipe import describe, recipe_names

    print_parameters({name: describe(name) for name in recipe_names()}, as_json=as_json)


def build(
    recipe: RecipeName,
    to: To,
    settings: Set = None,
    spark_master: SparkMaster = "local[*]",
    ray_address: RayAddress = "local",
    rebuild: RebuildAll = False,
    adopt: Adopt = "",
    excepted: Except = None,
    because: Because = "",
    as_json: Json = False,
) -> None:
    """Run tables, media, examples, gate, release and report, one after the other.

    Run again, it goes on where it was stopped, and takes in what is new at the source; what is finished is not touched.
    """
    from medloom.pipelines import build as whole
    from medloom.pipelines.progress import Bars
    from medloom.pipelines.report import told

    with Bars(quiet=as_json) as tell:
        step = _step(to, tell, settings, spark_master, ray_address, rebuild, adopt, excepted, because)
        made = whole.build(step, recipe)
    if as_json:
        print_json(made)
    else:
        print(told(made))


def tables(
    recipe: RecipeName, to: To, settings: Set = None, spark_master: SparkMaster = "local[*]", as_json: Json = False
) -> None:
    """Read papers and headers into tables; give every unit a group, a split and a shard."""
    from medloom.pipelines import steps
    from medloom.pipelines.progress import Bars

    with Bars(quiet=as_json) as tell:
        made = steps.tables(_step(to, tell, settings, spark_master), recipe)
    _print_counts(made, as_json=as_json)


def media(
    out: Out,
    settings: Set = None,
    ray_address: RayAddress = "local",
    rebuild: RebuildAll = False,
    adopt: Adopt = "",
    excepted: Except = None,
    because: Because = "",
    as_json: Json = False,
) -> None:
    """Decode, de-identify, resample and measure the units of every unfinished shard, and store them in tars."""
    from medloom.pipelines import steps
    from medloom.pipelines.progress import Bars

    with Bars(quiet=as_json) as tell:
        made = steps.media(_step(out, tell, settings, "", ray_address, rebuild, adopt, excepted, because))
    _print_counts(made, as_json=as_json)


def examples(out: Out, settings: Set = None, ray_address: RayAddress = "local", as_json: Json = False) -> None:
    """Make captions, interleaved text and questions that refer to the media; no tar is touched."""
    from medloom.pipelines import steps
    from medloom.pipelines.progress import Bars

    with Bars(quiet=as_json) as tell:
        made = steps.examples(_step(out, tell, settings, "", ray_address))
    _print_counts(made, as_json=as_json)


def gate(out: Out, as_json: Json = False) -> None:
    """Hold the tables against the expectations; exit status 1 when a critical one fails or nothing was kept."""
    from medloom.pipelines import steps
    from medloom.pipelines.progress import Bars
    from medloom.schemas.build import Build

    with Bars(quiet=as_json) as tell:
        try:
            steps.gate(_step(out, tell, None))
        except GateError:
            if as_json:
                print_json(steps.read_gate(Build(out)))
            raise
    result = steps.read_gate(Build(out)) or {}
    line = f"{out}: the gate is open, {len(result['rows'])} expectations hold"
    answer(result, line, as_json=as_json)


def release(
    builds: Annotated[list[str] | None, typer.Argument(help="Builds that the release is made of.")] = None,
    to: Annotated[str, typer.Option("--to", help="Folder of the releases; for one build, its own `releases`.")] = "",
    withhold: Annotated[list[str] | None, typer.Option(help="SCOPE:ID to keep back until lifted; repeatable.")] = None,
    withdraw: Annotated[list[str] | None, typer.Option(help="SCOPE:ID to take down for good; repeatable.")] = None,
    lift: Annotated[list[str] | None, typer.Option(help="SCOPE:ID to let through again; repeatable.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the overlay.")] = "",
    by: Annotated[str, typer.Option(help="Who says so; kept in the overlay.")] = "curator",
    commercial: Annotated[bool, typer.Option(help="Withhold what must not be used commercially.")] = False,
    checks: Annotated[bool, typer.Option(help="Withhold what fails a soft check.")] = True,
    duplicates: Annotated[bool, typer.Option(help="Withhold images that the release holds twice.")] = True,
    near: Annotated[bool, typer.Option(help="Withhold near-duplicates of what another article holds.")] = True,
    spark_master: SparkMaster = "local[*]",
    as_json: Json = False,
) -> None:
    """Make a numbered release of builds, or say of a released subject that it is withheld, withdrawn or live again.

    SCOPE is example, medium, group or query (query:task=caption). No tar is rewritten.
    """
    from medloom.pipelines.release import job
    from medloom.pipelines.release.states import Policy
    from medloom.pipelines.report import amount, listed

    if not builds and not to:
        raise ConfigError("name the builds of the release, or with --to the releases whose overlay is meant")
    where = to or _releases_of(builds or [])
    said = {"withheld": withhold or [], "withdrawn": withdraw or [], "live": lift or []}
    if any(said.values()):
        parts = [job.overlay(where, who, state=s, reason=reason, by=by) for s, who in said.items() if who]
        answer({"overlay": parts}, f"{where}: wrote {', '.join(parts)}", as_json=as_json)
        return
    if not builds:
        raise ConfigError("name the builds of the release, such as `medloom release out/demo`")
    policy = Policy(commercial, checks, duplicates, near)
    made = job.make_release(builds, where, policy=policy, master=spark_master)
    counts = made.facts["counts"]
    line = (
        f"release {made.number} at {made.url}: {amount(counts['rows'], 'example')}, live: {listed(counts['live'])}\n"
        f"withheld by policy: {listed(counts['withheld'], none='nothing')}"
    )
    answer({"url": made.url, **made.facts}, line, as_json=as_json)
    job.must_be_live(made)


def _releases_of(builds: list[str]) -> str:
    if len(builds) != 1:
        raise ConfigError("a release of several builds needs --to FOLDER")
    return f"{builds[0].rstrip('/')}/releases"


def publish(
    data: Annotated[str, typer.Argument(help="Release folder, or build whose newest release is meant.")],
    to: Annotated[str, typer.Option("--to", help="New, empty folder.")],
    as_json: Json = False,
) -> None:
    """Copy what the terms allow; tars that hold something withheld or forbidden are rewritten without it."""
    from medloom.pipelines.publish import publish as run
    from medloom.pipelines.report import amount, listed
    from medloom.schemas.release import Release

    done = run(Release(data), to)
    line = (
        f"published {to}: {done.media:,} media, {done.examples:,} examples; "
        f"{amount(done.copied, 'tar')} copied, {done.rewritten:,} rewritten\n"
        f"media kept back: {listed(done.media_kept_back, none='none')}\n"
        f"examples kept back: {listed(done.examples_kept_back, none='none')}"
    )
    answer(asdict(done), line, as_json=as_json)


def inspect(
    path: Annotated[Path, typer.Argument(help="A scan, an image, an article, or a folder of them.")],
    as_json: Json = False,
) -> None:
    """Tell what is in files before building anything: series, geometry, and what would be refused and why."""
    from medloom.pipelines.inspect import inspect as run

    rows = run(str(path))
    if as_json:
        print_json(rows)
        return
    root = path if path.is_dir() else path.parent
    table = Table("files", "kind", "shape (Z, Y, X)", "spacing mm", "axes", "verdict")
    for row in rows:
        more = f" and {row['objects'] - 1} more" if row["objects"] > 1 else ""
        kind = f"{row['modality']} {row['kind']}".strip() or "unknown"
        shape, spacing = "×".join(map(str, row["shape"])), "×".join(f"{s:.3g}" for s in row["spacing_mm"])
        file = f"{Path(row['file']).relative_to(root)}{more} {row['part']}".strip()
        cells = (file, kind, shape, spacing, row["axes"], row["verdict"])
        table.add_row(*map(Text, cells))
    print_table(table)
    good = sum(row["verdict"].startswith("ok") for row in rows)
    print(f"{path}: {good} would be built, {len(rows) - good} refused")


def lint(
    out: Annotated[str, typer.Argument(help="Folder or URL of a build, or of releases of several.")],
    repair: Annotated[bool, typer.Option("--repair", help="First make again what can be made from what is intact.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Check every checksum, key, field set, index row, reference and count; exit status 1 when something is wrong."""
    from medloom.pipelines.linting import lint_all, repair_all
    from medloom.pipelines.report import amount

    done = repair_all(out) if repair else None
    steps, found = (done.steps, list(done.left)) if done else ((), lint_all(out))
    if as_json:
        left = [asdict(finding) for finding in found]
        print_json({"repaired": [asdict(step) for step in steps], "found": left} if repair else left)
    for step in () if as_json else steps:
        print(f"{step.path}: {'' if step.is_mended else 'cannot be repaired: '}{step.told}")
    for finding in [] if as_json else found:
        print(f"{finding.path}: {finding.what}: found {finding.found}; {finding.mend}")
    if found:
        raise GateError(f"{out} is not what its manifest promises: {amount(len(found), 'finding')}")
    if not as_json:
        print(f"{out}: every checksum, key, index row, reference and count is right")


def show(
    out: Out,
    name: Annotated[str, typer.Argument(metavar="ID", help="example_id, key of a medium, unit, or refused object.")],
    as_json: Json = False,
) -> None:
    """Follow one thing back to its article, figure, sentence, licence and checksum, or to its series and file."""
    from medloom.pipelines.show import show as run
    from medloom.pipelines.told import told
    from medloom.schemas.build import Build

    facts = run(Build(out).must_exist(), name)
    answer(facts, told(facts), as_json=as_json)


def report(
    out: Out,
    run: Annotated[str, typer.Option(help="Folder of a training run whose loss is plotted.")] = "",
    as_json: Json = False,
) -> None:
    """Write the curator's page (one HTML file), the data card and croissant.json."""
    from medloom.pipelines.report import told, write

    written = write(out, run=run)
    answer(written, told(written), as_json=as_json)


def _step(
    out: str,
    tell: Any,
    settings: list[str] | None,
    spark_master: str = "local[*]",
    ray_address: str = "local",
    rebuild: bool = False,
    adopt: str = "",
    excepted: list[str] | None = None,
    because: str = "",
) -> Any:
    from medloom.pipelines.adoption import Rebuild
    from medloom.pipelines.steps import Step, Where

    where = Where(spark_master, ray_address)
    again = Rebuild(rebuild, adopt, tuple(excepted or ()), because)
    return Step(out, tell, where, parse_settings(settings or []), again)


def _print_counts(manifest: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"manifest": manifest["number"], "recipe": manifest["recipe"], "counts": manifest["counts"]})
        return
    from medloom.pipelines.report import counted

    print(f"manifest {manifest['number']}: {counted(manifest['counts'])}")
