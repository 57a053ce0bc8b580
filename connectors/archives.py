"""Archives from outside: tar, tar.gz and zip read as a stream of members, within limits; nothing is unpacked to a path.

A name is data: it is checked, and never becomes a path of this machine. An archive inside an archive is a member like
others, and stays closed. One member is refused for what it is; the whole, when what follows cannot be trusted.
"""

import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Literal

from medloom.connectors.archive_streams import (
    BLOCK_BYTES,
    RATIO_FROM_BYTES,
    TAR_BLOCK,
    Forward,
    Limits,
    Seekable,
    plain,
    unzipped,
)
from medloom.schemas.errors import Refused

Kind = Literal["tar", "tar.gz", "zip"]

LONGEST_NAME = 1024
DEEPEST_NAME = 32
DIRECTORY_ENTRY_BYTES = 512  # of a zip's central directory, on average and at most: it is held in memory
_ZIP_END, _ZIP64_END, _ZIP64_PLACE = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# What the two libraries raise over bytes that are no archive, or a damaged one.
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, IndexError, struct.error,
    RecursionError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: as stated, without "./" at its start; bytes that are no UTF-8 escaped.
        size: as stated; `blocks` gives as many bytes or fails.
        refused: why it cannot be had, None when it can.
    """

    name: str
    size: int
    refused: Refused | None = None
    _open: Callable[[], Iterator[bytes]] | None = field(default=None, repr=False, compare=False)

    def blocks(self) -> Iterator[bytes]:
        """Give its bytes, once, before the next member is asked for.

        Raises:
            Refused: `refused`; or "archive.damaged", "archive.truncated", "archive.total", "archive.ratio", found now.
        """
        if self.refused is not None or self._open is None:
            raise self.refused or Refused("archive.damaged", "the member has no bytes")
        return self._open()

    def read(self) -> bytes:
        """Return its bytes; see `blocks`."""
        return b"".join(self.blocks())

    def save(self, to: Path) -> None:
        """Write its bytes to a file; see `blocks`."""
        with open(to, "wb") as file:
            for block in self.blocks():
                file.write(block)


def kind_of(name: str) -> Kind | None:
    """Return the kind of archive that a file's name says it is, None when it says none."""
    lower = name.lower()
    kinds: dict[str, Kind] = {".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar": "tar", ".zip": "zip"}
    return next((kind for ending, kind in kinds.items() if lower.endswith(ending)), None)


def members(file: IO[bytes], kind: Kind, limits: Limits | None = None) -> Iterator[Member]:
    """Give the files of an archive in their order; folders are passed over.

    A tar is read once from front to back; a zip's `file` must be seekable. Whoever gets a member reads it before the
    next is asked for, or not at all.

    Args:
        file: open for reading, at its start.

    Raises:
        Refused("archive.format"): it is no archive of that kind, or its header is none.
        Refused("archive.truncated" | "archive.damaged"): it ends early, or its bytes are not those that were packed.
        Refused("archive.members" | "archive.total" | "archive.ratio"): it is beyond `limits`.
        Refused("archive.overlap"): members of a zip share bytes.
    """
    within = limits or Limits()
    try:
        yield from _zip(file, within) if kind == "zip" else _tar(file, within, is_packed=kind == "tar.gz")
    except _DAMAGED as fault:
        raise Refused("archive.format", f"it cannot be read as {kind} ({type(fault).__name__})") from fault


def index(file: IO[bytes], kind: Literal["tar", "zip"], limits: Limits | None = None) -> list[Member]:
    """Return the files of an archive that stays open: their bytes can be had at any time, in any order, and again.

    Only headers are read. A tar.gz must be unpacked to a tar first (see `unzipped`).

    Args:
        file: seekable; it must stay open as long as members are read, by one thread at a time.

    Raises:
        Refused: as `members` does.
    """
    within = limits or Limits()
    try:
        if kind == "tar":
            return list(_tar_index(file, within))
        size = _check_directory(file, within)
        return list(_zip_members(zipfile.ZipFile(file), size, within))
    except _DAMAGED as fault:
        raise Refused("archive.format", f"it cannot be read as {kind} ({type(fault).__name__})") from fault


