"""Private attributes that may stay under the Retain Safe Private Option: numbers that diffusion and PET need.

A private element is known by its creator, its group and the last byte of its element (PS3.5, 7.8.1). Listed are only
numbers and codes, no text; PS3.15 Table E.3.10-1 lists most, the rest dcm2niix needs for gradient directions and slice
times. Siemens' CSA headers are not among them, since they hold names, dates and UIDs in a form of their own.
"""

from collections.abc import Mapping
from types import MappingProxyType

# {creator: {(group, last byte of the element): VR}}
SAFE: Mapping[str, Mapping[tuple[int, int], str]] = MappingProxyType({
    "SIEMENS MR HEADER": {  # mosaic size, slice duration, b-value, directionality, direction, matrix, slice times
        (0x0019, 0x0A): "US", (0x0019, 0x0B): "DS", (0x0019, 0x0C): "IS", (0x0019, 0x0D): "CS", (0x0019, 0x0E): "FD",
        (0x0019, 0x27): "FD", (0x0019, 0x28): "FD", (0x0019, 0x29): "FD",
    },
    "GEMS_ACQU_01": {  # x, y and z of the diffusion direction
        (0x0019, 0xBB): "DS", (0x0019, 0xBC): "DS", (0x0019, 0xBD): "DS",
    },
    "GEMS_PARM_01": {(0x0043, 0x39): "IS"},  # b-value first
    "Philips Imaging DD 001": {  # b-value, directionality, number of slices
        (0x2001, 0x03): "FL", (0x2001, 0x04): "CS", (0x2001, 0x18): "SL",
    },
    "Philips MR Imaging DD 001": {  # scale intercept and slope; x, y and z of the diffusion direction
        (0x2005, 0x0D): "FL", (0x2005, 0x0E): "FL", (0x2005, 0xB0): "FL", (0x2005, 0xB1): "FL", (0x2005, 0xB2): "FL",
    },
    "Philips PET Private Group": {(0x7053, 0x00): "DS", (0x7053, 0x09): "DS"},  # SUV and activity scale
})  # fmt: skip

CODES = frozenset({"NONE", "DIRECTIONAL", "BMATRIX", "ISOTROPIC", "D", "I", "O", "P", "R", "S", "A"})  # values of CS
_NUMBERS = frozenset(b"0123456789+-.eE \\\0")
_SIZES = {"US": 2, "SL": 4, "FL": 4, "FD": 8}
LONGEST_BYTES = 4096


def safe_vr(creator: str, tag: int) -> str:
    """Return the VR that a safe private element has, "" when it is not on the list."""
    return SAFE.get(creator.strip(" \0"), {}).get((tag >> 16, tag & 0xFF), "")


def is_plain(vr: str, data: bytes) -> bool:
    """Whether the bytes of a safe private element are nothing but what its VR promises."""
    if len(data) > LONGEST_BYTES:
        return False
    if vr == "CS":
        return all(part.strip(" \0") in CODES for part in data.decode("latin-1").split("\\"))
    return set(data) <= _NUMBERS if vr in ("DS", "IS") else len(data) % _SIZES[vr] == 0
