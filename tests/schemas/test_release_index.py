"""A release's index says of every medium what its build's index says, or, once a bit of it flips, nothing at all."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.builds import synthetic_release

from medloom.schemas import manifest as manifests
from medloom.schemas import release_indexing
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex, has_index, index_path, is_whole, read_batches
from medloom.schemas.release_indexing import write_release_index
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import INDEX, RELEASE_INDEX, RELEASE_ROW


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    return synthetic_release(tmp_path_factory.mktemp("indexed"), 24)


@pytest.fixture
def copied(url, tmp_path) -> str:
    return str(shutil.copytree(url, tmp_path / "build"))


def media_of(release: Release) -> Iterator[tuple[str, str, str, int]]:
    """Split, layout, key and place of every medium of every row."""
    for row in release.rows.to_pylist():
        for medium in zip(row["layouts"], row["media"], row["media_at"], strict=True):
            yield row["split"], *medium


def stored_rows(build: Build) -> dict[str, list[dict[str, Any]]]:
    """What the indexes of a build say of every medium, in the columns of the release's index."""
    found: dict[str, list[dict[str, Any]]] = {}
    for shard, _ in build.ledgers():
        for row in build.index(shard).to_pylist():
            row |= {"build": 0, "shard": shard.number}
            found.setdefault(row["key"], []).append({name: row[name] for name in RELEASE_INDEX.names})
    return {key: [{n: "" if v is None else v for n, v in row.items()} for row in rows] for key, rows in found.items()}


def test_every_medium_is_as_its_build_says(url):
    release, wanted, seen = Release(url), stored_rows(Build(url)), set()
    for split, layout, key, at in media_of(release):
        rows = ReleaseIndex(release, split, layout).members(at)
        assert rows == wanted[key]
        assert [row["field"] for row in rows] == list(LAYOUTS[layout])
        seen.add(key)
    assert seen == set(wanted)


def test_a_medium_is_given_in_the_columns_asked_for(url):
    release = Release(url)
    split, layout, key, at = next(media_of(release))
    index = ReleaseIndex(release, split, layout)
    short = index.members(at, columns=("key", "offset"))
    assert short == [{"key": key, "offset": row["offset"]} for row in index.members(at)]


def test_the_file_is_plain_arrow_that_anyone_maps(url):
    release = Release(url)
    for name, facts in release.facts["index"]["files"].items():
        path = release.store.local(f"{release.name}/index/{name}.arrow")
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        assert table.schema == RELEASE_INDEX
        assert table.num_rows == facts["rows"]
        assert path.stat().st_size == facts["size"]
        split, _, layout = name.partition("-")
        for column in ("key", "offset", "chunk_crc32c"):
            assert ReleaseIndex(release, split, layout).column(column).to_pylist() == table[column].to_pylist()


def test_record_batches_hold_whole_media_of_one_shard(url, tmp_path, monkeypatch):
    monkeypatch.setattr(release_indexing, "BATCH_ROWS", 5)
    release = Release(url)
    store = Store(str(tmp_path / "releases"))
    pinned = [{**release.facts["builds"][0], "uri": url}]
    rows, facts = write_release_index(store, "0001", release.rows, pinned)
    assert rows["media_at"].to_pylist() == release.rows["media_at"].to_pylist()
    assert {n: f["rows"] for n, f in facts["files"].items()} == {
        n: f["rows"] for n, f in release.facts["index"]["files"].items()
    }
    table = pq.read_table(store.local("0001/index/batches.parquet")).to_pylist()
    assert max(row["rows"] for row in table) <= 5
    assert len(table) > len(facts["files"]) * 2
    assert all(row["rows"] % len(LAYOUTS[row["layout"]]) == 0 for row in table)
    for row in table:
        with pa.memory_map(str(store.local(index_path("0001", row["split"], row["layout"])))) as file:
            shards = pa.ipc.open_file(file).read_all()["shard"][row["first"] : row["first"] + row["rows"]]
        assert set(shards.to_pylist()) == {row["shard"]}


