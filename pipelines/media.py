"""The step `media`: each shard's units are read, staged and stored in a guarded child; a ledger commits the shard."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from medloom.connectors.guard import Guard
from medloom.connectors.settings import identity
from medloom.pipelines import engine
from medloom.pipelines.recipe import LoadedRecipe, Source
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.sources.work import UnitMade, UnitWork, refusal
from medloom.pipelines.tables.job import LINKS
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import ConfigError, Refusal, Refused
from medloom.schemas.keys import Identity, canonical_json, digest_of, sha256_hex
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, LINK

UNIT_TIMEOUT_S = 300.0
ADOPTED = "plan/adopted.jsonl"


@dataclass(frozen=True)
class ShardWork:
    """One shard to build: enough for a worker on another machine that sees the build and the sources."""

    out: str
    shard: ShardName
    units: tuple[dict[str, Any], ...]
    sources: dict[str, Source]
    stages: tuple[Any, ...]
    media_fingerprint: str


@dataclass(frozen=True)
class ShardDone:
    """What a shard came to."""

    shard: ShardName
    kept: int
    refused: int
    size: int


@dataclass(frozen=True)
class Rebuild:
    """What the user says of finished shards that were built with another fingerprint.

    Attributes:
        all: build them again.
        adopt: accept those of this fingerprint (or a prefix of 12 digits) as they are …
        excepted: … but for these shards ("train-000003"), which are built again.
        because: why; it is kept in the plan.
    """

    all: bool = False
    adopt: str = ""
    excepted: tuple[str, ...] = ()
    because: str = ""


def make_media(
    loaded: LoadedRecipe,
    store: Store,
    *,
    ray_address: str,
    rebuild: Rebuild,
    told: Callable[[ShardDone], None],
    started: Callable[[int], None],
) -> list[ShardDone]:
    """Build every shard that is unfinished, changed, or of another fingerprint and told to be built again.

    Raises:
        ConfigError: finished shards have another fingerprint and `rebuild` does not say what to do with them.
    """
    build = Build(store.url)
    for folder in ("media", "index", "ledger", "private/seen"):
        store.sweep(folder)
    wanted = loaded.recipe.media_fingerprint()
    if rebuild.adopt:
        adopt(store, rebuild, wanted)
    links = _links_by_unit(store)
    unfinished = [
        (shard, units) for shard, units in build.shards.items()
        if not _finished(build, shard, units, links, wanted, rebuild)
    ]  # fmt: skip
    work = [
        ShardWork(
            store.url, shard, tuple(units), {u["source"]: loaded.recipe.source(u["source"]) for u in units},
            loaded.recipe.stages, wanted,
        )
        for shard, units in unfinished
    ]  # fmt: skip
    started(len(work))
    return engine.run(build_shard, work, ray_address=ray_address, told=told)


def adopt(store: Store, rebuild: Rebuild, wanted: str) -> None:
    """Record that shards of an older fingerprint stand for the present one."""
    found = {ledger["media_fingerprint"] for _, ledger in Build(store.url).ledgers()}
    matching = sorted(f for f in found if f.startswith(rebuild.adopt) and len(rebuild.adopt) >= 12)
    if len(matching) != 1:
        raise ConfigError(
            f"no one fingerprint of this build's shards starts with {rebuild.adopt!r}; they have "
            + ", ".join(sorted(f[:12] for f in found))
        )
    if not rebuild.because:
        raise ConfigError("adopting shards needs the reason: --because TEXT")
    line = {"adopted": matching[0], "for": wanted, "except": sorted(rebuild.excepted), "because": rebuild.because}
    lines = store.read(ADOPTED).decode() if store.exists(ADOPTED) else ""
    if canonical_json(line) not in lines.splitlines():
        store.write(ADOPTED, (lines + canonical_json(line) + "\n").encode())


def adoptions(store: Store) -> list[dict[str, Any]]:
    """Return the adoptions recorded so far."""
    return [json.loads(line) for line in store.read(ADOPTED).decode().splitlines()] if store.exists(ADOPTED) else []


def _links_by_unit(store: Store) -> dict[str, list[dict[str, Any]]]:
    links: dict[str, list[dict[str, Any]]] = {}
    for name in store.names(LINKS):
        for row in conform(store.read_table(f"{LINKS}/{name}"), LINK).to_pylist():
            links.setdefault(row["unit"], []).append(row)
    return links


def _finished(
    build: Build,
    shard: ShardName,
    units: list[dict[str, Any]],
    links: dict[str, list[dict[str, Any]]],
    wanted: str,
    rebuild: Rebuild,
) -> bool:
    ledger = build.ledger(shard)
    if ledger is None:
        return False
    seen = _seen_path(shard)
    if build.store.exists(seen) and build.store.read(seen).decode() != _seen(units, links):
        return False
    have = ledger["media_fingerprint"]
    if have == wanted:
        return True
    if rebuild.all:
        return False
    for line in adoptions(build.store):
        if line["adopted"] == have and line["for"] == wanted:
            return str(shard) not in line["except"]
    raise ConfigError(
        f"shard {shard} of {build.url} was built with fingerprint {have[:12]}, the recipe now has {wanted[:12]}; "
        f"--rebuild builds such shards again, --adopt {have[:12]} --because TEXT keeps them, or build into a new folder"
    )


def _seen_path(shard: ShardName) -> str:
    return f"private/seen/{shard}"


def _seen(units: list[dict[str, Any]], links: dict[str, list[dict[str, Any]]]) -> str:
    """Return a digest of what the sources' listings said of a shard's objects when it was built."""
    rows = [
        canonical_json([link[n] for n in ("unit", "key", "url", "size", "mtime_ns", "etag")])
        for unit in units
        for link in links.get(unit["unit"], [])
    ]
    return digest_of(sorted(rows))


def build_shard(work: ShardWork) -> ShardDone:
    """Read, stage and store the units of one shard, then write its ledger; a task of its own for Ray."""
    store, build = Store(work.out), Build(work.out)
    names = [u["unit"] for u in work.units]
    tables = {t: _by_unit(build, t, names) for t in ("article", "figure", "series")}
    links = _links_of(store, names)
    store.delete(work.shard.ledger)
    units: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    stored: list[str] = []
    counts = {"in": 0, "made": 0, "out": 0, "refused": 0}
    with Guard() as guard, ShardWriter(store, work.shard) as writer:
        for unit in work.units:
            rows = {t: found.get(unit["unit"], []) for t, found in tables.items()}
            kept: list[str] = []
            digests: dict[str, str] = {"": rows["article"][0]["source_digest"]} if rows["article"] else {}
            for made in _read_unit(guard, work, unit, rows, links.get(unit["unit"], []), digests):
                counts["in"] += made.taken
                counts["made"] += made.made
                refused += made.refused
                for sample in made.samples:
                    try:
                        writer.add(sample)
                    except Refused as fault:
                        refused.append(
                            Refusal(unit["unit"], sample.key, unit["source"], "store", fault.reason, fault.detail)
                        )
                        continue
                    kept.append(sample.key)
                    stored.append(f"{sample.key} {sha256_hex(sample.members['json'].data)}")
            digest = digest_of(digests[url] for url in sorted(digests))
            units.append({"unit": unit["unit"], "digest": digest, "kept": sorted(kept)})
        counts["out"], counts["refused"] = len(stored), len(refused)
        assert counts["in"] + counts["made"] == counts["out"] + counts["refused"], (str(work.shard), counts)
        tars = writer.close()
    ledger = {
        "format_version": FORMAT_VERSION,
        "split": work.shard.split,
        "number": work.shard.number,
        "media_fingerprint": work.media_fingerprint,
        "digest": digest_of([work.media_fingerprint, *sorted(stored)]),
        "units": units,
        "refused": [asdict(r) for r in sorted(refused, key=lambda r: (r.unit, r.key, r.stage, r.reason))],
        "counts": counts,
        "tars": tars,
    }
    _remove_stale(store, work.shard, set(tars))
    store.write(_seen_path(work.shard), _seen(list(work.units), links).encode())
    store.write(work.shard.ledger, (canonical_json(ledger) + "\n").encode())
    return ShardDone(work.shard, len(stored), len(refused), sum(t["size"] for t in tars.values()))


def _by_unit(build: Build, table: str, units: list[str]) -> dict[str, list[dict[str, Any]]]:
    column = "unit" if table == "series" else "article_key"
    found: dict[str, list[dict[str, Any]]] = {}
    for row in build.table(table, units=units).to_pylist():
        found.setdefault(row[column], []).append(row)
    return found


def _links_of(store: Store, units: list[str]) -> dict[str, list[dict[str, Any]]]:
    links: dict[str, list[dict[str, Any]]] = {}
    for name in store.names(LINKS):
        for row in conform(store.read_table(f"{LINKS}/{name}", among=("unit", units)), LINK).to_pylist():
            links.setdefault(row["unit"], []).append(row)
    return {unit: sorted(rows, key=lambda r: (r["order"], r["key"], r["url"])) for unit, rows in links.items()}


def _read_unit(
    guard: Guard,
    work: ShardWork,
    unit: dict[str, Any],
    rows: dict[str, list[dict[str, Any]]],
    links: list[dict[str, Any]],
    digests: dict[str, str],
) -> Iterator[UnitMade]:
    """Give what became of the parts of a unit, each read in the guarded child; `digests` is filled by url."""
    source = work.sources[unit["source"]]
    who = identity(source.deidentify)
    with ExitStack() as copies:
        paths = {}
        for link in links:
            if link["key"] or not isinstance(source, Papers):
                paths[link["url"]] = copies.enter_context(local_copy(source.root, link["url"]))
                digests[link["url"]] = _digest(paths[link["url"]], who)
        whole = UnitWork(
            unit=unit["unit"], source=unit["source"], group=unit["group"], split=unit["split"], rows=rows,
            paths=paths, links=tuple(links), digests=digests, stages=work.stages, key_id=who.key_id,
            pixel_secret=who.token("secret", "pixels").encode() if who.secret else None,
        )  # fmt: skip
        for part in parts_of(source, whole):
            try:
                yield guard.call(source.read, part, timeout_s=UNIT_TIMEOUT_S)
            except Refused as fault:
                key = part.rows["figure"][0]["media"][0]["key"] if part.rows["figure"] else part.unit
                yield UnitMade(part.unit, taken=1, refused=[refusal(part, key, "read", fault)])


def parts_of(source: Source, work: UnitWork) -> list[UnitWork]:
    """Return what is read at once: an image series, or one figure of a paper, so that a crash costs no neighbour."""
    if not isinstance(source, Papers):
        return [work]
    return [
        replace(work, rows={**work.rows, "figure": [{**figure, "media": [media]}]})
        for figure in work.rows["figure"]
        for media in figure["media"]
        if media["role"] == "figure"
    ]


def _digest(path: str, who: Identity) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return who.token("digest", digest) if who.secret else digest


def _remove_stale(store: Store, shard: ShardName, layouts: set[str]) -> None:
    """Delete tars and indexes of this shard whose layout no longer occurs."""
    for layout in set(LAYOUTS) - layouts:
        store.delete(shard.tar(layout))
        store.delete(shard.index(layout))
