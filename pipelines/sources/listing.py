"""Listing: the objects under a source's root, by URL, size and change marks; nothing is opened."""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import fsspec
import pyarrow as pa

from medloom.schemas.errors import Refused, SourceError

OBJECT = pa.schema([("url", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("etag", pa.string())])


def list_objects(root: str) -> pa.Table:
    """Return every file under `root` (a folder by path or fsspec URL), sorted; `url` is relative to it.

    What cannot be opened (a folder without permission, a link to nowhere or back to a folder above it) is listed with
    size 0, so that it is refused by name. Of a name that is not UTF-8, the odd bytes are escaped.

    Raises:
        SourceError: there is no such folder, or it holds no file.
    """
    fs, path = fsspec.core.url_to_fs(root)
    if not fs.isdir(path):
        what = "is a file, not a folder" if fs.exists(path) else "is not there"
        raise SourceError(f"cannot read the source {root}: it {what}; give the folder that holds the files")
    rows = sorted(_local(path) if is_local(fs) else _remote(fs, path), key=lambda row: row["url"])
    if not rows:
        raise SourceError(f"cannot read the source {root}: the folder holds no file")
    return pa.Table.from_pylist(rows, schema=OBJECT)


def is_local(fs: Any) -> bool:
    """Whether the paths of a file system are files of this machine."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _remote(fs: Any, path: str) -> Iterator[dict[str, Any]]:
    base = path.rstrip("/") + "/"
    for name, facts in fs.find(path, detail=True).items():
        etag = str(facts.get("ETag") or facts.get("etag") or "").strip('"')
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
    changed = facts.get("mtime") or facts.get("LastModified") or 0
    if isinstance(changed, datetime):
        return int(changed.timestamp() * 1e9)
    return int(float(str(changed)) * 1e9)


def read_object(root: str, url: str, *, limit_bytes: int | None = None) -> bytes:
    """Return the bytes of an object, or its first `limit_bytes`.

    Raises:
        Refused("source.empty_file"): it holds none.
        Refused("source.unreadable"): it is not there, no file, or may not be read; its path is not told.
    """
    fs, path = fsspec.core.url_to_fs(root)
    full = f"{path.rstrip('/')}/{url}"
    try:
        if is_local(fs) and not os.path.isfile(full):  # a pipe would be waited for, a device read without end
            raise Refused("source.unreadable", "it is no plain file, or a link to nowhere")
        data = bytes(fs.cat_file(full, start=0, end=limit_bytes))
    except OSError as fault:
        raise Refused("source.unreadable", f"it cannot be opened ({type(fault).__name__})") from fault
    if not data:
        raise Refused("source.empty_file", "the file holds no byte")
    return data
