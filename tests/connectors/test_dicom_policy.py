"""Gaps, tilt and padding: refused or kept by default, repaired only when asked for, and recorded when they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medloom.connectors.dicom import Policy, SeriesRead, read_series
from medloom.schemas.volume import Volume
from tests.connectors.dcm2niix import converted
from tests.connectors.dicom_objects import image_object, slices, written


def _read(folder: Path, datasets, **policy) -> SeriesRead:
    return read_series(written(folder, datasets), policy=Policy(**policy))


def _volume(series: SeriesRead) -> Volume:
    assert series.refused == ()
    (stack,) = series.stacks
    assert isinstance(stack.content, Volume)
    return stack.content


def _at(depths: list[float], **elements):
    """Slices at `depths` mm; slice k holds 1000 k + a ramp."""
    datasets = slices(len(depths), **elements)
    for dataset, depth in zip(datasets, depths, strict=True):
        dataset.ImagePositionPatient = [10, 20, 30 + depth]
    return datasets


def test_a_missing_slice_is_made_between_its_neighbours(tmp_path):
    series = _read(tmp_path, _at([0, 2.5, 7.5, 10]), gaps="regularise")
    volume = _volume(series)
    assert series.stacks[0].transforms == ("regularise(gap,1)",)
    assert volume.array[:, 0, 3].tolist() == [3, 1003, 1503, 2003, 3003]
    assert volume.array.dtype == np.int16
    assert np.allclose(volume.affine[:3, 2], (0, 0, 2.5))
    assert np.allclose(volume.affine[:3, 3], (10, 20, 30))


def test_uneven_slices_are_interpolated_at_their_places_and_never_beyond_the_last(tmp_path):
    series = _read(tmp_path, _at([0, 2, 5, 9.5]), gaps="regularise")
    volume = _volume(series)
    assert volume.spacing_mm[0] == pytest.approx(2)
    assert volume.array[:, 0, 0].tolist() == [0, 1000, 1667, 2222, 2667]
    assert 30 + 2 * (volume.shape[0] - 1) <= 39.5
    assert series.stacks[0].transforms == ("regularise(gap,3)",)


def test_fractional_values_stay_fractional_when_slices_are_made(tmp_path):
    volume = _volume(_read(tmp_path, _at([0, 2.5, 7.5], RescaleSlope=0.001), gaps="regularise"))
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array[:, 0, 0], [0, 1, 1.5, 2])


def test_a_grid_that_would_be_endless_is_refused(tmp_path):
    series = _read(tmp_path, _at([0, 0.02, 500]), gaps="regularise")
    assert [reason for _, reason, _ in series.refused] == ["dicom.gap"]


@pytest.mark.parametrize(
    ("depths", "runs"),
    [
        ([0, 2.5, 7.5, 10], [2, 2]),
        ([0, 10, 15, 20], [1, 3]),
        ([0, 3, 6, 9, 14, 19, 24], [4, 3]),
        ([0, 2.5, 5, 7.5, 40], [4, 1]),
        ([0, 2.5, 5, 35, 36.25, 37.5], [3, 3]),
    ],
)
def test_runs_of_even_steps_become_volumes(tmp_path, depths, runs):
    series = _read(tmp_path, _at(depths), gaps="split")
    assert series.refused == ()
    assert [stack.content.shape[0] for stack in series.stacks] == runs  # type: ignore[union-attr]
    assert [stack.transforms for stack in series.stacks] == [
        (f"split(gap,{number}/{len(runs)})",) for number in range(1, len(runs) + 1)
    ]
    places = [stack.content.affine @ [0, 0, z, 1] for stack in series.stacks for z in range(stack.content.shape[0])]  # type: ignore[union-attr]
    assert np.allclose([place[2] - 30 for place in places], depths)


def test_gaps_are_refused_unless_a_policy_is_chosen(tmp_path):
    assert [r for _, r, _ in _read(tmp_path, _at([0, 2.5, 7.5, 10])).refused] == ["dicom.gap"]
    assert [r for _, r, _ in _read(tmp_path, _at([0, 2, 5, 9.5])).refused] == ["dicom.spacing"]


def _leaning(lean_mm: float = 0.8):
    datasets = slices(5)
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [10, 20 + lean_mm * k, 30 + 2.4 * k]
    return datasets


def test_a_leaning_stack_is_kept_exactly_or_refused(tmp_path):
    kept = _read(tmp_path, _leaning())
    assert np.allclose(_volume(kept).affine[:3, 2], (0, 0.8, 2.4))
    assert kept.stacks[0].transforms == ()
    assert [reason for _, reason, _ in _read(tmp_path, _leaning(), tilt="refuse").refused] == ["dicom.tilt"]
    upright = _read(tmp_path, slices(5), tilt="refuse")
    assert _volume(upright).shape == (5, 12, 16)


@pytest.mark.parametrize("lean_mm", [0.8, -0.8, 0.75, 3.1])
def test_an_unsheared_stack_holds_every_point_where_it_was(tmp_path, lean_mm):
    """A linear ramp over the world survives linear shifts exactly, wherever a voxel is not padded."""
    datasets = _leaning(lean_mm)
    for k, dataset in enumerate(datasets):
        y = (20 + lean_mm * k + 0.75 * np.arange(12))[:, np.newaxis]
        dataset.PixelData = np.rint(100 * y + np.arange(16) * 7 + 500 * k).astype(np.int16).tobytes()
    series = _read(tmp_path, datasets, tilt="unshear")
    volume = _volume(series)
    degrees = np.degrees(np.arctan2(abs(lean_mm), 2.4))
    assert series.stacks[0].transforms == (f"unshear({degrees:.1f})",)
    assert np.allclose(volume.affine[:3, 2], (0, 0, 2.4))
    for k, plane in enumerate(volume.array):
        y = volume.affine[1, 3] + 0.75 * np.arange(volume.shape[1])
        inside = (y >= 20 + lean_mm * k - 1e-6) & (y <= 20 + lean_mm * k + 0.75 * 11 + 1e-6)
        truth = 100 * y[inside, np.newaxis] + np.arange(16) * 7 + 500 * k
        assert inside.sum() >= 11
        assert np.abs(plane[inside] - truth).max() <= 1
        assert (plane[y < 20 + lean_mm * k - 0.75] == volume.array.min()).all()


def test_unshearing_is_what_dcm2niix_does_to_a_tilted_gantry(tmp_path):
    """Leaning the other way, dcm2niix rounds its origin to a whole row; the ramp above judges that direction."""
    datasets = [
        image_object(
            np.random.default_rng(k).integers(-1000, 1000, (24, 20)).astype(np.int16),
            ImagePositionPatient=[10, 20 - 0.8 * k, 30 + 2.4 * k],
            InstanceNumber=k + 1,
            GantryDetectorTilt="18.435",
            Manufacturer="Philips",
            SeriesNumber=1,
        )
        for k in range(5)
    ]
    paths = written(tmp_path, datasets)
    (tilted, *_) = [reference for reference in converted(paths) if "_Tilt" in reference.name]
    ours, theirs = _volume(read_series(paths, policy=Policy(tilt="unshear"))).canonical(), tilted.volume()
    assert ours.orientation == theirs.orientation
    assert np.allclose(ours.spacing_mm, theirs.spacing_mm, atol=1e-3)
    assert ours.shape[0] == theirs.shape[0]
    for z in range(5):
        for y in range(6, 18):
            place = np.linalg.inv(theirs.affine) @ ours.affine @ [0, y, z, 1]
            assert np.allclose(place[[0, 2]], (0, z), atol=1e-3)
            row = int(np.rint(place[1]))
            assert abs(place[1] - row) < 1e-3
            assert np.abs(ours.array[z, y] - theirs.array[z, row]).max() <= 1


def test_stated_padding_is_kept_or_becomes_air(tmp_path):
    datasets = slices(3, PixelPaddingValue=-2000, RescaleIntercept=-24)
    stored = datasets[1].pixel_array.copy()
    stored[0, :4] = -2000
    datasets[1].PixelData = stored.tobytes()
    kept = _read(tmp_path, datasets)
    assert _volume(kept).array[1, 0, :4].tolist() == [-2024] * 4
    assert kept.stacks[0].transforms == ()
    aired = _read(tmp_path, datasets, padding="air")
    assert aired.stacks[0].transforms == ("padding(-1024)",)
    changed = _volume(aired).array != _volume(kept).array
    assert changed.sum() == 4
    assert (_volume(aired).array[changed] == -1024).all()


def test_padding_of_other_modalities_is_left(tmp_path):
    datasets = slices(3, PixelPaddingValue=7, Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M"])
    aired = _read(tmp_path, datasets, padding="air")
    assert 7 in _volume(aired).array


def test_a_policy_is_a_value():
    assert Policy() == replace(Policy(gaps="split"), gaps="refuse")
