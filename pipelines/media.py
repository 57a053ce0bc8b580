"""The step `media`: each shard's units are read, staged and stored in a guarded child; a ledger commits the shard."""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from medloom.connectors.guard import Guard, GuardBug
from medloom.connectors.settings import identity
from medloom.pipelines import engine
from medloom.pipelines.adoption import Rebuild, adopt, adoptions, check
from medloom.pipelines.carried import Carried, call, carry
from medloom.pipelines.links import ShardLinks, links_by_unit, withdrawn_units
from medloom.pipelines.recipe import LoadedRecipe, Recipe, Source
from medloom.pipelines.shard_extras import drop_extras
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.sources.work import UnitMade, UnitWork, refusal
from medloom.schemas.b2nd import DEFAULT_CODEC, Codec
from medloom.schemas.build import Build
from medloom.schemas.errors import BugError, ConfigError, Refusal, Refused
from medloom.schemas.keys import Identity, canonical_json, digest_of, sha256_hex
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store, mendable
from medloom.schemas.tables import FORMAT_VERSION

log = logging.getLogger(__name__)
UNIT_TIMEOUT_S = 300.0
SEEN = "private/seen"  # by shard: what the listings said of its units' objects when it was built
DECIDING = ("article", "figure", "series", "finding")  # tables whose rows decide a unit's media
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class ShardWork:
    """One shard to build: enough for a worker on another machine that sees the build and the sources.

    Attributes:
        out, shard, units: where, and rows of the plan.
        how: sources by name, and stages.
        media_fingerprint, codec: of the recipe.
        withdrawn: row of "withdrawal" by unit, of the units that the source took back: they are not read.
        timeout_s: what reading and staging one unit (a figure, of papers) may take.
    """

    out: str
    shard: ShardName
    units: tuple[dict[str, Any], ...]
    how: Carried
    media_fingerprint: str
    withdrawn: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    timeout_s: float = UNIT_TIMEOUT_S
    codec: Codec = DEFAULT_CODEC


@dataclass(frozen=True)
class ShardDone:
    """What a shard came to."""

    shard: ShardName
    kept: int
    refused: int
    size: int


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
    for folder in ("media", "index", "ledger", SEEN):
        store.sweep(folder)
    wanted = loaded.recipe.media_fingerprint()
    check(rebuild, build)
    if rebuild.adopt:
        adopt(store, rebuild, wanted)
    links, shards = ShardLinks(store, build.shards), build.shards
    unfinished = [s for s in shards if not _finished(build, loaded.recipe, s, links[s], wanted, rebuild)]
    how = carry(({source.name: source for source in loaded.recipe.sources}, loaded.recipe.stages))
    gone = withdrawn_units(build)

    def shard_work(shard: ShardName) -> ShardWork:
        units = tuple(shards[shard])
        withdrawn = {unit["unit"]: gone[unit["unit"]] for unit in units if unit["unit"] in gone}
        return ShardWork(store.absolute_url, shard, units, how, wanted, withdrawn, codec=loaded.recipe.codec)

    work = engine.Lazily(unfinished, shard_work)
    if unfinished:
        drop_extras(store, unfinished)
    for shard in unfinished:  # here and not by the worker: one whose driver was killed must not take a new ledger away
        store.delete(shard.ledger)
    started(len(work))
    return engine.run(build_shard, work, ray_address=ray_address, told=told)


def _finished(
    build: Build,
    recipe: Recipe,
    shard: ShardName,
    links: dict[str, list[dict[str, Any]]],
    wanted: str,
    rebuild: Rebuild,
) -> bool:
    ledger = build.ledger(shard)
    if ledger is None:
        return False
    have = ledger["media_fingerprint"]
    if have != wanted and rebuild.all:
        return False
    if have != wanted:
        lines = [a for a in adoptions(build.store) if a["adopted"] == have and a["for"] == wanted]
        if not lines:
            raise ConfigError(
                f"shard {shard} of {build.url} was built with fingerprint {have[:12]}, the recipe now has "
                f"{wanted[:12]}; --rebuild builds such shards again, --adopt {have[:12]} --because TEXT keeps them, "
                "or build into a new folder"
            )
        if str(shard) in lines[-1]["except"]:
            return False
    return _is_as_seen(build, recipe, shard, links, {u["unit"]: u["digest"] for u in ledger["units"]})


