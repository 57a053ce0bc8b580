import math
from collections import Counter

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.schemas.keys import sha256_hex
from medloom.schemas.plan import Shards, cut, read_plan, split_of
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import PLAN

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
UNITS = st.dictionaries(
    st.integers(0, 10_000), st.tuples(st.integers(0, 12), st.integers(0, 120)), min_size=1, max_size=40
)


def table(units: dict[int, tuple[int, int]]) -> pa.Table:
    """Units by number, each with (group, bytes); the split is the group's."""
    rows = [
        {"unit": f"u{n}", "source": "s", "group": f"g{group}", "source_bytes": size,
         "split": split_of(f"g{group}", salt="x", shares=SHARES)}
        for n, (group, size) in units.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in PLAN if f.name not in ("shard", "position")]))


@given(UNITS, st.integers(1, 300))
def test_a_cut_places_every_unit_once_and_fills_no_shard_beyond_its_size(units, shard_bytes):
    plan = cut(table(units), taken={}, shard_bytes=shard_bytes)
    assert plan.schema == PLAN
    assert sorted(plan["unit"].to_pylist()) == sorted(f"u{n}" for n in units)
    for rows in Shards(plan).values():
        assert [row["position"] for row in rows] == list(range(len(rows)))
        assert len(rows) == 1 or sum(row["source_bytes"] for row in rows) <= shard_bytes
        order = [(sha256_hex(row["group"]), row["unit"]) for row in rows]
        assert order == sorted(order)
    for split in set(plan["split"].to_pylist()):
        numbers = sorted({row["shard"] for row in plan.to_pylist() if row["split"] == split})
        assert numbers == list(range(len(numbers)))


@given(UNITS, st.randoms(use_true_random=False))
def test_a_cut_does_not_depend_on_the_order_in_which_units_are_listed(units, random):
    shuffled = list(units.items())
    random.shuffle(shuffled)
    assert cut(table(dict(shuffled)), taken={}, shard_bytes=100).equals(cut(table(units), taken={}, shard_bytes=100))


@settings(max_examples=40)
@given(UNITS, UNITS)
def test_what_comes_later_opens_new_shards_and_moves_nothing(tmp_path_factory, first, later):
    later = {n + 20_000: of for n, of in later.items()}
    store = Store(str(tmp_path_factory.mktemp("plan")))
    store.write_table("plan/part-00000.parquet", cut(table(first), taken={}, shard_bytes=100))
    before = Shards(read_plan(store))
    taken = Counter(name.split for name in before)
    store.write_table("plan/part-00001.parquet", cut(table(later), taken=taken, shard_bytes=100))
    after = Shards(read_plan(store))
    assert {name: after[name] for name in before} == before
    assert {row["unit"] for name in set(after) - set(before) for row in after[name]} == {f"u{n}" for n in later}
    of_group: dict[str, set[str]] = {}
    for name, rows in after.items():
        for row in rows:
            of_group.setdefault(row["group"], set()).add(name.split)
    assert all(len(splits) == 1 for splits in of_group.values())


def test_no_units_make_no_plan(tmp_path):
    assert cut(table({}), taken={}, shard_bytes=10).num_rows == 0
    assert Shards(read_plan(Store(str(tmp_path)))) == {}


def test_a_unit_larger_than_a_shard_is_one_of_its_own():
    plan = cut(table({1: (1, 500), 2: (1, 10), 3: (1, 10)}), taken={}, shard_bytes=100)
    assert {len(rows) for rows in Shards(plan).values()} == {1, 2}


def test_splits_are_taken_in_their_shares():
    """20,000 groups: each count lies within four standard deviations of its share, p about 1e-4 a split."""
    n = 20_000
    counts = Counter(split_of(f"group-{i}", salt="medloom", shares=SHARES) for i in range(n))
    for split, share in SHARES.items():
        assert abs(counts[split] - n * share) < 4 * math.sqrt(n * share * (1 - share)), split


def test_another_salt_splits_independently():
    n = 20_000
    both = sum(
        split_of(str(i), salt="a", shares=SHARES) == "test" == split_of(str(i), salt="b", shares=SHARES)
        for i in range(n)
    )
    assert abs(both - n * 0.01) < 4 * math.sqrt(n * 0.01 * 0.99)


@given(st.text(max_size=30), st.text(max_size=10))
def test_a_split_is_one_of_its_shares_and_always_the_same(group, salt):
    shares = {"train": 0.7, "test": 0.2, "dev": 0.1 - 1e-12}
    assert split_of(group, salt=salt, shares=shares) in shares
    assert split_of(group, salt=salt, shares=shares) == split_of(group, salt=salt, shares=shares)


def test_a_larger_train_share_moves_groups_into_train_only():
    small, large = {"train": 0.8, "test": 0.2}, {"train": 0.9, "test": 0.1}
    for i in range(2000):
        if split_of(str(i), salt="x", shares=small) == "train":
            assert split_of(str(i), salt="x", shares=large) == "train"


def test_shards_sort_by_split_and_number():
    names = [ShardName("train", 10), ShardName("test", 1), ShardName("train", 2)]
    assert [str(n) for n in sorted(names)] == ["test-000001", "train-000002", "train-000010"]
