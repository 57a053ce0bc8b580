"""Lint: whether every byte and row of a build is what its ledgers, indexes and manifest say; it reads, never writes.

Tars are streamed once, in order, a few MiB at a time; of a shard, only its index is held in memory.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import crc32c
import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import is_key
from medloom.schemas.manifest import list_files
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release, resolve_uri
from medloom.schemas.shard import BLOCK, ShardName

PIECE = 4 << 20
NAMED = 5  # keys in one finding
REBUILD = "delete the shard's ledger and run `medloom media` again, which writes the same bytes"
EXAMPLES_AGAIN = "delete it and run `medloom examples` again"
AGAIN = "run the build again, which commits its present state, or restore the file"


@dataclass(frozen=True)
class Finding:
    """Something on disk that is not as promised.

    Attributes:
        path: of the file, relative to the build.
        what: short.fixed.name of the promise.
        found: what is there instead, naming keys at most.
        mend: what to do about it.
    """

    path: str
    what: str
    found: str
    mend: str


def lint(build: Build, *, release: Release | None = None) -> list[Finding]:
    """Return all that is wrong with a build, and with the rows that a release takes from it, by path.

    Raises:
        FormatError: the build has no manifest, or one of a newer format.
    """
    findings = [*_manifest(build), *_plan(build)]
    keys: list[pa.Array] = []
    for shard, ledger in build.ledgers():
        findings += _shard(build, shard, ledger, keys)
    findings += _examples(build, pa.chunked_array(keys, pa.string()))
    if release is not None:
        findings += _release(build, release)
    return sorted(findings, key=lambda f: (f.path, f.what, f.found))


def _manifest(build: Build) -> Iterator[Finding]:
    """Files against the newest manifest; tars are compared by size here and by content against their ledger."""
    listed = build.manifest()["files"]
    for path in list_files(build.store):
        if path not in listed:
            yield Finding(path, "file.uncommitted", "no manifest lists it", AGAIN)
    for path, promised in listed.items():
        if not build.store.exists(path):
            yield Finding(path, "file.missing", "the manifest lists it and it is not there", AGAIN)
        elif build.store.size(path) != promised["size"]:
            found = f"{build.store.size(path)} bytes, the manifest says {promised['size']}"
            yield Finding(path, "file.size", found, AGAIN)
        elif not path.endswith(".tar"):
            sum_ = _sha256(build, path)
            if sum_ != promised["sha256"]:
                found = f"{sum_[:12]}…, the manifest says {promised['sha256'][:12]}…"
                yield Finding(path, "file.sha256", found, AGAIN)


def _plan(build: Build) -> Iterator[Finding]:
    listed = build.manifest()["files"]
    ledgers = dict(build.ledgers())
    for shard in build.shards:
        if shard not in ledgers:
            yield Finding(shard.ledger, "shard.unfinished", "the plan has this shard and no ledger commits it", AGAIN)
    committed = {shard.tar(layout) for shard, ledger in ledgers.items() for layout in ledger["tars"]}
    for name in build.store.names("media"):
        if f"media/{name}" not in committed:
            yield Finding(f"media/{name}", "file.stray", "no ledger names it", "delete it, or finish its shard")
    for shard, ledger in ledgers.items():
        for layout, tar in ledger["tars"].items():
            promised = listed.get(shard.tar(layout), {}).get("sha256")
            if promised != tar["sha256"]:
                found = f"the manifest says {str(promised)[:12]}…, the ledger {tar['sha256'][:12]}…"
                yield Finding(shard.tar(layout), "ledger.manifest", found, AGAIN)


def _shard(build: Build, shard: ShardName, ledger: dict[str, Any], keys: list[pa.Array]) -> Iterator[Finding]:
    """Check one shard against its ledger and add its keys to `keys`."""
    planned = [unit["unit"] for unit in build.shards.get(shard, [])]
    taken = [unit["unit"] for unit in ledger["units"]]
    if planned != taken:
        found = f"units other than the plan's, or in another order: {_few(sorted(set(planned) ^ set(taken)) or taken)}"
        yield Finding(shard.ledger, "ledger.units", found, REBUILD)
    indexed: set[str] = set()
    for layout, promised in ledger["tars"].items():
        if not build.store.exists(shard.tar(layout)) or not build.store.exists(shard.index(layout)):
            yield Finding(shard.tar(layout), "file.missing", "the ledger names this tar and its index", REBUILD)
            continue
        try:
            rows = build.store.read_table(shard.index(layout)).to_pylist()
        except (OSError, ValueError) as fault:
            yield Finding(shard.index(layout), "index.form", f"not a readable Parquet file: {fault}", REBUILD)
            continue
        keys.append(pa.array([row["key"] for row in rows], pa.string()))
        indexed |= {row["key"] for row in rows}
        yield from _index(build, shard, layout, rows, promised)
        yield from _tar(build, shard.tar(layout), rows, promised)
    kept = {key for unit in ledger["units"] for key in unit["kept"]}
    if kept != indexed:
        found = f"kept by the ledger and not indexed, or the other way round: {_few(sorted(kept ^ indexed))}"
        yield Finding(shard.ledger, "ledger.kept", found, REBUILD)


def _index(
    build: Build, shard: ShardName, layout: str, rows: list[dict[str, Any]], promised: dict[str, Any]
) -> Iterator[Finding]:
    path = shard.index(layout)
    if _sha256(build, path) != promised["index_sha256"]:
        yield Finding(path, "index.sha256", "its bytes are not those that the ledger committed", REBUILD)
    wanted, fields = LAYOUTS.get(layout, ()), _fields(rows)
    for what, wrong in {
        "key.form": [key for key in fields if not is_key(key)],
        "key.order": [] if list(fields) == sorted(fields) else list(fields),
        "fields": [key for key, have in fields.items() if tuple(have) != wanted],
        "split": [row["key"] for row in rows if row["split"] != shard.split],
        "layout": [row["key"] for row in rows if row["layout"] != layout],
        "offset": [row["key"] for row in rows if row["offset"] % BLOCK or row["size"] <= 0],
    }.items():
        if wrong:
            found = f"{len(wrong)} keys break the rule: {_few(wrong)}"
            yield Finding(path, f"index.{what}", found, REBUILD)
    if len(fields) != promised["samples"]:
        yield Finding(path, "index.samples", f"{len(fields)}, the ledger says {promised['samples']}", REBUILD)


def _tar(build: Build, path: str, rows: list[dict[str, Any]], promised: dict[str, Any]) -> Iterator[Finding]:
    digest = hashlib.sha256()
    with build.store.fs.open(build.store.path(path), "rb") as file:
        tee = _Tee(file, digest)
        try:
            yield from _members(tee, path, rows)
        except tarfile.TarError as fault:
            yield Finding(path, "tar.form", f"not a readable tar: {fault}", REBUILD)
        while tee.read(PIECE):
            pass
    if digest.hexdigest() != promised["sha256"]:
        found = f"{digest.hexdigest()[:12]}…, the ledger says {promised['sha256'][:12]}…"
        yield Finding(path, "tar.sha256", found, REBUILD)


class _Tee:
    """A reader that digests what passes, so that a tar is read once for its members and its sum."""

    def __init__(self, file: IO[bytes], digest: Any):
        self._file, self._digest = file, digest

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data


def _members(file: _Tee, path: str, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Compare members with index rows one by one, in order."""
    expected = iter(rows)
    with tarfile.open(fileobj=file, mode="r|", bufsize=PIECE) as tar:  # type: ignore[call-overload]
        for member in tar:
            row = next(expected, None)
            if row is None:
                yield Finding(path, "tar.members", f"{member.name} and what follows is not in the index", REBUILD)
                return
            promised = (f"{row['key']}.{row['field']}", row["size"], row["offset"])
            have = (member.name, member.size, member.offset_data)
            if have != promised or not member.isreg():
                found = "name, size and offset are {!r}, {}, {}, the index says {!r}, {}, {}".format(*have, *promised)
                yield Finding(path, "tar.header", found, REBUILD)
                return
            content, sum_ = tar.extractfile(member), 0
            while content is not None and (piece := content.read(PIECE)):
                sum_ = crc32c.crc32c(piece, sum_)
            if sum_ != row["crc32c"]:
                yield Finding(path, "member.crc32c", f"{member.name}: its bytes are not the index's", REBUILD)
    left = next(expected, None)
    if left is not None:
        yield Finding(path, "tar.members", f"{left['key']}.{left['field']} of the index is not in the tar", REBUILD)


