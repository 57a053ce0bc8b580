"""NIfTI, written: a volume or its label maps as one .nii.gz, the same bytes for the same voxels.

The sform is the exact affine, as float32 (NIfTI-1 has no wider one); the qform says the same where a rotation and
spacings can, and is unset for a sheared grid. Free-text fields stay empty.
"""

from collections.abc import Sequence
from typing import IO

import numpy as np

from medloom.schemas.errors import Refused
from medloom.schemas.volume import Volume

MAX_SIDE = 32767  # of an axis, a signed 16-bit number in the header
SHEAR = 1e-4  # cosine between two axes from which they are not at right angles
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LEVEL = 2  # of igzip: near zlib's 6 in size, several times faster
_HEADER_BYTES = 352
_SCANNER = 1  # sform_code and qform_code: positions as the scanner gave them


def write_nifti(volumes: Sequence[Volume], file: IO[bytes]) -> None:
    """Write one volume as 3-D, several on one grid as 4-D; values keep their type.

    Raises:
        Refused("nifti.size"): an axis is longer than `MAX_SIDE`.
        ValueError: the volumes differ in shape, type or place.
    """
    from isal import igzip

    first = volumes[0]
    same = all(
        v.shape == first.shape and v.array.dtype == first.array.dtype and np.array_equal(v.affine, first.affine)
        for v in volumes
    )
    if not same:
        raise ValueError("volumes of one file need one shape, type and affine")
    header = _header(first, len(volumes))
    with igzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as squeezed:
        squeezed.write(header)
        for volume in volumes:
            for plane in volume.array:  # one slice at a time: (Y, X) in C order is x fastest, as NIfTI has it
                squeezed.write(np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")).tobytes())


def _header(volume: Volume, n: int) -> bytes:
    from nibabel.nifti1 import Nifti1Header

    z, y, x = volume.shape
    if max(z, y, x, n) > MAX_SIDE:
        raise Refused("nifti.size", f"an axis of {volume.shape} is longer than {MAX_SIDE}, the most that NIfTI-1 has")
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(volume.array.dtype)
    header.set_data_shape((x, y, z, n) if n > 1 else (x, y, z))
    header.set_zooms((*volume.spacing_mm[::-1], 1.0) if n > 1 else volume.spacing_mm[::-1])
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    affine = _LPS_TO_RAS @ volume.affine
    if is_sheared(volume.affine):
        header.set_qform(None, code=0)
    else:
        header.set_qform(affine, code=_SCANNER)
    header.set_sform(affine, code=_SCANNER)
    header["vox_offset"] = _HEADER_BYTES
    header["magic"] = b"n+1"
    data: bytes = header.binaryblock
    return data + bytes(_HEADER_BYTES - len(data))


def is_sheared(affine: np.ndarray) -> bool:
    """Whether two axes of a grid are not at right angles, as in the stack of a tilted gantry."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR)
