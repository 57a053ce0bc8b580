"""Volume: a 3-D array with its geometry; the one place that knows axis order.

Arrays are (Z, Y, X) = (slice, row, column). `affine @ [x, y, z, 1]` is the LPS position in mm of the centre of voxel
`array[z, y, x]`, as in DICOM PS3.3 C.7.6.2.1.1. Spacings and shapes that the project shows are (Z, Y, X) too.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medloom.schemas.errors import Refused

Kind = Literal["intensity", "label"]
Side = Literal["", "left", "right"]
DTYPES = ("int16", "uint16", "uint8", "float32")
MAX_VOXELS = 2**31  # 4 GiB of int16: above it a single array stops being one unit of work


@dataclass(frozen=True)
class Label:
    """What a value of a label map stands for.

    Attributes:
        name: of the class, in one vocabulary for all sources, without its side ("kidney").
        side: the patient's, of a structure that occurs twice.
        stated: the name as the source writes it ("kidney_left").
    """

    name: str
    side: Side = ""
    stated: str = ""


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image or label map.

    Attributes:
        array: (Z, Y, X), one of `DTYPES`.
        affine: (4, 4) float64, voxel (x, y, z) to LPS mm at voxel centres; it may hold shear (a tilted stack).
        units: what a value of 1 means: "HU", "label", "arbitrary", or a UCUM code.
        kind: "intensity", or "label" when values are classes and must not be averaged.
        labels: what each value stands for, of `kind="label"`; 0 is background.
    """

    array: np.ndarray
    affine: np.ndarray
    units: str = "arbitrary"
    kind: Kind = "intensity"
    labels: dict[int, Label] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape:
            raise Refused("volume.shape", f"an array of shape {self.array.shape} is not a non-empty (Z, Y, X)")
        if self.array.dtype.name not in DTYPES:
            raise Refused("volume.dtype", f"values are {self.array.dtype}; stored are {', '.join(DTYPES)}")
        if self.array.size > MAX_VOXELS:
            raise Refused("volume.size", f"{self.array.shape} holds more than {MAX_VOXELS} voxels")
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise Refused("volume.affine", "the affine is not a finite, invertible 4x4 matrix")
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) in voxels."""
        z, y, x = self.array.shape
        return z, y, x

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(Z, Y, X) distance between neighbouring voxel centres, along the array's axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def orientation(self) -> str:
        """Three letters for the directions in which x, y and z grow, of L/R, P/A, S/I ("LPS" for an axial CT)."""
        return orientation_of(self.affine)

    def canonical(self) -> "Volume":
        """The same voxels with axes permuted and flipped to the nearest "LPS", as a view; the affine stays exact."""
        return reorient(self, "LPS")


_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))


def orientation_of(affine: np.ndarray) -> str:
    """Return the three letters of the directions in which x, y and z of `affine` grow, nearest world axes."""
    letters = [""] * 3
    for axis, world, sign in _nearest_axes(affine):
        letters[axis] = _LETTERS[world][0 if sign > 0 else 1]
    return "".join(letters)


def reorient(volume: Volume, orientation: str) -> Volume:
    """Return `volume` with its axes permuted and flipped so that x, y, z grow towards `orientation`, e.g. "RAS".

    A view of the same voxels; every voxel keeps its world position exactly.

    Raises:
        ValueError: `orientation` is not one letter of each pair L/R, P/A, S/I.
    """
    wanted = []
    for letter in orientation:
        pairs = [(world, 1 if pair[0] == letter else -1) for world, pair in enumerate(_LETTERS) if letter in pair]
        wanted.extend(pairs)
    if len(orientation) != 3 or sorted(world for world, _ in wanted) != [0, 1, 2]:
        raise ValueError(f"orientation {orientation!r} is not one letter of each of L/R, P/A, S/I")
    have = {world: (axis, sign) for axis, world, sign in _nearest_axes(volume.affine)}
    transform = np.zeros((4, 4))
    transform[3, 3] = 1
    order, flips = [], []
    sizes = volume.array.shape[::-1]
    for new_axis, (world, sign) in enumerate(wanted):
        axis, have_sign = have[world]
        flip = have_sign != sign
        transform[axis, new_axis] = -1 if flip else 1
        transform[axis, 3] = sizes[axis] - 1 if flip else 0
        order.append(axis)
        flips.append(flip)
    array_xyz = volume.array.transpose(2, 1, 0).transpose(order)
    array_xyz = array_xyz[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    return replace(volume, array=array_xyz.transpose(2, 1, 0), affine=volume.affine @ transform)


def _nearest_axes(affine: np.ndarray) -> list[tuple[int, int, int]]:
    """Match voxel axes with world axes, largest cosine first: [(voxel axis, world axis, sign)], each used once."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    pairs = sorted((-abs(directions[w, a]), a, w) for a in range(3) for w in range(3))
    found: list[tuple[int, int, int]] = []
    for _, axis, world in pairs:
        if all(axis != a and world != w for a, w, _ in found):
            found.append((axis, world, 1 if directions[world, axis] >= 0 else -1))
    return found
