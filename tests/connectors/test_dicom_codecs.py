"""Compressed frames are read by one decoder a codec, and never where they contradict the header."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from medloom.connectors.dicom import Policy, read_series
from medloom.schemas.volume import Volume

COMPRESSED = ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless")


def _packaged(name: str) -> str:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is in no installed package")
    return str(path)


def _changed(folder: Path, name: str, change) -> Path:
    """Write a packaged object whose one frame `change` has changed."""
    dataset = pydicom.dcmread(_packaged(f"{name}.dcm"))
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([change(frame)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(folder / "x.dcm")
    return folder / "x.dcm"


def _reasons(path: Path | str) -> list[str]:
    series = read_series([path])
    assert series.stacks == ()
    return [reason for _, reason, _ in series.refused]


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_untouched_frame_is_read(tmp_path, name):
    (stack,) = read_series([_changed(tmp_path, name, lambda frame: frame)]).stacks
    assert isinstance(stack.content, Volume)
    assert np.array_equal(stack.content.array[0], pydicom.dcmread(_packaged("MR_small.dcm")).pixel_array)


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_frame_that_ends_too_early_is_refused(tmp_path, name, share):
    path = _changed(tmp_path, name, lambda frame: frame[: int(len(frame) * share) // 2 * 2])
    assert _reasons(path) in (["dicom.truncated"], ["dicom.pixels"])


def test_a_run_length_coded_frame_with_too_much_is_refused(tmp_path):
    path = _changed(tmp_path, "MR_small_RLE", lambda frame: frame + b"\x81\x07" * 2)  # runs of 128 more
    assert _reasons(path) == ["dicom.length"]


@pytest.mark.parametrize("name", COMPRESSED[1:])
def test_a_codestream_without_its_end_is_refused(tmp_path, name):
    """OpenJPEG reads it without a word."""
    path = _changed(tmp_path, name, lambda frame: frame.rstrip(b"\0").removesuffix(b"\xff\xd9"))
    assert _reasons(path) == ["dicom.truncated"]


def test_lossless_jpeg_of_another_size_is_refused(tmp_path):
    """GDCM ends the process on it."""
    dataset = pydicom.dcmread(_packaged("JPEG-LL.dcm"))
    dataset.Rows //= 2
    dataset.save_as(tmp_path / "x.dcm")
    assert _reasons(tmp_path / "x.dcm") == ["dicom.pixels"]


@pytest.mark.parametrize("name", COMPRESSED[1:])
def test_a_codestream_of_another_size_is_refused(tmp_path, name):
    dataset = pydicom.dcmread(_packaged(f"{name}.dcm"))
    dataset.Rows = 32
    dataset.save_as(tmp_path / "x.dcm")
    assert _reasons(tmp_path / "x.dcm") == ["dicom.pixels"]


@pytest.mark.parametrize("frames", [0, 2])
def test_another_number_of_frames_than_stated_is_refused(tmp_path, frames):
    dataset = pydicom.dcmread(_packaged("MR_small_RLE.dcm"))
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame] * frames) if frames else encapsulate([b"\0\0"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "x.dcm")
    assert _reasons(tmp_path / "x.dcm") in (["dicom.pixels"], ["dicom.truncated"])


def test_lossless_jpeg_is_the_same_image_as_its_lossless_twin():
    """The two files of one scan in pydicom's data: JPEG lossless and JPEG 2000."""
    (one,), (other,) = (
        read_series([_packaged(f"{name}.dcm")], policy=Policy()).stacks for name in ("693_J2KI", "693_UNCI")
    )
    assert np.array_equal(one.content.array, other.content.array)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["JPEG-lossy", "JPGExtended"])
def test_a_codec_that_only_a_gpl_decoder_reads_is_refused_by_the_decoders_name(name):
    """GDCM gives zeros for 12-bit JPEG."""
    pytest.importorskip("pydicom")
    try:
        import libjpeg  # noqa: F401

        pytest.skip("pylibjpeg-libjpeg is installed")
    except ImportError:
        pass
    ((_, reason, detail),) = read_series([_packaged(f"{name}.dcm")]).refused
    assert reason == "dicom.codec"
    assert "pylibjpeg-libjpeg" in detail


def test_a_codec_that_nothing_reads_is_refused_by_its_name(tmp_path):
    dataset = pydicom.dcmread(_packaged("MR_small_RLE.dcm"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.102")
    dataset.save_as(tmp_path / "x.dcm")
    ((_, reason, detail),) = read_series([tmp_path / "x.dcm"]).refused
    assert reason == "dicom.codec"
    assert "MPEG" in detail
