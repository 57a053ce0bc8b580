"""Rows that may share a batch share a lane, and a lane loses and repeats nothing, also where a segment ends."""

import collections
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.model.lanes import Lane, Queue, lanes_of, shares_of
from medloom.model.order import Shuffled, Turns, turns_of
from medloom.schemas.errors import FormatError


def rows_of(*media: list[tuple[str, str]]) -> pa.Table:
    """Rows of which each has these (layout, shape) pairs."""
    strings = pa.list_(pa.string())
    return pa.table({
        "layouts": pa.array([[layout for layout, _ in row] for row in media], strings),
        "shapes": pa.array([[shape for _, shape in row] for row in media], strings),
    })  # fmt: skip


def names_of(buckets: str | None, *media: list[tuple[str, str]]) -> list[str]:
    names, codes = lanes_of(rows_of(*media), buckets)
    assert list(names) == sorted(set(names))
    return [names[code] for code in codes]


PICTURE, VOLUME = ("jpg", "300x512x3"), ("volume", "32x64x64")


def test_text_pictures_volumes_and_mixed_rows_are_four_lanes():
    masked = ("volume-seg", "8x9x9")
    media = [[], [PICTURE], [VOLUME], [VOLUME, PICTURE], [("png", "")], [masked, VOLUME]]
    assert names_of("dimension", *media) == ["text", "2d", "3d", "mixed", "2d", "3d"]
    assert names_of(None, *media) == ["all"] * 6


def test_fields_of_foreign_tars_are_pictures_by_their_last_extension():
    media = [[("left.JPEG", "")], [("webp", "")], [("nii.gz", "9x9x9")], [("ct.npy.zst", "")]]
    assert names_of("dimension", *media) == ["2d", "2d", "3d", "3d"]


def test_shapes_part_volumes_by_shape_and_pictures_by_their_longest_side():
    media = [
        [], [PICTURE], [("png", "513x20x1")], [("png", "")], [("jpg", "9x9x3"), PICTURE], [("jpg", "90000x9x3")],
        [VOLUME], [VOLUME, ("volume", "8x9x9")], [("volume", "8x9x9"), VOLUME], [PICTURE, VOLUME], [("volume", "")],
        [("jpg", "64x64x3")], [("jpg", "65x64x3")],
    ]  # fmt: skip
    assert names_of("shape", *media) == [
        "text", "2d 512", "2d 1024", "2d", "2d 512", "2d 4096",
        "3d 32x64x64", "3d 32x64x64+8x9x9", "3d 8x9x9+32x64x64", "mixed 512 32x64x64", "3d",
        "2d 64", "2d 128",
    ]  # fmt: skip


def test_rows_without_the_columns_filled_are_text():
    rows = pa.table({"layouts": pa.nulls(2, pa.list_(pa.string())), "shapes": pa.nulls(2, pa.list_(pa.string()))})
    for buckets in ("dimension", "shape"):
        assert lanes_of(rows, buckets) == (("text",), pytest.approx([0, 0]))


def test_rows_with_fewer_shapes_than_layouts_are_refused():
    rows = rows_of([PICTURE], [VOLUME]).set_column(1, "shapes", pa.array([[], ["8x9x9"]], pa.list_(pa.string())))
    with pytest.raises(FormatError, match="shapes"):
        lanes_of(rows, "shape")


MIX = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)
SIZES = st.dictionaries(
    st.sampled_from(["2d", "3d", "text"]), st.dictionaries(st.sampled_from("abcd"), st.integers(1, 500)), min_size=1
)


@given(mix=MIX, sizes=SIZES)
@settings(max_examples=100, deadline=None)
def test_a_source_spreads_its_weight_evenly_over_its_rows(mix, sizes):
    sizes = {lane: {s: n for s, n in sources.items() if s in mix} for lane, sources in sizes.items()}
    shares = shares_of(sizes, mix)
    for source, weight in mix.items():
        per_row = {shares[lane][source] / n for lane in sizes for s, n in sizes[lane].items() if s == source}
        assert len(per_row) <= 1
        total = sum((shares[lane][source] for lane in sizes if source in sizes[lane]), Fraction(0))
        assert total == (weight if per_row else 0)
    even = shares_of(sizes, {})
    assert {share for lane in even for share in (even[lane][s] / n for s, n in sizes[lane].items())} <= {1}


