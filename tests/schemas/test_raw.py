"""The raw zone: whole objects under their digest, a catalog that only grows, on a disk and on a real S3 server."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.services.s3 import s3_server

from medloom.schemas import raw as raws
from medloom.schemas.errors import FormatError, RetryLater, SourceError
from medloom.schemas.raw import RAW_OBJECT, RawZone, is_raw_zone


@pytest.fixture(params=["disk", "s3"])
def url(request, tmp_path, monkeypatch):
    if request.param == "disk":
        yield str(tmp_path / "raw")
        return
    with s3_server(monkeypatch) as bucket:
        yield f"{bucket}/some/raw"


@pytest.fixture
def zone(url):
    return RawZone.at(url)


def row(name: str, /, **more) -> dict:
    return {"name": name, "article": name.partition("/")[0], "role": "media", "outcome": "refused", **more}


def kept(zone: RawZone, name: str, data: bytes, **more) -> dict:
    digest, size = zone.put(data)
    return row(name, digest=digest, size=size, outcome="kept", **more)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_zone_is_made_once_and_opened_ever_after(url):
    assert not is_raw_zone(url)
    with pytest.raises(SourceError, match=r"is no raw zone.*medloom fetch"):
        RawZone(url)
    zone = RawZone.at(url)
    zone.append([kept(zone, "a/b", b"x")])
    assert is_raw_zone(url)
    assert RawZone.at(url).rows().equals(RawZone(url).rows())
    assert json.loads(zone.store.read("raw.json")) == {"format_version": 1, "kind": "raw"}


def test_a_folder_that_holds_something_else_is_not_taken_over(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("x")
    for held in ("{}", "[1]", "no json", '{"kind": "release"}'):
        (tmp_path / "letters/raw.json").write_text(held)
        assert not is_raw_zone(str(tmp_path / "letters"))
        with pytest.raises(SourceError, match="holds files and is no raw zone"):
            RawZone.at(str(tmp_path / "letters"))
    assert not is_raw_zone(str(tmp_path / "letters/mine.txt"))


def test_a_newer_format_is_told(tmp_path):
    (tmp_path / "raw.json").write_text('{"format_version": 2, "kind": "raw"}')
    with pytest.raises(FormatError, match="has format 2"):
        RawZone(str(tmp_path))


def test_bytes_are_kept_once_under_their_sha256(zone, tmp_path):
    (tmp_path / "file").write_bytes(b"figure" * 100_000)
    assert zone.put(tmp_path / "file") == zone.put(b"figure" * 100_000) == (sha256(b"figure" * 100_000), 600_000)
    assert zone.put(b"") == (sha256(b""), 0)
    digest = sha256(b"figure" * 100_000)
    assert zone.object_path(digest) == f"objects/{digest[:2]}/{digest}"
    assert zone.store.read(zone.object_path(digest)) == zone.read(digest) == b"figure" * 100_000
    assert len(zone.store.fs.find(zone.store.path("objects"))) == 2


def test_an_object_is_not_written_again(zone):
    digest, _ = zone.put(b"x" * 1000)
    before = zone.store.fs.info(zone.store.path(zone.object_path(digest)))
    time.sleep(1.1 if not zone.store.is_local else 0.01)  # S3 states whole seconds
    zone.put(b"x" * 1000)
    zone.store.fs.invalidate_cache()
    assert zone.store.fs.info(zone.store.path(zone.object_path(digest))) == before


def test_an_object_of_another_size_than_its_name_says_is_written_again(zone):
    digest, _ = zone.put(b"whole")
    zone.store.write(zone.object_path(digest), b"who")
    with pytest.raises(FormatError, match="is damaged"):
        zone.read(digest)
    zone.put(b"whole")
    assert zone.read(digest) == b"whole"


def test_what_is_missing_or_no_digest_is_told(zone):
    with pytest.raises(FormatError, match=r"is missing; fetch it again"):
        zone.read("0" * 64)
    for name in ("../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\n"):
        with pytest.raises(FormatError, match="is no sha256"):
            zone.read(name)


def test_the_newest_row_of_a_name_counts(zone):
    zone.append([kept(zone, "b/1", b"one"), row("a/1", reason="http.not_found")])
    zone.append([kept(zone, "a/1", b"two"), row("c/1")])
    zone.append([{**kept(zone, "b/1", b"one"), "outcome": "withdrawn", "reason": "gone"}])
    rows = zone.rows()
    assert rows.schema == RAW_OBJECT
    assert rows["name"].to_pylist() == ["a/1", "b/1", "c/1"]
    assert rows["outcome"].to_pylist() == ["kept", "withdrawn", "refused"]
    assert rows["reason"].to_pylist() == ["", "gone", ""]
    assert zone.rows(among=["b", "c", "nobody"])["name"].to_pylist() == ["b/1", "c/1"]
    assert zone.rows(among=[]).num_rows == 0
    assert zone.rows(among=[]).schema == RAW_OBJECT


def test_a_zone_without_rows_has_none(zone):
    assert zone.rows().num_rows == 0
    zone.append([])
    assert zone.store.names("catalog") == []
    zone.compact()


def test_a_row_says_all_it_was_given_and_nothing_for_the_rest(zone):
    full = {
        "name": "PMC1.1/" + "ü" * 200 + "\n=cmd", "article": "PMC1.1", "role": "record", "url": "https://x/?a=1",
        "digest": zone.put(b"x")[0], "md5": "0" * 32, "size": 1 << 40, "etag": "e",
        "retrieved_at": "2026-11-22T18:00:00Z",
        "outcome": "kept", "reason": "r", "detail": "d",
    }  # fmt: skip
    zone.append([full, {"name": "z", "role": "article", "outcome": "superseded"}])
    assert zone.rows().to_pylist() == [
        full,
        {"name": "z", "article": "", "role": "article", "url": "", "digest": "", "md5": "", "size": 0, "etag": "",
         "retrieved_at": "", "outcome": "superseded", "reason": "", "detail": ""},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [{"colour": "x"}, {"role": "x"}, {"outcome": "x"}, {"outcome": "kept", "digest": "x"}, {"name": ""}]
)
def test_a_row_that_is_none_is_a_bug_and_leaves_nothing(tmp_path, wrong):
    zone = RawZone.at(str(tmp_path / "raw"))
    with pytest.raises((ValueError, FormatError)):
        zone.append([row("a"), row("b", **wrong)])
    assert zone.rows().num_rows == 0


def test_compacting_changes_no_row_and_leaves_one_part(zone):
    for number in range(5):
        zone.append([row(f"a/{number}"), row("a/same", detail=str(number)), row(f"b/{number % 2}", size=number)])
    before = zone.rows()
    zone.compact()
    assert zone.store.names("catalog") == ["part-00004.parquet"]
    assert zone.rows().equals(before)
    zone.append([row("a/same", detail="newest")])
    assert zone.store.names("catalog") == ["part-00004.parquet", "part-00005.parquet"]
    assert zone.rows(["a"]).to_pylist()[-1]["detail"] == "newest"


def test_appending_for_long_keeps_the_parts_few_and_rewrites_a_row_seldom(tmp_path, monkeypatch):
    monkeypatch.setattr(raws, "MANY_PARTS", 8)
    monkeypatch.setattr(raws, "MOST_ROWS", 100)
    zone, written, most = RawZone.at(str(tmp_path / "raw")), 0, 0
    for number in range(160):
        before = {n: os.stat(zone.store.local(f"catalog/{n}")).st_mtime_ns for n in zone.store.names("catalog")}
        zone.append([row(f"{number:03d}/{i}", size=number) for i in range(2)] + [row("same", size=number)])
        for name in zone.store.names("catalog"):
            if before.get(name) != os.stat(zone.store.local(f"catalog/{name}")).st_mtime_ns:
                written += zone.store.rows_of(f"catalog/{name}")
        most = max(most, len(zone.store.names("catalog")))
    rows = zone.rows()
    assert rows.num_rows == 321
    assert {r["name"]: r["size"] for r in rows.to_pylist()}["same"] == 159
    assert most <= 8 + 321 // 100 + 2
    assert written < 8 * 480


@settings(max_examples=40)
@given(
    batches=st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9))), max_size=8),
    most=st.integers(1, 9),
)
def test_any_order_of_appends_and_compactions_is_a_dictionary(tmp_path_factory, batches, most):
    zone, truth = RawZone.at(str(tmp_path_factory.mktemp("raw"))), {}
    raws.MOST_ROWS, usual = most, raws.MOST_ROWS
    try:
        for batch in batches:
            zone.append([row(name, size=size) for name, size in batch])
            truth |= dict(batch)
            if len(batch) % 3 == 0:
                zone.compact()
            rows = zone.rows()
            assert dict(zip(rows["name"].to_pylist(), rows["size"].to_pylist(), strict=True)) == truth
    finally:
        raws.MOST_ROWS = usual


def test_parts_beyond_five_digits_stay_in_order(tmp_path):
    zone = RawZone.at(str(tmp_path / "raw"))
    zone.append([row("a", size=1)])
    os.rename(zone.store.path("catalog/part-00000.parquet"), zone.store.path("catalog/part-99999.parquet"))
    for size in (2, 3):
        zone.append([row("a", size=size)])
    assert zone.store.names("catalog")[-1] == "part-99999.parquet"
    assert zone.rows()["size"].to_pylist() == [3]


def test_a_reader_goes_on_while_parts_are_joined(tmp_path):
    zone = RawZone.at(str(tmp_path / "raw"))

    def write() -> None:
        for number in range(30):
            zone.append([row(f"a/{number}")])
            if number % 5 == 4:
                zone.compact()

    with ThreadPoolExecutor(1) as pool:
        writing, seen = pool.submit(write), [0]
        while not writing.done():
            seen.append(zone.rows().num_rows)
        writing.result()
    assert seen == sorted(seen)
    assert zone.rows().num_rows == 30


HOLD = """
import sys
from medloom.schemas.raw import RawZone
with RawZone(sys.argv[1])._writing():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_one_run_writes_the_catalog_at_a_time_and_a_killed_one_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(raws, "LOCK_WAIT_S", 0.2)
    zone = RawZone.at(str(tmp_path / "raw"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, zone.url], stdin=PIPE, stdout=PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    for write in (lambda: zone.append([row("a")]), zone.compact):
        with pytest.raises(RetryLater, match="another run is writing the catalog"):
            write()
    zone.put(b"objects need no lock")
    holder.kill()
    holder.communicate()
    zone.append([row("a")])
    assert zone.rows().num_rows == 1


def test_writers_without_a_lock_lose_no_row_on_an_object_store(monkeypatch):
    with s3_server(monkeypatch) as bucket:
        RawZone.at(f"{bucket}/raw")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: RawZone(f"{bucket}/raw").append([row(f"a/{n}")]), range(12)))
        zone = RawZone(f"{bucket}/raw")
        assert zone.rows().num_rows == len(zone.store.names("catalog")) == 12


