"""Ranges of files: whole and right, or an error that says what happened."""

import errno
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.model.sources import DATA, holds_all_ranges, remote
from tests.services.faulty_store import faulty_store
from tests.services.s3 import s3_server

from medloom.model import byte_source, remote_source
from medloom.model.byte_source import ByteSource, LocalSource, open_source
from medloom.model.meter import Meter
from medloom.schemas.errors import ConfigError, RetryLater, SourceError, WrongBytes
from medloom.schemas.store import Store


@pytest.fixture
def folder(tmp_path) -> Path:
    Path(tmp_path, "media").mkdir()
    Path(tmp_path, "media/a.tar").write_bytes(DATA)
    Path(tmp_path, "empty").write_bytes(b"")
    return tmp_path


@pytest.fixture
def served(folder):
    with faulty_store(folder) as store:
        yield store


def test_a_local_source_gives_the_bytes_of_every_range(folder):
    holds_all_ranges(open_source(Store(str(folder))))


def test_a_remote_source_gives_the_bytes_of_every_range(served):
    holds_all_ranges(remote(served))


def test_a_source_that_is_no_asynchronous_file_system_gives_the_bytes_of_every_range():
    store = Store("memory://ranges")
    store.write("media/a.tar", DATA)
    holds_all_ranges(open_source(store, timeout_s=20))


def test_an_s3_source_gives_the_bytes_of_every_range(monkeypatch):
    with s3_server(monkeypatch) as url:
        store = Store(f"{url}/set")
        store.write("media/a.tar", DATA)
        source = open_source(store, timeout_s=20)
        holds_all_ranges(source)
        with pytest.raises(WrongBytes, match="shorter than promised"):
            source.read("media/a.tar", 300_000, 300_001)
        with pytest.raises(FileNotFoundError):
            source.read("media/b.tar", 0, 1)
        assert source.identity("media/a.tar").size == len(DATA)
        assert source.identity("media/a.tar").tag


def test_a_large_range_is_read_in_pieces_at_once_and_put_together(served, monkeypatch):
    monkeypatch.setattr(remote_source, "PIECE", 1000)
    assert remote(served).read("media/a.tar", 17, 20_500) == DATA[17:20_500]
    asked = sorted(int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in served.asked)
    assert asked == list(range(17, 20_500, 1000))


def test_a_local_read_longer_than_one_call_is_put_together(folder, monkeypatch):
    monkeypatch.setattr(byte_source, "_CALL", 1000)
    holds_all_ranges(open_source(Store(str(folder))))


@pytest.mark.parametrize("where", ["local", "remote"])
def test_what_is_missing_or_short_is_told_apart(folder, served, where):
    source = open_source(Store(str(folder))) if where == "local" else remote(served, attempts=2)
    with pytest.raises(FileNotFoundError, match=r"no such .*media/b\.tar"):
        source.read("media/b.tar", 0, 1)
    with pytest.raises(FileNotFoundError):
        source.read_many([("media/a.tar", 0, 1), ("media/b.tar", 0, 1)])
    with pytest.raises(FileNotFoundError):
        source.identity("media/b.tar")
    found = source.read_many([("media/a.tar", 0, 9), ("media/a.tar", 299_990, 300_001), ("empty", 0, 4)])
    assert found[0] == DATA[:9]
    assert [type(fault) for fault in found[1:]] == [WrongBytes, WrongBytes]
    assert "bytes 299990 to 300001" in str(found[1])
    with pytest.raises(WrongBytes):
        source.read_into("media/a.tar", 299_990, 300_001, memoryview(bytearray(11)))
    assert source.identity("media/a.tar").size == len(DATA)


def test_a_range_of_any_promised_size_takes_no_memory(folder):
    with pytest.raises(WrongBytes, match="it has 300000"):
        open_source(Store(str(folder))).read("media/a.tar", 0, 1 << 60)


def test_a_file_cut_while_it_is_read_is_told(folder, monkeypatch):
    source = open_source(Store(str(folder)))
    pread = os.pread

    def cut(fd: int, size: int, at: int) -> bytes:
        os.truncate(folder / "media/a.tar", 1000)
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", cut)
    with pytest.raises(WrongBytes, match="cut while being read, 1000 are missing"):
        source.read("media/a.tar", 0, 2000)


def test_what_is_no_file_is_refused_without_waiting_for_it(folder):
    os.mkfifo(folder / "media/pipe.tar")
    source = open_source(Store(str(folder)))
    for path in ("media/pipe.tar", "media"):
        with pytest.raises(SourceError, match="it is not a file"):
            source.read(path, 0, 1)


def test_a_disk_that_fails_is_wrong_bytes_and_the_file_is_opened_anew(folder, monkeypatch):
    source, pread, failed = open_source(Store(str(folder))), os.pread, []

    def failing(fd: int, size: int, at: int) -> bytes:
        failed.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(WrongBytes, match="Input/output error"):
        source.read("media/a.tar", 0, 9)
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(failed[0])
    assert source.read("media/a.tar", 0, 9) == DATA[:9]


