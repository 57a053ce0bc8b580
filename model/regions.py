"""Regions: which part of a medium a draw takes, a pure function of the seed, the draw and the medium's key."""

import hashlib
from collections.abc import Callable, Sequence
from math import prod

from medloom.schemas.errors import ConfigError
from medloom.schemas.example import Box, Example

Patch = tuple[int, int, int]
Choose = Callable[[Example, str, tuple[int, ...], int], Box | None]
Roi = Patch | Choose | None


def check_roi(roi: Roi) -> Roi:
    """Return `roi`, a patch as a tuple of three integers.

    Raises:
        ConfigError: it is neither a patch in voxels nor a function.
    """
    if roi is None or callable(roi):
        return roi
    patch = tuple(roi)
    if len(patch) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in patch):
        raise ConfigError(f"roi={roi!r} is not (z, y, x) in voxels, each at least 1, nor a function that gives a box")
    return patch


def region_of(
    roi: Roi, *, seed: int, t: int, example: Example, key: str, shape: Sequence[int], is_picture: bool = False
) -> Box:
    """Return the box of a medium that draw `t` takes, half-open indices of the stored array; () for all of it.

    Args:
        roi: (z, y, x) voxels at a place that is uniform over the volume, clipped to it, and never cuts a picture; or a
            function of (example, key, shape, t) that gives a box, or None for all.
        shape: (Z, Y, X) of a volume, (Y, X) or (Y, X, C) of a picture.

    Raises:
        ConfigError: the function gave a box that is empty or not inside the medium.
    """
    extent = tuple(shape[:2] if is_picture else shape)
    if callable(roi):
        box = roi(example, key, tuple(shape), t)
        return checked_box(tuple(map(int, box)), extent, key) if box else ()
    if roi is None or is_picture or len(extent) != 3:
        return ()
    size = [min(n, most) for n, most in zip(roi, extent, strict=True)]
    free = [most - n + 1 for n, most in zip(size, extent, strict=True)]
    drawn = int.from_bytes(hashlib.blake2b(f"{seed}|{t}|{key}".encode(), digest_size=16).digest()) % prod(free)
    low = (drawn // (free[1] * free[2]), drawn // free[2] % free[1], drawn % free[2])
    return whole_or((*low, *(a + n for a, n in zip(low, size, strict=True))), extent)


def checked_box(box: Box, extent: tuple[int, ...], key: str) -> Box:
    """Return a box that lies in a medium of that extent, () when it is all of it.

    Raises:
        ConfigError: it is empty, or not inside.
    """
    low, high = box[: len(extent)], box[len(extent) :]
    if len(box) != 2 * len(extent) or not all(0 <= a < b <= n for a, b, n in zip(low, high, extent, strict=True)):
        raise ConfigError(
            f"roi chose {box} of {key}, which has the extent {extent}: a box is half-open, inside, not empty"
        )
    return whole_or(box, extent)


def whole_or(box: Box, extent: tuple[int, ...]) -> Box:
    """Return () for the box that is all of `extent`, else the box."""
    return () if box == (*(0 for _ in extent), *extent) else box
