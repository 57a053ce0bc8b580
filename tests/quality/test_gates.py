"""The gate against real tables: what is whole passes, every kind of damage shuts it, and no value leaks."""

import json
import sys

import pyarrow as pa
import pytest

from medloom.quality.gates import Suite, default_suites, run_gate
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import canonical_json
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import TABLES

TRAIN = ShardName("train", 0)


def gate_of(build, table):
    """The gate with the suite of one table, since building all of them takes the longest."""
    return run_gate(build, [suite for suite in default_suites() if suite.table == table])


def failures(result):
    return {(row.table, row.column, row.outcome) for row in result.failed}


def an_example_part(build):
    (task, print_), *_ = build.tasks()
    return build.example_parts(task, print_)[-1]


def test_a_whole_build_passes(build):
    result = run_gate(build)
    assert result.failed == ()
    assert result.success
    assert {row.table for row in result.rows} == {suite.table for suite in default_suites()}
    assert {row.outcome for row in result.rows} == {"pass"}


def table(name):
    return f"tables/{name}/part-00000.parquet"


@pytest.mark.parametrize(
    ("path", "of", "found"),
    [
        (table("article"), lambda r: {"article_key": "Not A Key"}, ("article", "article_key", "fail")),
        (table("article"), lambda r: {"article_key": None}, ("article", "article_key", "fail")),
        (table("article"), lambda r: {"terms_id": "finders-keepers"}, ("article", "terms_id", "fail")),
        (table("figure"), lambda r: {"fig_key": "same"}, ("figure", "fig_key", "fail")),
        (table("figure"), lambda r: {"media": [{**r["media"][0], "key": "a/b"}]}, ("figure", "odd_media", "fail")),
        (table("mention"), lambda r: {"start": r["end"] + 1}, ("mention", "end, start", "fail")),
        (table("mention"), lambda r: {"start": r["start"] + 1}, ("mention", "wrong_text", "fail")),
        (table("mention"), lambda r: {"end": 10_000}, ("mention", "outside_text", "fail")),
        (table("mention"), lambda r: {"fig_keys": ["nowhere"]}, ("mention", "unknown_figures", "fail")),
        (table("mention"), lambda r: {"par_id": "nowhere"}, ("mention", "outside_text", "fail")),
        (table("series"), lambda r: {"key_id": None}, ("series", "key_id", "fail")),
        (table("group"), lambda r: {"split": "odd split"}, ("group", "split", "fail")),
        (table("group"), lambda r: {"unit": "same"}, ("group", "unit", "fail")),
        (TRAIN.index("jpg"), lambda r: {"offset": r["offset"] + 1}, ("index", "offset_in_block", "fail")),
        (TRAIN.index("jpg"), lambda r: {"offset": None}, ("index", "offset_in_block", "fail")),
        (TRAIN.index("jpg"), lambda r: {"size": 0}, ("index", "size", "fail")),
        (TRAIN.index("jpg"), lambda r: {"layout": "gif"}, ("index", "layout", "fail")),
        (TRAIN.index("jpg"), lambda r: {"field": "json"}, ("index", "key, field", "fail")),
        (TRAIN.index("jpg"), lambda r: {"split": "test"}, ("index", "other_split_than_plan", "fail")),
        (TRAIN.index("jpg"), lambda r: None if r["field"] == "json" else {},
         ("medium", "fields, layout_fields", "fail")),
        (TRAIN.index("volume"), lambda r: {"group": "other"}, ("index", "other_split_than_plan", "fail")),
    ],
)  # fmt: skip
def test_each_damage_shuts_the_gate(build, change, path, of, found):
    assert gate_of(build, found[0]).success
    change(build, path, of)
    result = gate_of(build, found[0])
    assert not result.success
    assert found in failures(result)


@pytest.mark.parametrize(
    ("of", "column"),
    [
        (lambda r: {"example_id": "twice"}, "example_id"),
        (lambda r: {"split": "unheard"}, "other_split_than_plan"),
        (lambda r: {"turns": []}, "n_turns"),
        (lambda r: {"turns": None}, "n_turns"),
        (lambda r: {"turns": [{"role": "user", "parts": []}]}, "empty_turns"),
        (lambda r: {"media": ["nowhere"]}, "missing_media"),
        (lambda r: {"terms_id": "finders-keepers"}, "terms_id"),
        (lambda r: {"generator": None}, "generator"),
    ],
)
def test_each_damaged_example_shuts_the_gate(build, change, of, column):
    change(build, an_example_part(build), of)
    assert ("example", column, "fail") in failures(gate_of(build, "example"))


def test_a_group_in_two_splits_shuts_the_gate_and_names_how_many_units(build, change):
    first = build.store.read_table(table("group")).filter(
        pa.compute.equal(build.store.read_table(table("group"))["split"], "train")
    )["unit"][0]
    change(build, table("group"), lambda row: {"split": "test" if row["unit"] == first.as_py() else row["split"]})
    (row,) = gate_of(build, "group").failed
    assert row.column == "splits_of_group"
    assert row.unexpected_count == 1


