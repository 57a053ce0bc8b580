"""A release's rows become the examples and media that were stored, one by one or many at once, or it says why not."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from medloom.model.media_reader import CONTENT
from medloom.model.meter import Meter
from medloom.model.reader import Reader, ReadOptions
from medloom.model.streamed import StreamedExample, Wish
from medloom.schemas import b2nd
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, WrongBytes
from medloom.schemas.keys import sha256_hex
from medloom.schemas.release import Release
from medloom.schemas.shard import shard_name


@pytest.fixture(scope="module")
def stored_volumes(shared_build) -> dict[str, np.ndarray]:
    """All volumes by key, as the build's own index and decoder give them."""
    at = Build(shared_build)
    return {
        row["key"]: b2nd.decode(at.member(row, shard))
        for shard, _ in at.ledgers()
        for row in at.index(shard).to_pylist()
        if row["field"] == "ct.b2nd"
    }


def rows_of(release: Release, task: str) -> list[int]:
    return [number for number, name in enumerate(release.rows["task"].to_pylist()) if name == task]


def change_rows(build: str, change) -> None:
    """Rewrite the newest release's rows and its pin of them."""
    path = Path(build, "releases/0001/rows.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    pin(build, rows_sha256=sha256_hex(path.read_bytes()))


def pin(build: str, **facts) -> None:
    path = Path(build, "releases/0001/release.json")
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**{k: v for k, v in found.items() if facts.get(k, v) is not None}, **facts}))


def forget_index(build: str) -> None:
    """Make the release one of the time before releases had an index of their own."""
    path = Path(build, "releases/0001/release.json")
    found = json.loads(path.read_text())
    del found["index"]
    path.write_text(json.dumps(found))
    change_rows(build, lambda rows: [row.update(media_at=None) for row in rows])


def same(one: StreamedExample, other: StreamedExample) -> bool:
    return (
        one.example == other.example
        and list(one.media) == list(other.media)
        and all(np.array_equal(one.media[k].content, other.media[k].content) for k in one.media)
        and all(one.media[k].text == other.media[k].text for k in one.media)
    )


def test_many_at_once_are_what_one_at_a_time_gives(shared_build):
    release = Release(shared_build)
    reader = Reader(release)
    wishes = [Wish(row, t) for t, row in enumerate([5, 0, release.rows.num_rows - 1, 5, 7, 3, 2])]
    many = reader.read_many(wishes)
    for wish, found in zip(wishes, many, strict=True):
        assert found.t == wish.t
        assert found.example.example_id == release.rows["example_id"][wish.row].as_py()
        assert found.example == reader.example(wish.row)
        assert same(found, Reader(release).read(wish.row))
        assert list(found.media) == list(found.example.media)
    assert reader.read_many([]) == []


def test_every_volume_is_bit_exact(shared_build, stored_volumes):
    release = Release(shared_build)
    found = Reader(release).read_many([Wish(row) for row in rows_of(release, "header_vqa")])
    assert found
    for one in found:
        for key, medium in one.media.items():
            assert np.array_equal(medium.content, stored_volumes[key])
            assert medium.facts["key"] == key


def test_a_release_without_an_index_of_its_own_reads_the_same(build, shared_build):
    forget_index(build)
    old, new = Reader(Release(build)), Reader(Release(shared_build))
    wishes = [Wish(row) for row in range(new.release.rows.num_rows)]
    assert all(same(*pair) for pair in zip(old.read_many(wishes), new.read_many(wishes), strict=True))
    assert (old._has_index, new._has_index) == (False, True)


def test_an_example_may_refer_to_media_of_another_shard(build):
    """The part says which shard is near; the rare medium elsewhere is found by all indexes."""
    forget_index(build)
    release = Release(build)
    pinned = Reader(release)._pinned[0]
    far = shard_name("train-000001")
    assert pinned.place("u00000-f0", far).tar == pinned.place("u00000-f0", shard_name("train-000000")).tar
    with pytest.raises(FormatError, match="no index of the pinned build holds medium nowhere"):
        pinned.place("nowhere", far)


