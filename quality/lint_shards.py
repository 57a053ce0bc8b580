"""Lint of shards: ledger, index and tar against each other, and every member against the row that speaks of it.

Tars are streamed once, in order; of a shard, only its index and one member are held in memory.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from typing import IO, Any

import crc32c
import pyarrow as pa

from medloom.quality import finding
from medloom.quality.finding import MEDIA_AGAIN, REPAIR_MEDIA, Finding, few, sha256_of
from medloom.schemas import b2nd
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import is_key
from medloom.schemas.manifest import parse
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.shard import BLOCK, ShardName, shard_name, tally

SAID_TWICE = ("unit", "group", "split", "layout", "modality", "body_part", "plane", "source", "licence", "terms_id",
              "digest")  # fmt: skip


def read_ledgers(build: Build) -> tuple[dict[ShardName, dict[str, Any]], list[Finding]]:
    """Return the ledgers that can be read, and what is wrong with the others."""
    ledgers: dict[ShardName, dict[str, Any]] = {}
    findings = []
    for name in build.store.names("ledger"):
        path = f"ledger/{name}"
        try:
            shard = shard_name(name.removesuffix(".json"))
            ledger = parse(build.store.read(path), where=path)
            ledger["units"], ledger["tars"], ledger["counts"], ledger["refused"]
            ledgers[shard] = ledger
        except (FormatError, KeyError) as fault:
            findings.append(Finding(path, "ledger.form", f"not a readable ledger: {fault}", MEDIA_AGAIN))
    return ledgers, findings


def lint_shard(build: Build, shard: ShardName, ledger: dict[str, Any], keys: list[pa.Array]) -> Iterator[Finding]:
    """Give what is wrong with one shard, and add its keys to `keys`."""
    planned = [unit["unit"] for unit in build.shards.get(shard, [])]
    taken = [unit["unit"] for unit in ledger["units"]]
    if planned != taken:
        found = f"units other than the plan's, or in another order: {few(sorted(set(planned) ^ set(taken)) or taken)}"
        yield Finding(shard.ledger, "ledger.units", found, MEDIA_AGAIN)
    indexed: set[str] = set()
    for layout, promised in ledger["tars"].items():
        for path, mend in ((shard.tar(layout), MEDIA_AGAIN), (shard.index(layout), REPAIR_MEDIA)):
            if not build.store.exists(path):
                yield Finding(path, "file.missing", "the ledger of its shard commits it", mend)
        rows = read_index(build, shard, layout)
        if isinstance(rows, Finding):
            yield rows
            rows = []
        keys.append(pa.array([row["key"] for row in rows], pa.string()))
        indexed |= {row["key"] for row in rows}
        yield from _index(build, shard, layout, rows, promised)
        yield from _tally(shard, layout, rows, promised)
        if build.store.exists(shard.tar(layout)):
            yield from _tar(build, shard.tar(layout), rows, promised)
    kept = {key for unit in ledger["units"] for key in unit["kept"]}
    if kept != indexed:
        found = f"kept by the ledger and not indexed, or the other way round: {few(sorted(kept ^ indexed))}"
        yield Finding(shard.ledger, "ledger.kept", found, MEDIA_AGAIN)
    yield from _counts(shard, ledger)


def read_index(build: Build, shard: ShardName, layout: str) -> list[dict[str, Any]] | Finding:
    """Return the rows of an index, none where it is missing; what is wrong when it is not a readable Parquet file."""
    path = shard.index(layout)
    if not build.store.exists(path):
        return []
    try:
        rows: list[dict[str, Any]] = build.store.read_table(path).to_pylist()
        for row in rows:
            row["key"], row["field"], row["offset"], row["size"] + row["crc32c"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        return Finding(path, "index.form", f"not a readable index: {type(fault).__name__} {fault}", REPAIR_MEDIA)
    return rows


def _counts(shard: ShardName, ledger: dict[str, Any]) -> Iterator[Finding]:
    """The flow of a shard: in + made = out + refused, and what it says against what it lists."""
    counts = ledger["counts"]
    kept = sum(len(unit["kept"]) for unit in ledger["units"])
    samples = sum(tar["samples"] for tar in ledger["tars"].values())
    flows = counts["in"] + counts["made"] == counts["out"] + counts["refused"]
    if not flows or counts["out"] != kept or kept != samples:
        found = f"counts {counts} with {kept} media kept, {samples} in tars and {len(ledger['refused'])} refused"
        yield Finding(shard.ledger, "ledger.counts", found, MEDIA_AGAIN)


def _index(
    build: Build, shard: ShardName, layout: str, rows: list[dict[str, Any]], promised: dict[str, Any]
) -> Iterator[Finding]:
    path = shard.index(layout)
    if not build.store.exists(path):
        return
    if sha256_of(build.store, path) != promised["index_sha256"]:
        yield Finding(path, "index.sha256", "its bytes are not those that the ledger committed", REPAIR_MEDIA)
    wanted, fields = LAYOUTS.get(layout, ()), fields_of(rows)
    for what, wrong in {
        "key.form": [key for key in fields if not is_key(key)],
        "key.order": [] if list(fields) == sorted(fields) else list(fields),
        "fields": [key for key, have in fields.items() if tuple(have) != wanted],
        "split": [row["key"] for row in rows if row["split"] != shard.split],
        "layout": [row["key"] for row in rows if row["layout"] != layout],
        "offset": [row["key"] for row in rows if row["offset"] % BLOCK or row["size"] <= 0],
    }.items():
        if wrong:
            yield Finding(path, f"index.{what}", f"{len(wrong)} keys break the rule: {few(wrong)}", REPAIR_MEDIA)
    if rows and len(fields) != promised["samples"]:
        yield Finding(path, "index.samples", f"{len(fields)}, the ledger says {promised['samples']}", REPAIR_MEDIA)


def _tally(shard: ShardName, layout: str, rows: list[dict[str, Any]], promised: dict[str, Any]) -> Iterator[Finding]:
    """What the ledger tells of a tar by modality, where it does; an older one does not."""
    try:
        wrong = bool(rows) and "modalities" in promised and promised["modalities"] != tally(rows)
    except (KeyError, TypeError):  # rows that break other rules
        return
    if wrong:
        found = f"what it says of {layout} by modality is not what the index says"
        yield Finding(shard.ledger, "ledger.modalities", found, MEDIA_AGAIN)


def fields_of(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the fields of each key, in the order of the rows."""
    fields: dict[str, list[str]] = {}
    for row in rows:
        fields.setdefault(row["key"], []).append(row["field"])
    return fields


