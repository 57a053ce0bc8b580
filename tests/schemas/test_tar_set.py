import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import blosc2
import crc32c
import fsspec
import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import foreign
from tests.foreign import samples, write_tar
from tests.services.faulty_store import faulty_store
from tests.services.loopback import Reply

from medloom.model.byte_source import open_source
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.store import Store
from medloom.schemas.tables import RELEASE_INDEX, RELEASE_ROW
from medloom.schemas.tar_names import expand, kind_of, roles_of, split_of, suffix_of
from medloom.schemas.tar_set import TarSet, holds_tars, write_index


@pytest.fixture
def folder(tmp_path) -> str:
    """Two training tars and a test tar."""
    write_tar(tmp_path / "set" / "train-000000.tar", samples(0, 3))
    write_tar(tmp_path / "set" / "train-000001.tar", samples(3, 2))
    write_tar(tmp_path / "set" / "test-000000.tar", samples(9, 2))
    return str(tmp_path / "set")


def content(found: TarSet) -> list[tuple[str, dict[str, bytes]]]:
    """Name and members of every sample, read at the places that the set gives."""
    told = []
    for row, (name, first, last) in enumerate(
        zip(found.rows["example_id"].to_pylist(), found.edges[:-1], found.edges[1:], strict=True)
    ):
        members = found.members.slice(first, last - first).to_pylist()
        assert {member["key"] for member in members} == {name}
        data = {}
        for member in members:
            with open(found.tars[member["shard"]].url, "rb") as file:
                file.seek(member["offset"])
                data[member["field"]] = file.read(member["size"])
        assert found.rows["part"][row].as_py().endswith(f"{members[0]['shard']:06d}")
        told.append((name, data))
    return told


def by_webdataset(url: str) -> list[tuple[str, dict[str, bytes]]]:
    found = webdataset.WebDataset(url, shardshuffle=False, empty_check=False)
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in found]


def test_samples_are_those_of_webdataset(folder):
    for name in ("train-000000", "train-000001", "test-000000"):
        url = f"{folder}/{name}.tar"
        assert content(TarSet(url)) == by_webdataset(url)


WORDS = st.text("ab_-", min_size=1, max_size=3)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(WORDS, WORDS), unique=True, max_size=6),
    st.lists(st.sampled_from(["jpg", "JSON", "ct.nii.gz", "txt", "seg.b2nd"]), unique=True, min_size=1, max_size=4),
    st.sampled_from(["", "x/", "./"]),
)
def test_keys_and_fields_are_cut_as_webdataset_cuts_them(tmp_path_factory, keys, fields, before):
    entries = [(f"{before}{a}/{b}.{f}", f.encode()) for a, b in keys for f in fields]
    url = write_tar(tmp_path_factory.mktemp("cut") / "a.tar", [*entries, ("README", b"none"), ("x/.hidden", b"none")])
    # webdataset takes a hidden file of a folder for a sample of the folder's name; we leave it out and count it.
    wanted = [(key, sample) for key, sample in by_webdataset(url) if not key.endswith("/")]
    found = TarSet(url)
    assert content(found) == wanted
    assert found.tars[0].skipped == {"unnamed": 2}


def test_rows_and_members_have_the_columns_of_a_release(folder):
    found = TarSet(folder)
    assert found.rows.schema == RELEASE_ROW
    assert found.members.schema == RELEASE_INDEX
    assert found.rows["split"].to_pylist() == ["test"] * 2 + ["train"] * 5
    assert found.rows["layouts"].to_pylist() == [["jpg"]] * 7
    names = found.rows["example_id"].to_pylist()
    assert found.rows["media"].to_pylist() == [[f"{name}.jpg"] for name in names]
    places = [at for (at,) in found.rows["media_at"].to_pylist()]
    pointed = found.members.take(places)
    assert (pointed["key"].to_pylist(), pointed["field"].to_pylist()) == (names, ["jpg"] * 7)
    assert (found.overlay_parts(), found.builds(), found.states(parts=0).worst) == (0, [], {})


