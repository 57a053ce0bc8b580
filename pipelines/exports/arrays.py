"""Arrays in the files that M3D and RadFM read: .npy images, and masks as sparse rows whose shape is the file's name."""

import io
import math
from collections.abc import Sequence
from typing import IO

import numpy as np

from medloom.schemas.volume import Volume

_SLAB_VALUES = 1 << 22  # written at once


def write_npy(file: IO[bytes], view: np.ndarray, *, lead: tuple[int, ...], dtype: str = "<f4") -> None:
    """Write `view` as .npy of shape (*lead, *view.shape), C order; its values stand once for each index of `lead`.

    Args:
        view: any strides; it is copied in slabs of its first axis, never as a whole.
    """
    shape = (*lead, *view.shape)
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    step = max(1, _SLAB_VALUES * len(view) // view.size)
    for _ in range(math.prod(lead)):
        for start in range(0, len(view), step):
            file.write(np.ascontiguousarray(view[start : start + step], dtype).tobytes())


def xyz(array: np.ndarray) -> np.ndarray:
    """Return (Z, Y, X) as (X, Y, Z), a view."""
    return array.transpose(2, 1, 0)


def sparse_masks(layers: Sequence[Volume], channels: dict[tuple[int, int], int], n: int) -> bytes:
    """Return masks as M3D keeps them: a scipy CSR matrix, one row per class, voxels in C order of (X, Y, Z).

    Args:
        layers: label maps on one grid.
        channels: row of each (layer, value); others are left out.
        n: rows; one without a class is empty.
    """
    from scipy import sparse

    found: list[np.ndarray] = [np.empty(0, np.int64)] * n
    for number, layer in enumerate(layers):
        flat = np.ascontiguousarray(xyz(layer.array)).ravel()
        at = np.flatnonzero(flat)
        order = np.argsort(flat[at], kind="stable")
        at, values = at[order], flat[at][order]
        for (of, value), channel in channels.items():
            if of == number:
                found[channel] = at[slice(*np.searchsorted(values, (value, value + 1)))]
    indices = np.concatenate(found)
    ends = np.cumsum([0, *map(len, found)])
    size = layers[0].array.size
    matrix = sparse.csr_matrix((np.ones(len(indices), np.int32), indices, ends), shape=(n, size))
    file = io.BytesIO()
    sparse.save_npz(file, matrix, compressed=True)
    return file.getvalue()


def mask_name(n: int, shape: tuple[int, int, int]) -> str:
    """Return the name of a file of `sparse_masks`: "mask_(C, X, Y, Z).npz" for a (Z, Y, X) volume."""
    z, y, x = shape
    return f"mask_({n}, {x}, {y}, {z}).npz"
