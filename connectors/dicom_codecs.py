"""Compressed DICOM pixels: which decoder reads which codec, and what a codestream must say before one is trusted.

Decoders fill what is missing with zeros, take another size than the header's for granted, or end the process on it;
so every frame's codestream is held against the header first.
"""

import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.dicom_elements import Elements
from medloom.connectors.dicom_headers import BROKEN, DicomHeader, quiet
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_JPEG = "1.2.840.10008.1.2.4."
# One decoder per codec, so that a build's bytes do not depend on what else is installed. GDCM only where it alone reads
# (12-bit and lossless JPEG): it lacks the guards of the others.
_DECODERS = {
    "1.2.840.10008.1.2.5": "pydicom", "1.2.840.10008.1.2.8.1": "",
    _JPEG + "50": "pillow", _JPEG + "51": "gdcm", _JPEG + "57": "gdcm", _JPEG + "70": "gdcm", _JPEG + "80": "pyjpegls",
    _JPEG + "81": "pyjpegls", _JPEG + "90": "pylibjpeg", _JPEG + "91": "pylibjpeg", _JPEG + "201": "pylibjpeg",
    _JPEG + "202": "pylibjpeg", _JPEG + "203": "pylibjpeg",
}  # fmt: skip
_EXTENDED = _JPEG + "51"
_GPL = "pylibjpeg-libjpeg (GPL, so never installed unasked: pip install pylibjpeg pylibjpeg-libjpeg)"
_PLUGINS = {  # what must be installed for a decoder
    "gdcm": "python-gdcm", "pyjpegls": "pyjpegls", "pylibjpeg": "pylibjpeg and pylibjpeg-openjpeg", "pillow": "pillow",
}  # fmt: skip
_TOO_LONG = re.compile(r"non-conformant padding - (\d+) vs\. (\d+) bytes")  # pydicom's decoder of run lengths
_NAMES = {
    "1": "MPEG video", "92": "multi-component JPEG 2000", "93": "multi-component JPEG 2000", "94": "JPIP",
    "95": "JPIP", "11": "JPEG XL",
}  # fmt: skip
_JPEG_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))


@dataclass(frozen=True, eq=False)
class Opened:
    """The pixels of an object, held against its header, and the one decoder of their codec ("": none is needed)."""

    dataset: "Dataset"
    decoder: str


def opened(elements: Elements, header: DicomHeader) -> Opened:
    """Return the pixels of an object, ready to be decoded.

    Raises:
        Refused("dicom.codec"): nothing that is installed reads the codec.
        Refused("dicom.truncated"), ("dicom.pixels"): a frame is not all there, or is another than the header says.
    """
    place = elements.pixels
    assert place is not None
    decoder = _decoder(elements.transfer_syntax, header.bits) if place.encapsulated else ""
    with quiet():
        try:
            dataset = elements.dataset()
            dataset.add_new("PixelData", place.vr or "OW", elements.pixel_bytes())
            dataset["PixelData"].is_undefined_length = place.encapsulated
            if place.encapsulated:
                _check_frames(dataset, elements.transfer_syntax, header)
        except BROKEN as error:
            raise Refused("dicom.pixels", f"the pixel data cannot be read ({type(error).__name__})") from error
    return Opened(dataset, decoder)