def test_a_set_is_the_same_however_it_is_named(folder, tmp_path):
    names = [f"{folder}/{n}.tar" for n in ("test-000000", "train-000000", "train-000001")]
    found = [TarSet(folder), TarSet(names), TarSet(f"{folder}/*.tar"), TarSet(Path(folder).as_posix() + "/")]
    found.append(TarSet([names[0], f"{folder}/train-{{000000..000001}}.tar"]))
    found.append(write_index(folder, to=str(tmp_path / "index")))
    found.append(TarSet(str(tmp_path / "index")))
    assert {one.digest for one in found} == {found[0].digest}
    assert all(one.rows.equals(found[0].rows) and one.members.equals(found[0].members) for one in found)
    assert TarSet(names[::-1]).digest != found[0].digest
    assert TarSet(names[:2]).digest != found[0].digest


def test_a_copy_elsewhere_is_the_same_set(folder, tmp_path):
    os.rename(folder, tmp_path / "moved")
    moved = TarSet(str(tmp_path / "moved")).digest
    os.rename(tmp_path / "moved", folder)
    assert TarSet(folder).digest == moved


def test_keys_that_come_again_are_named_with_their_tar(tmp_path):
    write_tar(tmp_path / "a.tar", [("k.txt", b"1"), ("l.txt", b"2")])
    write_tar(tmp_path / "b.tar", [("k.txt", b"3"), ("m.txt", b"4"), ("k.txt", b"5")])
    found = TarSet(str(tmp_path))
    assert [name for name, _ in content(found)] == ["a:k", "l", "b:k#1", "m", "b:k#3"]
    assert [data["txt"] for _, data in content(found)] == [b"1", b"2", b"3", b"4", b"5"]
    assert found.renamed == 3


def test_names_made_unique_never_meet_a_real_key(tmp_path):
    write_tar(tmp_path / "a.tar", [("k.txt", b"1"), ("a:k.txt", b"2"), ("b:k.txt", b"3"), ("a:k#1.txt", b"4")])
    write_tar(tmp_path / "b.tar", [("k.txt", b"5"), ("b:k#1.txt", b"6")])
    found = TarSet(str(tmp_path))
    assert len(set(found.rows["example_id"].to_pylist())) == 6
    assert [data["txt"] for _, data in content(found)] == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_members_that_stand_apart_are_gathered(tmp_path):
    url = write_tar(tmp_path / "a.tar", [("k.jpg", b"1"), ("l.jpg", b"2"), ("k.txt", b"3"), ("l.txt", b"4")])
    assert content(TarSet(url)) == [("k", {"jpg": b"1", "txt": b"3"}), ("l", {"jpg": b"2", "txt": b"4"})]
    index = write_index(url, to=str(tmp_path / "index"), contents=True)
    assert index.members["crc32c"].to_pylist() == [crc32c.crc32c(data) for data in (b"1", b"3", b"2", b"4")]


def test_a_sample_that_holds_a_field_twice_is_left_out_and_counted(tmp_path):
    entries = [("j.txt", b"0"), ("k.jpg", b"1"), ("k.JPG", b"2"), ("l.jpg", b"3")]
    found = TarSet(write_tar(tmp_path / "a.tar", entries))
    assert content(found) == [("j", {"txt": b"0"}), ("l", {"jpg": b"3"})]
    assert found.tars[0].skipped == {"field twice": 1}


def test_a_tar_without_samples_has_no_rows(tmp_path):
    found = TarSet([write_tar(tmp_path / "a.tar", []), write_tar(tmp_path / "b.tar", [("README", b"")])])
    assert (found.rows.num_rows, found.members.num_rows, found.edges.tolist()) == (0, 0, [0])
    assert found.rows.schema == RELEASE_ROW


def test_samples_of_several_media(tmp_path):
    fields = ("json", "ct.b2nd", "seg.b2nd", "thumb.jpg", "00.jpg", "01.png", "note.pdf")
    found = TarSet(write_tar(tmp_path / "a.tar", [(f"k.{field}", b"x") for field in fields]))
    assert found.rows["media"].to_pylist() == [["k.ct.b2nd", "k.00.jpg", "k.01.png"]]
    assert found.members["field"].take(found.rows["media_at"][0].as_py()).to_pylist() == ["ct.b2nd", "00.jpg", "01.png"]
    assert roles_of(fields).media == (("ct.b2nd", "seg.b2nd"), ("00.jpg", ""), ("01.png", ""))
    assert roles_of(("thumb.jpg", "txt")).media == (("thumb.jpg", ""),)
    assert roles_of(("seg.b2nd", "txt")).media == (("seg.b2nd", ""),)
    assert roles_of(("a.nii", "b.nii", "seg.b2nd")).media == (("a.nii", ""), ("b.nii", ""), ("seg.b2nd", ""))


