"""Rows of CSV files from outside: fields of any length, and a file that breaks costs what follows the break."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from medloom.pipelines.imports.job import Import
from medloom.schemas.errors import Refused

Fields = dict[str | None, str | list[str] | None]


def csv_rows(job: Import, url: str, lines: Iterable[str], columns: Sequence[str]) -> Iterator[Fields]:
    """Give the rows of a CSV by column; none, with a row that says why, when some of `columns` are missing."""
    with _long_fields():
        reader = csv.DictReader(lines)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            job.refuse("file", url, Refused("csv.columns", f"it has no column {', '.join(missing)}"))
            return
        try:
            yield from reader
        except csv.Error as fault:
            job.refuse("file", url, Refused("csv.malformed", f"line {reader.line_num}: {fault}; what follows is lost"))


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the reader meet fields of any length, so that a long one costs its row and not the rest of the file."""
    before = csv.field_size_limit(1 << 30)
    try:
        yield
    finally:
        csv.field_size_limit(before)
