"""Volumes of NIfTI files have the voxels and positions that nibabel gives; hostile files are refused, quickly."""

import contextlib
import gzip
import itertools
import os
import struct
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medloom.connectors import nifti
from medloom.schemas.errors import Refused
from medloom.schemas.volume import reorient

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE = np.array([[0.9, 0.1, 0.0, -30], [-0.1, 1.8, 0.2, 20], [0.0, -0.2, 2.7, 5], [0, 0, 0, 1]])


def _array(dtype: str = "int16", shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 100).reshape(shape).astype(dtype)


def _write(path: Path, array: np.ndarray, affine=AFFINE, kind=nib.Nifti1Image, **fields) -> Path:
    image = kind(array, affine, dtype=array.dtype if array.dtype.kind in "iuf" else None)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def _reason(path: Path | bytes) -> str:
    with pytest.raises(Refused) as error:
        nifti.read_volumes(path) if isinstance(path, Path) else nifti.read_header(path)
    return error.value.reason


def _patched(path: Path, offset: int, layout: str, *values) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", ">i2", ">f4"])
def test_voxels_and_positions_are_nibabels(tmp_path, kind, suffix, dtype):
    array = _array(dtype)
    image = kind(array, AFFINE)
    image.header.set_data_dtype(dtype)
    path = tmp_path / f"x{suffix}"
    nib.save(image, path)
    (volume,) = nifti.read_volumes(path)
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(volume.array, array.transpose(2, 1, 0))
    assert np.allclose(volume.affine, LPS @ nib.load(path).affine, atol=1e-6)
    header = nifti.read_header(path)
    assert header.shape == (7, 6, 5)
    assert header.spacing_mm == pytest.approx(volume.spacing_mm)


def test_a_header_is_read_from_the_first_bytes_alone(tmp_path):
    path = _write(tmp_path / "x.nii.gz", np.random.default_rng(0).integers(0, 99, (64, 64, 64), np.int16))
    assert nifti.read_header(path.read_bytes()[:4096]).shape == (64, 64, 64)


def test_free_text_of_a_header_is_nowhere(tmp_path):
    path = _write(tmp_path / "x.nii", _array(), descrip=b"Doe^Jane", aux_file=b"Doe^Jane", db_name=b"Doe^Jane")
    assert "Doe" not in repr(vars(nifti.read_header(path)))


def test_all_48_orientations_come_back_to_the_same_canonical_volume(tmp_path):
    path = _write(tmp_path / "x.nii", _array())
    image, (plain,) = nib.load(path), nifti.read_volumes(path)
    axes = itertools.permutations(("LR", "PA", "SI"))
    codes = ["".join(letters) for order in axes for letters in itertools.product(*order)]
    assert len(set(codes)) == 48
    for orientation in codes:
        wanted = nib.orientations.axcodes2ornt(tuple(orientation))
        turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        nib.save(turned, tmp_path / "turned.nii")
        (other,) = nifti.read_volumes(tmp_path / "turned.nii")
        assert other.orientation == orientation
        assert np.array_equal(other.canonical().array, plain.canonical().array), orientation
        assert np.allclose(other.canonical().affine, plain.canonical().affine, atol=1e-5), orientation
        assert np.array_equal(reorient(plain, orientation).array, other.array), orientation