def lane_of(sizes: list[int], weights: list[int], states: dict | None = None, *, seed: int = 0) -> Lane:
    """A lane of sources "0", "1" … whose rows are numbered one after another."""
    starts, queues = np.cumsum([0, *sizes]), {}
    for k, size in enumerate(sizes):
        drawn, left = (states or {}).get(str(k), (0, ()))
        rows = np.arange(starts[k], starts[k] + size, dtype=np.int32)
        queues[str(k)] = Queue(rows, Shuffled(size, 100 * seed + k), drawn, np.asarray(left, np.int64))
    return Lane("x", queues, Turns(tuple(weights), seed))


SOURCES = st.integers(1, 4).flatmap(
    lambda k: st.tuples(st.lists(st.integers(1, 30), min_size=k, max_size=k),
                        st.lists(st.integers(1, 7), min_size=k, max_size=k))
)  # fmt: skip


@given(sources=SOURCES, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_each_source_of_a_lane_gives_its_rows_once_per_epoch_and_its_exact_share(sources, seed):
    sizes, weights = sources
    lane = lane_of(sizes, weights, seed=seed)
    blocks = 20
    rows = lane.rows_at(0, blocks * sum(weights))
    source = np.repeat(np.arange(len(sizes)), sizes)[rows]
    for block in source.reshape(blocks, -1):
        assert np.bincount(block, minlength=len(sizes)).tolist() == weights
    for k, size in enumerate(sizes):
        mine = rows[source == k]
        for epoch in range(len(mine) // size):
            assert len(set(mine[epoch * size : (epoch + 1) * size].tolist())) == size
    assert set(lane.rows_at(0, lane.draws_per_epoch).tolist()) == set(range(sum(sizes)))
    if lane.draws_per_epoch > 1:
        assert len(set(lane.rows_at(0, lane.draws_per_epoch - 1).tolist())) < sum(sizes)


@given(
    sources=SOURCES, seed=st.integers(0, 99),
    stops=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=4), data=st.data(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_segments_that_end_anywhere_and_leave_draws_lose_and_repeat_nothing(sources, seed, stops, data):
    """Each segment deals some draws and leaves some of the last ungiven, as a packed window does; what all of them
    gave of a source, and what is left, are the first draws of its epochs.
    """
    sizes, _ = sources
    states, given = {}, collections.Counter()
    for dealt, ungiven in stops:
        weights = data.draw(st.lists(st.integers(1, 7), min_size=len(sizes), max_size=len(sizes)))
        lane = lane_of(sizes, weights, states, seed=seed)
        late = np.array(sorted(data.draw(st.permutations(range(dealt)))[:ungiven]), np.int64)
        rows = lane.rows_at(0, dealt)
        given.update(np.delete(rows, late).tolist())
        states = lane.state(dealt, not_given=late)
    starts = np.cumsum([0, *sizes])
    for k, size in enumerate(sizes):
        drawn, left = states[str(k)]
        assert left == sorted(set(left))
        assert all(0 <= ordinal < drawn for ordinal in left)
        epochs = starts[k] + Shuffled(size, 100 * seed + k).members(np.arange(drawn))
        expected = collections.Counter(np.delete(epochs, left).tolist())
        assert {row: n for row, n in given.items() if starts[k] <= row < starts[k + 1]} == expected


def test_what_was_left_comes_first():
    lane = lane_of([10], [1], {"0": (7, (2, 5))})
    epoch = Shuffled(10, 0).members(np.arange(20)).tolist()
    assert lane.rows_at(0, 6).tolist() == [epoch[2], epoch[5], *epoch[7:11]]
    assert lane.state(1) == {"0": [7, [5]]}
    assert lane.state(3) == {"0": [8, []]}


def test_a_source_in_two_lanes_keeps_its_share_to_a_millionth():
    mix, sizes = {"a": 3, "b": 2}, {"2d": {"a": 999_983, "b": 11}, "3d": {"a": 7, "b": 500_009}}
    shares = shares_of(sizes, mix)
    lanes = turns_of([sum(shares[lane].values(), Fraction(0)) for lane in sizes])
    inside = {lane: turns_of(list(shares[lane].values())) for lane in sizes}
    drawn = collections.Counter()
    for weight, lane in zip(lanes, sizes, strict=True):
        for source, turns in zip(sizes[lane], inside[lane], strict=True):
            drawn[source] += Fraction(weight * turns, sum(lanes) * sum(inside[lane]))
    assert abs(drawn["a"] - Fraction(3, 5)) < Fraction(1, 10**6)
    assert sum(drawn.values()) == 1
