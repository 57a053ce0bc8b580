"""Series become volumes with the voxels and places that their headers state, or are refused for the true reason."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medloom.connectors.dicom import SeriesRead, read_series
from medloom.connectors.images import decode_picture
from medloom.schemas.medium import Picture
from medloom.schemas.volume import Volume

CT, MR, PET, SC, ENHANCED_CT = (
    f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "128", "7", "2.1")
)  # fmt: skip
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)


def _dataset(pixels: np.ndarray, **elements) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    bits = 8 * pixels.dtype.itemsize
    defaults = {
        "SOPClassUID": CT, "SOPInstanceUID": generate_uid(), "SeriesInstanceUID": "1.2.3", "Modality": "CT",
        "PatientID": "P1", "PatientName": "Doe^Jane", "Rows": shape[-2], "Columns": shape[-1],
        "SamplesPerPixel": 3 if colour else 1, "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PlanarConfiguration": 0,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "RescaleSlope": 1, "RescaleIntercept": 0,
        "PixelSpacing": [0.75, 0.5], "ImageOrientationPatient": list(AXIAL), "SliceThickness": 99,
        "SpacingBetweenSlices": 99, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    for name, value in {**defaults, **elements}.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    return dataset


def _normal(orientation) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def _slices(count: int = 5, step: float = 2.5, orientation=AXIAL, dtype=np.int16, **elements) -> list[FileDataset]:
    """A series whose slice k holds the value 100 k + a ramp, `step` mm apart along its normal from (10, 20, 30)."""
    made = []
    for k in range(count):
        pixels = (np.arange(12 * 16).reshape(12, 16) + 1000 * k).astype(dtype)
        place = np.array([10.0, 20.0, 30.0]) + k * step * _normal(orientation)
        fields = {"ImagePositionPatient": list(place), "ImageOrientationPatient": list(orientation)}
        made.append(_dataset(pixels, **{**fields, "InstanceNumber": k + 1, **elements}))
    return made


def _read(folder: Path, datasets, order: list[int] | None = None) -> SeriesRead:
    paths = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:03d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
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
    datasets = _slices(orientation=orientation)
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
    datasets = _slices()
    for dataset, number in zip(datasets, (7, 3, 9, 1, 5), strict=True):
        dataset.InstanceNumber = number
    (volume,) = _volumes(_read(tmp_path, datasets, order))
    assert volume.array[:, 0, 0].tolist() == [0, 1000, 2000, 3000, 4000]


def test_a_stack_against_the_normal_is_turned_round(tmp_path):
    (volume,) = _volumes(_read(tmp_path, _slices(step=-2.5)))
    assert volume.array[:, 0, 0].tolist() == [4000, 3000, 2000, 1000, 0]
    assert np.allclose(volume.affine[:3, 3], (10, 20, 20))
    assert np.linalg.det(volume.affine[:3, :3]) > 0


def test_a_tilted_stack_keeps_its_shear(tmp_path):
    datasets = _slices()
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [10, 20 + 0.8 * k, 30 + 2.4 * k]
    (volume,) = _volumes(_read(tmp_path, datasets))
    assert np.allclose(volume.affine[:3, 2], (0, 0.8, 2.4))
    assert np.allclose(volume.affine @ [0, 0, 4, 1], [10, 23.2, 39.6, 1])


def test_a_missing_slice_is_a_gap(tmp_path):
    datasets = _slices(8)
    del datasets[3]
    series = _read(tmp_path, datasets)
    assert _reasons(series) == ["dicom.gap"]
    assert series.refused[0][2] == "1 slices are missing: slices 3 and 4 are 5 mm apart, others 2.5 mm"


def test_uneven_steps_are_refused_and_small_ones_forgiven(tmp_path):
    datasets = _slices(5)
    datasets[2].ImagePositionPatient = [10, 20, 30 + 5.9]
    assert _reasons(_read(tmp_path, datasets)) == ["dicom.spacing"]
    datasets[2].ImagePositionPatient = [10, 20, 30 + 5.02]
    assert len(_volumes(_read(tmp_path, datasets))) == 1


def test_a_slice_off_the_line_is_refused(tmp_path):
    datasets = _slices(5)
    datasets[2].ImagePositionPatient = [13, 20, 35]
    assert _reasons(_read(tmp_path, datasets)) == ["dicom.position"]


def test_copies_are_dropped_and_rivals_refused(tmp_path):
    copies = [*_slices(), *_slices()[1:3]]
    (volume,) = _volumes(_read(tmp_path, copies))
    assert volume.shape == (5, 12, 16)
    (volume,) = _volumes(_read(tmp_path, [*_slices(), *_slices()]))
    assert volume.shape == (5, 12, 16)
    rival = _slices()[2]
    rival.PixelData = bytes(len(rival.PixelData))
    assert _reasons(_read(tmp_path, [*_slices(), rival])) == ["dicom.duplicate"]


def test_the_same_stored_values_with_another_rescale_are_no_copies(tmp_path):
    assert _reasons(_read(tmp_path, [*_slices(), *_slices(1, RescaleIntercept=5)])) == ["dicom.duplicate"]


@pytest.mark.parametrize("order", [None, [9, 0, 4, 3, 8, 1, 2, 7, 6, 5]])
def test_places_that_repeat_are_volumes_in_time(tmp_path, order):
    later = _slices()
    for k, dataset in enumerate(later):
        dataset.InstanceNumber = 6 + k
        dataset.PixelData = (dataset.pixel_array + 7).astype(np.int16).tobytes()
    series = _read(tmp_path, [*_slices(), *later], order)
    first, second = _volumes(series)
    assert [stack.suffix for stack in series.stacks] == ["", "-2"]
    assert np.array_equal(second.array, first.array + 7)


def test_orientations_sizes_and_echoes_of_one_series_are_parted(tmp_path):
    datasets = [
        *_slices(3, InstanceNumber=9),
        *_slices(4, orientation=SAGITTAL),
        *_slices(2, EchoNumbers=2),
        *_slices(5, PixelSpacing=[1, 1]),
    ]
    series = _read(tmp_path, datasets)
    assert [volume.shape[0] for volume in _volumes(series)] == [5, 4, 3, 2]
    assert [stack.suffix for stack in series.stacks] == ["", "-2", "-3", "-4"]
    assert [stack.plane for stack in series.stacks] == ["axial", "sagittal", "axial", "axial"]
    turned = _read(tmp_path, datasets, list(range(14))[::-1])
    assert [s.content.shape for s in turned.stacks] == [s.content.shape for s in series.stacks]  # type: ignore[union-attr]


def test_one_refused_stack_costs_no_other_and_keeps_its_suffix(tmp_path):
    scout = _slices(1, orientation=SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    broken = _slices(4, PixelSpacing=[1, 1])
    del broken[1]
    series = _read(tmp_path, [*scout, *_slices(5), *broken, *_slices(2, EchoNumbers=2)])
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
    datasets = _slices(2, dtype=dtype, RescaleSlope=slope, RescaleIntercept=intercept)
    top = {"int16": 4000, "uint16": 20000, "float32": 65535, "uint8": 255}[expected]
    datasets[1].PixelData = np.full((12, 16), top, dtype).tobytes()
    (volume,) = _volumes(_read(tmp_path, datasets))
    assert volume.array.dtype == expected
    truth = np.stack([d.pixel_array.astype(float) * slope + intercept for d in datasets])
    assert np.array_equal(volume.array, truth.astype(np.float32))


def test_a_slope_per_slice_gives_floats(tmp_path):
    datasets = _slices(3, SOPClassUID=PET, Modality="PT", Units="BQML")
    for k, dataset in enumerate(datasets):
        dataset.RescaleSlope = 0.1 * (k + 1)
    (volume,) = _volumes(_read(tmp_path, datasets))
    truth = np.stack([d.pixel_array * float(d.RescaleSlope) for d in datasets])
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, truth, rtol=1e-6)
    assert volume.units == "Bq/ml"


def test_bits_outside_the_stored_ones_are_dropped(tmp_path):
    for representation, values in ((0, [0, 4095]), (1, [-2048, 2047])):
        datasets = _slices(1, dtype=np.uint16, BitsStored=12, HighBit=11, PixelRepresentation=representation)
        stored = np.zeros((12, 16), np.uint16)
        stored[0, :2] = np.array(values) & 0xFFF
        datasets[0].PixelData = (stored | 0xA000).astype(np.uint16).tobytes()  # an old overlay
        (volume,) = _volumes(_read(tmp_path, datasets))
        assert volume.array[0, 0, :2].tolist() == values


def test_a_single_slice_with_a_place_is_a_volume_as_thick_as_it_says(tmp_path):
    (volume,) = _volumes(_read(tmp_path, _slices(1, SliceThickness=3, orientation=OBLIQUE)))
    assert volume.shape == (1, 12, 16)
    assert np.allclose(volume.affine[:3, 2], 3 * _normal(OBLIQUE))


def test_slices_without_a_place_are_refused_and_a_single_one_is_a_picture(tmp_path):
    big = [_dataset(np.zeros((20, 20), np.int16), ImagePositionPatient=None, InstanceNumber=k) for k in range(2)]
    assert _reasons(_read(tmp_path, big)) == ["dicom.geometry"]
    assert isinstance(_read(tmp_path, big[:1]).stacks[0].content, Picture)


def _enhanced(**shared_extra) -> FileDataset:
    """An enhanced object: 3 places by 2 times, its frames shuffled, another slope per frame."""
    frames = [(place, time) for time in (1, 2) for place in (2, 0, 1)]
    pixels = np.stack([np.full((12, 16), 10 * place + time, np.int16) for place, time in frames])
    dataset = _dataset(
        pixels, SOPClassUID=ENHANCED_CT, NumberOfFrames=6, ImageOrientationPatient=None, RescaleSlope=None
    )
    del dataset.PixelSpacing, dataset.SliceThickness, dataset.RescaleIntercept
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(SAGITTAL)
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.75, 0.5]
    shared.PixelMeasuresSequence[0].SliceThickness = 9
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    items = []
    for place, time in frames:
        item = Dataset()
        item.PlanePositionSequence = Sequence([Dataset()])
        item.PlanePositionSequence[0].ImagePositionPatient = list(np.array([1.0, 2, 3]) + 4 * place * _normal(SAGITTAL))
        item.FrameContentSequence = Sequence([Dataset()])
        item.FrameContentSequence[0].TemporalPositionIndex = time
        item.PixelValueTransformationSequence = Sequence([Dataset()])
        item.PixelValueTransformationSequence[0].RescaleSlope = time
        item.PixelValueTransformationSequence[0].RescaleIntercept = -100
        items.append(item)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(items)
    return dataset


def test_an_enhanced_object_is_read_by_its_functional_groups(tmp_path):
    first, second = _volumes(_read(tmp_path, [_enhanced()]))
    assert first.array[:, 0, 0].tolist() == [-99, -89, -79]
    assert second.array[:, 0, 0].tolist() == [-96, -76, -56]
    row, column = np.array(SAGITTAL[:3]) * 0.5, np.array(SAGITTAL[3:]) * 0.75
    expected = np.column_stack([row, column, 4 * _normal(SAGITTAL), [1, 2, 3]])
    assert np.allclose(first.affine[:3], expected)


def test_films_and_mosaics_are_refused(tmp_path):
    film = _dataset(np.zeros((4, 20, 20), np.uint8), Modality="US", NumberOfFrames=4)
    assert _reasons(_read(tmp_path, [film])) == ["dicom.cine"]
    mosaic = _slices(1, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    assert _reasons(_read(tmp_path, mosaic)) == ["dicom.mosaic"]


def _picture(folder: Path, pixels: np.ndarray, **elements) -> tuple[np.ndarray, tuple[str, ...]]:
    series = _read(folder, [_dataset(pixels, **{"Modality": "DX", "SOPClassUID": SC, **elements})])
    assert series.refused == ()
    picture = series.stacks[0].content
    assert isinstance(picture, Picture)
    assert picture.reencoded
    return decode_picture(picture).squeeze(), series.stacks[0].transforms


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_a_radiograph_is_shown_by_its_window_and_inverted_when_low_is_bright(tmp_path):
    shown, done = _picture(tmp_path, RAMP, WindowCenter=2048, WindowWidth=1024)
    truth = np.clip((RAMP - 2047.5) / 1023 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(shown - truth).max() <= 0.5
    assert done == ("window(2048,1024)",)
    inverted, done = _picture(
        tmp_path, RAMP, WindowCenter=2048, WindowWidth=1024, PhotometricInterpretation="MONOCHROME1"
    )
    assert np.abs(inverted - (255 - truth)).max() <= 0.5
    assert done == ("window(2048,1024)", "invert")


def test_the_window_counts_in_rescaled_values(tmp_path):
    shown, _ = _picture(tmp_path, RAMP, WindowCenter=-952, WindowWidth=512, RescaleSlope=0.5, RescaleIntercept=-2000)
    assert abs(int(shown.ravel()[2096]) - 127.5) < 1
    assert shown.ravel()[0] == 0


def test_other_window_functions_follow_their_formula(tmp_path):
    fields = {"WindowCenter": 2048, "WindowWidth": 1024}
    shown, _ = _picture(tmp_path, RAMP, VOILUTFunction="SIGMOID", **fields)
    assert np.abs(shown - 255 / (1 + np.exp(-4 * (RAMP.astype(float) - 2048) / 1024))).max() <= 0.5
    shown, _ = _picture(tmp_path, RAMP, VOILUTFunction="LINEAR_EXACT", **fields)
    assert np.abs(shown - 255 * np.clip((RAMP.astype(float) - 2048) / 1024 + 0.5, 0, 1)).max() <= 0.5


def test_without_a_window_8_bits_are_shown_as_they_are_and_more_by_their_range(tmp_path):
    grey = np.arange(400, dtype=np.uint8).reshape(20, 20)
    shown, done = _picture(tmp_path, grey)
    assert np.array_equal(shown, grey)
    assert done == ()
    shown, done = _picture(tmp_path, RAMP)
    assert shown.min() == 0
    assert shown.max() == 255
    assert done[0].startswith("range(")


def test_colour_is_kept(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    shown, done = _picture(tmp_path, colours, Modality="US")
    assert np.array_equal(shown, colours)
    assert done == ()


def _packaged(name: str) -> str:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is in no installed package")
    return str(path)


def test_a_palette_is_applied():
    series = read_series([_packaged("examples_palette.dcm")])
    dataset = pydicom.dcmread(_packaged("examples_palette.dcm"))
    picture = series.stacks[0].content
    assert isinstance(picture, Picture)
    shown = decode_picture(picture)
    tables = [np.frombuffer(dataset[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")]
    truth = np.stack([table[dataset.pixel_array] for table in tables], axis=-1) >> 8
    assert np.array_equal(shown, truth)
    assert series.stacks[0].transforms == ("palette",)


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_implicit"],
)
def test_the_same_voxels_come_out_of_every_transfer_syntax(name):
    (plain,), (other,) = (_volumes(read_series([_packaged(f"{n}.dcm")])) for n in ("MR_small", name))
    assert np.array_equal(plain.array, other.array)
    assert np.array_equal(plain.affine, other.affine)


@pytest.mark.parametrize(
    "name", ["SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm"]
)
def test_ybr_becomes_rgb(name):
    shown = decode_picture(read_series([_packaged(name)]).stacks[0].content)  # type: ignore[arg-type]
    plain = decode_picture(read_series([_packaged("SC_rgb_rle.dcm")]).stacks[0].content)  # type: ignore[arg-type]
    assert shown.shape == plain.shape == (100, 100, 3)
    assert np.abs(shown.astype(int) - plain).mean() < 3  # lossy twins of one colour card


def test_pixels_that_are_not_all_there_are_truncated(tmp_path):
    series = read_series([_packaged("MR_truncated.dcm")])
    assert [reason for _, reason, _ in series.refused] == ["dicom.truncated"]
    (whole,) = _slices(1)
    whole.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    data = (tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").write_bytes(data[:-1])
    assert _reasons(read_series([tmp_path / "x.dcm"])) == ["dicom.truncated"]


def test_a_broken_slice_refuses_its_stack_and_no_other(tmp_path):
    datasets = [*_slices(4), *_slices(2, EchoNumbers=2)]
    _read(tmp_path, datasets)
    path = tmp_path / "001.dcm"
    path.write_bytes(path.read_bytes()[:-3])
    series = read_series([tmp_path / f"{k:03d}.dcm" for k in range(6)])
    assert [reason for _, reason, _ in series.refused] == ["dicom.truncated"]
    assert [stack.content.shape for stack in series.stacks] == [(2, 12, 16)]  # type: ignore[union-attr]


def test_no_detail_tells_who_the_patient_is(tmp_path):
    rival = _slices()[2]
    rival.PixelData = bytes(len(rival.PixelData))
    gap = _slices(6)
    del gap[2]
    series = [
        _read(tmp_path, data) for data in ([*_slices(), rival], gap, _slices(1, ImageType=["A", "B", "LOCALIZER"]))
    ]
    for text in (repr(s.refused) for s in series):
        assert "Doe" not in text
        assert "P1" not in text
        assert os.fspath(tmp_path) not in text
