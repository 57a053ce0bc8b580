"""NRRD: the text header of .nrrd and .nhdr files, and the segments that 3D Slicer writes into it (.seg.nrrd).

Only numbers and names of segments are kept of a header; its other texts ("content", comments, DICOM fields) may name a
person. Directions become LPS; a file whose `space` names no patient axes is refused, since left and right are unknown.
"""

import os
import re
from dataclasses import dataclass, replace
from typing import IO

import numpy as np

from medloom.connectors.voxels import Packing, Stored, check_sizes
from medloom.schemas.errors import Refused

MAX_HEADER_BYTES = 4 << 20
MAX_SEGMENTS = 4096

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}
_PACKINGS: dict[str, Packing] = {
    "raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2",
}  # fmt: skip
# Signs of x, y, z on the way to LPS. scanner-xyz is none of them: it is the device's, however the patient lies.
_SPACES = {
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
}  # fmt: skip
_VOLUME_KINDS = ("list", "time", "none", "???", "domain", "space", "")  # of the axis that is none of space
_MM = ("mm", "millimeter", "millimeters", "")


@dataclass(frozen=True)
class Segment:
    """A segment as 3D Slicer states it: `layer` is the index of the axis that counts volumes, `stated` its name."""

    layer: int
    value: int
    stated: str


@dataclass(frozen=True, eq=False)
class Header:
    """The numbers of a header.

    Attributes:
        stored: where the voxels stand and what they are.
        segments: of a segmentation by 3D Slicer, () for any other file.
    """

    stored: Stored
    segments: tuple[Segment, ...] = ()


def read_header(path: str | os.PathLike[str]) -> Header:
    """Return the header of a file.

    Raises:
        Refused("nrrd.not_nrrd"), ("nrrd.corrupt"): it is no header, or not a whole one.
        Refused("nrrd.dtype"), ("nrrd.vector"), ("nrrd.encoding"): values are not one real number each, or are packed in
            a way that is not read.
        Refused("nrrd.shape"): it is not three-dimensional.
        Refused("nrrd.orientation"), ("nrrd.units"), ("nrrd.affine"): where the voxels are is not stated, or impossible.
        Refused("nrrd.companion"): its voxels stand in several files, or in one elsewhere.
        Refused("nrrd.size"), ("nrrd.volumes"), ("nrrd.segments"): beyond the limits.
    """
    with open(path, "rb") as file:
        fields, keys = _fields(file)
        return Header(_stored(fields, file.tell()), _segments(keys))


