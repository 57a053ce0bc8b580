"""A cell is what Arrow's own `to_pylist` gives for the row."""

import pyarrow as pa
import pytest

from medloom.schemas.cells import cell_of

VALUES = {
    "strings": pa.array(["", "a", None, "ü€", "longer text"]),
    "no strings": pa.array([None, None], pa.string()),
    "int32": pa.array([1, None, -3], pa.int32()),
    "int64": pa.array([1 << 60, -(1 << 60)]),
    "uint32": pa.array([1 << 31, 0], pa.uint32()),
    "float64": pa.array([0.5, None, float("inf")]),
    "float32": pa.array([0.25, 1.5], pa.float32()),
    "bool": pa.array([True, None, False]),
    "lists": pa.array([[1, 2], [], None, [3]], pa.list_(pa.int32())),
    "lists with nulls": pa.array([[1, None], [None]], pa.list_(pa.int64())),
    "strings in lists": pa.array([["a", "b"], [], None, ["c", None]]),
    "structs": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": ""}]),
    "structs in lists": pa.array([[{"a": [1, 2], "b": "x"}], [], None, [{"a": [], "b": None}, {"a": None, "b": "y"}]]),
    "maps": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
    "large strings": pa.array(["a", None], pa.large_string()),
    "nothing": pa.array([], pa.string()),
    "nulls": pa.nulls(3, pa.list_(pa.int64())),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_cell_is_what_arrow_says(name, skipped):
    array = VALUES[name][skipped:]
    cell = cell_of(array)
    assert [cell(i) for i in range(len(array))] == array.to_pylist()
