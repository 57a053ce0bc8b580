"""NIfTI: volumes from .nii and .nii.gz files that nobody vouches for (NIfTI-1 and NIfTI-2).

Only numbers are read of a header: its free-text fields (`descrip`, `aux_file`, `db_name`, `intent_name`) hold names and
paths. Positions come from the sform, else the qform, and become LPS; without either, left and right are not known.
"""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from medloom.schemas.errors import Refused
from medloom.schemas.volume import MAX_VOXELS, Volume

MAX_VOLUMES = 64
MAX_BYTES = 4 * 2**30  # of voxels, as declared
MAX_INFLATION = 1032  # deflate's best ratio (RFC 1951): a file that declares more is cut or lies
EXACT_FLOAT32 = 2**24  # integers up to here are exact in float32
LABEL_TOLERANCE = 1e-3

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOURS = {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex"}
_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The numbers of a header.

    Attributes:
        shape: (Z, Y, X) of one volume.
        spacing_mm: (Z, Y, X), of the affine.
        dtype: numpy name of the values as stored in the file, without byte order.
        n_volumes: length of the fourth axis.
        slope, intercept: a value is slope * stored + intercept; 1 and 0 where the file states none.
        affine: (4, 4), voxel (x, y, z) to LPS mm.
        is_little_endian: byte order of header and voxels.
        offset: where the voxels start, in bytes of the inflated file.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    dtype: str
    n_volumes: int
    slope: float
    intercept: float
    affine: np.ndarray
    is_little_endian: bool
    offset: int

    @property
    def size_bytes(self) -> int:
        """What the voxels of all volumes take."""
        z, y, x = self.shape
        return z * y * x * self.n_volumes * np.dtype(self.dtype).itemsize


def read_header(source: bytes | str | os.PathLike[str]) -> NiftiHeader:
    """Return the header of a file (its path, or its first bytes: 4 KiB are enough).

    Raises:
        Refused("nifti.not_nifti"), ("nifti.truncated"), ("nifti.corrupt"): it is no header, or not a whole one.
        Refused("nifti.detached"): voxels stand in another file (.hdr/.img).
        Refused("nifti.colour"), ("nifti.dtype"), ("nifti.vector"): values are not one real number of at most 8 bytes.
        Refused("nifti.orientation"): neither sform nor qform says where the voxels are.
        Refused("nifti.affine"): they say something impossible.
        Refused("nifti.size"), ("nifti.volumes"): beyond `MAX_VOXELS`, `MAX_BYTES`, `MAX_VOLUMES`.
    """
    with _opened(source) as (file, _):
        return _header_of(file)


def read_volumes(path: str | os.PathLike[str]) -> list[Volume]:
    """Return the volumes of a file, one per index of its fourth axis, values scaled as the header says.

    Integers stay integers of 8 or 16 bits where they fit; others become float32, exact up to 2**24. The units are
    "arbitrary": NIfTI does not state what a value means.

    Raises:
        Refused: as `read_header`; and "nifti.range" when values fit none of our types, "nifti.not_finite".
    """
    header, stored = _stored(path)
    return [Volume(_convert(_scaled(one, header)), header.affine) for one in stored]


def read_labels(path: str | os.PathLike[str]) -> list[Volume]:
    """Return the label maps of a file as uint8 or uint16, whatever type and scaling the classes were stored with.

    Raises:
        Refused: as `read_header`; and "nifti.labels" when a value is not a whole number from 0 to 65535.
    """
    header, stored = _stored(path)
    return [Volume(_classes(_scaled(one, header)), header.affine, units="label", kind="label") for one in stored]


@contextmanager
def _opened(source: bytes | str | os.PathLike[str]) -> Iterator[tuple[Any, int]]:
    """Give the inflated file, and how many bytes it can hold at most; broken compression is refused."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as raw:
            size = raw.seek(0, os.SEEK_END)
            raw.seek(0)
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if is_gzip:
                with gzip.GzipFile(fileobj=raw, mode="rb") as inflated:
                    yield inflated, size * MAX_INFLATION
            else:
                yield raw, size
    except EOFError as error:
        raise Refused("nifti.truncated", "the gzip stream ends early") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise Refused("nifti.corrupt", "the gzip stream is damaged") from error


def _header_of(file: IO[bytes]) -> NiftiHeader:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = file.read(348)
    if start[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c") and start[344:348] in (b"n+1\0", b"ni1\0"):
        detached, kind = start[344:346] == b"ni", Nifti1Header
    elif start[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and start[4:7] in (b"n+2", b"ni2"):
        detached, kind = start[4:6] == b"ni", Nifti2Header
        start += file.read(540 - 348)
        if len(start) < 540:
            raise Refused("nifti.truncated", "the file ends inside its header")
    else:
        raise Refused("nifti.not_nifti", "the file does not start with a NIfTI header")
    if detached:
        raise Refused("nifti.detached", "the voxels stand in a file of their own; store both as one .nii")
    little = start[0] != 0
    fields = kind(binaryblock=start, endianness="<" if little else ">", check=False)
    shape, n_volumes = _sizes([int(n) for n in fields["dim"]])
    dtype = _dtype(int(fields["datatype"]))
    slope, intercept = _scaling(float(fields["scl_slope"]), float(fields["scl_inter"]))
    affine = _affine(fields)
    offset = float(fields["vox_offset"])
    if not np.isfinite(offset) or not len(start) <= offset <= 2**31:
        raise Refused("nifti.corrupt", f"voxels are said to start at byte {offset:g}")
    x_mm, y_mm, z_mm = np.linalg.norm(affine[:3, :3], axis=0)
    header = NiftiHeader(
        shape, (float(z_mm), float(y_mm), float(x_mm)), dtype, n_volumes, slope, intercept, affine, little, int(offset)
    )
    if header.size_bytes > MAX_BYTES:
        raise Refused("nifti.size", f"{shape} x {n_volumes} of {dtype} take {header.size_bytes} bytes")
    return header


def _sizes(dim: list[int]) -> tuple[tuple[int, int, int], int]:
    """Return (Z, Y, X) and the number of volumes of the `dim` field."""
    if not 1 <= dim[0] <= 7 or any(n < 1 for n in dim[1 : dim[0] + 1]):
        raise Refused("nifti.corrupt", f"dim {dim} is not a shape")
    sizes = dim[1 : dim[0] + 1] + [1] * (7 - dim[0])
    if any(n != 1 for n in sizes[4:]):
        raise Refused("nifti.vector", f"{sizes} has more than four axes: a value is a vector")
    x, y, z, n_volumes = sizes[:4]
    if x * y * z > MAX_VOXELS:
        raise Refused("nifti.size", f"{(z, y, x)} holds more than {MAX_VOXELS} voxels")
    if n_volumes > MAX_VOLUMES:
        raise Refused("nifti.volumes", f"{n_volumes} volumes are more than {MAX_VOLUMES}")
    return (z, y, x), n_volumes


def _dtype(code: int) -> str:
    if code in _COLOURS:
        raise Refused("nifti.colour", f"values are {_COLOURS[code]}, not one real number")
    if code not in _TYPES:
        raise Refused("nifti.dtype", f"data type {code} is not one that can be stored without loss")
    return np.dtype(_TYPES[code]).name


def _scaling(slope: float, intercept: float) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0, NaN or infinity means that none is stated (NIfTI-1, scl_slope)."""
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise Refused("nifti.corrupt", f"slope {slope:g} has intercept {intercept}")
    return slope, intercept


def _affine(fields: Any) -> np.ndarray:
    """Return the LPS affine of the sform, else of the qform."""
    from nibabel.spatialimages import HeaderDataError

    try:
        if int(fields["sform_code"]) > 0:
            ras = fields.get_sform()
        elif int(fields["qform_code"]) > 0:
            ras = fields.get_qform()
        else:
            raise Refused("nifti.orientation", "neither sform nor qform is set: left and right are not known")
    except (HeaderDataError, ValueError) as error:
        raise Refused("nifti.affine", "the qform is not a rotation") from error
    affine = _RAS_TO_LPS @ np.asarray(ras, dtype=np.float64)
    affine[:3] *= _TO_MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    with np.errstate(all="ignore"):
        if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 1e-9:
            raise Refused("nifti.affine", "the affine is not a finite, invertible matrix")
    return affine


def _stored(path: str | os.PathLike[str]) -> tuple[NiftiHeader, np.ndarray]:
    """Return the header and the values as stored, (volume, Z, Y, X)."""
    with _opened(path) as (file, limit):
        header = _header_of(file)
        if header.offset + header.size_bytes > limit:
            raise Refused("nifti.truncated", f"it is too small for the {header.size_bytes} bytes that it declares")
        file.seek(header.offset)
        data = file.read(header.size_bytes)
        if len(data) < header.size_bytes:
            raise Refused("nifti.truncated", f"the file holds {len(data)} of {header.size_bytes} bytes of voxels")
        file.read(1)  # at its end, gzip compares its checksum
    values = np.frombuffer(data, np.dtype(header.dtype).newbyteorder("<" if header.is_little_endian else ">"))
    return header, values.reshape(header.n_volumes, *header.shape)


def _scaled(stored: np.ndarray, header: NiftiHeader) -> np.ndarray:
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) == (1.0, 0.0):
        return native
    return native.astype(np.float64) * header.slope + header.intercept


