"""The frames of a segmentation or parametric map out of any transfer syntax, one at a time: a segmentation may unpack
to a hundred times its size, of which the box of each mask is all that is kept.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from medloom.connectors import dicom_codecs
from medloom.connectors.dicom_elements import Elements
from medloom.connectors.dicom_headers import BROKEN, DicomHeader, items_of, quiet, whole
from medloom.connectors.images import MAX_PIXELS
from medloom.schemas.errors import Refused

MAX_FRAMES = 2**17  # 117 classes on 1100 slices
MAX_PACKED_PIXELS = 2**33  # of all frames of a compressed object; of an uncompressed one its file is the bound
_RLE = "1.2.840.10008.1.2.5"
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"


@dataclass(frozen=True)
class Shape:
    """How many frames an object has, and of which size; the part of a header that decoders ask for."""

    n_frames: int
    rows: int
    columns: int
    bits: int
    samples_per_pixel: int = 1


def shape_of(elements: Elements) -> Shape:
    """Return the shape of an object whose frames may be decoded.

    Raises:
        Refused("dicom.size"): it has too many frames or pixels.
        Refused("dicom.header"): its shape or its type of pixels is none that such objects have.
        Refused("dicom.no_pixels"), ("dicom.truncated"): its pixels are not there, or not all of them.
    """
    frames, rows, columns = (
        whole(elements, "NumberOfFrames", 1) or 1,
        whole(elements, "Rows"),
        whole(elements, "Columns"),
    )
    bits = whole(elements, "BitsAllocated")
    if min(frames, rows, columns) < 1 or whole(elements, "SamplesPerPixel", 1) != 1 or bits not in (1, 8, 16):
        raise Refused("dicom.header", f"{frames} frames of {rows} x {columns} pixels of {bits} bits are none to read")
    if whole(elements, "PixelRepresentation") != 0:
        raise Refused("dicom.header", "its pixels have a sign, which those of a segmentation or map have not")
    if frames > MAX_FRAMES or rows * columns > MAX_PIXELS:
        raise Refused("dicom.size", f"{frames} frames of {rows} x {columns} pixels are too many")
    place, pixels = elements.pixels, frames * rows * columns
    if place is None or place.keyword != "PixelData" or place.length == 0:
        raise Refused("dicom.no_pixels", "the object holds no integer pixel data")
    if place.encapsulated and pixels > MAX_PACKED_PIXELS:
        raise Refused("dicom.size", f"{frames} frames of {rows} x {columns} pixels are too many")
    if not place.encapsulated:
        check_length(place.length, -(-pixels * bits // 8))
    check_groups(elements, frames)
    return Shape(frames, rows, columns, bits)


def check_length(found: int, stated: int) -> None:
    """Refuse pixel data of another length than shape and bits give, but for one byte that makes it even.

    Raises:
        Refused("dicom.truncated"), ("dicom.header")
    """
    if found < stated:
        raise Refused("dicom.truncated", f"{found} bytes are less than the {stated} of its frames")
    if found > stated + 1:
        raise Refused("dicom.header", f"its frames are {stated} bytes and {found} are there")


def check_groups(elements: Elements, frames: int) -> None:
    """Refuse functional groups of another number of frames than stated.

    Raises:
        Refused("dicom.header")
    """
    found = len(items_of(elements, "PerFrameFunctionalGroupsSequence"))
    if found not in (0, frames):
        raise Refused("dicom.header", f"{found} frames are described and {frames} are stated")


def frames_in(elements: Elements) -> Iterator[np.ndarray]:
    """Yield the stored values of every frame in its order, (Y, X) of uint8 or uint16.

    Raises:
        Refused: as `shape_of` and `dicom_codecs.frames`.
    """
    shape = shape_of(elements)
    place, syntax = elements.pixels, elements.transfer_syntax
    assert place is not None
    if not place.encapsulated:
        yield from _plain_frames(elements.pixel_bytes(), shape, order="<" if elements.syntax.little else ">")
    elif syntax == _DEFLATED_FRAMES or (syntax == _RLE and shape.bits == 1):
        yield from _unpacked_frames(elements.pixel_bytes(), shape, deflated=syntax == _DEFLATED_FRAMES)
    else:
        for frame in dicom_codecs.frames(elements, cast(DicomHeader, shape), range(shape.n_frames)):
            if frame.shape != (shape.rows, shape.columns):
                raise Refused("dicom.pixels", f"a frame decodes to {frame.shape}, not to {shape.rows, shape.columns}")
            yield frame


def _plain_frames(data: bytes, shape: Shape, *, order: str) -> Iterator[np.ndarray]:
    """Yield uncompressed frames; bits are packed without padding between frames, the lowest first (PS3.5 8.1.1)."""
    size, bits = shape.rows * shape.columns, shape.bits
    for frame in range(shape.n_frames):
        begin, end = frame * size * bits, (frame + 1) * size * bits
        part = data[begin // 8 : -(-end // 8)]
        if bits > 1:
            yield np.frombuffer(part, f"{order}u{bits // 8}").reshape(shape.rows, shape.columns)
            continue
        unpacked = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")
        yield unpacked[begin % 8 : begin % 8 + size].reshape(shape.rows, shape.columns)


def _unpacked_frames(data: bytes, shape: Shape, *, deflated: bool) -> Iterator[np.ndarray]:
    """Yield deflated frames, or run-length coded ones of single bits, which pydicom reads neither of.

    Run-length coded bits are packed first or a byte each: writers do it in both ways, and the length tells which.
    """
    from pydicom.encaps import generate_frames

    size, count = shape.rows * shape.columns, 0
    limit = size * max(shape.bits, 8) // 8
    with quiet():
        try:
            for stream in generate_frames(data, number_of_frames=shape.n_frames):
                unpacked = _inflate(stream, limit) if deflated else _unpack_runs(stream, limit)
                is_packed = shape.bits == 1 and len(unpacked) < size
                one = Shape(1, shape.rows, shape.columns, 1 if is_packed else max(shape.bits, 8))
                if len(unpacked) * 8 < size * one.bits:
                    raise Refused("dicom.truncated", f"a frame of {size} pixels unpacks to {len(unpacked)} bytes")
                yield from _plain_frames(unpacked, one, order="<")
                count += 1
        except (*BROKEN, zlib.error) as error:
            raise Refused("dicom.pixels", f"a frame does not decode ({type(error).__name__})") from error
    if count != shape.n_frames:
        raise Refused("dicom.truncated", f"{count} of {shape.n_frames} frames are there")


def _inflate(data: bytes, limit: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit + 1)[:limit]


def _unpack_runs(data: bytes, limit: int) -> bytes:
    """Return up to `limit` bytes of a frame of one RLE segment (PS3.5 G.3)."""
    if int.from_bytes(data[:4], "little") != 1:
        raise Refused("dicom.pixels", "a frame of single bits is not one run-length segment")
    made, at = bytearray(), max(64, int.from_bytes(data[4:8], "little"))
    while at + 1 < len(data) and len(made) < limit:
        length = data[at]
        if length < 128:
            made += data[at + 1 : at + 2 + length]
            at += 2 + length
        elif length > 128:
            made += data[at + 1 : at + 2] * (257 - length)
            at += 2
        else:
            at += 1
    return bytes(made[:limit])
