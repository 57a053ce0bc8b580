"""Transcode: every stored volume and mask as a file of its own that other tools open, voxel for voxel, and a table.

For the build's owner: nothing but a withdrawal keeps a medium back, and the table says under which terms it stands.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.connectors.nifti_writing import write_nifti
from medloom.pipelines.exports.stored import StoredMedium
from medloom.pipelines.outgoing import as_rows
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, Refused, RetryLater
from medloom.schemas.keys import canonical_json, digest_of, is_key
from medloom.schemas.manifest import parse
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release, find_release
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, INDEX
from medloom.schemas.volume import Volume

log = logging.getLogger(__name__)
FORMATS = ("nii.gz", "npy.zst")
FILES, TABLE, SAID = "volumes", "table", "transcode.json"
_LOCK = ".lock"
_LEVEL = 3  # of zstd
_FROM_INDEX = ("shape", "dtype", "spacing_mm", "units", "affine", "modality", "body_part", "plane", "labels",
               "labelled", "source", "licence", "terms_id", "digest")  # fmt: skip
# A row per volume. `affine` is row-major, voxel (x, y, z) to LPS mm, exact; `volume` and `mask` are paths in the
# folder, "" where there is none; `refused` says why the format has no place for it.
ROW = pa.schema([
    ("key", pa.string()), ("split", pa.string()), ("volume", pa.string()), ("mask", pa.string()),
    ("volume_bytes", pa.int64()), ("mask_bytes", pa.int64()), ("refused", pa.string()), ("attribution", pa.string()),
    *(INDEX.field(name) for name in _FROM_INDEX),
])  # fmt: skip


@dataclass(frozen=True)
class Transcoded:
    """What `transcode` did: files written now, files that stood already, volumes refused, bytes of all files."""

    written: int
    up_to_date: int
    refused: int
    size_bytes: int


def transcode(url: str, to: str, form: str, *, split: str = "") -> Transcoded:
    """Write the volumes of a build into `to`/volumes as KEY.`form`, masks as KEY_seg.`form`, and `to`/table.

    Run again, it goes on by shard, brings up to date what has changed, and deletes what is no more. As nii.gz a mask of
    several layers is 4-D (X, Y, Z, layer); as npy.zst volumes are (Z, Y, X) and masks (layer, Z, Y, X).

    Raises:
        SourceError: there is no build.
        ConfigError: no such format or split, or the folder holds something else.
        FormatError: a stored member is not the bytes that its index promises, or a medium's key is none.
        RetryLater: another run is writing there.
    """
    build, store = Build(url).must_exist(), Store(to)
    if form not in FORMATS:
        raise ConfigError(f"cannot transcode to {form!r}; known are {', '.join(FORMATS)}")
    shards = [shard for shard, _ in build.ledgers() if split in ("", shard.split)]
    if split and not shards:
        raise ConfigError(f"{build.url} has no split {split!r}")
    _begin(store, form)
    with _locked(store):
        _begin(store, form)  # another run may have been faster
        release = find_release(build.url)
        counts = [_shard(build, shard, release, store, form) for shard in shards]
        return _finish(store, sum(written for written, _ in counts), sum(stood for _, stood in counts))


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Keep two runs from deleting each other's files."""
    if not store.is_local:  # an object store has no lock that dies with its holder
        yield
        return
    lock = filelock.FileLock(store.local(_LOCK), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RetryLater(f"another run is writing {store.url}; wait for it to end, then run again") from None
    try:
        yield
    finally:
        lock.release()


def _shard(build: Build, shard: ShardName, release: Release | None, store: Store, form: str) -> tuple[int, int]:
    """Bring the files of a shard up to date; return how many were written and how many stood."""
    media = _volumes(build, shard, release)
    print_ = _print(build, shard, media)
    path = f"{TABLE}/part-{shard}.parquet"
    if _stands(store, path, print_):
        return 0, _n_files(store.read_table(path, ["volume", "mask"]))
    store.delete(path)  # from now on the shard is unfinished
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(partial(_write, store, form), media))
    table = pa.Table.from_pylist(rows, schema=ROW)
    store.write_table(path, table, {"format_version": str(FORMAT_VERSION), "print": print_})
    log.info("%s: %d volumes written", shard, table.num_rows)
    return _n_files(table), 0


def _begin(store: Store, form: str) -> None:
    said = {"format_version": FORMAT_VERSION, "kind": "transcode", "form": form}
    if store.exists(SAID):
        have = parse(store.read(SAID), where=f"{store.url}/{SAID}")
        if have != said:
            raise ConfigError(f"{store.url} holds files of form {have.get('form')}, not {form}; give another folder")
    elif store.names("") or store.folders(""):
        raise ConfigError(f"cannot write to {store.url}: it is not empty; give a new folder, or one to go on with")
    else:
        store.write(SAID, (canonical_json(said) + "\n").encode())


