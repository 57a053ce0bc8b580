"""Resampled volumes have the values and places that closed forms give, and masks keep their classes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.connectors.images import encode_png
from medloom.pipelines.stages.resample import Resample, resample, resample_to
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Label, Volume, reorient

ORIGIN = Origin("scans", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)


def _rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def _affine(spacing_zyx: tuple[float, float, float], degrees: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = _rotation(degrees) * np.array(spacing_zyx[::-1])
    affine[:3, 3] = (-120.5, 33.25, 8.0)
    return affine


def _world(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = np.indices(shape)
    return np.stack([x, y, z, np.ones(shape)], axis=-1) @ affine[:3].T


def _phantom(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A function of the place alone, smooth over several voxels (wavelengths of 40 mm and more)."""
    x, y, z = np.moveaxis(_world(affine, shape), -1, 0)
    return 300 * np.cos(2 * np.pi * x / 40) + 200 * np.sin(2 * np.pi * y / 50) + 100 * np.cos(2 * np.pi * (z + x) / 60)


def _interior(array: np.ndarray) -> np.ndarray:
    return array[tuple(slice(n // 8 + 1, n - n // 8 - 1) for n in array.shape)]


@pytest.mark.parametrize("degrees", [0.0, 20.0])
@pytest.mark.parametrize(
    ("spacing_mm", "limit"), [((1.5, 1.5, 1.5), 4.0), ((4.0, 2.0, 3.0), 20.0), ((0.7, 0.9, 0.6), 4.0)]
)
def test_values_are_those_of_the_phantom_at_the_places_the_affine_names(degrees, spacing_mm, limit):
    affine = _affine((2.5, 1.0, 0.8), degrees)
    volume = Volume(_phantom(affine, (32, 70, 90)).astype(np.float32), affine)
    made = resample(volume, spacing_mm=spacing_mm)
    error = _interior(made.array - _phantom(made.affine, made.shape))
    assert np.sqrt(np.mean(error**2)) < limit  # of a signal of 265 rms
    shifted = made.affine.copy()
    shifted[:3, 3] += 0.5 * made.affine[:3, 0]
    wrong = _interior(made.array - _phantom(shifted, made.shape))
    assert np.sqrt(np.mean(wrong**2)) > limit * 0.5  # half a voxel off would show


def test_the_first_voxel_centre_stands_half_a_new_voxel_from_the_edge():
    volume = Volume(np.zeros((40, 60, 80), np.int16), _affine((2.5, 1.0, 0.8)))
    made = resample(volume, spacing_mm=(5.0, 1.5, 2.0))
    corner = volume.affine[:3, 3] - 0.5 * np.array([0.8, 1.0, 2.5])
    assert np.allclose(made.affine[:3, 3], corner + 0.5 * np.array([2.0, 1.5, 5.0]))
    assert made.spacing_mm == pytest.approx((5.0, 1.5, 2.0))
    assert made.shape == (20, 40, 32)


def _corners(volume: Volume) -> np.ndarray:
    z, y, x = volume.shape
    ends = np.array([[i, j, k, 1] for i in (-0.5, x - 0.5) for j in (-0.5, y - 0.5) for k in (-0.5, z - 0.5)])
    return ends @ volume.affine[:3].T


def test_a_shape_keeps_the_field_of_view_exactly():
    volume = Volume(np.zeros((41, 63, 77), np.int16), _affine((2.5, 1.0, 0.8), 15))
    made = resample(volume, shape=(32, 64, 64))
    assert made.shape == (32, 64, 64)
    assert np.allclose(_corners(made), _corners(volume.canonical()))


def test_a_spacing_keeps_the_field_of_view_to_half_a_voxel():
    volume = Volume(np.zeros((41, 63, 77), np.int16), _affine((2.5, 1.0, 0.8), 15))
    made = resample(volume, spacing_mm=(1.7, 1.3, 1.1))
    extents = [
        (n * s - m * t, t)
        for n, s, m, t in zip(volume.shape, volume.spacing_mm, made.shape, made.spacing_mm, strict=True)
    ]
    assert all(abs(difference) <= 0.5 * t + 1e-9 for difference, t in extents)
    assert np.allclose(_corners(made)[0], _corners(volume)[0])


@settings(deadline=None, max_examples=40)
@given(
    value=st.sampled_from([-1024, 0, 1, 3071]),
    dtype=st.sampled_from(["int16", "float32"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    spacing=st.tuples(*[st.floats(0.3, 7)] * 3),
)
def test_a_constant_stays_constant(value, dtype, shape, spacing):
    made = resample(Volume(np.full(shape, value, dtype), _affine((2.0, 1.0, 1.5))), spacing_mm=spacing)
    assert made.array.dtype == dtype
    assert (made.array == value).all()


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32"])
def test_types_are_kept_and_values_stay_in_the_range_of_the_input(dtype):
    array = np.random.default_rng(0).integers(0, 2, (8, 30, 30)).astype(dtype) * 200
    made = resample(Volume(array, _affine((2.0, 1.0, 1.0))), spacing_mm=(1.3, 0.7, 1.6))
    assert made.array.dtype == dtype
    assert made.array.min() >= 0
    assert made.array.max() <= 200


def test_the_same_grid_gives_the_same_values():
    array = np.random.default_rng(0).integers(-1000, 1000, (9, 20, 21)).astype(np.int16)
    volume = Volume(array, _affine((2.0, 1.0, 1.0)))
    for made in (resample(volume, spacing_mm=(2.0, 1.0, 1.0)), resample(volume, shape=(9, 20, 21))):
        assert np.array_equal(made.array, array)
        assert np.allclose(made.affine, volume.affine)


def test_what_the_new_grid_cannot_hold_is_gone_and_not_folded_back():
    x = np.arange(240)
    tone = 1000 * np.cos(np.pi * 0.9 * x)  # 1.8 times the Nyquist frequency of the new grid
    volume = Volume(np.tile(tone.astype(np.float32), (4, 4, 1)), np.eye(4))
    assert np.abs(_interior(resample(volume, spacing_mm=(1.0, 1.0, 2.0)).array)).max() < 50


def test_the_result_does_not_depend_on_the_stored_orientation():
    array = np.random.default_rng(0).integers(-1000, 1000, (9, 20, 31)).astype(np.int16)
    volume = Volume(array, _affine((2.0, 1.0, 1.1)))
    made = resample(volume, spacing_mm=(1.5, 1.5, 1.5))
    other = resample(reorient(volume, "SAR"), spacing_mm=(1.5, 1.5, 1.5))
    assert np.array_equal(made.array, other.array)
    assert np.allclose(made.affine, other.affine)


def test_the_native_grid_is_only_reoriented():
    tilted = _affine((2.0, 1.0, 1.1))
    tilted[1, 2] = 0.7
    volume = reorient(Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), tilted), "RAS")
    made = resample(volume)
    assert made.orientation == "LPS"
    assert np.array_equal(made.array, np.arange(60).reshape(3, 4, 5))
    assert np.allclose(made.affine, tilted)
    with pytest.raises(Refused, match=r"volume\.shear"):
        resample(volume, spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "grid",
    [
        {"spacing_mm": (0.0, 1.0, 1.0)},
        {"spacing_mm": (1.0, -1.0, 1.0)},
        {"spacing_mm": (1.0, float("nan"), 1.0)},
        {"spacing_mm": (1e-9, 1e-9, 1e-9)},
        {"shape": (0, 10, 10)},
        {"shape": (-4, 10, 10)},
        {"shape": (100_000, 100_000, 100_000)},
    ],
)
def test_impossible_grids_are_refused(grid):
    with pytest.raises(Refused, match=r"volume\.spacing"):
        resample(Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)), **grid)


def _labels(array: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    return Volume(array, np.eye(4) if affine is None else affine, units="label", kind="label", labels={1: Label("one")})


def test_a_mask_takes_the_class_with_the_largest_share():
    array = np.random.default_rng(3).integers(0, 4, (12, 20, 16)).astype(np.uint8)
    made = resample(_labels(array), spacing_mm=(3.0, 2.0, 4.0))
    blocks = array.reshape(4, 3, 10, 2, 4, 4).transpose(0, 2, 4, 1, 3, 5).reshape(4, 10, 4, -1)
    shares = np.stack([(blocks == label).sum(axis=-1) for label in range(4)])
    assert np.array_equal(made.array, shares.argmax(axis=0))  # argmax: the lower class wins a tie
    assert (made.kind, made.labels, made.units) == ("label", {1: Label("one")}, "label")


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 1.5), (2.0, 3.0, 0.6), (0.5, 0.5, 0.5)])
def test_a_mask_keeps_the_size_of_a_ball_and_invents_no_class(spacing_mm):
    affine = _affine((1.2, 1.0, 1.0))
    x, y, z = np.moveaxis(_world(affine, (50, 60, 60)) - _world(affine, (50, 60, 60))[25, 30, 30], -1, 0)
    ball = np.where(x**2 + y**2 + z**2 < 20**2, 7, 0).astype(np.uint8)
    ball[:, :, 45:][ball[:, :, 45:] == 7] = 200
    made = resample(_labels(ball, affine), spacing_mm=spacing_mm)
    assert set(np.unique(made.array)) == {0, 7, 200}
    for label in (7, 200):
        before = (ball == label).sum() * 1.2
        after = (made.array == label).sum() * np.prod(made.spacing_mm)
        assert after == pytest.approx(before, rel=0.03)


