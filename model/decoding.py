"""From the bytes of a member to an array in memory that is there, each kind by its own decoder."""

import io
from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from medloom.model.places import FieldPlace
from medloom.schemas.b2nd_read import decode_into, frame_facts
from medloom.schemas.errors import FormatError

Take = Callable[[tuple[int, ...], np.dtype], np.ndarray]
Decoder = Callable[[memoryview, FieldPlace, Take], np.ndarray]

MAX_BYTES = 16 << 30  # of an array: a frame of a few bytes can claim any size
MAX_PIXELS = 178_956_970  # of a picture: Pillow's limit against decompression bombs
_COLOURS = {1: "GRAY", 3: "RGB"}
_UINT8 = np.dtype(np.uint8)


def decoder_of(field: str, decoders: Mapping[str, Decoder]) -> Decoder | None:
    """Return the decoder of the longest suffix of a field's name that has one ("ct.npy.zst": "npy.zst", "zst")."""
    name = field.lower()
    while name not in decoders:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return decoders[name]


def decode_b2nd(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return the array of a b2nd frame.

    Raises:
        FormatError: it is none, or not of the shape, dtype and grid that its index row promises.
    """
    shape, dtype = (field.shape, field.dtype) if field.shape and field.dtype else frame_facts(data)
    if prod(shape) * np.dtype(dtype).itemsize > MAX_BYTES:
        raise FormatError(f"a b2nd frame of {len(data)} bytes says that it holds {dtype} {shape}, which is too large")
    out = take(shape, np.dtype(dtype))
    decode_into(data, out, expect=field.chunks)
    return out


def decode_jpeg(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return (Y, X, C) uint8 of a JPEG: grey as C 1, colours as C 3.

    What libjpeg-turbo does not take as it is (CMYK, a warning on its way) goes to Pillow, which refused it or not when
    the data set was made.

    Raises:
        FormatError: it does not decode, or is not of the size that its index row promises.
    """
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        channels = 1 if colours.lower() == "gray" else 3
        if colours.upper() in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return decode_picture(data, field, take)
        _must_be(field, (height, width, channels))
        out = take((height, width, channels), _UINT8)
        simplejpeg.decode_jpeg(data, _COLOURS[channels], buffer=out)
        return out
    except ValueError:
        return decode_picture(data, field, take)


def decode_picture(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return (Y, X, C) uint8 of a JPEG or PNG: grey as C 1, colours as C 3, with alpha as C 4.

    16-bit greys lose their lower byte.

    Raises:
        FormatError: it does not decode, or is not of the size that its index row promises.
    """
    from PIL import Image, ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES and _is_cut(bytes(data)):  # somebody set it for the whole process
        raise FormatError("the picture does not decode (its end is missing)")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            image.load()
            if image.mode.startswith("I"):
                array = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
            elif image.mode in ("1", "L"):
                array = np.asarray(image.convert("L"))
            else:
                array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise FormatError(f"the picture does not decode ({fault})") from fault
    array = array if array.ndim == 3 else array[:, :, None]
    _must_be(field, array.shape)
    out = take(array.shape, _UINT8)
    out[...] = array
    return out


def _is_cut(data: bytes) -> bool:
    """Whether a JPEG has no EOI marker after its last scan began (ITU-T T.81, B.1.1.3), or a PNG no IEND chunk."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")  # a thumbnail before it has an end of its own
    return data.startswith(b"\x89PNG") and b"\0\0\0\0IEND" not in data


DECODERS: dict[str, Decoder] = {"b2nd": decode_b2nd, "jpg": decode_jpeg, "jpeg": decode_jpeg, "png": decode_picture}


def _must_be(field: FieldPlace, shape: tuple[int, ...]) -> None:
    """Height and width as promised; channels may differ, since an index counts those of the file (a palette has 1)."""
    if field.shape and field.shape[:2] != shape[:2]:
        raise FormatError(f"the picture is of shape {shape}, where its index row says {field.shape}")