def _examples(build: Build, keys: pa.ChunkedArray) -> Iterator[Finding]:
    units = pa.array([unit["unit"] for planned in build.shards.values() for unit in planned], pa.string())
    seen: set[str] = set()
    for task, print_ in sorted(build.manifest()["recipe"]["tasks"].items()):
        for path in build.example_parts(task, print_[:12]):
            try:
                rows = build.store.read_table(path, ["example_id", "unit", "task", "media"])
            except (OSError, ValueError) as fault:
                yield Finding(path, "example.form", f"not a readable Parquet file: {fault}", EXAMPLES_AGAIN)
                continue
            flat = pc.list_flatten(rows["media"])
            for what, wrong in {
                "media": flat.filter(pc.invert(pc.is_in(flat, value_set=keys))).to_pylist(),
                "unit": rows["unit"].filter(pc.invert(pc.is_in(rows["unit"], value_set=units))).to_pylist(),
                "task": rows["example_id"].filter(pc.not_equal(rows["task"], task)).to_pylist(),
                "twice": [name for name in rows["example_id"].to_pylist() if name in seen or seen.add(name)],  # type: ignore[func-returns-value]
            }.items():
                if wrong:
                    found = f"{len(wrong)} rows name what does not fit: {_few(wrong)}"
                    yield Finding(path, f"example.{what}", found, EXAMPLES_AGAIN)


