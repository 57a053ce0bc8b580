"""What else a hospital's series may look like: synthetic variants, dcm2niix the judge of each, now."""

from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medloom.connectors.dicom import Policy, read_series
from tests.connectors.dcm2niix import converted, distance, judge
from tests.connectors.dicom_objects import MR, OBLIQUE, PET, SAGITTAL, slices, written


def _series(count: int = 4, **elements) -> list[FileDataset]:
    fields = {"SeriesNumber": 1, "StudyInstanceUID": "1.2.4", "Manufacturer": "Philips", "RescaleIntercept": -1024}
    made = slices(count, **{"dtype": np.uint16, "BitsStored": 13, "HighBit": 12, **fields, **elements})
    chance = np.random.default_rng(1)
    for dataset in made:
        noise = chance.integers(0, 2 ** min(dataset.BitsStored, 12), (12, 16))
        dataset.PixelData = noise.astype(f"<u{dataset.BitsAllocated // 8}").tobytes()
    return made


def _each(change: Callable[[FileDataset, int], None], **elements) -> list[FileDataset]:
    made = _series(**elements)
    for k, dataset in enumerate(made):
        change(dataset, k)
    return made


def _bits(dataset: FileDataset, dtype: str, bits: int, values: np.ndarray) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * np.dtype(dtype).itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(np.dtype(dtype).kind == "i")
    dataset.PixelData = values.astype(dtype).tobytes()


RAMP = np.arange(12 * 16).reshape(12, 16)
VALUES = {
    "signed": _each(lambda d, k: _bits(d, "<i2", 12, RAMP * 20 - 2000 + k)),
    "unsigned_16_bit_below_0": _each(lambda d, k: _bits(d, "<u2", 16, RAMP * 300 + k)),
    "unsigned_16_bit": _each(lambda d, k: _bits(d, "<u2", 16, RAMP * 300 + k), RescaleIntercept=0),
    "8_bit": _each(lambda d, k: _bits(d, "u1", 8, RAMP + k), RescaleIntercept=0),
    "8_bit_below_0": _each(lambda d, k: _bits(d, "u1", 8, RAMP + k), RescaleIntercept=-10),
    "32_bit": _each(lambda d, k: _bits(d, "<u4", 32, RAMP * 70000 + k)),
    "32_bit_signed": _each(lambda d, k: _bits(d, "<i4", 32, 5 - RAMP * 70 + k)),
    "half_slope": _each(lambda d, k: None, RescaleSlope="0.5"),
    "double_slope": _each(lambda d, k: None, RescaleSlope="2"),
    "half_intercept": _each(lambda d, k: None, RescaleIntercept="-1000.5"),
    "slopes_that_change": _each(lambda d, k: setattr(d, "RescaleSlope", f"{0.37 * (k + 1):.4f}")),
    "intercepts_that_change": _each(lambda d, k: setattr(d, "RescaleIntercept", -1000 - 10 * k)),
    "no_rescale": _series(RescaleSlope=None, RescaleIntercept=None),
    "low_is_bright": _series(PhotometricInterpretation="MONOCHROME1"),
    "pet": _each(
        lambda d, k: setattr(d, "RescaleSlope", f"{0.1 * (k + 1):.4f}"),
        Modality="PT", SOPClassUID=PET, Units="BQML", RescaleIntercept=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_dcm2niix(tmp_path, name):
    paths = written(tmp_path, VALUES[name])
    assert judge(read_series(paths), converted(paths)) == ("equal", "1 volume")


MISSING = (
    "SliceThickness", "SpacingBetweenSlices", "InstanceNumber", "SeriesNumber", "Manufacturer", "BitsStored", "HighBit",
    "SamplesPerPixel", "PhotometricInterpretation", "Modality", "ImageType", "PixelRepresentation", "SOPClassUID",
)  # fmt: skip


@pytest.mark.parametrize("keyword", MISSING)
def test_a_tag_that_decides_nothing_may_be_missing(tmp_path, keyword):
    paths = written(tmp_path, _series())
    for path in paths:
        dataset = pydicom.dcmread(path)
        if keyword == "BitsStored":
            dataset.HighBit = 15
        delattr(dataset, keyword)
        dataset.save_as(path)
    assert judge(read_series(paths), converted(paths)) == ("equal", "1 volume")


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"])
def test_a_place_that_is_missing_is_never_invented_though_dcm2niix_does(tmp_path, keyword):
    paths = written(tmp_path, _series(**{keyword: None}))
    assert converted(paths)
    assert judge(read_series(paths), []) == ("refused", "dicom.geometry")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_twins_are_those_of_dcm2niix(tmp_path, syntax):
    datasets = _series()
    for dataset in datasets:
        pixels = np.tile(dataset.pixel_array, (6, 5))
        dataset.PixelData, (dataset.Rows, dataset.Columns) = pixels.tobytes(), pixels.shape
        dataset.compress(syntax, generate_instance_uid=False)
    paths = written(tmp_path, datasets)
    assert judge(read_series(paths), converted(paths)) == ("equal", "1 volume")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_way_to_write_a_data_set_gives_the_same_voxels(tmp_path, syntax: UID):
    datasets = _series(3)
    (plain,) = read_series(written(tmp_path, datasets)).stacks
    paths = []
    for number, dataset in enumerate(datasets):
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        paths.append(tmp_path / f"other{number}.dcm")
        pydicom.dcmwrite(paths[-1], dataset, force_encoding=True, implicit_vr=syntax.is_implicit_VR,
                         little_endian=syntax.is_little_endian)  # fmt: skip
    series = read_series(paths)
    assert series.refused == ()
    assert np.array_equal(series.stacks[0].content.array, plain.content.array)  # type: ignore[union-attr]
    if syntax != DeflatedExplicitVRLittleEndian:  # which dcm2niix does not read
        assert judge(series, converted(paths)) == ("equal", "1 volume")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ""])
