"""A cache gives back what was read, whatever happens to its folder, and stays below its limit."""

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.services.faulty_store import faulty_store

from medloom.model import cache as caches
from medloom.model.byte_source import ByteSource, LocalSource, open_source
from medloom.model.cache import BLOCK, LEAST_BYTES, SLOT, BlockCache, CachedSource
from medloom.model.meter import Meter
from medloom.schemas.errors import ConfigError, RetryLater, WrongBytes
from medloom.schemas.store import Store

SIZE = 5 * SLOT // 2 + 1234
DATA = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()


class Asked(LocalSource):
    """A source that notes what was asked of it."""

    def __init__(self, store: Store):
        super().__init__(store)
        self.asked: list[tuple[str, int, int]] = []

    def read_many(self, requests):
        self.asked += requests
        return super().read_many(requests)


@pytest.fixture
def folder(tmp_path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.tar").write_bytes(DATA)
    return data


@pytest.fixture
def source(folder) -> Asked:
    return Asked(Store(str(folder)))


@pytest.fixture
def at(tmp_path) -> Path:
    return tmp_path / "cache"


def cached(source: ByteSource, at: Path, *, size_bytes: int = 64 << 20) -> CachedSource:
    return CachedSource(source, BlockCache(at, size_bytes=size_bytes), name="store")


def slots(at: Path) -> list[Path]:
    return sorted(at.glob("??/*"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 3 * BLOCK)), min_size=1, max_size=6))
