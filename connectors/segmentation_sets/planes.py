"""Planes: one slice of a mask as PNG or DICOM, whose geometry, if it has any, is not asked for."""

import io
from pathlib import Path

import numpy as np

from medloom.connectors.dicom_headers import BROKEN
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.schemas.errors import Refused

MAX_PIXELS = 1 << 26


def mask_plane(path: str) -> np.ndarray:
    """Return the values of a slice of a mask, (Y, X) uint8.

    Raises:
        Refused("seg.plane"): it is no PNG or DICOM of one 8-bit or 16-bit value a pixel, up to 255, or is damaged.
    """
    data = Path(path).read_bytes()
    kind = sniff(data[:HEAD_BYTES])
    try:
        values = _png(data) if kind == "png" else _dicom(data) if kind == "dicom" else None
    except BROKEN as fault:
        raise Refused("seg.plane", f"a slice of a mask does not decode ({type(fault).__name__})") from fault
    if values is None or values.ndim != 2 or values.dtype.kind not in "iub":
        raise Refused("seg.plane", f"a slice of a mask is {kind}, or not one whole number a pixel")
    if values.min() < 0 or values.max() > 255:
        raise Refused("seg.plane", f"values from {values.min()} to {values.max()} are not within 0 to 255")
    return values.astype(np.uint8)


def _png(data: bytes) -> np.ndarray | None:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.width * image.height > MAX_PIXELS or image.mode not in ("1", "L", "I", "I;16", "P"):
            return None
        return np.asarray(image)


def _dicom(data: bytes) -> np.ndarray:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    return np.asarray(dataset.pixel_array)
