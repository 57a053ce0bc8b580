"""Media come as they were stored, whole or in part, from any store; nothing that fails its checksum is decoded."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from medloom.model.byte_source import open_source
from medloom.model.media_reader import CONTENT, Ask, MediaReader
from medloom.model.pinned import place_of
from medloom.model.places import FieldPlace, Place
from medloom.model.streamed import MediaData
from medloom.schemas.b2nd import encode_labels, encode_volume
from medloom.schemas.b2nd_read import ChunkTable
from medloom.schemas.errors import WrongBytes
from medloom.schemas.medium import Member, Sample
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store

SHARD = ShardName("train", 0)
BOX = (3, 20, 100, 30, 90, 190)
COLUMNS = dict.fromkeys(
    ("unit", "group", "split", "modality", "body_part", "plane", "source", "licence", "terms_id", "digest",
     "pixel_digest"), "x",
)  # fmt: skip


def volume(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, (40, 140, 200))
    return (np.indices((40, 140, 200)).sum(axis=0) * 2 + noise).astype(np.int16)


def masks(seed: int) -> np.ndarray:
    found = np.zeros((2, 40, 140, 200), np.uint8)
    found[0, 5:30, 30:100, 90:180] = seed + 1
    found[1, ::7, ::5, ::3] = 9
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict[str, list[dict]]]:
    """A folder with one shard of three volumes, the last without masks, and its index rows by key."""
    folder = tmp_path_factory.mktemp("media")
    store = Store(str(folder))
    with ShardWriter(store, SHARD) as writer:
        for number in range(3):
            layout = "volume-seg" if number < 2 else "volume"
            members = {
                "json": Member(json.dumps({"key": f"v{number}"}).encode()),
                "ct.b2nd": encode_volume(volume(number), isotropic=False),
                **({"seg.b2nd": encode_labels(masks(number))} if number < 2 else {}),
                "thumb.jpg": Member(b"thumb", (1, 1, 1), "uint8"),
            }
            writer.add(Sample(f"v{number}", layout, members, {**COLUMNS, "layout": layout, "measured": {}}))
        writer.close()
    rows: dict[str, list[dict]] = {}
    for layout in ("volume-seg", "volume"):
        for row in store.read_table(SHARD.index(layout)).to_pylist():
            rows.setdefault(row["key"], []).append(row)
    return folder, rows


@pytest.fixture(params=["local", "remote"])
def places(request, written, tmp_path) -> Iterator[list[Place]]:
    """The three media in a folder that a test may damage, on this machine or in a store."""
    folder, rows = written
    url = str(tmp_path / "copy") if request.param == "local" else f"memory://{tmp_path.name}"
    files = fsspec.filesystem("file" if request.param == "local" else "memory")
    files.put(str(folder), url.removeprefix("memory:/"), recursive=True)
    source = open_source(Store(url))
    yield [place_of(rows[key], source, SHARD, rows[key][0]["layout"]) for key in sorted(rows)]
    source.close()
    files.rm(url.removeprefix("memory:/"), recursive=True)


def damage(place: Place, at: int) -> None:
    store = place.where.store
    data = bytearray(store.read(place.tar))
    data[at] ^= 0x10
    store.fs.pipe_file(store.path(place.tar), bytes(data))
    place.where.close()


def part(array: np.ndarray, box) -> np.ndarray:
    return array[..., box[0] : box[3], box[1] : box[4], box[2] : box[5]]


def on_threads(tasks) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("run", [None, on_threads])
def test_whole_media_are_what_was_stored(places, run):
    answers = MediaReader().read([Ask(place, masks=True) for place in places], run=run)
    for number, answer in enumerate(answers):
        assert np.array_equal(answer.content, volume(number))
        assert answer.content.dtype == np.int16
        assert (answer.facts, answer.box) == ({"key": f"v{number}"}, ())
        assert (answer.masks is None) == (number == 2)
        if number < 2:
            assert np.array_equal(answer.masks, masks(number))
    assert MediaReader().read([Ask(places[0])])[0].masks is None


@pytest.mark.parametrize("run", [None, on_threads])
def test_a_region_is_that_part_of_the_whole_and_costs_its_chunks(places, run):
    reader = MediaReader()
    answers = reader.read([Ask(place, BOX, masks=True) for place in places], run=run)
    for number, answer in enumerate(answers):
        assert np.array_equal(answer.content, part(volume(number), BOX))
        assert answer.box == BOX
        if number < 2:
            assert np.array_equal(answer.masks, part(masks(number), BOX))
    reader = MediaReader()
    (answer,) = reader.read([Ask(places[2], (33, 130, 130, 40, 140, 200))])
    assert np.array_equal(answer.content, volume(2)[33:, 130:, 130:])
    assert reader.stats()["bytes"] < places[2].fields["ct.b2nd"].size // 8


def test_an_index_without_sums_of_chunks_costs_the_whole_and_gives_the_same(places):
    old = []
    for place in places:
        fields = {
            name: replace(field, chunks=replace(field.chunks, sizes=(), crc32c=())) if field.chunks else field
            for name, field in place.fields.items()
        }
        old.append(Place(place.key, place.where, place.tar, place.layout, fields))
    reader = MediaReader()
    for number, answer in enumerate(reader.read([Ask(place, BOX, masks=True) for place in old])):
        assert np.array_equal(answer.content, part(volume(number), BOX))
        if number < 2:
            assert np.array_equal(answer.masks, part(masks(number), BOX))
    assert reader.stats()["bytes"] > sum(place.fields["ct.b2nd"].size for place in places)


@pytest.mark.parametrize("field", ["json", "ct.b2nd", "seg.b2nd"])
def test_one_wrong_bit_is_never_decoded(places, field):
    member = places[0].fields[field]
    damage(places[0], member.offset + member.size // 2)
    wrong, *right = MediaReader().read([Ask(place, masks=True) for place in places])
    assert isinstance(wrong, WrongBytes)
    assert "v0" in str(wrong)
    assert places[0].tar in str(wrong)
    assert "crc32c" in str(wrong)
    assert all(isinstance(answer, MediaData) for answer in right)


@pytest.mark.parametrize("field", ["ct.b2nd", "seg.b2nd"])
def test_one_wrong_bit_in_a_chunk_spoils_the_regions_that_need_it_and_no_other(places, field):
    member = places[0].fields[field]
    number = len(member.chunks.offsets) - 1
    damage(places[0], member.offset + member.chunks.offsets[number] + member.chunks.sizes[number] - 3)
    spoiled, fine = (30, 100, 120, 40, 140, 200), (0, 0, 0, 20, 60, 70)
    wrong, right = MediaReader().read([Ask(places[0], spoiled, masks=True), Ask(places[0], fine, masks=True)])
    assert isinstance(wrong, WrongBytes)
    assert f"chunk {number} " in str(wrong)
    assert np.array_equal(right.content, part(volume(0), fine))


def test_a_medium_that_is_asked_for_twice_is_read_once(places):
    reader = MediaReader()
    first, box, again, other = reader.read(
        [Ask(places[0]), Ask(places[0], BOX), Ask(places[0]), Ask(places[1])], run=on_threads
    )
    assert first is again
    assert not np.shares_memory(first.content, box.content)
    assert np.array_equal(other.content, volume(1))
    stats = reader.stats()
    assert (stats["media"], stats["shared"]) == (3, 1)


@pytest.mark.parametrize("places", ["remote"], indirect=True)
def test_a_region_of_a_medium_is_not_fetched_twice_from_a_store(places):
    one, two = MediaReader(), MediaReader()
    one.read([Ask(places[2], BOX)])
    two.read([Ask(places[2], (*BOX[:5], BOX[5] - k)) for k in range(3)])
    assert two.stats()["bytes"] == one.stats()["bytes"]


def test_a_tar_that_is_gone_takes_its_own_media_only(places):
    store = places[2].where.store
    store.fs.rm_file(store.path(places[2].tar))
    first, _, gone = MediaReader().read([Ask(place) for place in places])
    assert isinstance(gone, FileNotFoundError)
    assert np.array_equal(first.content, volume(0))


def test_a_tar_that_was_cut_short_is_wrong_bytes(places):
    store = places[2].where.store
    data = store.read(places[2].tar)
    store.fs.pipe_file(store.path(places[2].tar), data[: len(data) // 2])
    places[2].where.close()
    first, _, cut = MediaReader().read([Ask(place) for place in places])
    assert isinstance(cut, WrongBytes)
    assert np.array_equal(first.content, volume(0))


def test_what_the_index_does_not_say_is_found_out(places):
    """Anybody's tar: no checksum, no shape, no table of chunks, no json."""
    place = places[2]
    bare = FieldPlace(place.fields["ct.b2nd"].offset, place.fields["ct.b2nd"].size)
    foreign = Place("k", place.where, place.tar, "ct.b2nd", {"ct.b2nd": bare})
    shapes = []

    def cut(shape):
        shapes.append(shape)
        return BOX

    whole, some = MediaReader().read([Ask(foreign), Ask(foreign, cut=cut)])
    assert np.array_equal(whole.content, volume(2))
    assert (whole.text, whole.facts, whole.layout) == (b"", {}, "ct.b2nd")
    assert np.array_equal(some.content, part(volume(2), BOX))
    assert (some.box, shapes) == (BOX, [(40, 140, 200)])
    nothing = Place("k", place.where, place.tar, "", {"json": place.fields["json"]})
    assert MediaReader().read([Ask(nothing)])[0].facts == {"key": "v2"}


