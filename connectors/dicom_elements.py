"""DICOM files: which elements of the data set there are, where they lie and what they hold (PS3.5, PS3.10).

The whole data set is walked once, only the wanted values are taken, and nothing is decoded before it is asked for: a
slice's header costs a tenth of a millisecond. The walk is strict: lengths that lead out of the file, tags out of order
and value representations that do not exist are faults, never guesses.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medloom.connectors.dicom_syntax import (
    LONG,
    PIXELS,
    SHORT,
    UNDEFINED,
    PixelPlace,
    Syntax,
    end_of_items,
    explicit_step,
    implicit_step,
    items_in,
    pixel_place,
)
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileMetaDataset

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
MAX_INFLATED_BYTES = 2**30
MAX_TAIL_BYTES = 2**16  # of zeros after the pixels: some archives fill files up to whole blocks
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_WORDS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UC", "UI"))


@dataclass(frozen=True, eq=False, slots=True)
class Elements:
    """The wanted elements of one file; `get` decodes as pydicom does.

    Attributes:
        path: of the file.
        raw: tag to (value representation, "" in implicit syntax; bytes).
        transfer_syntax, media_class: of the file meta information; the plain syntax that was found when none is stated.
        pixels: where the pixel data lie, None when there are none.
        size_bytes: of the file.
    """

    path: str = field(repr=False)
    raw: dict[int, tuple[str, bytes]] = field(repr=False)
    syntax: Syntax
    transfer_syntax: str
    media_class: str
    pixels: PixelPlace | None
    size_bytes: int
    _sequences: "dict[int, list[Elements]]" = field(default_factory=dict, repr=False)

    def get(self, keyword: str) -> Any:
        """Return the value of an element: None when missing, a list when it has several; a sequence's items as these.

        Raises:
            ValueError, or what pydicom raises: the bytes are no such value.
        """
        tag = _tag(keyword)
        found = self.raw.get(tag)
        if found is None:
            return None
        if tag in self._sequences:
            return self._sequences[tag]
        stated, value = found
        vr = stated if stated not in ("", "UN") else _vr(tag)
        if vr in _WORDS and value.isascii():
            words = [part.strip(" \0") for part in value.decode("ascii").split("\\")]
            return words if len(words) > 1 else words[0]
        if vr in _NUMBERS:
            code = _NUMBERS[vr]
            count, rest = divmod(len(value), struct.calcsize(code))
            if rest:
                raise ValueError(f"{len(value)} bytes are no {vr}")
            numbers = struct.unpack(f"{'<' if self.syntax.little else '>'}{count}{code}", value)
            return numbers[0] if count == 1 else list(numbers)
        if vr == "SQ":
            # One of unknown representation is written implicitly (PS3.5, 6.2.2).
            syntax = Syntax(self.syntax.implicit or stated == "UN", self.syntax.little or stated == "UN")
            items = [
                replace(self, raw=raw, syntax=syntax, pixels=None, _sequences={}) for raw in items_in(value, syntax)
            ]
            self._sequences[tag] = items
            return items
        return self.dataset().get(keyword)

    def dataset(self) -> "Dataset":
        """Return the wanted elements as a pydicom data set, its values decoded when asked for."""
        from pydicom.dataelem import DataElement, RawDataElement
        from pydicom.dataset import Dataset
        from pydicom.tag import BaseTag

        implicit, little = self.syntax.implicit, self.syntax.little
        elements: dict[BaseTag, DataElement | RawDataElement] = {}
        for tag, (stated, value) in self.raw.items():
            vr = _vr(tag) if stated == "UN" else stated
            # A sequence of unknown representation is written implicitly (PS3.5, 6.2.2).
            hidden = stated == "UN" and vr == "SQ"
            elements[BaseTag(tag)] = RawDataElement(
                BaseTag(tag), vr or None, len(value), value, 0, implicit or hidden, little or hidden
            )
        made = Dataset(elements)
        made.file_meta = self.file_meta()
        made.set_original_encoding(implicit, little)
        return made

    def file_meta(self) -> "FileMetaDataset":
        """Return transfer syntax and class of the object, as pydicom wants them for decoding."""
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import UID

        meta = FileMetaDataset()
        meta.TransferSyntaxUID = UID(self.transfer_syntax)
        if self.media_class:
            meta.MediaStorageSOPClassUID = UID(self.media_class)
        return meta

    def pixel_bytes(self) -> bytes:
        """Return the value of the pixel data, its items where it is encapsulated."""
        place = self.pixels
        assert place is not None
        with open(self.path, "rb") as file:
            if self.transfer_syntax == DEFLATED:
                return _inflated(file.read())[place.start : place.start + place.length]
            file.seek(place.start)
            return file.read(place.length)


def read_elements(
    path: str | os.PathLike[str], keywords: Iterable[str] = (), *, groups: Collection[int] = ()
) -> Elements:
    """Return the elements of a file that `keywords` and `groups` name.

    Raises:
        Refused("dicom.not_dicom"): it does not start like a data set.
        Refused("dicom.truncated"): it ends within an element.
        Refused("dicom.header"): it is no well-formed data set.
        Refused("dicom.deflated"): it inflates to more than `MAX_INFLATED_BYTES`, or not at all.
    """
    wanted = _tags(tuple(keywords))
    size = os.stat(path).st_size
    if size < 8:
        raise Refused("dicom.not_dicom", "the file does not start like a DICOM object")
    with open(path, "rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, stated, media_class = _meta(data, size)
        if stated == DEFLATED:
            whole = _inflated(data[:])
            return _walked(path, whole, start, Syntax(False, True), wanted, groups, (stated, media_class, size))
        syntax = _syntax(data, start, stated)
        stated = stated or (IMPLICIT if syntax.implicit else EXPLICIT if syntax.little else BIG_ENDIAN)
        return _walked(path, data, start, syntax, wanted, groups, (stated, media_class, size))


@lru_cache(maxsize=64)
def _tags(keywords: tuple[str, ...]) -> frozenset[int]:
    return frozenset(_tag(keyword) for keyword in keywords)


@lru_cache(maxsize=4096)
def _tag(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    found = tag_for_keyword(keyword)
    if found is None:
        raise KeyError(keyword)
    return int(found)


@lru_cache(maxsize=4096)
def _vr(tag: int) -> str:
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _meta(data: "bytes | mmap.mmap", size: int) -> tuple[int, str, str]:
    """Return where the data set starts, the transfer syntax and the media storage class as stated, or ""."""
    head = data[:144]
    at = 132 if head[128:132] == b"DICM" else 0
    if not at and not (head[0] in (2, 8) and head[1] == 0) and not (head[0] == 0 and head[1] in (2, 8)):
        raise Refused("dicom.not_dicom", "the file does not start like a DICOM object")
    stated = {0x00020010: "", 0x00020002: ""}
    while at + 8 <= size:
        group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        if group != 2:
            break
        at += 8
        if vr in LONG:
            if at + 4 > size:
                raise Refused("dicom.truncated", "the file ends within its meta information")
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        elif vr not in SHORT:
            raise Refused("dicom.header", "the meta information is not well formed")
        if at + length > size:
            raise Refused("dicom.truncated", "the file ends within its meta information")
        tag = group << 16 | element
        if tag in stated:
            stated[tag] = data[at : at + length].decode("ascii", "replace").strip(" \0")
        at += length
    return at, stated[0x00020010], stated[0x00020002]


def _syntax(data: "bytes | mmap.mmap", at: int, stated: str) -> Syntax:
    """Return how the first element is written; what is stated decides only where both are possible."""
    head = data[at : at + 8]
    if len(head) < 8:
        raise Refused("dicom.truncated", "the file ends before its data set")
    explicit = head[4:6] in SHORT or head[4:6] in LONG
    if stated == BIG_ENDIAN or (not stated and head[0] == 0 and head[1] != 0):
        return Syntax(implicit=not explicit, little=False)
    return Syntax(implicit=not explicit, little=True)


def _inflated(data: bytes) -> bytes:
    """Return the file with its data set inflated, its first part as it was (PS3.5, A.5)."""
    start, _, _ = _meta(data, len(data))
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        made = inflater.decompress(data[start:], MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise Refused("dicom.deflated", "the data set does not inflate") from error
    if inflater.unconsumed_tail:
        raise Refused("dicom.deflated", f"the data set inflates to more than {MAX_INFLATED_BYTES} bytes")
    if not inflater.eof:
        raise Refused("dicom.truncated", "the deflated data set ends too early")
    return data[:start] + made


def _walked(
    path: str | os.PathLike[str],
    data: "bytes | mmap.mmap",
    at: int,
    syntax: Syntax,
    wanted: frozenset[int],
    groups: Collection[int],
    facts: tuple[str, str, int],
) -> Elements:
    raw: dict[int, tuple[str, bytes]] = {}
    pixels, end, last = None, len(data), -1
    step = implicit_step if syntax.implicit else explicit_step
    order = "<" if syntax.little else ">"
    while at < end:
        if pixels is not None and end - at <= MAX_TAIL_BYTES and not data[at:end].strip(b"\0"):
            break
        tag, vr, at, length = step(data, at, end, order)
        if tag <= last:
            raise Refused("dicom.header", "its elements are not in the order of their tags")
        last = tag
        if tag in PIXELS:
            pixels = pixel_place(data, tag, vr, at, length, end, order)
            at = pixels.start + pixels.length
            if not pixels.complete:
                break
            continue
        if length == UNDEFINED:
            stop, after = end_of_items(data, at, end, Syntax(syntax.implicit or vr == "UN", syntax.little), 0)
            vr = vr or "SQ"
        else:
            stop = after = at + length
            if stop > end:
                raise Refused("dicom.truncated", "the file ends within an element")
        if tag in wanted or (groups and tag >> 16 in groups):
            raw[tag] = (vr, data[at:stop])
        at = after
    return Elements(os.fspath(path), raw, syntax, facts[0], facts[1], pixels, facts[2])
