"""MGH: FreeSurfer's volumes: .mgz, which is gzip, and .mgh.

What follows the voxels, command lines and paths among them, is passed over.
"""

import os
from typing import Any

import numpy as np

from medloom.connectors.voxels import Packing, Stored, blocks, check_sizes
from medloom.schemas.errors import Refused

HEADER_BYTES = 284
MAX_FOOTER_BYTES = 16 << 20  # scan parameters and tags, which hold the history of a file
_TYPES = {0: "u1", 1: "i4", 3: "f4", 4: "i2", 10: "u2"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_header(path: str | os.PathLike[str]) -> Stored:
    """Return where the voxels stand and what they are.

    Raises:
        Refused("mgh.not_mgh"), ("mgh.truncated"), ("mgh.corrupt"): it is no header, or not a whole one.
        Refused("mgh.dtype"): values are of a type that is not read.
        Refused("mgh.orientation"), ("mgh.affine"): where the voxels are is not stated, or impossible.
        Refused("mgh.size"), ("mgh.volumes"): beyond the limits.
    """
    from nibabel.freesurfer.mghformat import MGHHeader

    with open(path, "rb") as file:
        packing: Packing = "gzip" if file.read(2) == b"\x1f\x8b" else "raw"
        file.seek(0)
        start = b""
        for block in blocks(file, packing, what="mgh"):
            start += block
            if len(start) >= HEADER_BYTES:
                break
    if start[:4] != b"\x00\x00\x00\x01":
        raise Refused("mgh.not_mgh", "the file does not start with the header of a MGH")
    if len(start) < HEADER_BYTES:
        raise Refused("mgh.truncated", "the file ends inside its header")
    if start[28:30] != b"\x00\x01":  # goodRASFlag, which nibabel mends without a word
        raise Refused("mgh.orientation", "it states no directions: left and right are not known")
    return _stored(MGHHeader(start[:HEADER_BYTES], check=False), packing)


def _stored(fields: Any, packing: Packing) -> Stored:
    sizes = tuple(int(n) for n in fields["dims"])
    if min(sizes) < 1:
        raise Refused("mgh.corrupt", f"sizes {sizes} are none")
    code = _TYPES.get(int(fields["type"]))
    if code is None:
        raise Refused("mgh.dtype", f"type {int(fields['type'])} is none that is read")
    with np.errstate(all="ignore"):
        affine = _RAS_TO_LPS @ np.asarray(fields.get_affine(), dtype=np.float64)
    return check_sizes(
        Stored(
            "mgh",
            sizes,
            3,
            np.dtype(code).newbyteorder(">"),
            affine,
            packing=packing,
            skip=HEADER_BYTES,
            tail_bytes=MAX_FOOTER_BYTES,
        )
    )