def test_a_data_set_without_meta_information_is_read(tmp_path, syntax):
    paths = written(tmp_path, _series())
    for path in paths:
        dataset = pydicom.dcmread(path)
        if syntax:
            pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True, force_encoding=True)
        data = path.read_bytes()
        path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert judge(read_series(paths), converted(paths)) == ("equal", "1 volume")


def _times(n: int, change: Callable[[FileDataset, int, int], None], **elements) -> list[FileDataset]:
    fields = {"Modality": "MR", "SOPClassUID": MR, "ImageType": ["ORIGINAL", "PRIMARY", "M"], "RescaleSlope": None}
    found = []
    for time in range(n):
        for k, dataset in enumerate(_series(**{**fields, "RescaleIntercept": None, **elements})):
            dataset.InstanceNumber = 4 * time + k + 1
            dataset.PixelData = (dataset.pixel_array // 2 + 100 * time).astype("<u2").tobytes()
            change(dataset, time, k)
            found.append(dataset)
    return found


SEVERAL = {
    "by_number": (_times(3, lambda d, t, k: None), 3),
    "slice_by_slice": (_times(3, lambda d, t, k: setattr(d, "InstanceNumber", 3 * k + t + 1)), 3),
    "by_time": (_times(3, lambda d, t, k: setattr(d, "TemporalPositionIdentifier", t + 1)), 3),
    "by_acquisition": (_times(3, lambda d, t, k: setattr(d, "AcquisitionNumber", t + 1)), 3),
    "by_b_value": (_times(3, lambda d, t, k: setattr(d, "DiffusionBValue", 500.0 * t)), 3),
    "by_echo": (_times(2, lambda d, t, k: setattr(d, "EchoNumbers", t + 1)), 2),
    "by_echo_time": (_times(2, lambda d, t, k: setattr(d, "EchoTime", 10 * (t + 1))), 2),
    "by_trigger": (_times(3, lambda d, t, k: setattr(d, "TriggerTime", 50 * t)), 3),
    "by_type": (_times(2, lambda d, t, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "MP"[t]])), 2),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_volumes_of_one_series_are_those_of_dcm2niix(tmp_path, name):
    datasets, count = SEVERAL[name]
    paths = written(tmp_path, datasets)
    assert judge(read_series(paths[::-1]), converted(paths)) == ("equal", f"{count} volume")


def test_a_time_that_is_no_number_costs_nothing(tmp_path):
    """Written with colons, as before 1993."""
    (stack,) = read_series(written(tmp_path, _series())).stacks
    paths = []
    for path in sorted(tmp_path.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.add_new("AcquisitionTime", "TM", "120001.5")
        dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"120001.5", b"12:00:01"))
        paths.append(path)
    (same,) = read_series(paths).stacks
    assert np.array_equal(same.content.array, stack.content.array)  # type: ignore[union-attr]


