"""Decoders of what other people's tars hold: .npy, .npz, .npy.zst, .nii, .nii.gz and .webp, none of it trusted.

Arrays are given as stored, slowest axis first; NIfTI values that a header scales come as float32. A header decides how
much is unpacked, so that a small member cannot become a large array that it does not announce.
"""

import gzip
import io
import lzma
import struct
import zipfile
import zlib
from math import prod
from typing import Any

import numpy as np

from medloom.model.decoding import DECODERS, MAX_PIXELS, Decoder, Take
from medloom.model.places import FieldPlace
from medloom.schemas.array_headers import (
    LONGEST_NIFTI,
    LONGEST_NPY,
    MAX_BYTES,
    ArrayHeader,
    nifti_header,
    npy_header,
)  # fmt: skip
from medloom.schemas.errors import FormatError

# All that zipfile raises of damaged bytes: their places, their names and their streams.
_ZIP_FAULTS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, NotImplementedError, RuntimeError,
    EOFError, OSError,
)  # fmt: skip
_NPZ_NAMES = ("data", "image", "img", "arr_0")  # the array that is meant, where there are several


def decode_npy(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return the array of a .npy file; where it lies in memory of the reader's own, without a copy.

    Raises:
        FormatError: it is none of numbers, is cut short, or not of the shape that the index says.
    """
    header = _promised(npy_header(data), field)
    if len(data) - header.offset < header.size_bytes:
        raise FormatError(f"a .npy file ends before its {header.size_bytes} bytes of values")
    flat = np.frombuffer(data, header.dtype, prod(header.shape), header.offset)
    if not data.readonly and header.dtype.isnative and not header.is_fortran and flat.flags.aligned:
        return flat.reshape(header.shape)
    return _stored(flat, header, take)


def decode_npy_zst(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return the array of a .npy file in a zstd frame; errors as `decode_npy`."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data, read_across_frames=True) as file:
            return _unpacked_npy(file, field, take)
    except zstandard.ZstdError as fault:
        raise FormatError(f"a zstd frame does not unpack ({fault})") from fault


def decode_npz(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return the only array of a .npz file, or the one called data, image, img or arr_0; errors as `decode_npy`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [info.filename for info in archive.infolist() if info.filename.endswith(".npy")]
            meant = [f"{name}.npy" for name in _NPZ_NAMES if f"{name}.npy" in names] or names
            if not meant or (len(meant) > 1 and meant == names):
                raise FormatError(f"a .npz file holds {', '.join(names) or 'no array'}; one called data would be read")
            with archive.open(meant[0]) as file:
                return _unpacked_npy(file, field, take)
    except _ZIP_FAULTS as fault:
        raise FormatError(f"a .npz file does not unpack ({fault})") from fault


def decode_nii(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return (Z, Y, X) of a .nii file, axes as stored; more than three come slowest first too.

    Raises:
        FormatError: it is no NIfTI of real numbers, is cut short, or not of the shape that the index says.
    """
    header = _promised(nifti_header(data), field)
    if len(data) - header.offset < header.size_bytes:
        raise FormatError(f"a .nii file ends before its {header.size_bytes} bytes of voxels")
    return _stored(np.frombuffer(data, header.dtype, int(np.prod(header.shape)), header.offset), header, take)


def decode_nii_gz(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return (Z, Y, X) of a .nii.gz file, its gzip checksum verified; else as `decode_nii`."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            start = file.read(LONGEST_NIFTI)
            header = _promised(nifti_header(start), field)
            skipped = file.read(header.offset - len(start)) if header.offset > len(start) else b""
            values = _values(file, header, start[header.offset :], take)
            if len(start) + len(skipped) < header.offset:
                raise FormatError("a .nii file ends before its voxels")
            _must_end(file)
            return values
    except (OSError, EOFError, zlib.error) as fault:
        raise FormatError(f"a .nii.gz file does not unpack ({fault})") from fault


def decode_webp(data: memoryview, field: FieldPlace, take: Take) -> np.ndarray:
    """Return (Y, X, C) uint8 of the first picture of a WebP file, with alpha as C 4.

    Raises:
        FormatError: it does not decode, or is larger than `MAX_PIXELS`.
    """
    from PIL import Image

    if len(data) < 8 or int.from_bytes(data[4:8], "little") + 8 > len(data):  # Pillow makes a picture of what is there
        raise FormatError(f"a WebP file of {len(data)} bytes is cut short")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise FormatError(f"a picture of {image.width} x {image.height} pixels is too large")
            array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise FormatError(f"the picture does not decode ({fault})") from fault
    out = take(array.shape, np.dtype(np.uint8))
    out[...] = array
    return out


FOREIGN_DECODERS: dict[str, Decoder] = {
    **DECODERS, "npy": decode_npy, "npy.zst": decode_npy_zst, "npz": decode_npz, "nii": decode_nii,
    "nii.gz": decode_nii_gz, "webp": decode_webp,
}  # fmt: skip


def _promised(header: ArrayHeader, field: FieldPlace) -> ArrayHeader:
    found = (header.shape, header.decoded_dtype.name)
    if field.shape and (field.shape, field.dtype) != found:
        raise FormatError(f"the array is of shape and type {found}, where its index says {field.shape, field.dtype}")
    return header


def _unpacked_npy(file: Any, field: FieldPlace, take: Take) -> np.ndarray:
    start = b""
    while len(start) < LONGEST_NPY and (block := file.read(LONGEST_NPY - len(start))):
        start += block
    header = _promised(npy_header(start), field)
    values = _values(file, header, start[header.offset :], take)
    _must_end(file)
    return values


def _values(file: Any, header: ArrayHeader, begun: bytes, take: Take) -> np.ndarray:
    """Return the array whose first values are `begun` and whose others a stream gives, and no more of it."""
    raw = take((header.size_bytes,), np.dtype(np.uint8))
    at = min(len(begun), header.size_bytes)
    raw[:at] = np.frombuffer(begun[:at], np.uint8)
    while at < header.size_bytes:
        block = file.read(min(1 << 20, header.size_bytes - at))
        if not block:
            raise FormatError(f"an array ends after {at} of its {header.size_bytes} bytes")
        raw[at : at + len(block)] = np.frombuffer(block, np.uint8)
        at += len(block)
    flat = raw.view(header.dtype)
    if header.dtype.isnative and not header.is_fortran and not header.is_scaled:
        return flat.reshape(header.shape)
    return _stored(flat, header, take)


def _must_end(file: Any) -> None:
    """Read what is left, so that the checksum at the end is compared; padding is small."""
    left = 0
    while block := file.read(1 << 16):
        left += len(block)
        if left > MAX_BYTES >> 10:
            raise FormatError(f"an array is followed by more than {left} bytes")


def _stored(flat: np.ndarray, header: ArrayHeader, take: Take) -> np.ndarray:
    """Return values in memory of the reader's own, scaled where a header says so."""
    array = flat.reshape(header.shape, order="F" if header.is_fortran else "C")
    out = take(header.shape, header.decoded_dtype)
    if header.is_scaled:
        np.multiply(array, header.slope, out=out, casting="unsafe")
        out += np.float32(header.inter)
    else:
        out[...] = array
    return out
