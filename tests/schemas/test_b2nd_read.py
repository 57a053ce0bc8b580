"""A frame is read whole into an array that is there, or a box of it from the chunks that hold it; damage is named."""

import itertools
import threading

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.schemas import b2nd
from medloom.schemas.b2nd_read import ChunkTable, chunks_of, decode_box, decode_box_of, decode_into, frame_facts
from medloom.schemas.errors import FormatError


def noise(shape, dtype="int16", seed=0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (np.indices(shape).sum(axis=0) * 3 + random.integers(0, 50, shape)).astype(dtype)


def table_of(member) -> ChunkTable:
    return ChunkTable(
        member.shape, member.dtype, member.chunk_shape, member.block_shape,
        member.chunk_offsets, member.chunk_sizes, member.chunk_crc32c,
    )  # fmt: skip


def chunks_from(member, asked=None):
    def chunk(number: int) -> bytes:
        if asked is not None:
            asked.append(number)
        start = member.chunk_offsets[number]
        return member.data[start : start + member.chunk_sizes[number]]

    return chunk


def slices(box) -> tuple[slice, ...]:
    rank = len(box) // 2
    return tuple(slice(a, b) for a, b in zip(box[:rank], box[rank:], strict=True))


@st.composite
def boxed_arrays(draw):
    shape = draw(st.tuples(st.integers(1, 70), st.integers(1, 150), st.integers(1, 150)))
    dtype = draw(st.sampled_from(["int16", "uint16", "uint8", "float32"]))
    edges = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape]
    return noise(shape, dtype), (*(e[0] for e in edges), *(e[1] for e in edges))


@settings(deadline=None, max_examples=40)
@given(case=boxed_arrays(), isotropic=st.booleans())
def test_any_box_of_any_volume_is_what_was_stored(case, isotropic):
    array, box = case
    member = b2nd.encode_volume(array, isotropic=isotropic)
    expected = array[slices(box)]
    for out, read in (
        (np.empty_like(expected), lambda out: decode_box(chunks_from(member), table_of(member), box, out)),
        (np.empty_like(expected), lambda out: decode_box_of(member.data, box, out, expect=table_of(member))),
    ):
        read(out)
        assert np.array_equal(out, expected)
    whole = np.empty_like(array)
    decode_into(member.data, whole, expect=table_of(member))
    assert np.array_equal(whole, array)


def test_every_corner_of_a_chunk_and_of_a_block_is_read_right():
    array = noise((70, 200, 150))
    edges = [(0, 8, 31, 32, 33, 70), (0, 31, 128, 129, 200), (0, 1, 127, 128, 150)]
    member = b2nd.encode_volume(array, isotropic=False)
    pairs = [list(itertools.combinations(axis, 2)) for axis in edges]
    for z, y, x in itertools.product(*(p[::3] for p in pairs)):
        box = (z[0], y[0], x[0], z[1], y[1], x[1])
        out = np.empty([b - a for a, b in (z, y, x)], np.int16)
        decode_box(chunks_from(member), table_of(member), box, out)
        assert np.array_equal(out, array[slices(box)]), box


def test_only_the_chunks_that_hold_the_box_are_asked_for():
    array = noise((70, 200, 150))
    array[:32, :128, 128:] = 0
    member = b2nd.encode_volume(array, isotropic=False)
    table = table_of(member)
    assert table.grid == (3, 2, 2)
    asked: list[int] = []
    box = (10, 20, 100, 40, 60, 140)
    out = np.empty((30, 40, 40), np.int16)
    decode_box(chunks_from(member, asked), table, box, out)
    assert chunks_of(box, table) == [0, 1, 4, 5]
    assert asked == [0, 4, 5]  # chunk 1 is all zeros and has no bytes
    assert np.array_equal(out, array[slices(box)])


