"""Repair of a tar: headers, padding and end written again, a single flipped bit turned back; proven by sha256."""

import hashlib
from collections.abc import Iterator
from typing import IO, Any

import crc32c

from medloom.quality import finding
from medloom.quality.finding import few
from medloom.quality.single_bit import flipped_bits
from medloom.schemas.shard import BLOCK, tar_header
from medloom.schemas.store import Store


class CannotRepair(Exception):
    """Something cannot be made again from what is intact; the text says why."""


def repair_tar(store: Store, path: str, rows: list[dict[str, Any]], sha256: str) -> str:
    """Write a tar again from its own members where they are intact; return what was wrong with it.

    Args:
        rows: of its index, which is intact.
        sha256: that its ledger committed; a tar of another is never left under the name.

    Raises:
        CannotRepair: members have lost more than a bit each, or the whole would still be another.
    """
    with store.fs.open(store.path(path), "rb") as damaged:
        fixes, lost = {}, []
        for row in rows:
            if _sum(damaged, row) != row["crc32c"]:
                fix = _flipped(damaged, row)
                if fix is None:
                    lost.append(f"{row['key']}.{row['field']}")
                else:
                    fixes[row["offset"] + fix[0]] = fix[1]
        if lost:
            raise CannotRepair(f"{len(lost)} of its members have lost bytes: {few(lost)}")
        digest = hashlib.sha256()
        for piece in _whole(damaged, rows, fixes):
            digest.update(piece)
        if digest.hexdigest() != sha256:
            raise CannotRepair(
                "its members are intact, and put together they are not the tar that its ledger committed"
            )
        with store.writing(path) as file:
            written = hashlib.sha256()
            for piece in _whole(damaged, rows, fixes):
                written.update(piece)
                file.write(piece)
            if written.hexdigest() != sha256:  # nothing was replaced yet
                raise CannotRepair("read twice it gives different bytes; look at its disk")
    bits = [f"{row['key']}.{row['field']}" for row in rows for at in fixes if 0 <= at - row["offset"] < row["size"]]
    return f"a bit of {few(bits)} was flipped" if bits else "bytes between its members were wrong"


def _pieces(file: IO[bytes], row: dict[str, Any]) -> Iterator[bytes]:
    file.seek(row["offset"])
    left = row["size"]
    while left and (piece := file.read(min(left, finding.PIECE))):
        left -= len(piece)
        yield piece


def _sum(file: IO[bytes], row: dict[str, Any]) -> int:
    sum_ = 0
    for piece in _pieces(file, row):
        sum_ = crc32c.crc32c(piece, sum_)
    return sum_


def _flipped(file: IO[bytes], row: dict[str, Any]) -> tuple[int, int] | None:
    """Return byte and mask of the one bit that is wrong in a member, None where it is not one."""
    if sum(map(len, _pieces(file, row))) != row["size"]:
        return None
    return next(flipped_bits(_sum(file, row) ^ row["crc32c"], row["size"]), None)


def _whole(file: IO[bytes], rows: list[dict[str, Any]], fixes: dict[int, int]) -> Iterator[bytes]:
    """Give the bytes of the tar as its writer makes them of these members."""
    for row in rows:
        yield tar_header(f"{row['key']}.{row['field']}", row["size"])
        at = row["offset"]
        for piece in _pieces(file, row):
            mine = [(place - at, mask) for place, mask in fixes.items() if at <= place < at + len(piece)]
            if mine:
                turned = bytearray(piece)
                for place, mask in mine:
                    turned[place] ^= mask
                piece = bytes(turned)
            at += len(piece)
            yield piece
        yield bytes(-row["size"] % BLOCK)
    yield bytes(2 * BLOCK)