def _tar_index(file: IO[bytes], limits: Limits) -> Iterator[Member]:
    source, names, total = Seekable(file), _Names(), 0
    with tarfile.TarFile(fileobj=source, mode="r", encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        for info in _headers(tar, source, limits):
            total += max(info.size, 0)
            if total > limits.total_bytes:
                raise Refused("archive.total", f"it has more than {limits.total_bytes} bytes")
            if not info.isdir():
                name = _clean(info.name)
                refused = names.wrong(name) or _wrong_tar_member(info) or _too_large(info.size, limits)
                yield Member(name, info.size, refused, partial(_part, file, info.offset_data, info.size))
    if source.last_header.strip(b"\0"):
        raise Refused("archive.damaged", f"after {source.place} bytes, it goes on with what is no header")
    if len(source.last_header) < TAR_BLOCK:
        raise Refused("archive.truncated", "the empty blocks that end a tar are missing")


def _part(file: IO[bytes], start: int, size: int) -> Iterator[bytes]:
    """Give a part of a file."""
    end = start + size
    while start < end:
        file.seek(start)
        block = file.read(min(end - start, BLOCK_BYTES))
        if not block:
            raise Refused("archive.truncated", f"it ends {end - start} bytes before a member does")
        start += len(block)
        yield block


def check(file: IO[bytes], kind: Kind, limits: Limits | None = None) -> None:
    """Read a tar.gz to its end, so that its checksum vouches for every member before one is used; then go back.

    A zip has a checksum for each member, which reading that one holds against it; a plain tar has none.

    Raises:
        Refused: as `members` does.
    """
    if kind == "tar.gz":
        for _ in unzipped(file, limits or Limits()):
            pass
        file.seek(0)


def _tar(file: IO[bytes], limits: Limits, *, is_packed: bool) -> Iterator[Member]:
    source = Forward(unzipped(file, limits) if is_packed else plain(file, limits))
    names = _Names()
    with tarfile.TarFile(fileobj=source, mode="r", encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        for info in _headers(tar, source, limits):
            if not info.isdir():
                name = _clean(info.name)
                refused = names.wrong(name) or _wrong_tar_member(info) or _too_large(info.size, limits)
                yield Member(name, info.size, refused, partial(_tar_blocks, source, info))
    if source.last_header.strip(b"\0"):
        raise Refused("archive.damaged", f"after {source.place} bytes unpacked, it goes on with what is no header")
    source.skip_rest()  # so that the checksum at the end of a gzip stream is looked at


def _headers(tar: tarfile.TarFile, source: Forward | Seekable, limits: Limits) -> Iterator[tarfile.TarInfo]:
    count = 0
    while True:
        try:
            info = tar.next()
        except tarfile.ReadError as fault:
            raise Refused("archive.truncated", f"it ends after {source.place} bytes, within a member") from fault
        if info is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # else they pile up; nothing looks back
        count += 1
        if count > limits.members:
            raise Refused("archive.members", f"it has more than {limits.members} members")
        yield info


def _wrong_tar_member(info: tarfile.TarInfo) -> Refused | None:
    if info.issym() or info.islnk():
        return Refused("archive.link", "it is a link; links are not followed")
    if info.issparse():
        return Refused("archive.sparse", "it is a file with holes, whose size only its header states")
    if not info.isreg():
        return Refused("archive.device", "it is neither a file nor a folder")
    return None


def _tar_blocks(source: Forward, info: tarfile.TarInfo) -> Iterator[bytes]:
    assert source.place <= info.offset_data, "a member is read before the next is asked for"
    source.seek(info.offset_data)
    left = info.size
    while left:
        block = source.content(min(left, BLOCK_BYTES))
        if not block:
            raise Refused("archive.truncated", f"it ends {left} bytes before a member does")
        left -= len(block)
        yield block


def _zip(file: IO[bytes], limits: Limits) -> Iterator[Member]:
    size = _check_directory(file, limits)
    with zipfile.ZipFile(file) as archive:
        yield from _zip_members(archive, size, limits)


def _zip_members(archive: zipfile.ZipFile, size: int, limits: Limits) -> Iterator[Member]:
    infos = archive.infolist()
    _check_zip(infos, size, limits)
    names = _Names()
    for info in infos:
        if not info.is_dir():
            name = _clean(info.filename)
            refused = names.wrong(name) or _wrong_zip_member(info) or _too_large(info.file_size, limits)
            yield Member(name, info.file_size, refused, partial(_zip_blocks, archive, info))


def _check_directory(file: IO[bytes], limits: Limits) -> int:
    """Return the size of a zip whose central directory is no larger than its members need (APPNOTE 4.3.14)."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    at = tail.rfind(_ZIP_END)
    if at < 0 or len(tail) < at + 22:
        raise Refused("archive.truncated", "the directory that ends a zip is missing")
    stated: int = struct.unpack_from("<I", tail, at + 12)[0]
    place = tail.rfind(_ZIP64_PLACE, 0, at)
    if place >= 0:
        file.seek(min(struct.unpack_from("<Q", tail, place + 8)[0], size))
        end = file.read(56)
        if len(end) < 56 or not end.startswith(_ZIP64_END):
            raise Refused("archive.format", "the directory that ends a large zip is not where it should be")
        stated = struct.unpack_from("<Q", end, 40)[0]
    if stated > limits.members * DIRECTORY_ENTRY_BYTES or stated > size:
        raise Refused("archive.members", f"its directory has {stated} bytes, more than {limits.members} members need")
    file.seek(0)
    return size


def _check_zip(infos: list[zipfile.ZipInfo], size: int, limits: Limits) -> None:
    """Hold what the directory states against the limits; members that share bytes are how small zips become huge."""
    if len(infos) > limits.members:
        raise Refused("archive.members", f"it has {len(infos)} members, and at most {limits.members} are read")
    stated, packed = sum(i.file_size for i in infos), min(size, sum(i.compress_size for i in infos))
    if stated > limits.total_bytes:
        raise Refused("archive.total", f"it states {stated} bytes, and at most {limits.total_bytes} are read")
    if stated > max(RATIO_FROM_BYTES, limits.ratio * packed):
        raise Refused("archive.ratio", f"it states {stated} bytes out of {packed}")
    placed = sorted(infos, key=lambda info: info.header_offset)
    if placed and placed[0].header_offset < 0:
        raise Refused("archive.format", "a member is said to start before the archive does")
    ends = [*(info.header_offset for info in placed[1:]), size]
    for info, end in zip(placed, ends, strict=True) if placed else ():
        if info.header_offset + 30 + info.compress_size > end:  # 30: of the shortest local header
            raise Refused("archive.overlap", "two of its members share bytes, or one goes on beyond its end")


def _wrong_zip_member(info: zipfile.ZipInfo) -> Refused | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return Refused("archive.link", "it is a link; links are not followed")
    if kind not in (0, stat.S_IFREG):
        return Refused("archive.device", "it is neither a file nor a folder")
    if info.flag_bits & 1:
        return Refused("archive.encrypted", "it is encrypted")
    if info.compress_type not in _METHODS:
        return Refused("archive.method", f"it is packed by method {info.compress_type}; stored and deflated are read")
    return None


def _zip_blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Give the bytes of a member, never more than the directory states; its size and checksum must be true."""
    size = 0
    try:
        with archive.open(info) as content:
            while block := content.read(BLOCK_BYTES):
                size += len(block)
                yield block
    except _DAMAGED as fault:
        raise Refused("archive.damaged", f"it cannot be unpacked as stated ({type(fault).__name__})") from fault
    if size != info.file_size:
        raise Refused("archive.damaged", f"it has {size} bytes where {info.file_size} are stated")


def _too_large(size: int, limits: Limits) -> Refused | None:
    if size < 0:
        return Refused("archive.damaged", "its size is negative")
    if size > limits.member_bytes:
        return Refused("archive.member_bytes", f"{size} bytes, and at most {limits.member_bytes} of a member are read")
    return None


class _Names:
    """The names met so far."""

    def __init__(self) -> None:
        self._met: set[str] = set()

    def wrong(self, name: str) -> Refused | None:
        """Return what is wrong with a name, None when nothing is."""
        parts = re.split(r"[/\\]", name)
        if re.match(r"[/\\]|[A-Za-z]:", name):
            return Refused("archive.path", "its name is absolute")
        if ".." in parts:
            return Refused("archive.path", "its name leads out of the archive")
        if len(name) > LONGEST_NAME or len(parts) > DEEPEST_NAME:
            return Refused("archive.path", f"its name has {len(name)} characters in {len(parts)} parts")
        if not parts[-1] or re.search(r"[\x00-\x1f\x7f]", name):
            return Refused("archive.path", "its name is empty, or holds control characters")
        if name in self._met:
            return Refused("archive.duplicate", "another member of the same name comes before it")
        self._met.add(name)
        return None


def _clean(name: str) -> str:
    """Return a name as data: "./" off its start, and bytes that were no UTF-8 escaped."""
    escaped = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"^(?:\./+)+", "", re.sub(r"(?<=[^/])/{2,}", "/", escaped))
