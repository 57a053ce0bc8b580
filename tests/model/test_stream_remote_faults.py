"""A whole stream over a store that misbehaves: right batches, or a stop in time that says why, and never a hang."""

import logging
import os
import resource
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from tests.model.streams import fingerprint, flip, keys, truth
from tests.services.faulty_store import FaultyStore, faulty_store
from tests.services.loopback import RESET, SLOW_DOWN, Reply, reset_halfway, too_many, truncated

from medloom.model import cache as caches
from medloom.model.cache import LEAST_BYTES
from medloom.model.stream import ShardStream
from medloom.schemas import store as stores
from medloom.schemas.errors import FormatError, RetryLater

SETTINGS = {"seed": 3, "global_batch": 4}
STEPS = 8
PASSING = {
    "500": Reply(500, b"oh"), "503": SLOW_DOWN, "429": too_many("0"), "reset": RESET, "reset halfway": reset_halfway,
    "cut": truncated,
}  # fmt: skip


@pytest.fixture
def served(small_build):
    with faulty_store(small_build) as store:
        yield store


@pytest.fixture
def whole(small_build) -> list[tuple[str, ...]]:
    """What an unbroken stream of the same data gives."""
    return keys(ShardStream(small_build, **SETTINGS), STEPS)


def stream_of(served: FaultyStore, *, timeout_s: float = 20.0, **more) -> ShardStream:
    return ShardStream(served.url, timeout_s=timeout_s, **SETTINGS, **more)


def checked(stream: ShardStream, true: dict[str, str], steps: int = STEPS) -> list[tuple[str, ...]]:
    """Example ids of the next batches, each held against what was stored."""
    found: list[tuple[str, ...]] = []
    while len(found) < steps:
        for batch in islice(stream, steps - len(found)):
            for streamed in batch.examples:
                assert fingerprint(streamed) == true[streamed.example.example_id]
            found.append(batch.keys)
    return found


def scrambled(reply: Reply) -> Reply:
    """Change every hundredth byte of an answer."""
    body = bytearray(reply.body)
    body[::100] = bytes(byte ^ 255 for byte in body[::100])
    return replace(reply, body=bytes(body))


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("workers", [0, 2])
def test_faults_that_pass_change_no_batch(served, small_build, whole, name, workers):
    stream = stream_of(served, workers=workers)
    for path in ("media/*", "examples/*", "releases/0001/index/*.arrow"):
        served.meet(path, PASSING[name], times=2)
    assert checked(stream, truth(small_build)) == whole
    assert stream.quarantined == []


def test_bytes_damaged_on_their_way_once_are_read_again(served, small_build, whole):
    stream = stream_of(served)
    for path in ("media/*", "examples/*", "releases/0001/index/*.arrow"):
        served.meet(path, scrambled, times=1)
    assert checked(stream, truth(small_build)) == whole
    assert stream.quarantined == []


def test_a_store_that_damages_a_tar_for_good_gives_substitutes_and_no_wrong_byte(served, small_build, whole):
    true = truth(small_build)
    stream = stream_of(served)
    served.meet("media/train-jpg-*", scrambled)
    found = checked(stream, true)
    assert stream.quarantined
    assert all("crc32c" in row["reason"] for row in stream.quarantined)
    spoilt = {row["example_id"] for row in stream.quarantined}
    for old, new in zip(whole, found, strict=True):
        assert [a == b for a, b in zip(old, new, strict=True)] == [a not in spoilt for a in old]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["stalled", "silent_midway"])
def test_a_store_that_stalls_stops_the_stream_in_time_and_it_goes_on_from_there(
    served, small_build, whole, how, workers
):
    true = truth(small_build)
    stream = stream_of(served, timeout_s=0.6, workers=workers, prefetch=2)
    found = checked(stream, true, 2)
    served.meet("*", getattr(served, how))
    with pytest.raises(RetryLater, match=r"cannot read http://.*: no answer .*within 0\.6 s"):
        checked_on(stream, true, found)
    state = stream.state_dict()
    assert state["step"] == len(found) if "step" in state else state["t"] == 4 * len(found)
    served.mend()
    resumed = stream_of(served)
    resumed.load_state_dict(state)
    assert found + checked(resumed, true, STEPS - len(found)) == whole


def checked_on(stream: ShardStream, true: dict[str, str], found: list[tuple[str, ...]]) -> None:
    """Go on for ever, appending to `found`."""
    while True:
        found += checked(stream, true, 1)


@pytest.mark.parametrize("fault", [Reply(500, b"oh"), SLOW_DOWN, too_many("0"), RESET, truncated])
def test_a_store_that_only_faults_stops_the_stream_and_says_where_and_why(served, small_build, fault):
    stream = stream_of(served)
    served.meet("media/*", fault)
    with pytest.raises(RetryLater, match=r"media/train-\w+-000000\.tar, bytes \d+ to \d+: 3 attempts failed, the last"):
        checked(stream, truth(small_build))
    assert stream.next_step == 0
    assert stream.quarantined == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_deleted_from_a_store_during_a_run_is_named(served, small_build, workers):
    true = truth(small_build)
    stream = stream_of(served, workers=workers)
    found = checked(stream, true, 1)
    for tar in Path(small_build).glob("media/train-*.tar"):
        tar.unlink()
    with pytest.raises(FormatError, match=r"media/train-\w+-000000\.tar is not there; restore it"):
        checked_on(stream, true, found)


