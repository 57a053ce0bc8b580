"""Contents of foreign members: checksum, shape, type and chunks, read once so that later reads can be checked."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import crc32c
import pyarrow as pa

from medloom.schemas.array_headers import LONGEST_NIFTI, ArrayHeader, nifti_header, npy_header
from medloom.schemas.b2nd import chunk_table
from medloom.schemas.b2nd_read import frame_facts
from medloom.schemas.errors import FormatError
from medloom.schemas.tar_names import PICTURES, suffix_of
from medloom.schemas.tar_samples import MEMBERS

_WINDOW = 8 << 20  # bytes of one read; members come one after the other
_LONGEST = 2**31 - 1  # extent of an axis that a shape's column holds
_UNKNOWN: dict[str, Any] = {name: None for name in MEMBERS.names[MEMBERS.names.index("crc32c") + 1 :]}


def with_contents(members: pa.Table, read: Callable[[int, int], bytes], *, where: str) -> tuple[pa.Table, int]:
    """Return members of one tar with what their bytes say, and how many are not what their names say.

    Raises:
        FormatError: the tar became shorter since it was walked.
    """
    places = list(zip(*(members[name].to_pylist() for name in ("field", "offset", "size")), strict=True))
    facts: list[dict[str, Any]] = [{}] * len(places)
    wrong = 0
    order = sorted(range(len(places)), key=lambda number: places[number][1])
    for number, data in zip(order, _each(read, [places[n][1:] for n in order]), strict=True):
        field, offset, size = places[number]
        if len(data) != size:
            raise FormatError(f"{where} ends before byte {offset + size}, where its walk found {field}")
        try:
            said = facts_of(field, data)
        except FormatError:
            said, wrong = _UNKNOWN, wrong + 1
        if max(said["shape"] or (0,)) > _LONGEST:
            said = _UNKNOWN
        facts[number] = {"crc32c": crc32c.crc32c(data), **said}
    for name in ("crc32c", *_UNKNOWN):
        column = pa.array([fact[name] for fact in facts], MEMBERS.field(name).type)
        members = members.set_column(MEMBERS.names.index(name), MEMBERS.field(name), column)
    return members, wrong


def facts_of(field: str, data: bytes) -> dict[str, Any]:
    """Return shape, dtype and chunk columns of a member by its field's name; None where they are not known.

    Raises:
        FormatError: its bytes are not what its name says.
    """
    suffix = suffix_of(field)
    if suffix in PICTURES:
        return _UNKNOWN | {"shape": _picture_shape(data), "dtype": "uint8"}
    if suffix == "b2nd":
        return _frame_facts(data)
    header: ArrayHeader | None = None
    if suffix == "npy":
        header = npy_header(data)
    elif suffix == "nii":
        header = nifti_header(data)
    elif suffix == "nii.gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                header = nifti_header(file.read(LONGEST_NIFTI))
        except (OSError, EOFError, zlib.error) as fault:
            raise FormatError(f"a .nii.gz file does not unpack ({fault})") from fault
    return _UNKNOWN | ({"shape": list(header.shape), "dtype": header.decoded_dtype.name} if header else {})


def _picture_shape(data: bytes) -> list[int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            channels = 1 if image.mode in ("1", "L") or image.mode.startswith("I") else 3
            return [image.height, image.width, 4 if image.has_transparency_data else channels]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise FormatError(f"a picture does not open ({fault})") from fault


def _frame_facts(data: bytes) -> dict[str, Any]:
    import blosc2

    shape, dtype = frame_facts(data)
    known = _UNKNOWN | {"shape": list(shape), "dtype": dtype}
    try:
        frame = blosc2.ndarray_from_cframe(data)
        chunks = chunk_table(data)
    except FormatError:  # a chunk that is stored in a way that ours never is: it is read whole
        return known
    except (RuntimeError, ValueError, TypeError, SyntaxError, struct.error) as fault:
        raise FormatError(f"{len(data)} bytes are not a whole b2nd frame ({fault})") from fault
    if not frame.dtype.isnative:  # chunks are cut as they are stored, and no column says in which order their bytes are
        return known
    return known | {
        "chunk_shape": list(frame.chunks), "block_shape": list(frame.blocks), "chunk_offsets": list(chunks.offsets),
        "chunk_sizes": list(chunks.sizes), "chunk_crc32c": list(chunks.crc32c),
    }  # fmt: skip


def _each(read: Callable[[int, int], bytes], places: list[tuple[int, int]]) -> Iterator[bytes]:
    """Give the bytes at each (offset, size), ascending, by reads of `_WINDOW` bytes."""
    begin, window, last = 0, b"", places[-1][0] + places[-1][1] if places else 0
    for offset, size in places:
        if not begin <= offset <= offset + size <= begin + len(window):
            begin, window = offset, read(offset, min(last, offset + max(size, _WINDOW)))
        yield window[offset - begin : offset - begin + size]