def test_a_mask_made_finer_by_whole_steps_repeats_its_voxels():
    array = np.random.default_rng(0).integers(0, 300, (3, 5, 4)).astype(np.uint16)
    made = resample(_labels(array), shape=(6, 15, 8))
    assert np.array_equal(made.array, array.repeat(2, 0).repeat(3, 1).repeat(2, 2))


def _medium(content, seg=()) -> Medium:
    return Medium(key="k", unit="u", group="g", origin=ORIGIN, content=content, seg=seg, transforms=("before",))


def test_the_stage_keeps_volume_and_masks_on_one_grid_and_says_what_it_did():
    array = np.zeros((12, 40, 40), np.uint8)
    array[2:10, 5:30, 5:30] = 1
    array[0, 0, 0] = 9
    affine = _affine((2.5, 1.0, 1.0))
    volume = Volume(np.zeros((12, 40, 40), np.int16), affine)
    medium = _medium(reorient(volume, "RAS"), seg=(reorient(_labels(array, affine), "RAS"),))
    (made,) = Resample(spacing_mm=(5.0, 2.0, 2.0))(medium)
    assert made.content.shape == made.seg[0].shape == (6, 20, 20)
    assert np.array_equal(made.content.affine, made.seg[0].affine)
    assert made.transforms == ("before", "reorient(RAS,LPS)", "resample(5,2,2)", "lost-labels(0:9)")
    (made,) = Resample(shape=(6, 20, 20))(medium)
    assert made.transforms[1:] == ("reorient(RAS,LPS)", "resize(6,20,20)", "lost-labels(0:9)")
    (made,) = Resample()(_medium(volume))
    assert made.transforms == ("before",)