def test_the_same_rows_give_the_same_files(url, tmp_path):
    release = Release(url)
    for name in ("one", "two"):
        pinned = [{**release.facts["builds"][0], "uri": url}]
        rows, facts = write_release_index(Store(str(tmp_path / name)), "0001", release.rows, pinned)
        assert facts == release.facts["index"]
        assert rows.equals(release.rows)
    for path in (tmp_path / "one" / "0001" / "index").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "0001" / "index" / path.name).read_bytes()


def test_only_media_that_rows_use_are_listed(url, tmp_path):
    release = Release(url)
    few = release.rows.filter(pc.equal(release.rows["task"], "caption")).slice(0, 3)
    pinned = [{**release.facts["builds"][0], "uri": url}]
    rows, facts = write_release_index(Store(str(tmp_path)), "0001", few, pinned)
    used = {(row["split"], key) for row in few.to_pylist() for key in row["media"]}
    assert sum(found["rows"] for found in facts["files"].values()) == 2 * len(used)
    assert rows["media_at"].null_count == 0


def test_text_alone_needs_no_media(url, tmp_path):
    rows = [{**row, "media": [], "layouts": []} for row in Release(url).rows.slice(0, 2).to_pylist()]
    table = pa.Table.from_pylist(rows, schema=RELEASE_ROW)
    pinned = [{**Release(url).facts["builds"][0], "uri": url}]
    out, facts = write_release_index(Store(str(tmp_path)), "0001", table, pinned)
    assert out["media_at"].to_pylist() == [[], []]
    assert facts["files"] == {}


def test_two_builds_that_hold_the_same_keys_are_told_apart(url, copied, tmp_path):
    """The second build is the same but for a shift of every tar's members, so that offsets tell which was taken."""
    release, other = Release(url), Build(copied)
    for path in other.store.local("index").iterdir():
        rows = [{**row, "offset": row["offset"] + 512} for row in pq.read_table(path).to_pylist()]
        other.store.write_table(f"index/{path.name}", pa.Table.from_pylist(rows, schema=INDEX))
    newest = manifests.commit(other.store, recipe=other.manifest()["recipe"], counts={}, known={})
    rows = release.rows.to_pylist()
    both = [{**row, "build": number} for row in rows for number in (1, 0)]
    pinned = [{"uri": url, "number": 1}, {"uri": copied, "number": newest["number"]}]
    store = Store(str(tmp_path / "releases"))
    out, facts = write_release_index(store, "0001", pa.Table.from_pylist(both, schema=RELEASE_ROW), pinned)
    store.write("0001/rows.parquet", b"")
    made = _release_of(store, facts)
    wanted = stored_rows(Build(url))
    for row in out.to_pylist():
        for layout, key, at in zip(row["layouts"], row["media"], row["media_at"], strict=True):
            members = ReleaseIndex(made, row["split"], layout).members(at)
            assert {m["build"] for m in members} == {row["build"]}
            assert [m["key"] for m in members] == [key] * len(members)
            assert [m["offset"] - 512 * row["build"] for m in members] == [m["offset"] for m in wanted[key]]


def _release_of(store: Store, index: dict[str, Any]) -> Release:
    store.write("overlay/0001.parquet", b"")
    store.write("0001/release.json", json.dumps({"format_version": 1, "index": index}).encode())
    return Release(store.url)


def test_a_medium_that_no_index_holds_is_named(url, tmp_path):
    rows = Release(url).rows.slice(0, 2).to_pylist()
    rows[1]["media"] = [rows[1]["media"][0], "nobody"]
    table, pinned = pa.Table.from_pylist(rows, schema=RELEASE_ROW), [{**Release(url).facts["builds"][0], "uri": url}]
    with pytest.raises(FormatError, match=rf"{rows[1]['example_id']} refers to medium nobody"):
        write_release_index(Store(str(tmp_path)), "0001", table, pinned)


