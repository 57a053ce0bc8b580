"""Images: 2D pictures from bytes that nobody vouches for, in their own encoding wherever it can be kept.

Size and format are checked before anything is decoded, and everything kept has been decoded once.
"""

import io
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.image_metadata import PNG_SIGNATURE, Stripped, strip_jpeg, strip_png
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
MIN_SIDE_PX = 16
HEAD_BYTES = 2048  # what `sniff` needs
JPEG_QUALITY = 95  # where a JPEG must be re-encoded because its EXIF says that it lies on its side

# What Pillow raises for broken files, beside its own errors, all of which are OSError.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
_TURNS = {  # EXIF orientation to the name of Pillow's Transpose that undoes it
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def sniff(head: bytes) -> str:
    """Return what a file is by its first `HEAD_BYTES` bytes, never by its name.

    One of "jpg", "png", "tiff", "gif", "dicom", "nifti", "nifti.gz", "nrrd", "mha" (a MetaImage that holds its voxels),
    "mhd" (one whose voxels lie beside it), "mgh", "mgz", "xml", "pdf", "zip", "tar", "tar.gz", "unknown".
    """
    if head[128:132] == b"DICM":  # first: the preamble before it may make the file a TIFF as well (PS3.10, 7.1)
        return "dicom"
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if _is_bare_dicom(head):
        return "dicom"
    if _is_nifti(head):
        return "nifti"
    if head[257:262] == b"ustar":
        return "tar"
    if head[:2] == b"\x1f\x8b":
        inside = _first_of_gzip(head)
        if _is_nifti(inside):
            return "nifti.gz"
        return "mgz" if _is_mgh(inside) else "tar.gz" if inside[257:262] == b"ustar" else "unknown"
    if _is_mgh(head):
        return "mgh"
    if found := _META_START.match(head):
        place = _META_DATA.search(head, found.end() - 1)
        return "mha" if not place or place[1].upper() == b"LOCAL" else "mhd"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "xml" if text[:1] == b"<" or head[:4] in (b"\xff\xfe<\x00", b"\xfe\xff\x00<") else "unknown"


_STARTS = (
    (b"\xff\xd8\xff", "jpg"),
    (PNG_SIGNATURE, "png"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"%PDF-", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    *((b"NRRD000%d" % version, "nrrd") for version in range(1, 6)),
)
_META_START = re.compile(rb"(?i:\s*(?:Comment\s*=[^\r\n]*\s+)?(?:ObjectType\s*=\s*Image\s|NDims\s*=\s*\d+\s))")
_META_DATA = re.compile(rb"(?i:\nElementDataFile\s*=)[ \t]*([^\r\n]*?)[ \t]*\r?\n")


def _is_bare_dicom(head: bytes) -> bool:
    """Whether it looks like a data set without preamble: group 0002 or 0008 first, with a VR or a short length."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or len(head) < 8 or head[3] != 0:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or struct.unpack_from("<I", head, 4)[0] <= 64


def _is_nifti(head: bytes) -> bool:
    if len(head) >= 348 and head[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return head[344:348] in (b"n+1\x00", b"ni1\x00")
    return head[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and head[4:7] in (b"n+2", b"ni2")


def _is_mgh(head: bytes) -> bool:
    """Whether it starts with version 1, four small sizes and a type of FreeSurfer's."""
    if len(head) < 284 or head[:4] != b"\x00\x00\x00\x01":
        return False
    *sizes, kind = struct.unpack_from(">5i", head, 4)
    return all(0 < size < 1 << 20 for size in sizes) and kind in (0, 1, 3, 4, 10)


def _first_of_gzip(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:
        return b""


def read_picture(data: bytes) -> Picture:
    """Return the picture in `data` without its metadata.

    JPEG and PNG keep their encoding; an EXIF orientation is applied, and TIFF and GIF (first frame) become PNG, which
    re-encodes them (`reencoded`).

    Raises:
        Refused("image.format"): not a JPEG, PNG, TIFF or GIF, or a kind of it that has no 8-bit display.
        Refused("image.pixels"), ("image.too_small"), ("image.size"): beyond `MAX_PIXELS`, `MIN_SIDE_PX`, `MAX_BYTES`.
        Refused("image.truncated"), ("image.corrupt"): it does not decode as a whole.
    """
    if len(data) > MAX_BYTES:
        raise Refused("image.size", f"the file has {len(data)} bytes, more than {MAX_BYTES}")
    kind = sniff(data[:HEAD_BYTES])
    if kind == "jpg":
        return _read_jpeg(strip_jpeg(data))
    if kind == "png":
        stripped = strip_png(data)
        with _decoded(stripped.data, "PNG") as image:
            return Picture(stripped.data, "png", stripped.height, stripped.width, channels=_channels(image))
    if kind in ("tiff", "gif"):
        with _decoded(data, kind.upper()) as image:
            return encode_png(_pixels(image))
    raise Refused("image.format", f"the bytes are {kind}, not a JPEG, PNG, TIFF or GIF")


def decode_picture(picture: Picture) -> np.ndarray:
    """Return the pixels of `picture` as uint8 (Y, X, C): C is 1 for grey, 3 for RGB, 4 for RGBA.

    16-bit values are scaled to 8, palettes and CMYK become RGB.

    Raises:
        Refused("image.…"): as `read_picture`.
    """
    with _decoded(picture.data, {"jpg": "JPEG", "png": "PNG"}[picture.format]) as image:
        return _pixels(image)


def encode_png(pixels: np.ndarray) -> Picture:
    """Return uint8 `pixels` (Y, X) or (Y, X, C) with C of 1, 3 or 4 as a re-encoded PNG."""
    from PIL import Image

    squeezed = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    height, width = squeezed.shape[:2]
    check_size(height, width)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(squeezed)).save(file, format="PNG", compress_level=6)
    channels = 1 if squeezed.ndim == 2 else squeezed.shape[2]
    return Picture(file.getvalue(), "png", height, width, channels, reencoded=True)


def check_size(height: int, width: int) -> None:
    """Refuse a size beyond the limits, before anything is allocated for it."""
    if height * width > MAX_PIXELS:
        raise Refused("image.pixels", f"{width} x {height} pixels are more than {MAX_PIXELS}")
    if min(height, width) < MIN_SIDE_PX:
        raise Refused("image.too_small", f"{width} x {height} pixels: the shortest side is below {MIN_SIDE_PX}")


def _read_jpeg(stripped: Stripped) -> Picture:
    from PIL import Image

    with _decoded(stripped.data, "JPEG") as image:
        if stripped.orientation == 1:
            return Picture(stripped.data, "jpg", stripped.height, stripped.width, channels=_channels(image))
        upright = Image.fromarray(_pixels(image).squeeze(axis=2) if _channels(image) == 1 else _pixels(image))
        upright = upright.transpose(Image.Transpose[_TURNS[stripped.orientation]])
        file = io.BytesIO()
        upright.save(file, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
        channels = len(upright.getbands())
        return Picture(file.getvalue(), "jpg", upright.height, upright.width, channels, reencoded=True)


def _decoded(data: bytes, image_format: str) -> "Image.Image":
    """Return the decoded first frame of `data`, which must be of `image_format` and within the limits."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=[image_format])
            check_size(image.height, image.width)
            image.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise Refused("image.pixels", f"the picture has more than {MAX_PIXELS} pixels") from error
        except Image.UnidentifiedImageError as error:
            raise Refused("image.corrupt", f"the bytes do not hold a {image_format} that can be decoded") from error
        except _BROKEN as error:
            reason = "image.truncated" if "truncated" in str(error) else "image.corrupt"
            raise Refused(reason, f"the {image_format} does not decode as a whole ({type(error).__name__})") from error
    return image


def _channels(image: "Image.Image") -> int:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L") or image.mode.startswith("I;16") or image.mode == "I" else 3


def _pixels(image: "Image.Image") -> np.ndarray:
    """Return uint8 (Y, X, C) of a decoded image of any mode that has an 8-bit display."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        wide = np.asarray(image).astype(np.int64)
        return np.rint(wide / 257).clip(0, 255).astype(np.uint8)[:, :, np.newaxis]
    if image.mode in ("I", "F"):
        raise Refused("image.format", "32-bit values have no display range; store them as a volume")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[_channels(image)]
    pixels = np.asarray(image.convert(mode))
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
