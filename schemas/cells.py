"""Cells: values of Arrow arrays as Python ones, one row here and one there, without Arrow's scalars in between.

`take` and `to_pylist` cost a third of a millisecond for one row of nested columns; this costs some microseconds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

Cell = Callable[[int], Any]  # the value of a row


def cell_of(array: pa.Array) -> Cell:
    """Return what gives the value of a row of `array`, as `to_pylist` would; bounds are not checked.

    Strings, numbers, and lists and structs of such are fast; of other types the values come by Arrow's scalars.
    """
    kind = array.type
    if array.offset:
        array = array.take(pa.array(np.arange(len(array))))
    if pa.types.is_struct(kind):
        plain = _struct(array)
    elif pa.types.is_list(kind):
        plain = _list(array)
    elif pa.types.is_string(kind):
        plain = _string(array)
    elif _is_number(kind):
        plain = _numbers(array).__getitem__
    else:
        return lambda i: array[i].as_py()
    if not array.null_count:
        return plain
    valid = np.asarray(array.is_valid()).data
    return lambda i: plain(i) if valid[i] else None


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_float32(kind)


def _numbers(array: pa.Array) -> memoryview:
    data = array.buffers()[1]
    return np.frombuffer(data if data is not None else b"", array.type.to_pandas_dtype(), len(array)).data


def _string(array: pa.Array) -> Cell:
    ends, text = _ends(array), memoryview(array.buffers()[2] or b"")
    return lambda i: str(text[ends[i] : ends[i + 1]], "utf-8")


def _list(array: pa.Array) -> Cell:
    ends, values = _ends(array), array.values
    if _is_number(values.type) and not values.null_count and not values.offset:
        numbers = _numbers(values)
        return lambda i: numbers[ends[i] : ends[i + 1]].tolist()
    inner = cell_of(values)
    return lambda i: [inner(k) for k in range(ends[i], ends[i + 1])]


def _struct(array: pa.Array) -> Cell:
    fields = [(name, cell_of(array.field(number))) for number, name in enumerate(array.type.names)]
    return lambda i: {name: field(i) for name, field in fields}


def _ends(array: pa.Array) -> memoryview:
    """Where each value starts in the array of all values, and where the last one ends."""
    return np.frombuffer(array.buffers()[1] or bytes(4), np.int32).data
