"""Pictures are shown as a viewer shows them: window, tables, palette and inversion by the standard's formulas."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medloom.connectors.dicom import Policy, read_series
from medloom.connectors.images import decode_picture
from medloom.schemas.medium import Picture
from tests.connectors.dicom_objects import SC, image_object, written


def _picture(folder: Path, pixels: np.ndarray, **elements) -> tuple[np.ndarray, tuple[str, ...]]:
    series = read_series(written(folder, [image_object(pixels, **{"Modality": "DX", "SOPClassUID": SC, **elements})]))
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
    "name", ["SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm"]
)
def test_ybr_becomes_rgb(name):
    shown = decode_picture(read_series([_packaged(name)]).stacks[0].content)  # type: ignore[arg-type]
    plain = decode_picture(read_series([_packaged("SC_rgb_rle.dcm")]).stacks[0].content)  # type: ignore[arg-type]
    assert shown.shape == plain.shape == (100, 100, 3)
    assert np.abs(shown.astype(int) - plain).mean() < 3  # lossy twins of one colour card


def test_the_first_of_several_windows_is_taken(tmp_path):
    one, done = _picture(tmp_path, RAMP, WindowCenter=[2048, 40], WindowWidth=[1024, 400])
    other, _ = _picture(tmp_path, RAMP, WindowCenter=2048, WindowWidth=1024)
    assert done == ("window(2048,1024)",)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_an_inverse_presentation_inverts_once(tmp_path, photometric):
    window = {"WindowCenter": 2048, "WindowWidth": 1024}
    plain, _ = _picture(tmp_path, RAMP, **window)
    shown, done = _picture(
        tmp_path, RAMP, PhotometricInterpretation=photometric, PresentationLUTShape="INVERSE", **window
    )
    assert done == ("window(2048,1024)", "invert")
    assert np.array_equal(shown, 255 - plain)


def test_a_table_of_values_of_interest_counts_in_rescaled_values(tmp_path):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [16, 1000, 8])
    table.add_new("LUTData", "OW", np.arange(0, 256, 16, dtype=np.uint16).tobytes())
    grey = np.tile(np.arange(16, dtype=np.uint16), (16, 1))
    shown, done = _picture(tmp_path, grey, RescaleIntercept=1000, VOILUTSequence=Sequence([table]))
    assert done == ("voi-lut",)
    assert shown[0].tolist() == list(range(0, 256, 16))


def test_padding_does_not_widen_the_range(tmp_path):
    padded = RAMP.copy()
    padded[:30] = 60000
    shown, done = _picture(tmp_path, padded, PixelPaddingValue=60000)
    low, high = np.percentile(RAMP[30:], (0.5, 99.5))
    assert done == (f"range({low:g},{high:g})",)
    assert shown[30:].min() == 0


def test_a_film_is_refused_or_shown_by_three_of_its_frames(tmp_path):
    frames = np.stack([np.full((20, 20), 10 * k, np.uint8) for k in range(9)])
    (path,) = written(tmp_path, [image_object(frames, Modality="US", NumberOfFrames=9)])
    assert [reason for _, reason, _ in read_series([path]).refused] == ["dicom.cine"]
    series = read_series([path], policy=Policy(films="key_frames"))
    assert series.refused == ()
    assert [stack.transforms for stack in series.stacks] == [("frame(1/9)",), ("frame(5/9)",), ("frame(9/9)",)]
    assert [decode_picture(stack.content).max() for stack in series.stacks] == [0, 40, 80]  # type: ignore[arg-type]


def test_a_compressed_film_is_shown_by_the_frames_that_pydicom_decodes():
    path = _packaged("examples_ybr_color.dcm")
    series = read_series([path], policy=Policy(films="key_frames"))
    frames = pydicom.pixels.pixel_array(path, decoding_plugin="pillow")
    for stack, index in zip(series.stacks, (0, 15, 29), strict=True):
        assert np.array_equal(decode_picture(stack.content), frames[index])  # type: ignore[arg-type]


def test_slices_without_a_place_are_no_film():
    path = _packaged("emri_small.dcm")
    assert [r for _, r, _ in read_series([path], policy=Policy(films="key_frames")).refused] == ["dicom.cine"]
