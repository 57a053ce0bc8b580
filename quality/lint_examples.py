"""Lint of examples: that each row stands where it belongs and refers to media, units and masks that are there."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.quality.finding import EXAMPLES_AGAIN, Finding, few
from medloom.schemas.build import Build, conform
from medloom.schemas.tables import EXAMPLE

ROLES = ("document", "user", "assistant")
_READ = ["example_id", "unit", "group", "split", "task", "turns", "regions", "media"]


def lint_examples(build: Build, keys: pa.ChunkedArray) -> Iterator[Finding]:
    """Give what is wrong with the examples of the current fingerprints.

    Args:
        keys: of all media that indexes hold.
    """
    planned = [unit for units in build.shards.values() for unit in units]
    groups = {unit["unit"]: (unit["group"], unit["split"]) for unit in planned}
    seen: set[str] = set()
    for task, print_ in sorted(build.manifest()["recipe"]["tasks"].items()):
        for path in build.example_parts(task, print_[:12]):
            try:
                rows = conform(build.store.read_table(path), EXAMPLE).select(_READ)
            except (OSError, ValueError) as fault:
                yield Finding(path, "example.form", f"not a readable Parquet file: {fault}", EXAMPLES_AGAIN)
                continue
            for what, wrong in {
                "media": _dangling(rows, keys),
                "unit": [unit for unit in rows["unit"].to_pylist() if unit not in groups],
                "group": list(_elsewhere(rows, groups)),
                "task": rows["example_id"].filter(pc.not_equal(rows["task"], task)).to_pylist(),
                "twice": [name for name in rows["example_id"].to_pylist() if name in seen or seen.add(name)],  # type: ignore[func-returns-value]
                "turns": [row["example_id"] for row in rows.to_pylist() if not _is_said(row)],
            }.items():
                if wrong:
                    found = f"{len(wrong)} rows name what does not fit: {few(wrong)}"
                    yield Finding(path, f"example.{what}", found, EXAMPLES_AGAIN)


def _dangling(rows: pa.Table, keys: pa.ChunkedArray) -> list[str]:
    flat = pc.list_flatten(rows["media"])
    return flat.filter(pc.invert(pc.is_in(flat, value_set=keys))).to_pylist()


def _elsewhere(rows: pa.Table, groups: dict[str, tuple[str, str]]) -> Iterator[str]:
    """Give the examples whose group or split is not that of their unit."""
    columns = (rows[name].to_pylist() for name in ("example_id", "unit", "group", "split"))
    for name, unit, group, split in zip(*columns, strict=True):
        if groups.get(unit, (group, split)) != (group, split):
            yield name


def _is_said(row: dict[str, Any]) -> bool:
    """Whether the turns are text and media by turns, and `media` names those that turns and regions mean."""
    named = []
    for turn in row["turns"] or ():
        if turn["role"] not in ROLES:
            return False
        for part in turn["parts"] or ():
            if bool(part["text"]) == bool(part["media"]) or len(part["box"] or ()) not in (0, 4, 6):
                return False
            named += [part["media"]] if part["media"] else []
    named += [region["media"] for region in row["regions"] or ()]
    return bool(row["turns"]) and list(dict.fromkeys(named)) == (row["media"] or [])
