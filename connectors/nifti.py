"""NIfTI: volumes from .nii and .nii.gz files that nobody vouches for (NIfTI-1 and NIfTI-2).

Only numbers are read of a header: its free-text fields (`descrip`, `aux_file`, `db_name`, `intent_name`) hold names and
paths. Positions come from the sform, else the qform, and become LPS; without either, left and right are not known.
"""

import io
import os
from typing import Any, Literal

import numpy as np

from medloom.connectors.voxels import Packing, Stored, blocks, check_sizes, classes, intensities, read_stored
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Volume

LONGEST_HEADER = 540  # of NIfTI-2; NIfTI-1 has 348 bytes

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOURS = {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex"}
_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_header(source: bytes | str | os.PathLike[str]) -> Stored:
    """Return the numbers of a header (of a path, or of a file's first bytes: 4 KiB are enough).

    Raises:
        Refused("nifti.not_nifti"), ("nifti.truncated"), ("nifti.corrupt"): it is no header, or not a whole one.
        Refused("nifti.detached"): voxels stand in another file (.hdr/.img).
        Refused("nifti.colour"), ("nifti.dtype"), ("nifti.vector"): values are not one real number of at most 8 bytes.
        Refused("nifti.orientation"): neither sform nor qform says where the voxels are.
        Refused("nifti.affine"): they say something impossible.
        Refused("nifti.size"), ("nifti.volumes"): beyond the limits of `voxels`.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        packing: Packing = "gzip" if file.read(2) == b"\x1f\x8b" else "raw"
        file.seek(0)
        start = b""
        for block in blocks(file, packing, what="nifti"):
            start += block
            if len(start) >= LONGEST_HEADER:
                break
    return _header_of(start[:LONGEST_HEADER], packing)


def read_volumes(path: str | os.PathLike[str]) -> list[Volume]:
    """Return the volumes of a file, one per index of its fourth axis, values scaled as the header says.

    Integers stay integers of 8 or 16 bits where they fit; others become float32, exact up to 2**24. The units are
    "arbitrary": NIfTI does not state what a value means.

    Raises:
        Refused: as `read_header`; "nifti.truncated", "nifti.corrupt", "nifti.extra" when the file does not hold the
            bytes that it declares; "nifti.range" when values fit none of our types, "nifti.not_finite".
    """
    header = read_header(path)
    return [Volume(intensities(one, header), header.affine) for one in read_stored(path, header)]


def read_labels(path: str | os.PathLike[str]) -> list[Volume]:
    """Return the label maps of a file as uint8 or uint16, whatever type and scaling the classes were stored with.

    Raises:
        Refused: as `read_volumes`; and "nifti.labels" when a value is not a whole number from 0 to 65535.
    """
    header = read_header(path)
    stored = read_stored(path, header)
    return [Volume(classes(one, header), header.affine, units="label", kind="label") for one in stored]


def _header_of(start: bytes, packing: Packing) -> Stored:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if start[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c") and start[344:348] in (b"n+1\0", b"ni1\0"):
        start, detached, kind = start[:348], start[344:346] == b"ni", Nifti1Header
    elif start[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and start[4:7] in (b"n+2", b"ni2"):
        detached, kind = start[4:6] == b"ni", Nifti2Header
        if len(start) < LONGEST_HEADER:
            raise Refused("nifti.truncated", "the file ends inside its header")
    else:
        raise Refused("nifti.not_nifti", "the file does not start with a NIfTI header")
    if detached:
        raise Refused("nifti.detached", "the voxels stand in a file of their own; store both as one .nii")
    order: Literal["<", ">"] = "<" if start[0] != 0 else ">"
    fields = kind(binaryblock=start, endianness=order, check=False)
    dtype = np.dtype(_code(int(fields["datatype"]))).newbyteorder(order)
    slope, intercept = _scaling(float(fields["scl_slope"]), float(fields["scl_inter"]))
    offset = float(fields["vox_offset"])
    if not np.isfinite(offset) or not len(start) <= offset <= 2**31 or offset != int(offset):
        raise Refused("nifti.corrupt", f"voxels are said to start at byte {offset:g}")
    if int(fields["bitpix"]) != 8 * dtype.itemsize:
        raise Refused("nifti.corrupt", f"a value of {dtype.name} is said to have {int(fields['bitpix'])} bits")
    sizes, affine = _sizes([int(n) for n in fields["dim"]]), _affine(fields)
    start_byte, skip = (int(offset), 0) if packing == "raw" else (0, int(offset))
    return check_sizes(Stored("nifti", sizes, 3, dtype, affine, slope, intercept, packing, start_byte, skip))


def _sizes(dim: list[int]) -> tuple[int, ...]:
    """Return x, y, z and the number of volumes of the `dim` field."""
    if not 1 <= dim[0] <= 7 or any(n < 1 for n in dim[1 : dim[0] + 1]):
        raise Refused("nifti.corrupt", f"dim {dim} is not a shape")
    sizes = dim[1 : dim[0] + 1] + [1] * (7 - dim[0])
    if any(n != 1 for n in sizes[4:]):
        raise Refused("nifti.vector", f"{sizes} has more than four axes: a value is a vector")
    return tuple(sizes[:4])


def _code(code: int) -> str:
    if code in _COLOURS:
        raise Refused("nifti.colour", f"values are {_COLOURS[code]}, not one real number")
    if code not in _TYPES:
        raise Refused("nifti.dtype", f"data type {code} is not one that can be stored without loss")
    return _TYPES[code]


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
    return affine