def _release(build: Build, release: Release) -> Iterator[Finding]:
    """Rows of the release against the example rows that they point at, part by part."""
    folder = f"{release.url}/{release.name}"
    try:
        rows = release.rows
    except FormatError as fault:
        yield Finding(f"{folder}/rows.parquet", "release.rows", str(fault), "make a new release")
        return
    uris = [resolve_uri(pinned["uri"], base=release.url) for pinned in release.facts["builds"]]
    ours = [number for number, uri in enumerate(uris) if Build(uri).store.root == build.store.root]
    if not ours:
        yield Finding(f"{folder}/release.json", "release.builds", "it pins no build of this URL", "name its builds")
    for number in ours:
        pinned = release.facts["builds"][number]
        path = f"manifests/{pinned['number']:04d}.json"
        if not build.store.exists(path):
            yield Finding(path, "release.manifest", f"release {release.number} pins it", "restore it")
        yield from _release_rows(build, release, rows.filter(pc.equal(rows["build"], number)))


def _release_rows(build: Build, release: Release, mine: pa.Table) -> Iterator[Finding]:
    for part in sorted(pc.unique(mine["part"]).to_pylist()):
        wanted = mine.filter(pc.equal(mine["part"], part))
        if not build.store.exists(part):
            yield Finding(part, "release.part", f"{wanted.num_rows} rows of the release stand in it", AGAIN)
            continue
        have = build.store.read_table(part, ["example_id"])["example_id"].to_pylist()
        pairs = zip(wanted["row"].to_pylist(), wanted["example_id"].to_pylist(), strict=True)
        gone = [name for row, name in pairs if not 0 <= row < len(have) or have[row] != name]
        if gone:
            found = f"{len(gone)} rows of release {release.number} are not where it says: {_few(gone)}"
            yield Finding(part, "release.row", found, "make a new release")


def _fields(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for row in rows:
        fields.setdefault(row["key"], []).append(row["field"])
    return fields


def _few(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def _sha256(build: Build, path: str) -> str:
    digest = hashlib.sha256()
    with build.store.fs.open(build.store.path(path), "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
