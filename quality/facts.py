"""Facts: what a build holds, counted once for the summary, the report and the card."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.quality.checks import content_field
from medloom.schemas.build import Build, conform
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.origin import TERMS
from medloom.schemas.release import Release, read_overlay
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import STATE

MEDIA_COLUMNS = [
    "key", "field", "unit", "split", "layout", "modality", "body_part", "source", "terms_id", "size", "spacing_mm",
]  # fmt: skip
EXAMPLE_COLUMNS = ["example_id", "unit", "split", "task", "source", "language", "generator", "terms_id", "media"]
KEYS_SHOWN = 5  # of refused things, per reason


@dataclass
class Refused:
    """All refusals of one stage for one reason: how many, the first keys in order of name, and one detail."""

    stage: str
    reason: str
    count: int = 0
    keys: list[str] = field(default_factory=list)
    detail: str = ""


class Facts:
    """Counts of a build, read by columns and never by bytes of media; memory grows with rows, not with pixels."""

    def __init__(self, build: Build):
        self.build = build
        self.manifest = build.manifest()

    @cached_property
    def shards(self) -> tuple[ShardName, ...]:
        """Finished shards, by name; `media` counts them by `shard`."""
        return tuple(shard for shard, _ in self.build.ledgers())

    @cached_property
    def media(self) -> pa.Table:
        """One row per medium: `MEDIA_COLUMNS` of its image or volume, and `shard`, its place in `shards`."""
        tables = []
        for number, shard in enumerate(self.shards):
            rows = self.build.index(shard, MEDIA_COLUMNS)
            rows = rows.filter(pc.is_in(rows["field"], pa.array(sorted({content_field(name) for name in LAYOUTS}))))
            tables.append(rows.append_column("shard", pa.array([number] * rows.num_rows, pa.int32())))
        empty = self.build.index(columns=MEDIA_COLUMNS).slice(0, 0).append_column("shard", pa.array([], pa.int32()))
        return pa.concat_tables([empty, *tables])

    @cached_property
    def examples(self) -> pa.Table:
        """One row per current example: `EXAMPLE_COLUMNS`."""
        return self.build.examples(columns=EXAMPLE_COLUMNS)

    @cached_property
    def articles(self) -> pa.Table:
        """One row per article: key, source and terms."""
        return self.build.table("article", ["article_key", "source", "terms_id"])

    @cached_property
    def units(self) -> pa.Table:
        """One row per planned unit: unit, source, split, group."""
        rows = [unit for units in self.build.shards.values() for unit in units]
        names = ("unit", "source", "split", "group")
        return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})

    @cached_property
    def refused(self) -> list[Refused]:
        """Refusals by stage and reason, the most frequent first."""
        found: dict[tuple[str, str], Refused] = {}
        for row in self.build.refusals():
            entry = found.setdefault((row["stage"], row["reason"]), Refused(row["stage"], row["reason"]))
            entry.count += 1
            entry.keys = sorted({*entry.keys, row["key"] or row["unit"]})[:KEYS_SHOWN]
            entry.detail = min(filter(None, (entry.detail, row["detail"])), default="")
        return sorted(found.values(), key=lambda r: (-r.count, r.stage, r.reason))

    @cached_property
    def bytes_of_media(self) -> int:
        """Size of all tars."""
        return sum(tar["size"] for _, ledger in self.build.ledgers() for tar in ledger["tars"].values())

    def terms(self) -> Iterator[dict[str, Any]]:
        """Give each licence in use: terms_id, its `Terms` (None when the table has no such row) and counts."""
        counted = {
            name: tally(table, "terms_id")
            for name, table in (("media", self.media), ("examples", self.examples), ("articles", self.articles))
        }
        for terms_id in sorted(set().union(*counted.values())):
            counts = {name: counter.get(terms_id, 0) for name, counter in counted.items()}
            yield {"terms_id": terms_id, "terms": TERMS.get(terms_id), **counts}

    def sources(self) -> Iterator[dict[str, Any]]:
        """Give each source: name and counts of units, media and examples."""
        counted = {
            name: tally(table, "source")
            for name, table in (("units", self.units), ("media", self.media), ("examples", self.examples))
        }
        for source in sorted(set().union(*counted.values())):
            yield {"source": source, **{name: counter.get(source, 0) for name, counter in counted.items()}}


def tally(table: pa.Table, *columns: str) -> Counter[Any]:
    """Count rows by the values of one column, or by tuples of several; null counts as ""."""
    grouped = table.group_by(list(columns)).aggregate([([], "count_all")])
    counted: Counter[Any] = Counter()
    for row in grouped.to_pylist():
        values = tuple(row[c] or "" for c in columns)
        counted[values[0] if len(values) == 1 else values] += row["count_all"]
    return counted


def states(release: Release) -> Counter[str]:
    """Count a release's rows by their state as it stands now: live, withheld, withdrawn."""
    return Counter(release.states().of_rows(release.rows).to_pylist())


def reasons(release: Release) -> Counter[tuple[str, str, str]]:
    """Count subjects that are not live by (state, scope, reason), the policy's and the overlay's."""
    policy = conform(release.store.read_table(f"{release.name}/states.parquet"), STATE)
    worst = release.states().worst
    said = {
        (row["scope"], row["id"]): row
        for table in (policy, read_overlay(release.store))
        for row in table.to_pylist()
        if row["state"] == worst[row["scope"], row["id"]] != "live"
    }
    return Counter((row["state"], row["scope"], row["reason"]) for row in said.values())


def summary(build: Build, release: Release | None = None) -> dict[str, Any]:
    """Return the numbers of a build and its release as plain JSON values, for programs and the terminal."""
    facts = Facts(build)
    counted = {
        "recipe": facts.manifest["recipe"]["name"],
        "manifest": facts.manifest["number"],
        "units": facts.units.num_rows,
        "groups": len(pc.unique(facts.units["group"])),
        "articles": facts.articles.num_rows,
        "media": facts.media.num_rows,
        "media_bytes": facts.bytes_of_media,
        "examples": facts.examples.num_rows,
        "shards": len(facts.shards),
        "refused": sum(r.count for r in facts.refused),
        "units_by_split": _sorted(tally(facts.units, "split")),
        "media_by_layout": _sorted(tally(facts.media, "layout")),
        "media_by_modality": _sorted(tally(facts.media, "modality")),
        "examples_by_task": _sorted(tally(facts.examples, "task")),
        "refused_by_reason": _sorted(_by_reason(facts.refused)),
    }
    if release is not None:
        by_state = states(release)
        counted["release"] = {
            "number": release.number,
            "rows": release.rows.num_rows,
            **{state: by_state.get(state, 0) for state in ("live", "withheld", "withdrawn")},
        }
    return counted


def _by_reason(refused: list[Refused]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for entry in refused:
        counted[entry.reason] += entry.count
    return counted


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))
