"""Members: files inside the archives of a source, as objects of it: `case.zip!/inner/name.dcm`, at any depth.

A member has the size that its archive states and the marks of the archive, so that a changed archive changes all of its
members. An archive that cannot be read as a whole is one object, `case.zip!/`, whose reading says why. Archives stay
open in a process, a few at a time; what must be unpacked or fetched for that is a temporary file without a name.
"""

import hashlib
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import pyarrow as pa

from medloom.connectors.archive_streams import Limits, unzipped
from medloom.connectors.archives import Member, index, kind_of
from medloom.pipelines.sources import listing
from medloom.pipelines.sources.listing import OBJECT, check_digest, is_kept, is_local, place_of
from medloom.schemas.errors import Refused
from medloom.schemas.store import mendable

SEPARATOR = "!/"
MAX_DEPTH = 3  # archives within one another
MAX_OPEN = 8
# Label maps are all but empty: a zip of them packs 1,000 to 1, as much as deflate can. A tar.gz is unpacked as a whole.
LIMITS = Limits(members=2_000_000, member_bytes=16 << 30, total_bytes=1 << 40, ratio=1032.0)
TAR_GZ_LIMITS = Limits(total_bytes=256 << 30, ratio=250.0)
_BLOCK = 16 << 20


def list_objects(root: str) -> pa.Table:
    """Return the rows of `listing.list_objects`, with the members of its archives in their place, sorted.

    Archives are known by their names (.zip, .tar, .tar.gz, .tgz). A tar.gz is read to its end, others by their headers.

    Raises:
        SourceError: as `listing.list_objects` does.
    """
    rows = listing.list_objects(root)
    found: list[dict[str, Any]] = []
    for row in rows.to_pylist():
        found += _members(root, row, (row["url"],)) if kind_of(row["url"]) else [row]
    return pa.Table.from_pylist(sorted(found, key=lambda row: row["url"]), schema=OBJECT)


def members_of(root: str, archive: str) -> list[dict[str, Any]]:
    """Return the rows of one archive under a root, as `list_objects` gives them."""
    row = {"url": archive, "size": 0, "mtime_ns": 0, "etag": ""}
    return sorted(_members(root, row, (archive,)), key=lambda member: member["url"])


