"""The elements that the walk finds are those that pydicom reads, and what is no well-formed data set is refused."""

import os
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medloom.connectors import dicom_elements
from medloom.connectors.dicom_elements import read_elements
from medloom.connectors.dicom_headers import HEADER_TAGS, quiet
from medloom.schemas.errors import Refused


def _packaged(name: str) -> str:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is in no installed package")
    return str(path)


def _words(value) -> list[str]:
    if value is None or value == "":
        return []
    return [str(part).strip(" \0") for part in (value if hasattr(value, "append") else [value])]


def test_values_are_those_that_pydicom_reads_from_every_file_at_hand():
    held = 0
    for path in sorted(Path(_packaged("CT_small.dcm")).parent.glob("*.dcm")):
        try:
            elements = read_elements(path, HEADER_TAGS)
        except Refused:
            continue
        with quiet():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            for keyword in HEADER_TAGS:
                ours, theirs = elements.get(keyword), dataset.get(keyword)
                if keyword.endswith("Sequence"):
                    assert len(ours or ()) == len(theirs or ()), (path.name, keyword)
                else:
                    assert [w.rstrip(".0") for w in _words(ours)] == [w.rstrip(".0") for w in _words(theirs)]
                held += bool(theirs)
    assert held > 1000


def test_pixel_data_are_found_where_pydicom_reads_them():
    for name in ("CT_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "emri_small"):
        elements, dataset = read_elements(_packaged(f"{name}.dcm")), pydicom.dcmread(_packaged(f"{name}.dcm"))
        assert elements.pixels is not None
        value = elements.pixel_bytes()
        assert elements.pixels.encapsulated == ("RLE" in name)
        assert value[: len(dataset.PixelData)] == dataset.PixelData
        assert value[len(dataset.PixelData) :] == (b"\xfe\xff\xdd\xe0\0\0\0\0" if "RLE" in name else b"")


def _refusal(folder: Path, data: bytes) -> str:
    (folder / "x.dcm").write_bytes(data)
    with pytest.raises(Refused) as error:
        read_elements(folder / "x.dcm", HEADER_TAGS)
    return error.value.reason


def test_no_prefix_of_a_file_passes_for_the_whole(tmp_path):
    """Cut anywhere, an object is refused or says that its pixels are not all there."""
    for name in ("MR_small_implicit", "MR_small_RLE"):
        data = Path(_packaged(f"{name}.dcm")).read_bytes()
        for end in [*range(0, 2000, 23), *range(2000, len(data) - 1, 997)]:
            if end >= len(data):
                continue
            (tmp_path / "x.dcm").write_bytes(data[:end])
            try:
                place = read_elements(tmp_path / "x.dcm", HEADER_TAGS).pixels
            except Refused:
                continue
            ends = place is None and end < data.index(b"\xe0\x7f\x10\x00")  # between two elements, before the pixels
            assert ends or (place is not None and not place.complete), (name, end)


def test_elements_out_of_order_or_of_no_representation_are_refused(tmp_path):
    data = Path(_packaged("CT_small.dcm")).read_bytes()
    at = data.index(b"\x28\x00\x10\x00US")
    assert _refusal(tmp_path, data[:at] + b"\x18\x00" + data[at + 2 :]) == "dicom.header"
    assert _refusal(tmp_path, data[: at + 4] + b"QX" + data[at + 6 :]) == "dicom.header"
    assert _refusal(tmp_path, data[: at + 6] + b"\xff\xff" + data[at + 8 :]) in ("dicom.truncated", "dicom.header")


def test_zeros_after_the_pixels_fill_up_a_block_and_anything_else_is_a_fault(tmp_path):
    data = Path(_packaged("CT_small.dcm")).read_bytes()
    whole = read_elements(_packaged("CT_small.dcm"), HEADER_TAGS)
    (tmp_path / "y.dcm").write_bytes(data + bytes(-len(data) % 4096))
    assert read_elements(tmp_path / "y.dcm", HEADER_TAGS).raw == whole.raw
    assert _refusal(tmp_path, data + bytes(100) + b"x") == "dicom.header"


@pytest.mark.parametrize("data", [b"", bytes(200), b"\x08\x00\x05\x00", os.urandom(4000), b"GIF89a" + bytes(500)])
def test_other_files_are_no_data_sets(tmp_path, data):
    assert _refusal(tmp_path, data) in ("dicom.not_dicom", "dicom.header", "dicom.truncated")


def test_sequences_nested_without_end_are_refused(tmp_path):
    nested = b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    assert _refusal(tmp_path, nested) == "dicom.header"


def test_a_deflated_data_set_is_inflated_within_bounds(tmp_path, monkeypatch):
    elements = read_elements(_packaged("image_dfl.dcm"), HEADER_TAGS)
    dataset = pydicom.dcmread(_packaged("image_dfl.dcm"))
    assert elements.transfer_syntax == DeflatedExplicitVRLittleEndian
    assert elements.get("Rows") == dataset.Rows
    assert elements.pixel_bytes() == dataset.PixelData
    data = Path(_packaged("image_dfl.dcm")).read_bytes()
    assert _refusal(tmp_path, data[:-40]) == "dicom.truncated"
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(2**22)) + packer.flush()
    monkeypatch.setattr(dicom_elements, "MAX_INFLATED_BYTES", 2**20)
    assert len(bomb) < 2**14
    assert _refusal(tmp_path, data[:start] + bomb) == "dicom.deflated"
