"""Packs are full, none is too full or empty, and every draw is in exactly one."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.model.lanes import Lane, Queue
from medloom.model.order import Shuffled, Turns
from medloom.model.packing import PackedLane, Windows, check_lengths, pack, read_lengths, split_packs
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release
from medloom.schemas.store import Store
from medloom.schemas.tables import TOKENS
from medloom.schemas.token_counts import tokens_part

LENGTHS = st.integers(1, 60).flatmap(
    lambda budget: st.tuples(st.just(budget), st.lists(st.integers(0, budget), min_size=1, max_size=70))
)


def best_fit_decreasing(lengths: list[int], budget: int) -> list[list[int]]:
    """The rule itself, item by item: the contents of each pack."""
    packs: list[list[int]] = []
    for length in sorted((max(length, 1) for length in lengths), reverse=True):
        fitting = [p for p in packs if sum(p) + length <= budget]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            packs.append([length])
    return packs


@given(case=LENGTHS)
@settings(max_examples=200, deadline=None)
def test_packs_are_those_of_best_fit_decreasing(case):
    budget, lengths = case
    packs = pack(np.array(lengths), budget=budget)
    assert sorted(set(packs.tolist())) == list(range(packs.max() + 1))
    loads = np.bincount(packs, weights=np.maximum(lengths, 1)).astype(int).tolist()
    assert sorted(loads) == sorted(sum(p) for p in best_fit_decreasing(lengths, budget))  # ties may be broken otherwise
    assert max(loads) <= budget


@given(lengths=st.lists(st.integers(1, 10), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_packs_are_nearly_as_few_as_can_be(lengths):
    """Against every way to put so few items into packs."""
    fewest = next(
        n for n in range(1, len(lengths) + 1)
        if any(max(np.bincount(way, weights=lengths)) <= 10 for way in itertools.product(range(n), repeat=len(lengths)))
    )  # fmt: skip
    assert pack(np.array(lengths), budget=10).max() + 1 <= fewest * 11 / 9 + 1


def test_realistic_lengths_fill_packs_to_99_percent():
    rng = np.random.default_rng(0)
    for lengths in (rng.lognormal(5.6, 0.9, 65_536).clip(8, 8000), rng.uniform(1, 8192, 65_536)):
        whole = lengths.astype(np.int64)
        assert whole.sum() / (8192 * (pack(whole, budget=8192).max() + 1)) > 0.99


@given(case=LENGTHS, more=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_packs_are_split_until_there_are_as_many_as_wanted(case, more):
    budget, lengths = case
    packs, lengths = pack(np.array(lengths), budget=budget), np.array(lengths)
    wanted = packs.max() + 1 + more
    split = split_packs(packs, lengths, wanted=wanted)
    assert len(set(split.tolist())) == min(wanted, len(lengths))
    assert split.max() < wanted
    for p in set(split.tolist()):
        assert len(set(packs[split == p].tolist())) == 1  # a part of one pack


@given(head=st.integers(0, 300), cycle=st.integers(1, 300), size=st.integers(1, 120))
@settings(max_examples=200, deadline=None)
def test_windows_follow_each_other_and_keep_to_their_epochs(head, cycle, size):
    windows, at = Windows(head, cycle, size), 0
    ends = {head + k * cycle for k in range(4)}
    for window in range(40):
        start, end = windows.bounds(window)
        assert start == at < end
        assert end - start < 2 * size or end - start in (cycle, head)
        assert not any(start < epoch < end for epoch in ends)
        at = end


def packed_lane(
    lengths: np.ndarray, *, budget: int, packs: int, sources: int = 1, drawn: int = 0, left: tuple[int, ...] = ()
) -> PackedLane:
    rows, queues = np.arange(len(lengths), dtype=np.int32), {}
    for k in range(sources):
        mine = rows[k::sources]
        queues[str(k)] = Queue(mine, Shuffled(len(mine), 5 + k), drawn, np.array(left, np.int64))
    lane = Lane("x", queues, Turns((1,) * sources, 3))
    return PackedLane(lane, lengths.astype(np.int32), budget=budget, packs=packs, key=11)


CASES = st.tuples(
    st.integers(1, 9), st.integers(1, 700), st.integers(1, 3), st.sampled_from([12, 40, 300]), st.integers(0, 99)
)


@given(case=CASES)
@settings(max_examples=25, deadline=None)
def test_steps_hold_every_draw_once_in_packs_neither_too_full_nor_empty(case):
    packs, count, sources, budget, seed = case
    count = max(count, sources)
    lengths = np.random.default_rng(seed).integers(1, 1 + min(budget, [12, 60][seed % 2]), count)
    lane = packed_lane(lengths, budget=budget, packs=packs, sources=sources)
    drawn, at, step = [], 0, 0
    for window in range(3):
        start, end = lane.windows.bounds(window)
        expected = sorted(lane.lane.rows_at(start, end - start).tolist())
        while len(drawn) - at < len(expected):
            rows, pack_of = lane.step(step)
            assert pack_of.tolist() == sorted(pack_of.tolist())
            assert set(pack_of.tolist()) == set(range(packs))
            assert np.bincount(pack_of, weights=lengths[rows]).max() <= budget
            drawn += rows.tolist()
            step += 1
        assert sorted(drawn[at:]) == expected
        at = len(drawn)


def test_a_step_is_the_same_from_an_anchor_as_from_the_beginning():
    lengths = np.random.default_rng(1).integers(5, 400, 3000)
    settings_ = {"budget": 1000, "packs": 7}
    whole = packed_lane(lengths, **settings_)
    steps = [whole.step(number) for number in range(150)]
    assert len(whole._found) > 1
    for number in (149, 70, 0):
        window, first = whole.anchor(number)
        assert first <= number
        resumed = packed_lane(lengths, **settings_)
        resumed.remember(window, first)
        for again in (resumed, packed_lane(lengths, **settings_)):
            for found, expected in zip(again.step(number), steps[number], strict=True):
                assert np.array_equal(found, expected)


def test_a_large_lane_packs_each_epoch_apart_and_fills_its_packs():
    lengths = np.random.default_rng(2).lognormal(5, 0.7, 20_000).clip(1, 4000).astype(np.int64)
    lane = packed_lane(lengths, budget=4096, packs=8)
    steps, tokens = lane.until_draw(20_000)
    assert tokens == lengths.sum()
    assert tokens / (steps * 8 * 4096) > 0.98
    rows = np.concatenate([lane.step(number)[0] for number in range(steps)])
    assert sorted(rows.tolist()) == list(range(20_000))


def test_epochs_stay_apart_also_after_a_segment_that_stopped_within_one():
    lengths = np.random.default_rng(3).integers(10, 90, 5000)
    lane = packed_lane(lengths, budget=400, packs=4, drawn=7300, left=(5100, 7001))
    missing = 10_000 - 7300 + 2
    assert lane.windows.head == missing
    rows, step = [], 0
    while len(rows) < missing:
        rows += lane.step(step)[0].tolist()
        step += 1
    epoch = Shuffled(5000, 5).members(np.arange(5000, 10_000))
    assert sorted(rows) == sorted([*epoch[2300:].tolist(), epoch[100], epoch[2001]])


def test_what_was_given_before_a_step_is_known():
    lengths = np.random.default_rng(4).integers(10, 200, 400)
    lane = packed_lane(lengths, budget=500, packs=3)
    given = []
    for number in range(60):
        planned, late = lane.given_before(number)
        draws = np.setdiff1d(np.arange(planned), late)
        assert sorted(given) == sorted(lane.lane.rows_at(0, max(planned, 1))[draws].tolist())
        given += lane.step(number)[0].tolist()


def test_rows_longer_than_a_pack_are_named_and_never_cut():
    with pytest.raises(ConfigError, match="2 of 4 rows are longer than pack_tokens=9, the longest has 11"):
        check_lengths(np.array([9, 10, 11, 1]), budget=9)
    check_lengths(np.array([9, 1]), budget=9)


def count_bytes(url: str) -> dict[str, tuple[int, int]]:
    """Write token counts of every part of a build, as bytes of its texts; return them by example_id."""
    build, known = Build(url), {}
    for task, print_ in build.tasks():
        for part in build.example_parts(task, print_):
            found = []
            for row in build.store.read_table(part).to_pylist():
                parts = [p for turn in row["turns"] for p in turn["parts"]]
                counts = sum(len(p["text"].encode()) for p in parts), sum(bool(p["media"]) for p in parts)
                known[row["example_id"]] = counts
                found.append({"example_id": row["example_id"], "tokens": counts[0], "media": counts[1]})
            build.store.write_table(tokens_part("bytes", part), pa.Table.from_pylist(found, schema=TOKENS))
    return known


def test_lengths_are_those_of_the_side_column(build):
    known, release = count_bytes(build), Release(build)
    ids = release.rows["example_id"].to_pylist()
    rows = np.arange(len(ids))[::-1][:50]
    for media_tokens in (0, 256):
        found = read_lengths(release, rows, tokenizer="bytes", media_tokens=media_tokens)
        assert found.dtype == np.int32
        assert found.tolist() == [known[ids[row]][0] + media_tokens * known[ids[row]][1] for row in rows]
    huge = read_lengths(release, rows, tokenizer="bytes", media_tokens=2**40)
    assert set(huge.tolist()) == {2**31 - 1}  # longer than any pack, not wrapped around to a short one
    assert read_lengths(release, np.zeros(0, np.int64), tokenizer="bytes", media_tokens=1).tolist() == []


def test_missing_counts_name_the_command_that_makes_them(shared_build):
    with pytest.raises(ConfigError, match=r"medloom tokens .* --tokenizer org/name"):
        read_lengths(Release(shared_build), np.arange(3), tokenizer="org/name", media_tokens=0)


@pytest.mark.parametrize("damage", ["swapped", "short", "empty"])
def test_counts_of_other_examples_are_refused(build, damage):
    count_bytes(build)
    path = next(Path(Store(build).root).glob("tokens/bytes/caption/*/part-train-000000.parquet"))
    table = pq.read_table(path)
    reverse = table.take(list(range(table.num_rows))[::-1])
    pq.write_table({"swapped": reverse, "short": table[:-1], "empty": table[:0]}[damage], path)
    release = Release(build)
    part = str(path.relative_to(build)).replace("tokens/bytes", "examples")
    rows = np.flatnonzero(np.array(release.rows["part"].to_pylist()) == part)
    assert len(rows) > 1
    with pytest.raises(FormatError, match="counts other examples"):
        read_lengths(release, rows, tokenizer="bytes", media_tokens=0)
