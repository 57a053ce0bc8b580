"""Found: what one source was found to hold, before it is laid against what the build knows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from medloom.connectors.guard import GuardBug
from medloom.pipelines.sources.listing import OBJECT
from medloom.schemas.errors import BugError
from medloom.schemas.keys import Identity
from medloom.schemas.tables import TABLES

REFUSED_OBJECT = pa.schema([*TABLES["quarantine"], *OBJECT])


@dataclass(frozen=True)
class Found:
    """What the objects of one source that were read now came to.

    Attributes:
        source: its name.
        objects: the rows of `OBJECT` that were read, out of `listing`.
        links: rows of `LINK`: which objects make each unit.
        refused: rows of `REFUSED_OBJECT`: what became no unit, and why.
        groups: group of each unit.
        tables: gives the rows of the units by table, all rows of a unit at once; called once.
        again: whether all units change although their objects are as they were (their terms changed).
        splits: official split of the units that have one; None of a source that never states any.
    """

    source: str
    objects: pa.Table
    listing: pa.Table
    links: list[dict[str, Any]]
    refused: list[dict[str, Any]]
    groups: dict[str, str]
    tables: Callable[[], Iterator[dict[str, pa.Table]]]
    again: bool = False
    splits: dict[str, str] | None = None


def refused_row(source: str, identity: Identity, row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    """Return the row of `REFUSED_OBJECT` of an object (a row of `OBJECT`) that never became a unit."""
    return {
        "unit": identity.token("object", row["url"]), "key": "", "source": source, "stage": "tables",
        "reason": reason, "detail": detail, "source_bytes": row["size"], **{name: row[name] for name in OBJECT.names},
    }  # fmt: skip


def reading_bug(fault: GuardBug, identity: Identity, url: str) -> BugError:
    """Return the error that stops the run: a reader raised what is no refusal while it read one object."""
    last = " | ".join(line.strip() for line in str(fault).strip().splitlines()[-3:])
    return BugError(f"reading object {identity.token('object', url)} failed by a bug: {last}")
