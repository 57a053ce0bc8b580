"""Faults of a remote store: met by another attempt, or told in time for what they are, and never waited for long."""

import asyncio
import os
import threading
import time
from pathlib import Path

import fsspec.asyn
import pytest
from tests.model.sources import DATA, remote
from tests.services.faulty_store import faulty_store
from tests.services.loopback import RESET, SLOW_DOWN, Reply, reset_halfway, s3_error, too_many, truncated

from medloom.model import remote_source
from medloom.model.byte_source import open_source
from medloom.model.meter import Meter
from medloom.schemas.errors import RetryLater, SourceError, WrongBytes
from medloom.schemas.store import Store


@pytest.fixture
def served(tmp_path):
    Path(tmp_path, "media").mkdir()
    Path(tmp_path, "media/a.tar").write_bytes(DATA)
    with faulty_store(tmp_path) as store:
        yield store


FAULTS = {
    "500": Reply(500, b"oh"), "503": SLOW_DOWN, "429": too_many("0"), "reset": RESET, "reset halfway": reset_halfway,
    "cut": truncated,
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_passing_fault_is_met_by_another_attempt(served, name):
    served.meet("media/*", FAULTS[name], times=2)
    meter = Meter()
    assert remote(served, meter=meter).read("media/a.tar", 10, 5000) == DATA[10:5000]
    assert len(served.asked) == 3
    meter.step(1.0)
    assert meter.snapshot()["retries"] == (1 if name == "reset" else 2)  # aiohttp itself asks again after a reset


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_is_told_and_stops(served, name):
    served.meet("media/*", FAULTS[name])
    with pytest.raises(RetryLater, match=r"cannot read http://127.*media/a\.tar, bytes 10 to 5000: 2 attempts failed"):
        remote(served, attempts=2).read("media/a.tar", 10, 5000)
    assert len(served.asked) == (4 if name == "reset" else 2)


@pytest.mark.parametrize("status", [400, 401, 403, 410])
def test_a_fault_that_cannot_pass_is_not_tried_again(served, status):
    served.meet("media/*", Reply(status, b"no"))
    with pytest.raises(SourceError, match=f"status {status}"):
        remote(served).read("media/a.tar", 10, 5000)
    assert len(served.asked) == 1


@pytest.mark.parametrize("fault", [SLOW_DOWN, RESET])
def test_a_fault_is_not_taken_for_a_missing_file(served, fault):
    served.heads_too = True
    source = remote(served, attempts=2)
    served.meet("media/*", fault, times=2)
    assert source.identity("media/a.tar").size == len(DATA)
    served.meet("media/*", fault)
    with pytest.raises(RetryLater, match="2 attempts failed"):
        source.identity("media/a.tar")


@pytest.fixture
def s3_faults(served, monkeypatch):
    """The faulty store as S3's client sees it: the same folder as a bucket."""
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
    s3fs.S3FileSystem.clear_instance_cache()
    yield Store("s3://media")
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3s_client_meets_the_same_faults_alike(served, s3_faults):
    source = open_source(s3_faults, timeout_s=0.6, attempts=2)
    assert open_source(s3_faults, timeout_s=30.0).read("a.tar", 10, 5000) == DATA[10:5000]
    for fault in (SLOW_DOWN, Reply(500, b"oh"), served.stalled, served.silent_midway, truncated, RESET):
        served.meet("media/*", fault)
        with pytest.raises(RetryLater, match=r"cannot read s3://media/a\.tar, bytes 10 to 5000"):
            source.read("a.tar", 10, 5000)
        served.mend()
    for status, code in ((403, "AccessDenied"), (401, "InvalidAccessKeyId")):
        served.meet("media/*", s3_error(status, code))
        with pytest.raises(SourceError, match=r"a\.tar, bytes 10 to 5000.*credentials"):
            source.read("a.tar", 10, 5000)
        served.mend()
    with pytest.raises(WrongBytes, match="shorter than promised"):
        source.read("a.tar", 300_000, 300_010)
    with pytest.raises(FileNotFoundError):
        source.read("b.tar", 0, 10)


def test_s3_without_credentials_is_told_at_once(served, s3_faults, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    type(s3_faults.fs).clear_instance_cache()
    with pytest.raises(SourceError, match="credentials"):
        open_source(Store("s3://media"), timeout_s=20.0).read("a.tar", 0, 10)


@pytest.mark.parametrize("how", ["stalled", "silent_midway"])
def test_a_store_that_stalls_is_given_up_in_time_and_again_at_once(served, how):
    served.meet("media/*", getattr(served, how))
    source = remote(served, timeout_s=0.4, attempts=2)
    began = time.monotonic()
    with pytest.raises(RetryLater, match=r"no answer within 0\.4 s"):
        source.read_many([("media/a.tar", n, n + 10) for n in range(50)])
    assert time.monotonic() - began < 30
    served.mend()
    assert source.read("media/a.tar", 0, 9) == DATA[:9]


def test_a_stall_of_one_attempt_is_met_by_the_next(served):
    served.meet("media/*", served.stalled, times=1)
    assert remote(served, timeout_s=4.0, attempts=4).read("media/a.tar", 0, 9) == DATA[:9]


def test_requests_that_wait_behind_stalled_ones_are_given_up_with_them(served, monkeypatch):
    monkeypatch.setattr(remote_source, "CONNECTIONS", 1)
    served.meet("media/*", served.stalled)
    source, faults = remote(served, timeout_s=1.5, attempts=1), []

    def read() -> None:
        with pytest.raises(RetryLater) as caught:
            source.read("media/a.tar", 0, 9)
        faults.append(str(caught.value))

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(faults) == 12
    assert len(served.asked) == 1  # else another would have stalled for itself


def test_a_slow_store_is_waited_for_as_long_as_it_answers(served, monkeypatch):
    monkeypatch.setattr(remote_source, "CONNECTIONS", 1)

    def late(reply: Reply) -> Reply:
        time.sleep(0.1)
        return reply

    served.meet("media/*", late)
    source = remote(served, timeout_s=0.6, attempts=1)
    wanted = [("media/a.tar", n, n + 10) for n in range(15)]  # 1.5 s in all
    assert source.read_many(wanted) == [DATA[n : n + 10] for n in range(15)]


def test_a_file_system_that_blocks_its_thread_is_given_up_too(monkeypatch):
    store, stop = Store("memory://stall"), threading.Event()
    store.write("a.tar", DATA)
    monkeypatch.setattr(store.fs, "cat_file", lambda *_, **__: stop.wait() and b"")
    source = open_source(store, timeout_s=0.3, attempts=1)
    with pytest.raises(RetryLater, match="no answer within"):
        source.read("a.tar", 0, 9)
    stop.set()


def test_a_size_that_no_object_has_is_refused_before_it_is_cut_into_requests(monkeypatch):
    store, asked = Store("memory://enormous"), []
    store.write("a.tar", DATA)
    give = store.fs.cat_file
    monkeypatch.setattr(store.fs, "cat_file", lambda *args, **more: asked.append(more) or give(*args, **more))
    with pytest.raises(WrongBytes, match="shorter than promised"):
        open_source(store, timeout_s=5, attempts=1).read("a.tar", 0, 2 << 30)
    assert len(asked) == 1  # not one for each 8 MiB
    with pytest.raises(WrongBytes, match="shorter than promised"):
        open_source(store, timeout_s=5, attempts=1).read("a.tar", 0, 1 << 52)  # half a billion of them


def test_a_file_system_that_is_not_asynchronous_is_asked_one_thing_at_a_time(monkeypatch):
    store, lock = Store("memory://single"), threading.Lock()
    store.write("a.tar", DATA)
    give = store.fs.cat_file

    def alone(*args: object, **more: object) -> bytes:
        assert lock.acquire(blocking=False)
        time.sleep(0.005)
        lock.release()
        return give(*args, **more)

    monkeypatch.setattr(store.fs, "cat_file", alone)
    assert open_source(store).read_many([("a.tar", n, n + 1) for n in range(9)]) == [DATA[n : n + 1] for n in range(9)]


def test_requests_that_no_longer_matter_are_not_sent(served, monkeypatch):
    monkeypatch.setattr(remote_source, "CONNECTIONS", 1)
    source = remote(served)
    with pytest.raises(FileNotFoundError):
        source.read_many([("media/b.tar", n, n + 1) for n in range(50)])
    assert source.read("media/a.tar", 0, 1) == DATA[:1]
    assert len(served.asked) < 10


def test_a_loop_that_stands_still_is_given_up_too(served):
    source = remote(served, timeout_s=0.2, attempts=1)
    assert source.read("media/a.tar", 0, 9) == DATA[:9]
    stop = threading.Event()

    async def block() -> None:
        stop.wait()

    blocked = asyncio.run_coroutine_threadsafe(block(), fsspec.asyn.get_loop())
    try:
        with pytest.raises(RetryLater, match="event loop stands still"):
            source.read("media/a.tar", 0, 9)
    finally:
        stop.set()
        blocked.result()


def test_a_server_without_ranges_is_refused(served):
    served.serves_ranges = False
    with pytest.raises(SourceError, match="does not serve ranges"):
        remote(served).read("media/a.tar", 10, 5000)


def test_a_bug_is_not_taken_for_a_fault_of_the_store(monkeypatch):
    store = Store("memory://bug")
    store.write("a.tar", DATA)
    calls = []

    def broken(*_: object, **__: object) -> bytes:
        calls.append(1)
        raise KeyError("ours")

    monkeypatch.setattr(store.fs, "cat_file", broken)
    with pytest.raises(KeyError):
        open_source(store).read("a.tar", 0, 9)
    assert len(calls) == 1
