"""Publish: what the terms allow, copied; tars that the overlay or the terms touch, rewritten without it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.release.job import write_release
from medloom.quality.card import write_published_card
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, GateError
from medloom.schemas.keys import canonical_json, digest_of
from medloom.schemas.medium import LAYOUTS, Member, Sample
from medloom.schemas.origin import TERMS
from medloom.schemas.plan import read_plan
from medloom.schemas.release import SEVERITY, Release, States
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, RELEASE_ROW, STATE

COPY_BYTES = 16 << 20


@dataclass(frozen=True)
class Published:
    """What went out: tars copied and rewritten, media and examples that stand there, and what was kept back."""

    copied: int
    rewritten: int
    media: int
    examples: int
    kept_back: dict[str, int]


def publish(release: Release, to: str) -> Published:
    """Copy one release to an empty folder as a build of its own: only live media and examples whose terms permit it.

    Raises:
        ConfigError: the folder is not empty, or the release has several builds.
        GateError: nothing may go out.
    """
    store = Store(to)
    if store.names("") or store.folders(""):
        raise ConfigError(f"cannot publish to {to}: it is not empty; give a new folder")
    builds = release.builds()
    if len(builds) != 1:
        raise ConfigError(
            f"release {release.number} is made of {len(builds)} builds; publish one build's release at a time"
        )
    build, states = builds[0], release.states()
    back: dict[str, int] = {}
    copied = rewritten = 0
    kept: set[str] = set()
    for shard, ledger in build.ledgers():
        allowed = _allowed(build, shard, states, back)
        tars, whole = _tars(build, store, shard, ledger, allowed)
        copied, rewritten = copied + len(whole), rewritten + len(set(tars) - whole)
        kept |= allowed
        _write_ledger(store, shard, ledger, tars, allowed)
    rows = _examples(release, build, store, states, kept, back)
    if not kept and not rows:
        raise GateError(f"nothing of release {release.number} may be published: {back}")
    _write_plan(store, build)
    counts = {"media": len(kept), "examples": len(rows), "release": release.number, "release_digest": release.digest}
    manifest = manifests.commit(store, recipe=build.manifest()["recipe"], counts=counts, known={})
    write_release(
        Store(f"{store.url}/releases"),
        pa.Table.from_pylist(rows, schema=RELEASE_ROW),
        STATE.empty_table(),
        {
            "builds": [{"uri": "..", "number": manifest["number"], "manifest": manifests.digest_of_manifest(manifest)}],
            "policy": release.facts["policy"],
        },
    )
    write_published_card(store.url)
    return Published(copied, rewritten, len(kept), len(rows), dict(sorted(back.items())))


def _allowed(build: Build, shard: ShardName, states: States, back: dict[str, int]) -> set[str]:
    """Return the keys of a shard that may go out, and count the others by reason."""
    allowed = set()
    for row in build.index(shard, ["key", "field", "group", "terms_id"]).to_pylist():
        if row["field"] != "json":
            continue
        state = _worst(states, ("medium", row["key"]), ("group", row["group"]))
        if state != "live":
            back[state] = back.get(state, 0) + 1
        elif not TERMS[row["terms_id"]].redistribution:
            reason = f"terms.{row['terms_id']}"
            back[reason] = back.get(reason, 0) + 1
        else:
            allowed.add(row["key"])
    return allowed


def _worst(states: States, *subjects: tuple[str, str]) -> str:
    return max((states.worst.get(s, "live") for s in subjects), key=SEVERITY.__getitem__)


def _tars(
    build: Build, store: Store, shard: ShardName, ledger: dict[str, Any], allowed: set[str]
) -> tuple[dict[str, Any], set[str]]:
    """Copy the tars that are whole, rewrite the others; return their ledger entries and the layouts copied."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in build.index(shard).to_pylist():
        rows.setdefault(row["layout"], []).append(row)
    whole = {layout for layout, found in rows.items() if {r["key"] for r in found} <= allowed}
    for layout in whole:
        for path in (shard.tar(layout), shard.index(layout)):
            with store.writing(path) as file, build.store.fs.open(build.store.path(path), "rb") as source:
                while block := source.read(COPY_BYTES):
                    file.write(block)
    tars = {layout: ledger["tars"][layout] for layout in whole}
    with ShardWriter(store, shard) as writer:
        for layout in sorted(set(rows) - whole):
            for sample in _samples(build, shard, [r for r in rows[layout] if r["key"] in allowed]):
                writer.add(sample)
        return tars | writer.close(), whole


