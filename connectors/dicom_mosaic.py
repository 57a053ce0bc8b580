"""Siemens mosaics: all slices of a volume as tiles of one image, told apart by the private CSA header.

The image's own header states how many tiles hold slices and which way the slices count; ImagePositionPatient is that of
the whole sheet. Where the CSA header was taken out, nothing states either, and the image is refused.
"""

import math
import struct
from dataclasses import replace

import numpy as np

from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.connectors.dicom_geometry import Frame
from medloom.connectors.dicom_headers import numbers
from medloom.schemas.errors import Refused

COSINE_TOLERANCE = 1e-3  # between the stated direction of slices and the image's normal
_MAX_TAGS, _MAX_ITEMS = 512, 256  # of a CSA header; real ones have about 100 and 10
_CSA_GROUP, _CSA_NAME = 0x0029, b"SIEMENS CSA HEADER"
_MR_GROUP, _MR_NAME = 0x0019, b"SIEMENS MR HEADER"


def is_mosaic(frame: Frame) -> bool:
    """Whether a frame holds the tiles of many slices (Siemens, United Imaging); enhanced objects that a scanner cut up
    keep the word in their ImageType.
    """
    return frame.header.n_frames == 1 and bool({"MOSAIC", "VFRAME"} & set(frame.header.image_type))


def tiles_of(frame: Frame, elements: Elements) -> list[Frame]:
    """Return the slices of a mosaic as frames, each with its place and its tile.

    The sheet's ImagePositionPatient is where a single slice of the sheet's size around the same centre would begin.

    Raises:
        Refused("dicom.mosaic"): the number of slices, their direction or their distance is not stated, or cannot be.
    """
    count, normal = _stated(elements)
    step_mm = numbers(elements, "SpacingBetweenSlices", 1)
    if count < 1 or not normal:
        raise Refused("dicom.mosaic", "the CSA header, which states the number of slices and their direction, is gone")
    if not step_mm or step_mm[0] <= 0 or not frame.has_place:
        raise Refused("dicom.mosaic", "the place or the distance of its slices is not stated")
    across = math.ceil(math.sqrt(count))
    rows, columns = frame.rows // across, frame.columns // across
    if rows * across != frame.rows or columns * across != frame.columns:
        raise Refused("dicom.mosaic", f"{frame.rows} x {frame.columns} pixels are not {across} x {across} tiles")
    row, column = np.reshape(frame.orientation, (2, 3))
    if abs(abs(np.cross(row, column) @ normal) - 1) > COSINE_TOLERANCE:
        raise Refused("dicom.mosaic", "the direction of its slices is not at right angles to them")
    middle = (
        row * (frame.columns - columns) / 2 * frame.spacing[1] + column * (frame.rows - rows) / 2 * frame.spacing[0]
    )
    first = np.add(frame.position, middle)
    return [
        replace(
            frame,
            position=tuple(map(float, first + index * step_mm[0] * np.array(normal))),
            rows=rows,
            columns=columns,
            tile=(index // across * rows, index % across * columns),
            step_mm=step_mm[0],
        )
        for index in range(count)
    ]


def _stated(elements: Elements) -> tuple[int, tuple[float, ...]]:
    """Return the number of slices and the direction in which they count, 0 and () where not stated."""
    private = read_elements(elements.path, groups=(_CSA_GROUP, _MR_GROUP))
    found = _csa_values(_private(private, _CSA_GROUP, _CSA_NAME, 0x10))
    count = _first(found.get("NumberOfImagesInMosaic", []))
    if not count:
        short = _private(private, _MR_GROUP, _MR_NAME, 0x0A)
        count = struct.unpack("<H", short)[0] if len(short) == 2 and private.syntax.little else 0
    normal = [_number(word) for word in found.get("SliceNormalVector", [])[:3]]
    return int(count), tuple(normal) if len(normal) == 3 and all(map(math.isfinite, normal)) else ()


def _private(elements: Elements, group: int, creator: bytes, element: int) -> bytes:
    """Return the value of a private element of a creator's block (PS3.5, 7.8.1), b"" when it is not there."""
    for block in range(0x10, 0x100):
        _, stated = elements.raw.get(group << 16 | block, ("", b""))
        # Some tools drop the creator and keep the block where it always is.
        if stated.strip(b" \0") == creator or (block == 0x10 and not stated):
            return elements.raw.get(group << 16 | block << 8 | element, ("", b""))[1]
    return b""


def _first(words: list[str]) -> float:
    value = _number(words[0]) if words else 0.0
    return value if math.isfinite(value) and value == int(value) else 0.0


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _csa_values(data: bytes) -> dict[str, list[str]]:
    """Return the elements of a CSA header, of its first form or its second ("SV10"), {} when there is none.

    Raises:
        Refused("dicom.mosaic"): it is broken.
    """
    if len(data) < 16:
        return {}
    is_second = data[:4] == b"SV10"
    at = 8 if is_second else 0
    try:
        (count,) = struct.unpack_from("<I", data, at)
        if not 0 < count <= _MAX_TAGS:
            raise Refused("dicom.mosaic", "the CSA header is broken")
        at, found, base = at + 8, {}, None
        for _ in range(count):
            name, _, _, _, items, _ = struct.unpack_from("<64si4siii", data, at)
            at += 84
            if base is None:
                base = items  # the first form counts lengths from the number of the first element's items
            if not 0 <= items <= _MAX_ITEMS:
                raise Refused("dicom.mosaic", "the CSA header is broken")
            words = []
            for _ in range(items):
                lengths = struct.unpack_from("<4i", data, at)
                length = lengths[1] if is_second else lengths[0] - base
                at += 16
                if not 0 <= length <= len(data) - at:
                    break
                words.append(data[at : at + length].split(b"\0")[0].decode("latin-1").strip())
                at += (length + 3) // 4 * 4
            found[name.split(b"\0")[0].decode("latin-1")] = [word for word in words if word]
    except struct.error as error:
        raise Refused("dicom.mosaic", "the CSA header is broken") from error
    return found
