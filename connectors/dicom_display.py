"""DICOM pictures: one frame as the 8-bit image that a viewer shows (PS3.3 C.11.2, C.11.6, C.7.6.3.1.5)."""

from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.dicom_elements import read_elements
from medloom.connectors.dicom_geometry import Frame
from medloom.connectors.dicom_headers import BROKEN, functional_group, items_of, numbers, quiet, whole, word
from medloom.connectors.dicom_pixels import PIXEL_TAGS, ImageObject, slice_of
from medloom.connectors.images import encode_png
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DISPLAY_PERCENTILES = (0.5, 99.5)  # of an image of more than 8 bits that states no window
DISPLAY_TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


def picture_of(frame: Frame, stored: np.ndarray, item: ImageObject) -> tuple[Picture, tuple[str, ...]]:
    """Return one frame as an 8-bit PNG, and what was done to it ("window(40,400)", "invert").

    Raises:
        Refused("image.too_small"), ("image.pixels"), ("dicom.pixels")
    """
    dataset = read_elements(item.elements.path, [*DISPLAY_TAGS, *PIXEL_TAGS]).dataset()
    if frame.header.photometric == "PALETTE COLOR":
        return encode_png(_to_bytes(*_coloured(dataset, stored))), ("palette",)
    if stored.ndim == 3:
        return encode_png(_to_bytes(stored, whole(dataset, "BitsStored"))), ()
    shares, done = _shown(dataset, frame, stored, item)
    if frame.header.photometric == "MONOCHROME1" or word(dataset, "PresentationLUTShape").upper() == "INVERSE":
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


def _shown(
    dataset: "Dataset", frame: Frame, stored: np.ndarray, item: ImageObject
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return brightness from 0 to 1 by the stated window, else by the range of values, and a word on it."""
    part = slice_of(frame, stored, item)
    measured = part.values.astype(np.float64) * part.slope + part.intercept
    if items_of(dataset, "VOILUTSequence"):
        return _by_table(dataset, np.rint(measured).astype(np.int64)), ("voi-lut",)
    group = functional_group(dataset, frame.frame, "FrameVOILUTSequence") or dataset
    centre, width = numbers(group, "WindowCenter", 1), numbers(group, "WindowWidth", 1)
    if centre and width and width[0] > 0:
        shares = _windowed(measured, centre[0], width[0], word(group, "VOILUTFunction").upper())
        return shares, (f"window({centre[0]:g},{width[0]:g})",)
    if frame.header.bits <= 8 and stored.min() >= 0 and not items_of(dataset, "ModalityLUTSequence"):
        return stored / (2**frame.header.bits - 1), ()
    shown = measured if part.padded is None or part.padded.all() else measured[~part.padded]
    low, high = (float(v) for v in np.percentile(shown, DISPLAY_PERCENTILES))
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
