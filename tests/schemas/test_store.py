import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.services.faulty_store import faulty_store
from tests.services.loopback import SLOW_DOWN, slow

from medloom.schemas import store as stores
from medloom.schemas.errors import FormatError, RetryLater, SourceError
from medloom.schemas.store import Store, mendable


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


@pytest.fixture
def memory():
    store = Store("memory://store-tests")
    yield store
    store.delete_folder("")


def write_half(store: Store, name: str) -> None:
    with store.writing(name) as file:
        file.write(b"half of the new")
        raise ValueError("stop")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(store):
    store.write("a/b.bin", b"old")
    with pytest.raises(ValueError, match="stop"):
        write_half(store, "a/b.bin")
    assert store.read("a/b.bin") == b"old"
    assert os.listdir(store.local("a")) == ["b.bin"]


def test_a_write_that_fails_leaves_no_new_file(store, memory):
    for of in (store, memory):
        with pytest.raises(ValueError, match="stop"):
            write_half(of, "new.bin")
        assert not of.exists("new.bin")


def test_a_file_is_not_seen_before_it_is_whole(store):
    with store.writing("a.bin") as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert not store.exists("a.bin")
        assert store.names("") == []
    assert store.names("") == ["a.bin"]
    assert store.size("a.bin") == 100_000


RACE = """
import sys
from medloom.schemas.store import Store
print("ready", flush=True)
sys.stdin.readline()
sys.exit(not Store(sys.argv[1]).create("manifests/0001.json", sys.argv[2].encode() * 1000))
"""


def test_of_writers_who_create_one_file_exactly_one_wins(store):
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, store.url, str(i)], stdin=PIPE, stdout=PIPE, text=True)
        for i in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
    lost = [racer.returncode for racer in racers]
    assert sorted(lost) == [0, 1, 1, 1]
    assert store.read("manifests/0001.json") == str(lost.index(0)).encode() * 1000
    assert os.listdir(store.local("manifests")) == ["0001.json"]


def test_threads_that_write_one_file_leave_one_of_theirs_whole(store):
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda i: store.write("x", str(i).encode() * 50_000), range(32)):
            pass
        made = list(pool.map(lambda i: store.create("y", str(i).encode() * 50_000), range(32)))
    assert store.read("x") in [str(i).encode() * 50_000 for i in range(32)]
    assert made.count(True) == 1
    assert store.read("y") == str(made.index(True)).encode() * 50_000
    assert sorted(os.listdir(store.root)) == ["x", "y"]


def test_create_never_replaces(store, memory):
    for of in (store, memory):
        assert of.create("x.json", b"first")
        assert not of.create("x.json", b"second")
        assert of.read("x.json") == b"first"


def test_create_table_writes_what_write_table_writes(store):
    table = pa.table({"a": [1, 2]})
    assert store.create_table("one.parquet", table, {"k": "v"})
    assert not store.create_table("one.parquet", pa.table({"a": [3]}))
    store.write_table("two.parquet", table, {"k": "v"})
    assert store.read("one.parquet") == store.read("two.parquet")
    assert store.table_metadata("one.parquet") == {"k": "v"}
    assert store.read_table("one.parquet").to_pydict() == {"a": [1, 2]}


def test_equal_tables_give_equal_bytes(store):
    rows = pa.table({"a": list(range(200_000)), "b": ["x"] * 200_000})
    for name in ("a.parquet", "b.parquet"):
        store.write_table(name, rows)
    assert store.read("a.parquet") == store.read("b.parquet")
    store.write_table("chunked.parquet", pa.concat_tables([rows.slice(0, 70_000), rows.slice(70_000)]))
    assert store.read("chunked.parquet") == store.read("a.parquet")


def test_a_table_without_rows_has_its_columns_and_no_row_group(store):
    store.write_table("empty.parquet", pa.table({"a": pa.array([], pa.int32())}), {"k": "v"})
    assert pq.ParquetFile(store.path("empty.parquet")).metadata.num_row_groups == 0
    assert store.read_table("empty.parquet").schema.field("a").type == pa.int32()
    assert store.read_table("empty.parquet", among=("a", [1])).num_rows == 0
    assert store.table_metadata("empty.parquet") == {"k": "v"}


