"""DICOM pixels: stored values out of any transfer syntax, as measured values of volumes (PS3.3 C.7.6.3, C.11.1).

Plain 16-bit values go straight from the file into the volume; a volume's memory is that of its voxels and one frame.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medloom.connectors import dicom_codecs
from medloom.connectors.dicom_elements import DEFLATED, Elements
from medloom.connectors.dicom_geometry import Frame
from medloom.connectors.dicom_headers import BROKEN, DicomHeader, functional_group, items_of, numbers, quiet, whole
from medloom.connectors.images import MAX_PIXELS
from medloom.schemas.errors import Refused
from medloom.schemas.volume import MAX_VOXELS

EXACT_FLOAT32 = 2**24
PIXEL_TAGS = [
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelDataProviderURL",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip


@dataclass(frozen=True)
class PixelFormat:
    """How an object's values are stored: allocated and stored bits, sign, and the padding value, None if not stated."""

    allocated: int
    bits: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def dtype(self) -> np.dtype:
        """The little-endian type of a stored value."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest value that the stored bits can hold."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)


def format_of(elements: Elements, header: DicomHeader) -> PixelFormat:
    """Return how the pixels of an object are stored; refuse those that are too many or impossible.

    Raises:
        Refused("dicom.size"), ("dicom.bits")
    """
    count = header.rows * header.columns * header.n_frames * header.samples_per_pixel
    if header.rows * header.columns > MAX_PIXELS or count > MAX_VOXELS:
        raise Refused("dicom.size", f"{header.rows} x {header.columns} x {header.n_frames} pixels are too many")
    allocated = whole(elements, "BitsAllocated")
    if allocated not in (8, 16, 32) or not 0 < header.bits <= allocated:
        raise Refused("dicom.bits", f"{header.bits} of {allocated} bits a pixel are not an image")
    if whole(elements, "HighBit", header.bits - 1) != header.bits - 1:
        raise Refused("dicom.bits", "HighBit contradicts BitsStored")
    signed = whole(elements, "PixelRepresentation")
    if signed not in (0, 1):
        raise Refused("dicom.bits", "PixelRepresentation is neither 0 nor 1")
    return PixelFormat(allocated, header.bits, bool(signed), _padding(elements, allocated, signed))


def check_length(elements: Elements, header: DicomHeader, format_: PixelFormat) -> None:
    """Hold the length of an object's pixel data against its header.

    Raises:
        Refused("dicom.truncated"): the file ends within them, or they are fewer than stated.
        Refused("dicom.length"): they are more than stated.
    """
    place = elements.pixels
    assert place is not None
    if not place.complete:
        raise Refused("dicom.truncated", "the file ends before its pixel data do")
    if place.encapsulated:
        return
    row_bytes = header.columns * header.samples_per_pixel * format_.allocated // 8
    needed = header.rows * header.n_frames * row_bytes
    if header.photometric == "YBR_FULL_422":
        needed = needed * 2 // 3
    if place.length < needed:
        raise Refused("dicom.truncated", f"{needed} bytes of pixels are not in {place.length}")
    extra = place.length - needed
    # Zeros of at most a row are padding; anything else means that the header states too few pixels.
    if extra > 1 and (extra > row_bytes or elements.pixel_bytes()[needed:].strip(b"\0")):
        raise Refused("dicom.length", f"{place.length} bytes of pixels are there, the header states {needed}")


def _padding(elements: Elements, allocated: int, signed: int) -> tuple[int, int] | None:
    """Return the least and the greatest value that stand for no measurement (PS3.3 C.7.5.1.1.2)."""
    stated = [whole(elements, name, 2**40) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    found = [value for value in stated if value != 2**40]
    if signed:  # written as unsigned by some
        found = [value - 2**allocated if value >= 2 ** (allocated - 1) else value for value in found]
    return (min(found), max(found)) if stated[0] != 2**40 else None


@dataclass(frozen=True, eq=False)
class ImageObject:
    """One object of a series: its elements, facts, how its pixels are stored, and what a value of 1 means."""

    elements: Elements
    header: DicomHeader
    format: PixelFormat
    units: str


class Pixels:
    """The stored values of the frames of a series' objects; those of one frame hold until the next is read."""

    def __init__(self, objects: dict[int, ImageObject]):
        self.objects = objects
        self._last: tuple[int, int] = (-1, -1)
        self._stored = np.empty((0, 0), np.int16)
        self._opened: tuple[int, dicom_codecs.Opened] | None = None

    def elements(self, frame: Frame) -> Elements:
        """Return the elements of a frame's object."""
        return self.objects[frame.source].elements

    def each(self, frames: Sequence[Frame]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index in `frames`, stored values) object by object, (Y, X) or (Y, X, 3) as RGB.

        Raises:
            Refused("dicom.truncated"), ("dicom.pixels"), ("dicom.codec"): as `dicom_codecs`.
        """
        order = sorted(range(len(frames)), key=lambda index: (frames[index].source, frames[index].frame))
        start = 0
        while start < len(order):
            source, end = frames[order[start]].source, start
            item = self.objects[source]
            check_length(item.elements, item.header, item.format)
            while end < len(order) and frames[order[end]].source == source:
                end += 1
            indices = order[start:end]
            if self._is_plain(source):
                yield from ((index, self._read(frames[index])) for index in indices)
            else:
                yield from self._decoded(source, [(index, frames[index]) for index in indices])
            start = end

    def frame(self, frame: Frame) -> np.ndarray:
        """Return the stored values of one frame."""
        ((_, stored),) = self.each([frame])
        return stored

    def digest(self, frame: Frame) -> bytes:
        """Return the sha256 of what a frame's values are made of: stored values, slope and intercept."""
        digest = hashlib.sha256(repr(rescale_of(self.elements(frame), frame)).encode())
        digest.update(np.ascontiguousarray(self.frame(frame)).data)
        return digest.digest()

    def _is_plain(self, source: int) -> bool:
        elements, header = self.objects[source].elements, self.objects[source].header
        place = elements.pixels
        assert place is not None
        is_grey = header.samples_per_pixel == 1 and header.photometric in ("MONOCHROME1", "MONOCHROME2", "")
        return is_grey and not place.encapsulated and elements.syntax.little and elements.transfer_syntax != DEFLATED

    def _read(self, frame: Frame) -> np.ndarray:
        """Return a plain frame, or its tile, read from its place in the file."""
        item = self.objects[frame.source]
        if self._last != (frame.source, frame.frame):
            place = item.elements.pixels
            assert place is not None
            shape = item.header.rows, item.header.columns
            if self._stored.shape != shape or self._stored.dtype != item.format.dtype:
                self._stored = np.empty(shape, item.format.dtype)
            self._last = (-1, -1)
            with open(item.elements.path, "rb", buffering=0) as file:
                file.seek(place.start + frame.frame * self._stored.nbytes)
                if file.readinto(memoryview(self._stored).cast("B")) != self._stored.nbytes:  # type: ignore[arg-type]
                    raise Refused("dicom.truncated", "the file ends before its pixel data do")
            self._last = (frame.source, frame.frame)
        return _tile(self._stored, frame)

    def _decoded(self, source: int, wanted: list[tuple[int, Frame]]) -> Iterator[tuple[int, np.ndarray]]:
        item = self.objects[source]
        needed = sorted({frame.frame for _, frame in wanted})
        if self._opened is None or self._opened[0] != source:
            self._opened = None
            self._opened = (source, dicom_codecs.opened(item.elements, item.header))
        users: dict[int, list[tuple[int, Frame]]] = {}
        for index, frame in wanted:
            users.setdefault(frame.frame, []).append((index, frame))
        for number, found in zip(needed, dicom_codecs.decoded(self._opened[1], needed), strict=True):
            stored = found.astype(found.dtype.newbyteorder("="), copy=False)
            yield from ((index, _tile(stored, frame)) for index, frame in users[number])