def test_a_box_of_masks_takes_all_their_layers():
    labels = np.zeros((2, 40, 130, 140), np.uint8)
    labels[0, 10:20, 30:60, 100:135] = 3
    labels[1, 35:, 125:, 125:] = 200
    member = b2nd.encode_labels(labels)
    box = (0, 5, 20, 90, 2, 38, 130, 140)
    out = np.empty((2, 33, 110, 50), np.uint8)
    decode_box(chunks_from(member), table_of(member), box, out)
    assert np.array_equal(out, labels[slices(box)])
    assert out.any()


def test_chunks_of_equal_values_and_of_values_that_do_not_compress_are_read():
    random = np.random.default_rng(1).integers(-(2**15), 2**15, (40, 140, 140)).astype(np.int16)
    random[:32, :128, :128] = 7
    member = b2nd.encode_volume(random, isotropic=False)
    box = (3, 5, 7, 39, 139, 138)
    out = np.empty((36, 134, 131), np.int16)
    decode_box(chunks_from(member), table_of(member), box, out)
    assert np.array_equal(out, random[slices(box)])


@pytest.mark.parametrize("fill", ["zeros", "nans", "full", "uninit"])
def test_frames_of_others_with_special_chunks_are_read(fill):
    make = {"zeros": blosc2.zeros, "nans": blosc2.nans, "uninit": blosc2.zeros}.get(fill)
    array = make((40, 50, 60), dtype="float32") if make else blosc2.full((40, 50, 60), 3.5, dtype="float32")
    data = array.to_cframe()
    assert frame_facts(data) == ((40, 50, 60), "float32")
    out = np.full((40, 50, 60), 9, np.float32)
    decode_into(data, out)
    assert np.array_equal(out, array[...], equal_nan=True)
    part = np.full((1, 20, 30), 9, np.float32)
    decode_box_of(data, (39, 30, 30, 40, 50, 60), part)
    assert np.array_equal(part, array[39:, 30:, 30:], equal_nan=True)


def test_a_view_can_be_written_into():
    array = noise((20, 40, 50))
    member = b2nd.encode_volume(array, isotropic=False)
    batch = np.zeros((3, 24, 44, 54), np.int16)
    decode_into(member.data, batch[1, 2:22, 2:42, 2:52])
    assert np.array_equal(batch[1, 2:22, 2:42, 2:52], array)
    batch[1, 2:22, 2:42, 2:52] = 0
    assert not batch.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("shape", (20, 40, 51)), ("dtype", "uint16"), ("chunk_shape", (20, 40, 49)), ("block_shape", (8, 32, 49))],
)
def test_a_frame_that_is_not_what_its_index_row_says_is_refused(name, value):
    array = noise((20, 40, 50))
    member = b2nd.encode_volume(array, isotropic=False)
    facts = {"shape": array.shape, "dtype": "int16", "chunk_shape": (20, 40, 50), "block_shape": (8, 32, 50)}
    decode_into(member.data, np.empty_like(array), expect=ChunkTable(**facts))
    with pytest.raises(FormatError, match=name):
        decode_into(member.data, np.empty_like(array), expect=ChunkTable(**{**facts, name: value}))


@pytest.mark.parametrize("out", [np.empty((20, 40, 51), np.int16), np.empty((20, 40, 50), np.uint16)])
def test_an_array_of_another_shape_or_dtype_is_refused(out):
    member = b2nd.encode_volume(noise((20, 40, 50)), isotropic=False)
    with pytest.raises(FormatError, match="int16"):
        decode_into(member.data, out)
    with pytest.raises(ValueError, match=r"box|values of"):
        decode_box(chunks_from(member), table_of(member), (0, 0, 0, 20, 40, 50), out)


@pytest.mark.parametrize("box", [(0, 0, 0, 21, 40, 50), (0, 0, 5, 20, 40, 5), (-1, 0, 0, 20, 40, 50)])
def test_a_box_outside_or_empty_is_refused(box):
    member = b2nd.encode_volume(noise((20, 40, 50)), isotropic=False)
    with pytest.raises(ValueError, match="box"):
        decode_box(chunks_from(member), table_of(member), box, np.empty((20, 40, 50), np.int16))


