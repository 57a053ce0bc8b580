import gzip
import io
import json
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from tests import foreign
from tests.foreign import samples, volume, write_tar
from tests.services.s3 import s3_server

from medloom.model import byte_source
from medloom.model.reader import ReadOptions
from medloom.model.stream import ShardStream
from medloom.model.streamed import Wish
from medloom.model.tar_reader import TarReader
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.tar_read import size_and_stamp
from medloom.schemas.tar_set import TarSet, write_index

MANY = ("jpg", "json", "txt", "npy")


@pytest.fixture
def folder(tmp_path) -> str:
    """Two training tars of pictures with captions and arrays."""
    write_tar(tmp_path / "set" / "train-000000.tar", samples(0, 7, MANY))
    write_tar(tmp_path / "set" / "train-000001.tar", samples(7, 6, MANY))
    return str(tmp_path / "set")


def reader(data, **options) -> TarReader:
    return TarReader(data if isinstance(data, TarSet) else TarSet(data), ReadOptions(**options))


def test_an_example_is_its_sample(folder):
    read = reader(folder)
    for row in range(13):
        found = read.read(row, t=5)
        name = f"s{row:04d}"
        assert (found.example.example_id, found.t, found.example.task) == (name, 5, "sample")
        assert [(p.media, p.text) for p in found.example.turns[0].parts] == [
            (f"{name}.jpg", ""), (f"{name}.npy", ""), ("", f"Picture {row}."),
        ]  # fmt: skip
        assert found.media[f"{name}.jpg"].facts == {"number": row}
        assert np.array_equal(found.media[f"{name}.npy"].content, volume(row))
        truth = np.asarray(Image.open(io.BytesIO(foreign.picture(row))))
        assert np.abs(found.media[f"{name}.jpg"].content.astype(int) - truth).max() <= 3  # two JPEG decoders
        assert read.example(row) == found.example


def test_many_are_read_as_one_by_one_with_threads_or_without(folder):
    read, rows = reader(folder), [3, 12, 3, 0, 7]
    with ThreadPoolExecutor(3) as pool:
        for run in (None, lambda tasks: list(pool.map(lambda task: task(), tasks))):
            found = read.read_many([Wish(row, t) for t, row in enumerate(rows)], run=run)
            for t, (row, one) in enumerate(zip(rows, found, strict=True)):
                assert one.example == read.example(row)
                assert one.t == t
                assert np.array_equal(one.media[f"s{row:04d}.npy"].content, volume(row))


def test_text_comes_from_a_text_member_or_from_the_json(tmp_path):
    entries = [
        ("a.txt", b" plain \n"), ("a.json", b'{"text": "not this"}'), ("b.json", b'{"text": "in json"}'),
        ("c.json", '{"caption": "ä"}'.encode()), ("d.json", b'{"text": 7}'), ("e.caption", b"a caption"),
        ("f.json", b"[1, 2]"), ("g.cls", b"3"), ("h.txt", b"caf\xe9"),
    ]  # fmt: skip
    read = reader(write_tar(tmp_path / "a.tar", entries))
    texts = [[p.text for p in read.example(row).turns[0].parts] for row in range(8)]
    assert texts == [["plain"], ["in json"], ["ä"], [], ["a caption"], [], [], ["caf\N{REPLACEMENT CHARACTER}"]]


def test_a_json_that_is_none_costs_its_sample(tmp_path):
    url = write_tar(tmp_path / "a.tar", [("a.json", b"{"), ("b.json", b'{"text": "b"}'), ("c.json", b"[" * 100_000)])
    found = reader(url).read_many([Wish(0), Wish(1), Wish(2)])
    assert [type(one).__name__ for one in found] == ["WrongBytes", "StreamedExample", "WrongBytes"]


