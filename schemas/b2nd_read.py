"""Reading b2nd: a whole frame into an array that is there, or a box of it from the chunks and blocks that it touches.

Chunks go one by one through `decompress2`, which lets other threads run; a frame's own indexing never does.
"""

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from medloom.schemas.b2nd import ZEROS
from medloom.schemas.errors import FormatError
from medloom.schemas.example import Box

Buffer = bytes | bytearray | memoryview
GetChunk = Callable[[int], Buffer]

# Big-endian integers in a frame's header, little-endian ones in a chunk's (c-blosc2: README_CFRAME_FORMAT and
# README_CHUNK_FORMAT); a chunk's header is followed by the place of each block, counted from the chunk's start.
_HEADER_LENGTH, _FRAME_LENGTH, _COMPRESSED_LENGTH, _METALAYERS = 11, 16, 39, 87
_FLAGS, _SIZES, _SPECIAL, _CHUNK_HEADER = 2, 4, 31, 32
_STORED_PLAIN = 0x02  # flag of a chunk that is not compressed: no places of blocks, no filters
_LONGEST = 2**31 - 1
_NUMBERS = "biufc"  # kinds of numpy's types that are one number per value

_scratch = threading.local()


@dataclass(frozen=True)
class ChunkTable:
    """Where the chunks of a b2nd member stand, so that some of them can be read and checked without the others.

    Attributes:
        shape, dtype: of the array.
        chunk_shape, block_shape: of its grid; edge chunks are stored padded to whole blocks.
        offsets: of each compressed chunk from the member's start, in C order of the grid; `ZEROS` for one of zeros.
        sizes, crc32c: its compressed bytes and their checksum; () in an index that has them not.
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...]
    block_shape: tuple[int, ...]
    offsets: Sequence[int] = ()
    sizes: Sequence[int] = ()
    crc32c: Sequence[int] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        """How many chunks along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk_shape, strict=True))

    @property
    def can_be_cut(self) -> bool:
        """Whether each chunk can be read and checked alone."""
        return bool(self.offsets) and len(self.offsets) == len(self.sizes) == len(self.crc32c) == prod(self.grid)


