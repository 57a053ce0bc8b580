"""Volumes and masks survive storage bit for bit, and a chunk decodes alone from the table of offsets."""

import itertools
import subprocess
import sys

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.schemas import b2nd
from medloom.schemas.errors import FormatError


def _ramp(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 50, shape)
    return (np.indices(shape).sum(axis=0) * 3 + noise).astype(dtype)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 140), st.integers(1, 140)),
    dtype=st.sampled_from(["int16", "uint16", "uint8", "float32"]),
    isotropic=st.booleans(),
)
def test_decode_undoes_encode(shape, dtype, isotropic):
    array = _ramp(shape, dtype)
    member = b2nd.encode_volume(array, isotropic=isotropic)
    back = b2nd.decode(member.data)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert (member.shape, member.dtype) == (shape, dtype)
    assert all(c <= n for c, n in zip(member.chunk_shape, shape, strict=True))
    assert len(member.chunk_offsets) == np.prod([-(-n // c) for n, c in zip(shape, member.chunk_shape, strict=True)])


def _chunk_alone(member, index: int) -> np.ndarray:
    """Decode one chunk from the bytes at its offset, by the layout that blosc2 documents: blocks in C order."""
    grid = [-(-c // b) for c, b in zip(member.chunk_shape, member.block_shape, strict=True)]
    padded = [g * b for g, b in zip(grid, member.block_shape, strict=True)]
    if member.chunk_offsets[index] == b2nd.ZEROS:
        return np.zeros(member.chunk_shape, member.dtype)
    flat = np.frombuffer(blosc2.decompress2(member.data[member.chunk_offsets[index] :]), member.dtype)
    blocks = flat.reshape(-1, *member.block_shape)
    chunk = np.empty(padded, member.dtype)
    for place, block in zip(itertools.product(*map(range, grid)), blocks, strict=True):
        chunk[tuple(slice(p * b, (p + 1) * b) for p, b in zip(place, member.block_shape, strict=True))] = block
    return chunk[tuple(slice(0, c) for c in member.chunk_shape)]


@pytest.mark.parametrize("isotropic", [False, True])
def test_every_chunk_decodes_alone_from_its_offset(isotropic):
    array = _ramp((70, 200, 150), "int16")
    array[:, 128:, 128:] = 0
    array[64:, :128, :128] = 7
    member = b2nd.encode_volume(array, isotropic=isotropic)
    assert b2nd.ZEROS in member.chunk_offsets
    _assert_chunks(member, array)


def test_every_chunk_of_a_mask_decodes_alone_from_its_offset():
    labels = np.zeros((2, 40, 130, 140), np.uint8)
    labels[0, 10:20, 30:60, 100:135] = 3
    labels[1, 35:, 125:, 125:] = 200
    member = b2nd.encode_labels(labels)
    assert np.array_equal(b2nd.decode(member.data), labels)
    assert member.chunk_shape == (1, 32, 128, 128)
    _assert_chunks(member, labels)


def _assert_chunks(member, array) -> None:
    grid = [range(-(-n // c)) for n, c in zip(array.shape, member.chunk_shape, strict=True)]
    places = list(itertools.product(*grid))
    assert len(places) == len(member.chunk_offsets)
    for index, place in enumerate(places):
        part = array[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, member.chunk_shape, strict=True))]
        chunk = _chunk_alone(member, index)[tuple(slice(0, n) for n in part.shape)]
        assert np.array_equal(chunk, part), place


def test_an_array_of_zeros_needs_no_chunk():
    member = b2nd.encode_labels(np.zeros((1, 40, 130, 130), np.uint16))
    assert set(member.chunk_offsets) == {b2nd.ZEROS}
    assert not b2nd.decode(member.data).any()


def test_settings_are_those_of_the_design():
    frame = blosc2.ndarray_from_cframe(b2nd.encode_volume(_ramp((70, 200, 200), "int16"), isotropic=False).data)
    assert frame.chunks == (32, 128, 128)
    assert frame.blocks == (8, 32, 128)
    assert frame.cparams.codec == blosc2.Codec.ZSTD
    assert frame.cparams.clevel == 1
    assert [f for f in frame.cparams.filters if f != blosc2.Filter.NOFILTER] == [
        blosc2.Filter.SHUFFLE,
        blosc2.Filter.BYTEDELTA,
    ]
    frame = blosc2.ndarray_from_cframe(b2nd.encode_volume(_ramp((70, 70, 70), "int16"), isotropic=True).data)
    assert (frame.chunks, frame.blocks) == ((64, 64, 64), (16, 32, 32))


def test_a_view_gives_the_bytes_of_its_copy():
    array = _ramp((33, 60, 61), "int16")
    view = array[::-1, :, ::-1].transpose(1, 0, 2)
    assert b2nd.encode_volume(view, isotropic=False).data == b2nd.encode_volume(view.copy(), isotropic=False).data


def test_the_same_array_gives_the_same_bytes_in_any_process():
    program = (
        "import numpy as np, hashlib\nfrom medloom.schemas import b2nd\n"
        "a = (np.indices((70, 200, 150)).sum(axis=0) % 977).astype('int16')\n"
        "print(hashlib.sha256(b2nd.encode_volume(a, isotropic=False).data).hexdigest(),"
        " hashlib.sha256(b2nd.encode_labels(a[None].astype('uint8')).data).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(runs) == 1


@pytest.mark.parametrize("data", [b"", b"not a frame" * 40, bytes(300)])
def test_what_is_no_frame_is_a_format_error(data):
    with pytest.raises(FormatError, match="b2nd"):
        b2nd.decode(data)


def test_a_cut_frame_is_a_format_error():
    data = b2nd.encode_volume(_ramp((20, 50, 50), "int16"), isotropic=False).data
    with pytest.raises(FormatError):
        b2nd.decode(data[: len(data) // 2])


@pytest.mark.parametrize("codec", ["bytedelta_zstd1", "bitshuffle_lz4"])
def test_the_table_says_the_bytes_of_every_chunk_and_their_checksum(codec):
    array = _ramp((70, 200, 150), "int16")
    array[:, 128:, 128:] = 0
    member = b2nd.encode_volume(array, isotropic=False, codec=codec)
    frame = blosc2.ndarray_from_cframe(member.data)  # held: its schunk does not hold it
    stored = frame.schunk
    columns = (member.chunk_offsets, member.chunk_sizes, member.chunk_crc32c)
    assert [len(column) for column in columns] == [stored.nchunks] * 3
    for number, (at, size, checksum) in enumerate(zip(*columns, strict=True)):
        if at == b2nd.ZEROS:
            assert (size, checksum) == (0, 0)
            assert stored.decompress_chunk(number).count(b"\0") == stored.chunksize
            continue
        assert member.data[at : at + size] == stored.get_chunk(number)
        assert checksum == _crc32c(member.data[at : at + size])
        assert len(blosc2.decompress2(member.data[at : at + size])) == stored.chunksize


def _crc32c(data: bytes) -> int:
    """CRC-32C bit by bit over a table of its own, as RFC 3720 appendix B.4 defines it (polynomial 0x1EDC6F41)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
        table.append(byte)
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def test_chunks_of_a_mask_have_sizes_and_checksums_too():
    labels = np.zeros((2, 40, 130, 140), np.uint8)
    labels[0, 10:20, 30:60, 100:135] = 3
    member = b2nd.encode_labels(labels)
    assert [size > 0 for size in member.chunk_sizes] == [at != b2nd.ZEROS for at in member.chunk_offsets]
    assert sum(member.chunk_sizes) < len(member.data)


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 140), st.integers(1, 140)),
    dtype=st.sampled_from(["int16", "uint16", "uint8", "float32"]),
    isotropic=st.booleans(),
)
def test_the_faster_codec_loses_nothing_either(shape, dtype, isotropic):
    array = _ramp(shape, dtype)
    member = b2nd.encode_volume(array, isotropic=isotropic, codec="bitshuffle_lz4")
    assert np.array_equal(b2nd.decode(member.data), array)
    stored = blosc2.ndarray_from_cframe(member.data).cparams
    assert stored.codec == blosc2.Codec.LZ4
    assert [f for f in stored.filters if f != blosc2.Filter.NOFILTER] == [blosc2.Filter.BITSHUFFLE]
    usual = b2nd.encode_volume(array, isotropic=isotropic)
    assert usual == b2nd.encode_volume(array, isotropic=isotropic, codec="bytedelta_zstd1")
    assert (usual.chunk_shape, usual.block_shape) == (member.chunk_shape, member.block_shape)