def test_pictures_pass_untouched():
    medium = _medium(encode_png(np.zeros((20, 20), np.uint8)))
    (made,) = Resample(spacing_mm=(1.0, 1.0, 1.0))(medium)
    assert made is medium


def test_spacing_and_shape_together_are_the_users_mistake():
    with pytest.raises(ConfigError, match="both"):
        Resample(spacing_mm=(1.0, 1.0, 1.0), shape=(2, 2, 2))


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAL"])
def test_what_was_resampled_goes_back_to_exactly_the_native_grid(orientation):
    affine = _affine((2.5, 1.0, 0.8), 20)
    native = reorient(Volume(_phantom(affine, (32, 70, 90)).astype(np.int16), affine), orientation)
    back = resample_to(resample(native, spacing_mm=(1.5, 1.5, 1.5)), affine=native.affine, shape=native.shape)
    assert back.shape == native.shape
    assert np.array_equal(back.affine, native.affine)
    error = _interior(back.array.astype(float) - native.array)
    assert np.sqrt(np.mean(error**2)) < 8  # of a signal of 265 rms


def test_a_mask_goes_back_to_the_native_grid():
    affine = _affine((2.5, 0.7, 0.7))
    x, y, z = np.moveaxis(_world(affine, (24, 80, 80)) - _world(affine, (24, 80, 80))[12, 40, 40], -1, 0)
    ball = reorient(_labels(np.where(x**2 + y**2 + z**2 < 18**2, 3, 0).astype(np.uint8), affine), "RPI")
    back = resample_to(resample(ball, spacing_mm=(1.5, 1.5, 1.5)), affine=ball.affine, shape=ball.shape)
    both = ((back.array == 3) & (ball.array == 3)).sum()
    assert 2 * both / ((back.array == 3).sum() + (ball.array == 3).sum()) > 0.97
    assert (back.kind, back.labels) == ("label", ball.labels)


def test_a_mask_of_a_part_is_background_outside():
    part = _labels(np.ones((2, 3, 4), np.uint8), _affine((2.0, 1.0, 1.0)))
    whole = part.affine.copy()
    whole[:3, 3] -= whole[:3, :3] @ (5, 6, 7)
    made = resample_to(part, affine=whole, shape=(20, 21, 22))
    expected = np.zeros((20, 21, 22))
    expected[7:9, 6:9, 5:9] = 1
    assert np.array_equal(made.array, expected)