def test_no_damage_to_a_frame_does_more_than_raise_or_change_values():
    """A checksum guards every frame; this is for those that have none: no crash, no hang, no other error."""
    array = noise((24, 60, 70))
    data = b2nd.encode_volume(array, isotropic=False).data
    random = np.random.default_rng(5)
    raised = 0
    for trial in range(150):
        damaged = bytearray(data)
        if trial % 3 == 0:
            damaged = damaged[: int(random.integers(0, len(data)))]
        else:
            for at in random.integers(0, min(len(data), 400) if trial % 3 == 1 else len(data), 3):
                damaged[at] ^= int(random.integers(1, 256))
        out = np.zeros_like(array)
        try:
            decode_into(bytes(damaged), out)
        except FormatError:
            raised += 1
    assert raised > 50


@pytest.mark.parametrize("damage", ["cut", "grown", "sizes", "empty"])
@pytest.mark.parametrize("array", [noise((32, 128, 128)), np.full((32, 128, 128), 7, np.int16)], ids=["noise", "one"])
def test_a_chunk_that_is_not_what_the_table_says_is_refused(damage, array):
    member = b2nd.encode_volume(array, isotropic=False)
    chunk = bytearray(chunks_from(member)(0))
    decode_box(lambda number: chunk, table_of(member), (1, 1, 1, 5, 5, 5), out := np.empty((4, 4, 4), np.int16))
    assert np.array_equal(out, array[1:5, 1:5, 1:5])
    if damage == "sizes":
        chunk[4:8] = (1 << 30).to_bytes(4, "little")
    bad = {"cut": chunk[:-9], "grown": chunk + b"\0", "sizes": chunk, "empty": b""}[damage]
    with pytest.raises(FormatError, match="chunk"):
        decode_box(lambda number: bad, table_of(member), (1, 1, 1, 5, 5, 5), np.empty((4, 4, 4), np.int16))


def test_threads_do_not_share_what_they_decode_into():
    arrays = [noise((40, 140, 140), seed=seed) for seed in range(4)]
    members = [b2nd.encode_volume(array, isotropic=False) for array in arrays]
    wrong: list[int] = []

    def read(number: int) -> None:
        out = np.empty((36, 134, 131), np.int16)
        for _ in range(6):
            decode_box(chunks_from(members[number]), table_of(members[number]), (3, 5, 7, 39, 139, 138), out)
            if not np.array_equal(out, arrays[number][3:39, 5:139, 7:138]):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_table_can_be_cut_only_with_a_sum_for_every_chunk():
    member = b2nd.encode_volume(noise((40, 140, 140)), isotropic=False)
    table = table_of(member)
    assert table.can_be_cut
    for name in ("sizes", "crc32c", "offsets"):
        facts = {**table.__dict__, name: getattr(table, name)[:-1]}
        assert not ChunkTable(**facts).can_be_cut
        assert not ChunkTable(**{**facts, name: ()}).can_be_cut


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">u1"])
def test_frames_of_the_other_byte_order_have_the_values_meant(dtype):
    array = noise((20, 40, 50)).astype(dtype)
    data = bytes(blosc2.asarray(array, chunks=(8, 32, 32), blocks=(4, 16, 16)).to_cframe())
    shape, name = frame_facts(data)
    out, part = np.empty(shape, name), np.empty((3, 4, 5), name)
    decode_into(data, out)
    decode_box_of(data, (7, 30, 31, 10, 34, 36), part)
    assert np.array_equal(out, array)
    assert np.array_equal(part, array[7:10, 30:34, 31:36])


@pytest.mark.parametrize("dtype", ["S16", "U4", "M8[s]", [("a", "i4"), ("b", "f4")]])
def test_frames_that_hold_no_numbers_are_refused(dtype):
    data = bytes(blosc2.asarray(np.zeros((4, 4), dtype)).to_cframe())
    with pytest.raises(FormatError, match="not one number per value"):
        frame_facts(data)
