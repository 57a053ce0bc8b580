"""Voxels: what every volume format shares once its header is read: limits, unpacking, geometry, and our value types.

A file must hold exactly the bytes that its header declares: fewer are a cut, more are a header that lies. ITK's readers
hold neither against it, and ignore the checksum of a packed MetaImage, which is why bytes are unpacked here.
"""

import bz2
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np

from medloom.schemas.errors import Refused
from medloom.schemas.volume import MAX_VOXELS

MAX_VOLUMES = 64
MAX_BYTES = 4 * 2**30  # of voxels, as declared
MAX_INFLATION = {"raw": 1, "gzip": 1032, "zlib": 1032, "bzip2": 46_000_000}  # best ratios; deflate's is of RFC 1951
EXACT_FLOAT32 = 2**24  # integers up to here are exact in float32
LABEL_TOLERANCE = 1e-3
BLOCK_BYTES = 1 << 20

Packing = Literal["raw", "gzip", "zlib", "bzip2"]
_WINDOW_BITS = {"gzip": 31, "zlib": 15}


@dataclass(frozen=True, eq=False)
class Stored:
    """Where the voxels of a file stand and what they are, as its header says.

    Attributes:
        format: first word of every reason ("nrrd").
        sizes: of the axes in the file, fastest first: x, y, z, and at most one that counts volumes.
        list_axis: which axis counts volumes; -1 for none.
        dtype: numpy's, with the byte order of the file.
        affine: (4, 4), voxel (x, y, z) to LPS mm.
        slope, intercept: a value is slope * stored + intercept.
        packing: how they are packed.
        start: byte of the file where they, or the packed stream, start; negative counts from its end.
        skip: bytes of the unpacked stream before them.
        tail_bytes: how many may follow them at most.
        companion: name of the file beside this one that holds them; "" for this one.
    """

    format: str
    sizes: tuple[int, ...]
    list_axis: int
    dtype: np.dtype
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    packing: Packing = "raw"
    start: int = 0
    skip: int = 0
    tail_bytes: int = 0
    companion: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of one volume."""
        x, y, z = (size for axis, size in enumerate(self.sizes) if axis != self.list_axis)
        return z, y, x

    @property
    def n_volumes(self) -> int:
        """How many volumes it holds."""
        return self.sizes[self.list_axis] if self.list_axis >= 0 else 1

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(Z, Y, X), of the affine."""
        x, y, z = (float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    @property
    def size_bytes(self) -> int:
        """What the voxels of all volumes take."""
        return math.prod(self.sizes) * self.dtype.itemsize


def check_sizes(stored: Stored) -> Stored:
    """Return `stored` when its sizes are within the limits.

    Raises:
        Refused("….size"), ("….volumes"): beyond `MAX_VOXELS`, `MAX_BYTES`, `MAX_VOLUMES`.
        Refused("….affine"): the affine is not finite, or not invertible.
    """
    if math.prod(stored.shape) > MAX_VOXELS:
        raise Refused(f"{stored.format}.size", f"{stored.shape} holds more than {MAX_VOXELS} voxels")
    if stored.n_volumes > MAX_VOLUMES:
        raise Refused(f"{stored.format}.volumes", f"{stored.n_volumes} volumes are more than {MAX_VOLUMES}")
    if stored.size_bytes > MAX_BYTES:
        detail = f"{stored.shape} x {stored.n_volumes} of {stored.dtype.name} take {stored.size_bytes} bytes"
        raise Refused(f"{stored.format}.size", detail)
    with np.errstate(all="ignore"):
        is_invertible = abs(np.linalg.det(stored.affine[:3, :3])) > 1e-9
    if not np.isfinite(stored.affine).all() or not is_invertible:
        raise Refused(f"{stored.format}.affine", "the affine is not a finite, invertible matrix")
    return stored


def read_stored(
    path: str | os.PathLike[str], stored: Stored, companions: Mapping[str, str] | None = None
) -> list[np.ndarray]:
    """Return the values of each volume as stored, (Z, Y, X) in native byte order and contiguous.

    Args:
        path: of the header's file.
        companions: {name: path} of files that the header may name; others are looked for in the header's folder.

    Raises:
        Refused("….companion"): the file that holds the voxels is not there.
        Refused("….truncated"), ("….corrupt"), ("….extra"): it holds fewer bytes, damaged ones, or more than declared.
    """
    what = stored.format
    name = stored.companion
    place = (companions or {}).get(name) or os.path.join(os.path.dirname(path), name) if name else path
    if name and not os.path.isfile(place):
        raise Refused(f"{what}.companion", "the file of its voxels does not lie beside the header")
    with open(place, "rb") as file:
        room = file.seek(0, os.SEEK_END) - max(stored.start, 0)
        if stored.size_bytes + stored.skip > room * MAX_INFLATION[stored.packing]:
            raise Refused(f"{what}.truncated", f"it is too small for the {stored.size_bytes} bytes that it declares")
        file.seek(stored.start if stored.start >= 0 else room + stored.start)
        data = _read_exactly(blocks(file, stored.packing, what=what), stored)
    values = data.view(stored.dtype)
    if not values.dtype.isnative:
        values = values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
    values = values.reshape(stored.sizes[::-1])
    if stored.list_axis < 0:
        return [values]
    return [np.ascontiguousarray(one) for one in np.moveaxis(values, len(stored.sizes) - 1 - stored.list_axis, 0)]


def _read_exactly(pieces: Iterator[bytes], stored: Stored) -> np.ndarray:
    """Return the bytes of the voxels; the stream is read to its end, where its checksum stands."""
    data = np.empty(stored.size_bytes, np.uint8)
    view, skip, tail, filled = data.data, stored.skip, stored.tail_bytes, 0
    for piece in pieces:
        left = memoryview(piece)[skip:]
        skip -= min(skip, len(piece))
        taken = left[: len(view) - filled]
        view[filled : filled + len(taken)] = taken
        filled += len(taken)
        tail -= len(left) - len(taken)
        if tail < 0:
            detail = f"it holds more than the {stored.size_bytes} bytes of voxels that it declares"
            raise Refused(f"{stored.format}.extra", detail)
    if filled < len(view):
        detail = f"it holds {filled} of {stored.size_bytes} bytes of voxels"
        raise Refused(f"{stored.format}.truncated", detail)
    return data


def blocks(file: IO[bytes], packing: Packing, *, what: str) -> Iterator[bytes]:
    """Give the unpacked bytes from where `file` stands to its end, in bounded steps.

    Raises:
        Refused("….truncated"), ("….corrupt"): a packed stream ends early, or is not what its checksum says.
    """
    if packing == "raw":
        while block := file.read(BLOCK_BYTES):
            yield block
        return
    try:
        yield from _unpacked(file, packing, what)
    except _faults(packing) as fault:
        raise Refused(f"{what}.corrupt", f"the {packing} stream is damaged") from fault


def _faults(packing: Packing) -> tuple[type[Exception], ...]:
    from isal.igzip_lib import IsalError

    if packing == "bzip2":
        return OSError, ValueError
    return (IsalError,)  # type: ignore[return-value]  # its stub takes the class for an instance


def _unpacked(file: IO[bytes], packing: Packing, what: str) -> Iterator[bytes]:
    """Unpack the members of a stream one after the other (RFC 1952: a gzip file may hold several)."""
    unpack, is_first = _unpacker(packing), True
    while block := file.read(BLOCK_BYTES):
        while block:
            if unpack.eof:
                if not block.strip(b"\0"):  # zeros that fill a tape's last block
                    break
                unpack = _unpacker(packing)
            piece = unpack.decompress(block, BLOCK_BYTES)
            is_first = False
            if piece:
                yield piece
            while not unpack.eof and len(piece) == BLOCK_BYTES:
                piece = unpack.decompress(b"" if packing == "bzip2" else unpack.unconsumed_tail, BLOCK_BYTES)
                yield piece
            block = unpack.unused_data
    if is_first or not unpack.eof:
        raise Refused(f"{what}.truncated", f"the {packing} stream ends early")


def _unpacker(packing: Packing) -> Any:
    from isal import isal_zlib

    return bz2.BZ2Decompressor() if packing == "bzip2" else isal_zlib.decompressobj(_WINDOW_BITS[packing])


def intensities(stored: np.ndarray, header: Stored) -> np.ndarray:
    """Return the scaled values in the smallest of our types that holds them: as they are, int16, uint16, else float32.

    Integers are exact: float32 holds them up to 2**24. No copy is made where the type stays and nothing is scaled.

    Raises:
        Refused("….not_finite"), ("….range"): values fit none of our types.
    """
    scaled = _scaling(header)
    if scaled is None and stored.dtype.name in ("uint8", "int16", "uint16"):
        return stored
    is_whole, is_finite, low, high = True, True, math.inf, -math.inf
    for plane in stored:
        values = scaled(plane) if scaled else plane
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            is_finite = False
            break
        low, high = min(low, values.min().item()), max(high, values.max().item())
        is_whole = is_whole and (values.dtype.kind != "f" or np.array_equal(values, np.rint(values)))
    if not is_finite:
        raise Refused(f"{header.format}.not_finite", "voxels are NaN or infinite")
    if scaled is None and stored.dtype == np.float32:
        return stored
    return _filled(stored, scaled, _smallest(is_whole, low, high, header.format))


def _smallest(is_whole: bool, low: float, high: float, what: str) -> type[np.generic]:
    """Return our smallest type that holds values from `low` to `high`."""
    if is_whole:
        for dtype in (np.int16, np.uint16):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return dtype
        is_exact = max(abs(low), abs(high)) <= EXACT_FLOAT32
    else:
        is_exact = bool(max(abs(low), abs(high)) <= float(np.finfo(np.float32).max))
    if not is_exact:
        raise Refused(f"{what}.range", f"values from {low:g} to {high:g} do not fit float32")
    return np.float32


def classes(stored: np.ndarray, header: Stored) -> np.ndarray:
    """Return the values of a label map as uint8 or uint16, whatever type and scaling they were stored with.

    Raises:
        Refused("….labels"): a value is not a whole number from 0 to 65535.
    """
    scaled, what = _scaling(header), header.format
    if scaled is None and stored.dtype == np.uint8:
        return stored
    low, high = math.inf, -math.inf
    for plane in stored:
        values = scaled(plane) if scaled else plane
        if values.dtype.kind == "f":
            whole = np.rint(values)
            if not np.isfinite(values).all() or np.abs(values - whole).max() > LABEL_TOLERANCE:
                raise Refused(f"{what}.labels", "values are not whole numbers, so the file is no label map")
            values = whole
        low, high = min(low, values.min().item()), max(high, values.max().item())
    if low < 0 or high > 65535:
        raise Refused(f"{what}.labels", f"classes from {low:g} to {high:g} are not within 0 to 65535")
    return _filled(stored, scaled, np.uint8 if high <= 255 else np.uint16)


def _scaling(header: Stored) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what turns stored values into real ones, None where they are the same."""
    if (header.slope, header.intercept) == (1.0, 0.0):
        return None
    return lambda plane: plane.astype(np.float64) * header.slope + header.intercept


def _filled(
    stored: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray] | None, dtype: type[np.generic]
) -> np.ndarray:
    """Return the values as `dtype`, plane by plane, so that no wider copy of all of them exists."""
    if stored.dtype == dtype and scaled is None:
        return stored
    result = np.empty(stored.shape, dtype)
    for plane, values in zip(result, stored, strict=True):
        real = scaled(values) if scaled else values
        plane[:] = np.rint(real) if real.dtype.kind == "f" and np.dtype(dtype).kind in "iu" else real
    return result
