from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes

from medloom.schemas.errors import Refused
from medloom.schemas.volume import Volume, orientation_of, reorient

CODES = ["".join(c) for pair in permutations(("LR", "PA", "SI")) for c in product(*pair)]
SIZES = (3, 4, 5)  # Z, Y, X: no two alike, so that a swapped axis shows


def volume(affine: np.ndarray) -> Volume:
    return Volume(np.arange(60, dtype=np.int16).reshape(SIZES), affine)


def world(of: Volume) -> dict[int, tuple[float, float, float]]:
    """Position of each voxel by its value: affine @ [x, y, z, 1], written out voxel by voxel."""
    found = {}
    for z, y, x in np.ndindex(of.array.shape):
        position = of.affine @ np.array([x, y, z, 1.0])
        found[int(of.array[z, y, x])] = tuple(np.round(position[:3], 6))
    return found


def affine_of(code: str, *, tilt: float = 0.0) -> np.ndarray:
    """An affine whose voxel axes x, y, z grow towards the letters of `code`, a little tilted."""
    directions = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(code):
        row, sign = directions[letter]
        affine[row, axis] = sign * (0.7, 0.9, 2.5)[axis]
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine[:3, 3] = (-100, 20, 7)
    return turn @ affine


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("code", CODES)
def test_reorienting_keeps_the_world_position_of_every_voxel(code):
    start = volume(affine_of("LPS", tilt=0.2))
    turned = reorient(start, code)
    assert turned.orientation == code
    assert world(turned) == world(start)
    assert np.shares_memory(turned.array, start.array)


@pytest.mark.parametrize("code", CODES)
def test_the_canonical_form_of_any_orientation_is_lps(code):
    start = volume(affine_of(code, tilt=0.1))
    assert start.orientation == code
    turned = start.canonical()
    assert turned.orientation == "LPS"
    assert world(turned) == world(start)
    back = reorient(turned, code)
    assert np.array_equal(back.array, start.array)
    assert np.allclose(back.affine, start.affine, atol=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9), st.sampled_from(CODES))
def test_any_invertible_affine_keeps_its_voxels_in_place(numbers, code):
    affine = np.eye(4)
    affine[:3, :3] = np.array(numbers).reshape(3, 3)
    if abs(np.linalg.det(affine[:3, :3])) < 1e-3:
        return
    start = volume(affine)
    assert world(reorient(start, code)) == world(start)
    assert np.allclose(sorted(reorient(start, code).spacing_mm), sorted(start.spacing_mm))


@pytest.mark.parametrize("code", CODES)
def test_letters_agree_with_nibabel(code):
    affine = affine_of(code, tilt=0.3)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # nibabel's world is RAS
    assert "".join(aff2axcodes(ras)) == orientation_of(affine)


@pytest.mark.parametrize("code", ["", "LP", "LLS", "LRS", "lps", "LPSA", "XYZ"])
def test_what_is_no_orientation_is_refused(code):
    with pytest.raises(ValueError, match="is not one letter of each"):
        reorient(volume(np.eye(4)), code)


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.zeros((2, 2), np.int16), np.eye(4), "volume.shape"),
        (np.zeros((0, 2, 2), np.int16), np.eye(4), "volume.shape"),
        (np.zeros((2, 2, 2), np.float64), np.eye(4), "volume.dtype"),
        (np.zeros((2, 2, 2), np.int16), np.zeros((4, 4)), "volume.affine"),
        (np.zeros((2, 2, 2), np.int16), np.full((4, 4), np.nan), "volume.affine"),
        (np.zeros((2, 2, 2), np.int16), np.eye(3), "volume.affine"),
    ],
)
def test_what_is_no_volume_is_refused_with_its_reason(array, affine, reason):
    with pytest.raises(Refused) as refused:
        Volume(array, affine)
    assert refused.value.reason == reason
