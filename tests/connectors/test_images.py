"""Pictures keep their encoding and lose their metadata; what is broken or too large is refused before it costs."""

import gzip
import io
import struct
import time
import zlib

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from medloom.connectors.image_metadata import strip_jpeg
from medloom.connectors.images import decode_picture, encode_png, read_picture, sniff
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture

NAME = b"Doe^Jane"


def _gradient(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [(x * 4) % 256, (y * 6) % 256, (x + y) % 256, 255 - x]
    return np.stack(planes[:channels], axis=2).astype(np.uint8)


def _saved(pixels: np.ndarray | Image.Image, image_format: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    file = io.BytesIO()
    image.save(file, format=image_format, **options)
    return file.getvalue()


def _pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, raw: bytes = b"\0" * 100, *extra: bytes) -> bytes:
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", ihdr), *extra, _chunk(b"IDAT", zlib.compress(raw)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _reason(data: bytes) -> str:
    with pytest.raises(Refused) as error:
        read_picture(data)
    return error.value.reason


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = NAME.decode()
    return exif


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_loses_metadata_and_no_pixel(options, channels):
    data = _saved(_gradient(channels=channels), "JPEG", comment=NAME, exif=_exif(1), dpi=(300, 300), **options)
    assert NAME in data
    picture = read_picture(data)
    assert NAME not in picture.data
    assert b"Exif" not in picture.data
    assert not picture.reencoded
    assert (picture.format, picture.height, picture.width, picture.channels) == ("jpg", 40, 60, channels)
    assert np.array_equal(_pillow(picture.data), _pillow(data))
    assert np.array_equal(decode_picture(picture), _pillow(data, "L" if channels == 1 else "RGB").reshape(40, 60, -1))


def test_what_stands_behind_the_end_of_a_jpeg_is_dropped():
    plain = _saved(_gradient(), "JPEG")
    assert read_picture(plain + NAME * 10).data == read_picture(plain).data


def test_a_jfif_thumbnail_is_dropped():
    data = _saved(_gradient(), "JPEG")
    assert data[2:4] == b"\xff\xe0"
    with_thumbnail = data[:2] + b"\xff\xe0" + struct.pack(">H", 16 + 12) + data[6:18] + b"\x02\x02" + NAME + b"rest"
    with_thumbnail += data[20:]
    assert strip_jpeg(with_thumbnail).data == strip_jpeg(data).data


def test_the_segment_that_says_how_colours_are_coded_is_kept():
    plain = _saved(_gradient(), "JPEG")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # its last byte: components are RGB, not YCbCr
    data = plain[:2] + adobe + plain[20:]  # in the place of JFIF, which would overrule it
    assert not np.array_equal(_pillow(data), _pillow(plain))
    assert np.array_equal(decode_picture(read_picture(data)), _pillow(data))


def test_a_cmyk_jpeg_is_shown_in_rgb():
    data = _saved(Image.fromarray(_gradient()).convert("CMYK"), "JPEG")
    picture = read_picture(data)
    assert picture.channels == 3
    assert np.array_equal(decode_picture(picture), _pillow(data))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_jpeg_that_lies_on_its_side_is_set_upright(orientation):
    from PIL import ImageOps

    pixels = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((32, 32), np.uint8))
    data = _saved(pixels, "JPEG", quality=100, exif=_exif(orientation))
    picture = read_picture(data)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright is not None
    assert picture.reencoded
    assert (picture.height, picture.width) == (upright.height, upright.width)
    difference = decode_picture(picture)[:, :, 0].astype(int) - np.asarray(upright)
    assert np.abs(difference).max() <= 3
    assert NAME not in picture.data


def test_a_png_loses_text_and_no_pixel():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", NAME.decode())
    data = _saved(_gradient(), "PNG", pnginfo=info, exif=_exif(1), dpi=(72, 72))
    picture = read_picture(data)
    assert NAME in data
    assert NAME not in picture.data
    assert b"pHYs" not in picture.data
    assert not picture.reencoded
    assert np.array_equal(decode_picture(picture), _gradient())


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("LA", 4), ("RGBA", 4)])
def test_png_modes_have_the_pixels_that_pillow_shows(mode, channels):
    image = Image.fromarray(_gradient(channels=4 if channels == 4 else 3)).convert(mode)
    picture = read_picture(_saved(image, "PNG"))
    shown = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(40, 60, channels)
    assert picture.channels == channels
    assert np.array_equal(decode_picture(picture), shown)


def test_a_16_bit_png_is_scaled_not_clipped():
    wide = (np.arange(40 * 60, dtype=np.uint16) * 27).reshape(40, 60)
    picture = read_picture(_saved(Image.fromarray(wide), "PNG"))
    assert picture.channels == 1
    assert np.array_equal(decode_picture(picture)[:, :, 0], np.rint(wide / 257).astype(np.uint8))


