"""Measure: numbers by which checks judge a medium, its masks' regions, and digests by which duplicates are found.

Every medium of a layout gets the same names, all finite. Numbers of a volume come out of one histogram.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medloom.connectors.images import decode_picture
from medloom.pipelines.stages.intensity import counted, moments
from medloom.quality.phash import picture_phash
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Medium, Region
from medloom.schemas.volume import Label, Volume

MAX_DISTINCT = 65536  # counting stops here: more says "continuous"
GREY_TOLERANCE = 8  # of 255; JPEG's chroma rounds a grey image by a few levels
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SLAB = 16  # slices that are hashed at once


@dataclass(frozen=True)
class Measure:
    """Fill `measured`, `pixel_digest`, of a picture `phash`, of masks `regions`; what stood in `measured` is kept.

    A value of a mask that its label table does not know is named `value N`.
    """

    version: str = "3"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back, measured.

        Raises:
            Refused("measure.not_finite"): a volume holds NaN or infinity.
            Refused("seg.dtype"): a mask is neither uint8 nor uint16.
            Refused("image.…"): a picture does not decode.
        """
        if isinstance(medium.content, Volume):
            measured, digest, phash = measure_volume(medium.content), volume_digest(medium.content), ""
            regions = measure_regions(medium.content, medium.seg)
            medium = replace(medium, regions=regions, seg=_named(medium.seg, regions))
        else:
            pixels_YXC = decode_picture(medium.content)
            measured, digest = measure_picture(pixels_YXC), picture_digest(pixels_YXC)
            phash = picture_phash(pixels_YXC)
        yield replace(medium, measured={**medium.measured, **measured}, pixel_digest=digest, phash=phash)


def measure_volume(volume: Volume) -> dict[str, float]:
    """Return min, max, mean, std, p01, p99 (nearest rank), foreground_fraction and n_distinct of the values.

    Foreground is what lies above the mean (the rule of M3D-Seg). n_distinct stops at `MAX_DISTINCT`.
    """
    from medloom.pipelines.stages import tally

    array = volume.array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise Refused("measure.not_finite", f"{int((~np.isfinite(array)).sum())} voxels are NaN or infinite")
        return tally.measure_floats(array, MAX_DISTINCT)
    values, counts = counted(array)
    mean, std = moments(values, counts)
    cumulative = np.cumsum(counts)
    return {
        "min": float(values[0]),
        "max": float(values[-1]),
        "mean": mean,
        "std": std,
        "p01": float(values[np.searchsorted(cumulative, 0.01 * array.size)]),
        "p99": float(values[np.searchsorted(cumulative, 0.99 * array.size)]),
        "foreground_fraction": float(counts[values > mean].sum() / array.size),
        "n_distinct": float(min(len(values), MAX_DISTINCT)),
    }


def measure_regions(content: Volume, seg: tuple[Volume, ...]) -> tuple[Region, ...]:
    """Return a region for every class of each layer, those of its label table without a voxel too, by layer and value.

    Args:
        content: on whose grid the layers are.
        seg: label maps of uint8 or uint16.

    Raises:
        Refused("seg.dtype"): a layer is of another type.
    """
    from medloom.pipelines.stages import tally

    voxel_ml = abs(float(np.linalg.det(content.affine[:3, :3]))) / 1000
    found = []
    for number, layer in enumerate(seg):
        if layer.array.dtype not in (np.uint8, np.uint16):
            raise Refused("seg.dtype", f"layer {number} holds {layer.array.dtype}, not uint8 or uint16 classes")
        counts, boxes = tally.regions(layer.array)
        for value in sorted({*layer.labels, *np.nonzero(counts)[0].tolist()} - {0}):
            label = layer.labels.get(value) or Label(f"value {value}")
            known = value < counts.size  # a table may name classes that the type cannot hold
            voxels = int(counts[value]) if known else 0
            z0, y0, x0, z1, y1, x1 = boxes[value].tolist() if known else (0,) * 6
            found.append(Region(number, value, label, voxels, voxels * voxel_ml, (z0, y0, x0, z1, y1, x1)))
    return tuple(found)


def _named(seg: tuple[Volume, ...], regions: tuple[Region, ...]) -> tuple[Volume, ...]:
    """Return the layers with a label for every value that occurs."""
    return tuple(
        replace(layer, labels={**layer.labels, **{r.value: r.label for r in regions if r.layer == number}})
        for number, layer in enumerate(seg)
    )


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
    counts = np.bincount(luma.ravel(), minlength=256)
    share = counts[counts > 0] / counts.sum()
    mean, std = moments(np.flatnonzero(counts), counts[counts > 0])
    return {
        "mean": mean,
        "std": std,
        "entropy_bits": float(abs((share * np.log2(share)).sum())),
        "longest_side_px": float(max(height, width)),
        "shortest_side_px": float(min(height, width)),
        "is_grey": float(is_grey),
    }


def volume_digest(volume: Volume) -> str:
    """Return the sha256 of shape, dtype and voxels in canonical LPS orientation, C order: 64 hex digits."""
    return _digest(volume.canonical().array)


def voxel_digest(volume: Volume) -> str:
    """Return the sha256 of shape and values in canonical LPS orientation, whatever type holds them: 64 hex digits.

    Integers are hashed as int16 where all fit, else as int32, and other values as float32: a scan in HU gives the same
    digest stored as int16, uint16 with an offset applied, or float32. Geometry stays out: two sets may state it
    differently.
    """
    from medloom.pipelines.stages.tally import extent

    array = volume.canonical().array
    low, high = extent(array)
    kind = "<i2" if low >= -(2**15) and high < 2**15 else "<i4"
    if array.dtype.kind == "f" and not (abs(low) < 2**31 and abs(high) < 2**31 and (np.rint(array) == array).all()):
        kind = "<f4"
    digest = hashlib.sha256(f"{kind}|{array.shape}\n".encode())
    for z in range(0, len(array), SLAB):
        slab = array[z : z + SLAB]
        digest.update(np.ascontiguousarray(slab + np.float32(0) if kind == "<f4" else slab, dtype=kind).data)
    return digest.hexdigest()  # adding 0 makes -0 and 0 one value


def picture_digest(pixels_YXC: np.ndarray) -> str:
    """Return the sha256 of shape, dtype and decoded pixels: 64 hex digits."""
    return _digest(pixels_YXC)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name}|{array.shape}\n".encode())
    for plane in array:
        digest.update(np.ascontiguousarray(plane, dtype=array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