def _convert(values: np.ndarray) -> np.ndarray:
    """Return `values` in the smallest of our types that holds them: as they are, int16, uint16, else float32."""
    if values.dtype.name in ("uint8", "int16", "uint16"):
        return values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Refused("nifti.not_finite", f"{int((~np.isfinite(values)).sum())} voxels are NaN or infinite")
    if values.dtype == np.float32:
        return values
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu" or np.array_equal(values, np.rint(values)):
        for dtype in (np.int16, np.uint16):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return values.astype(dtype)
        exact = max(abs(int(low)), abs(int(high))) <= EXACT_FLOAT32
    else:
        exact = bool(max(abs(low), abs(high)) <= np.finfo(np.float32).max)
    if not exact:
        raise Refused("nifti.range", f"values from {low:g} to {high:g} do not fit float32")
    return values.astype(np.float32)


def _classes(values: np.ndarray) -> np.ndarray:
    whole = np.rint(values) if values.dtype.kind == "f" else values
    if not np.isfinite(values).all() or np.abs(values - whole).max() > LABEL_TOLERANCE:
        raise Refused("nifti.labels", "values are not whole numbers, so the file is no label map")
    if whole.min() < 0 or whole.max() > 65535:
        raise Refused("nifti.labels", f"classes from {whole.min():g} to {whole.max():g} are not within 0 to 65535")
    return whole.astype(np.uint8 if whole.max() <= 255 else np.uint16)