def test_suffixes_say_what_a_field_holds():
    said = {name: (suffix_of(name), kind_of(name)) for name in ("ct.nii.gz", "npy.zst", "00.jpeg", "xjpg", "cls")}
    assert said == {
        "ct.nii.gz": ("nii.gz", "volume"), "npy.zst": ("npy.zst", "array"), "00.jpeg": ("jpeg", "picture"),
        "xjpg": ("", ""), "cls": ("", ""),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("d/train-000000.tar", "train"), ("d/cc3m-validation-0.tar", "validation"), ("d/val_3.tar", "validation"),
        ("d/test/00000.tar", "test"), ("d/dev-1.tar", "validation"), ("test/train-0.tar", "train"),
        ("d/00001.tar", "train"), ("latest/x.tar", "train"),
    ],
)  # fmt: skip
def test_splits_are_words_of_names(path, split):
    assert split_of(path) == split


def test_sources_are_the_folders_of_tars(tmp_path):
    write_tar(tmp_path / "ct" / "a.tar", samples(0, 1))
    write_tar(tmp_path / "mr" / "a.tar", samples(1, 1))
    assert TarSet(str(tmp_path)).rows["source"].to_pylist() == ["ct", "mr"]
    write_tar(tmp_path / "old" / "ct" / "a.tar", samples(2, 1))
    assert TarSet(str(tmp_path)).rows["source"].to_pylist() == ["ct", "mr", "old/ct"]


def test_braces_expand_as_in_a_shell():
    assert list(expand("a-{08..11}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert list(expand("{a,b}/{0..1}.tar")) == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert list(expand("{a,b{0..1}}")) == ["a", "b0", "b1"]
    for pattern in ("{5..1}.tar", "{0..9999999}.tar", "{0..999}{0..999}{0..9}.tar"):
        with pytest.raises(SourceError):
            list(expand(pattern))


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "s3://b/a.tar.zst?x=1"])
def test_compressed_tars_are_refused_with_what_to_do(name):
    with pytest.raises(SourceError, match=r"is compressed.*unpack it to a plain \.tar"):
        TarSet(name)


def test_what_cannot_be_used_says_why(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"holds no \.tar"):
        TarSet(str(tmp_path / "empty"))
    with pytest.raises(SourceError, match=r"no \.tar matches"):
        TarSet(f"{folder}/x*.tar")
    with pytest.raises(ConfigError, match="is named twice"):
        TarSet([f"{folder}/train-000000.tar"] * 2)
    with pytest.raises(FormatError, match="is not there"):
        TarSet(f"{folder}/train-{{000000..000002}}.tar")
    with pytest.raises(SourceError, match="no tar is named"):
        TarSet([])


def test_what_holds_tars(folder, tmp_path):
    write_index(folder, to=str(tmp_path / "index"))
    for url in (folder, str(tmp_path / "index"), f"{folder}/*.tar", "s3://nowhere/{0..9}.tar", "x.tar"):
        assert holds_tars(url)
    (tmp_path / "empty").mkdir()
    for url in (str(tmp_path / "empty"), str(tmp_path / "not there")):
        assert not holds_tars(url)


def test_an_index_is_walked_again_only_where_tars_changed(folder, tmp_path):
    index, seen = str(tmp_path / "index"), []
    before = write_index(folder, to=index, report=seen.append).rows.num_rows
    times = {p: p.stat().st_mtime_ns for p in sorted(Path(index, "members").iterdir())}
    assert (len(seen), len(times)) == (3, 3)
    write_tar(f"{folder}/train-000001.tar", samples(3, 4))
    after = write_index(folder, to=index)
    changed = [p.name for p, time in times.items() if p.stat().st_mtime_ns != time]
    assert changed == ["000002.parquet"]
    assert (after.rows.num_rows, after.digest) == (before + 2, TarSet(folder).digest)
    os.unlink(f"{folder}/test-000000.tar")
    assert write_index(folder, to=index).rows.num_rows == 7
    assert len(list(Path(index, "members").iterdir())) == 2