def test_volumes_that_nothing_tells_apart_are_refused(tmp_path):
    mixed = [7, 3, 11, 1, 9, 2, 12, 5, 8, 4, 10, 6]
    numbered = _times(3, lambda d, t, k: setattr(d, "InstanceNumber", mixed[4 * t + k]))
    unnumbered = _times(2, lambda d, t, k: delattr(d, "InstanceNumber"))
    for datasets in (numbered, unnumbered):
        assert judge(read_series(written(tmp_path, datasets)), []) == ("refused", "dicom.order")


def test_a_stated_time_decides_where_numbers_do_not(tmp_path):
    mixed = [7, 3, 11, 1, 9, 2, 12, 5]

    def change(dataset: FileDataset, time: int, k: int) -> None:
        dataset.InstanceNumber = mixed[4 * time + k]
        dataset.AcquisitionTime = f"12000{time}.25"

    datasets = _times(2, change)
    series = read_series(written(tmp_path, datasets))
    assert series.refused == ()
    for time, stack in enumerate(series.stacks):
        truth = np.stack([d.pixel_array for d in datasets[4 * time : 4 * time + 4]])
        assert np.array_equal(stack.content.array, truth)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "elements",
    [{"orientation": SAGITTAL}, {"orientation": OBLIQUE}, {"step": -2.5}, {"count": 1}, {"count": 2},
     {"count": 1, "SpacingBetweenSlices": None},
     {"Modality": "NM"}, {"Modality": "OT"}, {"FrameOfReferenceUID": "1.2.9"}],
)  # fmt: skip
def test_places_are_those_of_dcm2niix(tmp_path, elements):
    paths = written(tmp_path, _series(**{"SliceThickness": 3, "SpacingBetweenSlices": 2.5, **elements}))
    assert judge(read_series(paths), converted(paths)) == ("equal", "1 volume")


def test_localizers_and_copies_among_slices_change_nothing(tmp_path):
    datasets = _series(5)
    scout = _series(1, orientation=SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], InstanceNumber=99)
    paths = written(tmp_path, [*datasets, *scout, datasets[2]])
    series = read_series(paths)
    assert [reason for _, reason, _ in series.refused] == ["dicom.localizer"]
    references = converted(paths[:5])
    assert [distance(stack.content, references[0])[0] for stack in series.stacks] == [0.0]  # type: ignore[arg-type]
    assert distance(series.stacks[0].content, references[0])[1] < 1e-3  # type: ignore[arg-type]


def test_values_beyond_the_stored_bits_are_masked_and_said_so(tmp_path):
    datasets = _series(3)
    plain = [dataset.pixel_array.copy() for dataset in datasets]
    for dataset, values in zip(datasets, plain, strict=True):
        dataset.PixelData = (values | 0x8000).tobytes()
    (stack,) = read_series(written(tmp_path, datasets)).stacks
    assert stack.transforms == ("masked(13)",)
    assert np.array_equal(stack.content.array, np.stack(plain).astype(int) - 1024)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"RescaleSlope": 0}, "dicom.rescale"),
        ({"HighBit": 15}, "dicom.bits"),
        ({"PixelRepresentation": 2}, "dicom.bits"),
        ({"PixelSpacing": [0, 0]}, "dicom.geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "dicom.geometry"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(tmp_path, elements, reason):
    series = read_series(written(tmp_path, _series(3, **elements)), policy=Policy(gaps="regularise", tilt="unshear"))
    assert series.stacks == ()
    assert {found for _, found, _ in series.refused} == {reason}


def test_fewer_or_more_pixels_than_stated_are_refused(tmp_path):
    for change, reason in ((-2, "dicom.truncated"), (2 * 16 * 3, "dicom.length"), (0, "")):
        datasets = _series(3)
        data = datasets[1].PixelData
        datasets[1].PixelData = data[:change] if change < 0 else data + data[:change]
        datasets[1].add_new(0xFFFCFFFC, "OB", bytes(64))  # what follows the pixels is none of them
        reasons = [found for _, found, _ in read_series(written(tmp_path, datasets)).refused]
        assert reasons == ([reason] if reason else [])
