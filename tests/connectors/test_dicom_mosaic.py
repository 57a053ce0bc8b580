"""Siemens mosaics are taken apart as dcm2niix does, by a CSA header written here after its public description."""

import struct
from pathlib import Path

import numpy as np
import pytest

from medloom.connectors.dicom import read_series
from medloom.schemas.volume import Volume
from tests.connectors.dcm2niix import converted, judge
from tests.connectors.dicom_objects import AXIAL, MR, OBLIQUE, SAGITTAL, image_object, normal, written

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
N_SLICES, ROWS, COLUMNS, STEP_MM = 7, 12, 16, 3.5


def _csa_second(values: dict[str, tuple[str, list[str]]]) -> bytes:
    """The form "SV10": per element a name, and items behind four numbers of which the second is the length."""
    parts = [b"SV10\4\3\2\1", struct.pack("<II", len(values), 77)]
    for name, (vr, words) in values.items():
        parts.append(struct.pack("<64si4siii", name.encode(), len(words), vr.encode(), 3, 6, 77))
        for word in [*words, *[""] * (6 - len(words))]:
            text = word.encode() + b"\0" if word else b""
            parts.append(struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4))
    return b"".join(parts) + bytes(4)


def _csa_first(values: dict[str, tuple[str, list[str]]]) -> bytes:
    """The form before it: no signature, and lengths that count from the number of the first element's items."""
    parts = [struct.pack("<II", len(values), 77)]
    for name, (vr, words) in values.items():
        parts.append(struct.pack("<64si4siii", name.encode(), len(words), vr.encode(), 3, 6, 77))
        for word in [*words, *[""] * (6 - len(words))]:
            text = word.encode() + b"\0" if word else b""
            parts.append(struct.pack("<4i", 6 + len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4))
    return b"".join(parts) + bytes(4)


def _mosaics(folder: Path, orientation, *, sign: int = 1, csa=_csa_second, **elements) -> tuple[list[Path], np.ndarray]:
    """Write two time points of seven slices on 3 x 3 tiles; return the files and the slices (time, Z, Y, X)."""
    truth = np.random.default_rng(7).integers(1, 4096, (2, N_SLICES, ROWS, COLUMNS)).astype(np.uint16)
    header = {
        "NumberOfImagesInMosaic": ("US", [f"{N_SLICES:.8f}"]),
        "SliceNormalVector": ("FD", [f"{sign * v:.8f}" for v in normal(orientation)]),
        "EchoTime": ("DS", ["30.0"]),
    }
    datasets = []
    for time, stack in enumerate(truth):
        sheet = np.zeros((3 * ROWS, 3 * COLUMNS), np.uint16)
        for index, plane in enumerate(stack):
            top, left = index // 3 * ROWS, index % 3 * COLUMNS
            sheet[top : top + ROWS, left : left + COLUMNS] = plane
        fields = {
            "SOPClassUID": MR, "Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
            "Manufacturer": "SIEMENS", "ImagePositionPatient": [10, 20, 30], "SeriesNumber": 1,
            "ImageOrientationPatient": list(orientation), "PixelSpacing": [2.0, 1.5], "SliceThickness": 3,
            "SpacingBetweenSlices": STEP_MM, "InstanceNumber": time + 1, "BitsStored": 12, "HighBit": 11,
            "RescaleSlope": None, "RescaleIntercept": None, "AcquisitionMatrix": [ROWS, 0, 0, COLUMNS],
        }  # fmt: skip
        made = image_object(sheet, **{**fields, **elements})
        if csa is not None:
            block = made.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
            block.add_new(0x08, "CS", "IMAGE NUM 4")
            block.add_new(0x10, "OB", csa(header))
        datasets.append(made)
    return written(folder, datasets), truth


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
def test_slices_of_a_mosaic_are_where_dcm2niix_puts_them(tmp_path, orientation, sign):
    paths, _ = _mosaics(tmp_path, orientation, sign=sign)
    series = read_series(paths)
    assert judge(series, converted(paths)) == ("equal", "2 volume")


@pytest.mark.parametrize("csa", [_csa_second, _csa_first])
def test_every_tile_stands_where_the_sheets_centre_puts_it(tmp_path, csa):
    paths, truth = _mosaics(tmp_path, OBLIQUE, csa=csa)
    series = read_series(paths[::-1])
    assert series.refused == ()
    row, column = np.array(OBLIQUE[:3]) * 1.5, np.array(OBLIQUE[3:]) * 2.0
    centre = np.array([10, 20, 30]) + row * (3 * COLUMNS - 1) / 2 + column * (3 * ROWS - 1) / 2
    for stack, slices in zip(series.stacks, truth, strict=True):
        volume = stack.content
        assert isinstance(volume, Volume)
        assert np.array_equal(volume.array, slices)
        middle = [(COLUMNS - 1) / 2, (ROWS - 1) / 2, 2, 1]
        assert np.allclose((volume.affine @ middle)[:3], centre + 2 * STEP_MM * normal(OBLIQUE))


@pytest.mark.parametrize(
    "elements",
    [
        {"csa": None},
        {"SpacingBetweenSlices": None},
        {"ImagePositionPatient": None},
        {"csa": lambda values: _csa_second({**values, "NumberOfImagesInMosaic": ("US", ["17.0"])})},
        {"csa": lambda values: _csa_second({**values, "SliceNormalVector": ("FD", ["1.0", "0.0", "0.0"])})},
        {"csa": lambda values: _csa_second(values)[:200]},
        {"csa": lambda _: b"SV10" + bytes(4) + b"\xff" * 40},
    ],
)
def test_a_mosaic_that_does_not_say_what_is_in_it_is_refused_once(tmp_path, elements):
    paths, _ = _mosaics(tmp_path, AXIAL, **elements)
    series = read_series(paths)
    assert series.stacks == ()
    assert [reason for _, reason, _ in series.refused] == ["dicom.mosaic"]
