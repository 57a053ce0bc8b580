"""DICOM pixels: stored values out of any transfer syntax, as measured values for volumes or 8-bit pictures for display.

Rules of PS3.3 C.7.6.3 (stored values), C.11.1 (modality), C.11.2 (VOI) and C.7.6.3.1.5 (palette).
"""

import hashlib
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.dicom_geometry import Frame
from medloom.connectors.dicom_headers import (
    BROKEN,
    DicomHeader,
    functional_group,
    items_of,
    load,
    numbers,
    quiet,
    whole,
    word,
)
from medloom.connectors.images import MAX_PIXELS, encode_png
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture
from medloom.schemas.volume import MAX_VOXELS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

EXACT_FLOAT32 = 2**24
DISPLAY_PERCENTILES = (0.5, 99.5)  # of an image of more than 8 bits that states no window
PIXEL_TAGS = [
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelDataProviderURL",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
# One decoder per codec, so that a build's bytes do not depend on what else is installed. GDCM only where it alone reads
# (12-bit and lossless JPEG): a codestream of another size than the header's makes it abort the process.
_DECODERS = {
    "1.2.840.10008.1.2.5": "pydicom",
    "50": "pillow", "51": "gdcm", "57": "gdcm", "70": "gdcm", "80": "pyjpegls", "81": "pyjpegls", "90": "pylibjpeg",
    "91": "pylibjpeg", "201": "pylibjpeg", "202": "pylibjpeg", "203": "pylibjpeg",
}  # fmt: skip


def check_size(header: DicomHeader, dataset: "Dataset", size_bytes: int) -> None:
    """Refuse an object whose pixels are too many, or cannot be in a file of `size_bytes`, before they are read.

    Raises:
        Refused("dicom.size"), ("dicom.bits"), ("dicom.truncated")
    """
    count = header.rows * header.columns * header.n_frames * header.samples_per_pixel
    if header.rows * header.columns > MAX_PIXELS or count > MAX_VOXELS:
        raise Refused("dicom.size", f"{header.rows} x {header.columns} x {header.n_frames} pixels are too many")
    allocated = whole(dataset, "BitsAllocated")
    if allocated not in (8, 16, 32) or not 0 < header.bits <= allocated:
        raise Refused("dicom.bits", f"{header.bits} of {allocated} bits a pixel are not an image")
    needed = count * allocated // 8
    if header.photometric == "YBR_FULL_422":
        needed = needed * 2 // 3
    if header.transfer_syntax in _UNCOMPRESSED and needed > size_bytes:
        raise Refused("dicom.truncated", f"{needed} bytes of pixels are not in a file of {size_bytes} bytes")


class Pixels:
    """The decoded frames of a series' objects, the last object read kept at hand."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]):
        self._paths = paths
        self._source = -1
        self._dataset: Dataset | None = None
        self._frames = np.empty(0)

    def frame(self, frame: Frame) -> "tuple[Dataset, np.ndarray]":
        """Return the data set of a frame's object and its stored values, (Y, X) or (Y, X, 3) as RGB.

        Raises:
            Refused("dicom.truncated"): the pixel data are not all there.
            Refused("dicom.pixels"): no decoder reads them.
        """
        if self._dataset is None or self._source != frame.source:
            self._dataset, self._frames = _decoded(self._paths[frame.source])
            self._source = frame.source
        return self._dataset, self._frames[frame.frame]

    def digest(self, frame: Frame) -> bytes:
        """Return the sha256 of what a frame's values are made of: stored values, slope and intercept."""
        dataset, stored = self.frame(frame)
        digest = hashlib.sha256(repr(rescale_of(dataset, frame)).encode())
        digest.update(np.ascontiguousarray(stored).data)
        return digest.digest()


def _decoded(path: str | os.PathLike[str]) -> "tuple[Dataset, np.ndarray]":
    """Return the data set of a file and its stored values, (frame, Y, X) or (frame, Y, X, 3)."""
    from pydicom.pixels import pixel_array

    dataset, has_pixels = load(path, PIXEL_TAGS, pixels=True)
    samples = whole(dataset, "SamplesPerPixel", 1)
    with quiet():
        try:
            if not has_pixels or not dataset.PixelData:
                raise Refused("dicom.truncated", "the file ends before its pixel data do")
            codec = word(dataset.file_meta, "TransferSyntaxUID").rpartition("1.2.840.10008.1.2.4.")[2]
            array = pixel_array(dataset, decoding_plugin=_DECODERS.get(codec, ""))
        except BROKEN as error:
            reason = "dicom.truncated" if "less than expected" in str(error) else "dicom.pixels"
            raise Refused(reason, f"the pixel data do not decode ({type(error).__name__})") from error
    frames = array.reshape(-1, *array.shape[-3:]) if samples == 3 else array.reshape(-1, *array.shape[-2:])
    return dataset, frames


def rescale_of(dataset: "Dataset", frame: Frame) -> tuple[float, float]:
    """Return slope and intercept of a frame: of its functional group, else of the object, else 1 and 0."""
    found = functional_group(dataset, frame.frame, "PixelValueTransformationSequence") or dataset
    slope, intercept = numbers(found, "RescaleSlope", 1), numbers(found, "RescaleIntercept", 1)
    return (slope[0] if slope and slope[0] != 0 else 1.0), (intercept[0] if intercept else 0.0)


def measured_values(dataset: "Dataset", frame: Frame, stored: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return values, slope and intercept of one frame: a modality LUT is applied, a linear rescale only told."""
    if not items_of(dataset, "ModalityLUTSequence"):
        return (stored, *rescale_of(dataset, frame))
    from pydicom.pixels import apply_modality_lut

    with quiet():
        try:
            return np.asarray(apply_modality_lut(stored, dataset)), 1.0, 0.0
        except BROKEN as error:
            raise Refused("dicom.pixels", f"the modality table cannot be applied ({type(error).__name__})") from error


def volume_array(slices: Sequence[tuple[np.ndarray, float, float]]) -> np.ndarray:
    """Return (Z, Y, X) of slices (values, slope, intercept): integers where all of them are, else float32.

    Integers are uint8 when stored so, else int16, else uint16, else float32 up to 2**24.

    Raises:
        Refused("dicom.range"): integers beyond 2**24.
    """
    values = [array for array, _, _ in slices]
    if any(slope != 1 or intercept != math.floor(intercept) for _, slope, intercept in slices):
        made = np.empty((len(values), *values[0].shape), np.float32)
        for plane, (array, slope, intercept) in zip(made, slices, strict=True):
            plane[...] = array.astype(np.float64) * slope + intercept
        return made
    shifts = [int(intercept) for _, _, intercept in slices]
    low = min(int(array.min()) + shift for array, shift in zip(values, shifts, strict=True))
    high = max(int(array.max()) + shift for array, shift in zip(values, shifts, strict=True))
    made = np.empty((len(values), *values[0].shape), _dtype_for(low, high, narrow=values[0].dtype == np.uint8))
    for plane, array, shift in zip(made, values, shifts, strict=True):
        plane[...] = array.astype(np.int64) + shift if shift else array
    return made


def _dtype_for(low: int, high: int, *, narrow: bool) -> type[np.generic]:
    candidates: list[type[np.integer]] = [np.uint8, np.int16, np.uint16] if narrow else [np.int16, np.uint16]
    for dtype in candidates:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    if max(-low, high) > EXACT_FLOAT32:
        raise Refused("dicom.range", f"values from {low} to {high} do not fit float32 without loss")
    return np.float32


def picture_of(dataset: "Dataset", frame: Frame, stored: np.ndarray) -> tuple[Picture, tuple[str, ...]]:
    """Return one frame as an 8-bit PNG, and what was done to it ("window(40,400)", "invert").

    Raises:
        Refused("image.too_small"), ("image.pixels"), ("dicom.pixels")
    """
    if frame.header.photometric == "PALETTE COLOR":
        return encode_png(_to_bytes(*_coloured(dataset, stored))), ("palette",)
    if stored.ndim == 3:
        return encode_png(_to_bytes(stored, whole(dataset, "BitsStored"))), ()
    shares, done = _shown(dataset, frame, stored)
    if frame.header.photometric == "MONOCHROME1":
        shares, done = 1 - shares, (*done, "invert")
    return encode_png(np.rint(shares * 255).astype(np.uint8)), done


def _coloured(dataset: "Dataset", stored: np.ndarray) -> tuple[np.ndarray, int]:
    from pydicom.pixels import apply_color_lut

    with quiet():
        try:
            colours = apply_color_lut(stored, dataset)
        except BROKEN as error:
            raise Refused("dicom.pixels", f"the palette cannot be applied ({type(error).__name__})") from error
    return colours[..., :3], 8 * colours.dtype.itemsize


def _to_bytes(colours: np.ndarray, bits: int) -> np.ndarray:
    return colours.astype(np.uint8) if bits <= 8 else np.right_shift(colours, bits - 8).astype(np.uint8)


def _shown(dataset: "Dataset", frame: Frame, stored: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return brightness from 0 to 1 by the stated window, else by the range of values, and a word on it."""
    values, slope, intercept = measured_values(dataset, frame, stored)
    measured = values.astype(np.float64) * slope + intercept
    if items_of(dataset, "VOILUTSequence"):
        return _by_table(dataset, values), ("voi-lut",)
    group = functional_group(dataset, frame.frame, "FrameVOILUTSequence") or dataset
    centre, width = numbers(group, "WindowCenter", 1), numbers(group, "WindowWidth", 1)
    if centre and width and width[0] > 0:
        shares = _windowed(measured, centre[0], width[0], word(group, "VOILUTFunction").upper())
        return shares, (f"window({centre[0]:g},{width[0]:g})",)
    if frame.header.bits <= 8 and stored.min() >= 0 and not items_of(dataset, "ModalityLUTSequence"):
        return stored / (2**frame.header.bits - 1), ()
    low, high = (float(v) for v in np.percentile(measured, DISPLAY_PERCENTILES))
    return np.clip((measured - low) / max(high - low, 1e-9), 0, 1), (f"range({low:g},{high:g})",)


def _by_table(dataset: "Dataset", values: np.ndarray) -> np.ndarray:
    from pydicom.pixels import apply_voi

    with quiet():
        try:
            shown = apply_voi(values, dataset, 0)
            bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        except BROKEN as error:
            raise Refused("dicom.pixels", f"the display table cannot be applied ({type(error).__name__})") from error
    return np.clip(shown / float(2 ** min(max(bits, 1), 16) - 1), 0, 1)


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Return PS3.3 C.11.2.1.2 (LINEAR) or C.11.2.1.3 (SIGMOID, LINEAR_EXACT), from 0 to 1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT" or width <= 1:
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
