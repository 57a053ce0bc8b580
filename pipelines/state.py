"""State of a build folder between steps: its lock, the recipe that it was begun with, and its manifest."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import filelock

from medloom.connectors.settings import identity
from medloom.pipelines.recipe import LoadedRecipe, load_recipe
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, RetryLater, SourceError
from medloom.schemas.keys import canonical_json
from medloom.schemas.store import Store, mendable

RECIPE = "private/recipe.json"
LOCK = "private/lock"


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold the build's lock, so that one run writes at a time.

    Raises:
        RetryLater: another run holds it, or the disk is full.
        SourceError: the folder cannot be written.
    """
    if not store.is_local:  # an object store has no lock that dies with its holder; the manifest goes by If-None-Match
        yield
        return
    try:
        store.local("private").mkdir(parents=True, exist_ok=True)
        os.chmod(store.local("private"), 0o700)
        lock = filelock.FileLock(store.local(LOCK), timeout=0)
        lock.acquire()
    except filelock.Timeout:  # before OSError, which it is as well
        raise RetryLater(
            f"another run is writing {store.url}; wait for it to end, then run the same command again"
        ) from None
    except OSError as fault:
        raise mendable(fault, store.url) from fault
    try:
        yield
    finally:
        lock.release()


def begin(loaded: LoadedRecipe, store: Store) -> None:
    """Record the recipe of a new build, or check that an older one was begun with the same name, splits and keys.

    Raises:
        ConfigError: the folder belongs to another recipe, the splits or the key would change, or there is no key.
    """
    key_ids = keys(loaded)
    said = {
        "recipe": loaded.where, "name": loaded.recipe.name, "settings": loaded.settings, "key_ids": key_ids,
        "split_fingerprint": loaded.recipe.split_fingerprint(),
    }  # fmt: skip
    if store.exists(RECIPE):
        have = json.loads(store.read(RECIPE))
        if have["name"] != loaded.recipe.name:
            raise ConfigError(
                f"{store.url} is a build of recipe {have['name']}, not {loaded.recipe.name}; build into another folder"
            )
        if have["split_fingerprint"] != said["split_fingerprint"]:
            raise ConfigError(
                f"{store.url} was begun with other splits (salt, shares or shard_bytes), and a unit's split never "
                "changes; keep the settings or build into a new folder"
            )
        _check_keys(store, have["key_ids"], key_ids)
    store.write(RECIPE, (canonical_json(said) + "\n").encode())


def keys(loaded: LoadedRecipe) -> dict[str, str]:
    """Return by source which identity key makes its tokens ("none" without one).

    Raises:
        ConfigError: a source needs a key and there is none.
    """
    return {source.name: identity(source.deidentify).key_id for source in loaded.recipe.sources}


def _check_keys(store: Store, have: dict[str, str], now: dict[str, str]) -> None:
    for source, key_id in now.items():
        if have.get(source, key_id) != key_id:
            raise ConfigError(
                f"source {source} of {store.url} was begun with identity key {have[source]} and would go on with "
                f"{key_id}, so that one patient would become two; set MEDLOOM_IDENTITY_KEY to the key of the build, or "
                "build into a new folder"
            )


def resume(store: Store, settings: dict[str, str]) -> LoadedRecipe:
    """Return the recipe that a build was begun with, `settings` laid over its own.

    Raises:
        SourceError: there is no build.
    """
    if not store.exists(RECIPE):
        raise SourceError(f"{store.url} is not a build: `medloom tables RECIPE --to {store.url}` begins one")
    have = json.loads(store.read(RECIPE))
    loaded = load_recipe(have["recipe"], {**have["settings"], **settings})
    _check_keys(store, have["key_ids"], keys(loaded))
    return loaded


def budgets(store: Store) -> dict[str, float]:
    """Return the refusals that the build's recipe accepts, {} for a build without its recipe (a published one)."""
    if not store.exists(RECIPE):
        return {}
    have = json.loads(store.read(RECIPE))
    return load_recipe(have["recipe"], have["settings"]).recipe.budgets


def commit(
    loaded: LoadedRecipe, store: Store, *, own: tuple[str, ...], tasks: dict[str, str] | None = None
) -> dict[str, Any]:
    """Write the manifest of what the build holds, unless the newest has the folders that the step writes as they are.

    What another step left half done when it was killed makes no manifest of its own, so that a build that was killed
    and resumed has the manifests of an unbroken one.

    Args:
        loaded: the build's recipe.
        store: the build.
        own: the folders that the step writes.
        tasks: the current fingerprints, None keeps the last ones.
    """
    newest = manifests.read_newest(store)
    known = _known_digests(store)
    if tasks is None:
        tasks = newest["recipe"]["tasks"] if newest else {}
    recipe = {
        "name": loaded.recipe.name,
        "parameters": {n: json.loads(canonical_json(v)) for n, v in loaded.facts.items()},
        "fingerprints": {"media": loaded.recipe.media_fingerprint(), "split": loaded.recipe.split_fingerprint()},
        "tasks": tasks,
    }
    if newest and newest["recipe"] == recipe and manifests.holds(newest, store, own, known):
        manifests.write_newest(store, newest)
        return newest
    return manifests.commit(store, recipe=recipe, counts=counts(store, tasks), known=known)


def counts(store: Store, tasks: dict[str, str]) -> dict[str, Any]:
    """Return the numbers that a manifest tells: units, media, examples by task, and what was refused, by reason."""
    build = Build(store.url)
    media: dict[str, int] = {}
    flow = {"in": 0, "made": 0, "out": 0, "refused": 0}
    for _, ledger in build.ledgers():
        for layout, tar in ledger["tars"].items():
            media[layout] = media.get(layout, 0) + tar["samples"]
        flow = {name: flow[name] + ledger["counts"][name] for name in flow}
    examples = {
        task: sum(
            build.store.read_table(path, ["example_id"]).num_rows for path in build.example_parts(task, print_[:12])
        )
        for task, print_ in sorted(tasks.items())
    }
    reasons: dict[str, int] = {}
    for row in build.refusals(tasks):
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return {
        "units": sum(len(units) for units in build.shards.values()),
        "articles": build.table("article", ["article_key"]).num_rows,
        "series": build.table("series", ["unit"]).num_rows,
        "media": media,
        "flow": flow,
        "examples": examples,
        "refused": dict(sorted(reasons.items())),
    }


def _known_digests(store: Store) -> dict[str, str]:
    known = {}
    for shard, ledger in Build(store.url).ledgers():
        for layout, tar in ledger["tars"].items():
            known[shard.tar(layout)] = tar["sha256"]
            known[shard.index(layout)] = tar["index_sha256"]
    return known