def _members(root: str, row: dict[str, Any], chain: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Give a row for each member of an archive, or one for the archive itself when it is refused."""
    try:
        with _opened(root, chain, row["etag"]) as archive:
            members = {name: member.size for name, member in archive.members.items()}
    except Refused:
        yield {**row, "url": SEPARATOR.join((*chain, ""))}
        return
    for name, size in members.items():
        if kind_of(name) and not os.path.basename(name).startswith("."):
            yield from _members(root, {**row, "size": size}, (*chain, name))
        else:
            yield {**row, "url": SEPARATOR.join((*chain, name)), "size": size}


def chain_of(url: str) -> tuple[str, ...]:
    """Return the names that lead to a member, outermost archive first and the member last; () for a plain object."""
    names: list[str] = []
    while SEPARATOR in url:
        ends = (found.start() for found in re.finditer(SEPARATOR, url))
        end = next((end for end in ends if kind_of(url[:end])), -1)
        if end < 0:
            break
        names.append(url[:end])
        url = url[end + len(SEPARATOR) :]
    return (*names, url) if names else ()


def read_object(root: str, url: str, *, etag: str = "", limit_bytes: int | None = None) -> bytes:
    """Return the bytes of an object or member, or its first `limit_bytes`.

    Raises:
        Refused: as `listing.read_object` does; "archive.…" when the archive, or this member of it, cannot be read.
    """
    if not is_member(root, url):
        return listing.read_object(root, url, etag=etag, limit_bytes=limit_bytes)
    data = bytearray()
    with _member(root, url, etag) as member:
        for block in member.blocks():
            data += block
            if limit_bytes is not None and len(data) >= limit_bytes:
                break
    if not data:
        raise Refused("source.empty_file", "the file holds no byte")
    return bytes(data[:limit_bytes])


def save_member(root: str, url: str, to: str, *, etag: str = "") -> None:
    """Write the bytes of a member to a file.

    Raises:
        Refused: as `read_object` does.
    """
    with _member(root, url, etag) as member, open(to, "wb") as file:
        for block in member.blocks():
            file.write(block)


def is_member(root: str, url: str) -> bool:
    """Whether a name leads into an archive; a folder may be called "a.zip!" too."""
    if not chain_of(url):
        return False
    fs, full = place_of(root, url)
    return not (is_local(fs) and os.path.lexists(full))


@contextmanager
def _member(root: str, url: str, etag: str) -> Iterator[Member]:
    *chain, name = chain_of(url)
    with _opened(root, tuple(chain), etag) as archive:
        if name not in archive.members:
            raise Refused("source.unreadable", "its archive holds no file of that name (any more)")
        yield archive.members[name]


@dataclass
class _Archive:
    """An archive that is open in this process, or why it cannot be."""

    members: dict[str, Member] = field(default_factory=dict)
    file: IO[bytes] | None = None
    refused: Refused | None = None


_open: "OrderedDict[tuple[str, tuple[str, ...], str], _Archive]" = OrderedDict()
_lock = threading.RLock()


@contextmanager
def _opened(root: str, chain: tuple[str, ...], etag: str) -> Iterator[_Archive]:
    """Give an archive, open while it is used; threads wait for one another.

    Raises:
        Refused: it cannot be read; it is not tried again before it changes.
    """
    with _lock:
        key = (
            root,
            chain,
            f"{_state(root, chain[0], etag)} {os.getpid()}",
        )  # a forked child's files share their places
        if key not in _open:
            _open[key] = _read(root, chain, etag)
            while len(_open) > MAX_OPEN:
                file = _open.popitem(last=False)[1].file
                if file:
                    file.close()
        _open.move_to_end(key)
        archive = _open[key]
        if archive.refused:
            raise Refused(archive.refused.reason, archive.refused.detail)
        yield archive


def _state(root: str, url: str, etag: str) -> str:
    """Return what changes when an archive does."""
    fs, full = place_of(root, url, etag)
    if is_kept(etag):
        return etag
    try:
        facts = os.stat(full) if is_local(fs) else None
        return f"{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}" if facts else etag or str(fs.checksum(full))
    except OSError as fault:
        raise Refused("source.unreadable", "the archive is not there any more, or may not be read") from fault


def _read(root: str, chain: tuple[str, ...], etag: str) -> _Archive:
    """Open an archive, or keep why it cannot be; it takes the place of none in the cache yet."""
    if len(chain) > MAX_DEPTH:
        return _Archive(refused=Refused("archive.depth", f"archives lie in one another more than {MAX_DEPTH} deep"))
    kind, file = kind_of(chain[-1]), None
    try:
        file = _file_of(root, chain, etag)
        if kind == "tar.gz":
            file = _unpacked(file)
        found = index(file, "zip" if kind == "zip" else "tar", LIMITS)
        members: dict[str, Member] = {}
        for member in found:
            name, again = member.name, 2
            while name in members:
                name, again = f"{member.name} ({again})", again + 1
            members[name] = member
        if all(member.refused and member.refused.reason == "archive.encrypted" for member in found):
            why = ("archive.encrypted", "it is encrypted") if found else ("archive.empty", "it holds no file")
            raise Refused(*why)
    except Refused as refused:
        if file:
            file.close()
        return _Archive(refused=refused)
    return _Archive(members, file)


def _file_of(root: str, chain: tuple[str, ...], etag: str) -> Any:
    """Return an archive as an open file of this machine: itself, or a temporary copy of a remote or an inner one."""
    if len(chain) > 1:
        with _member(root, SEPARATOR.join(chain), etag) as member:
            return _temporary(member.blocks())
    fs, full = place_of(root, chain[0], etag)
    if is_local(fs) and not os.path.isfile(full):
        raise Refused("source.unreadable", "it is no plain file, or a link to nowhere")
    try:
        file = open(full, "rb") if is_local(fs) else fs.open(full, "rb")  # noqa: SIM115  it stays open in the cache
    except OSError as fault:
        raise Refused("source.unreadable", f"it cannot be opened ({type(fault).__name__})") from fault
    if not is_local(fs):
        with file as remote:
            file = _temporary(iter(partial(remote.read, _BLOCK), b""))
    if is_kept(etag):
        check_digest(etag, hashlib.file_digest(file, "sha256").hexdigest())
        file.seek(0)
    return file


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """Return a tar.gz as a tar, its checksum verified."""
    with file:
        return _temporary(unzipped(file, TAR_GZ_LIMITS))


def _temporary(blocks: Iterator[bytes]) -> IO[bytes]:
    """Return a file without a name that holds `blocks`, at its start.

    Raises:
        RetryLater: the disk that holds temporary files is full.
    """
    file = tempfile.TemporaryFile(prefix="medloom-")  # noqa: SIM115  it stays open in the cache
    try:
        for block in blocks:
            try:
                file.write(block)
            except OSError as fault:
                raise mendable(fault, f"temporary files in {tempfile.gettempdir()}") from fault
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