def test_every_form_of_volume_reads_and_cuts_alike(tmp_path):
    array = volume(3, (40, 60, 70))
    parts = {
        "ct.b2nd": foreign.as_b2nd(array), "npy": foreign.as_npy(array), "z.npz": foreign.as_npz(data=array),
        "npy.zst": foreign.as_npy_zst(array), "nii": foreign.as_nifti(array),
        "ct.nii.gz": gzip.compress(foreign.as_nifti(array), 1),
    }  # fmt: skip
    url = write_tar(tmp_path / "a.tar", [(f"k.{field}", data) for field, data in parts.items()])
    index = write_index(url, to=str(tmp_path / "index"), contents=True)
    for tars in (TarSet(url), index):
        whole = reader(tars).read(0).media
        cut = reader(tars, roi=(16, 20, 24), seed=4).read(0, t=9).media
        assert set(whole) == {f"k.{field}" for field in parts}
        for key, medium in whole.items():
            assert np.array_equal(medium.content, array)
            part, (z0, y0, x0, z1, y1, x1) = cut[key].content, cut[key].box
            assert part.shape == (16, 20, 24)
            assert np.array_equal(part, array[z0:z1, y0:y1, x0:x1])
    before, after = reader(TarSet(url), roi=(16, 20, 24), seed=4).read(0, t=9), reader(index, roi=(16, 20, 24), seed=4)
    assert {k: m.box for k, m in before.media.items()} == {k: m.box for k, m in after.read(0, t=9).media.items()}


def test_a_region_of_an_indexed_volume_costs_its_chunks(tmp_path):
    array = volume(3, (64, 256, 256))
    url = write_tar(tmp_path / "a.tar", [("k.ct.b2nd", foreign.as_b2nd(array))])
    index = write_index(url, to=str(tmp_path / "index"), contents=True)
    read = reader(index, roi=lambda example, key, shape, t: (0, 0, 0, 32, 128, 128))
    assert np.array_equal(read.read(0).media["k.ct.b2nd"].content, array[:32, :128, :128])
    assert read.stats()["bytes"] < os.path.getsize(url) / 4


def test_masks_come_with_their_volume_when_they_are_asked_for(tmp_path):
    array, labels = volume(1), (volume(2, (2, 9, 20, 24)) > 900).astype(np.uint8)
    entries = [("k.ct.nii", foreign.as_nifti(array)), ("k.seg.b2nd", foreign.as_b2nd(labels))]
    url = write_tar(tmp_path / "a.tar", entries)
    for tars in (TarSet(url), write_index(url, to=str(tmp_path / "index"), contents=True)):
        assert reader(tars).read(0).media["k.ct.nii"].masks is None
        assert np.array_equal(reader(tars, masks=True).read(0).media["k.ct.nii"].masks, labels)
        medium = reader(tars, masks=True, roi=(4, 8, 9)).read(0, t=3).media["k.ct.nii"]
        z0, y0, x0, z1, y1, x1 = medium.box
        assert np.array_equal(medium.masks, labels[:, z0:z1, y0:y1, x0:x1])