def chunks_of(box: Box, table: ChunkTable) -> list[int]:
    """Return the numbers of the chunks that hold a part of `box` (half-open, all lower bounds first), ascending."""
    rank, axes = len(table.shape), []
    for a, b, c, stride in zip(box[:rank], box[rank:], table.chunk_shape, _strides(table.grid), strict=True):
        axes.append([i * stride for i in range(a // c, -(-b // c))])
    return [sum(places) for places in product(*axes)]


def decode_box(get_chunk: GetChunk, table: ChunkTable, box: Box, out: np.ndarray) -> None:
    """Write the values of `box` into `out`, decoding only the blocks that hold some of them.

    Args:
        get_chunk: returns the compressed bytes of a chunk by its number; never asked for a chunk of zeros.
        box: half-open indices of the stored array, all lower bounds first.
        out: of the box's shape and the table's dtype.

    Raises:
        FormatError: a chunk is not what the table says, or does not decode.
        ValueError: the box is empty or not inside the array, or `out` is of another shape or dtype.
    """
    _check_box(box, table, out)
    whole = tuple(-(-c // b) for c, b in zip(table.chunk_shape, table.block_shape, strict=True))
    block_bytes = prod(table.block_shape) * out.dtype.itemsize
    for stretches in product(*_axes(box, table)):
        number = sum(stretch.number for stretch in stretches)
        part = out[tuple([stretch.target for stretch in stretches])]
        if table.offsets[number] == ZEROS:
            part[...] = 0
            continue
        grid = tuple([stretch.blocks for stretch in stretches])
        blocks = _blocks(get_chunk(number), whole, grid, block_bytes).view(out.dtype)
        _spread(blocks.reshape(*blocks.shape[: len(whole)], *table.block_shape), stretches, part)


def decode_into(data: Buffer, out: np.ndarray, *, expect: ChunkTable | None = None) -> None:
    """Write the whole array of the frame `data` into `out`.

    Raises:
        FormatError: `data` is no whole b2nd frame of `out`'s shape and dtype, or of the grid that `expect` has.
    """
    table, other = _opened(data, expect)
    if (table.shape, np.dtype(table.dtype)) != (out.shape, out.dtype):
        raise FormatError(
            f"a b2nd frame holds {table.dtype} {table.shape}, where {out.dtype} {out.shape} is to be found"
        )
    if other is not None:
        out[...] = other
    elif out.size:
        decode_box(_chunks_in(data, table), table, (*(0 for _ in out.shape), *out.shape), out)


def decode_box_of(data: Buffer, box: Box, out: np.ndarray, *, expect: ChunkTable | None = None) -> None:
    """Write the values of `box` of the frame `data` into `out`; errors as `decode_into` and `decode_box`."""
    table, other = _opened(data, expect)
    _check_box(box, table, out)
    if other is None:
        decode_box(_chunks_in(data, table), table, box, out)
    else:
        rank = len(table.shape)
        out[...] = other[tuple(slice(a, b) for a, b in zip(box[:rank], box[rank:], strict=True))]


def _chunks_in(data: Buffer, table: ChunkTable) -> GetChunk:
    view = memoryview(data)

    def chunk(number: int) -> memoryview:
        offset = table.offsets[number]
        return view[offset : offset + _length(view, offset)]

    return chunk


def frame_facts(data: Buffer) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a b2nd frame.

    Raises:
        FormatError: it is none, or not of numbers.
    """
    frame = _frame(data)
    return tuple(frame.shape), np.dtype(frame.dtype).name


def _frame(data: Buffer) -> Any:
    import blosc2

    try:
        frame = blosc2.ndarray_from_cframe(data)
        dtype = np.dtype(frame.dtype)  # parsed when it is asked for
    except (RuntimeError, ValueError, TypeError, SyntaxError) as fault:
        raise FormatError(f"cannot read a volume: {len(data)} bytes are not a whole b2nd frame ({fault})") from fault
    if dtype.kind not in _NUMBERS:
        raise FormatError(f"a b2nd frame is of {dtype}, which is not one number per value")
    return frame


def _opened(data: Buffer, expect: ChunkTable | None) -> tuple[ChunkTable, np.ndarray | None]:
    """Return the table of a frame; with the array itself where it is stored as MedLoom does not write it.

    That is in chunks of other kinds, or in the other byte order, which the table's dtype does not say.
    """
    if expect is not None and _is_described(data, expect):
        offsets = _offsets(data)
        if len(offsets) == prod(expect.grid) and all(offset >= ZEROS for offset in offsets):
            return replace(expect, offsets=offsets), None
    frame = _frame(data)
    found = ChunkTable(
        tuple(frame.shape), np.dtype(frame.dtype).name, tuple(frame.chunks), tuple(frame.blocks), _offsets(data)
    )
    if expect is not None:
        for name in ("shape", "dtype", "chunk_shape", "block_shape"):
            if getattr(found, name) != getattr(expect, name):
                raise FormatError(
                    f"a b2nd frame has {name} {getattr(found, name)}, where its index row says {getattr(expect, name)}"
                )
    if found.offsets and len(found.offsets) != prod(found.grid):
        raise FormatError(f"a b2nd frame has {len(found.offsets)} chunks, where its grid has {prod(found.grid)}")
    if np.dtype(frame.dtype).isnative and found.offsets and all(offset >= ZEROS for offset in found.offsets):
        return found, None
    import blosc2

    frame.schunk.dparams = blosc2.DParams(nthreads=1)
    try:
        return found, frame[...]
    except (RuntimeError, ValueError) as fault:
        raise FormatError(f"a b2nd frame does not decode ({fault})") from fault


def _is_described(data: Buffer, expect: ChunkTable) -> bool:
    """Whether a frame's header says just what `expect` says, and that the frame is as long as `data`.

    A comparison of bytes, a tenth of what it costs to open a frame; where it fails, the frame is opened and tells why.
    """
    if len(data) < _METALAYERS:
        return False
    (header,), (length,) = struct.unpack_from(">i", data, _HEADER_LENGTH), struct.unpack_from(">q", data, _FRAME_LENGTH)
    said = _metalayer(expect.shape, expect.dtype, expect.chunk_shape, expect.block_shape)
    return length == len(data) and bytes(data[_METALAYERS:header]) == said


@lru_cache(maxsize=1024)
def _metalayer(shape: tuple[int, ...], dtype: str, chunk_shape: tuple[int, ...], block_shape: tuple[int, ...]) -> bytes:
    """Return the metalayers of a frame of this grid as msgpack: one, named b2nd (README_B2ND_METALAYER)."""
    rank, name = len(shape), np.dtype(dtype).str.encode()
    said = bytes((0x97, 0, rank, 0x90 + rank)) + b"".join(b"\xd3" + struct.pack(">q", n) for n in shape)
    for extent in (chunk_shape, block_shape):
        said += bytes((0x90 + rank,)) + b"".join(b"\xd2" + struct.pack(">i", n) for n in extent)
    said += b"\0\xdb" + struct.pack(">i", len(name)) + name
    index = b"\x93\xcd\0\x11\xde\0\x01\xa4b2nd\xd2\0\0\0\x6b\xdc\0\x01"
    return index + b"\xc6" + struct.pack(">i", len(said)) + said


def _offsets(data: Buffer) -> list[int]:
    """Where each chunk starts in a frame; `ZEROS` for one of zeros, less than that for other chunks without bytes."""
    import blosc2

    (header,) = struct.unpack_from(">i", data, _HEADER_LENGTH)
    (compressed,) = struct.unpack_from(">q", data, _COMPRESSED_LENGTH)
    if not compressed:
        return []
    try:
        found = np.frombuffer(blosc2.decompress2(memoryview(data)[header + compressed :], nthreads=1), "<i8")
    except (RuntimeError, ValueError) as fault:
        raise FormatError(f"the table of chunks of a b2nd frame does not decode ({fault})") from fault
    kinds = (found >> 56) & 0xFF
    return np.where(found >= 0, found + header, np.where(kinds == 0x81, ZEROS, ZEROS - 1)).tolist()


def _check_box(box: Box, table: ChunkTable, out: np.ndarray) -> None:
    low, high = box[: len(box) // 2], box[len(box) // 2 :]
    inside = all(0 <= a < b <= n for a, b, n in zip(low, high, table.shape, strict=True))
    if not inside or out.shape != tuple(b - a for a, b in zip(low, high, strict=True)):
        raise ValueError(f"box {box} of an array of shape {table.shape} does not fill an array of shape {out.shape}")
    if out.dtype != np.dtype(table.dtype):
        raise ValueError(f"values of {table.dtype} do not go into an array of {out.dtype}")


class _Stretch(NamedTuple):
    """What a box is along one axis of one chunk.

    Attributes:
        number: what the chunk's place on the axis adds to its number.
        target: of the output.
        blocks: that hold it.
        runs: whole blocks, and parts of one, in order: (of these blocks, inside them, of the target).
    """

    number: int
    target: slice
    blocks: slice
    runs: list[tuple[slice, slice, slice]]


def _axes(box: Box, table: ChunkTable) -> list[list[_Stretch]]:
    rank, axes = len(table.shape), []
    strides = _strides(table.grid)
    for axis, (low, high) in enumerate(zip(box[:rank], box[rank:], strict=True)):
        chunk, block = table.chunk_shape[axis], table.block_shape[axis]
        stretches = []
        for i in range(low // chunk, -(-high // chunk)):
            a, b = max(low - i * chunk, 0), min(high - i * chunk, chunk)
            target = slice(i * chunk + a - low, i * chunk + b - low)
            blocks = slice(a // block, -(-b // block))
            stretches.append(_Stretch(i * strides[axis], target, blocks, _runs(a % block, b - a, block)))
        axes.append(stretches)
    return axes


def _strides(grid: tuple[int, ...]) -> list[int]:
    return [prod(grid[axis + 1 :]) for axis in range(len(grid))]


def _length(view: memoryview, offset: int) -> int:
    if offset + _CHUNK_HEADER > len(view):
        raise FormatError(f"a b2nd frame of {len(view)} bytes has a chunk at {offset}")
    (length,) = struct.unpack_from("<i", view, offset + _SIZES + 8)
    if not 0 < length <= len(view) - offset:
        raise FormatError(f"a b2nd frame of {len(view)} bytes has a chunk of {length} bytes at {offset}")
    return int(length)


def _blocks(chunk: Buffer, whole: tuple[int, ...], grid: tuple[slice, ...], block_bytes: int) -> np.ndarray:
    """Return the bytes of a box of blocks of a chunk (grid of them, then bytes), decoding no others.

    They stand in an array of this thread that the next call overwrites.
    """
    count = prod(whole)
    _check_chunk(chunk, count * block_bytes, block_bytes)
    extent = tuple([blocks.stop - blocks.start for blocks in grid])
    if extent == whole or chunk[_FLAGS] & _STORED_PLAIN or chunk[_SPECIAL] & 0x70:
        return _decompressed(chunk, count * block_bytes).reshape(*whole, block_bytes)[grid]
    places = np.frombuffer(chunk, "<i4", count, _CHUNK_HEADER).reshape(whole)[grid]
    some = _with_blocks(chunk, places, places.size * block_bytes)
    return _decompressed(some, places.size * block_bytes).reshape(*extent, block_bytes)


def _check_chunk(chunk: Buffer, size_bytes: int, block_bytes: int) -> None:
    found = struct.unpack_from("<iii", chunk, _SIZES) if len(chunk) >= _CHUNK_HEADER else (0, 0, 0)
    due = (size_bytes, block_bytes, len(chunk))
    is_special = found != (0, 0, 0) and chunk[_SPECIAL] & 0x70  # of one value: in blocks of any size
    if found[::2] != due[::2] or (found[1] != due[1] and not is_special):
        raise FormatError(
            f"a chunk of {len(chunk)} bytes says that its bytes decoded, per block and encoded are {found}, where "
            f"{due} is due"
        )


def _with_blocks(chunk: Buffer, places: np.ndarray, size_bytes: int) -> bytearray:
    """Return a chunk that has only the blocks at these places: their bytes stay where they are, its header says so."""
    some = bytearray(chunk)
    struct.pack_into("<i", some, _SIZES, size_bytes)
    some[_CHUNK_HEADER : _CHUNK_HEADER + places.nbytes] = places.tobytes()
    return some


def _decompressed(chunk: Buffer, size_bytes: int) -> np.ndarray:
    """Return the decoded bytes of a chunk, in an array of this thread that the next call overwrites."""
    import blosc2

    if size_bytes > _LONGEST:
        raise FormatError(f"a chunk of {size_bytes} bytes is larger than blosc2 knows")
    have = getattr(_scratch, "bytes", None)
    if have is None or len(have) < size_bytes:
        blosc2.set_releasegil(True)
        have = _scratch.bytes = np.empty(size_bytes, np.uint8)
    try:
        blosc2.decompress2(chunk, dst=have[:size_bytes], nthreads=1)
    except (RuntimeError, ValueError) as fault:
        raise FormatError(f"a chunk of {len(chunk)} bytes does not decode ({fault})") from fault
    return have[:size_bytes]


def _spread(blocks: np.ndarray, stretches: tuple[_Stretch, ...], out: np.ndarray) -> None:
    """Copy blocks (grid of them, then axes inside one) into `out`, as the runs of their stretches say."""
    rank = out.ndim
    order = [axis for i in range(rank - 1) for axis in (i, rank - 1 + i)] + [2 * rank - 2]
    for runs in product(*[stretch.runs for stretch in stretches]):
        part = blocks[tuple([run[0] for run in runs] + [run[1] for run in runs])]
        target = out[tuple([run[2] for run in runs])]
        sizes = part.shape
        width = sizes[-1]
        row = np.dtype((np.void, width * part.dtype.itemsize))  # whole rows of a block, not value by value
        shape = [n for i in range(rank - 1) for n in (sizes[i], sizes[rank + i])] + [1]
        for k in range(sizes[rank - 1]):  # one column of blocks after the other: the longest inner loop
            column = target[..., k * width : (k + 1) * width].view(row).reshape(shape, copy=False)
            column[...] = part[(slice(None),) * (rank - 1) + (k,)].view(row).transpose(order)


def _runs(start: int, count: int, block: int) -> list[tuple[slice, slice, slice]]:
    """Cut `count` values from `start` on into runs of whole blocks and parts of one: (blocks, inside them, output)."""
    cuts = [start, min(-(-start // block) * block, start + count)]
    cuts += [max((start + count) // block * block, cuts[1]), start + count]
    found = []
    for a, b in pairwise(cuts):
        if a < b:
            inside = slice(a % block, a % block + min(b - a, block))
            found.append((slice(a // block, -(-b // block)), inside, slice(a - start, b - start)))
    return found
