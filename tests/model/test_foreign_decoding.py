import gzip
import io
import struct
import zipfile
import zlib
from functools import partial

import nibabel
import numpy as np
import pytest
import zstandard
from PIL import Image
from tests import foreign

from medloom.model.decoding import decoder_of
from medloom.model.foreign_decoding import FOREIGN_DECODERS
from medloom.model.places import FieldPlace
from medloom.schemas.array_headers import npy_header
from medloom.schemas.errors import FormatError


def decode(
    data: bytes, name: str, *, shape: tuple[int, ...] = (), dtype: str = "", writable: bool = False
) -> np.ndarray:
    decoder = decoder_of(name, FOREIGN_DECODERS)
    view = memoryview(bytearray(data) if writable else data)
    return decoder(view, FieldPlace(0, len(data), shape=shape, dtype=dtype), np.empty)


ARRAY = foreign.volume(7)
FORMS = {
    "npy": foreign.as_npy(ARRAY), "npz": foreign.as_npz(data=ARRAY), "npy.zst": foreign.as_npy_zst(ARRAY),
    "nii": foreign.as_nifti(ARRAY), "ct.nii.gz": gzip.compress(foreign.as_nifti(ARRAY)),
    "b2nd": foreign.as_b2nd(ARRAY), "webp": foreign.picture(3, "WEBP"), "jpg": foreign.picture(3),
}  # fmt: skip


@pytest.mark.parametrize("name", ["npy", "npz", "npy.zst", "nii", "ct.nii.gz", "b2nd"])
@pytest.mark.parametrize("writable", [False, True])
def test_arrays_come_as_they_were_stored(name, writable):
    found = decode(FORMS[name], name, writable=writable)
    assert found.dtype == np.int16
    assert found.flags.writeable or name == "npy"
    assert np.array_equal(found, ARRAY)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "float32", "float64", "bool", ">i2", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_number_and_order(dtype, order):
    array = np.asarray(ARRAY % 2 if dtype == "bool" else ARRAY % 100, dtype, order=order)
    for name, data in (("npy", foreign.as_npy(array)), ("npy.zst", foreign.as_npy_zst(array))):
        for writable in (False, True):
            found = decode(data, name, writable=writable)
            assert np.array_equal(found, array)
            assert found.dtype.isnative


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("two", [False, True])
def test_nifti_is_what_nibabel_reads(dtype, two):
    data = foreign.as_nifti((ARRAY % 100).astype(dtype), two=two)
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    for name, packed in (
        ("nii", data),
        ("nii.gz", gzip.compress(data)),
        ("nii.gz", gzip.compress(data[:99]) + gzip.compress(data[99:])),
    ):
        found = decode(packed, name)
        assert found.dtype == dtype
        assert np.array_equal(found, np.asarray(kind.from_bytes(data).dataobj).T)


def test_big_endian_nifti(tmp_path):
    image = nibabel.Nifti1Image(ARRAY.T.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    assert image.to_bytes()[:4] == struct.pack(">i", 348)
    assert np.array_equal(decode(image.to_bytes(), "nii"), ARRAY)


def test_scaled_nifti_has_the_values_meant():
    data = foreign.as_nifti(ARRAY, slope=0.5, inter=-1024.0)
    for name, packed in (("nii", data), ("nii.gz", gzip.compress(data))):
        found = decode(packed, name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, nibabel.Nifti1Image.from_bytes(data).get_fdata().T, rtol=1e-6)


def test_axes_of_four_dimensional_nifti():
    several = foreign.volume(1, (3, 4, 5, 6))
    assert np.array_equal(decode(foreign.as_nifti(several), "nii"), several)
    assert decode(foreign.as_nifti(several[:1]), "nii").shape == (4, 5, 6)


def test_webp_is_what_pillow_reads():
    found = decode(FORMS["webp"], "webp")
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(FORMS["webp"]))))
    clear = io.BytesIO()
    Image.new("RGBA", (5, 4), (1, 2, 3, 128)).save(clear, "WEBP", lossless=True)
    assert decode(clear.getvalue(), "webp").shape == (4, 5, 4)


def test_the_array_of_an_npz_that_is_meant():
    assert np.array_equal(decode(foreign.as_npz(mask=ARRAY, image=ARRAY + 1), "npz"), ARRAY + 1)
    assert np.array_equal(decode(foreign.as_npz(anything=ARRAY), "npz"), ARRAY)
    for arrays in ({}, {"a": ARRAY, "b": ARRAY}):
        with pytest.raises(FormatError, match=r"a \.npz file holds"):
            decode(foreign.as_npz(**arrays), "npz")