def flip(url: str, member: str) -> None:
    """Flip a bit in the middle of a member, and leave the file's time as it was."""
    with tarfile.open(url) as archive:
        found = archive.getmember(member)
    before = os.stat(url)
    with open(url, "r+b") as file:
        file.seek(found.offset_data + found.size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 8]))
    os.utime(url, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("field", MANY)
def test_with_checksums_no_flipped_bit_is_read(folder, field, tmp_path):
    index = write_index(folder, to=str(tmp_path / "index"), contents=True)
    flip(f"{folder}/train-000000.tar", f"s0002.{field}")
    found = reader(index).read_many([Wish(row) for row in range(4)])
    assert [isinstance(one, WrongBytes) for one in found] == [False, False, True, False]
    with pytest.raises(WrongBytes, match="s0002"):
        reader(index).read(2)


def test_a_rewritten_tar_stops_the_reader(folder):
    tars = TarSet(folder)
    write_tar(f"{folder}/train-000001.tar", samples(7, 6, MANY))  # the same members, another time
    os.utime(f"{folder}/train-000001.tar", ns=(0, 0))
    read = reader(tars)
    assert read.read(0).example.example_id == "s0000"
    with pytest.raises(FormatError, match="was rewritten since it was indexed"):
        read.read(8)


def test_a_tar_that_is_gone_stops_the_reader(folder):
    tars = TarSet(folder)
    os.unlink(f"{folder}/train-000001.tar")
    with pytest.raises(FormatError, match=r"train-000001\.tar is not there"):
        reader(tars).read(8)


def test_a_tar_that_is_overwritten_while_it_is_read_is_noticed(folder):
    tars = TarSet(folder)
    read = reader(tars)
    assert read.read(8).example.example_id == "s0008"
    with open(f"{folder}/train-000001.tar", "r+b") as file:
        file.write(bytes(20_000))
    with pytest.raises(FormatError, match="was rewritten"):
        read.read(8)


def test_a_reader_is_shared_by_threads_and_opens_again_what_was_closed(folder):
    read = reader(folder)
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for row in range(13):
                assert np.array_equal(read.read(row).media[f"s{row:04d}.npy"].content, volume(row))
        except BaseException as fault:  # noqa: BLE001 - told below
            wrong.append(fault)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    read.close()
    assert read.read(0).example.example_id == "s0000"


def ids(stream: ShardStream, steps: int) -> list[tuple[str, ...]]:
    found = []
    while len(found) < steps:
        found += [batch.keys for batch in stream]
    return found[:steps]


def test_foreign_tars_stream_in_an_order_that_any_rank_can_resume(folder, tmp_path):
    whole = ids(ShardStream(folder, seed=3, global_batch=4), 8)
    assert {name for batch in whole for name in batch} == {f"s{n:04d}" for n in range(13)}
    index = write_index(folder, to=str(tmp_path / "index")).url
    stream = ShardStream(index, seed=3, global_batch=4)
    first = next(iter(stream))
    assert first.keys == whole[0]
    assert all(
        np.array_equal(e.media[f"{k}.npy"].content, volume(int(k[1:])))
        for k, e in zip(first.keys, first.examples, strict=True)
    )
    state = json.dumps(stream.state_dict())
    for world in (1, 2, 3):
        for workers in (0, 2):
            ranks = []
            for rank in range(world):
                data = [f"{folder}/train-{{000000..000001}}.tar"]
                one = ShardStream(data, seed=3, global_batch=4, rank=rank, world_size=world, workers=workers)
                one.load_state_dict(state)
                ranks.append(ids(one, 5))
            for step in range(5):
                assert sorted(k for rank in ranks for k in rank[step]) == sorted(whole[step + 1])


def test_a_bad_sample_is_substituted_and_quarantined(folder, tmp_path):
    index = write_index(folder, to=str(tmp_path / "index"), contents=True).url
    flip(f"{folder}/train-000000.tar", "s0002.npy")
    stream = ShardStream(index, seed=3, global_batch=13)
    (batch,) = list(stream)
    assert len(batch.keys) == 13
    assert "s0002" not in batch.keys
    assert [row["example_id"] for row in stream.quarantined] == ["s0002"]


def test_tars_on_a_real_object_store(folder, monkeypatch, tmp_path):
    import s3fs

    with s3_server(monkeypatch) as bucket:
        s3fs.S3FileSystem().put(folder, f"{bucket}/set", recursive=True)
        tars = TarSet(f"{bucket}/set/train-{{000000..000001}}.tar")
        assert tars.digest == TarSet(folder).digest
        assert write_index(f"{bucket}/set", to=f"{bucket}/index", contents=True).rows.num_rows == 13
        read = reader(f"{bucket}/index", cache=str(tmp_path / "cache"))
        for row, one in enumerate(read.read_many([Wish(row) for row in range(13)])):
            assert np.array_equal(one.media[f"s{row:04d}.npy"].content, volume(row))
        write_tar(tmp_path / "other.tar", samples(7, 6, (*MANY[:3], "npy")))
        changed = Path(tmp_path / "other.tar").read_bytes().replace(b"Picture 8.", b"picture 8.")
        s3fs.S3FileSystem().pipe_file(f"{bucket}/set/train-000001.tar", changed)
        with pytest.raises(FormatError, match="was rewritten"):
            reader(TarSet(f"{bucket}/index")).read(8)


def test_volumes_pictures_and_texts_of_one_set_do_not_share_batches(tmp_path):
    write_tar(tmp_path / "set" / "pictures" / "train-0.tar", samples(0, 8))
    scans = [(f"v{n}.ct.nii.gz", gzip.compress(foreign.as_nifti(volume(n, (12, 40, 40))))) for n in range(6)]
    write_tar(tmp_path / "set" / "scans" / "train-0.tar", scans)
    write_tar(tmp_path / "set" / "texts" / "train-0.tar", [(f"t{n}.txt", b"words") for n in range(5)])
    stream = ShardStream(str(tmp_path / "set"), seed=1, global_batch=4, roi=(8, 16, 16))
    batches = list(stream)
    assert {key[0] for batch in batches for key in batch.keys} == {"s", "v", "t"}
    for batch in batches:
        assert len({key[0] for key in batch.keys}) == 1
        shapes = {medium.content.shape for one in batch.examples for medium in one.media.values()}
        assert shapes == {"s": {(24, 32, 3)}, "v": {(8, 16, 16)}, "t": set()}[batch.keys[0][0]]
    mixed = ShardStream(str(tmp_path / "set"), seed=1, global_batch=4, mix={"scans": 1, "pictures": 1})
    assert {key[0] for batch in mixed for key in batch.keys} == {"s", "v"}


def test_a_tar_that_is_replaced_after_it_was_let_go_of_is_noticed(folder, monkeypatch):
    monkeypatch.setattr(byte_source, "_KEPT", 1)
    read = reader(folder)
    for row in (8, 0):
        assert read.read(row).example.example_id == f"s{row:04d}"
    write_tar(f"{folder}/other", samples(7, 6, MANY))  # the same members, another time
    os.utime(f"{folder}/other", ns=(0, 0))
    os.replace(f"{folder}/other", f"{folder}/train-000001.tar")
    with pytest.raises(FormatError, match="was rewritten"):
        read.read(8)


def test_a_tar_that_is_replaced_between_close_and_reading_again_is_noticed(folder):
    read = reader(folder)
    read.read(8)
    read.close()
    os.utime(f"{folder}/train-000001.tar", ns=(0, 0))
    with pytest.raises(FormatError, match="was rewritten"):
        read.read(8)


def test_a_listing_that_a_store_keeps_does_not_hide_a_rewritten_tar(folder, monkeypatch):
    import s3fs

    with s3_server(monkeypatch) as bucket:
        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.put(folder, f"{bucket}/set", recursive=True)
        tars = TarSet(f"{bucket}/set")
        fsspec.core.url_to_fs(bucket)[0].find(f"{bucket}/set")
        changed = files.cat_file(f"{bucket}/set/train-000001.tar").replace(b"Picture 8.", b"picture 8.")
        files.pipe_file(f"{bucket}/set/train-000001.tar", changed)
        with pytest.raises(FormatError, match="was rewritten"):
            reader(tars).read(8)
        assert size_and_stamp(tars.tars[1].url)[1] != tars.tars[1].stamp
        assert size_and_stamp(tars.tars[0].url)[1] == tars.tars[0].stamp


def test_masks_are_cut_where_the_shape_of_their_volume_is_found_out(tmp_path):
    array, labels = volume(1), (volume(2, (2, 9, 20, 24)) > 900).astype(np.uint8)
    entries = [("k.npz", foreign.as_npz(data=array)), ("k.seg.b2nd", foreign.as_b2nd(labels))]
    index = write_index(write_tar(tmp_path / "a.tar", entries), to=str(tmp_path / "index"), contents=True)
    medium = reader(index, masks=True, roi=(4, 8, 9)).read(0, t=3).media["k.npz"]
    z0, y0, x0, z1, y1, x1 = medium.box
    assert np.array_equal(medium.content, array[z0:z1, y0:y1, x0:x1])
    assert np.array_equal(medium.masks, labels[:, z0:z1, y0:y1, x0:x1])