def frames(elements: Elements, header: DicomHeader, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the stored values of the frames `wanted`, (Y, X) or (Y, X, 3) as RGB; raises as `opened` and `decoded`."""
    yield from decoded(opened(elements, header), wanted)


def decoded(pixels: Opened, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the stored values of the frames `wanted`, (Y, X) or (Y, X, 3) as RGB.

    Raises:
        Refused("dicom.truncated"), ("dicom.length"), ("dicom.pixels"): a frame holds too little, too much, or does not
            decode.
    """
    from pydicom.pixels import iter_pixels

    with quiet(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            for stored in iter_pixels(pixels.dataset, indices=list(wanted), decoding_plugin=pixels.decoder):
                _check_said(said)
                yield stored
        except BROKEN as error:
            reason = "dicom.truncated" if "less than expected" in str(error) else "dicom.pixels"
            raise Refused(reason, f"the pixel data do not decode ({type(error).__name__})") from error


def _check_said(said: Sequence[warnings.WarningMessage]) -> None:
    """Refuse a run-length coded frame that holds more than a byte too much."""
    for warning in said:
        found = _TOO_LONG.search(str(warning.message))
        if found and int(found[1]) - int(found[2]) > 1:
            raise Refused("dicom.length", "a run-length coded frame holds more than the header states")


def _decoder(syntax: str, bits: int) -> str:
    """Return the decoder of a transfer syntax; of 12-bit JPEG the one that is there only on request."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    if syntax not in _DECODERS:
        last = syntax.removeprefix(_JPEG)
        name = _NAMES.get(last) or _NAMES.get(last[:2]) or _NAMES.get(last[:1] if len(last) == 3 else "", "")
        raise Refused("dicom.codec", f"no decoder reads {name or 'its transfer syntax'}; store it in another one")
    # GDCM has no 12-bit JPEG and gives zeros.
    is_libjpeg = syntax == _EXTENDED and bits > 8
    plugin = "pylibjpeg" if is_libjpeg else _DECODERS[syntax]
    if plugin and plugin not in get_decoder(UID(syntax)).available_plugins:
        needed = _GPL if is_libjpeg else _PLUGINS.get(plugin, plugin)
        raise Refused("dicom.codec", f"its codec is read by {needed}, which is not installed")
    return plugin


def _check_frames(dataset: "Dataset", syntax: str, header: DicomHeader) -> None:
    """Hold each frame's codestream against the header.

    Raises:
        Refused("dicom.truncated"): there are fewer frames than stated, or one does not end as its codec does.
        Refused("dicom.pixels"): more frames, or one of another size than stated.
    """
    from pydicom.encaps import generate_frames, parse_basic_offsets

    offsets = parse_basic_offsets(dataset.PixelData)
    extended = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    found = 0
    for stream in generate_frames(dataset.PixelData, number_of_frames=header.n_frames, extended_offsets=extended):
        found += 1
        if syntax.startswith(_JPEG):
            _check_stream(stream, header, is_2000=syntax in _JPEG_2000)
    if found != header.n_frames or (offsets and len(offsets) != header.n_frames):
        reason = "dicom.truncated" if found < header.n_frames else "dicom.pixels"
        raise Refused(reason, f"the header states {header.n_frames} frames, {max(found, len(offsets))} are there")


_JPEG_2000 = frozenset(_JPEG + end for end in ("90", "91", "201", "202", "203"))


def _check_stream(stream: bytes, header: DicomHeader, *, is_2000: bool) -> None:
    if not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # some writers pad with 0xFF
        raise Refused("dicom.truncated", "a compressed frame has no end")
    size = _size_of_2000(stream) if is_2000 else _size_of_jpeg(stream)
    if size != (header.rows, header.columns, header.samples_per_pixel):
        raise Refused("dicom.pixels", "a compressed frame is of another size than the header states")


def _size_of_2000(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components by the SIZ marker (ISO 15444-1, A.5.1), in a JP2 file or bare."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 42 > len(stream):
        raise Refused("dicom.pixels", "a compressed frame is no JPEG 2000")
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    return bottom - top, right - left, struct.unpack_from(">H", stream, at + 40)[0]


def _size_of_jpeg(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components by the frame header (ISO 10918-1, B.2.2; JPEG-LS the same with SOF55)."""
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_FRAMES:
            rows, columns, components = struct.unpack_from(">HHB", stream, at + 5)
            return rows, columns, components
        else:
            at += 2 + struct.unpack_from(">H", stream, at + 2)[0]
    raise Refused("dicom.pixels", "a compressed frame is no JPEG")
