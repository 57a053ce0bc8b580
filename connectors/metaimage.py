"""MetaImage: the text header of .mha files, which hold their voxels, and of .mhd files, whose voxels lie beside them.

Directions are LPS as ITK writes and reads them; `AnatomicalOrientation` is ignored, as ITK does, for it is often wrong.
"""

import os
import re
from dataclasses import replace
from typing import IO

import numpy as np

from medloom.connectors.nrrd import beside
from medloom.connectors.voxels import Stored, check_sizes
from medloom.schemas.errors import Refused

MAX_HEADER_BYTES = 4 << 20
MAX_LINE_BYTES = 1 << 16

# MET_LONG was 4 or 8 bytes in its time; ITK reads 4, and a file of 8 does not have the size that it declares.
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_MATRIX = ("transformmatrix", "rotation", "orientation")  # three names of one field, as are the next
_OFFSET = ("offset", "position", "origin")


def read_header(path: str | os.PathLike[str]) -> Stored:
    """Return where the voxels stand and what they are.

    Raises:
        Refused("meta.not_meta"), ("meta.truncated"), ("meta.corrupt"): it is no header, or not a whole one.
        Refused("meta.dtype"), ("meta.vector"), ("meta.encoding"), ("meta.scaling"): values are not one real number
            each, or need a rule that readers do not agree on.
        Refused("meta.shape"): it is not three-dimensional.
        Refused("meta.orientation"), ("meta.affine"): where the voxels are is not stated, or impossible.
        Refused("meta.companion"): its voxels stand in several files, or in one elsewhere.
        Refused("meta.size"), ("meta.volumes"): beyond the limits.
    """
    with open(path, "rb") as file:
        fields = _fields(file)
        end = file.tell()
    if fields.get("objecttype", "Image").lower() != "image" or "dimsize" not in fields:
        raise Refused("meta.not_meta", "the file does not start with the header of a MetaImage")
    if not _flag(fields, "binarydata", default=True):
        raise Refused("meta.encoding", "its voxels are written as text")
    if _numbers(fields, "elementnumberofchannels", [1.0]) != [1.0]:
        raise Refused("meta.vector", "a value is a vector or a colour, not one real number")
    slope = _numbers(fields, "elementtointensityfunctionslope", [1.0])
    if slope != [1.0] or _numbers(fields, "elementtointensityfunctionoffset", [0.0]) != [0.0]:
        raise Refused("meta.scaling", "it states a slope, which some readers apply and others do not")
    return _stored(fields, end)


def _fields(file: IO[bytes]) -> dict[str, str]:
    """Return the fields of a header, whose last one says where the voxels are; names are in lower case."""
    fields: dict[str, str] = {}
    while "elementdatafile" not in fields:
        line = file.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n") and (not line or len(line) == MAX_LINE_BYTES):
            reason = "meta.truncated" if "dimsize" in fields else "meta.not_meta"
            raise Refused(reason, "the file ends before its header does")
        if file.tell() > MAX_HEADER_BYTES:
            raise Refused("meta.corrupt", f"its header has more than {MAX_HEADER_BYTES} bytes")
        if not line.strip():
            continue
        name, found, value = line.decode("utf-8", "replace").partition("=")
        name = name.strip().lower()
        if not found or not re.fullmatch(r"[\w .:-]+", name):
            raise Refused("meta.corrupt" if "dimsize" in fields else "meta.not_meta", "a line is not NAME = VALUE")
        if name in fields:
            raise Refused("meta.corrupt", "it states a field twice")
        fields[name] = value.strip()
    return fields


def _stored(fields: dict[str, str], end: int) -> Stored:
    stated = _numbers(fields, "dimsize", [])
    sizes = tuple(int(n) for n in stated)
    if _numbers(fields, "ndims", []) != [len(sizes)] or list(sizes) != stated or min(sizes) < 1:
        raise Refused("meta.corrupt", f"sizes {sizes} are not those of its dimension")
    if not 3 <= len(sizes) <= 4:
        raise Refused("meta.shape", f"it has {len(sizes)} axes, and three or four are read")
    code = _TYPES.get(fields.get("elementtype", "").upper())
    if code is None:
        raise Refused("meta.dtype", "its type is none that is read")
    is_big = _flag(fields, "binarydatabyteordermsb") or _flag(fields, "elementbyteordermsb")
    is_packed, holder = _flag(fields, "compresseddata"), fields["elementdatafile"]
    companion = "" if holder.upper() == "LOCAL" else beside(holder, "meta")
    header_bytes = _numbers(fields, "headersize", [0.0])[0]
    if not holder or header_bytes < -1 or header_bytes != int(header_bytes) or (is_packed and header_bytes):
        raise Refused("meta.corrupt", "ElementDataFile or HeaderSize do not say where its voxels are")
    stored = check_sizes(
        Stored(
            "meta",
            sizes,
            3 if len(sizes) == 4 else -1,
            np.dtype(code).newbyteorder(">" if is_big else "<"),
            _affine(fields, len(sizes)),
            packing="zlib" if is_packed else "raw",
            start=(0 if companion else end) + max(int(header_bytes), 0),
            companion=companion,
        )
    )
    # HeaderSize = -1: the voxels are what ends the file
    return replace(stored, start=-stored.size_bytes) if header_bytes == -1 else stored


def _affine(fields: dict[str, str], dimension: int) -> np.ndarray:
    """Return the LPS affine: row i of TransformMatrix is the direction of axis i."""
    rows = next((_numbers(fields, name, []) for name in _MATRIX if name in fields), [])
    if not rows:
        raise Refused("meta.orientation", "it states no TransformMatrix: left and right are not known")
    offset = next((_numbers(fields, name, []) for name in _OFFSET if name in fields), [0.0] * dimension)
    spacing = _numbers(fields, "elementspacing" if "elementspacing" in fields else "elementsize", [])
    if len(rows) != dimension**2 or len(offset) != dimension or len(spacing) != dimension or min(spacing) <= 0:
        raise Refused("meta.corrupt", "matrix, offset or spacing do not have the numbers of its dimension")
    directions = np.array(rows).reshape(dimension, dimension)
    if dimension == 4 and (directions[3, :3].any() or directions[:3, 3].any()):
        raise Refused("meta.affine", "the axis of volumes is mixed with those of space")
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3].T * np.array(spacing)[:3]
    affine[:3, 3] = offset[:3]
    return affine


def _numbers(fields: dict[str, str], name: str, default: list[float]) -> list[float]:
    if name not in fields:
        return default
    try:
        numbers = [float(text) for text in fields[name].split()]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all():
        raise Refused("meta.corrupt", f"{name} is not made of numbers")
    return numbers


def _flag(fields: dict[str, str], name: str, *, default: bool = False) -> bool:
    word = fields.get(name, str(default)).lower()
    if word not in ("true", "false", "1", "0", "t", "f"):
        raise Refused("meta.corrupt", f"{name} is neither true nor false")
    return word in ("true", "1", "t")
