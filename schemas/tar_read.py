"""One tar of anybody's, local or by any fsspec URL: walked by range reads that fetch headers and little else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import fsspec
import pyarrow as pa

from medloom.schemas.errors import FormatError
from medloom.schemas.tar_contents import with_contents
from medloom.schemas.tar_samples import digest_of_members, members_of
from medloom.schemas.tar_walk import walk

_WORTH_LOCAL, _WORTH_REMOTE = 4 << 10, 128 << 10  # bytes as dear as one read: a system call, a round trip
_CALL = 1 << 30  # bytes of one pread; Linux gives at most 2 GiB - 4 KiB at once
# Any letter case: file systems name their store's answers each in their own way, HTTP's as its headers are written.
_STAMPS = (
    "etag", "md5", "version_id", "generation", "content-md5", "digest", "lastmodified", "last_modified",
    "last-modified", "mtime", "created",
)  # fmt: skip


@dataclass(frozen=True)
class TarFile:
    """One tar of a set.

    Attributes:
        folder, name: URL of the folder that all tars of the set share, and the path in it.
        split, source: by its name and its folder's.
        size, stamp: bytes, and its ETag or time of change, by which a rewritten one is known.
        members, samples: how many; `skipped` counts members that are of no sample, by kind.
        digest: of its members' names, places and sizes, and of their contents where they were read.
        index_sha256: of its part of an index, "" where there is none.
    """

    folder: str
    name: str
    split: str
    source: str
    size: int = -1
    stamp: str = ""
    members: int = 0
    samples: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    index_sha256: str = ""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.folder.rstrip('/')}/{self.name}"


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return "://" not in url


class Blocks(Protocol):
    """Gives the bytes [start, end) of a file."""

    def __call__(self, start: int, end: int) -> bytes:
        """Return them; fewer where the file ends."""
        ...


def size_and_stamp(url: str) -> tuple[int, str]:
    """Return the size of a file and what changes when it is rewritten.

    Raises:
        FileNotFoundError: it is not there.
        FormatError: its store does not tell its size.
    """
    if is_local(url):
        found = os.stat(url)
        return found.st_size, str(found.st_mtime_ns)
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()  # a listing that s3fs keeps would answer for a tar that was rewritten since
    info: dict[str, Any] = fs.info(path)
    if info.get("size") is None:
        raise FormatError(f"cannot read {url}: its store does not tell its size, so ranges of it cannot be read")
    said = {str(name).lower(): value for name, value in info.items() if value}
    return int(info["size"]), next((str(said[name]) for name in _STAMPS if name in said), "")


def walk_tar(tar: TarFile, *, contents: bool) -> tuple[TarFile, pa.Table]:
    """Return a tar with what its walk found, and its members.

    Args:
        contents: read every member, and keep its checksum, shape and chunks.

    Raises:
        FormatError: it is damaged, compressed or not there.
    """
    try:
        size, stamp = size_and_stamp(tar.url)
        with blocks_of(tar.url) as read:
            walked = walk(read, size=size, where=tar.url, worth=_WORTH_LOCAL if is_local(tar.url) else _WORTH_REMOTE)
            members, others = members_of(walked)
            if contents:
                members, wrong = with_contents(members, read, where=tar.url)
                others |= {"not what its name says": wrong} if wrong else {}
    except FileNotFoundError as fault:
        raise FormatError(f"{tar.url} is not there") from fault
    samples = int(members["sample"][-1].as_py()) + 1 if members.num_rows else 0
    done = replace(
        tar, size=size, stamp=stamp, members=members.num_rows, samples=samples, skipped=others,
        digest=digest_of_members(members),
    )  # fmt: skip
    return done, members


@contextmanager
def blocks_of(url: str) -> Iterator[Blocks]:
    """Open a file for reads of small ranges in ascending order."""
    if "://" not in url:
        descriptor = os.open(url, os.O_RDONLY)
        try:
            yield partial(_read, descriptor)
        finally:
            os.close(descriptor)
        return
    fs, path = fsspec.core.url_to_fs(url)
    yield lambda start, end: bytes(fs.cat_file(path, start=start, end=end))


def _read(descriptor: int, start: int, end: int) -> bytes:
    data = os.pread(descriptor, min(end - start, _CALL), start)
    if len(data) == end - start:
        return data
    pieces = [data]
    while pieces[-1] and (start := start + len(pieces[-1])) < end:
        pieces.append(os.pread(descriptor, min(end - start, _CALL), start))
    return b"".join(pieces)