def test_the_qform_counts_when_there_is_no_sform(tmp_path):
    rotation = np.array([[0.0, 2.0, 0.0, 5], [1.0, 0.0, 0.0, 6], [0.0, 0.0, 3.0, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(_array(), rotation)
    image.set_sform(None, code=0)
    image.set_qform(rotation, code=1)
    nib.save(image, tmp_path / "x.nii")
    (volume,) = nifti.read_volumes(tmp_path / "x.nii")
    assert np.allclose(volume.affine, LPS @ rotation, atol=1e-5)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_units_of_length_are_turned_into_millimetres(tmp_path, code, factor):
    path = _write(tmp_path / "x.nii", _array(), affine=np.diag([2.0, 2.0, 2.0, 1.0]), xyzt_units=code)
    assert nifti.read_header(path).spacing_mm == pytest.approx((2 * factor,) * 3)


def test_a_file_of_unknown_orientation_is_refused(tmp_path):
    path = _patched(_write(tmp_path / "x.nii", _array()), 252, "<hh", 0, 0)  # qform_code, sform_code
    assert _reason(path) == "nifti.orientation"


def test_a_fourth_axis_gives_several_volumes(tmp_path):
    array = _array(shape=(5, 6, 7, 3))
    volumes = nifti.read_volumes(_write(tmp_path / "x.nii.gz", array))
    assert len(volumes) == nifti.read_header(tmp_path / "x.nii.gz").n_volumes == 3
    for index, volume in enumerate(volumes):
        assert np.array_equal(volume.array, array[..., index].transpose(2, 1, 0))
    assert _reason(_write(tmp_path / "many.nii", np.zeros((2, 2, 2, 65), np.uint8))) == "nifti.volumes"
    assert _reason(_write(tmp_path / "vector.nii", np.zeros((2, 2, 2, 1, 3), np.uint8))) == "nifti.vector"


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (0.0, 7.0, "int16"),
        (float("nan"), 0.0, "int16"),
        (1.0, 0.0, "int16"),
        (2.0, -1024.0, "int16"),
        (1.0, 60000.0, "uint16"),
        (0.5, 0.0, "float32"),
    ],
)
def test_slope_and_intercept_are_applied_unless_they_are_absent(tmp_path, slope, intercept, expected):
    path = _write(tmp_path / "x.nii", _array())
    _patched(path, 112, "<ff", slope, intercept)  # scl_slope, scl_inter
    (volume,) = nifti.read_volumes(path)
    stored = _array().transpose(2, 1, 0).astype(float)
    absent = slope == 0 or np.isnan(slope)
    assert volume.array.dtype == expected
    assert np.allclose(volume.array, stored if absent else stored * slope + intercept)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int8", [-5, 5], "int16"),
        ("int32", [-1207, 3382], "int16"),
        ("int32", [0, 65535], "uint16"),
        ("int32", [-(2**24), 2**24], "float32"),
        ("uint32", [0, 2**24], "float32"),
        ("int64", [-1, 40000], "float32"),
        ("float64", [-1024, 3000], "int16"),
        ("float64", [0.25, 2.0**100], "float32"),
        ("float32", [0.1, 7], "float32"),
    ],
)
def test_other_types_become_ours_without_loss(tmp_path, dtype, values, expected):
    array = np.array(values, dtype).reshape(2, 1, 1)
    (volume,) = nifti.read_volumes(_write(tmp_path / "x.nii", array))
    assert volume.array.dtype == expected
    assert np.array_equal(volume.array.ravel(), array.ravel())


@pytest.mark.parametrize(
    ("dtype", "values", "reason"),
    [
        ("int32", [0, 2**24 + 1], "nifti.range"),
        ("float64", [0.5, 1e300], "nifti.range"),
        ("float64", [0.5, np.nan], "nifti.not_finite"),
        ("float32", [0.5, np.inf], "nifti.not_finite"),
        ("complex64", [0, 1], "nifti.colour"),
    ],
)
def test_values_that_fit_no_type_are_refused(tmp_path, dtype, values, reason):
    assert _reason(_write(tmp_path / "x.nii", np.array(values, dtype).reshape(2, 1, 1))) == reason


def test_colour_is_refused(tmp_path):
    array = np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert _reason(_write(tmp_path / "x.nii", array)) == "nifti.colour"


def test_labels_are_whole_numbers_whatever_their_type_and_scaling(tmp_path):
    path = _write(tmp_path / "x.nii", _array("uint8"))
    _patched(path, 112, "<ff", 0.0999999, 0.0)
    _patched(path, 352, "<210B", *[(n % 3) * 10 for n in range(210)])
    (volume,) = nifti.read_labels(path)
    assert (volume.kind, volume.array.dtype) == ("label", np.uint8)
    assert set(np.unique(volume.array)) == {0, 1, 2}
    (wide,) = nifti.read_labels(_write(tmp_path / "wide.nii", np.array([0, 300], "float32").reshape(2, 1, 1)))
    assert wide.array.dtype == np.uint16