def test_whatever_was_read_before_a_read_gives_the_bytes_of_the_store(tmp_path_factory, ranges):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.tar").write_bytes(DATA)
    source = Asked(Store(str(folder)))
    wanted = [("a.tar", start, min(start + length, SIZE)) for start, length in ranges]
    through = cached(source, folder / "cache")
    for _ in range(2):
        assert through.read_many(wanted) == [DATA[a:b] for _, a, b in wanted]
    missed = {block for _, a, b in source.asked for block in range(a // BLOCK, -(-b // BLOCK))}
    assert sum(-(-(b - a) // BLOCK) for _, a, b in source.asked) == len(missed)  # no block was asked for twice


def test_what_was_read_once_is_not_fetched_again_by_anyone(source, folder, at):
    first = cached(source, at)
    assert first.read("a.tar", 100, SIZE - 7) == DATA[100 : SIZE - 7]
    again = Asked(Store(str(folder)))
    other = cached(again, at)
    out = bytearray(SIZE)
    other.read_into("a.tar", 0, SIZE, memoryview(out))
    assert out == DATA
    assert again.asked == []
    assert other.cache.counts == {"hits": -(-SIZE // BLOCK), "misses": 0, "evicted": 0}


def test_a_miss_fetches_whole_blocks_and_no_more(source, at):
    through = cached(source, at)
    through.read("a.tar", 5 * BLOCK + 10, 6 * BLOCK + 10)
    through.read("a.tar", 3 * BLOCK, 9 * BLOCK)
    through.read("a.tar", SIZE - 1, SIZE)
    assert source.asked == [
        ("a.tar", 5 * BLOCK, 7 * BLOCK),
        ("a.tar", 3 * BLOCK, 5 * BLOCK),
        ("a.tar", 7 * BLOCK, 9 * BLOCK),
        ("a.tar", SIZE // BLOCK * BLOCK, SIZE),
    ]


def test_reads_of_one_call_share_their_blocks(source, at):
    wanted = [("a.tar", 10, 20), ("a.tar", 15, BLOCK + 1), ("a.tar", 10, 20), ("a.tar", 5, 5)]
    assert cached(source, at).read_many(wanted) == [DATA[a:b] for _, a, b in wanted]
    assert source.asked == [("a.tar", 0, 2 * BLOCK)]


def test_what_is_wrong_is_told_as_the_source_tells_it(source, at):
    through = cached(source, at)
    good, short, backwards = through.read_many([("a.tar", 0, 9), ("a.tar", SIZE - 1, SIZE + 1), ("a.tar", 9, 8)])
    assert good == DATA[:9]
    assert isinstance(short, WrongBytes)
    assert isinstance(backwards, WrongBytes)
    with pytest.raises(WrongBytes):
        through.read("a.tar", 0, SIZE + 1)
    with pytest.raises(FileNotFoundError):
        through.read("b.tar", 0, 1)


DAMAGES: dict[str, Callable[[bytearray], object]] = {
    "a bit of a block": lambda data: data.__setitem__(4096 + 3 * BLOCK + 77, data[4096 + 3 * BLOCK + 77] ^ 4),
    "a bit of a checksum": lambda data: data.__setitem__(48 + 3 * 8 + 1, data[48 + 3 * 8 + 1] ^ 1),
    "a bit of a size": lambda data: data.__setitem__(48 + 3 * 8 + 5, data[48 + 3 * 8 + 5] ^ 1),
    "a bit of the magic": lambda data: data.__setitem__(3, data[3] ^ 1),
    "a bit of the digest": lambda data: data.__setitem__(20, data[20] ^ 128),
    "the end": lambda data: data.__delitem__(slice(4096 + 3 * BLOCK + 5, None)),
    "all but the head": lambda data: data.__delitem__(slice(4096, None)),
    "the table": lambda data: data.__delitem__(slice(50, None)),
    "everything": lambda data: data.clear(),
    "what a crash left: zeros": lambda data: data.__setitem__(slice(4096, 4096 + 9 * BLOCK), bytes(9 * BLOCK)),
    "two blocks changed places": lambda data: data.__setitem__(
        slice(48 + 8, 48 + 24), data[48 + 16 : 48 + 24] + data[48 + 8 : 48 + 16]
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_cache_gives_right_bytes_and_heals(source, at, what):
    through = cached(source, at)
    through.read("a.tar", 0, SIZE)
    for path in slots(at):
        data = bytearray(path.read_bytes())
        DAMAGES[what](data)
        path.write_bytes(data)
    source.asked.clear()
    assert through.read("a.tar", 0, SIZE) == DATA
    assert source.asked
    source.asked.clear()
    assert through.read("a.tar", 0, SIZE) == DATA
    assert source.asked == []


def test_any_bit_flipped_anywhere_in_a_slot_changes_no_byte_that_is_read(source, at):
    through = cached(source, at)
    through.read("a.tar", 0, 2 * BLOCK)
    (slot,) = slots(at)
    whole, random = slot.read_bytes(), np.random.default_rng(5)
    at_bits = [*random.integers(0, 48 * 8 + 3 * 64, 100), *random.integers(0, len(whole) * 8, 100)]
    for bit in map(int, at_bits):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        slot.write_bytes(data)
        assert through.read("a.tar", 0, 2 * BLOCK) == DATA[: 2 * BLOCK]


def test_slots_that_changed_names_are_not_taken_for_each_other(source, at):
    through = cached(source, at)
    through.read("a.tar", 0, 2 * SLOT)
    one, other = slots(at)
    held = one.read_bytes()
    os.replace(other, one)
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(held)
    assert through.read("a.tar", 0, 2 * SLOT) == DATA[: 2 * SLOT]


def test_blocks_under_another_slots_head_or_in_anothers_place_are_not_taken_for_it(source, at):
    through = cached(source, at)
    through.read("a.tar", 0, 2 * SLOT)
    one, other = slots(at)
    data, others = bytearray(one.read_bytes()), other.read_bytes()
    other.write_bytes(others[:48] + data[48:])
    for at_one, size in ((48, 8), (4096, BLOCK)):  # of the table, and of the blocks
        data[at_one : at_one + 2 * size] = data[at_one + size : at_one + 2 * size] + data[at_one : at_one + size]
    one.write_bytes(data)
    assert through.read("a.tar", 0, 2 * SLOT) == DATA[: 2 * SLOT]


def test_a_damaged_block_is_dropped_even_when_nothing_more_can_be_kept(source, at, caplog):
    through = cached(source, at)
    through.read("a.tar", 0, BLOCK)
    (slot,) = slots(at)
    slot.write_bytes(slot.read_bytes()[:-1] + b"x")
    with BlockCache(at, size_bytes=LEAST_BYTES)._file_lock, pytest.MonkeyPatch.context() as patch:
        patch.setattr(caches, "_LOCK_S", 0.1)
        patch.setattr(caches, "_told", {at})
        for _ in range(3):
            assert through.read("a.tar", 0, BLOCK) == DATA[:BLOCK]
    assert len(caplog.records) == 1


def test_a_replaced_file_is_never_answered_from_what_was_kept_of_the_old_one(source, folder, at):
    cached(source, at).read("a.tar", 0, SIZE)
    (folder / "new").write_bytes(DATA[::-1])
    os.replace(folder / "new", folder / "a.tar")
    assert cached(Asked(Store(str(folder))), at).read("a.tar", 0, SIZE) == DATA[::-1]


def test_forgetting_a_range_fetches_it_anew(source, folder, at):
    through = cached(source, at)
    through.read("a.tar", 0, SIZE)
    source.asked.clear()
    through.forget("a.tar", 2 * BLOCK + 5, 2 * BLOCK + 6)
    through.forget("a.tar", 90 * BLOCK, 92 * BLOCK)
    assert through.read("a.tar", 0, SIZE) == DATA
    assert source.asked == [("a.tar", 2 * BLOCK, 3 * BLOCK), ("a.tar", 90 * BLOCK, 92 * BLOCK)]
    (folder / "new").write_bytes(DATA[::-1])
    os.replace(folder / "new", folder / "a.tar")
    through.forget("a.tar", 0, 1)
    assert through.read("a.tar", 0, SIZE) == DATA[::-1]
    through.forget("a.tar", 0, SIZE + 1)
    through.forget("b.tar", 0, 1)


def test_the_least_lately_used_go_first_and_the_limit_holds(folder, at):
    for n in range(12):
        (folder / f"{n}.tar").write_bytes(bytes([n]) * SLOT)
    source = Asked(Store(str(folder)))
    through = cached(source, at, size_bytes=LEAST_BYTES)
    for n in range(12):
        through.read(f"{n}.tar", 0, SLOT)
        through.read("0.tar", 0, 1)  # used all the time
        assert through.cache.used_bytes() <= LEAST_BYTES
    assert through.cache.counts["evicted"] >= 4
    source.asked.clear()
    for n in (0, 11, 10):
        assert through.read(f"{n}.tar", 0, SLOT) == bytes([n]) * SLOT
    assert source.asked == []
    assert through.read("1.tar", 0, SLOT) == bytes([1]) * SLOT
    assert source.asked == [("1.tar", 0, SLOT)]


@pytest.mark.parametrize("said", [None, b"", b"nonsense", bytes(12), b"\xff" * 12])
def test_a_count_of_used_bytes_that_is_lost_or_wrong_is_made_anew(folder, at, said):
    (folder / "b.tar").write_bytes(bytes(10 * SLOT))
    through = cached(Asked(Store(str(folder))), at, size_bytes=LEAST_BYTES)
    for start in range(0, 10 * SLOT, SLOT):
        if said is None:
            (at / "used").unlink(missing_ok=True)
        else:
            (at / "used").write_bytes(said)
        through.read("b.tar", start, start + SLOT)
        assert through.cache.used_bytes() <= LEAST_BYTES


def test_a_smaller_limit_is_reached_with_the_next_block(source, at):
    cached(source, at, size_bytes=64 << 20).read("a.tar", 0, SIZE)
    for n in range(8):
        (source.store.local(f"{n}.tar")).write_bytes(bytes(SLOT))
        cached(source, at).read(f"{n}.tar", 0, SLOT)
    small = cached(source, at, size_bytes=LEAST_BYTES)
    (source.store.local("last.tar")).write_bytes(bytes(BLOCK))
    small.read("last.tar", 0, BLOCK)
    assert small.cache.used_bytes() <= LEAST_BYTES


def test_a_full_disk_is_said_once_and_reading_goes_on(source, at, caplog, monkeypatch):
    monkeypatch.setattr(caches, "_told", set())
    through = cached(source, at)
    through.read("a.tar", 0, 4 * BLOCK)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * BLOCK, hard))  # no file may grow beyond: a write fails, as when full
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert through.read("a.tar", 0, SIZE) == DATA
            assert cached(source, at).read("a.tar", 0, SIZE) == DATA
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "takes no more" in said
    assert through.cache.counts["hits"] >= 12  # what was kept before still answers


def test_a_disk_that_fills_in_the_middle_of_a_block_keeps_no_half(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        through = cached(source, disk / "cache", size_bytes=64 << 20)
        for _ in range(2):
            assert through.read("a.tar", 0, 20 * BLOCK) == DATA[: 20 * BLOCK]
            assert through.read("a.tar", SLOT, 2 * SLOT) == DATA[SLOT : 2 * SLOT]
            assert through.read("a.tar", 0, SIZE) == DATA
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_is_deleted_under_it_is_no_fault(source, at):
    import shutil

    through = cached(source, at)
    through.read("a.tar", 0, SIZE)
    shutil.rmtree(at)
    assert through.read("a.tar", 0, SIZE) == DATA
    assert through.read("a.tar", 0, SIZE) == DATA


@pytest.mark.parametrize("size_bytes", [0, -1, LEAST_BYTES - 1])
def test_a_cache_that_is_too_small_is_refused(at, size_bytes):
    with pytest.raises(ConfigError, match=f"cache_bytes={size_bytes}: a cache needs at least {LEAST_BYTES} bytes"):
        BlockCache(at, size_bytes=size_bytes)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="name another folder"):
        BlockCache(tmp_path / "file", size_bytes=LEAST_BYTES)


def test_a_lock_held_for_ever_stops_keeping_and_not_reading(source, at, monkeypatch):
    monkeypatch.setattr(caches, "_LOCK_S", 0.2)
    through, holder = cached(source, at), BlockCache(at, size_bytes=LEAST_BYTES)
    with holder._file_lock:
        assert through.read("a.tar", 0, SIZE) == DATA
        assert through.read("a.tar", 0, SIZE) == DATA
    assert slots(at) == []


def test_no_other_user_may_read_what_is_kept(source, at):
    cached(source, at).read("a.tar", 0, SIZE)
    assert {oct(path.stat().st_mode & 0o077) for path in [at, *at.rglob("*")]} == {"0o0"}


READER = """
import sys
import numpy as np
from medloom.model.byte_source import open_source
from medloom.schemas.store import Store

folder, at, seed, reads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
source = open_source(Store(folder), cache=at, cache_bytes={least})
random = np.random.default_rng(seed)
whole = open(folder + "/b.tar", "rb").read()
print("begun", flush=True)
for _ in range(reads):
    start = int(random.integers(0, len(whole)))
    end = min(len(whole), start + int(random.integers(1, 400_000)))
    if source.read("b.tar", start, end) != whole[start:end]:
        sys.exit("wrong bytes")
"""


def test_processes_that_share_a_cache_and_are_killed_leave_no_wrong_bytes(folder, at):
    (folder / "b.tar").write_bytes(np.random.default_rng(1).integers(0, 256, 14 * SLOT, np.uint8).tobytes())

    def start(seed: int, reads: int) -> subprocess.Popen:
        code = READER.format(least=LEAST_BYTES)
        command = [sys.executable, "-c", code, str(folder), str(at), str(seed), str(reads)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    mortal = [start(seed, 1 << 30) for seed in range(2)]
    lasting = start(7, 250)
    for process in mortal:
        assert process.stdout.readline() == "begun\n"
    _, fault = lasting.communicate(timeout=120)
    for process in mortal:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (lasting.returncode, fault) == (0, "")
    after = start(8, 60)
    _, fault = after.communicate(timeout=120)
    assert (after.returncode, fault) == (0, "")
    assert BlockCache(at, size_bytes=LEAST_BYTES).used_bytes() <= LEAST_BYTES


def test_threads_share_a_cache(folder, at):
    through, wrong = cached(LocalSource(Store(str(folder))), at, size_bytes=LEAST_BYTES), []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, SIZE - 70_000, 40).tolist():
            if through.read("a.tar", start, start + 70_000) != DATA[start : start + 70_000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_store_that_dies_is_told_and_what_is_kept_still_answers(folder, at):
    with faulty_store(folder) as served:
        through = open_source(Store(served.url), cache=str(at), cache_bytes=LEAST_BYTES, timeout_s=0.5, attempts=1)
        assert through.read("a.tar", 10, 5000) == DATA[10:5000]
        served.meet("*", served.stalled)
        assert through.read("a.tar", 10, 5000) == DATA[10:5000]
        with pytest.raises(RetryLater):
            through.read("a.tar", SLOT, SLOT + 1)


def test_a_meter_counts_hits_and_misses(folder, at):
    meter = Meter()
    through = open_source(Store(str(folder)), cache=str(at), cache_bytes=LEAST_BYTES, meter=meter)
    for _ in range(4):
        through.read("a.tar", 0, 2 * BLOCK)
    meter.step(1.0)
    assert meter.snapshot()["cache_hit_share"] == 0.75
    assert meter.snapshot()["bytes_per_s"] == 8 * BLOCK
