"""Listing: the objects under a source's root, by URL, size and change marks; nothing is opened.

A root is a folder, an fsspec URL, or a raw zone, whose objects have the names of its catalog and are read by their
digest, which their `etag` holds: what a worker reads needs no catalog.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas.errors import FormatError, Refused, SourceError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.raw import RawZone, is_raw_zone, object_name

_DIGEST = "sha256:"  # what the etag of a raw zone's object starts with

OBJECT = pa.schema([("url", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("etag", pa.string())])


def list_objects(root: str) -> pa.Table:
    """Return every file under `root` (a folder by path or fsspec URL), sorted; `url` is relative to it.

    Of a raw zone: the articles and media that are kept, by name; none of an article that was withdrawn or superseded.

    What cannot be opened (a folder without permission, a link to nowhere or back to a folder above it) is listed with
    size 0, so that it is refused by name. Of a name that is not UTF-8, the odd bytes are escaped.

    Raises:
        SourceError: there is no such folder, or it holds no file.
    """
    if is_raw_zone(root):
        return _kept(RawZone(root))
    fs, path = fsspec.core.url_to_fs(root)
    if not fs.isdir(path):
        what = "is a file, not a folder" if fs.exists(path) else "is not there"
        raise SourceError(f"cannot read the source {root}: it {what}; give the folder that holds the files")
    rows = sorted(_local(path) if is_local(fs) else _remote(fs, path), key=lambda row: row["url"])
    if not rows:
        raise SourceError(f"cannot read the source {root}: the folder holds no file")
    return pa.Table.from_pylist(rows, schema=OBJECT)


def _kept(raw: RawZone) -> pa.Table:
    rows = raw.rows()
    is_whole = pc.is_in(rows["role"], pa.array(["article", "metadata"]))
    is_gone = pc.is_in(rows["outcome"], pa.array(["withdrawn", "superseded"]))
    gone = rows.filter(pc.and_(is_whole, is_gone))["article"]
    is_read = pc.and_(pc.is_in(rows["role"], pa.array(["article", "media"])), pc.equal(rows["outcome"], "kept"))
    rows = rows.filter(pc.and_(is_read, pc.invert(pc.is_in(rows["article"], gone.combine_chunks()))))
    if not rows.num_rows:
        raise SourceError(f"cannot read the source {raw.url}: the raw zone holds no article and no picture")
    marks = pc.binary_join_element_wise(_DIGEST, rows["digest"], "")
    never = pa.array([0] * rows.num_rows, pa.int64())
    return pa.Table.from_arrays([rows["name"], rows["size"], never, marks], schema=OBJECT)


def is_local(fs: Any) -> bool:
    """Whether the paths of a file system are files of this machine."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _remote(fs: Any, path: str) -> Iterator[dict[str, Any]]:
    base = path.rstrip("/") + "/"
    for name, facts in fs.find(path, detail=True).items():
        etag = str(facts.get("ETag") or facts.get("etag") or "").strip('"').removeprefix(_DIGEST)
        yield _row(name.removeprefix(base), int(facts.get("size") or 0), _mtime_ns(facts), etag)


def _local(path: str) -> Iterator[dict[str, Any]]:
    """Walk a folder by itself: fsspec follows a link to a folder above it some forty times round."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(path, frozenset())]
    while pending:
        folder, above = pending.pop()
        name = os.path.relpath(folder, path)
        try:
            facts = os.stat(folder)
            entries = list(os.scandir(folder))
        except OSError:
            yield _row(name, 0, 0)
            continue
        here = (facts.st_dev, facts.st_ino)
        if here in above:
            yield _row(name, 0, facts.st_mtime_ns)
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    pending.append((entry.path, above | {here}))
                    continue
                facts = entry.stat()
            except OSError:
                yield _row(os.path.relpath(entry.path, path), 0, 0)
                continue
            yield _row(os.path.relpath(entry.path, path), facts.st_size, facts.st_mtime_ns)


def _row(url: str, size: int, mtime_ns: int, etag: str = "") -> dict[str, Any]:
    url = url.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return {"url": url, "size": size, "mtime_ns": mtime_ns, "etag": etag}


def _mtime_ns(facts: dict[str, Any]) -> int:
    names = ("mtime", "LastModified", "updated", "created")  # the last of a file system that keeps nothing else
    changed = next((facts[name] for name in names if facts.get(name)), 0)
    if isinstance(changed, datetime):
        return int(changed.timestamp() * 1e9)
    return int(float(str(changed)) * 1e9)


def is_kept(etag: str) -> bool:
    """Whether an object was listed in a raw zone."""
    return etag.startswith(_DIGEST)


def place_of(root: str, url: str, etag: str = "") -> tuple[Any, str]:
    """Return the file system and the full path of an object: under its name, in a raw zone under its digest.

    Raises:
        Refused("source.unreadable"): it was listed in a raw zone, and its mark names no object of one.
    """
    fs, path = fsspec.core.url_to_fs(root)
    try:
        name = object_name(etag.removeprefix(_DIGEST)) if is_kept(etag) else url
    except FormatError as fault:
        raise Refused("source.unreadable", str(fault)) from fault
    return fs, f"{path.rstrip('/')}/{name}"


def check_digest(etag: str, digest: str) -> None:
    """Hold the sha256 of an object's bytes against the mark of a raw zone.

    Raises:
        Refused("source.damaged"): they are not the bytes that were fetched.
    """
    if is_kept(etag) and etag != _DIGEST + digest:
        raise Refused("source.damaged", "its bytes are not those that were fetched; delete the object, fetch it again")


def read_object(root: str, url: str, *, etag: str = "", limit_bytes: int | None = None) -> bytes:
    """Return the bytes of an object, or its first `limit_bytes`; `etag` as it was listed.

    Raises:
        Refused("source.empty_file"): it holds none.
        Refused("source.unreadable"): it is not there, no file, or may not be read; its path is not told.
        Refused("source.damaged"): of a raw zone, it holds other bytes than were fetched.
    """
    fs, full = place_of(root, url, etag)
    try:
        if is_local(fs) and not os.path.isfile(full):  # a pipe would be waited for, a device read without end
            raise Refused("source.unreadable", "it is no plain file, or a link to nowhere")
        data = bytes(fs.cat_file(full, start=0, end=limit_bytes))
    except OSError as fault:
        if not _is_empty(fs, full):
            raise Refused("source.unreadable", f"it cannot be opened ({type(fault).__name__})") from fault
        data = b""
    if limit_bytes is None:
        check_digest(etag, sha256_hex(data))
    if not data:
        raise Refused("source.empty_file", "the file holds no byte")
    return data


def _is_empty(fs: Any, full: str) -> bool:
    """Whether an object that could not be read is an empty one: S3 gives no range of it, not even from 0 on."""
    try:
        return not is_local(fs) and fs.size(full) == 0
    except OSError:
        return False