@pytest.mark.parametrize("image_format", ["TIFF", "GIF"])
def test_tiff_and_gif_become_png(image_format):
    other = Image.new("RGB", (60, 40), "red")
    image = Image.fromarray(_gradient(channels=1).squeeze())
    data = _saved(image, image_format, save_all=True, append_images=[other])
    picture = read_picture(data)
    assert picture.format == "png"
    assert picture.reencoded
    assert np.array_equal(decode_picture(picture)[:, :, 0], _gradient(channels=1)[:, :, 0])


def test_a_float_tiff_has_no_display():
    assert _reason(_saved(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF")) == "image.format"


def test_encode_png_is_undone_by_decode_picture():
    for channels in (1, 3, 4):
        pixels = _gradient(channels=channels)
        picture = encode_png(pixels)
        assert (picture.channels, picture.reencoded) == (channels, True)
        assert np.array_equal(decode_picture(picture), pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image.format"),
        (b"hello world" * 100, "image.format"),
        (b"\xff\xd8\xff", "image.truncated"),
        (b"\xff\xd8\xff\xd9", "image.corrupt"),
        (b"\xff\xd8\xff\xe0\x00\x01", "image.corrupt"),
        (b"\x89PNG\r\n\x1a\n", "image.truncated"),
        (_png(30_000, 30_000), "image.pixels"),
        (_png(2**31 - 1, 2**31 - 1), "image.pixels"),
        (_png(0, 0), "image.corrupt"),
        (_png(1, 1, b"\0\0\0\0"), "image.too_small"),
        (_png(20, 20, b"\0" * 100), "image.truncated"),
        (b"\x89PNG\r\n\x1a\n" + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""), "image.corrupt"),
        (_saved(_gradient(), "PNG")[:-20], "image.truncated"),
        (_saved(_gradient(), "JPEG")[:-100], "image.truncated"),
        (_saved(_gradient(1, 1), "GIF"), "image.too_small"),
        (b"GIF89a" + b"\xff" * 100, "image.corrupt"),
        (b"GIF89a\x40\x00\x40\x00\x00\x00\x00;", "image.corrupt"),
        (b"II*\x00\x08\x00\x00\x00", "image.corrupt"),
    ],
)
def test_hostile_files_are_refused_quickly(data, reason):
    start = time.monotonic()
    assert _reason(data) == reason
    assert time.monotonic() - start < 5


def test_a_file_beyond_the_cap_is_refused(monkeypatch):
    monkeypatch.setattr("medloom.connectors.images.MAX_BYTES", 1000)
    assert _reason(_saved(_gradient(200, 200), "PNG") + bytes(1000)) == "image.size"


def test_a_wrong_checksum_is_refused():
    data = bytearray(_saved(_gradient(), "PNG"))
    data[60] ^= 1
    assert _reason(bytes(data)) == "image.corrupt"


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    image_format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF"]))
    broken = bytearray(_saved(_gradient(), image_format))
    for _ in range(data.draw(st.integers(1, 5))):
        broken[data.draw(st.integers(3, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = read_picture(bytes(broken))
    except Refused:
        return
    assert decode_picture(picture).shape == (picture.height, picture.width, picture.channels)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\x00", b"MM\x00+"]), st.binary())
def test_random_bytes_are_refused(start, rest):
    assert _reason(start + rest).startswith("image.")


def test_decode_picture_refuses_bytes_of_another_format():
    with pytest.raises(Refused, match=r"image\.corrupt"):
        decode_picture(Picture(_saved(_gradient(), "PNG"), "jpg", 40, 60, 3))


def _tar() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return file.getvalue()


def _nifti(magic: bytes = b"n+1\0") -> bytes:
    return struct.pack("<i", 348) + bytes(340) + magic + bytes(100)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "jpg"),
        (_png(20, 20), "png"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"GIF89a", "gif"),
        (bytes(128) + b"DICM", "dicom"),
        (b"II*\0" + bytes(124) + b"DICM", "dicom"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "dicom"),
        (_nifti(), "nifti"),
        (gzip.compress(_nifti()), "nifti.gz"),
        (b"<?xml version='1.0'?>", "xml"),
        (b"\xef\xbb\xbf\n <article>", "xml"),
        (b"%PDF-1.7", "pdf"),
        (b"PK\x03\x04", "zip"),
        (_tar(), "tar"),
        (gzip.compress(_tar()), "tar.gz"),
        (gzip.compress(b"hello"), "unknown"),
        (b"\x1f\x8b broken", "unknown"),
        (b"hello", "unknown"),
        (b"", "unknown"),
    ],
)
def test_sniff_knows_a_file_by_its_bytes(head, kind):
    assert sniff(head[:2048]) == kind


def test_sniff_knows_a_dicom_file_that_is_a_tiff_too():
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    with open(path, "rb") as file:
        head = file.read(2048)
    assert head[:2] == b"II"
    assert sniff(head) == "dicom"