def test_what_nothing_decodes_says_so(places):
    odd = Place("k", places[0].where, places[0].tar, "xyz", {"xyz": places[0].fields["ct.b2nd"]})
    (answer,) = MediaReader().read([Ask(odd)])
    assert isinstance(answer, WrongBytes)
    assert "nothing decodes a field 'xyz'" in str(answer)


def test_a_decoder_that_gives_a_view_of_its_bytes_keeps_them(places):
    """What npy needs: the array is the buffer that was read, and no other medium comes to stand there."""
    field = CONTENT["volume"]
    decoders = {"b2nd": lambda data, where, take: np.frombuffer(data, np.uint8)}
    reader = MediaReader(decoders=decoders)
    (held,) = reader.read([Ask(places[0])])
    copy = held.content.copy()
    for _ in range(3):
        reader.read([Ask(place) for place in places])
    member = places[0].fields[field]
    stored = places[0].where.read(places[0].tar, member.offset, member.end)
    assert held.content.tobytes() == copy.tobytes() == stored


def test_memory_is_used_again_but_never_while_a_result_is_held(places):
    reader = MediaReader(pin="never")
    held = [reader.read([Ask(places[number % 3])])[0] for number in range(6)]
    for number, answer in enumerate(held):
        assert np.array_equal(answer.content, volume(number % 3))
    most = reader.arena.held_bytes
    del held, answer
    for _ in range(10):
        reader.read([Ask(place, masks=True) for place in places])
    assert reader.arena.held_bytes <= 2 * most