def test_a_killed_index_is_gone_on_with(folder, tmp_path):
    index = str(tmp_path / "index")

    def stop(tar) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(folder, to=index, report=stop)
    assert not holds_tars(index)
    first = Path(index, "members", "000000.parquet").stat().st_mtime_ns
    assert write_index(folder, to=index).digest == TarSet(folder).digest
    assert Path(index, "members", "000000.parquet").stat().st_mtime_ns == first


def test_an_index_moves_with_its_tars(folder, tmp_path):
    write_index(folder, to=str(tmp_path / "set" / "index"))
    os.rename(tmp_path / "set", tmp_path / "moved")
    assert content(TarSet(str(tmp_path / "moved" / "index")))[0][0] == "s0009"


def test_damage_to_an_index_is_found(folder, tmp_path):
    index = str(tmp_path / "index")
    write_index(folder, to=index)
    part = Path(index, "members", "000001.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(FormatError, match=r"was changed after its index\.json"):
        TarSet(index).rows  # noqa: B018
    facts = json.loads(Path(index, "index.json").read_text())
    for wrong in ({**facts, "format_version": 99}, {**facts, "tars": [{"folder": "x"}]}):
        Path(index, "index.json").write_text(json.dumps(wrong))
        with pytest.raises(FormatError):
            TarSet(index)


def test_a_rewritten_tar_is_told_from_the_one_that_was_walked(folder):
    found = TarSet(folder)
    tar = found.tars[0]
    found.check(0, size=tar.size, tag=f"123-{tar.stamp}")
    with pytest.raises(FormatError, match="was rewritten since it was indexed"):
        found.check(0, size=tar.size, tag="123-456")
    with pytest.raises(FormatError, match=f"{tar.size} bytes then, 7 now"):
        found.check(0, size=7, tag=tar.stamp)


def test_contents_say_checksum_shape_type_and_chunks(tmp_path):
    array = foreign.volume(1, (40, 140, 150))
    parts = {
        "jpg": foreign.picture(1), "png": foreign.picture(2, "PNG"), "webp": foreign.picture(3, "WEBP"),
        "ct.b2nd": foreign.as_b2nd(array), "npy": foreign.as_npy(array), "ct.nii": foreign.as_nifti(array),
        "z.npz": foreign.as_npz(data=array), "s.nii": foreign.as_nifti(array, slope=2.0, inter=1.0), "txt": b"text",
        "bad.npy": b"no array",
    }  # fmt: skip
    url = write_tar(tmp_path / "a.tar", [(f"k.{field}", data) for field, data in parts.items()])
    found = write_index(url, to=str(tmp_path / "index"), contents=True)
    rows = {row["field"]: row for row in found.members.to_pylist()}
    assert {field: row["crc32c"] for field, row in rows.items()} == {f: crc32c.crc32c(d) for f, d in parts.items()}
    assert [rows[f]["shape"] for f in ("jpg", "png", "webp")] == [[24, 32, 3]] * 3
    for field in ("ct.b2nd", "npy", "ct.nii"):
        assert (rows[field]["shape"], rows[field]["dtype"]) == ([40, 140, 150], "int16")
    assert rows["s.nii"]["dtype"] == "float32"
    assert (rows["z.npz"]["shape"], rows["txt"]["shape"], rows["bad.npy"]["shape"]) == (None, None, None)
    assert rows["ct.b2nd"]["chunk_shape"] == [32, 128, 128]
    assert len(rows["ct.b2nd"]["chunk_crc32c"]) == 8
    assert found.tars[0].skipped == {"not what its name says": 1}
    assert found.rows["shapes"].to_pylist()[0][:4] == ["24x32x3", "24x32x3", "24x32x3", "40x140x150"]
    assert found.digest != TarSet(url).digest


@pytest.mark.parametrize("contents", [False, True])
def test_a_remote_set_equals_the_local_one(folder, contents, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(folder, "/remote-set", recursive=True)
    try:
        local = write_index(folder, to=str(tmp_path / "a"), contents=contents)
        remote = write_index("memory://remote-set", to=str(tmp_path / "b"), contents=contents)
        assert remote.digest == local.digest
        assert remote.rows.drop(["source"]).equals(local.rows.drop(["source"]))
        assert TarSet("memory://remote-set/train-*.tar").rows.num_rows == 5
        assert TarSet("memory://remote-set/train-{000000..000001}.tar").rows.num_rows == 5
    finally:
        memory.rm("/remote-set", recursive=True)


def test_many_samples_come_in_order(tmp_path):
    entries = [(f"{n:05d}.{field}", b"") for n in range(2_000) for field in ("a", "b")]
    found = TarSet(write_tar(tmp_path / "a.tar", entries, tarfile.GNU_FORMAT))
    assert found.rows["example_id"].to_pylist() == [f"{n:05d}" for n in range(2_000)]
    assert np.array_equal(found.edges, np.arange(0, 4_001, 2))


def test_names_end_up_unique_where_tars_of_two_stores_have_the_same_names(folder, tmp_path):
    copies = [str(tmp_path / store / "train-000000.tar") for store in ("a", "b")]
    for copy in copies:
        write_tar(copy, samples(0, 3))
    with faulty_store(tmp_path / "a") as a, faulty_store(tmp_path / "b") as b:
        found = TarSet([f"{a.url}/train-000000.tar", f"{b.url}/train-000000.tar"])
    assert len(set(found.rows["example_id"].to_pylist())) == 6
    assert found.members["key"].to_pylist()[::3] == found.rows["example_id"].to_pylist()


def test_a_key_that_is_another_samples_new_name_gets_one_of_its_own(tmp_path):
    for tar, key in (("A", "x"), ("B", "x"), ("C", "A:x")):
        write_tar(tmp_path / f"{tar}.tar", [(f"{key}.txt", tar.encode())])
    names = [name for name, _ in content(TarSet(str(tmp_path)))]
    assert len(set(names)) == 3
    assert names[1] == "B:x"


def test_frames_of_the_other_byte_order_have_no_chunks_that_could_be_cut(tmp_path):
    parts = {"be.b2nd": blosc2.asarray(foreign.volume(1).astype(">i2")).to_cframe(),
             "text.b2nd": blosc2.asarray(np.full((4, 4), b"a", "S4")).to_cframe()}  # fmt: skip
    url = write_tar(tmp_path / "a.tar", [(f"k.{field}", bytes(data)) for field, data in parts.items()])
    found = write_index(url, to=str(tmp_path / "index"), contents=True)
    swapped, text = found.members.to_pylist()
    assert (swapped["shape"], swapped["dtype"]) == ([9, 20, 24], "int16")
    assert not swapped["chunk_shape"]
    assert not text["shape"]
    assert found.tars[0].skipped == {"not what its name says": 1}


def test_reads_that_the_system_gives_in_pieces_are_put_together(folder, monkeypatch, tmp_path):
    expected = write_index(folder, to=str(tmp_path / "whole"), contents=True)
    pread = os.pread  # gives at most 2 GiB - 4 KiB at once, here less
    monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 700), at))
    found = write_index(folder, to=str(tmp_path / "pieces"), contents=True)
    assert found.members.equals(expected.members)