def test_an_index_that_points_to_another_medium_is_refused(build):
    def swapped(rows):
        chosen = [r for r in rows if (r["task"], r["layouts"], r["split"]) == ("caption", ["png"], "train")]
        chosen[0]["media_at"], chosen[1]["media_at"] = chosen[1]["media_at"], chosen[0]["media_at"]

    change_rows(build, swapped)
    release = Release(build)
    reader = Reader(release)
    with pytest.raises(FormatError, match=r"where medium .* should stand.*--repair"):
        reader.read_many([Wish(row) for row in rows_of(release, "caption")])


def test_a_medium_that_examples_share_is_read_once_and_read_only(shared_build):
    release = Release(shared_build)
    reader = Reader(release)
    row = rows_of(release, "interleaved")[0]
    keys = set(release.rows["media"][row].as_py())
    rows = [n for n in range(release.rows.num_rows) if set(release.rows["media"][n].as_py()) & keys]
    assert len(rows) == 3
    found = reader.read_many([Wish(n) for n in rows])
    objects = {key: {id(one.media[key]) for one in found if key in one.media} for key in keys}
    assert all(len(ids) == 1 for ids in objects.values())
    assert (reader.stats()["media"], reader.stats()["shared"]) == (2, 2)
    with pytest.raises(ValueError, match="read-only"):
        found[0].media[next(iter(found[0].media))].content[:] = 0
    alone = reader.read(rows_of(release, "header_vqa")[0])
    next(iter(alone.media.values())).content[:] = 0


def test_a_wrong_bit_spoils_the_examples_that_need_it_and_no_other(build):
    release = Release(build)
    reader = Reader(release)
    row = rows_of(release, "header_vqa")[0]
    spoiled = reader._place(reader._rows[row], reader.example(row).media[0])
    path = Path(build, spoiled.tar)
    data = bytearray(path.read_bytes())
    data[spoiled.fields["ct.b2nd"].end - 20] ^= 1
    path.write_bytes(data)
    wishes = [Wish(n) for n in range(release.rows.num_rows)]
    found = Reader(release).read_many(wishes)
    wrong = [n for n, one in enumerate(found) if isinstance(one, WrongBytes)]
    assert wrong == [row]
    assert spoiled.key in str(found[row])
    with pytest.raises(WrongBytes, match=spoiled.key):
        Reader(release).read(row)


def test_bytes_that_are_right_the_second_time_are_read(build):
    release = Release(build)
    reader = Reader(release)
    row = rows_of(release, "header_vqa")[0]
    source, read_into, faults = reader._pinned[0].source, reader._pinned[0].source.read_into, []

    def flaky(path, start, end, out):
        read_into(path, start, end, out)
        if not faults:
            faults.append(path)
            out[len(out) // 2] ^= 1

    source.read_into = flaky
    assert same(reader.read(row), Reader(release).read(row))
    assert faults


@pytest.mark.parametrize("what", ["ledger", "part", "index"])
def test_what_was_rewritten_after_the_release_stops_the_stream(build, what):
    release = Release(build)
    row = rows_of(release, "header_vqa")[0]
    part = release.rows["part"][row].as_py()
    if what == "part":
        path = Path(build, part)
    else:
        shard = shard_name(part.rpartition("part-")[2].removesuffix(".parquet"))
        layout = release.rows["layouts"][row][0].as_py()
        path = Path(build, shard.ledger if what == "ledger" else f"releases/0001/index/{shard.split}-{layout}.arrow")
        tar = Path(build, shard.tar(layout))
        if what == "ledger":
            tar.write_bytes(bytes(tar.stat().st_size))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"rewritten after release 1|fails its crc32c"):
        Reader(release).read_many([Wish(row) for row in rows_of(release, "header_vqa")])