def test_listings_are_sorted_and_leave_partial_files_out(store, memory):
    for of in (store, memory):
        for name in ("b/2", "b/1", "a", "b/c/3"):
            of.write(name, b"x")
        assert (of.names(""), of.folders("")) == (["a"], ["b"])
        assert (of.names("b"), of.folders("b")) == (["1", "2"], ["c"])
        assert (of.names("nowhere"), of.folders("nowhere")) == ([], [])
    store.local("b/.partial-1-x").write_bytes(b"")
    assert store.names("b") == ["1", "2"]
    store.sweep("b")
    assert not store.local("b/.partial-1-x").exists()


def test_a_range_of_bytes_is_half_open(store, memory):
    for of in (store, memory):
        of.write("x", b"0123456789")
        assert of.read("x", 2, 5) == b"234"
        assert of.read("x") == b"0123456789"
        with pytest.raises(FileNotFoundError):
            of.read("y")


def test_deleting_what_is_not_there_is_fine(store, memory):
    for of in (store, memory):
        of.write("a/b", b"x")
        of.delete("a/c")
        of.delete_folder("c")
        of.delete_folder("a")
        assert not of.exists("a")


def test_rows_are_read_by_value_without_the_others(store):
    store.write_table("t.parquet", pa.table({"u": ["a", "b", "c"], "n": [1, 2, 3]}))
    assert store.read_table("t.parquet", among=("u", ["c", "a"])).to_pydict() == {"u": ["a", "c"], "n": [1, 3]}
    assert store.read_table("t.parquet", among=("u", [])).num_rows == 0


def test_a_file_where_a_folder_is_needed_is_an_error_of_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    inside = Store(str(tmp_path / "file"))
    assert inside.names("plan") == []
    for write in (lambda: inside.write("a", b""), lambda: inside.create("a", b""), lambda: inside.make_folder("")):
        with pytest.raises(SourceError, match="choose another folder"):
            write()


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(SourceError, match="choose a folder that you may write to"):
        Store(str(tmp_path)).write("a", b"")


def test_a_full_disk_is_worth_retrying():
    assert isinstance(mendable(OSError(errno.ENOSPC, "No space left on device"), "/x"), RetryLater)
    assert isinstance(mendable(OSError(errno.EROFS, "Read-only file system"), "/x"), SourceError)
    other = OSError(errno.EIO, "Input/output error")
    assert mendable(other, "/x") is other


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_writing_to_a_disk_that_is_full_says_so_and_leaves_nothing(store):
    store.write("seen", b"x")

    def write() -> None:
        with store.writing("big") as file:
            os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
            file.write(b"x" * 100_000)

    with pytest.raises(RetryLater, match=r"the disk is full.*free some space"):
        write()
    assert store.names("") == ["seen"]


def test_an_unknown_kind_of_url_is_told():
    with pytest.raises(SourceError, match="cannot open nosuch://x"):
        Store("nosuch://x")


def test_a_web_server_that_falls_silent_or_faults_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_SILENT_S", 0.3)
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with faulty_store(tmp_path) as served:
        store = Store(served.url)
        assert store.read("a") == b"123"
        assert [store.exists(name) for name in ("a", "empty", "folder", "none")] == [True, True, True, False]
        assert store.names("") == ["a", "empty"]
        served.meet("*", served.stalled)
        for ask in (lambda: store.read("a"), lambda: store.names(""), lambda: store.read_table("a")):
            with pytest.raises(RetryLater, match=r"cannot use http.*no answer in time"):
                ask()
        served.mend()
        served.meet("*", SLOW_DOWN)
        with pytest.raises(RetryLater, match="status 503"):
            store.read("a")
        with pytest.raises(RetryLater, match="status 503"):
            store.exists("a")
        served.mend()
        served.meet("*", slow(0.1))  # a second in all: slow, and never silent
        assert store.read("a") == b"123"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "..", "a/.."])
def test_a_name_that_leads_out_of_the_folder_is_never_written(tmp_path, name):
    (tmp_path / "out").write_bytes(b"mine")
    store = Store(str(tmp_path / "store"))
    for change in (lambda: store.write(name, b"x"), lambda: store.create(name, b"x"), lambda: store.delete(name),
                   lambda: store.delete_folder(name)):  # fmt: skip
        with pytest.raises(FormatError, match="would lie elsewhere"):
            change()
    store.write("a..b", b"x")
    assert (tmp_path / "out").read_bytes() == b"mine"
