"""The order is a permutation, its shares are exact, and it looks like chance where it should."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.model.order import Order, key_of, permute, substitute, whole_weights
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
    index = np.array([0, 1, 999_999_999], np.uint64)
    out = permute(index, 10**9, np.full(3, 17, np.uint64))
    assert len(set(out.tolist())) == 3
    assert out.max() < 10**9


def test_the_order_of_version_1_never_changes():
    order = Order(seed=7, names=("a", "b"), weights=(2, 1), sizes=(5, 3))
    source, member = order(np.arange(12))
    assert source.tolist() == [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert member.tolist() == [4, 0, 0, 1, 2, 1, 3, 2, 0, 1, 0, 4]


@given(
    weights=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 40), min_size=4, max_size=4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_exact_in_every_block_and_no_row_repeats_within_an_epoch(weights, sizes, seed):
    names = tuple("abcd"[: len(weights)])
    order = Order(seed=seed, names=names, weights=tuple(weights), sizes=tuple(sizes[: len(weights)]))
    blocks = 30
    source, member = order(np.arange(blocks * sum(weights)))
    for block in source.reshape(blocks, -1):
        assert np.bincount(block, minlength=len(weights)).tolist() == weights
    for k, size in enumerate(order.sizes):
        assert np.ptp(np.bincount(member[source == k], minlength=size)) <= 1


@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_without_a_mix_every_epoch_is_another_whole_permutation(n, seed):
    _, member = Order(seed=seed, names=("",), weights=(1,), sizes=(n,))(np.arange(3 * n))
    for epoch in member.reshape(3, n).tolist():
        assert sorted(epoch) == list(range(n))
    if n > 20:
        assert len({tuple(epoch) for epoch in member.reshape(3, n).tolist()}) == 3


def test_any_range_of_draws_is_the_same_alone_as_in_a_run():
    order = Order(seed=3, names=("x", "y", "z"), weights=(5, 2, 1), sizes=(100, 17, 1))
    source, member = order(np.arange(1000))
    for start in (0, 1, 7, 8, 999):
        some = order(np.arange(start, 1000))
        assert np.array_equal(some[0], source[start:])
        assert np.array_equal(some[1], member[start:])


def test_a_later_segment_goes_on_with_the_epochs_of_its_sources():
    before = Order(seed=3, names=("x", "y"), weights=(1, 1), sizes=(30, 30))
    after = Order(seed=3, names=("x", "y"), weights=(3, 1), sizes=(30, 30), drawn=before.drawn_before(40))
    assert after.drawn == (20, 20)
    first, second = before(np.arange(40)), after(np.arange(12))
    rows = [*first[1][first[0] == 0], *second[1][second[0] == 0]]
    assert len(set(rows)) == len(rows) == 29


@pytest.mark.parametrize("t", range(30, 42))
def test_a_segment_that_begins_within_a_block_repeats_nothing(t):
    before = Order(seed=3, names=("x", "y"), weights=(2, 3), sizes=(60, 60))
    after = Order(seed=3, names=("x", "y"), weights=(1, 1), sizes=(60, 60), drawn=before.drawn_before(t))
    first, second = before(np.arange(t)), after(np.arange(20))
    for k in range(2):
        rows = [*first[1][first[0] == k], *second[1][second[0] == k]]
        assert len(set(rows)) == len(rows)


def test_epoch_draws_cover_every_row():
    for weights, sizes in [((1,), (13,)), ((3, 1), (50, 7)), ((2, 5), (9, 40))]:
        order = Order(seed=1, names=("a", "b")[: len(sizes)], weights=weights, sizes=sizes)
        source, member = order(np.arange(order.epoch_draws))
        for k, size in enumerate(sizes):
            assert set(member[source == k].tolist()) == set(range(size))


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


def test_substitutes_spread_over_all_rows():
    stand_ins = collections.Counter(substitute(1, t, 0, 10) for t in range(2000))
    assert len(stand_ins) == 10
    assert max(stand_ins.values()) < 300