def _fields(file: IO[bytes]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fields ("name: value") and the keys ("name:=value") up to the empty line that ends a header."""
    if not re.fullmatch(rb"NRRD000[1-5]\s*", file.readline(32)):
        raise Refused("nrrd.not_nrrd", "the file does not start with the line of a NRRD")
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    while True:
        line = file.readline(MAX_HEADER_BYTES)
        if file.tell() > MAX_HEADER_BYTES:
            raise Refused("nrrd.corrupt", f"its header has more than {MAX_HEADER_BYTES} bytes")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if not line and not any(name in fields for name in ("datafile", "data file")):
                raise Refused("nrrd.truncated", "the file ends inside its header")
            return fields, keys
        if text.startswith("#"):
            continue
        found = re.fullmatch(r"([^:]+):(=|\s)\s*(.*)", text)
        if not found:
            raise Refused("nrrd.corrupt", "a line of its header is neither a field nor a key")
        into, name = (keys, found[1]) if found[2] == "=" else (fields, found[1].strip().lower())
        if name in into and into is fields:
            raise Refused("nrrd.corrupt", f"it states {_known(name)} twice")
        into[name] = found[3].strip()


def _known(name: str) -> str:
    """Return a field's name as one that may be told: only what the format itself defines."""
    return name if name in _FIELDS else "a field"


_FIELDS = ("type", "dimension", "space", "sizes", "space directions", "space origin", "encoding", "endian", "kinds")


def _stored(fields: dict[str, str], end: int) -> Stored:
    sizes = tuple(_integers(fields, "sizes"))
    if _integers(fields, "dimension") != [len(sizes)] or any(n < 1 for n in sizes):
        raise Refused("nrrd.corrupt", f"sizes {sizes} are not those of its dimension")
    affine, list_axis = _geometry(fields, len(sizes))
    _check_kinds(fields, len(sizes), list_axis)
    companion = fields.get("data file", fields.get("datafile", ""))
    skip = _optional(fields, ("byte skip", "byteskip"), 0)
    if _optional(fields, ("line skip", "lineskip"), 0) != 0 or skip < -1:
        raise Refused("nrrd.encoding", "lines are to be passed over before the voxels")
    packing = _PACKINGS.get(fields.get("encoding", "").lower())
    if packing is None or (skip and packing == "bzip2"):
        raise Refused("nrrd.encoding", "its encoding is none of raw, gzip, bzip2")
    stored = Stored(
        "nrrd", sizes, list_axis, _dtype(fields), affine,
        packing=packing, start=0 if companion else end, skip=max(skip, 0), companion=beside(companion, "nrrd"),
    )  # fmt: skip
    check_sizes(stored)
    if skip == -1:  # the voxels are what ends the file
        if packing != "raw":
            raise Refused("nrrd.encoding", "the place of packed voxels is not stated")
        return replace(stored, start=-stored.size_bytes)
    return stored


def _geometry(fields: dict[str, str], dimension: int) -> tuple[np.ndarray, int]:
    """Return the LPS affine, and the axis that is none of space (-1: all three are)."""
    name = fields.get("space", "").lower()
    signs = _SPACES.get(name)
    if signs is None or "space directions" not in fields:
        raise Refused(
            "nrrd.orientation", "its space is none of a patient's (LPS, RAS, LAS): left and right are not known"
        )
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if any(unit.lower() not in _MM for unit in units):
        raise Refused("nrrd.units", "lengths are not in mm")
    found = re.findall(r"none|\([^()]*\)", fields["space directions"])
    if len(found) != dimension:
        raise Refused("nrrd.corrupt", f"it has {len(found)} space directions for {dimension} axes")
    spatial = [axis for axis, direction in enumerate(found) if direction != "none"]
    if len(spatial) != 3 or dimension > 4:
        raise Refused("nrrd.shape", f"{len(spatial)} of its {dimension} axes are of space, and three are read")
    affine = np.eye(4)
    for column, axis in enumerate(spatial):
        affine[:3, column] = _vector(found[axis])
    if "space origin" in fields:
        affine[:3, 3] = _vector(fields["space origin"])
    affine[:3] *= np.array(signs)[:, np.newaxis]
    return affine, next((axis for axis in range(dimension) if axis not in spatial), -1)


def _check_kinds(fields: dict[str, str], dimension: int, list_axis: int) -> None:
    kinds = fields.get("kinds", "").lower().split() or [""] * dimension
    if len(kinds) != dimension:
        raise Refused("nrrd.corrupt", f"it has {len(kinds)} kinds for {dimension} axes")
    if list_axis >= 0 and kinds[list_axis] not in _VOLUME_KINDS:
        raise Refused("nrrd.vector", "a value is a vector, a colour or a tensor, not one real number")


def _dtype(fields: dict[str, str]) -> np.dtype:
    code = _DTYPES.get(fields.get("type", "").lower())
    if code is None:
        raise Refused("nrrd.dtype", "its type is none that is read")
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and (endian or code not in ("i1", "u1")):
        raise Refused("nrrd.corrupt", "it does not state the order of bytes")
    return np.dtype(code).newbyteorder(">" if endian == "big" else "<")


def _segments(keys: dict[str, str]) -> tuple[Segment, ...]:
    """Return the segments that 3D Slicer states; older ones have no value (it is 1) and no layer (it is the number)."""
    numbers = sorted({int(found[1]) for name in keys if (found := re.match(r"Segment(\d{1,6})_", name))})
    if len(numbers) > MAX_SEGMENTS:
        raise Refused("nrrd.segments", f"{len(numbers)} segments are more than {MAX_SEGMENTS}")
    segments = []
    for number in numbers:
        value = keys.get(f"Segment{number}_LabelValue", "1")
        layer = keys.get(f"Segment{number}_Layer", str(number))
        if not re.fullmatch(r"\d{1,5}", value) or not re.fullmatch(r"\d{1,5}", layer) or not 0 < int(value) < 65536:
            raise Refused("nrrd.segments", f"segment {number} has no whole number as its value or layer")
        segments.append(Segment(int(layer), int(value), _stated(keys, number)))
    if len({(segment.layer, segment.value) for segment in segments}) < len(segments):
        raise Refused("nrrd.segments", "two segments share a value of one layer")
    return tuple(segments)


def _stated(keys: dict[str, str], number: int) -> str:
    """Return a segment's name; where Slicer only numbered it, the words of its code and of the code's modifier."""
    name = keys.get(f"Segment{number}_Name", "").strip() or keys.get(f"Segment{number}_ID", "").strip()
    entry = re.search(r"TerminologyEntry:([^|]*)", keys.get(f"Segment{number}_Tags", ""))
    if re.fullmatch(r"(?i)segment[ _]*\d*", name) and entry:
        codes = [code.split("^") for code in entry[1].split("~")]  # context, category, type, modifier, ...
        words = [code[2].strip() for code in codes[2:4] if len(code) > 2 and code[2].strip()]
        return " ".join(reversed(words)) or name
    return name


def beside(name: str, what: str) -> str:
    """Return the name of a file in the header's own folder, "" for none.

    Raises:
        Refused("….companion"): it leads elsewhere, or names several files.
    """
    if not name:
        return ""
    if name.split()[0] == "LIST" or "%" in name:
        raise Refused(f"{what}.companion", "its voxels stand in several files; store them in one")
    name = name.removeprefix("./")
    if re.search(r"[/\\\x00-\x1f\x7f]|^[A-Za-z]:|^\.\.?$", name) or len(name) > 255:
        raise Refused(f"{what}.companion", "its voxels stand in a file outside its folder")
    return name


def _integers(fields: dict[str, str], name: str) -> list[int]:
    texts = fields.get(name, "").split()
    if not texts or not all(re.fullmatch(r"\d{1,10}", text) for text in texts):
        raise Refused("nrrd.corrupt", f"{name} are not whole numbers")
    return [int(text) for text in texts]


def _optional(fields: dict[str, str], names: tuple[str, ...], default: int) -> int:
    text = next((fields[name] for name in names if name in fields), str(default))
    if not re.fullmatch(r"-?\d{1,10}", text):
        raise Refused("nrrd.corrupt", f"{names[0]} is not a whole number")
    return int(text)


def _vector(text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.strip("() ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise Refused("nrrd.corrupt", "a direction or the origin is not three numbers")
    return numbers
