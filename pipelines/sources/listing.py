"""Listing: the objects under a source's root, by URL, size and change marks; nothing is opened."""

from datetime import datetime

import fsspec
import pyarrow as pa

from medloom.schemas.errors import SourceError

OBJECT = pa.schema([("url", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("etag", pa.string())])


def list_objects(root: str) -> pa.Table:
    """Return every file under `root` (a folder by path or fsspec URL), sorted; `url` is relative to it.

    Raises:
        SourceError: there is no such folder, or it holds no file.
    """
    fs, path = fsspec.core.url_to_fs(root)
    if not fs.isdir(path):
        what = "is a file, not a folder" if fs.exists(path) else "is not there"
        raise SourceError(f"cannot read the source {root}: it {what}; give the folder that holds the files")
    base = path.rstrip("/") + "/"
    found = fs.find(path, detail=True)
    rows = [
        {
            "url": name.removeprefix(base),
            "size": int(facts.get("size") or 0),
            "mtime_ns": _mtime_ns(facts),
            "etag": str(facts.get("ETag") or facts.get("etag") or "").strip('"'),
        }
        for name, facts in sorted(found.items())
    ]
    if not rows:
        raise SourceError(f"cannot read the source {root}: the folder holds no file")
    return pa.Table.from_pylist(rows, schema=OBJECT)


def _mtime_ns(facts: dict[str, object]) -> int:
    changed = facts.get("mtime") or facts.get("LastModified") or 0
    if isinstance(changed, datetime):
        return int(changed.timestamp() * 1e9)
    return int(float(str(changed)) * 1e9)


def read_object(root: str, url: str, *, limit_bytes: int | None = None) -> bytes:
    """Return the bytes of an object, or its first `limit_bytes`."""
    fs, path = fsspec.core.url_to_fs(root)
    return bytes(fs.cat_file(f"{path.rstrip('/')}/{url}", start=0, end=limit_bytes))