def test_equal_bytes_put_at_once_are_one_whole_object(zone):
    with ThreadPoolExecutor(8) as pool:
        put = set(pool.map(lambda _: zone.put(b"same" * 50_000), range(16)))
    assert put == {(sha256(b"same" * 50_000), 200_000)}
    zone.store.fs.invalidate_cache()
    assert len(zone.store.fs.find(zone.store.path("objects"))) == 1
    assert zone.read(sha256(b"same" * 50_000)) == b"same" * 50_000


FILL = """
import sys
from medloom.schemas.raw import RawZone
zone = RawZone(sys.argv[1])
print("go", flush=True)
for number in range(int(sys.argv[2]), 10**6):
    name = f"{number:06d}"
    digest, size = zone.put(name.encode() * 20_000)
    zone.append([{"name": name, "article": name, "role": "media", "outcome": "kept", "digest": digest, "size": size}])
    print(name, flush=True)
    if number % 7 == 6:
        zone.compact()
"""


def test_a_run_that_is_killed_at_any_moment_loses_nothing_and_leaves_nothing_half(zone):
    """What a killed run said was appended is there; what lies under a digest has it; the next run goes on."""
    said, on_disk = 0, zone.store.is_local
    for lines, delay_s in ((0, 0.0), (1, 0.0), (3, 0.003), (6, 0.005), (5, 0.01)) if on_disk else ((1, 0.0), (6, 0.01)):
        process = subprocess.Popen([sys.executable, "-c", FILL, zone.url, str(said)], stdout=PIPE, text=True)
        assert process.stdout.readline() == "go\n"
        said += len([process.stdout.readline() for _ in range(lines)])
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)
        said += len([line for line in process.communicate()[0].splitlines() if len(line) == 6])
        names = RawZone(zone.url).rows()["name"].to_pylist()
        assert names[:said] == [f"{number:06d}" for number in range(said)]
        assert len(names) <= said + 1
        for found in zone.store.fs.find(zone.store.path("objects")):
            name = found.rsplit("/", 1)[-1]
            assert name.startswith(".partial-") or sha256(zone.store.fs.cat_file(found)) == name
    zone.append([row("after")])
    left = [n for n in zone.store.fs.ls(zone.store.path("catalog"), detail=False) if ".partial-" in n]
    assert not left


