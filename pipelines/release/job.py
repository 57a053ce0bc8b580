"""The step `release`: builds + a policy become a numbered release; overlays of states come after it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import filelock
import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.release.near import RULES
from medloom.pipelines.release.rows import example_rows, media_rows, release_rows
from medloom.pipelines.release.states import Policy, states
from medloom.pipelines.steps import read_gate
from medloom.quality.checks import SOFT_CHECKS
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import ConfigError, FormatError, GateError, RetryLater
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.manifest import digest_of_manifest
from medloom.schemas.origin import TERMS_VERSION
from medloom.schemas.release import (
    SCOPES,
    Release,
    States,
    append_overlay,
    find_release,
    parse_query,
    read_overlay,
    relative_uri,
)
from medloom.schemas.release_index import is_whole
from medloom.schemas.release_indexing import write_release_index
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, RELEASE_ROW, STATE

VERSION = "4"  # changes when equal builds and policy would give other rows or states

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def make_release(urls: list[str], to: str, *, policy: Policy, master: str) -> Release:
    """Write the next release of `urls` at `to`, or return the newest when it would be the same.

    Raises:
        SourceError: one of `urls` is no build.
        FormatError: one of them has committed nothing.
        RetryLater: another run is making a release there.
    """
    builds = list({Store(url).root: Build(url).must_exist() for url in urls}.values())
    with _locked(store := Store(to)):
        return _make(store, builds, policy, master)


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Keep two runs from taking the same number; what streams a release reads on."""
    if not store.is_local:  # an object store has no lock that dies with its holder; release.json is never replaced
        yield
        return
    store.make_folder("")
    lock = filelock.FileLock(store.local(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RetryLater(f"another run is making a release at {store.url}; run the same command again") from None
    try:
        yield
    finally:
        lock.release()


def _must_not_be_shut(build: Build) -> None:
    kept = read_gate(build)
    if kept and not kept["success"]:
        raise GateError(
            f"the gate did not pass {build.url} as it is now, so it cannot be released; `medloom gate {build.url}` "
            "tells why"
        )


def _make(store: Store, builds: list[Build], policy: Policy, master: str) -> Release:
    for build in builds:
        _must_not_be_shut(build)
    pinned = [
        {"uri": relative_uri(b.url, base=store.url), "number": m["number"], "manifest": digest_of_manifest(m)}
        for b, m in ((b, b.manifest()) for b in builds)
    ]
    facts = {"builds": pinned, "policy": asdict(policy), "rules": _rules()}
    newest = find_release(store.url)
    if newest and _is(newest, facts):
        return newest
    rows, said = _rows_and_states(builds, policy, master)
    return write_release(store, rows, said, facts)


def _rules() -> dict[str, Any]:
    """Return what besides builds and policy decides rows and states."""
    checks = [f"{check.name} {check.version}" for check in SOFT_CHECKS if check.severity == "withhold"]
    return {"version": VERSION, "checks": checks, "terms": TERMS_VERSION, "near": RULES}


def _is(release: Release, facts: dict[str, Any]) -> bool:
    """Whether a release was made of these facts and its rows and index are still those that were written."""
    try:
        same = all(release.facts.get(key) == value for key, value in facts.items())
        return same and bool(release.rows.schema) and is_whole(release)
    except (FormatError, FileNotFoundError):
        return False


def _rows_and_states(builds: list[Build], policy: Policy, master: str) -> tuple[pa.Table, pa.Table]:
    from medloom.pipelines.spark import session

    spark = session(master, name="medloom release")
    media, examples = media_rows(spark, builds), example_rows(spark, builds)
    try:
        rows = _collect(release_rows(examples, media), ["example_id"], RELEASE_ROW)
        said = _collect(states(spark, builds, examples, media, policy), ["scope", "id", "reason", "by"], STATE)
    finally:
        spark.catalog.clearCache()
    return rows, said


def _collect(frame: "DataFrame", keys: list[str], schema: pa.Schema) -> pa.Table:
    return conform(frame.sort(*keys).toArrow(), schema)


def write_release(store: Store, rows: pa.Table, said: pa.Table, facts: dict[str, Any]) -> Release:
    """Write rows and states as the next release, or return the newest when it would be the same."""
    newest = find_release(store.url)
    name = _claimed(store, (newest.number if newest else 0) + 1)
    metadata = {"format_version": str(FORMAT_VERSION)}
    rows, index = write_release_index(store, name, rows, facts["builds"])
    store.write_table(f"{name}/rows.parquet", rows, metadata)
    store.write_table(f"{name}/states.parquet", said, metadata)
    facts = {
        "format_version": FORMAT_VERSION,
        **facts,
        "index": index,
        "counts": _counts(rows, States.of(said), said),
        "rows_sha256": sha256_hex(store.read(f"{name}/rows.parquet")),
        "states_sha256": sha256_hex(store.read(f"{name}/states.parquet")),
    }
    if newest and _is(newest, facts):
        store.delete_folder(name)
        return newest
    release = {**facts, "number": int(name), "parent": newest.digest if newest else ""}
    if not store.exists("overlay"):
        store.write_table("overlay/0001.parquet", STATE.empty_table(), metadata)
    if not store.create(f"{name}/release.json", (canonical_json(release) + "\n").encode()):
        raise RetryLater(f"another run made release {int(name)} at {store.url}; run the same command again")
    return Release(store.url, number=int(name))


def _claimed(store: Store, number: int) -> str:
    """Return the name of a release's folder in which nobody else writes.

    Locally the lock sees to it, and what a killed run left is deleted. On an object store the first to create `claim`
    has the number; a killed run keeps it, which leaves a gap.
    """
    if store.is_local:
        store.delete_folder(f"{number:04d}")  # without release.json it was never a release
        return f"{number:04d}"
    while not store.create(f"{number:04d}/claim", b""):
        number += 1
    return f"{number:04d}"


def _counts(rows: pa.Table, by_policy: States, said: pa.Table) -> dict[str, Any]:
    live = rows.filter(pc.equal(by_policy.of_rows(rows), "live"))
    return {
        "rows": rows.num_rows,
        "live": _tally(live["split"]),
        "tasks": _tally(live["task"]),
        "withheld": _tally(said["reason"]),
    }


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(column.to_pylist()).items()))


