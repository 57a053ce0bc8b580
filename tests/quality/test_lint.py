"""Lint against damage done on purpose: each kind is found, named by path, and a whole build has nothing to find."""

import tarfile

import pyarrow as pa
import pytest
from tests.builds import synthetic_release

from medloom.quality import finding as module
from medloom.quality.lint import lint
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import RELEASE_ROW

TRAIN = ShardName("train", 0)


def whats(findings):
    return {(finding.path, finding.what) for finding in findings}


def test_a_whole_build_and_its_release_have_nothing_to_find(build, release):
    assert lint(build, release=release) == []


@pytest.mark.parametrize("piece", [512, 1024, 10_000])
def test_a_tar_is_read_to_its_end_whatever_the_size_of_a_piece(build, monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    assert lint(build) == []


@pytest.mark.parametrize("layout", ["jpg", "png", "volume", "volume-seg"])
def test_one_changed_byte_of_a_member_is_found_by_its_sum_and_the_tars(build, layout):
    row = build.store.read_table(TRAIN.index(layout)).to_pylist()[-1]
    with build.store.local(TRAIN.tar(layout)).open("r+b") as file:
        file.seek(row["offset"] + row["size"] // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    path = TRAIN.tar(layout)
    assert whats(lint(build)) == {(path, "member.crc32c"), (path, "tar.sha256")}
    (member,) = (f for f in lint(build) if f.what == "member.crc32c")
    assert f"{row['key']}.{row['field']}" in member.found


def test_a_byte_after_the_last_member_changes_the_tars_sum_alone(build):
    path = build.store.local(TRAIN.tar("jpg"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert whats(lint(build)) == {(TRAIN.tar("jpg"), "tar.sha256")}


def test_a_cut_tar_is_found_by_size_and_form(build):
    path = build.store.local(TRAIN.tar("volume"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = whats(lint(build))
    assert {(TRAIN.tar("volume"), what) for what in ("file.size", "tar.sha256", "tar.form")} <= found


def test_a_changed_name_in_a_header_is_found(build):
    path = build.store.local(TRAIN.tar("png"))
    data = path.read_bytes()
    info = tarfile.TarInfo(data[:100].rstrip(b"\0").decode().replace("pmc9", "pmd9"))
    info.size = int(data[124:136].rstrip(b"\0 "), 8)
    info.mode = 0o644
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + data[512:])
    assert whats(lint(build)) == {(TRAIN.tar("png"), "tar.header"), (TRAIN.tar("png"), "tar.sha256")}


def test_a_header_with_a_wrong_checksum_is_no_tar(build):
    path = build.store.local(TRAIN.tar("png"))
    path.write_bytes(path.read_bytes().replace(b"pmc9", b"pmd9", 1))
    assert whats(lint(build)) == {(TRAIN.tar("png"), "tar.form"), (TRAIN.tar("png"), "tar.sha256")}


def test_unreadable_parquet_files_are_findings_not_crashes(build):
    (task, print_), *_ = build.tasks()
    part = build.example_parts(task, print_)[0]
    for path in (TRAIN.index("jpg"), part):
        build.store.write(path, b"PAR1 no")
    assert {(TRAIN.index("jpg"), "index.form"), (part, "example.form")} <= whats(lint(build))


def test_swapped_index_rows_break_order_and_header(build):
    table = build.store.read_table(TRAIN.index("jpg"))
    build.store.write_table(TRAIN.index("jpg"), table.take([*range(2, table.num_rows), 0, 1]))
    assert {
        (TRAIN.index("jpg"), "index.key.order"),
        (TRAIN.index("jpg"), "index.sha256"),
        (TRAIN.tar("jpg"), "tar.header"),
    } <= whats(lint(build))


@pytest.mark.parametrize(
    ("of", "what"),
    [
        (lambda row: {"key": row["key"].upper()}, "index.key.form"),
        (lambda row: {"split": "test"}, "index.split"),
        (lambda row: {"layout": "png"}, "index.layout"),
        (lambda row: {"offset": row["offset"] + 1}, "index.offset"),
        (lambda row: None if row["field"] == "json" else {}, "index.fields"),
        (lambda row: None, "ledger.kept"),
    ],
)
def test_index_rows_that_break_a_rule_are_found(build, change, of, what):
    first = build.store.read_table(TRAIN.index("jpg")).to_pylist()[0]["key"]
    change(build, TRAIN.index("jpg"), lambda row: of(row) if row["key"] == first else {})
    assert what in {finding.what for finding in lint(build)}


def test_missing_files_and_stray_tars_are_found(build):
    build.store.delete(TRAIN.tar("png"))
    build.store.write("media/train-jpg-000009.tar", b"")
    build.store.delete("tables/article/part-00000.parquet")
    found = whats(lint(build))
    assert (TRAIN.tar("png"), "file.missing") in found
    assert ("media/train-jpg-000009.tar", "file.stray") in found
    assert ("tables/article/part-00000.parquet", "file.missing") in found


def test_a_shard_without_a_ledger_is_unfinished_and_its_tars_are_stray(build):
    build.store.delete(TRAIN.ledger)
    found = whats(lint(build))
    assert (TRAIN.ledger, "shard.unfinished") in found
    assert (TRAIN.tar("jpg"), "file.stray") in found


def test_a_table_that_no_manifest_lists_is_found(build):
    build.store.write("tables/article/part-00007.parquet", b"")
    assert whats(lint(build)) == {("tables/article/part-00007.parquet", "file.uncommitted")}


def test_a_ledger_that_forgets_a_unit_is_found(build):
    ledger = build.ledger(TRAIN)
    del ledger["units"][0]
    build.store.write(TRAIN.ledger, canonical_json(ledger).encode())
    assert {"ledger.units", "ledger.kept"} <= {finding.what for finding in lint(build)}


def test_examples_that_refer_to_no_medium_or_stand_twice_are_found(build, change):
    (caption, print_), *_ = build.tasks()
    test, train = build.example_parts(caption, print_)
    change(build, train, lambda row: {"media": ["nowhere"], "turns": row["turns"]})
    change(build, test, lambda row: {"unit": "no-unit"})
    whole = build.store.read_table(train)
    build.store.write_table(train, whole.take([*range(whole.num_rows), 0]))
    found = whats(lint(build))
    assert {(train, "example.media"), (train, "example.twice"), (test, "example.unit")} <= found


def test_release_rows_must_stand_where_the_release_says(build, release):
    part = release.rows["part"][0].as_py()
    whole = build.store.read_table(part)
    build.store.write_table(part, whole.slice(1))
    assert (part, "release.row") in whats(lint(build, release=release))
    build.store.delete(part)
    assert (part, "release.part") in whats(lint(build, release=release))


def test_changed_release_rows_are_found(build, release):
    table = release.store.read_table("0001/rows.parquet")
    release.store.write_table("0001/rows.parquet", table.slice(1))
    assert "release.rows" in {f.what for f in lint(build, release=type(release)(build.url))}


def test_a_folder_without_a_manifest_says_so(tmp_path):
    Store(str(tmp_path)).write("plan/x", b"")
    with pytest.raises(FormatError, match="no manifest"):
        lint(Build(str(tmp_path)))


def rewrite_release(release, rows):
    """Write other rows into a release that says them itself, so that only their meaning can be wrong."""
    release.store.write_table("0001/rows.parquet", rows)
    facts = {**release.facts, "rows_sha256": sha256_hex(release.store.read("0001/rows.parquet"))}
    release.store.write("0001/release.json", (canonical_json(facts) + "\n").encode())
    return type(release)(release.url)


def test_a_release_that_says_another_row_or_place_of_a_medium_is_found(tmp_path):
    url = synthetic_release(tmp_path, 12)
    build, release = Build(url), Release(url)
    assert lint(build, release=release) == []
    rows = release.rows.to_pylist()
    rows[0]["group"] = "g99999"
    at = next(i for i, row in enumerate(rows) if len(row["media"]) == 2)
    rows[at]["media_at"] = rows[at]["media_at"][::-1]
    found = lint(build, release=rewrite_release(release, pa.Table.from_pylist(rows, schema=RELEASE_ROW)))
    assert {f.what for f in found} == {"release.row", "release.index.rows"}
    assert any(rows[0]["example_id"] in f.found for f in found)
    assert any(rows[at]["media"][0] in f.found for f in found)


def test_places_beyond_the_index_are_found(tmp_path):
    url = synthetic_release(tmp_path, 12)
    rows = Release(url).rows.to_pylist()
    rows[0]["media_at"] = [10**6] * len(rows[0]["media"])
    release = rewrite_release(Release(url), pa.Table.from_pylist(rows, schema=RELEASE_ROW))
    assert [f.what for f in lint(Build(url), release=release)] == ["release.index.rows"]


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("chunk_crc32c", lambda v: [v[0] ^ 1, *v[1:]]),
        ("chunk_sizes", lambda v: [v[0] + 1, *v[1:]]),
        ("chunk_offsets", lambda v: v[:-1]),
        ("shape", lambda v: v[::-1]),
        ("dtype", lambda v: "uint16"),
        ("block_shape", lambda v: [n + 1 for n in v]),
        ("modality", lambda v: "US"),
    ],
)
def test_an_index_row_that_says_otherwise_than_its_member_is_found(build, change, column, wrong):
    """The row and all its checksums agree: only the member itself tells that it is wrong."""
    path = TRAIN.index("volume")
    change(build, path, lambda row: {column: wrong(row[column])} if row["field"] == "ct.b2nd" else {})
    if column == "modality":
        change(build, path, lambda row: {"modality": "US"})
    found = [f for f in lint(build) if f.path == TRAIN.tar("volume")]
    assert {f.what for f in found} == {"member.json" if column == "modality" else "member.b2nd"}


def test_a_picture_of_another_size_than_its_row_says_is_found(build, change):
    change(build, TRAIN.index("png"), lambda row: {"shape": [1, 1, 1]} if row["field"] == "png" else {})
    assert "member.png" in {f.what for f in lint(build)}


@pytest.mark.parametrize(
    ("of", "what"),
    [
        (lambda row: {"group": "another"}, "example.group"),
        (lambda row: {"split": "test"}, "example.group"),
        (lambda row: {"turns": [{**row["turns"][0], "role": "system"}]}, "example.turns"),
        (lambda row: {"turns": []}, "example.turns"),
        (lambda row: {"media": []}, "example.turns"),
        (lambda row: {"task": "vqa"}, "example.task"),
    ],
)
def test_example_rows_that_do_not_fit_are_found(build, change, of, what):
    (caption, print_), *_ = build.tasks()
    _, train = build.example_parts(caption, print_)
    change(build, train, of)
    assert (train, what) in whats(lint(build))


def test_a_flow_that_does_not_add_up_and_counts_that_are_wrong_are_found(build):
    ledger = build.ledger(TRAIN)
    ledger["counts"]["made"] += 1
    build.store.write(TRAIN.ledger, canonical_json(ledger).encode())
    assert (TRAIN.ledger, "ledger.counts") in whats(lint(build))
    newest = build.manifest()
    manifests.commit(build.store, recipe=newest["recipe"], counts={"units": 3}, known={})
    assert ("manifests/0002.json", "manifest.counts") in whats(lint(build))


def test_manifests_are_a_chain(build):
    newest = build.manifest()
    manifests.commit(build.store, recipe={**newest["recipe"], "name": "b"}, counts=newest["counts"], known={})
    assert lint(build) == []
    changed = {**newest, "counts": {}}
    build.store.write("manifests/0001.json", (canonical_json(changed) + "\n").encode())
    assert whats(lint(build)) == {("manifests/0002.json", "manifest.parent")}