def _samples(build: Build, shard: ShardName, rows: list[dict[str, Any]]) -> Iterator[Sample]:
    columns = ("unit", "group", "split", "layout", "modality", "body_part", "plane", "source", "licence", "terms_id",
               "digest", "pixel_digest")  # fmt: skip
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault(row["key"], []).append(row)
    for key, members in sorted(by_key.items()):
        fields = {row["field"]: row for row in members}
        first = members[0]
        yield Sample(
            key=key,
            layout=first["layout"],
            members={f: _member(build, shard, fields[f]) for f in LAYOUTS[first["layout"]]},
            columns={**{n: first[n] for n in columns}, "measured": dict(first["measured"])},
        )


def _member(build: Build, shard: ShardName, row: dict[str, Any]) -> Member:
    names = ("shape", "spacing_mm", "chunk_shape", "block_shape", "chunk_offsets")
    return Member(data=build.member(row, shard), dtype=row["dtype"], **{n: tuple(row[n]) for n in names})


def _write_ledger(
    store: Store, shard: ShardName, ledger: dict[str, Any], tars: dict[str, Any], allowed: set[str]
) -> None:
    """Write the ledger of what went out: nothing of what was refused or kept back is named."""
    units = [{**u, "kept": [k for k in u["kept"] if k in allowed]} for u in ledger["units"]]
    units = [u for u in units if u["kept"]]
    out = sum(len(u["kept"]) for u in units)
    published = {
        **ledger, "units": units, "refused": [], "tars": tars,
        "counts": {"in": out, "made": 0, "out": out, "refused": 0},
        "digest": digest_of([ledger["digest"], *sorted(allowed)]),
    }  # fmt: skip
    store.write(shard.ledger, (canonical_json(published) + "\n").encode())


def _examples(
    release: Release, build: Build, store: Store, states: States, kept: set[str], back: dict[str, int]
) -> list[dict[str, Any]]:
    """Write the live examples whose own terms and media may go out; return their release rows, renumbered."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in release.rows.to_pylist():
        state = states.of_row(row)
        if state != "live":
            reason = f"example.{state}"
        elif not TERMS[row["terms_id"]].redistribution:
            reason = f"example.terms.{row['terms_id']}"
        elif not set(row["media"]) <= kept:
            reason = "example.media_kept_back"
        else:
            parts.setdefault(row["part"], []).append(row)
            continue
        back[reason] = back.get(reason, 0) + 1
    out = []
    for part, rows in sorted(parts.items()):
        rows.sort(key=lambda row: row["row"])
        table = build.store.read_table(part).select(EXAMPLE.names).take(pa.array([r["row"] for r in rows]))
        store.write_table(part, table, build.store.table_metadata(part))
        out += [{**row, "row": i} for i, row in enumerate(rows)]
    return sorted(out, key=lambda row: row["example_id"])


def _write_plan(store: Store, build: Build) -> None:
    """Write the plan of the units that went out, in the shards that they have."""
    out = {u["unit"] for _, ledger in Build(store.url).ledgers() for u in ledger["units"]}
    plan = read_plan(build.store)
    store.write_table(
        "plan/part-00000.parquet", plan.filter(pc.is_in(plan["unit"], pa.array(sorted(out), pa.string())))
    )
