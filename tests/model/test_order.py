"""The order is a permutation, its shares are exact, and it looks like chance where it should."""

import collections
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.model.order import (
    MAX_TURNS,
    Shuffled,
    ShuffledByShard,
    Turns,
    floor_sum,
    key_of,
    permute,
    substitute,
    turns_of,
    whole_weights,
)
from medloom.schemas.errors import ConfigError


def permutation(n: int, key: int) -> list[int]:
    return permute(np.arange(n, dtype=np.uint64), n, np.full(n, key, np.uint64)).tolist()


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 999, 1000, 4095, 4097, 65_537])
def test_permute_reaches_every_index_once(n):
    assert sorted(permutation(n, key_of(n, "test"))) == list(range(n))


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation_for_any_key(n, key):
    assert sorted(permutation(n, key)) == list(range(n))


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_permutation_of_few_is_as_likely(n):
    trials = 24_000
    keys = np.array([key_of(seed, "fair") for seed in range(trials)], np.uint64)
    places = np.stack([permute(np.full(trials, i, np.uint64), n, keys) for i in range(n)], axis=1)
    counts = collections.Counter(map(tuple, places.tolist()))
    expected = trials / math.factorial(n)
    assert len(counts) == math.factorial(n)
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = math.factorial(n) - 1
    assert chi_squared < freedom + 4 * math.sqrt(
        2 * freedom
    )  # four standard deviations of the chi-squared distribution


def test_a_large_permutation_mixes_as_well_as_chance():
    """Of 10 000 rows in 100 shards, 32 neighbours in the order come from as many shards as 32 random rows would."""
    shards = np.array(permutation(10_000, key_of(5, "shards"))[: 32 * 300]).reshape(300, 32) // 100
    distinct = np.mean([len(set(row)) for row in shards.tolist()])
    assert abs(distinct - 100 * (1 - 0.99**32)) < 0.5


def test_a_position_among_a_billion_costs_no_table():
    draws = np.array([0, 1, 999_999_999, 3 * 10**9 + 5])
    for order in (Shuffled(10**9, 17), ShuffledByShard(np.full(5000, 200_000), 16, 17)):
        members = order.members(draws)
        assert len(set(members.tolist())) == 4
        assert members.max() < 10**9


def test_the_order_of_version_2_never_changes():
    key = key_of(7, "rows|all|all")
    assert Shuffled(6, key).members(np.arange(12)).tolist() == [2, 0, 4, 5, 3, 1, 0, 3, 5, 2, 1, 4]
    by_shard = ShuffledByShard(np.array([2, 3, 1]), 2, key)
    assert by_shard.members(np.arange(12)).tolist() == [5, 3, 2, 4, 1, 0, 0, 4, 2, 3, 1, 5]
    for turns, dealt in [
        (Turns((2, 1), key), [1, 0, 0, 0, 1, 0, 0, 0, 1]),
        (Turns((2, 1), key, even=True), [0, 1, 0, 0, 1, 0, 0, 1, 0]),
        (Turns((3000, 1500), key), [0, 1, 0, 0, 1, 0, 0, 1, 0]),
    ]:
        assert turns.deal(0, 9)[0].tolist() == dealt