def test_a_grid_whose_axes_are_not_parallel_is_refused():
    volume = Volume(np.zeros((10, 20, 20), np.int16), _affine((2.0, 1.0, 1.0)))
    with pytest.raises(Refused, match=r"volume\.oblique"):
        resample_to(volume, affine=_affine((2.0, 1.0, 1.0), 3), shape=(10, 20, 20))
    with pytest.raises(Refused, match=r"volume\.spacing"):
        resample_to(volume, affine=volume.affine, shape=(0, 20, 20))


def test_a_tilted_stack_goes_to_a_grid_of_the_same_tilt():
    tilted = _affine((2.0, 1.0, 1.0))
    tilted[1, 2] = 0.7
    volume = Volume(np.random.default_rng(0).integers(0, 99, (10, 20, 20)).astype(np.int16), tilted)
    made = resample_to(volume, affine=tilted, shape=(10, 20, 20))
    assert np.array_equal(made.array, volume.array)


def _speckled() -> np.ndarray:
    array = np.zeros((12, 40, 40), np.uint8)
    array[2:10, 5:30, 5:30] = 1
    array[0, 0, 0] = 9
    array[6, 17, 17:19] = 4  # inside of class 1: at most 2 of 24 voxels
    array[11, 38, 38] = array[11, 39, 39] = 6  # most of it in one new voxel
    array[11, 39, 37] = 6
    return array


def test_keep_small_gives_a_class_that_would_vanish_the_voxel_it_has_most_of():
    medium = _medium(Volume(np.zeros((12, 40, 40), np.int16), np.eye(4)), seg=(_labels(_speckled()),))
    (made,) = Resample(shape=(4, 10, 10), keep_small=True)(medium)
    array = made.seg[0].array
    assert np.unique(array).tolist() == [0, 1, 4, 6, 9]
    assert np.argwhere(array == 9).tolist() == [[0, 0, 0]]
    assert np.argwhere(array == 4).tolist() == [[2, 4, 4]]
    assert np.argwhere(array == 6).tolist() == [[3, 9, 9]]
    assert made.transforms[-1] == "kept-small(0:4,6,9)"
    (without,) = Resample(shape=(4, 10, 10))(medium)
    assert without.transforms[-1] == "lost-labels(0:4,6,9)"
    assert (np.unique(without.seg[0].array) == [0, 1]).all()


def test_keep_small_leaves_another_class_its_last_voxel():
    array = np.zeros((2, 2, 2), np.uint8)
    array[:] = [[[1, 1], [1, 1]], [[1, 1], [2, 3]]]
    medium = _medium(Volume(np.zeros((2, 2, 2), np.int16), np.eye(4)), seg=(_labels(array),))
    (made,) = Resample(shape=(1, 1, 1), keep_small=True)(medium)
    assert made.seg[0].array.tolist() == [[[1]]]
    assert made.transforms[-1] == "lost-labels(0:2,3)"


def test_a_mask_is_never_averaged_and_never_of_a_wide_type():
    volume = Volume(np.zeros((4, 4, 4), np.int16), np.eye(4))
    with pytest.raises(Refused, match=r"seg\.dtype"):
        list(Resample(shape=(2, 2, 2))(_medium(volume, seg=(replace(volume, kind="label"),))))
    with pytest.raises(Refused, match=r"seg\.kind"):
        list(Resample(shape=(2, 2, 2))(_medium(volume, seg=(volume,))))


def test_values_that_are_no_numbers_are_refused():
    array = np.zeros((4, 4, 4), np.float32)
    array[1, 2, 3] = np.nan
    with pytest.raises(Refused, match=r"measure\.not_finite: 1 voxels"):
        resample(Volume(array, np.eye(4)), shape=(2, 2, 2))


def test_nearest_labels_are_torchs():
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(1).integers(0, 9, (13, 50, 61)).astype(np.uint8)
    medium = _medium(Volume(np.zeros(array.shape, np.int16), np.eye(4)), seg=(_labels(array),))
    (made,) = Resample(shape=(32, 256, 25), labels="nearest")(medium)
    reference = torch.nn.functional.interpolate(torch.from_numpy(array)[None, None].float(), size=(32, 256, 25))
    assert np.array_equal(made.seg[0].array, reference[0, 0].numpy())


def test_the_kernel_stands_in_the_transforms_unless_it_is_the_default():
    medium = _medium(Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)))
    (made,) = Resample(shape=(2, 2, 2), kernel="lanczos3")(medium)
    assert made.transforms[-1] == "resize(2,2,2,lanczos3)"
    with pytest.raises(ConfigError, match="knows no kernel"):
        Resample(kernel="spline")
