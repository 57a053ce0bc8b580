"""Rows that the gate looks at: columns of a build's tables, with what only shows across rows as columns of numbers.

Joins are Arrow's; a derived column is never null, so that no expectation passes for want of a value.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas.build import Build
from medloom.schemas.keys import KEY_PATTERN
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.shard import BLOCK


def mentions(build: Build) -> pa.Table:
    """Mentions with `outside_text`, `wrong_text`, `without_words` and `unknown_figures`, each 0 when all is well."""
    rows = build.table("mention", ["article_key", "par_id", "start", "end", "text", "fig_keys"])
    paragraphs = build.table("paragraph", ["article_key", "par_id", "text"]).rename_columns(
        ["article_key", "par_id", "whole"]
    )
    rows = rows.append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    figures = build.table("figure", ["fig_key"])["fig_key"]
    unknown = _count_missing(rows["fig_keys"], figures)
    spans = rows.select(["article_key", "par_id", "start", "end", "text", "row"])
    spans = spans.join(paragraphs, ["article_key", "par_id"]).sort_by("row")
    lengths = pc.fill_null(pc.utf8_length(spans["whole"]), -1)
    outside = pc.fill_null(pc.greater(spans["end"], lengths), True)
    wrong = [
        whole is None or start is None or end is None or whole[start:end] != text
        for whole, start, end, text in zip(
            *(spans[c].to_pylist() for c in ("whole", "start", "end", "text")), strict=True
        )
    ]
    return pa.table(
        {
            **{c: spans[c] for c in ("article_key", "par_id", "start", "end")},
            "outside_text": _number(outside),
            "without_words": _number(pc.fill_null(pc.equal(spans["start"], spans["end"]), False)),
            "wrong_text": _number(pa.array(wrong, pa.bool_())),
            "unknown_figures": unknown,
        }
    )


def figures(build: Build) -> pa.Table:
    """Figures with `odd_media`: how many of its media have a key that is no key; none at all is for the ledger."""
    rows = build.table("figure", ["article_key", "fig_key", "caption", "media"])
    media = rows["media"].combine_chunks()
    keys = pc.fill_null(pc.struct_field(pc.list_flatten(media), "key"), "")
    odd = pc.and_(pc.not_equal(keys, ""), pc.invert(pc.match_substring_regex(keys, f"^{KEY_PATTERN.pattern}$")))
    owners = pc.list_parent_indices(media).filter(odd)
    return rows.drop_columns(["media"]).append_column("odd_media", _count_owners(owners, rows.num_rows))


def groups(build: Build) -> pa.Table:
    """Units with `splits_of_group`: in how many splits the group of each is, by the table and by the plan together."""
    rows = build.table("group", ["unit", "source", "group", "split"])
    places = pa.concat_tables([rows.select(["group", "split"]), _plan(build).select(["group", "split"])])
    splits = places.group_by("group").aggregate([("split", "count_distinct")])
    rows = rows.join(splits, "group")
    return rows.append_column("splits_of_group", pc.fill_null(rows["split_count_distinct"], 0))


def members(build: Build) -> pa.Table:
    """Index rows with `offset_in_block` and `other_split_than_plan`."""
    columns = ["key", "field", "unit", "group", "split", "layout", "offset", "size", "crc32c", "terms_id", "source"]
    rows = build.index(columns=columns)
    offsets = pc.fill_null(rows["offset"], 1)
    within = pc.subtract(offsets, pc.multiply(pc.divide(offsets, BLOCK), BLOCK))
    return _against_plan(build, rows.append_column("offset_in_block", within))


def media(build: Build) -> pa.Table:
    """One row per key and layout with `fields` as they are and `layout_fields` as they must be."""
    rows = build.index(columns=["key", "field", "layout"])
    grouped = rows.group_by(["key", "layout"], use_threads=False).aggregate([("field", "list")])
    have = [",".join(sorted(map(str, fields))) for fields in grouped["field_list"].to_pylist()]
    want = [",".join(sorted(LAYOUTS.get(str(layout), ()))) for layout in grouped["layout"].to_pylist()]
    return pa.table(
        {"key": grouped["key"], "fields": pa.array(have, pa.string()), "layout_fields": pa.array(want, pa.string())}
    )


def examples(build: Build) -> pa.Table:
    """Examples with `n_turns`, `empty_turns`, `missing_media` and `other_split_than_plan`, without their words."""
    columns = ["example_id", "unit", "group", "split", "task", "language", "generator", "source", "terms_id"]
    rows = build.examples(columns=[*columns, "turns", "media"])
    turns = rows["turns"].combine_chunks()
    parts = pc.list_value_length(pc.struct_field(pc.list_flatten(turns), "parts"))
    owners = pc.list_parent_indices(turns).filter(pc.equal(pc.fill_null(parts, 0), 0))
    found = {
        "n_turns": pc.fill_null(pc.list_value_length(turns), 0),
        "empty_turns": _count_owners(owners, rows.num_rows),
        "missing_media": _count_missing(rows["media"], build.index(columns=["key"])["key"]),
    }
    kept = rows.select(columns)
    for name, column in found.items():
        kept = kept.append_column(name, column)
    return _against_plan(build, kept)


def units(build: Build) -> pa.Table:
    """Planned units with `n_media`, `n_kept` (by the ledger), `n_ends` and `unfinished`."""
    plan = _plan(build)
    ledgers = dict(build.ledgers())
    kept = {u["unit"]: len(u["kept"]) for ledger in ledgers.values() for u in ledger["units"]}
    unfinished = {u["unit"] for shard, planned in build.shards.items() if shard not in ledgers for u in planned}
    keys = build.index(columns=["unit", "key"]).group_by(["unit", "key"]).aggregate([])
    in_index, names = _counts(keys["unit"]), plan["unit"].to_pylist()
    ends = _sum(
        in_index,
        _counts(build.examples(columns=["unit"])["unit"]),
        _counts(build.table("article", ["article_key"])["article_key"]),
        _counts(pa.chunked_array([pa.array([r["unit"] for r in build.refusals()], pa.string())])),
    )
    return pa.table(
        {
            "unit": plan["unit"],
            "n_media": pa.array([in_index.get(u, 0) for u in names], pa.int64()),
            "n_kept": pa.array([kept.get(u, 0) for u in names], pa.int64()),
            "n_ends": pa.array([ends.get(u, 0) for u in names], pa.int64()),
            "unfinished": pa.array([int(u in unfinished) for u in names], pa.int64()),
        }
    )


def whole(build: Build) -> pa.Table:
    """One row: `kept` things of all kinds, `units_astray` between plan and ledgers, and `unbalanced_shards`."""
    kept = build.index(columns=["key"]).num_rows + build.table("article", ["article_key"]).num_rows
    kept += build.examples(columns=["example_id"]).num_rows
    astray = unbalanced = 0
    for shard, ledger in build.ledgers():
        planned = {unit["unit"] for unit in build.shards.get(shard, [])}
        astray += len(planned ^ {unit["unit"] for unit in ledger["units"]})
        unbalanced += not _is_balanced(ledger)
    columns = {"kept": kept, "units_astray": astray, "unbalanced_shards": unbalanced}
    return pa.table({name: pa.array([number], pa.int64()) for name, number in columns.items()})


def _is_balanced(ledger: dict[str, Any]) -> bool:
    """Whether what a shard took and made is what it kept and refused; a ledger without counts only lists."""
    kept = sum(len(unit["kept"]) for unit in ledger["units"])
    counts = ledger.get("counts") or {"in": kept, "made": 0, "out": kept, "refused": 0}
    stored = sum(tar["samples"] for tar in ledger["tars"].values())
    return bool(counts["in"] + counts["made"] == counts["out"] + counts["refused"] and counts["out"] == kept == stored)


def _plan(build: Build) -> pa.Table:
    rows = [unit for planned in build.shards.values() for unit in planned]
    return pa.table({c: pa.array([row[c] for row in rows], pa.string()) for c in ("unit", "group", "split")})


def _against_plan(build: Build, rows: pa.Table) -> pa.Table:
    """Append `other_split_than_plan`: 1 where (unit, group, split) is not a row of the plan."""
    planned = _plan(build).append_column("planned", pa.array([1] * _plan(build).num_rows, pa.int64()))
    rows = rows.join(planned, ["unit", "group", "split"])
    other = pc.subtract(1, pc.fill_null(rows["planned"], 0))
    return rows.append_column("other_split_than_plan", other)


def _count_missing(lists: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.Array:
    """Count, per list, the values that are not among `known`."""
    column = lists.combine_chunks()
    missing = pc.invert(pc.is_in(pc.list_flatten(column), value_set=known.combine_chunks()))
    return _count_owners(pc.list_parent_indices(column).filter(missing), len(column))


def _count_owners(owners: pa.Array, rows: int) -> pa.Array:
    import numpy as np

    return pa.array(np.bincount(np.asarray(owners, dtype=np.int64), minlength=rows).astype(np.int64))


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {e["values"]: e["counts"] for e in pc.value_counts(values).to_pylist()}


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for name, number in part.items():
            total[name] = total.get(name, 0) + number
    return total


def _number(flags: pa.Array) -> pa.Array:
    return pc.cast(flags, pa.int64())
