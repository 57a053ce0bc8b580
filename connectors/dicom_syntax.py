"""How a DICOM data set is written: elements, items and sequences, step by step over its bytes (PS3.5, 7).

Every step is strict: a length that leads out of the bytes, a delimiter in the wrong place or a value representation
that does not exist is refused.
"""

import mmap
import struct
from dataclasses import dataclass

from medloom.schemas.errors import Refused

MAX_DEPTH = 32  # of sequences within sequences
PIXELS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}

UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT = frozenset((
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Syntax:
    """How the elements of a data set are written."""

    implicit: bool
    little: bool


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the value of the pixel data lies in the (inflated) file.

    Attributes:
        encapsulated: whether it is compressed frames in items, or a run of bytes.
        complete: whether the file holds all of it.
    """

    keyword: str
    vr: str
    start: int
    length: int
    encapsulated: bool
    complete: bool = True


def explicit_step(data: "bytes | mmap.mmap", at: int, end: int, order: str) -> tuple[int, str, int, int]:
    """Return tag, value representation, where the value starts and its length, of the element at `at`."""
    if at + 8 > end:
        raise Refused("dicom.truncated", "the file ends within an element")
    group, element, vr, length = struct.unpack_from(order + "HH2sH", data, at)
    tag = group << 16 | element
    if vr in SHORT:
        return tag, vr.decode(), at + 8, length
    if vr in LONG:
        if at + 12 > end:
            raise Refused("dicom.truncated", "the file ends within an element")
        return tag, vr.decode(), at + 12, struct.unpack_from(order + "I", data, at + 8)[0]
    if group == 0xFFFE or not vr.isalpha():  # delimiters have none, and some writers leave it out
        return tag, "", at + 8, struct.unpack_from(order + "I", data, at + 4)[0]
    raise Refused("dicom.header", "an element's value representation does not exist")


def implicit_step(data: "bytes | mmap.mmap", at: int, end: int, order: str) -> tuple[int, str, int, int]:
    """Return the same of an element, an item or a delimiter that states no value representation: it is ""."""
    if at + 8 > end:
        raise Refused("dicom.truncated", "the file ends within an element")
    group, element, length = struct.unpack_from(order + "HHI", data, at)
    return group << 16 | element, "", at + 8, length


def end_of_items(data: "bytes | mmap.mmap", at: int, end: int, syntax: Syntax, depth: int) -> tuple[int, int]:
    """Return where the items of a sequence of undefined length end, and where the element after it starts."""
    if depth > MAX_DEPTH:
        raise Refused("dicom.header", f"sequences are nested more than {MAX_DEPTH} deep")
    order = "<" if syntax.little else ">"
    while True:
        start = at
        tag, _, at, length = implicit_step(data, at, end, order)
        if tag == _SEQUENCE_END:
            return start, at
        if tag != _ITEM:
            raise Refused("dicom.header", "a sequence holds something else than items")
        if length == UNDEFINED:
            at = _end_of_item(data, at, end, syntax, depth)
        else:
            at += length
        if at > end:
            raise Refused("dicom.truncated", "the file ends within a sequence")


def _end_of_item(data: "bytes | mmap.mmap", at: int, end: int, syntax: Syntax, depth: int) -> int:
    step = implicit_step if syntax.implicit else explicit_step
    while True:
        tag, vr, at, length = step(data, at, end, "<" if syntax.little else ">")
        if tag == _ITEM_END:
            return at
        if length == UNDEFINED:
            inner = Syntax(syntax.implicit or vr == "UN", syntax.little)
            _, at = end_of_items(data, at, end, inner, depth + 1)
        else:
            at += length
        if at > end:
            raise Refused("dicom.truncated", "the file ends within a sequence")


def items_in(data: bytes, syntax: Syntax) -> list[dict[int, tuple[str, bytes]]]:
    """Return the elements of each item of a sequence's value."""
    at, found, order = 0, [], "<" if syntax.little else ">"
    while at < len(data):
        tag, _, at, length = implicit_step(data, at, len(data), order)
        if tag != _ITEM:
            raise Refused("dicom.header", "a sequence holds something else than items")
        end = len(data) if length == UNDEFINED else at + length
        if end > len(data):
            raise Refused("dicom.header", "an item is longer than its sequence")
        raw, at = _item(data, at, end, syntax)
        found.append(raw)
    return found


def _item(data: bytes, at: int, end: int, syntax: Syntax) -> tuple[dict[int, tuple[str, bytes]], int]:
    """Return the elements of an item, and where the next one starts."""
    raw: dict[int, tuple[str, bytes]] = {}
    step, order = implicit_step if syntax.implicit else explicit_step, "<" if syntax.little else ">"
    while at < end:
        tag, vr, at, length = step(data, at, end, order)
        if tag == _ITEM_END:
            break
        if length == UNDEFINED:
            stop, after = end_of_items(data, at, end, Syntax(syntax.implicit or vr == "UN", syntax.little), 0)
        else:
            stop = after = at + length
        if stop > end:
            raise Refused("dicom.header", "an element is longer than its item")
        raw[tag] = (vr or ("SQ" if length == UNDEFINED else ""), data[at:stop])
        at = after
    return raw, at


def pixel_place(data: "bytes | mmap.mmap", tag: int, vr: str, at: int, length: int, end: int, order: str) -> PixelPlace:
    """Return where the pixel data at `at` are, and whether all of them are."""
    if length != UNDEFINED:
        return PixelPlace(PIXELS[tag], vr, at, min(length, end - at), encapsulated=False, complete=at + length <= end)
    start = at
    while at + 8 <= end:
        tag_inside, _, at, size = implicit_step(data, at, end, order)
        if tag_inside == _SEQUENCE_END:
            return PixelPlace(PIXELS[tag], vr, start, at - start, encapsulated=True)
        if tag_inside != _ITEM or size == UNDEFINED:
            raise Refused("dicom.header", "compressed pixels are not in items")
        at += size
    return PixelPlace(PIXELS[tag], vr, start, end - start, encapsulated=True, complete=False)