def test_a_limit_of_the_machine_is_no_fault_of_the_bytes(folder, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(RetryLater, match="Too many open files"):
        LocalSource(Store(str(folder))).read("media/a.tar", 0, 1)


def test_descriptors_are_kept_up_to_a_limit_and_closed(folder, monkeypatch):
    monkeypatch.setattr(byte_source, "_KEPT", 3)
    source = LocalSource(Store(str(folder)))
    for n in range(10):
        (folder / f"{n}.tar").write_bytes(bytes([n]) * 10)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for n in range(10):
            assert source.read(f"{n}.tar", 0, 10) == bytes([n]) * 10
    assert len(os.listdir("/proc/self/fd")) == before + 3
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert source.read("3.tar", 0, 2) == b"\3\3"


def test_a_file_in_use_stays_open(folder, monkeypatch):
    monkeypatch.setattr(byte_source, "_KEPT", 3)
    source, opened = LocalSource(Store(str(folder))), []
    for n in range(10):
        (folder / f"{n}.tar").write_bytes(bytes(10))
    open_ = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path) or open_(path, flags))
    for n in range(10):
        source.read("media/a.tar", 0, 10)
        for _ in range(2):
            source.read(f"{n}.tar", 0, 10)
    assert len(opened) == 11


def test_threads_that_push_out_each_others_files_never_read_another(folder, monkeypatch):
    monkeypatch.setattr(byte_source, "_KEPT", 1)
    source = LocalSource(Store(str(folder)))
    for n in range(8):
        (folder / f"{n}.tar").write_bytes(bytes([n]) * 5000)
    wrong = []

    def read(seed: int) -> None:
        for n in np.random.default_rng(seed).integers(0, 8, 300).tolist():
            if source.read(f"{n}.tar", 0, 5000) != bytes([n]) * 5000:
                wrong.append(n)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_replaced_or_deleted_is_read_as_it_was_until_it_is_forgotten(folder):
    source = open_source(Store(str(folder)))
    assert source.read("media/a.tar", 0, 9) == DATA[:9]
    was = source.identity("media/a.tar")
    (folder / "new").write_bytes(b"another file")
    os.replace(folder / "new", folder / "media/a.tar")
    assert source.read("media/a.tar", 0, 9) == DATA[:9]
    source.forget("media/a.tar", 0, 9)
    assert source.read("media/a.tar", 0, 7) == b"another"
    assert source.identity("media/a.tar") != was
    (folder / "media/a.tar").unlink()
    source.forget("media/a.tar", 0, 9)
    with pytest.raises(FileNotFoundError):
        source.read("media/a.tar", 0, 7)


def first_bytes(source: ByteSource, answer) -> None:
    answer.put(source.read("media/a.tar", 100, 200))


@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("way", ["fork", "pickle"])
def test_a_source_works_in_a_process_that_was_forked_or_got_it(folder, served, where, way):
    source = open_source(Store(str(folder))) if where == "local" else remote(served)
    assert source.read("media/a.tar", 0, 9) == DATA[:9]
    if way == "pickle":
        assert pickle.loads(pickle.dumps(source)).read("media/a.tar", 100, 200) == DATA[100:200]
        return
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=first_bytes, args=(source, answer))
    child.start()
    assert answer.get() == DATA[100:200]
    child.join()


def test_limits_that_make_no_sense_are_refused(folder):
    for wrong in ({"timeout_s": 0}, {"attempts": 0}):
        with pytest.raises(ConfigError, match="must be positive"):
            open_source(Store(str(folder)), **wrong)


def test_a_meter_counts_what_came(folder, served):
    for source in (
        lambda meter: open_source(Store(str(folder)), meter=meter),
        lambda meter: remote(served, meter=meter),
    ):
        meter = Meter()
        opened = source(meter)
        opened.read("media/a.tar", 0, 1000)
        opened.read_into("media/a.tar", 0, 500, memoryview(bytearray(500)))
        opened.read_many([("media/a.tar", 0, 7)])
        meter.step(1.0)
        assert meter.snapshot()["bytes_per_s"] == 1507


def test_a_file_that_is_another_when_it_is_opened_again_is_wrong_bytes(folder, monkeypatch):
    monkeypatch.setattr(byte_source, "_KEPT", 1)
    source, path = LocalSource(Store(str(folder))), folder / "media/a.tar"
    source.read("media/a.tar", 0, 10)
    Path(folder, "other").write_bytes(bytes(len(DATA)))
    os.utime(folder / "other", ns=(0, path.stat().st_mtime_ns))
    os.replace(folder / "other", path)
    assert source.read("media/a.tar", 0, 10) == DATA[:10]  # it is still open
    source.read("empty", 0, 0)
    for _ in range(2):
        with pytest.raises(WrongBytes, match="was replaced or changed"):
            source.read("media/a.tar", 0, 10)
    assert source.identity("media/a.tar").tag.startswith(f"{path.stat().st_ino}-")
    with pytest.raises(WrongBytes, match="was replaced or changed"):
        source.read_into("media/a.tar", 0, 10, memoryview(bytearray(10)))
    source.forget("media/a.tar", 0, 10)
    assert source.read("media/a.tar", 0, 10) == bytes(10)