@pytest.mark.parametrize("values", [[0, 0.5], [-1, 0], [0, 70000]])
def test_what_is_no_label_map_is_refused(tmp_path, values):
    path = _write(tmp_path / "x.nii", np.array(values, "float32").reshape(2, 1, 1))
    with pytest.raises(Refused, match=r"nifti\.labels"):
        nifti.read_labels(path)


def _quick(path: Path) -> str:
    start = time.monotonic()
    reason = _reason(path)
    assert time.monotonic() - start < 5
    return reason


@pytest.mark.parametrize(
    ("offset", "layout", "values", "reason"),
    [
        (40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1), "nifti.size"),
        (40, "<8h", (4, 512, 512, 512, 64, 1, 1, 1), "nifti.size"),
        (40, "<8h", (3, 0, 6, 7, 1, 1, 1, 1), "nifti.corrupt"),
        (40, "<8h", (3, -5, 6, 7, 1, 1, 1, 1), "nifti.corrupt"),
        (40, "<8h", (0, 5, 6, 7, 1, 1, 1, 1), "nifti.corrupt"),
        (40, "<8h", (99, 5, 6, 7, 1, 1, 1, 1), "nifti.corrupt"),
        (40, "<8h", (3, 500, 600, 700, 1, 1, 1, 1), "nifti.truncated"),
        (70, "<h", (1,), "nifti.dtype"),
        (70, "<h", (1536,), "nifti.dtype"),
        (108, "<f", (float("nan"),), "nifti.corrupt"),
        (108, "<f", (1e30,), "nifti.corrupt"),
        (108, "<f", (0.0,), "nifti.corrupt"),
        (108, "<f", (1e6,), "nifti.truncated"),
        (108, "<f", (352.5,), "nifti.corrupt"),
        (72, "<h", (8,), "nifti.corrupt"),
        (42, "<h", (4,), "nifti.extra"),
        (112, "<ff", (2.0, float("inf")), "nifti.corrupt"),
        (280, "<4f", (0.0, 0.0, 0.0, 0.0), "nifti.affine"),
        (280, "<4f", (float("nan"), 0.0, 0.0, 0.0), "nifti.affine"),
        (344, "4s", (b"ni1\0",), "nifti.detached"),
        (344, "4s", (b"xxx\0",), "nifti.not_nifti"),
    ],
)
def test_headers_that_lie_are_refused_quickly(tmp_path, offset, layout, values, reason):
    path = _patched(_write(tmp_path / "x.nii", _array()), offset, layout, *values)
    assert _quick(path) == reason


def test_an_impossible_qform_is_refused(tmp_path):
    path = _patched(_write(tmp_path / "x.nii", _array()), 252, "<hh", 1, 0)
    assert _quick(_patched(path, 256, "<3f", 5.0, 5.0, 5.0)) == "nifti.affine"


@pytest.mark.parametrize("data", [b"", b"\x5c\x01\x00\x00", os.urandom(5000), gzip.compress(b"no"), b"\x1f\x8b" * 99])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "x.nii").write_bytes(data)
    assert _quick(tmp_path / "x.nii") in ("nifti.not_nifti", "nifti.corrupt", "nifti.truncated")


def test_a_gzip_bomb_costs_no_more_than_it_declares(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    header = _write(tmp_path / "x.nii", _array()).read_bytes()
    path.write_bytes(gzip.compress(header) + gzip.compress(bytes(50_000_000)) * 40)  # 2 GB behind the voxels
    assert _quick(path) == "nifti.extra"
    data = bytearray(header)
    struct.pack_into("<8h", data, 40, 3, 1000, 1000, 1000, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(data)))
    assert _quick(path) == "nifti.truncated"