def _volumes(build: Build, shard: ShardName, release: Release | None) -> list[StoredMedium]:
    """Return the volumes of a shard by key, without those that the newest release's overlay takes down."""
    index = build.index(shard)
    media = index.filter(pc.equal(index["field"], "json"))
    states = release.states().of_rows(as_rows(media)).to_pylist() if release else ["live"] * media.num_rows
    gone = {key for key, state in zip(media["key"].to_pylist(), states, strict=True) if state == "withdrawn"}
    members: dict[str, dict[str, dict[str, Any]]] = {}
    for row in index.to_pylist():
        if not is_key(row["key"]):  # it becomes a file's name
            raise FormatError(
                f"the index of shard {shard} of {build.url} names a medium {row['key']!r}, which is no key; "
                "`medloom lint` tells what is damaged"
            )
        if "ct.b2nd" in LAYOUTS[row["layout"]] and row["key"] not in gone:
            members.setdefault(row["key"], {})[row["field"]] = row
    return [StoredMedium(build, shard, rows, ()) for _, rows in sorted(members.items())]


def _print(build: Build, shard: ShardName, media: list[StoredMedium]) -> str:
    """Return what changes when a file of the shard does."""
    ledger = build.ledger(shard) or {}
    sums = [f"{layout} {tar['sha256']}" for layout, tar in sorted(ledger["tars"].items())]
    return digest_of([*sums, *(medium.key for medium in media)])


def _stands(store: Store, path: str, print_: str) -> bool:
    """Whether a shard was finished from the same tars and all its files are there."""
    try:
        if not store.exists(path) or store.table_metadata(path).get("print") != print_:
            return False
        table = store.read_table(path, ["volume", "mask", "volume_bytes", "mask_bytes"])
    except (OSError, ValueError):  # damaged: the shard is written anew
        return False
    return all(
        store.exists(row[what]) and store.size(row[what]) == row[f"{what}_bytes"]
        for row in table.to_pylist()
        for what in ("volume", "mask")
        if row[what]
    )


def _write(store: Store, form: str, medium: StoredMedium) -> dict[str, Any]:
    """Write the files of one medium; return its row."""
    ct = medium.members["ct.b2nd"]
    facts = {"attribution": medium.facts["attribution"], "refused": "", "volume_bytes": 0, "mask_bytes": 0}
    row = {**{name: ct[name] for name in _FROM_INDEX}, **facts, "volume": "", "mask": ""}
    row |= {"key": medium.key, "split": medium.shard.split, "shape": medium.facts["shape"]}
    row |= {"units": medium.facts["units"], "affine": [v for line in medium.facts["affine"] for v in line]}
    row |= {"labels": medium.labels}
    write = {"nii.gz": write_nifti, "npy.zst": write_npy_zst}[form]
    try:
        named = {"volume": ([medium.volume()], medium.key), "mask": (medium.masks(), f"{medium.key}_seg")}
        for what, (volumes, name) in named.items():
            if volumes:
                row[what] = f"{FILES}/{name}.{form}"
                with store.writing(row[what]) as file:
                    write(volumes, file)
                row[f"{what}_bytes"] = store.size(row[what])
    except Refused as refused:
        row |= {"refused": str(refused), "volume": "", "mask": "", "volume_bytes": 0, "mask_bytes": 0}
    return row


def write_npy_zst(volumes: Sequence[Volume], file: IO[bytes]) -> None:
    """Write a volume as .npy (Z, Y, X), or label maps on one grid as (layer, Z, Y, X), little-endian, in zstd.

    A label map is one with `kind="label"`, and has the axis of layers even when it is alone.
    """
    import zstandard

    first = volumes[0]
    layers = (len(volumes),) if first.kind == "label" else ()
    descr = first.array.dtype.newbyteorder("<").str
    with zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False) as squeezed:
        header = {"descr": descr, "fortran_order": False, "shape": (*layers, *first.shape)}
        np.lib.format.write_array_header_1_0(_Writes(squeezed.write), header)
        for volume in volumes:
            for plane in volume.array:
                squeezed.write(np.ascontiguousarray(plane, descr).tobytes())


@dataclass(frozen=True)
class _Writes:
    write: Callable[[bytes], int]


def _n_files(table: pa.Table) -> int:
    return sum(pc.sum(pc.not_equal(table[what], "")).as_py() or 0 for what in ("volume", "mask"))


def _finish(store: Store, written: int, stood: int) -> Transcoded:
    """Delete the files that no table names, and count."""
    rows = list(_rows(store))
    named = {row[what] for row in rows for what in ("volume", "mask")}
    for name in store.names(FILES):
        if f"{FILES}/{name}" not in named:
            store.delete(f"{FILES}/{name}")
    size = sum(row["volume_bytes"] + row["mask_bytes"] for row in rows)
    return Transcoded(written, stood, sum(bool(row["refused"]) for row in rows), size)


def _rows(store: Store) -> Iterator[dict[str, Any]]:
    for name in store.names(TABLE):
        try:
            table = store.read_table(f"{TABLE}/{name}", ["volume", "mask", "volume_bytes", "mask_bytes", "refused"])
        except ValueError as fault:
            raise FormatError(f"{store.url}/{TABLE}/{name} is damaged; run the same command without --split") from fault
        yield from table.to_pylist()
