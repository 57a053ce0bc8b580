"""Steps: each is idempotent, holds the build's lock, leaves a manifest, and tells what it did through a `Tell`."""

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from medloom.pipelines import state
from medloom.pipelines.adoption import Rebuild
from medloom.pipelines.examples import make_examples
from medloom.pipelines.media import make_media
from medloom.pipelines.recipe import LoadedRecipe, load_recipe
from medloom.pipelines.tables.job import make_tables
from medloom.quality.gates import GateResult, run_gate
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import GateError
from medloom.schemas.keys import canonical_json
from medloom.schemas.store import Store

GATE = "report/gate.json"


class Tell(Protocol):
    """Shows progress: `begin` with the number of pieces, then one call for each piece."""

    def begin(self, what: str, pieces: int) -> None:
        """Work of so many pieces starts."""
        ...

    def piece(self, line: str) -> None:
        """One piece is done."""
        ...

    def end(self) -> None:
        """The work is done."""
        ...


@dataclass(frozen=True)
class Where:
    """Where to run: the handful of options that decide no byte."""

    spark_master: str = "local[*]"
    ray_address: str = "local"


@dataclass(frozen=True)
class Step:
    """What a step needs: where its build is, how to show progress, what the user overrides."""

    out: str
    tell: Tell
    where: Where = field(default_factory=Where)
    settings: dict[str, str] = field(default_factory=dict)
    rebuild: Rebuild = field(default_factory=Rebuild)


def tables(step: Step, recipe: str) -> dict[str, Any]:
    """Bring tables, links and plan up to date with the sources; return the manifest."""
    store, loaded = Store(step.out), load_recipe(recipe, step.settings)
    state.keys(loaded)  # before anything is written
    with state.locked(store):
        state.begin(loaded, store)
        step.tell.begin("tables", 1)
        done = make_tables(loaded, store, master=step.where.spark_master)
        step.tell.piece(f"{done.objects} objects read, {done.added} units added, {done.changed} changed")
        step.tell.end()
        return state.commit(loaded, store, own=("plan", "tables"))


def media(step: Step) -> dict[str, Any]:
    """Build the shards that are missing or changed; return the manifest."""
    store = Store(step.out)
    with state.locked(store):
        loaded = _resumed(store, step)
        make_media(
            loaded,
            store,
            ray_address=step.where.ray_address,
            rebuild=step.rebuild,
            started=lambda n: step.tell.begin("media", n),
            told=lambda d: step.tell.piece(f"{d.shard}: {d.kept} kept, {d.refused} refused, {d.size / 1e6:.1f} MB"),
        )
        step.tell.end()
        return state.commit(loaded, store, own=("media", "index", "ledger"))


def examples(step: Step) -> dict[str, Any]:
    """Make the rows of the tasks that are missing or whose shard changed; return the manifest."""
    store = Store(step.out)
    with state.locked(store):
        loaded = _resumed(store, step)
        prints = make_examples(
            loaded,
            store,
            ray_address=step.where.ray_address,
            started=lambda n: step.tell.begin("examples", n),
            told=lambda d: step.tell.piece(f"{d.task} {d.shard}: {d.kept} kept, {d.refused} refused"),
        )
        step.tell.end()
        return state.commit(loaded, store, own=("examples",), tasks=prints)


def _resumed(store: Store, step: Step) -> LoadedRecipe:
    loaded = state.resume(store, step.settings)
    if step.settings:
        state.begin(loaded, store)
    return loaded


def gate(step: Step) -> GateResult:
    """Run the gate over the build and keep its result; the recipe's budgets are part of it.

    Raises:
        GateError: it did not pass, or refusals are above a budget.
    """
    store = Store(step.out)
    build = Build(step.out).must_exist()
    step.tell.begin("gate", 1)
    result = run_gate(build)
    judged = {"manifest": manifests.digest_of_manifest(build.manifest()), **result.to_json()}
    store.write(GATE, (canonical_json(judged) + "\n").encode())
    step.tell.piece(f"{len(result.rows)} expectations, {len(result.failed)} failed")
    step.tell.end()
    if not result.success:
        raise GateError(_why(result))
    over = over_budget(build, state.budgets(store))
    if over:
        raise GateError("; ".join(over))
    return result


def _why(result: GateResult) -> str:
    shown = "; ".join(f"{row.table}: {row.says} ({row.unexpected_count} rows)" for row in result.failed[:3])
    return f"the gate did not pass: {shown}; {GATE} in the build has all of it"


def over_budget(build: Build, budgets: dict[str, float]) -> list[str]:
    """Return a sentence for each budget that refusals exceed, as a share of the units planned."""
    units = max(1, sum(len(units) for units in build.shards.values()))
    counts: dict[str, set[str]] = {}
    for row in build.refusals():
        for name in (row["reason"], row["source"]):
            counts.setdefault(name, set()).add(f"{row['unit']} {row['key']}")
    return [
        f"{len(counts[name])} refusals of {name} are more than {share:.0%} of {units} units"
        for name, share in sorted(budgets.items())
        if len(counts.get(name, ())) > share * units
    ]


def read_gate(build: Build) -> dict[str, Any] | None:
    """Return the kept result of the gate, None when it has not run on what the newest manifest commits."""
    if not build.store.exists(GATE):
        return None
    kept = json.loads(build.store.read(GATE))
    return kept if kept["manifest"] == manifests.digest_of_manifest(build.manifest()) else None
