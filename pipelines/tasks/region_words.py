"""Numbers and words for a class of a scan's masks: where its box is, how large it is, on which side of what.

Everything here follows from a box, a volume and the affine; nothing is guessed. World is LPS in mm: x grows to the
patient's left, y to posterior, z to superior. Boxes are half-open indices (z0, y0, x0, z1, y1, x1) of the stored array,
and reach from edge to edge of voxels: from z0 - 0.5 to z1 - 0.5 in coordinates of voxel centres.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

import numpy as np

from medloom.pipelines.unit import MediumView
from medloom.schemas.volume import Label, Side, orientation_of

Box3 = tuple[int, int, int, int, int, int]
THOUSANDTHS = 1000
_DIRECTIONS = {
    "L": "left", "R": "right", "P": "posterior", "A": "anterior", "S": "superior", "I": "inferior",
}  # fmt: skip
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}
_BEYOND = (  # of each world axis: what lies lower, what lies higher
    ("to the patient's right of", "to the patient's left of"),
    ("anterior to", "posterior to"),
    ("inferior to", "superior to"),
)
_EDGE_MM = 1e-6  # what rounding may make of two faces that are the same
# Structures that everyone has two of: without a side, the two are one class.
PAIRED = frozenset((
    "adrenal gland", "anterior eyeball", "atrial appendage", "breast", "carotid artery", "clavicle", "cochlea",
    "common carotid artery", "eye", "femoral head", "femur", "gluteus maximus", "gluteus medius", "gluteus minimus",
    "heart atrium", "heart ventricle", "hip bone", "humerus", "iliac artery", "iliac vein", "iliopsoas muscle",
    "kidney", "lacrimal gland", "lung", "lung lower lobe", "lung upper lobe", "optic nerve", "parotid gland",
    "posterior eyeball", "renal artery", "renal vein", "scapula", "subclavian artery", "submandibular gland",
))  # fmt: skip
_NUMBERED = re.compile(r"(?:vertebra|rib) [A-Z]?[0-9]+")


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a stored volume are.

    Attributes:
        shape: (Z, Y, X).
        affine: (4, 4), voxel (x, y, z) to LPS mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def of(cls, medium: MediumView) -> "Grid | None":
        """Return the grid of a volume; None for a picture, or where the index keeps no affine."""
        if len(medium.shape) != 3 or len(medium.affine) != 16:
            return None
        z, y, x = medium.shape
        return cls((z, y, x), np.asarray(medium.affine, float).reshape(4, 4))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(Z, Y, X) distance between neighbouring voxel centres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)


def spoken(label: Label) -> str:
    """Return a class as it is said: "left kidney"."""
    return f"{label.side} {label.name}".strip()


def the(label: Label) -> str:
    """Return a class as a sentence names it: "the left kidney", "vertebra L1", "the kidney of either side"."""
    if is_both_sides(label):
        return f"the {label.name} of either side"
    return spoken(label) if _NUMBERED.fullmatch(label.name) else f"the {spoken(label)}"


def none_of(label: Label) -> str:
    """Return the words that say that a class is not there: "there is no left kidney"."""
    return f"there {'are' if label.name.endswith('muscles') else 'is'} no {spoken(label)}"


def capital(words: str) -> str:
    """Return words as they begin a sentence; the rest keeps its case ("Vertebra L1")."""
    return words[:1].upper() + words[1:]


def is_both_sides(label: Label) -> bool:
    """Whether a class holds the left and the right of a structure that everyone has two of."""
    return not label.side and label.name in PAIRED


def corners_mm(box: Sequence[int], grid: Grid) -> np.ndarray:
    """Return the corners of a box, (8, 3) LPS mm, at the edges of its voxels."""
    z0, y0, x0, z1, y1, x1 = (index - 0.5 for index in box)
    voxels = np.array([(x, y, z, 1.0) for x, y, z in product((x0, x1), (y0, y1), (z0, z1))])
    return cast(np.ndarray, (voxels @ grid.affine.T)[:, :3])


def box_mm(box: Sequence[int], grid: Grid) -> tuple[float, ...]:
    """Return the smallest upright box of the world around a box: (x0, y0, z0, x1, y1, z1) in LPS mm.

    It is the box itself where the voxels' axes are those of the world, and larger where they are oblique.
    """
    corners = corners_mm(box, grid)
    return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def centre_mm(box: Sequence[int], grid: Grid) -> tuple[float, float, float]:
    """Return the centre of a box in LPS mm; it is no centre of mass, and may lie outside of what the box encloses."""
    x, y, z = corners_mm(box, grid).mean(axis=0).tolist()
    return x, y, z


def extents_mm(box: Sequence[int], grid: Grid) -> tuple[float, float, float]:
    """Return the (Z, Y, X) lengths of a box along the axes of the array, edge to edge, in mm."""
    z, y, x = (
        float(size * mm) for size, mm in zip(np.subtract(box[3:], box[:3]).tolist(), grid.spacing_mm, strict=True)
    )
    return z, y, x


def longest_mm(box: Sequence[int], grid: Grid) -> float:
    """Return the longest side of a box in mm."""
    return max(extents_mm(box, grid))


def touches_edge(box: Sequence[int], grid: Grid) -> bool:
    """Whether a box reaches the end of the array along an axis, so that what it encloses may go on outside."""
    return any(low <= 0 for low in box[:3]) or any(high >= n for high, n in zip(box[3:], grid.shape, strict=True))


def overlap(box: Sequence[int], other: Sequence[int]) -> float:
    """Return the intersection of two boxes over their union, in voxels, 0 to 1."""
    low, high = np.maximum(box[:3], other[:3]), np.minimum(box[3:], other[3:])
    common = float(np.prod(np.maximum(high - low, 0)))
    sizes = sum(float(np.prod(np.subtract(b[3:], b[:3]))) for b in (box, other))
    return common / (sizes - common) if sizes > common else 0.0


def relations(box: Sequence[int], other: Sequence[int], grid: Grid) -> tuple[str, ...]:
    """Return how `box` lies to `other`, of "superior to", "inferior to", "anterior to", "posterior to", "to the
    patient's left of", "to the patient's right of": those in which all of the one is beyond all of the other.
    """
    mine, theirs = box_mm(box, grid), box_mm(other, grid)
    found = []
    for axis in (2, 1, 0):
        lower, higher = _BEYOND[axis]
        if mine[3 + axis] <= theirs[axis] + _EDGE_MM:
            found.append(lower)
        elif mine[axis] >= theirs[3 + axis] - _EDGE_MM:
            found.append(higher)
    return tuple(found)


def field_side(box: Sequence[int], grid: Grid) -> Side:
    """Return in which half of the field of view a box lies as a whole, as the patient has sides; "" when in both.

    It says nothing of anatomy: the field need not be centred on the body. An organ's side is `Label.side`.
    """
    middle = centre_mm((0, 0, 0, *grid.shape), grid)[0]
    low, *_ = box_mm(box, grid)
    high = box_mm(box, grid)[3]
    if low >= middle - _EDGE_MM:
        return "left"
    return "right" if high <= middle + _EDGE_MM else ""


def part_of_field(box: Sequence[int], grid: Grid) -> str:
    """Return which part of the field of view holds the centre of a box: "left posterior superior", or "central".

    The field is cut into thirds along each axis of the array, which is named by the nearest direction of the patient.
    """
    words = {}
    letters = orientation_of(grid.affine)  # of x, y, z
    for axis, letter in zip((2, 1, 0), letters, strict=True):
        place = (box[axis] + box[axis + 3]) / (2 * grid.shape[axis])
        if place < 1 / 3:
            words[_axis_of(letter)] = _DIRECTIONS[_OPPOSITE[letter]]
        elif place > 2 / 3:
            words[_axis_of(letter)] = _DIRECTIONS[letter]
    return " ".join(words[axis] for axis in sorted(words)) or "central"


def _axis_of(letter: str) -> int:
    return "LRPASI".index(letter) // 2


def box_words(box: Sequence[int], shape: Sequence[int]) -> str:
    """Return a box as text, "[z0, y0, x0, z1, y1, x1]" in thousandths of each axis, which holds for every grid that the
    volume is resampled to; ends stay half-open.
    """
    sizes = (*shape, *shape)
    return f"[{', '.join(str(round(THOUSANDTHS * at / n)) for at, n in zip(box, sizes, strict=True))}]"


def volume_words(volume_ml: float) -> str:
    """Return a volume to three digits, "1,520 mL", "12.3 mL", "0.042 mL"."""
    return f"{three_digits(volume_ml)} mL"


def length_words(length_mm: float) -> str:
    """Return a length to three digits, "182 mm", "4.5 mm"."""
    return f"{three_digits(length_mm)} mm"


def three_digits(value: float) -> str:
    """Return a positive number rounded to three significant digits, without an exponent."""
    digits = 2 - int(np.floor(np.log10(value)))
    rounded = round(value, digits)
    text = f"{rounded:,.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