def test_an_object_that_became_shorter_is_substituted(served, small_build):
    true = truth(small_build)
    for tar in Path(small_build).glob("media/train-jpg-*.tar"):
        os.truncate(tar, 700)
    stream = stream_of(served)
    checked(stream, true)
    assert stream.quarantined
    assert all("shorter than promised" in row["reason"] for row in stream.quarantined)


def test_a_store_that_is_silent_when_a_stream_is_opened_is_told_and_no_older_release_is_taken(served, monkeypatch):
    monkeypatch.setattr(stores, "_SILENT_S", 0.4)
    for path, fault in (("*", served.stalled), ("*", SLOW_DOWN), ("releases/0001/*", SLOW_DOWN)):
        served.meet(path, fault)
        with pytest.raises(RetryLater, match="cannot use http://"):
            stream_of(served)
        served.mend()


def test_an_index_that_became_shorter_is_named(served, small_build):
    true, stream = truth(small_build), stream_of(served)
    for index in Path(small_build).glob("releases/0001/index/train-*.arrow"):
        os.truncate(index, 700)
    with pytest.raises(FormatError, match=r"index/train-[\w-]+\.arrow: record batch 0 .* fails its crc32c"):
        checked(stream, true)


def test_a_stalled_store_holds_up_no_exit(served, small_build):
    """A process whose reads hang, on threads, ends when it is done with the stream."""
    code = (
        "import sys; from medloom.model.stream import ShardStream; from medloom.schemas.errors import RetryLater\n"
        "stream = ShardStream(sys.argv[1], seed=3, global_batch=4, workers=2, timeout_s=1.0)\n"
        "batches = iter(stream); print(next(batches).step, flush=True); sys.stdin.readline()\n"
        "try:\n    print(sum(1 for batch in batches))\nexcept RetryLater as fault:\n    print(fault)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, served.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "0\n"
    served.meet("*", served.stalled)
    said, _ = run.communicate("\n", timeout=60)
    assert run.returncode == 0
    assert "no answer" in said or said == "5\n"  # it may have read all there is before the store stood still


def test_a_cache_changes_no_batch_and_spares_the_store(served, small_build, whole, tmp_path):
    true, cache = truth(small_build), {"cache": str(tmp_path / "cache"), "cache_bytes": LEAST_BYTES}
    assert checked(stream_of(served, **cache), true) == whole
    served.asked.clear()
    assert checked(stream_of(served, **cache, workers=2), true) == whole
    assert [path for path, _ in served.asked if path.endswith(".tar")] == []


def test_a_disk_may_have_a_cache_before_it_too(small_build, whole, tmp_path):
    true = truth(small_build)
    for _ in range(2):
        stream = ShardStream(small_build, cache=str(tmp_path / "cache"), cache_bytes=LEAST_BYTES, **SETTINGS)
        assert checked(stream, true) == whole
    assert list(Path(tmp_path, "cache").glob("??/*"))


def test_a_damaged_cache_changes_no_batch(served, small_build, whole, tmp_path):
    true, cache = truth(small_build), {"cache": str(tmp_path / "cache"), "cache_bytes": LEAST_BYTES}
    checked(stream_of(served, **cache), true)
    for n, slot in enumerate(sorted(Path(tmp_path, "cache").glob("??/*"))):
        for k in range(40):
            flip(slot, (n * 7919 + k * 104_729) % (slot.stat().st_size * 8))
    stream = stream_of(served, **cache)
    assert checked(stream, true) == whole
    assert stream.quarantined == []


def test_bytes_damaged_before_they_were_cached_are_fetched_again(served, small_build, whole, tmp_path):
    true, cache = truth(small_build), {"cache": str(tmp_path / "cache"), "cache_bytes": LEAST_BYTES}
    stream = stream_of(served, **cache)
    for path in ("media/*", "examples/*", "releases/0001/index/*.arrow"):
        served.meet(path, scrambled, times=1)
    assert checked(stream, true) == whole
    again = stream_of(served, **cache)
    assert checked(again, true) == whole
    assert stream.quarantined == again.quarantined == []


def test_a_full_cache_disk_is_said_once_and_changes_no_batch(served, small_build, whole, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(caches, "_told", set())
    stream = stream_of(served, cache=str(tmp_path / "cache"), cache_bytes=LEAST_BYTES, workers=2)
    true, limits = truth(small_build), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file may grow beyond: as on a full disk
    try:
        with caplog.at_level(logging.WARNING, logger=caches.__name__):
            assert checked(stream, true) == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ["takes no more" in record.getMessage() for record in caplog.records] == [True]


def test_streams_share_a_cache_while_it_evicts(served, small_build, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "LEAST_BYTES", 0)
    true, wrong = truth(small_build), []

    def run() -> None:
        stream = stream_of(served, cache=str(tmp_path / "cache"), cache_bytes=100_000)
        if checked(stream, true) != whole or stream.quarantined:
            wrong.append(stream)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
def test_worker_processes_tell_of_a_stalled_store(served):
    stream = stream_of(served, timeout_s=0.6, workers=1, processes=True)
    served.meet("media/*", served.stalled)
    with pytest.raises(RetryLater, match="no answer"):
        next(iter(stream))
