"""Streams of archives: bytes unpacked step by step, counted against limits, and as the files that `tarfile` reads."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from medloom.schemas.errors import Refused

BLOCK_BYTES = 1 << 15  # read at once
HEADER_BYTES = 1 << 14  # the longest header of a tar: names are shorter, and tarfile's patterns slow down with length
RATIO_FROM_BYTES = 16 << 20  # unpacked; below, any ratio is harmless
TAR_BLOCK = 512


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


class Total:
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


def plain(file: IO[bytes], limits: Limits) -> Iterator[bytes]:
    """Give the bytes of a file, which may be as many as `limits` says."""
    total = Total(limits)
    while block := file.read(BLOCK_BYTES):
        total.add(len(block), limits.total_bytes)
        yield block


def unzipped(file: IO[bytes], limits: Limits) -> Iterator[bytes]:
    """Give what a gzip stream holds, in bounded steps; it must be whole, checksum and all (RFC 1952)."""
    unzip, total, packed = zlib.decompressobj(31), Total(limits), 0
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


class Forward:
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
        if size == TAR_BLOCK:
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
        """Return where it stands."""
        return self.place

    def seek(self, place: int) -> int:
        """Go forwards, by reading."""
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


class Seekable:
    """A plain tar on a disk as the file that `tarfile` reads, which passes over members without reading them."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self.place = file.seek(0)
        self.last_header = b""

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes of a header, fewer at the end."""
        if not 0 <= size <= HEADER_BYTES:
            raise Refused("archive.format", f"a header of {size} bytes")
        self._file.seek(self.place)
        found = self._file.read(size)
        if size == TAR_BLOCK:
            self.last_header = found
        self.place += len(found)
        return found

    def tell(self) -> int:
        """Return where it stands."""
        return self.place

    def seek(self, place: int) -> int:
        """Go forwards, at most to the end."""
        if place < self.place:
            raise Refused("archive.format", "a header leads back to what was read before")
        self.place = min(place, self._size)
        return self.place
