"""Each kind of member decodes to what another decoder says it holds, or to an error that says what is wrong."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from medloom.model.decoding import DECODERS, decode_b2nd, decode_jpeg, decode_picture, decoder_of
from medloom.model.places import FieldPlace
from medloom.schemas.b2nd import encode_volume
from medloom.schemas.errors import FormatError


def picture(mode="RGB", size=(37, 23), kind="JPEG", **settings) -> bytes:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    (image.convert(mode) if mode != "I;16" else Image.new(mode, size)).save(file, kind, **settings)
    return file.getvalue()


def decoded(decode, data: bytes, **facts) -> np.ndarray:
    taken = []

    def take(shape, dtype):
        assert np.prod(shape, dtype=np.int64) < 1 << 24
        taken.append(np.full(shape, 9, dtype))
        return taken[-1]

    array = decode(memoryview(data), FieldPlace(0, len(data), **facts), take)
    assert array is taken[-1]
    return array


@pytest.mark.parametrize(
    "settings",
    [{"quality": 90}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"quality": 20, "optimize": True}],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_what_pillow_makes_of_it(mode, settings):
    data = picture(mode, **settings)
    array = decoded(decode_jpeg, data)
    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(23, 37, -1)
    assert array.shape == expected.shape
    assert np.abs(array.astype(int) - expected).max() <= 1  # two builds of libjpeg-turbo


def test_a_jpeg_with_four_inks_becomes_colours():
    data = picture("CMYK")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decoded(decode_jpeg, data), expected)


def test_a_jpeg_with_rubbish_before_its_end_is_what_pillow_makes_of_it():
    """libjpeg warns and goes on; what was good enough when the data set was made is so now."""
    data = picture(icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    grown = data[:-2] + b"\0\1\2\3" + data[-2:]
    expected = np.asarray(Image.open(io.BytesIO(grown)))
    assert np.abs(decoded(decode_jpeg, grown).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("RGBA", 4), ("LA", 4), ("I;16", 1)]
)
def test_a_png_of_any_kind_becomes_rows_columns_channels(mode, channels):
    array = decoded(decode_picture, picture(mode, kind="PNG"))
    assert (array.shape, array.dtype) == ((23, 37, channels), np.uint8)


def test_a_png_is_bit_exact():
    data = picture("RGB", kind="PNG")
    assert np.array_equal(decoded(decode_picture, data, shape=(23, 37, 3)), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("decode", [decode_jpeg, decode_picture])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_of_another_size_than_its_index_row_says_is_refused(decode, kind):
    data = picture(kind=kind)
    with pytest.raises(FormatError, match=r"shape \(23, 37, 3\).*\(24, 37, 3\)"):
        decoded(decode, data, shape=(24, 37, 3))


@pytest.mark.parametrize("decode", [decode_jpeg, decode_picture])
def test_what_does_not_decode_is_refused(decode):
    for data in (b"", b"\xff\xd8\xff", picture()[:200], picture(kind="PNG")[:100], b"GIF89a" + bytes(50), bytes(3000)):
        with pytest.raises(FormatError, match="does not decode"):
            decoded(decode, data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_half_a_picture_is_refused_even_where_pillow_was_told_to_take_it(kind, monkeypatch):
    whole = picture(kind=kind, size=(300, 200), **({"comment": b"\xff\xd9"} if kind == "JPEG" else {}))
    before = decoded(decode_picture, whole)  # the comment holds a JPEG's end marker, as a thumbnail would
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.array_equal(decoded(decode_picture, whole), before)
    for end in (len(whole) // 2, len(whole) - 12):
        for decode in (decode_jpeg, decode_picture):
            with pytest.raises(FormatError, match="does not decode"):
                decoded(decode, whole[:end])


def test_a_picture_that_claims_to_be_enormous_is_refused_before_it_is_decoded():
    data = bytearray(picture())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xdc\xff\xdc"  # height and width
    with pytest.raises(FormatError, match=r"does not decode.*pixels"):
        decoded(decode_jpeg, bytes(data))


def test_a_volume_is_bit_exact_with_and_without_what_an_index_says():
    array = np.random.default_rng(0).integers(-1000, 1000, (9, 33, 35)).astype(np.int16)
    member = encode_volume(array, isotropic=False)
    assert np.array_equal(decoded(decode_b2nd, member.data), array)
    assert np.array_equal(decoded(decode_b2nd, member.data, shape=array.shape, dtype="int16"), array)
    for wrong in ({"shape": (9, 33, 36), "dtype": "int16"}, {"shape": array.shape, "dtype": "uint16"}):
        with pytest.raises(FormatError):
            decoded(decode_b2nd, member.data, **wrong)


def test_a_frame_that_claims_to_be_enormous_is_refused():
    import blosc2

    grid = {"chunks": (1 << 13, 1 << 13), "blocks": (1 << 9, 1 << 9)}
    data = blosc2.zeros((1 << 16, 1 << 16), dtype="float64", **grid).to_cframe()
    assert len(data) < 1000
    with pytest.raises(FormatError, match="too large"):
        decoded(decode_b2nd, data)


def test_the_longest_suffix_chooses_the_decoder():
    table = {**DECODERS, "npy.zst": "both", "zst": "one"}
    assert decoder_of("ct.b2nd", DECODERS) is decode_b2nd
    assert decoder_of("JPG", DECODERS) is decoder_of("thumb.jpeg", DECODERS) is decode_jpeg
    assert (decoder_of("ct.npy.zst", table), decoder_of("a.zst", table)) == ("both", "one")
    assert decoder_of("txt", DECODERS) is None
    assert decoder_of("b2nd.txt", DECODERS) is None