def _tile(stored: np.ndarray, frame: Frame) -> np.ndarray:
    if not frame.tile:
        return stored
    row, column = frame.tile
    return stored[row : row + frame.rows, column : column + frame.columns]


def rescale_of(elements: Elements, frame: Frame) -> tuple[float, float]:
    """Return slope and intercept of a frame: of its functional group, else of the object, else 1 and 0.

    Raises:
        Refused("dicom.rescale"): the slope is 0, which leaves nothing of the values.
    """
    found = functional_group(elements, frame.frame, "PixelValueTransformationSequence") or elements
    slope, intercept = numbers(found, "RescaleSlope", 1), numbers(found, "RescaleIntercept", 1)
    if slope and slope[0] == 0:
        raise Refused("dicom.rescale", "the rescale slope is 0")
    return (slope[0] if slope else 1.0), (intercept[0] if intercept else 0.0)


@dataclass(frozen=True, eq=False)
class Slice:
    """The values of one frame: a modality table is applied, a linear rescale only told.

    Attributes:
        low, high: the least and the greatest of `values`.
        masked: whether other bits than the stored ones held something (an overlay), which is gone.
        padded: where the stated padding value stands, None when none is stated.
    """

    values: np.ndarray
    slope: float
    intercept: float
    low: int
    high: int
    masked: bool
    padded: np.ndarray | None