def test_cut_and_damaged_files_are_refused(tmp_path):
    array = np.random.default_rng(0).integers(0, 3000, (40, 40, 40), np.int16)
    path = _write(tmp_path / "x.nii.gz", array)
    whole = path.read_bytes()
    for length in (10, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert _reason(path) in ("nifti.truncated", "nifti.corrupt"), length
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    path.write_bytes(broken)
    assert _reason(path) == "nifti.corrupt"
    plain = _write(tmp_path / "x.nii", array)
    plain.write_bytes(plain.read_bytes()[:-1])
    assert _reason(plain) == "nifti.truncated"


def test_a_file_is_not_taken_for_the_one_of_its_name_that_lies_beside_it(tmp_path):
    """ITK, asked for x.nii.gz beside x.nii, gives the voxels of the latter."""
    for name, value in (("x.nii", 1), ("x.nii.gz", 2), ("x.hdr", 3)):
        _write(tmp_path / name, np.full((5, 6, 7), value, "int16"))
    for name, value in (("x.nii", 1), ("x.nii.gz", 2)):
        assert np.unique(nifti.read_volumes(tmp_path / name)[0].array).tolist() == [value]


def test_a_file_of_several_gzip_members_is_one_file(tmp_path):
    whole = _write(tmp_path / "x.nii", _array()).read_bytes()
    (tmp_path / "x.nii.gz").write_bytes(
        gzip.compress(whole[:100]) + gzip.compress(whole[100:500]) + gzip.compress(whole[500:])
    )
    assert np.array_equal(nifti.read_volumes(tmp_path / "x.nii.gz")[0].array, _array().transpose(2, 1, 0))


@pytest.mark.parametrize(("name", "slope", "limit"), [("x.nii", 1, 1.3), ("x.nii.gz", 1, 1.3), ("x.nii.gz", 0.5, 3.3)])
def test_memory_stays_near_the_volume_itself(tmp_path, name, slope, limit):
    """int16 that stays so is held once; scaled to float32, which is twice the size, it is held beside its result."""
    path = _patched(_write(tmp_path / "plain.nii", _array(shape=(256, 256, 100))), 112, "<ff", slope, 0.0)
    data = path.read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    nifti.read_volumes(path)
    tracemalloc.start()
    nifti.read_volumes(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit * 256 * 256 * 100 * 2 + (4 << 20)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_headers_are_read_or_refused(tmp_path, changes):
    data = bytearray(_write(tmp_path / "x.nii", _array()).read_bytes())
    for place, value in changes:
        data[place] = value
    (tmp_path / "y.nii").write_bytes(data)
    with contextlib.suppress(Refused):
        assert nifti.read_volumes(tmp_path / "y.nii")


def _corpus() -> list[Path]:
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not folder:
        pytest.skip("needs MEDLOOM_TEST_CORPUS: it names no folder")
    return sorted(Path(folder, "imaging/nifti").rglob("*.nii*"))


def test_the_corpus_agrees_with_nibabel():
    refused: dict[str, str] = {}
    paths = _corpus()
    for path in paths:
        try:
            volumes = nifti.read_volumes(path)
        except Refused as error:
            refused[path.name] = error.reason
            continue
        image = nib.load(path)
        expected = np.asarray(image.dataobj)
        expected = expected.reshape(*expected.shape[:3], -1)
        for index, volume in enumerate(volumes):
            assert np.allclose(volume.array.T, expected[..., index], rtol=1e-6), path.name
            assert np.allclose(LPS @ volume.affine, image.affine, atol=1e-6), path.name
    canonical = [v.canonical() for p in paths if p.parent.name == "orient" for v in nifti.read_volumes(p)]
    assert len(canonical) == 16
    for volume in canonical:
        assert np.array_equal(volume.array, canonical[0].array)
        assert np.abs(volume.affine - canonical[0].affine).max() < 1e-3
    assert refused == {"ct_perfusion.nii.gz": "nifti.colour", "minimal.nii.gz": "nifti.orientation"}
