"""Metadata of JPEG and PNG files: what is stripped, losslessly, and the few facts read before anything is decoded.

Only segments that decide the pixels are kept (ITU-T T.81, Annex B; PNG 3rd edition, section 11): cameras, scanners and
editors write names, places and thumbnails of what was cut away into all others, and behind the end of the image.
"""

import struct
import zlib
from dataclasses import dataclass

from medloom.schemas.errors import Refused

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB")
_MAX_CHUNKS = 100_000

_SOI, _EOI, _SOS, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD})  # DHT, DAC, DQT, DNL, DRI
_ORIENTATION_TAG = 0x0112  # Exif 2.32, 4.6.4 A


@dataclass(frozen=True)
class Stripped:
    """An image file without metadata, and its size as its header states it.

    Attributes:
        data: the file, its pixels untouched.
        height, width: in pixels.
        orientation: of EXIF, 1 to 8; 1 when there is none.
    """

    data: bytes
    height: int
    width: int
    orientation: int = 1


def strip_jpeg(data: bytes) -> Stripped:
    """Return `data` with SOF, DHT, DQT, DRI, SOS, scans, JFIF (without its thumbnail) and Adobe segments only.

    Raises:
        Refused("image.truncated"): the file ends before its end marker.
        Refused("image.corrupt"): no frame, or bytes where a marker should stand.
    """
    kept, position = [b"\xff\xd8"], 2
    size: tuple[int, int] | None = None
    orientation = 1
    while True:
        marker, position = _next_marker(data, position)
        if marker == _EOI:
            break
        body = _segment(data, position)
        position += 2 + len(body)
        if marker in _FRAMES and len(body) >= 6:
            size = struct.unpack_from(">HH", body, 1)
        elif marker == _APP1 and body.startswith(b"Exif\x00\x00"):
            orientation = _exif_orientation(body[6:])
        body = _kept_body(marker, body)
        if body:
            kept.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
        if marker == _SOS:
            end = _end_of_scan(data, position)
            kept.append(data[position:end])
            position = end
    if size is None:
        raise Refused("image.corrupt", "the JPEG holds no frame header")
    return Stripped(b"".join([*kept, b"\xff\xd9"]), *size, orientation)


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Return the marker at `position`, and the position behind it; fill bytes before it are skipped."""
    if position < len(data) and data[position] != 0xFF:
        raise Refused("image.corrupt", "the JPEG holds bytes where a marker should stand")
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise Refused("image.truncated", "the JPEG ends before its end marker")
    return data[position], position + 1


def _segment(data: bytes, position: int) -> bytes:
    """Return the body of the segment whose length field stands at `position`."""
    if position + 2 > len(data):
        raise Refused("image.truncated", "the JPEG ends inside a segment")
    (length,) = struct.unpack_from(">H", data, position)
    if length < 2:
        raise Refused("image.corrupt", "a JPEG segment states a length below 2")
    if position + length > len(data):
        raise Refused("image.truncated", "the JPEG ends inside a segment")
    return data[position + 2 : position + length]


def _kept_body(marker: int, body: bytes) -> bytes:
    """Return what is kept of a segment, b"" for nothing."""
    if marker in _FRAMES or marker in _TABLES or marker == _SOS:
        return body
    if marker == _APP0 and body.startswith(b"JFIF\x00") and len(body) >= 14:
        return body[:12] + b"\x00\x00"  # version, density; no thumbnail
    if marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        return body[:12]  # its last byte says how colours are coded
    return b""


def _end_of_scan(data: bytes, position: int) -> int:
    """Return where the entropy-coded data that start at `position` end: at the first marker but RST0 to RST7."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise Refused("image.truncated", "the JPEG ends inside its image data")
        following = data[position + 1]
        if following == 0xFF:  # fill byte
            position += 1
        elif following == 0 or 0xD0 <= following <= 0xD7:
            position += 2
        else:
            return position


def _exif_orientation(tiff: bytes) -> int:
    """Return the Orientation of the first directory, 1 when it is missing or cannot be read."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == _ORIENTATION_TAG:
            return value if 1 <= value <= 8 else 1
    return 1


def strip_png(data: bytes) -> Stripped:
    """Return `data` with the chunks that decide the pixels only; of an animation its first frame.

    Raises:
        Refused("image.truncated"): the file ends before IEND.
        Refused("image.corrupt"): a checksum is wrong, or IHDR does not come first.
    """
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    size: tuple[int, int] | None = None
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            raise Refused("image.truncated", "the PNG ends before its end chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise Refused("image.truncated", "the PNG ends inside a chunk")
        if (size is None) != (kind == b"IHDR") or (kind == b"IHDR" and length != 13):
            raise Refused("image.corrupt", "the PNG does not start with one IHDR of 13 bytes")
        if kind in _PNG_KEPT:
            body = memoryview(data)[position + 4 : end - 4]
            if zlib.crc32(body) != struct.unpack_from(">I", data, end - 4)[0]:
                raise Refused("image.corrupt", "a checksum of the PNG is wrong")
            kept.append(data[position:end])
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, position + 8)
            size = height, width
        if kind == b"IEND" and size is not None:
            return Stripped(b"".join(kept), *size)
        position = end
    raise Refused("image.corrupt", f"the PNG holds more than {_MAX_CHUNKS} chunks")