def test_a_unit_that_ends_in_nothing_shuts_the_gate(build, change):
    ledger = build.ledger(TRAIN)
    change(build, table("article"), lambda row: None)
    gone = next(u["unit"] for u in ledger["units"] if u["unit"].startswith("pmc"))
    change(build, TRAIN.index("jpg"), lambda row: None if row["unit"] == gone else {})
    change(build, TRAIN.index("png"), lambda row: None if row["unit"] == gone else {})
    for task, print_ in build.tasks():
        for part in build.example_parts(task, print_):
            change(build, part, lambda row: None if row["unit"] == gone else {})
    ledger["refused"] = []
    build.store.write(TRAIN.ledger, canonical_json(ledger).encode())
    found = failures(gate_of(build, "unit"))
    assert {("unit", "n_ends", "fail"), ("unit", "n_kept, n_media", "fail")} <= found


def test_an_unfinished_shard_shuts_the_gate(build):
    build.store.delete(TRAIN.ledger)
    assert ("unit", "unfinished", "fail") in failures(gate_of(build, "unit"))


@pytest.mark.parametrize("name", ["in", "made", "out", "refused"])
def test_counts_that_do_not_add_up_shut_the_gate(build, name):
    ledger = build.ledger(TRAIN)
    ledger["counts"][name] += 1
    build.store.write(TRAIN.ledger, canonical_json(ledger).encode())
    assert failures(gate_of(build, "build")) == {("build", "unbalanced_shards", "fail")}


def test_a_build_that_kept_nothing_fails_for_that(build, change):
    for name in ("article", "figure", "mention"):
        change(build, table(name), lambda row: None)
    for shard in list(build.shards):
        ledger = build.ledger(shard)
        refused = [
            {"unit": u["unit"], "key": "", "source": "s", "stage": "s", "reason": "r", "detail": "", "source_bytes": 0}
            for u in ledger["units"]
        ]  # fmt: skip
        counts = {"in": len(refused), "made": 0, "out": 0, "refused": len(refused)}
        ledger |= {"tars": {}, "refused": refused, "counts": counts}
        ledger["units"] = [{**unit, "kept": []} for unit in ledger["units"]]
        build.store.write(shard.ledger, canonical_json(ledger).encode())
    build.store.delete_folder("examples")
    (row,) = run_gate(build).failed
    assert (row.table, row.column, row.says) == (
        "build",
        "kept",
        "something was kept: an article, a medium or an example",
    )


def test_a_warning_annotates_and_does_not_shut_the_gate(build, change):
    change(build, table("article"), lambda row: {"licence_code": None})
    result = run_gate(build)
    assert result.success
    (row,) = (r for r in result.rows if r.outcome == "fail")
    assert (row.column, row.severity, row.unexpected_count) == ("licence_code", "warning", 6)


def test_an_empty_citation_is_a_warning(build, change):
    change(build, table("mention"), lambda row: {"end": row["start"], "text": ""})
    result = gate_of(build, "mention")
    assert result.success
    assert [(row.column, row.unexpected_count) for row in result.rows if row.outcome == "fail"] == [
        ("without_words", 6)
    ]


def test_no_failing_value_is_kept_or_printed(build, change, capfd):
    change(build, table("article"), lambda row: {"article_key": "John Smith MRN 123", "terms_id": "John Smith MRN 123"})
    change(build, table("mention"), lambda row: {"text": "John Smith MRN 123"})
    said = json.dumps(run_gate(build).to_json())
    assert json.loads(said)["success"] is False
    out, err = capfd.readouterr()
    assert "John" not in said + out + err
    assert out == ""


def test_a_missing_column_is_an_error_and_shuts_the_gate(build):
    import great_expectations.expectations as gxe

    expectations = (
        gxe.ExpectColumnValuesToNotBeNull(column="nowhere", severity="warning", description="it is there"),
        gxe.ExpectColumnValuesToNotBeNull(column="unit", description="the unit is there"),
    )
    result = run_gate(build, [Suite("group", lambda b: b.table("group"), expectations)])
    assert [(row.outcome, row.says) for row in result.rows] == [
        ("pass", "the unit is there"),
        ("error", "the column is missing"),
    ]
    assert not result.success


def test_a_table_that_cannot_be_read_is_an_error_and_the_others_are_still_judged(build):
    build.store.write(table("figure"), b"PAR1 no")
    result = run_gate(build)
    assert ("figure", "", "error") in failures(result)
    assert any(row.table == "series" and row.outcome == "pass" for row in result.rows)


def test_an_empty_build_is_not_a_pass(tmp_path):
    Store(str(tmp_path)).write_table(table("article"), TABLES["article"].empty_table())
    result = run_gate(Build(str(tmp_path)))
    assert not result.success
    assert ("unit", "", "error") in failures(result)


def test_without_great_expectations_the_extra_is_named(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    with pytest.raises(ConfigError, match=r"medloom\[spark\]"):
        run_gate(build)