def test_an_index_that_was_rewritten_is_refused(copied, tmp_path):
    release = Release(copied)
    path = ShardName("train", 0).index("jpg")
    table = release.builds()[0].store.read_table(path)
    release.builds()[0].store.write_table(path, table.slice(0, table.num_rows), {"other": "metadata"})
    with pytest.raises(FormatError, match="was changed after its manifest"):
        write_release_index(Store(str(tmp_path)), "0001", release.rows, [{**release.facts["builds"][0], "uri": copied}])


def test_a_flipped_bit_is_an_error_and_never_another_row(copied):
    release = Release(copied)
    places = [medium for medium in media_of(release) if medium[:2] == ("train", "volume-seg")]
    whole = {at: ReleaseIndex(release, "train", "volume-seg").members(at) for _, _, _, at in places}
    path = release.store.local(index_path(release.name, "train", "volume-seg"))
    good = path.read_bytes()
    refused = 0
    for byte in range(0, len(good), 61):
        path.write_bytes(good[:byte] + bytes([good[byte] ^ (1 << byte % 8)]) + good[byte + 1 :])
        index = ReleaseIndex(release, "train", "volume-seg")
        for at, wanted in whole.items():
            try:
                found = index.members(at)
            except FormatError:
                refused += 1
                continue
            assert found == wanted
        assert [fault for _, fault in index.check()] or byte < 1504 or byte >= _end(release)
    assert refused > 50


def _end(release: Release) -> int:
    """Where the last record batch of the index of train and volume-seg ends; Arrow's footer follows."""
    rows = [r for r in read_batches(release).to_pylist() if (r["split"], r["layout"]) == ("train", "volume-seg")]
    return max(row["offset"] + row["size"] for row in rows)


@pytest.mark.parametrize("damage", ["gone", "short", "long"])
def test_an_index_of_another_size_is_an_error(copied, damage):
    release = Release(copied)
    assert is_whole(release)
    path = release.store.local(index_path(release.name, "train", "jpg"))
    good = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(good[:-1] if damage == "short" else good + b"\0")
    assert not is_whole(release)
    with pytest.raises(FormatError, match="is not there" if damage == "gone" else "its release says"):
        ReleaseIndex(release, "train", "jpg")


