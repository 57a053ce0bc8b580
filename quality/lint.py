"""Lint: whether every byte and row of a build is what its ledgers, indexes and manifest say; it reads, never writes."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from medloom.quality.finding import BUILD_AGAIN, REPAIR, Finding, sha256_of
from medloom.quality.lint_examples import lint_examples
from medloom.quality.lint_release import lint_release
from medloom.quality.lint_shards import lint_shard, read_ledgers
from medloom.quality.lint_tokens import lint_tokens
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.manifest import NEWEST, digest_of_manifest, is_extra, list_files, parse
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import PLAN

Ledgers = dict[ShardName, dict[str, Any]]
__all__ = ["Finding", "lint"]


def lint(build: Build, *, release: Release | None = None) -> list[Finding]:
    """Return all that is wrong with a build, and with a release and the rows that it takes from the build, by path.

    Raises:
        FormatError: the build has no manifest, or one of a newer format.
    """
    if unread := unread_manifests(build):
        return unread  # without the newest nobody can say what is promised
    findings = [*_manifests(build), *_files(build)]
    if unread := list(_unread_plan(build)):  # nor without the plan what belongs where
        return sorted({*findings, *unread}, key=_order)
    ledgers, faults = read_ledgers(build)
    findings += faults
    findings += [*_counts(build, ledgers), *_plan(build, ledgers)]
    for where, store in (("", build.store), *((f"{release.url}/", release.store) for _ in [0] if release)):
        findings += [
            Finding(where + path, "file.partial", "a killed run left it, or another is writing now", REPAIR)
            for path in partial_files(store)
        ]
    keys: list[pa.Array] = []
    for shard, ledger in ledgers.items():
        findings += lint_shard(build, shard, ledger, keys)
    findings += lint_examples(build, pa.chunked_array(keys, pa.string()))
    findings += lint_tokens(build)
    if release is not None:
        findings += lint_release(build, release)
    return sorted(set(findings), key=_order)


def _order(finding: Finding) -> tuple[str, str, str]:
    return finding.path, finding.what, finding.found


def _unread_plan(build: Build) -> Iterator[Finding]:
    for name in build.store.names("plan"):
        if not name.endswith(".parquet"):
            continue
        try:
            build.store.read_table(f"plan/{name}", PLAN.names)
        except (OSError, ValueError, KeyError) as fault:
            yield Finding(f"plan/{name}", "plan.form", f"not a readable plan: {fault}", "restore the file")


def partial_files(store: Store) -> list[str]:
    """Return the files of this machine that a killed run left half written, sorted."""
    if not store.is_local:
        return []
    root = store.local("")
    return sorted(str(path.relative_to(root)) for path in root.rglob(".partial-*") if path.is_file())


def unread_manifests(build: Build) -> list[Finding]:
    """Return what is wrong with the newest manifest where it cannot be read.

    Raises:
        FormatError: the build has none.
    """
    names = [name for name in build.store.names("manifests") if name.endswith(".json")]
    try:
        build.manifest()
    except FormatError as fault:
        if not names:
            raise
        return [Finding(f"manifests/{names[-1]}", "manifest.form", str(fault), REPAIR)]
    return []


def _manifests(build: Build) -> Iterator[Finding]:
    """The chain of numbered manifests, the copy of the newest, and what the newest counts."""
    newest = build.manifest()
    if not build.store.exists(NEWEST) or sha256_hex(build.store.read(NEWEST)) != sha256_of(
        build.store, f"manifests/{newest['number']:04d}.json"
    ):
        yield Finding(NEWEST, "manifest.copy", f"it is no copy of manifest {newest['number']}", REPAIR)
    parent = ""
    for name in (name for name in build.store.names("manifests") if name.endswith(".json")):
        try:
            manifest = parse(build.store.read(f"manifests/{name}"), where=name)
        except FormatError as fault:
            yield Finding(f"manifests/{name}", "manifest.form", str(fault), "restore the file")
            parent = "?"
            continue
        if parent != "?" and manifest["parent"] != parent:
            found = "its parent is not the manifest before it"
            yield Finding(f"manifests/{name}", "manifest.parent", found, "restore the one that was changed")
        parent = digest_of_manifest(manifest)


def _counts(build: Build, ledgers: Ledgers) -> Iterator[Finding]:
    """Numbers of the newest manifest that ledgers, plan and parts of examples tell as well."""
    manifest = build.manifest()
    media: dict[str, int] = {}
    for ledger in ledgers.values():
        for layout, tar in ledger["tars"].items():
            media[layout] = media.get(layout, 0) + tar["samples"]
    examples = {}
    for task, print_ in manifest["recipe"]["tasks"].items():
        try:
            examples[task] = sum(build.store.rows_of(part) for part in build.example_parts(task, print_[:12]))
        except (OSError, ValueError):
            return  # told of the examples
    found = {"units": sum(map(len, build.shards.values())), "media": media, "examples": examples}
    for what, number in found.items():
        said = manifest["counts"].get(what, number)
        if isinstance(said, int) and isinstance(number, dict):
            number = sum(number.values())
        if said != number:
            path = f"manifests/{manifest['number']:04d}.json"
            yield Finding(path, "manifest.counts", f"{number} {what}, it says {said}", BUILD_AGAIN)


def _files(build: Build) -> Iterator[Finding]:
    """Files against the newest manifest; tars are compared by size here and by content against their ledger."""
    listed = build.manifest()["files"]
    for path in list_files(build.store):
        if path not in listed:
            yield Finding(path, "file.uncommitted", "no manifest lists it", BUILD_AGAIN)
    for path, promised in listed.items():
        if not build.store.exists(path):
            yield Finding(path, "file.missing", "the manifest lists it and it is not there", BUILD_AGAIN)
        elif build.store.size(path) != promised["size"]:
            found = f"{build.store.size(path)} bytes, the manifest says {promised['size']}"
            yield Finding(path, "file.size", found, BUILD_AGAIN)
        elif not path.endswith(".tar"):
            sum_ = sha256_of(build.store, path)
            if sum_ != promised["sha256"]:
                found = f"{sum_[:12]}…, the manifest says {promised['sha256'][:12]}…"
                yield Finding(path, "file.sha256", found, BUILD_AGAIN)


def _plan(build: Build, ledgers: Ledgers) -> Iterator[Finding]:
    listed = build.manifest()["files"]
    for shard in build.shards:
        if shard not in ledgers:
            found = "the plan has this shard and no ledger commits it"
            yield Finding(shard.ledger, "shard.unfinished", found, BUILD_AGAIN)
    committed = {shard.tar(layout) for shard, ledger in ledgers.items() for layout in ledger["tars"]}
    for name in build.store.names("media"):
        if f"media/{name}" not in committed and not is_extra(name):
            yield Finding(f"media/{name}", "file.stray", "no ledger names it", "delete it, or finish its shard")
    for shard, ledger in ledgers.items():
        for layout, tar in ledger["tars"].items():
            promised = listed.get(shard.tar(layout), {}).get("sha256")
            if promised != tar["sha256"]:
                found = f"the manifest says {str(promised)[:12]}…, the ledger {tar['sha256'][:12]}…"
                yield Finding(shard.tar(layout), "ledger.manifest", found, BUILD_AGAIN)