def _tar(build: Build, path: str, rows: list[dict[str, Any]], promised: dict[str, Any]) -> Iterator[Finding]:
    digest = hashlib.sha256()
    with build.store.fs.open(build.store.path(path), "rb") as file:
        tee = _Tee(file, digest)
        try:
            if rows:
                yield from _members(tee, path, rows)
        except tarfile.TarError as fault:
            yield Finding(path, "tar.form", f"not a readable tar: {fault}", REPAIR_MEDIA)
        while tee.read(finding.PIECE):
            pass
    if digest.hexdigest() != promised["sha256"]:
        found = f"{digest.hexdigest()[:12]}…, the ledger says {promised['sha256'][:12]}…"
        yield Finding(path, "tar.sha256", found, REPAIR_MEDIA)


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
    facts = _Facts(path)
    with tarfile.open(fileobj=file, mode="r|", bufsize=finding.PIECE) as tar:  # type: ignore[call-overload]
        for member in tar:
            row = next(expected, None)
            if row is None:
                yield Finding(path, "tar.members", f"{member.name} and what follows is not in the index", REPAIR_MEDIA)
                return
            promised = (f"{row['key']}.{row['field']}", row["size"], row["offset"])
            have = (member.name, member.size, member.offset_data)
            if have != promised or not member.isreg():
                found = "name, size and offset are {!r}, {}, {}, the index says {!r}, {}, {}".format(*have, *promised)
                yield Finding(path, "tar.header", found, REPAIR_MEDIA)
                return
            data, sum_ = bytearray(), 0
            content = tar.extractfile(member)
            while content is not None and (piece := content.read(finding.PIECE)):
                sum_ = crc32c.crc32c(piece, sum_)
                data += piece
            if sum_ != row["crc32c"]:
                yield Finding(path, "member.crc32c", f"{member.name}: its bytes are not the index's", REPAIR_MEDIA)
            else:
                yield from facts.of(row, bytes(data))
    left = next(expected, None)
    if left is not None:
        yield Finding(
            path, "tar.members", f"{left['key']}.{left['field']} of the index is not in the tar", REPAIR_MEDIA
        )


class _Facts:
    """Compares what a member says of itself with its row of the index."""

    def __init__(self, path: str):
        self._path, self._names = path, list[str]()

    def of(self, row: dict[str, Any], data: bytes) -> Iterator[Finding]:
        """Give what a row says otherwise than the member's bytes do."""
        field = row["field"]
        check = {"json": self._json, row["layout"]: self._picture}.get(field)
        check = self._b2nd if field.endswith(".b2nd") else check
        try:
            wrong = list(check(row, data)) if check else []
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as fault:
            wrong = [f"does not read: {type(fault).__name__}"]
        if wrong:
            said = f"{row['key']}.{field}: {'; '.join(wrong)}"
            yield Finding(self._path, f"member.{field.rpartition('.')[2]}", said, REPAIR_MEDIA)

    def _json(self, row: dict[str, Any], data: bytes) -> Iterator[str]:
        facts = json.loads(data)
        names = sorted(facts)
        self._names = self._names or names
        if names != self._names:
            yield f"it has other names than those before it: {few(sorted(set(names) ^ set(self._names)))}"
        if None in facts.values():
            yield "a value is null"
        for name in ("key", *SAID_TWICE):
            if facts[name] != row[name]:
                yield f"{name} is not the index's"

    def _picture(self, row: dict[str, Any], data: bytes) -> Iterator[str]:
        from PIL import Image

        width, height = Image.open(io.BytesIO(data)).size
        if [height, width] != row["shape"][:2]:
            yield f"it has {height} x {width} pixels, the index says {row['shape'][:2]}"

    def _b2nd(self, row: dict[str, Any], data: bytes) -> Iterator[str]:
        import blosc2

        frame = blosc2.ndarray_from_cframe(data)
        have = {"shape": frame.shape, "chunk_shape": frame.chunks, "block_shape": frame.blocks}
        for name, value in have.items():
            if list(value) != row[name]:
                yield f"its {name} is {list(value)}, the index says {row[name]}"
        if frame.dtype.name != row["dtype"]:
            yield f"it holds {frame.dtype.name}, the index says {row['dtype']}"
        table = b2nd.chunk_table(data)
        for name, values in (("offsets", table.offsets), ("sizes", table.sizes), ("crc32c", table.crc32c)):
            said = row.get(f"chunk_{name}")
            if said is not None and list(values) != said:  # None: of a format that did not say it
                yield f"its chunks have other {name} than the index says"