CUT = """
import os, sys
from medloom.schemas.errors import FormatError
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex, index_path
release = Release(sys.argv[1])
index = ReleaseIndex(release, "train", "jpg")
if sys.argv[2] == "after":
    index.column("key")
os.truncate(release.store.local(index_path(release.name, "train", "jpg")), 0)
assert all("cut short" in fault for _, fault in index.check()) and list(index.check())
try:
    index.column("key")
except FormatError as fault:
    print(fault)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_index_cut_while_it_is_open_is_an_error_and_not_the_end_of_the_process(copied, when):
    asked = [sys.executable, "-c", CUT, copied, when]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)  # apart: it once ended with SIGBUS
    assert done.returncode == 0, done.stderr
    assert "was cut short while it was read" in done.stdout


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_a_table_of_batches_that_is_not_the_pinned_one_is_an_error(copied, damage):
    release = Release(copied)
    path = release.store.local(f"{release.name}/index/batches.parquet")
    data = path.read_bytes()
    path.unlink()
    if damage == "other":
        path.write_bytes(data[:-1] + b"\0")
    with pytest.raises(FormatError, match=r"batches\.parquet"):
        ReleaseIndex(release, "train", "jpg")


def test_a_place_outside_the_index_is_an_error(url):
    index = ReleaseIndex(Release(url), "train", "jpg")
    for at in (-1, len(index) - 1, len(index)):
        with pytest.raises(FormatError, match=r"none for a medium"):
            index.members(at)
    with pytest.raises(FormatError, match="has 0 rows"):
        ReleaseIndex(Release(url), "nosplit", "jpg").members(0)


def test_elsewhere_a_record_batch_is_fetched_once(url):
    remote = fsspec.filesystem("memory")
    remote.put(url, "/elsewhere/build", recursive=True)
    try:
        release = Release("memory:///elsewhere/build")
        asked: list[tuple[str, int, int]] = []

        def read(path: str, start: int, end: int) -> bytes:
            asked.append((path, start, end))
            return release.store.read(path, start, end)

        indexes = {key: ReleaseIndex(release, *key, read=read) for key in {m[:2] for m in media_of(release)}}
        assert not asked
        wanted = stored_rows(Build(url))
        for _ in range(2):
            for index in indexes.values():
                index._batch.cache_clear()
            for split, layout, key, at in media_of(release):
                assert indexes[split, layout].members(at) == wanted[key]
        assert len(asked) == len(set(asked)) == read_batches(release).num_rows
    finally:
        remote.rm("/elsewhere", recursive=True)


def test_bytes_from_elsewhere_are_checked_too(url):
    release = Release(url)

    def short(path: str, start: int, end: int) -> bytes:
        return release.store.read(path, start, end - 1)

    def wrong(path: str, start: int, end: int) -> bytes:
        return release.store.read(path, start, end)[:-9] + b"\1" * 9

    for read in (short, wrong):
        with pytest.raises(FormatError, match="fails its crc32c"):
            ReleaseIndex(release, "train", "jpg", read=read).members(0)


def test_bytes_damaged_on_their_way_are_read_once_more(url):
    release = Release(url)
    forgotten: list[tuple[str, int, int]] = []

    def read(path: str, start: int, end: int) -> bytes:
        if not forgotten:
            raise WrongBytes("cut")
        data = release.store.read(path, start, end)
        return data[::-1] if len(forgotten) == 1 else data

    index = ReleaseIndex(release, "train", "jpg", read=read, forget=lambda *asked: forgotten.append(asked))
    with pytest.raises(FormatError, match="fails its crc32c"):
        index.members(0)
    (_, start, end) = forgotten[0]
    assert forgotten == [(index.path, start, end)]
    assert index.members(0) == ReleaseIndex(release, "train", "jpg").members(0)
    assert len(forgotten) == 2


def test_it_is_sent_to_other_processes_and_shared_by_threads(url):
    release = Release(url)
    index = pickle.loads(pickle.dumps(ReleaseIndex(release, "train", "png")))
    wanted = stored_rows(Build(url))
    places = [m for m in media_of(release) if m[:2] == ("train", "png")]
    with ThreadPoolExecutor(4) as pool:
        for (_, _, key, _), rows in zip(places, pool.map(lambda m: index.members(m[3]), places), strict=True):
            assert rows == wanted[key]


def test_a_release_of_the_first_format_has_none():
    release = Release(str(Path(__file__).parent / "fixtures" / "format1"))
    assert not has_index(release)
    with pytest.raises(FormatError, match="too old"):
        ReleaseIndex(release, "train", "jpg")


def test_a_build_of_the_first_format_is_indexed_without_nulls(tmp_path):
    """Its indexes have no checksums of chunks and no units: those are empty, and the rest is there."""
    build = Build(str(Path(__file__).parent / "fixtures" / "format1"))
    release = Release(build.url)
    scan = {
        **release.rows.to_pylist()[0],
        "split": "test",
        "media": ["scan-aaaaaaaaaaaaaaaa"],
        "layouts": ["volume-seg"],
    }
    table = pa.Table.from_pylist([*release.rows.to_pylist(), scan], schema=RELEASE_ROW)
    pinned = [{**release.facts["builds"][0], "uri": build.url}]
    rows, facts = write_release_index(Store(str(tmp_path)), "0001", table, pinned)
    made = _release_of(Store(str(tmp_path)), facts)
    chunks = 0
    for row in rows.to_pylist():
        for layout, key, at in zip(row["layouts"], row["media"], row["media_at"], strict=True):
            for member in ReleaseIndex(made, row["split"], layout).members(at):
                assert member["key"] == key
                assert None not in member.values()
                assert member["chunk_sizes"] == []
                chunks += len(member["chunk_offsets"])
    assert chunks
