"""Faces: whether a person's face might be rendered from a scan, so that a curator knows what would leave the house.

Careful by design: "none" only where header or voxels say that no head is in it, "possible" wherever they leave it open.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medloom.schemas.medium import Face, Medium, Picture
from medloom.schemas.volume import Volume

TRUNK = ("abdomen", "breast", "chest", "heart", "pelvis")
LIMBS = ("ankle", "arm", "elbow", "extremity", "foot", "hand", "hip", "knee", "leg", "wrist")
SCANS = ("CT", "MR", "PT")  # modalities that hold the skin, from which a face is rendered

CELL_MM, SLICE_MM = 2.5, 8.0  # of the coarse grid that is looked at, within slices and between them
SKIN_HU, BONE_HU = -300.0, 300.0
MOST_OF_A_HEAD_CM2 = 400.0  # an axial slice of a head has at most about 300 (200 mm x 190 mm), of an adult trunk 500
BRAIN_CM2 = (60.0, 300.0)  # what a skull encloses in an axial slice
SKULL_MM = 16.0  # of such slices that make a head
FULL = 0.8  # share of each edge of a slice beyond which the body goes on
CORNERS, EMPTY = 12, 0.1  # a corner's side is this part of a slice's; share of it that may hold anything


@dataclass(frozen=True)
class FaceStatus:
    """Say of volumes of CT, MR and PT whether a face might be told from them; pictures are not judged."""

    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        """Give the one medium back with its `face`."""
        if isinstance(medium.content, Picture) or medium.modality not in SCANS:
            yield medium
            return
        face = face_status(medium.content, modality=medium.modality, body_part=medium.body_part)
        if face == "possible" and "features_removed" in medium.stated:
            face = "removed"
        yield replace(medium, face=face)


def face_status(volume: Volume, *, modality: str, body_part: str) -> Face:
    """Return "none" where no face can be in a volume, else "possible".

    A limb is believed of its header unless a CT shows a skull. A trunk is believed where most slices are larger than a
    head, and a scan of an unknown part where all of them are: a slice through the neck looks like one through a knee.

    Args:
        modality: one of `SCANS`.
        body_part: as the header states it, in our vocabulary, "" when not known.
    """
    if body_part in ("head", "neck"):
        return "possible"
    is_hu = modality == "CT" and volume.units == "HU"
    coarse = _coarse(volume)
    if is_hu and _has_skull(coarse):
        return "possible"
    if body_part in LIMBS:
        return "none"
    is_trunk = body_part in TRUNK
    skin = SKIN_HU if is_hu else _between(coarse.highest)
    no_heads = _no_heads(coarse.highest > skin, coarse.cell_cm2, sure=is_hu or is_trunk)
    enough = 0.5 if is_trunk else 1.0
    return "none" if len(no_heads) and no_heads.mean() >= enough else "possible"


@dataclass(frozen=True, eq=False)
class _Coarse:
    """Axial slices of a volume by cells: the highest value in each, (Z, Y, X), and the size of a cell.

    Attributes:
        step_mm: between slices.
        cell_cm2: area of a cell.
    """

    highest: np.ndarray
    step_mm: float
    cell_cm2: float


def _coarse(volume: Volume) -> _Coarse:
    upright = volume.canonical()
    nz, ny, nx = (max(1, round(size / mm)) for mm, size in zip(upright.spacing_mm, _SIZES, strict=True))
    slices = upright.array[::nz]
    height, width = slices.shape[1] // ny * ny, slices.shape[2] // nx * nx
    if not height or not width:  # thinner than a cell
        ny, nx, (height, width) = 1, 1, slices.shape[1:]
    cells = slices[:, :height, :width].reshape(len(slices), height // ny, ny, width // nx, nx).max(axis=(2, 4))
    z_mm, y_mm, x_mm = upright.spacing_mm
    return _Coarse(cells, z_mm * nz, y_mm * ny * x_mm * nx / 100)


_SIZES = (SLICE_MM, CELL_MM, CELL_MM)


def _between(values: np.ndarray) -> float:
    """Return the level that parts body from background where values have no scale: Otsu's (IEEE TSMC 9, 1979)."""
    low, high = (float(v) for v in np.nanpercentile(values, (0, 99)))
    counts, edges = np.histogram(values[np.isfinite(values)].clip(low, high), bins=256, range=(low, max(high, low + 1)))
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * middles).cumsum()
    above = counts.sum() - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1 + np.argmax(np.nan_to_num(apart))])


def _has_skull(coarse: _Coarse) -> bool:
    """Whether bone encloses what may be a brain in slices that follow each other."""
    low, high = BRAIN_CM2
    bone = coarse.highest > BONE_HU
    enclosed = np.array([(_filled(plane) & ~plane).sum() * coarse.cell_cm2 for plane in bone])
    runs = "".join("x" if low <= area <= high else " " for area in enclosed).split()
    needed = max(1, min(len(enclosed), round(SKULL_MM / coarse.step_mm)))
    return max(map(len, runs), default=0) >= needed


def _no_heads(body: np.ndarray, cell_cm2: float, *, sure: bool) -> np.ndarray:
    """Return of each slice (Y, X) that shows anything whether it is no slice of a head.

    It is none when it is larger than a head, or when the body goes on beyond all edges and no skin is in sight. Where
    neither values nor header make it `sure`, a noisy or a phase image of a head fills its frame just so: then the
    corners must be empty.
    """
    found = []
    for plane in body:
        is_large = _filled(plane).sum() * cell_cm2 > MOST_OF_A_HEAD_CM2
        if sure:
            edges = (plane[0], plane[-1], plane[:, 0], plane[:, -1])
            found.append(is_large or all(edge.mean() >= FULL for edge in edges))
        else:
            found.append(is_large and _corners(plane).mean() <= EMPTY)
    shown = body.any(axis=(1, 2))
    return np.array(found, dtype=bool)[shown]


def _corners(plane: np.ndarray) -> np.ndarray:
    height, width = (max(1, side // CORNERS) for side in plane.shape)
    sides = np.concatenate([plane[:, :width], plane[:, -width:]], axis=1)
    return np.concatenate([sides[:height], sides[-height:]])


def _filled(plane: np.ndarray) -> np.ndarray:
    """Return a mask (Y, X) with its holes filled."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(plane), dtype=bool)