def slice_of(frame: Frame, stored: np.ndarray, item: ImageObject) -> Slice:
    """Return the values of a frame that `stored` holds."""
    low, high = int(stored.min()), int(stored.max())
    least, greatest = item.format.range
    masked = stored.dtype.kind in "iu" and not least <= low <= high <= greatest
    if masked:
        kind, size = "i" if item.format.signed else "u", stored.dtype.itemsize
        shift = 8 * size - item.format.bits
        stored = (stored.astype(f"{kind}{size}", copy=False) << shift) >> shift
        low, high = int(stored.min()), int(stored.max())
    padded = None
    if item.format.padding is not None:
        padded = (stored >= item.format.padding[0]) & (stored <= item.format.padding[1])
    if not items_of(item.elements, "ModalityLUTSequence"):
        return Slice(stored, *rescale_of(item.elements, frame), low, high, masked, padded)
    from pydicom.pixels import apply_modality_lut

    with quiet():
        try:
            values = np.asarray(apply_modality_lut(stored, item.elements.dataset()))
        except BROKEN as error:
            raise Refused("dicom.pixels", f"the modality table cannot be applied ({type(error).__name__})") from error
    return Slice(values, 1.0, 0.0, int(values.min()), int(values.max()), masked, padded)


def volume_array(
    frames: Sequence[Frame], pixels: Pixels, *, air: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (Z, Y, X) of frames in order: integers where all of them are, else float32; and what was done.

    Integers are uint8 when stored so, else int16, else uint16, else float32 up to 2**24.

    Args:
        air: the measured value that takes the place of stated padding; None keeps it.

    Raises:
        Refused("dicom.range"): integers beyond 2**24.
    """
    narrow = all(pixels.objects[frame.source].format.allocated == 8 for frame in frames)
    wanted: type[np.generic] = np.uint8 if narrow else np.int16
    if not all(_is_whole(frame, pixels.objects[frame.source].elements) for frame in frames):
        wanted = np.float32
    made, low, high, done = _filled(frames, pixels, wanted, air)
    if made is None:
        made, _, _, done = _filled(frames, pixels, _dtype_for(low, high, narrow=narrow), air)
    assert made is not None
    return made, done


def _is_whole(frame: Frame, elements: Elements) -> bool:
    slope, intercept = rescale_of(elements, frame)
    return bool(items_of(elements, "ModalityLUTSequence")) or (slope == 1 and intercept == math.floor(intercept))


def _filled(
    frames: Sequence[Frame], pixels: Pixels, dtype: type[np.generic], air: int | None
) -> tuple[np.ndarray | None, int, int, tuple[str, ...]]:
    """Return the volume, None if `dtype` does not hold it; its least and greatest integer; what was done to it."""
    made: np.ndarray | None = np.empty((len(frames), frames[0].rows, frames[0].columns), dtype)
    limits = _limits(dtype)
    least, greatest, done = 2**63, -(2**63), set()
    for index, stored in pixels.each(frames):
        item = pixels.objects[frames[index].source]
        part = slice_of(frames[index], stored, item)
        least, greatest = min(least, part.low + int(part.intercept)), max(greatest, part.high + int(part.intercept))
        if made is None or not limits[0] <= least <= greatest <= limits[1]:
            made = None
            continue
        _write(made[index], part)
        done |= {f"masked({item.format.bits})"} if part.masked else set()
        if air is not None and part.padded is not None and part.padded.any():
            made[index][part.padded] = air
            done.add(f"padding({air})")
    return made, least, greatest, tuple(sorted(done))


def _limits(dtype: type[np.generic]) -> tuple[float, float]:
    if not issubclass(dtype, np.integer):
        return -math.inf, math.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _write(plane: np.ndarray, part: Slice) -> None:
    """Put the measured values of a slice into `plane`, whose type holds them."""
    if plane.dtype == np.float32:
        plane[...] = part.values.astype(np.float64) * part.slope + part.intercept
        return
    bits = 8 * plane.dtype.itemsize
    shift = np.array(int(part.intercept) % 2**bits, f"u{plane.dtype.itemsize}").view(plane.dtype)
    if part.values.dtype.itemsize == plane.dtype.itemsize:  # the sum is right modulo 2**16, and fits
        np.add(part.values.view(plane.dtype), shift, out=plane)
    else:
        np.add(part.values.astype(plane.dtype), shift, out=plane)


def _dtype_for(low: int, high: int, *, narrow: bool) -> type[np.generic]:
    candidates: list[type[np.integer]] = [np.uint8, np.int16, np.uint16] if narrow else [np.int16, np.uint16]
    for dtype in candidates:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    if max(-low, high) > EXACT_FLOAT32:
        raise Refused("dicom.range", f"values from {low} to {high} do not fit float32 without loss")
    return np.float32