@pytest.mark.parametrize("name", ["npy", "npz", "npy.zst", "nii", "ct.nii.gz"])
def test_an_array_of_another_shape_than_its_index_says_is_refused(name):
    assert decode(FORMS[name], name, shape=(9, 20, 24), dtype="int16").shape == (9, 20, 24)
    for shape, dtype in (((9, 20, 25), "int16"), ((9, 20, 24), "uint16")):
        with pytest.raises(FormatError, match="where its index says"):
            decode(FORMS[name], name, shape=shape, dtype=dtype)


@pytest.mark.parametrize("name", FORMS)
def test_cut_files_are_refused(name):
    data = FORMS[name]
    for length in (0, 1, 5, 9, 20, 100, 347, len(data) // 2, len(data) - 9):
        if length >= len(data) or (name == "jpg" and length > 300):
            continue  # Pillow fills in the rest of a JPEG or refuses it; both are its own affair
        with pytest.raises(FormatError):
            decode(data[:length], name)


@pytest.mark.parametrize("name", FORMS)
def test_no_flipped_bit_raises_anything_but_an_error_of_format(name):
    data, refused = FORMS[name], 0
    places = {*range(min(len(data), 400)), *range(400, len(data), max(len(data) // 400, 1))}
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        try:
            decode(bytes(flipped), name)
        except FormatError:
            refused += 1
    assert refused > 3


def npy(descr: object, shape: object, data: bytes = b"") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def test_npy_of_objects_is_never_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name, data in (("npy", file.getvalue()), ("npy", npy("|O", (1,))), ("npy", npy([("a", "<i2")], (1,)))):
        with pytest.raises(FormatError):
            decode(data, name)


@pytest.mark.parametrize(
    "data",
    [
        npy("<i2", (1 << 40,)), npy("<i2", (1 << 62, 4)), npy("<i2", (-1,)), npy("<i2", ()), npy("<i2", (0, 3)),
        npy("<c8", (1,), bytes(8)), npy("<U3", (1,), bytes(12)), npy("<i2", (1.5,)), npy("<i2", (True,), b"\0\0"),
        npy("nonsense", (1,)), b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, b"\x93NUMPY\x09\x00\x10\x00" + bytes(16),
    ],
    ids=range(12),
)  # fmt: skip
def test_headers_of_npy_that_ask_for_the_impossible(data):
    with pytest.raises(FormatError):
        npy_header(data)


def test_what_unpacks_to_more_than_it_announces_is_not_unpacked():
    zeros = bytes(64 << 20)
    small = npy("<i2", (2,), b"\1\0\2\0")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", small + zeros)
    bombs = {
        "npy.zst": zstandard.ZstdCompressor().compress(small + zeros), "npz": file.getvalue(),
        "nii.gz": gzip.compress(foreign.as_nifti(ARRAY) + zeros),
    }  # fmt: skip
    for name, data in bombs.items():
        with pytest.raises(FormatError, match="followed by more than"):
            decode(data, name)


def test_a_gzip_checksum_that_is_wrong_is_noticed():
    data = bytearray(FORMS["ct.nii.gz"])
    (crc, _) = struct.unpack("<II", data[-8:])
    assert crc == zlib.crc32(foreign.as_nifti(ARRAY))
    data[-8:-4] = struct.pack("<I", crc ^ 1)
    with pytest.raises(FormatError, match="does not unpack"):
        decode(bytes(data), "nii.gz")


def test_plain_npy_is_not_copied():
    data = memoryview(bytearray(64) + bytearray(FORMS["npy"]))[64:]
    decoder = partial(FOREIGN_DECODERS["npy"], data, FieldPlace(0, len(data)))
    found = decoder(np.empty)
    data[-2:] = b"\x39\x05"
    assert found[-1, -1, -1] == 1337


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_flipped_bit_of_an_npz_of_any_method_raises_anything_but_an_error_of_format(method):
    file, refused = io.BytesIO(), 0
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("data.npy", foreign.as_npy(ARRAY[:1, :4]))
    data = file.getvalue()
    assert np.array_equal(decode(data, "npz"), ARRAY[:1, :4])
    for place in range(len(data)):
        for bit in (0, 4, 7):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                decode(bytes(flipped), "npz")
            except FormatError:
                refused += 1
    assert refused > len(data)


def test_more_axes_than_numpy_has_are_refused():
    assert decode(npy("<i2", (1,) * 32, b"\1\0"), "npy").ndim == 32
    for axes in (33, 65, 200):
        with pytest.raises(FormatError, match=f"has {axes} axes"):
            decode(npy("<i2", (1,) * axes, b"\1\0"), "npy")