def _is_as_seen(
    build: Build, recipe: Recipe, shard: ShardName, links: dict[str, list[dict[str, Any]]], digests: dict[str, str]
) -> bool:
    """Whether the shard's objects are as they were when it was built: by the listing's marks, else by their bytes."""
    units = build.shards[shard]
    now = {u["unit"]: _seen(links.get(u["unit"], [])) for u in units}
    path = f"{SEEN}/{shard}.json"
    before = json.loads(build.store.read(path)) if build.store.exists(path) else {}
    if before == now:
        return True
    other = [u for u in units if before.get(u["unit"]) != now[u["unit"]]]
    rows = unit_rows(build, [u["unit"] for u in other])
    if any(_digest_now(recipe, u, rows[u["unit"]], links.get(u["unit"], [])) != digests[u["unit"]] for u in other):
        return False
    build.store.write(path, canonical_json(now).encode())
    return True


def _seen(links: list[dict[str, Any]]) -> str:
    """Return a digest of what the source's listing said of a unit's objects, and of when the tables last took it up."""
    return digest_of(
        canonical_json([link[n] for n in ("part", "key", "url", "size", "mtime_ns", "etag")]) for link in links
    )


def _digest_now(recipe: Recipe, unit: dict[str, Any], rows: Rows, links: list[dict[str, Any]]) -> str:
    source = recipe.source(unit["source"])
    who, digests = identity(source.deidentify), {}
    for link in links:
        try:
            with local_copy(source.root, link["url"], etag=link["etag"]) as path:
                digests[link["url"]] = _digest(path, who)
        except Refused as fault:
            digests[link["url"]] = fault.reason
    return _unit_digest(rows, links, digests)


def _unit_digest(rows: Rows, links: list[dict[str, Any]], digests: dict[str, str]) -> str:
    """Return what stands for all that decides a unit's media and words: its rows, and the bytes of its objects."""
    objects = sorted(f"{link['key']} {digests[link['url']]}" for link in links)
    stated = {table: found for table, found in rows.items() if found or table != "finding"}  # older builds had none
    return digest_of([sha256_hex(canonical_json(stated)), *objects])


def build_shard(work: ShardWork) -> ShardDone:
    """Read, stage and store the units of one shard, then write its ledger; a task of its own for Ray.

    Raises:
        BugError: reading or staging failed in a way that is no refusal; it names the shard, the unit and the stage.
    """
    started, store, build = time.perf_counter(), Store(work.out), Build(work.out)
    names = [u["unit"] for u in work.units]
    rows, links = unit_rows(build, names), links_by_unit(store, names)
    sources, stages = work.how.open()
    units: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    stored: list[str] = []
    counts = {"in": 0, "made": 0, "out": 0, "refused": 0}
    guard = _guard()
    with ShardWriter(store, work.shard) as writer:
        for unit in work.units:
            name = unit["unit"]
            reading = _Reading(work, unit, sources[unit["source"]], stages, rows[name], links.get(name, []))
            kept: list[str] = []
            for made in reading.parts(guard):
                counts["in"] += made.taken
                counts["made"] += made.made
                refused += made.refused
                for sample in made.samples:
                    try:
                        writer.add(sample)
                    except Refused as fault:
                        refused.append(Refusal(name, sample.key, unit["source"], "store", fault.reason, fault.detail))
                        continue
                    except OSError as fault:
                        raise mendable(fault, tempfile.gettempdir()) from fault
                    kept.append(sample.key)
                    stored.append(f"{sample.key} {sha256_hex(sample.members['json'].data)}")
            units.append({"unit": name, "digest": reading.digest(), "kept": sorted(kept)})
        counts["out"], counts["refused"] = len(stored), len(refused)
        assert counts["in"] + counts["made"] == counts["out"] + counts["refused"], (str(work.shard), counts)
        tars = writer.close()
    ledger = {
        "format_version": FORMAT_VERSION,
        "split": work.shard.split,
        "number": work.shard.number,
        "media_fingerprint": work.media_fingerprint,
        "digest": digest_of([work.media_fingerprint, *(u["digest"] for u in units), *sorted(stored)]),
        "units": units,
        "refused": [asdict(r) for r in sorted(refused, key=lambda r: (r.unit, r.key, r.stage, r.reason))],
        "counts": counts,
        "tars": tars,
    }
    _remove_stale(store, work.shard, set(tars))
    seen = {name: _seen(links.get(name, [])) for name in names}
    store.write(f"{SEEN}/{work.shard}.json", canonical_json(seen).encode())
    store.write(work.shard.ledger, (canonical_json(ledger) + "\n").encode())
    size, seconds = sum(t["size"] for t in tars.values()), time.perf_counter() - started
    log.info("%s: %d kept, %d refused, %d bytes in %.1f s", work.shard, len(stored), len(refused), size, seconds)
    return ShardDone(work.shard, len(stored), len(refused), size)


