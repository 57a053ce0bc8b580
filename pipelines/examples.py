"""The step `examples`: each task makes rows from the tables and the kept media of one shard; no tar is touched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from medloom.connectors.local_llm import ModelAddress, start
from medloom.pipelines import engine
from medloom.pipelines.carried import Carried, carry
from medloom.pipelines.links import withdrawn_units
from medloom.pipelines.recipe import LoadedRecipe
from medloom.pipelines.sources.work import raised
from medloom.pipelines.unit import MediumView, Task, UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.build import Build
from medloom.schemas.errors import BugError, ConfigError, FormatError, MedloomError, Refusal
from medloom.schemas.example import Example
from medloom.schemas.medium import PanelBox, Region
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, TABLES, measured_cell
from medloom.schemas.volume import Label

RESPONSES = "private/responses"
SEEN_BY_TASKS = ("article", "section", "paragraph", "figure", "mention", "series", "finding")
PICTURE_FIELDS = {"jpg": "jpg", "png": "png", "volume": "ct.b2nd", "volume-seg": "ct.b2nd"}


@dataclass(frozen=True)
class ExampleWork:
    """One task over one shard; `how` is the task itself, `withdrawn` the units that their source took back."""

    out: str
    shard: ShardName
    shard_digest: str
    units: tuple[dict[str, Any], ...]
    task: str
    how: Carried
    fingerprint: str
    model: ModelAddress | None
    withdrawn: Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class ExamplesDone:
    """What a task came to in one shard."""

    task: str
    shard: ShardName
    kept: int
    refused: int


def make_examples(
    loaded: LoadedRecipe,
    store: Store,
    *,
    ray_address: str,
    told: Callable[[ExamplesDone], None],
    started: Callable[[int], None],
) -> dict[str, str]:
    """Make the rows that are missing or whose shard changed; return the fingerprint of each task.

    Raises:
        ConfigError: a task asks a language model and the recipe names none.
        FormatError: a shard is unfinished: `media` must run first.
    """
    build, recipe = Build(store.url), loaded.recipe
    asking = [task.task for task in recipe.tasks if task.asks]
    if asking and not recipe.llm:
        raise ConfigError(
            f"recipe {recipe.name} asks a language model ({', '.join(asking)}) and none is named: "
            "--set llm=embedded, or --set llm=URL with its key in MEDLOOM_LLM_KEY"
        )
    digests = {shard: (build.ledger(shard) or {}).get("digest", "") for shard in build.shards}
    unfinished = [str(shard) for shard, digest in digests.items() if not digest]
    if unfinished:
        raise FormatError(f"{build.url}: shards {', '.join(unfinished[:5])} are unfinished; run `medloom media` first")
    with start(recipe.llm, responses=_responses(store)) if asking else nullcontext() as model:
        prints = {t.task: recipe.task_fingerprint(t, model.digest if model else "") for t in recipe.tasks}
        gone, shards = withdrawn_units(build), build.shards
        missing = [
            (task, shard)
            for task in recipe.tasks
            for shard, digest in digests.items()
            if not _made(store, task.task, prints[task.task], shard, digest)
        ]

        def example_work(what: tuple[Task, ShardName]) -> ExampleWork:
            task, shard = what
            units = tuple(shards[shard])
            withdrawn = {unit["unit"]: gone[unit["unit"]] for unit in units if unit["unit"] in gone}
            return ExampleWork(
                store.absolute_url, shard, digests[shard], units, task.task, carry(task), prints[task.task],
                model if task.asks else None, withdrawn,
            )  # fmt: skip

        work = engine.Lazily(missing, example_work)
        started(len(work))
        for name, print_ in prints.items():
            store.sweep(f"examples/{name}/{print_[:12]}")
        engine.run(build_examples, work, ray_address=ray_address, told=told)
    return prints


def _responses(store: Store) -> str:
    return store.path(RESPONSES) if store.is_local else f"{store.url}/{RESPONSES}"


def part_path(task: str, fingerprint: str, shard: ShardName, *, kind: str = "part") -> str:
    """Path of the rows ("part") or of the refusals ("refused") of a task in one shard."""
    return f"examples/{task}/{fingerprint[:12]}/{kind}-{shard}.parquet"


def _made(store: Store, task: str, fingerprint: str, shard: ShardName, digest: str) -> bool:
    path = part_path(task, fingerprint, shard)
    return store.exists(path) and store.table_metadata(path).get("shard_digest") == digest


def build_examples(work: ExampleWork) -> ExamplesDone:
    """Make and write the rows of one task in one shard; a task of its own for Ray.

    Raises:
        BugError: the task failed in a way that is no refusal; it names the task, the shard and the unit.
    """
    store, task = Store(work.out), work.how.open()
    ask = work.model.open() if work.model else None
    examples: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for unit, said in work.withdrawn.items():
        row = Refusal(unit, "", said["source"], work.task, said["reason"], said["detail"])
        refused.append(asdict(row))
    units = tuple(unit for unit in work.units if unit["unit"] not in work.withdrawn)
    for view in unit_views(Build(work.out), work.shard, units):
        for made in _examples_of(work, task, view, ask):
            if isinstance(made, Refusal):
                refused.append(asdict(made))
            else:
                examples.append(example_row(made))
    metadata = {"format_version": "1", "shard_digest": work.shard_digest, "fingerprint": work.fingerprint}
    where = (work.task, work.fingerprint, work.shard)
    store.write_table(
        part_path(*where, kind="refused"), pa.Table.from_pylist(refused, schema=TABLES["quarantine"]), metadata
    )
    store.write_table(part_path(*where), pa.Table.from_pylist(examples, schema=EXAMPLE), metadata)
    return ExamplesDone(work.task, work.shard, len(examples), len(refused))


def _examples_of(work: ExampleWork, task: Task, view: UnitView, ask: Ask | None) -> Iterator[Example | Refusal]:
    try:
        yield from task.examples(view, work.fingerprint, ask)
    except MedloomError:
        raise
    except Exception as fault:
        where = f"task {work.task}, shard {work.shard}, unit {view.unit}"
        raise BugError(f"{where}: {raised(fault)}") from fault


def example_row(example: Example) -> dict[str, Any]:
    """Return an example as a row of `EXAMPLE`."""
    row = asdict(example)
    return {**row, "measured": measured_cell(example.measured), "media": list(example.media)}


def unit_views(build: Build, shard: ShardName, units: tuple[dict[str, Any], ...]) -> list[UnitView]:
    """Return what tasks see of the units of a shard, in the order of the plan."""
    names = [u["unit"] for u in units]
    rows = {table: _grouped(build, table, names) for table in SEEN_BY_TASKS}
    media = _media_views(build, shard, rows)
    there = rows["article"].keys() | rows["series"].keys()  # a unit whose object became unreadable has none
    return [_view(unit, rows, media.get(unit["unit"], {})) for unit in units if unit["unit"] in there]


def _view(
    unit: dict[str, Any], rows: dict[str, dict[str, list[dict[str, Any]]]], media: dict[str, MediumView]
) -> UnitView:
    name = unit["unit"]
    article = next(iter(rows["article"].get(name, [])), {})
    series = next(iter(rows["series"].get(name, [])), {})
    return UnitView(
        unit=name,
        source=unit["source"],
        group=unit["group"],
        split=unit["split"],
        licence=article.get("licence_code") or series.get("licence", ""),
        terms_id=article.get("terms_id") or series.get("terms_id", "unknown"),
        article=article,
        sections=tuple(rows["section"].get(name, [])),
        paragraphs=tuple(rows["paragraph"].get(name, [])),
        figures=tuple(rows["figure"].get(name, [])),
        mentions=tuple(rows["mention"].get(name, [])),
        series=series,
        findings=tuple(rows["finding"].get(name, [])),
        media=media,
    )


def _media_views(
    build: Build, shard: ShardName, rows: dict[str, dict[str, list[dict[str, Any]]]]
) -> dict[str, dict[str, MediumView]]:
    captions = {m["key"]: f["caption"] for figs in rows["figure"].values() for f in figs for m in f["media"]}
    texts = {name: found[0]["text"] for name, found in rows["series"].items()}
    views: dict[str, dict[str, MediumView]] = {}
    for row in build.index(shard).to_pylist():
        if row["field"] != PICTURE_FIELDS[row["layout"]]:
            continue
        views.setdefault(row["unit"], {})[row["key"]] = MediumView(
            key=row["key"],
            layout=row["layout"],
            modality=row["modality"],
            body_part=row["body_part"],
            plane=row["plane"],
            shape=tuple(row["shape"]),
            spacing_mm=tuple(row["spacing_mm"]),
            terms_id=row["terms_id"],
            text=captions.get(row["key"]) or texts.get(row["unit"], ""),
            panels=tuple(PanelBox(p["letter"], tuple(p["box"]), p["confidence"]) for p in row["panels"] or ()),
            regions=tuple(_region(label) for label in row["labels"] or ()),
            labelled=tuple(row["labelled"] or ()),
            affine=tuple(row["affine"] or ()),
            units=row["units"] or "",
            face=row["face"] or "",
        )
    return views


def _region(row: dict[str, Any]) -> Region:
    label = Label(row["name"], row["side"], row["stated"])
    z0, y0, x0, z1, y1, x1 = row["box"]
    return Region(row["layer"], row["value"], label, row["voxels"], row["volume_ml"], (z0, y0, x0, z1, y1, x1))


def _grouped(build: Build, table: str, units: list[str]) -> dict[str, list[dict[str, Any]]]:
    column = "unit" if table in ("series", "finding") else "article_key"
    found: dict[str, list[dict[str, Any]]] = {}
    for row in build.table(table, units=units).to_pylist():
        found.setdefault(row[column], []).append(row)
    return found