def test_a_tar_that_is_gone_stops_the_stream_and_says_which(build):
    release = Release(build)
    reader = Reader(release)
    row = rows_of(release, "header_vqa")[0]
    place = reader._place(reader._rows[row], reader.example(row).media[0])
    Path(build, place.tar).unlink()
    with pytest.raises(FormatError, match=f"{place.tar} is not there; restore it"):
        reader.read(row)


@pytest.mark.parametrize("change", [{"example_id": "caption-0"}, {"row": 4000}, {"row": -1}])
def test_rows_that_are_not_in_their_part_are_refused(build, change):
    change_rows(build, lambda rows: rows[0].update(change))
    with pytest.raises(FormatError, match=r"promises caption-0|has no row"):
        Reader(Release(build)).read(0)


def test_a_patch_is_that_part_of_the_volume_and_the_draw_decides_where(shared_build, stored_volumes):
    release = Release(shared_build)
    reader = Reader(release, ReadOptions(roi=(6, 16, 20), seed=3, masks=True))
    rows = rows_of(release, "header_vqa")
    boxes = set()
    for t, row in enumerate(rows * 2):
        found = reader.read(row, t=t)
        (medium,) = found.media.values()
        box = medium.box
        whole = stored_volumes[next(iter(found.media))]
        assert np.array_equal(medium.content, whole[box[0] : box[3], box[1] : box[4], box[2] : box[5]])
        assert medium.content.shape == (6, 16, 20)
        if medium.masks is not None:
            assert medium.masks.shape[1:] == (6, 16, 20)
        assert (medium.masks is not None) == (medium.layout == "volume-seg")
        boxes.add((row, box))
    assert len(boxes) == 2 * len(rows)
    again = Reader(release, ReadOptions(roi=(6, 16, 20), seed=3)).read(rows[0], t=0)
    assert (rows[0], next(iter(again.media.values())).box) in boxes
    other = Reader(release, ReadOptions(roi=(6, 16, 20), seed=4)).read(rows[0], t=0)
    assert (rows[0], next(iter(other.media.values())).box) not in boxes
    picture = next(iter(reader.read(rows_of(release, "caption")[0]).media.values()))
    assert (picture.box, picture.content.shape[1]) == ((), 56)


def test_a_function_may_choose_by_the_example(shared_build):
    release = Release(shared_build)

    def region(example, key, shape, t):
        boxes = [part.box for turn in example.turns for part in turn.parts if part.media == key and part.box]
        return boxes[0] if boxes else None

    row = rows_of(release, "interleaved")[0]
    cut, whole = Reader(release, ReadOptions(roi=region)).read(row), Reader(release).read(row)
    first, second = cut.media
    assert np.array_equal(cut.media[first].content, whole.media[first].content)
    assert np.array_equal(cut.media[second].content, whole.media[second].content[8:30, 4:28])
    assert cut.media[second].box == (8, 4, 30, 28)
    with pytest.raises(ConfigError, match="roi"):
        Reader(release, ReadOptions(roi=(0, 1, 2)))


def test_a_build_in_an_object_store_reads_the_same_and_is_metered(shared_build, tmp_path):
    files = fsspec.filesystem("memory")
    files.put(shared_build, f"/{tmp_path.name}/build", recursive=True)
    try:
        meter = Meter()
        local = Reader(Release(shared_build))
        options = ReadOptions(cache=str(tmp_path / "cache"))
        remote = Reader(Release(f"memory://{tmp_path.name}/build"), options, meter=meter)
        wishes = [Wish(row) for row in range(local.release.rows.num_rows)]
        pairs = zip(local.read_many(wishes), remote.read_many(wishes), strict=True)
        assert all(same(*pair) for pair in pairs)
        took = meter.take()
        assert sum(took) > 0
        remote.close()
    finally:
        files.rm(f"/{tmp_path.name}", recursive=True)


def test_the_fields_that_are_drawn_are_those_of_the_layouts():
    from medloom.schemas.medium import LAYOUTS

    assert {layout: field for layout, field in CONTENT.items() if field in LAYOUTS[layout]} == CONTENT
    assert set(CONTENT) == set(LAYOUTS)