def _withdrawn(work: ShardWork, unit: dict[str, Any]) -> UnitMade:
    """Return what becomes of a unit that its source took back: a refusal, and not a byte."""
    said = work.withdrawn[unit["unit"]]
    row = Refusal(unit["unit"], "", unit["source"], "withdrawal", said["reason"], said["detail"])
    return UnitMade(unit["unit"], taken=1, refused=[row])


@cache
def _guard() -> Guard:
    """Return this process's guarded child: one for all its shards, since a start costs as much as a small shard."""
    return Guard()


def unit_rows(build: Build, units: list[str]) -> dict[str, Rows]:
    """Return, by unit, its rows of the tables that decide its media."""
    found: dict[str, Rows] = {unit: {table: [] for table in DECIDING} for unit in units}
    for table in DECIDING:
        column = "unit" if table in ("series", "finding") else "article_key"
        for row in build.table(table, units=units).to_pylist():
            found[row[column]][table].append(row)
    return found


@dataclass
class _Reading:
    """One unit on its way through the guarded child."""

    work: ShardWork
    unit: dict[str, Any]
    source: Source
    stages: tuple[Any, ...]
    rows: Rows
    links: list[dict[str, Any]]
    digests: dict[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the unit's digest, once its parts were read."""
        return _unit_digest(self.rows, self.links, self.digests)

    def parts(self, guard: Guard) -> Iterator[UnitMade]:
        """Give what became of the parts of the unit."""
        if self.unit["unit"] in self.work.withdrawn:
            self.digests |= {link["url"]: "withdrawn" for link in self.links}
            yield _withdrawn(self.work, self.unit)
            return
        who = identity(self.source.deidentify)
        paths: dict[str, str] = {}
        unread: dict[str, Refused] = {}
        with ExitStack() as copies:
            for link in self.links:
                url = link["url"]
                try:
                    path = copies.enter_context(local_copy(self.source.root, url, etag=link["etag"]))
                    self.digests[url] = _digest(path, who)
                    paths[url] = path
                except Refused as fault:
                    self.digests[url], unread[url] = fault.reason, fault
            whole = UnitWork(
                unit=self.unit["unit"], source=self.unit["source"], group=self.unit["group"],
                split=self.unit["split"], rows=self.rows, paths=paths, links=tuple(self.links), digests=self.digests,
                stages=self.stages, key_id=who.key_id,
                pixel_secret=who.token("secret", "pixels").encode() if who.secret else None, codec=self.work.codec,
            )  # fmt: skip
            for part in parts_of(self.source, whole):
                yield self._made(guard, part, unread)

    def _made(self, guard: Guard, part: UnitWork, unread: dict[str, Refused]) -> UnitMade:
        figures = part.rows["figure"]
        key = figures[0]["media"][0]["key"] if figures else part.unit
        try:
            for link in part.links:
                if link["url"] in unread and link["key"] in (key, "") and (link["key"] or not figures):
                    raise unread[link["url"]]
            return guard.call(call, carry((self.source.read, (part,))), timeout_s=self.work.timeout_s)
        except Refused as fault:
            return UnitMade(part.unit, taken=1, refused=[refusal(part, key, "read", fault)])
        except GuardBug as fault:
            lines = str(fault).strip().splitlines()
            told = lines[-1] if BugError.__name__ in lines[-1] else " | ".join(line.strip() for line in lines[-3:])
            raise BugError(f"shard {self.work.shard}, unit {part.unit}, medium {key}: {told}") from None


def parts_of(source: Source, work: UnitWork) -> list[UnitWork]:
    """Return what is read at once: an image series, or one figure of a paper, so that a crash costs no neighbour."""
    if not isinstance(source, Papers):
        return [work] if work.rows["series"] else []  # a unit whose object became unreadable has no row any more
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