PUT = """
import sys
from pathlib import Path
from medloom.schemas.raw import RawZone
RawZone(sys.argv[1]).put(Path(sys.argv[2]))
"""


def test_a_put_that_is_killed_halfway_leaves_no_half_object(tmp_path):
    """Halfway for certain: a named pipe gives the first reading all, and the second one half."""
    zone, data = RawZone.at(str(tmp_path / "raw")), bytes(range(256)) * 16384
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen([sys.executable, "-c", PUT, zone.url, str(tmp_path / "pipe")])
    with open(tmp_path / "pipe", "wb") as pipe:
        pipe.write(data)
    while not list(zone.store.local("").glob("objects/*/*")):  # the second reading has begun
        time.sleep(0.01)
    with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
        pipe.write(data[: len(data) // 2])
        time.sleep(0.2)
        process.kill()
        process.wait()
    assert not zone.store.exists(zone.object_path(sha256(data)))
    assert zone.put(data) == (sha256(data), len(data))
    assert zone.read(sha256(data)) == data


def test_what_killed_runs_left_is_cleared_when_it_is_old(tmp_path):
    zone = RawZone.at(str(tmp_path / "raw"))
    digest, _ = zone.put(b"x")
    folder = zone.store.local(f"objects/{digest[:2]}")
    for name, age_s in ((".partial-old", 2 * raws.PARTIAL_AGE_S), (".partial-new", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    zone.compact()
    assert sorted(os.listdir(folder)) == [".partial-new", digest]


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    """The second reading finds other bytes: a named pipe gives each reading what is written to it then."""
    zone = RawZone.at(str(tmp_path / "raw"))
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        for data in (b"first", b"other"):
            with open(tmp_path / "pipe", "wb") as pipe:
                pipe.write(data)
            time.sleep(0.2)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        with pytest.raises(RetryLater, match="changed while it was read"):
            zone.put(tmp_path / "pipe")
        writing.result()
    assert not list(zone.store.local("").rglob("objects/*/*"))


def test_a_part_of_a_later_version_with_more_columns_is_read(tmp_path):
    zone = RawZone.at(str(tmp_path / "raw"))
    zone.append([row("a")])
    table = zone.rows().append_column("colour", pa.array(["red"]))
    zone.store.write_table("catalog/part-00001.parquet", table)
    assert zone.rows().schema == RAW_OBJECT