def overlay(to: str, subjects: list[str], *, state: str, reason: str, by: str) -> str:
    """Append a state for each `SCOPE:ID` of `subjects`, and return the path of the new part.

    Raises:
        ConfigError: a subject is not of that form, its scope is unknown, nothing of that name is in the release, a
            withdrawn one would be lifted, or no reason is given.
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
        elif not _holds(release, scope, name):
            raise ConfigError(f"release {release.number} at {release.url} holds no {scope} {name!r}")
        if state == "live" and have.get((scope, name)) == "withdrawn":
            raise ConfigError(f"{subject} was withdrawn, and a withdrawal is for good")
        rows.append({"scope": scope, "id": name, "state": state, "reason": reason, "by": by})
    return append_overlay(release.store, rows)


def _holds(release: Release, scope: str, name: str) -> bool:
    """Whether a release speaks of a subject, or one of its builds holds it without an example."""
    by_rows = States({(scope, name): "withheld"}).of_rows(release.rows)
    if pc.any(pc.equal(by_rows, "withheld")).as_py():
        return True
    if scope == "example":
        return False
    column = "key" if scope == "medium" else "group"
    return any(pc.any(pc.equal(build.index(columns=[column])[column], name)).as_py() for build in release.builds())


def must_be_live(release: Release) -> None:
    """Check that a release keeps something.

    Raises:
        GateError: no example of it is live.
    """
    counts = release.facts["counts"]
    if not counts["live"]:
        why = ", ".join(f"{n} {reason}" for reason, n in counts["withheld"].items()) or "its builds hold no example"
        raise GateError(
            f"release {release.number} at {release.url} keeps none of its {counts['rows']} examples: {why}; "
            "`medloom report` shows what was withheld and why"
        )
