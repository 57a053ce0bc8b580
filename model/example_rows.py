"""From rows of tables to what they mean, one here and one there, each in some microseconds."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from medloom.schemas.cells import Cell, cell_of
from medloom.schemas.example import Evidence, Example, Part, Region, Turn
from medloom.schemas.tables import measured_values

_NAMES = ("example_id", "unit", "group", "split", "task", "language", "generator", "source", "licence", "terms_id")


class Rows:
    """Rows of a table, taken by number without a copy of the rest; safe to share between threads."""

    def __init__(self, table: pa.Table):
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()
        self._cells: dict[int, list[tuple[str, Cell]]] = {}
        self._names = table.column_names
        self.count = table.num_rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return one row.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        number = bisect_right(self._starts, row) - 1
        cells = self._cells.get(number)
        if cells is None:
            columns = zip(self._names, self._batches[number].columns, strict=True)
            cells = self._cells[number] = [(name, cell_of(column)) for name, column in columns]
        at = row - self._starts[number]
        return {name: cell(at) for name, cell in cells}


def parse_example(row: Mapping[str, Any]) -> Example:
    """Return the example that a row of `EXAMPLE` holds."""
    return Example(
        **{name: row[name] or "" for name in _NAMES},
        turns=tuple(Turn(turn["role"], tuple(_part(part) for part in turn["parts"])) for turn in row["turns"]),
        regions=tuple(_region(region) for region in row["regions"] or ()),
        labels=tuple(row["labels"] or ()),
        evidence=tuple(Evidence(**evidence) for evidence in row["evidence"] or ()),
        measured=measured_values(row["measured"]),
    )


def _part(part: Mapping[str, Any]) -> Part:
    return Part(text=part["text"] or "", media=part["media"] or "", box=tuple(part["box"] or ()))


def _region(region: Mapping[str, Any]) -> Region:
    return Region(**{**region, "box": tuple(region["box"] or ())})
