"""Repair: what of a build can be made again from what is intact, and nothing else; each file is proven by a checksum.

Bytes that were committed come back as those very bytes, so that no manifest, release or checkpoint needs to change.
What is derived and uncommitted (counts of bytes, leftovers of killed runs) is written anew or deleted.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medloom.quality.finding import MEDIA_AGAIN, RELEASE_AGAIN, Finding, sha256_of
from medloom.quality.lint import lint, partial_files, unread_manifests
from medloom.quality.lint_release import is_readable
from medloom.quality.lint_shards import read_index, read_ledgers
from medloom.quality.lint_tokens import lint_tokens, token_parts
from medloom.quality.repair_index import rebuild_index
from medloom.quality.repair_tar import CannotRepair, repair_tar
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import canonical_json
from medloom.schemas.release import Release, resolve_uri
from medloom.schemas.release_index import batches_path, has_index, index_path
from medloom.schemas.release_indexing import write_release_index
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION
from medloom.schemas.token_counts import BYTES, count, utf8_lengths

_COPY_BYTES = 16 << 20


@dataclass(frozen=True)
class Mended:
    """One file that was looked at: whether it is mended, and what was done or why nothing could be."""

    path: str
    is_mended: bool
    told: str


@dataclass(frozen=True)
class Repaired:
    """What a repair did, and what lint finds after it."""

    steps: tuple[Mended, ...]
    left: tuple[Finding, ...]


def repair(build: Build, *, release: Release | None = None) -> Repaired:
    """Mend what can be mended of a build, and of a release of it; only for the holder of the build's lock.

    Raises:
        FormatError: the build has no manifest, or one of a newer format.
    """
    steps = [*_partials(build.store), *(_partials(release.store, f"{release.url}/") if release else ())]
    pins = release if release is not None and is_readable(release) else None
    steps += _manifest(build, pins)
    if not unread_manifests(build):
        steps += _shards(build)
        steps += _tokens(build)
        steps += _release_index(pins) if pins and has_index(pins) else ()
    return Repaired(tuple(steps), tuple(lint(Build(build.url), release=release)))


def _partials(store: Store, where: str = "") -> Iterator[Mended]:
    for path in partial_files(store):
        store.delete(path)
        yield Mended(where + path, True, "deleted: a killed run had left it half written")


def _manifest(build: Build, release: Release | None) -> Iterator[Mended]:
    """Bring the newest manifest and its copy, `manifest.json`, to agree again, from the one that is intact."""
    store = build.store
    copy = _parsed(store, manifests.NEWEST)
    names = [name for name in store.names("manifests") if name.endswith(".json")]
    newest = _parsed(store, f"manifests/{names[-1]}") if names else None
    number = copy["number"] if copy else 0
    path = f"manifests/{number:04d}.json"
    is_lost = copy is not None and (
        path.rpartition("/")[2] not in names or (newest is None and path.endswith(names[-1]))
    )
    if copy is not None and is_lost:
        why = _doubt(build, copy, release)
        if why:
            yield Mended(path, False, f"manifest.json may not be what it was: {why}; restore it")
        else:
            store.delete(path)
            store.create(path, store.read(manifests.NEWEST))
            yield Mended(path, True, "written again from manifest.json")
    elif newest is not None and copy != newest:
        manifests.write_newest(store, newest)
        yield Mended(manifests.NEWEST, True, f"written again as the copy of manifests/{names[-1]}")


def _parsed(store: Store, path: str) -> dict[str, Any] | None:
    """Return a manifest if it is there and is, byte for byte, as they are written."""
    try:
        data = store.read(path)
        manifest = manifests.parse(data, where=path)
        return manifest if data == (canonical_json(manifest) + "\n").encode() else None
    except (FileNotFoundError, FormatError, ValueError):
        return None


def _doubt(build: Build, manifest: dict[str, Any], release: Release | None) -> str:
    """Return why a manifest may not be the one that was committed, "" where a release or the files say that it is."""
    digest = manifests.digest_of_manifest(manifest)
    if release and digest in {pinned["manifest"] for pinned in release.facts["builds"]}:
        return ""
    before = _parsed(build.store, f"manifests/{manifest['number'] - 1:04d}.json")
    if manifest["parent"] != (manifests.digest_of_manifest(before) if before else ""):
        return "its parent is not the manifest before it"
    for path, facts in manifest["files"].items():
        if not build.store.exists(path) or build.store.size(path) != facts["size"]:
            return f"{path} is not as it says"
        if sha256_of(build.store, path) != facts["sha256"]:
            return f"{path} is not as it says"
    return ""


def _shards(build: Build) -> Iterator[Mended]:
    """Mend indexes from tars and tars from indexes, where the ledger that commits both is intact."""
    listed = build.manifest()["files"]
    ledgers, _ = read_ledgers(build)
    for shard, ledger in ledgers.items():
        is_sure = sha256_of(build.store, shard.ledger) == listed.get(shard.ledger, {}).get("sha256")
        for layout, promised in ledger["tars"].items():
            tar, index = shard.tar(layout), shard.index(layout)
            tar_is_whole = _is(build.store, tar, promised["sha256"])
            index_is_whole = _is(build.store, index, promised["index_sha256"])
            if tar_is_whole and index_is_whole:
                continue
            if not is_sure:
                why = "the ledger that commits it is not the one that the manifest lists; restore the ledger"
                yield Mended(index if tar_is_whole else tar, False, why)
            elif tar_is_whole:
                yield _index(build, shard, layout, promised)
            elif index_is_whole:
                yield _tar(build, shard, layout, promised)
            else:
                yield Mended(tar, False, f"neither it nor its index is what was committed; {MEDIA_AGAIN}")


def _is(store: Store, path: str, sha256: str) -> bool:
    return store.exists(path) and sha256_of(store, path) == sha256


def _index(build: Build, shard: ShardName, layout: str, promised: dict[str, Any]) -> Mended:
    path = shard.index(layout)
    try:
        build.store.write(path, rebuild_index(build.store, shard, layout, promised))
    except CannotRepair as why:
        return Mended(path, False, f"{why}; {MEDIA_AGAIN}")
    return Mended(path, True, "written again from the tar, the same bytes as were committed")


def _tar(build: Build, shard: ShardName, layout: str, promised: dict[str, Any]) -> Mended:
    path = shard.tar(layout)
    if not build.store.exists(path):
        return Mended(path, False, f"it is gone, and its bytes stand nowhere else; {MEDIA_AGAIN}")
    rows = read_index(build, shard, layout)
    try:
        if isinstance(rows, Finding):
            raise CannotRepair(rows.found)
        what = repair_tar(build.store, path, rows, promised["sha256"])
    except CannotRepair as why:
        return Mended(path, False, f"{why}; {MEDIA_AGAIN}")
    return Mended(path, True, f"written again, the same bytes as were committed: {what}")


def _tokens(build: Build) -> Iterator[Mended]:
    """Count bytes again where counts are wrong, delete what counts no examples, leave other tokenizers to theirs."""
    wrong: dict[str, list[Finding]] = {}
    for found in lint_tokens(build):
        wrong.setdefault(found.path, []).append(found)
    listed = build.manifest()["files"]
    examples = {path: part for _, path, part in token_parts(build)}
    for path, findings in sorted(wrong.items()):
        tokenizer, _, tail = path.removeprefix("tokens/").partition("/")
        part = examples.get(path, f"examples/{tail}")
        if any(found.what == "tokens.stray" for found in findings):
            build.store.delete(path)
            yield Mended(path, True, f"deleted: there is no {part}")
        elif tokenizer != BYTES:
            yield Mended(path, False, f"only its tokenizer can count it; {findings[0].mend}")
        elif not _is(build.store, part, listed.get(part, {}).get("sha256", "")):
            yield Mended(path, False, f"{part} is not what the manifest lists, and is not counted")
        else:
            facts = {
                "format_version": str(FORMAT_VERSION), "tokenizer": BYTES, "tokenizer_digest": BYTES,
                "examples_sha256": listed[part]["sha256"],
            }  # fmt: skip
            rows = build.store.read_table(part, ["example_id", "turns"])
            build.store.write_table(path, count(rows, utf8_lengths), facts)
            yield Mended(path, True, f"counted again from {part}")


def _release_index(release: Release) -> Iterator[Mended]:
    """Write the index of a release again where it is not what release.json pins."""
    said = release.facts["index"]
    promised = {batches_path(release.name): said["batches_sha256"]}
    for name, facts in said["files"].items():
        split, _, layout = name.partition("-")
        promised[index_path(release.name, split, layout)] = facts["sha256"]
    wrong = [path for path, sha256 in promised.items() if not _is(release.store, path, sha256)]
    if not wrong:
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Store(folder)
        try:
            pinned = [b | {"uri": resolve_uri(b["uri"], base=release.url)} for b in release.facts["builds"]]
            write_release_index(fresh, release.name, release.rows, pinned)
        except (FormatError, OSError, ValueError) as fault:
            for path in wrong:
                yield Mended(f"{release.url}/{path}", False, f"it cannot be made again: {fault}")
            return
        for path in wrong:
            if not _is(fresh, path, promised[path]):
                why = f"made again from rows and indexes it is other bytes than release.json pins; {RELEASE_AGAIN}"
                yield Mended(f"{release.url}/{path}", False, why)
                continue
            try:
                _put_back(release.store, path, fresh, promised[path])
            except CannotRepair as why:
                yield Mended(f"{release.url}/{path}", False, f"{why}; run the same command again")
                continue
            yield Mended(f"{release.url}/{path}", True, "written again, the same bytes as release.json pins")


def _put_back(store: Store, path: str, fresh: Store, sha256: str) -> None:
    digest = hashlib.sha256()
    with store.writing(path) as file, fresh.fs.open(fresh.path(path), "rb") as made:
        while piece := made.read(_COPY_BYTES):
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != sha256:  # nothing was replaced yet
            raise CannotRepair("made again it was read as other bytes than were written; look at this machine's disk")
