"""Measure: numbers by which checks judge a medium, and the digest and the hash by which duplicates are found.

Every medium of a layout gets the same names, all finite.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medloom.connectors.images import decode_picture
from medloom.quality.phash import picture_phash
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Medium
from medloom.schemas.volume import Volume

MAX_DISTINCT = 65536  # counting stops here: more says "continuous"
GREY_TOLERANCE = 8  # of 255; JPEG's chroma rounds a grey image by a few levels
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Measure:
    """Fill `measured`, `pixel_digest` and, of a picture, `phash`; what stood in `measured` before is kept."""

    version: str = "2"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back, measured.

        Raises:
            Refused("measure.not_finite"): a volume holds NaN or infinity.
            Refused("image.…"): a picture does not decode.
        """
        if isinstance(medium.content, Volume):
            measured, digest, phash = measure_volume(medium.content), volume_digest(medium.content), ""
        else:
            pixels_YXC = decode_picture(medium.content)
            measured, digest = measure_picture(pixels_YXC), picture_digest(pixels_YXC)
            phash = picture_phash(pixels_YXC)
        yield replace(medium, measured={**medium.measured, **measured}, pixel_digest=digest, phash=phash)


def measure_volume(volume: Volume) -> dict[str, float]:
    """Return min, max, mean, std, p01, p99 (nearest rank), foreground_fraction and n_distinct of the values.

    Foreground is what lies above the mean (the rule of M3D-Seg). n_distinct stops at `MAX_DISTINCT`.
    """
    values, counts = _histogram(volume.array)
    total = int(counts.sum())
    mean = float((values * counts).sum() / total)
    cumulative = np.cumsum(counts)
    return {
        "min": float(values[0]),
        "max": float(values[-1]),
        "mean": mean,
        "std": float(np.sqrt((np.square(values - mean) * counts).sum() / total)),
        "p01": float(values[np.searchsorted(cumulative, 0.01 * total)]),
        "p99": float(values[np.searchsorted(cumulative, 0.99 * total)]),
        "foreground_fraction": float(counts[values > mean].sum() / total),
        "n_distinct": float(min(len(values), MAX_DISTINCT)),
    }


def _histogram(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values, ascending, as float64, and how often each occurs."""
    if array.dtype == np.float32:
        if not np.isfinite(array).all():
            raise Refused("measure.not_finite", f"{int((~np.isfinite(array)).sum())} voxels are NaN or infinite")
        values, counts = np.unique(array, return_counts=True)
        return values.astype(np.float64), counts
    lowest = np.iinfo(array.dtype).min
    counts = np.zeros(2 ** (8 * array.dtype.itemsize), dtype=np.int64)
    for plane in array:  # by slices: bincount needs eight bytes a voxel
        counts += np.bincount(plane.ravel().astype(np.int64) - lowest, minlength=len(counts))
    (present,) = np.nonzero(counts)
    return (present + lowest).astype(np.float64), counts[present]


def measure_picture(pixels_YXC: np.ndarray) -> dict[str, float]:
    """Return mean, std and entropy of the luminance (0 to 255), the sides in pixels, and is_grey (0 or 1).

    Args:
        pixels_YXC: uint8 with 1, 3 or 4 channels; alpha is left out.
    """
    height, width, channels = pixels_YXC.shape
    if channels == 1:
        luma, is_grey = pixels_YXC[:, :, 0], True
    else:
        colour = pixels_YXC[:, :, :3].astype(np.int16)
        is_grey = bool(np.ptp(colour, axis=2).max() <= GREY_TOLERANCE)
        luma = np.rint(sum(w * colour[:, :, c] for c, w in enumerate(LUMA))).astype(np.uint8)
    values, counts = _histogram(luma[np.newaxis])
    share = counts / counts.sum()
    mean = float((values * share).sum())
    return {
        "mean": mean,
        "std": float(np.sqrt((np.square(values - mean) * share).sum())),
        "entropy_bits": float(abs((share * np.log2(share)).sum())),
        "longest_side_px": float(max(height, width)),
        "shortest_side_px": float(min(height, width)),
        "is_grey": float(is_grey),
    }


def volume_digest(volume: Volume) -> str:
    """Return the sha256 of shape, dtype and voxels in canonical LPS orientation, C order: 64 hex digits."""
    return _digest(volume.canonical().array)


def picture_digest(pixels_YXC: np.ndarray) -> str:
    """Return the sha256 of shape, dtype and decoded pixels: 64 hex digits."""
    return _digest(pixels_YXC)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name}|{array.shape}\n".encode())
    for plane in array:
        digest.update(np.ascontiguousarray(plane, dtype=array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