@pytest.mark.parametrize("shape", [(2, 40, 140, 120), (40, 140, 200), (2, 40, 140, 201)])
@pytest.mark.parametrize("indexed", [True, False])
def test_masks_of_another_extent_than_their_volume_are_wrong_bytes(places, shape, indexed):
    member = encode_labels(np.ones(shape, np.uint8)) if len(shape) == 4 else encode_volume(
        np.ones(shape, np.uint8), isotropic=False
    )  # fmt: skip
    store, fields = places[0].where.store, dict(places[0].fields)
    data = store.read(places[0].tar)
    store.fs.pipe_file(store.path(places[0].tar), data + member.data)
    places[0].where.close()
    table = ChunkTable(
        member.shape, member.dtype, member.chunk_shape, member.block_shape,
        member.chunk_offsets, member.chunk_sizes, member.chunk_crc32c,
    )  # fmt: skip
    fields["seg.b2nd"] = FieldPlace(len(data), len(member.data), chunks=table if indexed else None)
    place = Place("odd", places[0].where, places[0].tar, places[0].layout, fields)
    for ask in (Ask(place, masks=True), Ask(place, BOX, masks=True)):
        (answer,) = MediaReader().read([ask])
        assert isinstance(answer, WrongBytes)
        assert f"its masks are of shape {shape}" in str(answer)
