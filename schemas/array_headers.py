"""What the first bytes of an array in a foreign file say of it: shape, type, and where its values begin."""

import ast
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from medloom.schemas.errors import FormatError

MAX_BYTES = 1 << 33  # of one decoded array: 8 GiB; a header that asks for more is damaged or hostile
LONGEST_NPY, LONGEST_NIFTI = 10 + 65536, 540
MAX_AXES = 32  # of an array of numpy before its version 2

_NPY_LENGTH = {1: ("<H", 10), 2: ("<I", 12), 3: ("<I", 12)}  # format of the header's length, where the header begins
_NPY_KEYS = {"descr", "fortran_order", "shape"}


@dataclass(frozen=True)
class ArrayHeader:
    """How the values of an array are stored.

    Attributes:
        shape: with the slowest axis first: (Z, Y, X) of a volume.
        dtype: as stored, byte order included.
        offset: byte of the first value.
        is_fortran: whether the first axis is the fastest.
        slope, inter: a value means `stored * slope + inter`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    is_fortran: bool = False
    slope: float = 1.0
    inter: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Of the values as stored."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored values are not the values meant."""
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def decoded_dtype(self) -> np.dtype[Any]:
        """Type of the values meant, in this machine's byte order."""
        return np.dtype(np.float32) if self.is_scaled else self.dtype.newbyteorder("=")


def npy_header(start: bytes | memoryview) -> ArrayHeader:
    """Return the header of a .npy file (NEP 1), of its first `LONGEST_NPY` bytes.

    Raises:
        FormatError: it is none, or not of numbers, or beyond `MAX_BYTES`.
    """
    head = bytes(start[:12])
    if head[:6] != b"\x93NUMPY" or len(head) < 12 or head[6] not in _NPY_LENGTH:
        raise FormatError("an array does not begin as a .npy file does")
    code, begin = _NPY_LENGTH[head[6]]
    (length,) = struct.unpack_from(code, head, 8)
    if begin + length > min(len(start), LONGEST_NPY):
        raise FormatError(f"a .npy file has a header of {length} bytes, which is cut short or too long")
    return _parsed_npy(bytes(start[begin : begin + length]), begin + length)


@lru_cache(maxsize=256)
def _parsed_npy(header: bytes, offset: int) -> ArrayHeader:
    """Most arrays of a set have the same header, and to parse one takes as long as to read a megabyte."""
    try:
        said = ast.literal_eval(header.decode("latin-1").strip())
        if set(said) != _NPY_KEYS:
            raise ValueError(f"it has {sorted(said)}")
        shape, descr = tuple(said["shape"]), said["descr"]
        if not all(type(n) is int and n >= 0 for n in shape) or not isinstance(descr, str):
            raise ValueError(f"shape {shape}, type {descr!r}")
        dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as fault:
        raise FormatError(f"the header of a .npy file is not one of an array of numbers ({fault})") from fault
    return _checked(ArrayHeader(shape, dtype, offset, bool(said["fortran_order"])))


def nifti_header(start: bytes | memoryview) -> ArrayHeader:
    """Return the header of a NIfTI-1 or NIfTI-2 file (.nii), of its first `LONGEST_NIFTI` bytes.

    Axes come slowest first, so (X, Y, Z) of the standard is (Z, Y, X) here; axes of length 1 behind the third go.

    Raises:
        FormatError: it is none, or its values are not real numbers in the same file, or beyond `MAX_BYTES`.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    kind: Any = Nifti2Header if bytes(start[:4]) in (struct.pack("<i", 540), struct.pack(">i", 540)) else Nifti1Header
    raw = bytes(start[: kind.sizeof_hdr])
    if len(raw) < kind.sizeof_hdr:
        raise FormatError(f"{len(raw)} bytes are too few for a NIfTI header")
    try:
        header = kind(binaryblock=raw, check=False)
        if bytes(header["magic"].tobytes())[:3] not in (b"n+1", b"n+2"):
            raise ValueError(f"its magic is {header['magic'].tobytes()!r}")
        slope, inter = header.get_slope_inter()
        shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
        offset = int(header.get_data_offset())
    except (ValueError, KeyError, HeaderDataError, OverflowError) as fault:
        raise FormatError(f"a NIfTI header does not say where its voxels are ({fault})") from fault
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    scaled = (1.0, 0.0) if slope is None else (float(slope), float(inter or 0.0))
    return _checked(ArrayHeader(shape[::-1], dtype, offset, False, *scaled))


def _checked(header: ArrayHeader) -> ArrayHeader:
    if header.dtype.kind not in "biuf" or header.dtype.hasobject or header.dtype.names:
        raise FormatError(f"an array is of {header.dtype}, which is not one real number per value")
    if not header.shape or not all(n > 0 for n in header.shape):
        raise FormatError(f"an array is of shape {header.shape}, which holds nothing")
    if len(header.shape) > MAX_AXES:
        raise FormatError(f"an array has {len(header.shape)} axes, more than {MAX_AXES}")
    if header.size_bytes > MAX_BYTES:
        raise FormatError(f"an array of shape {header.shape} takes more than {MAX_BYTES >> 30} GiB")
    if header.offset < 0:
        raise FormatError(f"an array begins at byte {header.offset}")
    return header
