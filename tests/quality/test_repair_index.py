"""Indexes made again from tars: the committed bytes or none, whatever version wrote them; bits found by checksum."""

import random
from pathlib import Path

import crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.quality.damage import INDEX_PATH, TRAIN, flip, garbage, recommit

from medloom.quality import repair_index
from medloom.quality.lint import lint
from medloom.quality.repair import repair
from medloom.quality.single_bit import flipped_bits
from medloom.schemas.build import Build
from medloom.schemas.store import parquet_bytes
from medloom.schemas.tables import INDEX


def test_an_index_comes_back_after_the_library_that_wrote_it_was_updated(whole):
    ours = pq.read_metadata(Path(whole.url) / INDEX_PATH).created_by.encode()
    theirs = ours[:-1] + bytes([ours[-1] ^ 1])
    for layout in whole.ledger(TRAIN)["tars"]:
        recommit(whole, layout, whole.store.read(TRAIN.index(layout)).replace(ours, theirs))
    committed = whole.store.read(INDEX_PATH)
    assert theirs in committed
    whole.store.delete(INDEX_PATH)
    assert [step.is_mended for step in repair(Build(whole.url)).steps] == [True]
    assert whole.store.read(INDEX_PATH) == committed


def test_a_fact_that_only_the_index_held_is_not_made_up(whole):
    """A box of a panel stands in no tar: with the index noise it cannot come back, with one column readable it does."""
    path = TRAIN.index("jpg")
    boxes = [{"letter": "A", "box": [0, 0, 9, 9], "confidence": 0.5}]
    store, metadata = whole.store, whole.store.table_metadata(path)
    table = pa.Table.from_pylist([row | {"panels": boxes} for row in store.read_table(path).to_pylist()], INDEX)
    committed = parquet_bytes(table, metadata)
    recommit(whole, "jpg", committed)
    at = committed.index(table["key"][0].as_py().encode())
    flip(Path(whole.url) / path, at)  # in another column: the boxes can still be read
    assert [step.is_mended for step in repair(Build(whole.url)).steps] == [True]
    assert store.read(path) == committed
    garbage(Path(whole.url) / path)
    (step,) = repair(Build(whole.url)).steps
    assert not step.is_mended
    assert "facts that only the index held are lost" in step.told


def test_an_index_of_an_older_format_comes_back_with_its_columns(whole):
    path = TRAIN.index("volume")
    store, metadata = whole.store, whole.store.table_metadata(path)
    columns = list(INDEX)[: repair_index.FIRST_COLUMNS + 2]
    older = pa.Table.from_pylist(store.read_table(path).to_pylist(), pa.schema(columns))
    assert "labels" not in older.column_names
    committed = parquet_bytes(older, metadata)
    recommit(whole, "volume", committed)
    assert lint(Build(whole.url)) == []
    store.delete(path)
    assert [step.is_mended for step in repair(Build(whole.url)).steps] == [True]
    assert store.read(path) == committed


@pytest.mark.parametrize("size", [1, 2, 511, 5000, 70_000])
def test_a_flipped_bit_is_told_from_the_checksum(size):
    rng = random.Random(size)
    data = bytearray(rng.randbytes(size))
    sum_ = crc32c.crc32c(bytes(data))
    for bit in {0, 8 * size - 1, *(rng.randrange(8 * size) for _ in range(8))}:
        at, mask = bit // 8, 1 << bit % 8
        data[at] ^= mask
        assert list(flipped_bits(crc32c.crc32c(bytes(data)) ^ sum_, size)) == [(at, mask)]
        data[at] ^= mask
