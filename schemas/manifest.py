"""Manifests: each commits a state of a build by digests and is kept; `manifest.json` copies the newest."""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from medloom.schemas.errors import FormatError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION

NEWEST = "manifest.json"
_LAYOUTS = "|".join(sorted(LAYOUTS, key=len, reverse=True))
COMMITTED = ("plan", "media", "index", "ledger", "tables", "examples")  # what a manifest lists; private/ never


def list_files(store: Store) -> list[str]:
    """Return the paths of all files that a manifest lists, sorted.

    Cards (README.md) describe them and are no facts, nor are extras for other loaders.
    """
    found: list[str] = []
    pending = list(COMMITTED)
    while pending:
        folder = pending.pop()
        found += [f"{folder}/{name}" for name in store.names(folder) if name != "README.md" and not is_extra(name)]
        pending += [f"{folder}/{name}" for name in store.folders(folder)]
    finished = {name for name in found if name.startswith("ledger/")}
    return sorted(name for name in found if _of_finished(name, finished))


def is_extra(name: str) -> bool:
    """Whether a file is the offsets of a tar for another loader (`medloom extras`), which no manifest lists."""
    return name.endswith(".tar.idx")


def _of_finished(name: str, ledgers: set[str]) -> bool:
    """Whether a file is none of a shard, or of one that its ledger has committed."""
    part = re.fullmatch(rf"(?:media|index)/(.+)-(?:{_LAYOUTS})-(\d{{6}})\.(?:tar|parquet)", name)
    return part is None or f"ledger/{part[1]}-{part[2]}.json" in ledgers


def holds(manifest: dict[str, Any], store: Store, folders: tuple[str, ...], known: dict[str, str]) -> bool:
    """Whether `manifest` lists the files in `folders` just as they are now; `known` as in `commit`."""
    listed = {name: facts for name, facts in manifest["files"].items() if name.split("/")[0] in folders}
    now = [name for name in list_files(store) if name.split("/")[0] in folders]
    return sorted(listed) == now and _digest_files(store, now, known) == listed


def commit(store: Store, *, recipe: dict[str, Any], counts: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """Write the next manifest if the state of the build is not the newest one's; return the newest.

    Args:
        recipe: name, parameters and fingerprints of the steps, as recorded facts.
        counts: numbers by name ("units", "media", "refused", …).
        known: sha256 by path, of files digested already (ledgers hold those of tars), so as not to read them again.
    """
    newest = read_newest(store)
    files = _digest_files(store, list_files(store), known)
    state = {"format_version": FORMAT_VERSION, "recipe": recipe, "counts": counts, "files": files}
    if newest and all(newest[name] == state[name] for name in state):
        write_newest(store, newest)
        return newest
    number = newest["number"] + 1 if newest else 1
    parent = sha256_hex(canonical_json(newest)) if newest else ""
    manifest = {**state, "number": number, "parent": parent}
    if not store.create(f"manifests/{number:04d}.json", _bytes(manifest)):
        raise FormatError(f"{store.url}: manifest {number} was written by another run; only one may write at a time")
    write_newest(store, manifest)
    return manifest


def write_newest(store: Store, manifest: dict[str, Any]) -> None:
    """Make `manifest.json` the copy of `manifest`, if it is not."""
    if not store.exists(NEWEST) or store.read(NEWEST) != _bytes(manifest):
        store.write(NEWEST, _bytes(manifest))


def read_newest(store: Store) -> dict[str, Any] | None:
    """Return the newest numbered manifest, or None for a build that has committed nothing."""
    names = [n for n in store.names("manifests") if n.endswith(".json")]
    return parse(store.read(f"manifests/{names[-1]}"), where=f"{store.url}/manifests/{names[-1]}") if names else None


def digest_of_manifest(manifest: dict[str, Any]) -> str:
    """Return the sha256 by which a release pins a state of a build."""
    return sha256_hex(canonical_json(manifest))


class _Absent(FormatError, KeyError):
    """A file of ours lacks what every one has."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Facts(dict[str, Any]):
    """A JSON object of a file, which tells of what it lacks as damage to that file."""

    __slots__ = ("where",)
    where: str

    def __missing__(self, key: str) -> Any:
        raise _Absent(f"{self.where} has no {key!r} where it must: it was changed after it was written; restore it")


def parse(data: bytes, *, where: str) -> dict[str, Any]:
    """Return a JSON file of ours whose `format_version` this code reads; asking it for what it lacks is a FormatError.

    Raises:
        FormatError: it is not JSON, or of a format newer than this code.
    """

    def told(pairs: list[tuple[str, Any]]) -> _Facts:
        facts = _Facts(pairs)
        facts.where = where
        return facts

    try:
        value = json.loads(data, object_pairs_hook=told)
        version = int(value["format_version"])
    except (ValueError, KeyError, TypeError) as fault:
        raise FormatError(f"cannot read {where}: it is not a JSON file of MedLoom ({fault!r})") from fault
    if version > FORMAT_VERSION:
        raise FormatError(
            f"cannot read {where}: format_version {version} is newer than {FORMAT_VERSION}, which this MedLoom reads; "
            "update MedLoom"
        )
    return cast(_Facts, value)


def _bytes(manifest: dict[str, Any]) -> bytes:
    return (canonical_json(manifest) + "\n").encode()


def _digest_files(store: Store, names: list[str], known: dict[str, str]) -> dict[str, dict[str, Any]]:
    def one(name: str) -> tuple[str, dict[str, Any]]:
        if name in known:
            return name, {"sha256": known[name], "size": store.size(name)}
        digest, size = hashlib.sha256(), 0
        with store.fs.open(store.path(name), "rb") as file:
            while block := file.read(16 << 20):
                digest.update(block)
                size += len(block)
        return name, {"sha256": digest.hexdigest(), "size": size}

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(one, names))