def test_a_server_that_tells_only_the_date_of_a_file_is_asked_for_it(folder, tmp_path):
    date = ["Sun, 09 Sep 2001 01:46:40 GMT"]

    def dated(reply: Reply) -> Reply:
        kept = {name: value for name, value in reply.headers.items() if name != "ETag"}
        return replace(reply, headers={**kept, "last-modified": date[0]})

    with faulty_store(folder) as store:
        store.heads_too = True
        store.meet("*", dated)
        url = f"{store.url}/train-000000.tar"
        tars, source = TarSet(url), open_source(Store(store.url))
        assert tars.tars[0].stamp == date[0]
        now = source.identity("train-000000.tar")
        tars.check(0, size=now.size, tag=now.tag)
        assert write_index(url, to=str(tmp_path / "index")).tars[0].stamp == date[0]
        date[0] = "Sun, 09 Sep 2001 01:46:41 GMT"
        now = source.identity("train-000000.tar")
        with pytest.raises(FormatError, match="was rewritten"):
            tars.check(0, size=now.size, tag=now.tag)
        assert write_index(url, to=str(tmp_path / "index")).tars[0].stamp == date[0]


def test_an_axis_longer_than_an_index_can_say_is_not_said(tmp_path):
    header = b"{'descr':'|u1','fortran_order':False,'shape':(2147487744,)}"
    long = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    url = write_tar(tmp_path / "a.tar", [("k.npy", long), ("l.npy", foreign.as_npy(foreign.volume(1)))])
    found = write_index(url, to=str(tmp_path / "index"), contents=True)
    assert found.members["shape"].to_pylist() == [None, [9, 20, 24]]
