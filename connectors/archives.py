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

from medloom.schemas.errors import Refused

Kind = Literal["tar", "tar.gz", "zip"]

BLOCK_BYTES = 1 << 15  # read at once
HEADER_BYTES = 1 << 14  # the longest header of a tar: names are shorter, and tarfile's patterns slow down with length
LONGEST_NAME = 1024
DEEPEST_NAME = 32
RATIO_FROM_BYTES = 16 << 20  # unpacked; below, any ratio is harmless
DIRECTORY_ENTRY_BYTES = 512  # of a zip's central directory, on average and at most: it is held in memory
_TAR_BLOCK = 512
_ZIP_END, _ZIP64_END, _ZIP64_PLACE = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# What the two libraries raise over bytes that are no archive, or a damaged one.
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, IndexError, struct.error,
    RecursionError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What an archive may hold, unpacked.

    Attributes:
        members: of all kinds.
        member_bytes: of one; more refuses that one.
        total_bytes: of all, those of refused members included.
        ratio: unpacked / packed bytes; text has 5 to 20, 1,032 is the most that deflate can do.
    """

    members: int = 1_000_000
    member_bytes: int = 512 << 20
    total_bytes: int = 256 << 30
    ratio: float = 250.0


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


def check(file: IO[bytes], kind: Kind, limits: Limits | None = None) -> None:
    """Read a tar.gz to its end, so that its checksum vouches for every member before one is used; then go back.

    A zip has a checksum for each member, which reading that one holds against it; a plain tar has none.

    Raises:
        Refused: as `members` does.
    """
    if kind == "tar.gz":
        for _ in _unzipped(file, limits or Limits()):
            pass
        file.seek(0)


def _tar(file: IO[bytes], limits: Limits, *, is_packed: bool) -> Iterator[Member]:
    source = _Forward(_unzipped(file, limits) if is_packed else _plain(file, limits))
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


def _headers(tar: tarfile.TarFile, source: "_Forward", limits: Limits) -> Iterator[tarfile.TarInfo]:
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


def _tar_blocks(source: "_Forward", info: tarfile.TarInfo) -> Iterator[bytes]:
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


class _Total:
    """Counts what was unpacked so far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unpacked = 0

    def add(self, unpacked: int, packed_so_far: int) -> None:
        """Raise Refused when it is more than it may be."""
        self._unpacked += unpacked
        if self._unpacked > self._limits.total_bytes:
            raise Refused("archive.total", f"it has more than {self._limits.total_bytes} bytes")
        if self._unpacked > max(RATIO_FROM_BYTES, self._limits.ratio * packed_so_far):
            raise Refused("archive.ratio", f"it has {self._unpacked} bytes out of {packed_so_far}")


def _plain(file: IO[bytes], limits: Limits) -> Iterator[bytes]:
    total = _Total(limits)
    while block := file.read(BLOCK_BYTES):
        total.add(len(block), limits.total_bytes)
        yield block


def _unzipped(file: IO[bytes], limits: Limits) -> Iterator[bytes]:
    """Give what a gzip stream holds, in bounded steps; it must be whole, checksum and all (RFC 1952)."""
    unzip, total, packed = zlib.decompressobj(31), _Total(limits), 0
    while block := file.read(BLOCK_BYTES):
        packed += len(block)
        while block:
            if unzip.eof:
                if not block.strip(b"\0"):  # zeros that fill a tape's last block
                    break
                unzip = zlib.decompressobj(31)
            try:
                piece = unzip.decompress(block, BLOCK_BYTES)
            except zlib.error as fault:
                raise Refused("archive.damaged", "its gzip stream is damaged, or is none") from fault
            block = unzip.unconsumed_tail or unzip.unused_data
            total.add(len(piece), packed)
            yield piece
    if not unzip.eof:
        raise Refused("archive.truncated", "its gzip stream ends early")


class _Forward:
    """A stream of blocks as a file that is read and skipped forwards, as `tarfile` reads one.

    `last_header` is what was read last in the size of a tar's header.
    """

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks = blocks
        self._held = b""
        self._failed: Refused | None = None
        self.place = 0
        self.last_header = b""

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes of a header, fewer at the end."""
        if not 0 <= size <= HEADER_BYTES:  # a header that states a length of its own
            raise Refused("archive.format", f"a header of {size} bytes")
        found = self.content(size)
        if size == _TAR_BLOCK:
            self.last_header = found
        return found

    def content(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        while len(self._held) < size and (block := self._next()):
            self._held += block
        found, self._held = self._held[:size], self._held[size:]
        self.place += len(found)
        return found

    def _next(self) -> bytes:
        """Return the next block, b"" at the end; what failed once fails again, and is not taken for the end."""
        if self._failed is not None:
            raise self._failed
        try:
            return next((block for block in self._blocks if block), b"")
        except Refused as fault:
            self._failed = fault
            raise

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> int:
        if place < self.place:
            raise Refused("archive.format", "a header leads back to what was read before")
        while self.place < place and self.content(min(place - self.place, BLOCK_BYTES)):
            pass
        return self.place

    def skip_rest(self) -> None:
        """Pass over what was not read."""
        self._held = b""
        while self._next():
            pass
