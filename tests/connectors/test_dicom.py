"""Series become volumes with the voxels and places that their headers state, or are refused for the true reason."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medloom.connectors.dicom import SeriesRead, read_series
from medloom.schemas.medium import Picture
from medloom.schemas.volume import Volume
from tests.connectors.dicom_objects import (
    AXIAL,
    OBLIQUE,
    PET,
    SAGITTAL,
    enhanced,
    image_object,
    normal,
    slices,
    written,
)


def _read(folder: Path, datasets, order: list[int] | None = None) -> SeriesRead:
    paths = written(folder, datasets)
    return read_series([paths[i] for i in order] if order else paths)


def _volumes(series: SeriesRead) -> list[Volume]:
    assert series.refused == ()
    volumes = [stack.content for stack in series.stacks]
    assert all(isinstance(volume, Volume) for volume in volumes)
    return volumes  # type: ignore[return-value]


def _reasons(series: SeriesRead) -> list[str]:
    assert series.stacks == ()
    return [reason for _, reason, _ in series.refused]


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_every_voxel_stands_where_the_standards_equation_puts_it(tmp_path, orientation):
    datasets = slices(orientation=orientation)
    (volume,) = _volumes(_read(tmp_path, datasets))
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for z, dataset in enumerate(datasets):
        assert np.array_equal(volume.array[z], dataset.pixel_array)
        for y, x in ((0, 0), (11, 0), (0, 15), (7, 3)):  # PS3.3, equation C.7.6.2.1-1
            place = np.array(dataset.ImagePositionPatient) + row * 0.5 * x + column * 0.75 * y
            assert np.allclose(volume.affine @ [x, y, z, 1], [*place, 1], atol=1e-5)
    assert volume.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    assert volume.units == "HU"


@pytest.mark.parametrize("order", [[4, 2, 0, 1, 3], [3, 4, 1, 0, 2]])
def test_the_order_of_files_and_instance_numbers_do_not_matter(tmp_path, order):
    datasets = slices()
    for dataset, number in zip(datasets, (7, 3, 9, 1, 5), strict=True):
        dataset.InstanceNumber = number
    (volume,) = _volumes(_read(tmp_path, datasets, order))
    assert volume.array[:, 0, 0].tolist() == [0, 1000, 2000, 3000, 4000]


def test_a_stack_against_the_normal_is_turned_round(tmp_path):
    (volume,) = _volumes(_read(tmp_path, slices(step=-2.5)))
    assert volume.array[:, 0, 0].tolist() == [4000, 3000, 2000, 1000, 0]
    assert np.allclose(volume.affine[:3, 3], (10, 20, 20))
    assert np.linalg.det(volume.affine[:3, :3]) > 0


def test_a_tilted_stack_keeps_its_shear(tmp_path):
    datasets = slices()
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [10, 20 + 0.8 * k, 30 + 2.4 * k]
    (volume,) = _volumes(_read(tmp_path, datasets))
    assert np.allclose(volume.affine[:3, 2], (0, 0.8, 2.4))
    assert np.allclose(volume.affine @ [0, 0, 4, 1], [10, 23.2, 39.6, 1])


def test_a_missing_slice_is_a_gap(tmp_path):
    datasets = slices(8)
    del datasets[3]
    series = _read(tmp_path, datasets)
    assert _reasons(series) == ["dicom.gap"]
    assert series.refused[0][2] == "1 slices are missing: slices 3 and 4 are 5 mm apart, others 2.5 mm"


def test_uneven_steps_are_refused_and_small_ones_forgiven(tmp_path):
    datasets = slices(5)
    datasets[2].ImagePositionPatient = [10, 20, 30 + 5.9]
    assert _reasons(_read(tmp_path, datasets)) == ["dicom.spacing"]
    datasets[2].ImagePositionPatient = [10, 20, 30 + 5.02]
    assert len(_volumes(_read(tmp_path, datasets))) == 1


def test_a_slice_off_the_line_is_refused(tmp_path):
    datasets = slices(5)
    datasets[2].ImagePositionPatient = [13, 20, 35]
    assert _reasons(_read(tmp_path, datasets)) == ["dicom.position"]


def test_copies_are_dropped_and_rivals_refused(tmp_path):
    copies = [*slices(), *slices()[1:3]]
    (volume,) = _volumes(_read(tmp_path, copies))
    assert volume.shape == (5, 12, 16)
    (volume,) = _volumes(_read(tmp_path, [*slices(), *slices()]))
    assert volume.shape == (5, 12, 16)
    rival = slices()[2]
    rival.PixelData = bytes(len(rival.PixelData))
    assert _reasons(_read(tmp_path, [*slices(), rival])) == ["dicom.duplicate"]


def test_the_same_stored_values_with_another_rescale_are_no_copies(tmp_path):
    assert _reasons(_read(tmp_path, [*slices(), *slices(1, RescaleIntercept=5)])) == ["dicom.duplicate"]


@pytest.mark.parametrize("order", [None, [9, 0, 4, 3, 8, 1, 2, 7, 6, 5]])
def test_places_that_repeat_are_volumes_in_time(tmp_path, order):
    later = slices()
    for k, dataset in enumerate(later):
        dataset.InstanceNumber = 6 + k
        dataset.PixelData = (dataset.pixel_array + 7).astype(np.int16).tobytes()
    series = _read(tmp_path, [*slices(), *later], order)
    first, second = _volumes(series)
    assert [stack.suffix for stack in series.stacks] == ["", "-2"]
    assert np.array_equal(second.array, first.array + 7)


def test_orientations_sizes_and_echoes_of_one_series_are_parted(tmp_path):
    datasets = [
        *slices(3, InstanceNumber=9),
        *slices(4, orientation=SAGITTAL),
        *slices(2, EchoNumbers=2),
        *slices(5, PixelSpacing=[1, 1]),
    ]
    series = _read(tmp_path, datasets)
    assert [volume.shape[0] for volume in _volumes(series)] == [5, 4, 3, 2]
    assert [stack.suffix for stack in series.stacks] == ["", "-2", "-3", "-4"]
    assert [stack.plane for stack in series.stacks] == ["axial", "sagittal", "axial", "axial"]
    turned = _read(tmp_path, datasets, list(range(14))[::-1])
    assert [s.content.shape for s in turned.stacks] == [s.content.shape for s in series.stacks]  # type: ignore[union-attr]


def test_one_refused_stack_costs_no_other_and_keeps_its_suffix(tmp_path):
    scout = slices(1, orientation=SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    broken = slices(4, PixelSpacing=[1, 1])
    del broken[1]
    series = _read(tmp_path, [*scout, *slices(5), *broken, *slices(2, EchoNumbers=2)])
    assert [stack.suffix for stack in series.stacks] == ["", "-3"]
    assert sorted((part, reason) for part, reason, _ in series.refused) == [
        ("-2", "dicom.gap"),
        ("-4", "dicom.localizer"),
    ]


@pytest.mark.parametrize(
    ("dtype", "rescale", "expected"),
    [
        (np.int16, (1, -1024), "int16"),
        (np.uint16, (1, -1024), "int16"),
        (np.uint16, (1, 40000), "uint16"),
        (np.uint16, (1, -40000), "float32"),
        (np.uint16, (0.5, 0), "float32"),
        (np.uint16, (1, 0.5), "float32"),
        (np.uint8, (1, 0), "uint8"),
    ],
)
def test_values_are_rescaled_into_the_type_that_holds_them(tmp_path, dtype, rescale, expected):
    slope, intercept = rescale
    datasets = slices(2, dtype=dtype, RescaleSlope=slope, RescaleIntercept=intercept)
    top = {"int16": 4000, "uint16": 20000, "float32": 65535, "uint8": 255}[expected]
    datasets[1].PixelData = np.full((12, 16), top, dtype).tobytes()
    (volume,) = _volumes(_read(tmp_path, datasets))
    assert volume.array.dtype == expected
    truth = np.stack([d.pixel_array.astype(float) * slope + intercept for d in datasets])
    assert np.array_equal(volume.array, truth.astype(np.float32))


def test_a_slope_per_slice_gives_floats(tmp_path):
    datasets = slices(3, SOPClassUID=PET, Modality="PT", Units="BQML")
    for k, dataset in enumerate(datasets):
        dataset.RescaleSlope = 0.1 * (k + 1)
    (volume,) = _volumes(_read(tmp_path, datasets))
    truth = np.stack([d.pixel_array * float(d.RescaleSlope) for d in datasets])
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, truth, rtol=1e-6)
    assert volume.units == "Bq/ml"


def test_bits_outside_the_stored_ones_are_dropped(tmp_path):
    for representation, values in ((0, [0, 4095]), (1, [-2048, 2047])):
        datasets = slices(1, dtype=np.uint16, BitsStored=12, HighBit=11, PixelRepresentation=representation)
        stored = np.zeros((12, 16), np.uint16)
        stored[0, :2] = np.array(values) & 0xFFF
        datasets[0].PixelData = (stored | 0xA000).astype(np.uint16).tobytes()  # an old overlay
        (volume,) = _volumes(_read(tmp_path, datasets))
        assert volume.array[0, 0, :2].tolist() == values


@pytest.mark.parametrize(
    ("thickness", "step", "depth"), [(3, None, 3), (3, 2, 2), (None, 2, 2), (3, 0, 3), (None, None, 1)]
)
def test_a_single_slice_with_a_place_is_a_volume_as_deep_as_it_says(tmp_path, thickness, step, depth):
    (volume,) = _volumes(
        _read(tmp_path, slices(1, SliceThickness=thickness, SpacingBetweenSlices=step, orientation=OBLIQUE))
    )
    assert volume.shape == (1, 12, 16)
    assert np.allclose(volume.affine[:3, 2], depth * normal(OBLIQUE))


def test_slices_without_a_place_are_refused_and_a_single_one_is_a_picture(tmp_path):
    big = [image_object(np.zeros((20, 20), np.int16), ImagePositionPatient=None, InstanceNumber=k) for k in range(2)]
    assert _reasons(_read(tmp_path, big)) == ["dicom.geometry"]
    assert isinstance(_read(tmp_path, big[:1]).stacks[0].content, Picture)


def test_an_enhanced_object_is_read_by_its_functional_groups(tmp_path):
    first, second = _volumes(_read(tmp_path, [enhanced()]))
    assert first.array[:, 0, 0].tolist() == [-99, -89, -79]
    assert second.array[:, 0, 0].tolist() == [-96, -76, -56]
    row, column = np.array(SAGITTAL[:3]) * 0.5, np.array(SAGITTAL[3:]) * 0.75
    expected = np.column_stack([row, column, 4 * normal(SAGITTAL), [1, 2, 3]])
    assert np.allclose(first.affine[:3], expected)


def _packaged(name: str) -> str:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is in no installed package")
    return str(path)


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_implicit"],
)
def test_the_same_voxels_come_out_of_every_transfer_syntax(name):
    (plain,), (other,) = (_volumes(read_series([_packaged(f"{n}.dcm")])) for n in ("MR_small", name))
    assert np.array_equal(plain.array, other.array)
    assert np.array_equal(plain.affine, other.affine)


def test_pixels_that_are_not_all_there_are_truncated(tmp_path):
    series = read_series([_packaged("MR_truncated.dcm")])
    assert [reason for _, reason, _ in series.refused] == ["dicom.truncated"]
    (whole,) = slices(1)
    whole.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    data = (tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").write_bytes(data[:-1])
    assert _reasons(read_series([tmp_path / "x.dcm"])) == ["dicom.truncated"]


def test_a_broken_slice_refuses_its_stack_and_no_other(tmp_path):
    datasets = [*slices(4), *slices(2, EchoNumbers=2)]
    _read(tmp_path, datasets)
    path = tmp_path / "001.dcm"
    path.write_bytes(path.read_bytes()[:-3])
    series = read_series([tmp_path / f"{k:03d}.dcm" for k in range(6)])
    assert [reason for _, reason, _ in series.refused] == ["dicom.truncated"]
    assert [stack.content.shape for stack in series.stacks] == [(2, 12, 16)]  # type: ignore[union-attr]


def test_no_detail_tells_who_the_patient_is(tmp_path):
    rival = slices()[2]
    rival.PixelData = bytes(len(rival.PixelData))
    gap = slices(6)
    del gap[2]
    series = [_read(tmp_path, data) for data in ([*slices(), rival], gap, slices(1, ImageType=["A", "B", "LOCALIZER"]))]
    for text in (repr(s.refused) for s in series):
        assert "Doe" not in text
        assert "P1" not in text
        assert os.fspath(tmp_path) not in text


def test_cosines_of_three_digits_place_the_far_corner_right(tmp_path):
    rough = [round(0.996 * cosine, 3) for cosine in SAGITTAL]
    (stack,) = _read(tmp_path, slices(4, orientation=rough)).stacks
    (exact,) = _read(tmp_path, slices(4, orientation=SAGITTAL)).stacks
    assert np.abs(stack.content.affine[:3, :2] - exact.content.affine[:3, :2]).max() < 1e-9


def test_attributes_that_part_volumes_must_agree_together(tmp_path):
    mixed = []
    for k in range(4):
        for number, (acquisition, b) in enumerate(((1, 0), (2, 1000)) if k % 2 else ((1, 1000), (2, 0))):
            stated = {"AcquisitionNumber": acquisition, "DiffusionBValue": float(b), "InstanceNumber": number}
            mixed.append(slices(4, **stated)[k])
    for number, one in enumerate(mixed):
        one.PixelData = bytes([number]) * len(one.PixelData)
    series = _read(tmp_path, mixed)
    assert [reason for _, reason, _ in series.refused] == ["dicom.order"]


def test_uneven_steps_without_a_missing_slice_are_no_gap(tmp_path):
    made = slices(5)
    for k, one in enumerate(made):
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y, float(z) + 0.04 * (k % 2) * 5]
    assert {reason for _, reason, _ in _read(tmp_path, made).refused} <= {"dicom.spacing"}


def test_slices_of_a_few_micrometres_are_apart(tmp_path):
    fine = slices(6, PixelSpacing=[0.008, 0.008])
    for k, one in enumerate(fine):
        one.ImagePositionPatient = [0.0, 0.0, 0.008 * k]
    (stack,) = _read(tmp_path, fine).stacks
    assert stack.content.shape[0] == 6


def test_tiles_of_united_imaging_are_not_taken_for_a_slice(tmp_path):
    sheet = slices(2, ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME", "MAGNITUDE"])
    series = _read(tmp_path, sheet)
    assert (series.stacks, {reason for _, reason, _ in series.refused}) == ((), {"dicom.mosaic"})