@given(n=st.integers(0, 60), m=st.integers(1, 80), a=st.integers(0, 200), b=st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_floor_sum_is_the_sum_of_floors(n, m, a, b):
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


def test_floor_sum_holds_for_numbers_past_64_bits():
    n, m = 2**31 + 1, 2**31 - 1  # over whole periods of i mod m the remainders sum to m (m - 1) / 2, for any a
    for a in (1, 12_345, m - 1):
        remainders = sum((a * i) % m for i in (0, 1))  # i = m and m + 1 begin the next period
        assert m * floor_sum(n, m, a, 0) == a * n * (n - 1) // 2 - m * (m - 1) // 2 - remainders


def test_every_arrangement_of_a_shuffled_block_is_as_likely():
    trials = 24_000
    who, _ = Turns((2, 1, 1), key_of(3, "fair")).deal(0, 4 * trials)
    counts = collections.Counter(map(tuple, who.reshape(trials, 4).tolist()))
    expected = trials / 12  # 4! / (2! 1! 1!)
    assert len(counts) == 12
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 11 + 4 * math.sqrt(22)


WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
LARGE = st.lists(st.integers(1, 4000), min_size=2, max_size=4)


@given(weights=WEIGHTS | LARGE, key=st.integers(0, 2**64 - 1), even=st.booleans(), start=st.integers(0, 9000))
@settings(max_examples=80, deadline=None)
def test_turns_are_exact_in_every_block_and_counted_in_time(weights, key, even, start):
    turns = Turns(tuple(weights), key, even)
    blocks = 3 if turns.block < 1000 else 1
    who, before = turns.deal(0, blocks * turns.block + 50)
    for block in who[: blocks * turns.block].reshape(blocks, -1):
        assert np.bincount(block, minlength=len(weights)).tolist() == weights
    for k in range(len(weights)):
        assert before[who == k].tolist() == list(range(int((who == k).sum())))
    start %= len(who) - 20
    some = turns.deal(start, 20)
    assert np.array_equal(some[0], who[start : start + 20])
    assert np.array_equal(some[1], before[start : start + 20])


@given(weights=WEIGHTS | LARGE, key=st.integers(0, 2**64 - 1), even=st.booleans(), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_first_after_is_the_turn_behind_the_last_of_a_count(weights, key, even, share):
    turns = Turns(tuple(weights), key, even)
    who, _ = turns.deal(0, 2 * turns.block)
    for k, weight in enumerate(weights):
        count = round(share * 2 * weight)
        places = np.flatnonzero(who == k)
        assert turns.first_after(k, count) == (places[count - 1] + 1 if count else 0)
        assert turns.before(k, turns.first_after(k, count)) == count


@pytest.mark.parametrize(
    "weights",
    [
        (1, 1),
        (2, 1),
        (5, 3, 1),
        (1000, 10),
        (700, 200, 99, 1),
        (99_991, 12, 5003),
        (40_000, 13),
        (65_521, 1000, 100, 10),
    ],
)
def test_even_turns_come_back_at_nearly_equal_distances(weights):
    """The longest wait is a few times the mean, also across the ends of blocks, whatever the weights."""
    turns = Turns(weights, 5, even=True)
    who, _ = turns.deal(0, min(4 * turns.block, 200_000))
    for k, weight in enumerate(weights):
        gaps = np.diff(np.flatnonzero(who == k))
        mean = turns.block / weight
        assert gaps.max(initial=0) <= 3.5 * mean


def test_a_turn_among_two_billion_is_counted_without_walking_there():
    weights = (MAX_TURNS - 10**6 - 7, 10**6, 7)
    turns = Turns(weights, 3, even=True)
    for block, place in itertools.product((0, 5), (0, 10**9)):
        start = block * turns.block + place
        who, before = turns.deal(start, 2000)
        after = [turns.before(k, start + 2000) for k in range(3)]
        assert [turns.before(k, start) + int((who == k).sum()) for k in range(3)] == after
        assert sum(after) == start + 2000
        assert before[0] == turns.before(int(who[0]), start)
    assert [turns.before(k, 3 * turns.block) for k in range(3)] == [3 * weight for weight in weights]


@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_epoch_is_another_whole_permutation(n, seed):
    epochs = Shuffled(n, key_of(seed, "rows")).members(np.arange(3 * n)).reshape(3, n).tolist()
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    if n > 20:
        assert len(set(map(tuple, epochs))) == 3


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@given(sizes=SIZES, window=st.integers(1, 14), key=st.integers(0, 2**64 - 1))
@settings(max_examples=80, deadline=None)
def test_windows_of_shards_hold_whole_shards_and_every_member_once(sizes, window, key):
    order = ShuffledByShard(np.array(sizes), window, key)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    epochs = order.members(np.arange(3 * order.size)).reshape(3, -1)
    for members in epochs:
        assert sorted(members.tolist()) == list(range(order.size))
        seen, at = set(), 0
        while at < order.size:  # the shards of a window are those of its first members; it ends when all came
            shards = set(shard_of[members[at : at + 1]].tolist())
            end = at + 1
            while len(shards) < min(window, len(sizes) - len(seen)) or end - at < sum(sizes[s] for s in shards):
                shards.add(int(shard_of[members[end]]))
                end += 1
            assert len(shards) == min(window, len(sizes) - len(seen))
            assert not shards & seen
            seen |= shards
            at = end
    some = np.arange(order.size // 2, order.size + order.size // 2)
    assert np.array_equal(order.members(some[::-1])[::-1], epochs.reshape(-1)[some])


def test_another_epoch_has_its_shards_in_another_order_and_windows_mix_their_shards():
    order = ShuffledByShard(np.full(40, 50), 4, 9)
    shards = order.members(np.arange(2 * order.size)).reshape(2, 10, 200) // 50
    assert {tuple(sorted(set(window))) for window in shards[0].tolist()} != {
        tuple(sorted(set(window))) for window in shards[1].tolist()
    }
    distinct = np.mean([len(set(part)) for part in shards.reshape(-1, 10).tolist()])
    assert abs(distinct - 4 * (1 - 0.75**10)) < 0.1  # ten neighbours of a window are from its four shards by chance


def test_weights_become_the_smallest_whole_numbers():
    assert whole_weights({"b": 0.3, "a": 0.7}) == {"a": 7, "b": 3}
    assert whole_weights({"a": 2, "b": 4}) == {"a": 1, "b": 2}


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "3", True])
def test_a_bad_weight_is_the_users_mistake(weight):
    with pytest.raises(ConfigError, match="weight"):
        whole_weights({"a": 1, "b": weight})


def test_a_share_too_fine_is_the_users_mistake():
    with pytest.raises(ConfigError, match="round its weights"):
        whole_weights({"a": 1, "b": 1e-7})


@given(parts=st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**6)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_shares_become_turns_as_exactly_as_they_can(parts):
    shares = [Fraction(*part) for part in parts]
    weights = turns_of(shares)
    assert sum(weights) <= MAX_TURNS
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share / sum(shares) - Fraction(weight, sum(weights))) <= Fraction(len(shares), 2**30)
    scale = math.lcm(*(share.denominator for share in shares))
    if sum(shares) * scale <= MAX_TURNS:
        assert [weight * sum(shares) for weight in weights] == [share * sum(weights) for share in shares]


def test_substitutes_spread_over_all_rows():
    stand_ins = collections.Counter(substitute(1, t, 0, 10) for t in range(2000))
    assert len(stand_ins) == 10
    assert max(stand_ins.values()) < 300
