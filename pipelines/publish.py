"""Publish: what the terms allow, copied as a build of its own; tars that the overlay or the terms touch, rewritten.

Nothing that stays back is named in what goes out: no key, unit, refusal, overlay, private file or full text.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.outgoing import outgoing
from medloom.pipelines.release.job import write_release
from medloom.pipelines.state import counts
from medloom.quality.card import card_text
from medloom.quality.croissant import croissant
from medloom.schemas import manifest as manifests
from medloom.schemas.b2nd import Chunks, chunk_table
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, GateError
from medloom.schemas.keys import canonical_json, digest_of
from medloom.schemas.medium import LAYOUTS, Member, Sample
from medloom.schemas.plan import read_plan
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, INDEX, RELEASE_ROW, STATE, measured_values

COPY_BYTES = 16 << 20
OF_MEMBER = (
    "key", "field", "offset", "size", "crc32c", "shape", "dtype", "spacing_mm", "chunk_shape", "block_shape",
    "chunk_offsets", "chunk_sizes", "chunk_crc32c",
)  # fmt: skip
COLUMNS = tuple(name for name in INDEX.names if name not in OF_MEMBER)
TABLES_OUT = ("article", "group")  # whom to name, and who belongs together; no full text


@dataclass(frozen=True)
class Published:
    """What went out: tars copied and rewritten, media and examples that stand there, and what stayed back, by reason.

    Media of the build are `media` and those of `media_kept_back`; rows of the release likewise.
    """

    copied: int
    rewritten: int
    media: int
    examples: int
    media_kept_back: dict[str, int]
    examples_kept_back: dict[str, int]


def publish(release: Release, to: str) -> Published:
    """Copy one release to an empty folder as a build of its own: only live media and examples whose terms permit it.

    A medium goes out when it is live, its terms permit it (as it is, where they forbid changes), and a live example
    refers to it, or none at all does. To take down a caption, which stands beside its image in the tar, name the
    medium.

    Raises:
        ConfigError: the folder is not empty, or the release has several builds.
        FormatError: the build has moved on since the release.
        GateError: nothing may go out.
    """
    store = Store(to)
    if store.names("") or store.folders(""):
        raise ConfigError(f"cannot publish to {to}: it is not empty; give a new folder, or delete what is in it")
    out = outgoing(release)
    if not out.n_media and not out.rows.num_rows:
        why = out.why_nothing()
        raise GateError(f"nothing of release {release.number} at {release.url} may be published: {why}")
    build, allowed = out.build, out.media
    rows, speaking = _examples(build, store, out.rows)
    copied, rewritten, units = 0, 0, set[str]()
    for shard, ledger in build.ledgers():
        tars, whole = _tars(build, store, shard, ledger, allowed[shard])
        copied, rewritten = copied + len(whole), rewritten + len(set(tars) - whole)
        units |= _write_ledger(store, shard, ledger, tars, allowed[shard], speaking)
    _write_tables(store, build, units)
    _commit(store, build, release, rows)
    return Published(copied, rewritten, out.n_media, rows.num_rows, dict(out.media_back), dict(out.rows_back))


def _examples(build: Build, store: Store, rows: pa.Table) -> tuple[pa.Table, set[str]]:
    """Write the examples of `rows`; return the rows with their new places, and the units that they are of."""
    out: list[pa.Table] = []
    units: set[str] = set()
    for part in sorted(pc.unique(rows["part"]).to_pylist()):
        mine = rows.filter(pc.equal(rows["part"], part)).sort_by("row")
        table = build.store.read_table(part).select(EXAMPLE.names).take(mine["row"])
        store.write_table(part, table, build.store.table_metadata(part))
        units |= set(table["unit"].to_pylist())
        places = pa.array(range(mine.num_rows), pa.int32())
        out.append(mine.set_column(RELEASE_ROW.get_field_index("row"), RELEASE_ROW.field("row"), places))
    return (pa.concat_tables(out) if out else rows).sort_by("example_id"), units


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
            for sample in samples(build, shard, [r for r in rows[layout] if r["key"] in allowed]):
                writer.add(sample)
        return tars | writer.close(), whole


def samples(build: Build, shard: ShardName, rows: list[dict[str, Any]]) -> Iterator[Sample]:
    """Give the samples that index rows of a shard speak of, by key, their bytes checked."""
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
            columns={**{n: first[n] for n in COLUMNS}, "measured": measured_values(first["measured"])},
        )


def _member(build: Build, shard: ShardName, row: dict[str, Any]) -> Member:
    data = build.member(row, shard)
    table = chunk_table(data) if row["chunk_offsets"] else Chunks((), (), ())  # of an older build not in its index
    return Member(
        data, tuple(row["shape"]), row["dtype"], tuple(row["spacing_mm"]), tuple(row["chunk_shape"]),
        tuple(row["block_shape"]), table.offsets, table.sizes, table.crc32c,
    )  # fmt: skip


def _write_ledger(
    store: Store, shard: ShardName, ledger: dict[str, Any], tars: dict[str, Any], allowed: set[str], speaking: set[str]
) -> set[str]:
    """Write the ledger of what went out, if anything did; return its units: with media, or `speaking` in an example."""
    units = [{**u, "kept": [k for k in u["kept"] if k in allowed]} for u in ledger["units"]]
    units = [u for u in units if u["kept"] or u["unit"] in speaking]
    out = sum(len(u["kept"]) for u in units)
    published = {
        **ledger, "units": units, "refused": [], "tars": tars,
        "counts": {"in": out, "made": 0, "out": out, "refused": 0},
        "digest": digest_of([ledger["digest"], *sorted(allowed)]),
    }  # fmt: skip
    if units:
        store.write(shard.ledger, (canonical_json(published) + "\n").encode())
    return {u["unit"] for u in units}


def _write_tables(store: Store, build: Build, units: set[str]) -> None:
    """Write the plan, the articles and the groups of the units that went out, each in the shard that it has."""
    names = pa.array(sorted(units), pa.string())
    plan = read_plan(build.store)
    store.write_table("plan/part-00000.parquet", plan.filter(pc.is_in(plan["unit"], value_set=names)))
    for name in TABLES_OUT:
        table = build.table(name, units=sorted(units))
        if table.num_rows:
            store.write_table(f"tables/{name}/part-00000.parquet", table)


def _commit(store: Store, build: Build, release: Release, rows: pa.Table) -> None:
    """Write manifest, release 1 and the cards, without which a folder that was published halfway is no build."""
    recipe = build.manifest()["recipe"]
    manifest = manifests.commit(store, recipe=recipe, counts=counts(store, recipe["tasks"]), known={})
    published = write_release(
        Store(f"{store.url}/releases"),
        rows,
        STATE.empty_table(),
        {
            "builds": [{"uri": "..", "number": manifest["number"], "manifest": manifests.digest_of_manifest(manifest)}],
            "policy": release.facts["policy"],
            "published_from": {"number": release.number, "digest": release.digest},
        },
    )
    out = Build(store.url)
    store.write("README.md", card_text(out, published, root="").encode())
    store.write("examples/README.md", card_text(out, published, root="", of="examples").encode())
    text = json.dumps(croissant(out, published, root=""), indent=2, ensure_ascii=False)
    store.write("croissant.json", (text + "\n").encode())
