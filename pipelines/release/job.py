"""The step `release`: builds + a policy become a numbered release; overlays of states come after it."""

import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from medloom.pipelines.release.rows import example_rows, media_rows, release_rows
from medloom.pipelines.release.states import Policy, states
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import ConfigError, GateError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.manifest import digest_of_manifest
from medloom.schemas.release import SCOPES, Release, States, append_overlay, parse_query, read_overlay, relative_uri
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, RELEASE_ROW, STATE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def make_release(urls: list[str], to: str, *, policy: Policy, master: str) -> Release:
    """Write the next release of `urls` at `to`, or return the newest when it would be the same.

    Raises:
        SourceError: one of `urls` is no build.
        FormatError: one of them has committed nothing.
    """
    from medloom.pipelines.spark import session

    store = Store(to)
    builds = [Build(url).must_exist() for url in urls]
    pinned = [
        {"uri": relative_uri(b.url, base=store.url), "number": m["number"], "manifest": digest_of_manifest(m)}
        for b, m in ((b, b.manifest()) for b in builds)
    ]
    spark = session(master, name="medloom release")
    media, examples = media_rows(spark, builds), example_rows(spark, builds)
    with tempfile.TemporaryDirectory(prefix="medloom-spark-") as scratch:
        rows = _collect(release_rows(examples, media), ["example_id"], RELEASE_ROW, Path(scratch) / "rows")
        found = states(spark, builds, examples, media, policy)
        said = _collect(found, ["scope", "id", "reason", "by"], STATE, Path(scratch) / "states")
    spark.catalog.clearCache()
    return write_release(store, rows, said, {"builds": pinned, "policy": asdict(policy)})


def _collect(frame: "DataFrame", keys: list[str], schema: pa.Schema, folder: Path) -> pa.Table:
    frame.coalesce(1).sortWithinPartitions(*keys).write.parquet(folder.as_uri())
    return conform(pa.concat_tables(pq.read_table(p) for p in sorted(folder.glob("part-*.parquet"))), schema)


def write_release(store: Store, rows: pa.Table, said: pa.Table, facts: dict[str, Any]) -> Release:
    """Write rows and states as the next release, or return the newest when it would be the same."""
    done = [int(f) for f in store.folders("") if f.isdigit() and store.exists(f"{f}/release.json")]
    newest = Release(store.url) if done else None
    name = f"{(max(done) if done else 0) + 1:04d}"
    metadata = {"format_version": str(FORMAT_VERSION)}
    store.delete_folder(name)  # what a killed run left: without release.json it was never a release
    store.write_table(f"{name}/rows.parquet", rows, metadata)
    store.write_table(f"{name}/states.parquet", said, metadata)
    facts = {
        "format_version": FORMAT_VERSION,
        **facts,
        "counts": _counts(rows, States.of(said), said),
        "rows_sha256": sha256_hex(store.read(f"{name}/rows.parquet")),
        "states_sha256": sha256_hex(store.read(f"{name}/states.parquet")),
    }
    if newest and all(newest.facts[key] == value for key, value in facts.items()):
        store.delete_folder(name)
        return newest
    release = {**facts, "number": int(name), "parent": newest.digest if newest else ""}
    if not store.exists("overlay"):
        store.write_table("overlay/0001.parquet", STATE.empty_table(), metadata)
    store.write(f"{name}/release.json", (canonical_json(release) + "\n").encode())
    return Release(store.url, number=int(name))


def _counts(rows: pa.Table, by_policy: States, said: pa.Table) -> dict[str, Any]:
    live: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for row in rows.to_pylist():
        if by_policy.of_row(row) == "live":
            live[row["split"]] += 1
            tasks[row["task"]] += 1
    return {
        "rows": rows.num_rows,
        "live": dict(sorted(live.items())),
        "tasks": dict(sorted(tasks.items())),
        "withheld": dict(sorted(Counter(said["reason"].to_pylist()).items())),
    }


def overlay(to: str, subjects: list[str], *, state: str, reason: str, by: str) -> str:
    """Append a state for each `SCOPE:ID` of `subjects`, and return the path of the new part.

    Raises:
        ConfigError: a subject is not of that form, its scope is unknown, a withdrawn one would be lifted, or no reason
            is given.
        SourceError: there is no release at `to`.
    """
    release = Release(to)
    if not reason:
        raise ConfigError(f"to say that something is {state} needs --reason TEXT, which the overlay keeps")
    have = States.of(read_overlay(release.store)).worst
    rows = []
    for subject in subjects:
        scope, colon, name = subject.partition(":")
        if scope not in SCOPES or not colon or not name:
            raise ConfigError(f"{subject!r} is not SCOPE:ID; scopes are {', '.join(SCOPES)}")
        if scope == "query":
            parse_query(name)
        if state == "live" and have.get((scope, name)) == "withdrawn":
            raise ConfigError(f"{subject} was withdrawn, and a withdrawal is for good")
        rows.append({"scope": scope, "id": name, "state": state, "reason": reason, "by": by})
    return append_overlay(release.store, rows)


def must_be_live(release: Release) -> None:
    """Check that a release keeps something.

    Raises:
        GateError: no example of it is live.
    """
    if not release.facts["counts"]["live"]:
        raise GateError(
            f"release {release.number} at {release.url} keeps nothing: {release.facts['counts']['withheld']}; "
            "`medloom report` shows what was withheld and why"
        )
