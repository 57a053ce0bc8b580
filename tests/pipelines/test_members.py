"""Files in archives are objects of a source of scans, wherever it lies; a broken archive is one refused object."""

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest
from pydicom.data import get_testdata_file
from tests import sources
from tests.services.s3 import s3_server

from medloom.connectors import archives
from medloom.connectors.settings import IDENTITY_KEY
from medloom.pipelines.sources import listing, members
from medloom.pipelines.sources.local import local_copy
from medloom.schemas.build import Build
from medloom.schemas.errors import Refused

FILES = {"a/one.dcm": b"1" * 1000, "a/two.nii.gz": os.urandom(70_000), "b.dcm": b"3" * 5}


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("folder/", b"")
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        folder = tarfile.TarInfo("./a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


PACK = {"x.zip": _zip, "x.tar": _tar, "x.tar.gz": lambda f: _tar(f, "w:gz"), "X.TGZ": lambda f: _tar(f, "w:gz")}


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request, tmp_path, monkeypatch):
    """Give the URL of an empty folder."""
    if request.param == "disk":
        yield str(tmp_path)
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}"
    else:
        with s3_server(monkeypatch) as bucket:
            yield f"{bucket}/source"


def _put(root: str, name: str, data: bytes) -> None:
    fs, path = fsspec.core.url_to_fs(root)
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/{name}", data)


def _urls(root: str) -> list[str]:
    return members.list_objects(root)["url"].to_pylist()


def _reason(root: str, url: str) -> str:
    with pytest.raises(Refused) as read:
        members.read_object(root, url)
    with pytest.raises(Refused) as copied, local_copy(root, url):
        pass
    assert read.value.reason == copied.value.reason
    return read.value.reason


@pytest.mark.parametrize("name", PACK)
def test_members_are_objects_that_can_be_read_in_any_order(root, name):
    _put(root, name, PACK[name](FILES))
    _put(root, "plain.dcm", b"plain")
    rows = {row["url"]: row for row in members.list_objects(root).to_pylist()}
    assert sorted(rows) == sorted([*(f"{name}!/{inner}" for inner in FILES), "plain.dcm"])
    assert list(rows) == sorted(rows)
    (whole,) = [row for row in listing.list_objects(root).to_pylist() if row["url"] == name]
    for inner, data in [*FILES.items(), *reversed(FILES.items())]:
        row = rows[f"{name}!/{inner}"]
        assert row == {**whole, "url": row["url"], "size": len(data)}
        assert members.read_object(root, row["url"], etag=row["etag"]) == data
        assert members.read_object(root, row["url"], etag=row["etag"], limit_bytes=3) == data[:3]
        with local_copy(root, row["url"], etag=row["etag"]) as path:
            assert Path(path).read_bytes() == data
            assert path.endswith(".nii.gz") == inner.endswith(".nii.gz")
        assert not os.path.exists(path)
    assert members.read_object(root, "plain.dcm") == b"plain"


def test_archives_in_archives_are_opened_but_not_without_end(root):
    inner = _zip({"image_1": b"1", "image_10": b"10"})
    _put(
        root, "set.zip", _zip({"1/PATIENT.zip": inner, "1/MASKS.zip": _zip({"liver/image_1": b"m"}), "note.txt": b"n"})
    )
    assert _urls(root) == [
        "set.zip!/1/MASKS.zip!/liver/image_1", "set.zip!/1/PATIENT.zip!/image_1", "set.zip!/1/PATIENT.zip!/image_10",
        "set.zip!/note.txt",
    ]  # fmt: skip
    assert members.read_object(root, "set.zip!/1/PATIENT.zip!/image_10") == b"10"
    assert members.read_object(root, "set.zip!/1/MASKS.zip!/liver/image_1") == b"m"
    deep = _zip({"x": b"x"})
    for _ in range(5):
        deep = _zip({"in.zip": deep})
    _put(root, "set.zip", deep)
    assert _urls(root) == ["set.zip!/" + "in.zip!/" * 3]
    assert _reason(root, _urls(root)[0]) == "archive.depth"


def _encrypted(files: dict[str, bytes]) -> bytes:
    data = bytearray(_zip(files, zipfile.ZIP_STORED))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(mark)
        while start >= 0:
            data[start + at] |= 1
            start = data.find(mark, start + 1)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "reasons"),
    [
        ("x.zip", b"PK\x03\x04 and no more", {"archive.truncated"}),
        ("x.zip", _zip(FILES)[:-30], {"archive.truncated", "archive.format"}),
        ("x.zip", _encrypted(FILES), {"archive.encrypted"}),
        ("x.zip", _zip({}), {"archive.empty"}),
        ("x.tar", _tar(FILES)[:5000], {"archive.truncated"}),
        ("x.tar", b"no tar" * 1000, {"archive.format", "archive.damaged"}),
        ("x.tar.gz", _tar(FILES, "w:gz")[:-9], {"archive.truncated"}),
        ("x.tgz", _tar(FILES, "w:gz")[:-8] + b"\0" * 8, {"archive.damaged"}),
        ("x.tar.gz", gzip.compress(bytes(40 << 20)), {"archive.ratio"}),
    ],
)
def test_an_archive_that_cannot_be_read_is_one_refused_object(tmp_path, name, data, reasons):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "plain.dcm").write_bytes(b"plain")
    assert _urls(str(tmp_path)) == sorted([f"{name}!/", "plain.dcm"])
    assert members.list_objects(str(tmp_path)).to_pylist()[-1]["size"] == len(data)
    assert _reason(str(tmp_path), f"{name}!/") in reasons


def test_what_is_wrong_with_one_member_is_told_of_it_alone(tmp_path):
    damaged = bytearray(_zip({"a.dcm": b"a" * 100, "b.dcm": b"b" * 100}, zipfile.ZIP_STORED))
    damaged[damaged.find(b"a" * 100)] ^= 1
    (tmp_path / "x.zip").write_bytes(damaged)
    assert _reason(str(tmp_path), "x.zip!/a.dcm") == "archive.damaged"
    assert members.read_object(str(tmp_path), "x.zip!/b.dcm") == b"b" * 100

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (
            ("../out.dcm", b"0"),
            ("/abs.dcm", b"0"),
            ("link.dcm", b"2"),
            ("a.dcm", b"0"),
            ("a.dcm", b"0"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 3 if kind == b"0" else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    (tmp_path / "y.tar").write_bytes(file.getvalue())
    told = {}
    for url in _urls(str(tmp_path)):
        try:
            told[url] = members.read_object(str(tmp_path), url).decode()[:3]
        except Refused as refused:
            told[url] = refused.reason
    assert told == {
        "x.zip!/a.dcm": "archive.damaged", "x.zip!/b.dcm": "bbb", "y.tar!/../out.dcm": "archive.path",
        "y.tar!//abs.dcm": "archive.path", "y.tar!/link.dcm": "archive.link", "y.tar!/a.dcm": "abc",
        "y.tar!/a.dcm (2)": "archive.duplicate",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip", "y.tar"]


def test_a_changed_archive_changes_its_members(root):
    _put(root, "x.zip", _zip({"a.dcm": b"a", "b.dcm": b"b"}))
    before = members.list_objects(root).to_pylist()
    assert members.read_object(root, "x.zip!/a.dcm") == b"a"
    _put(root, "x.zip", _zip({"a.dcm": b"A", "c.dcm": b"c"}))
    after = members.list_objects(root).to_pylist()
    assert {row["url"] for row in after} == {"x.zip!/a.dcm", "x.zip!/c.dcm"}
    assert before[0] != after[0]
    assert members.read_object(root, "x.zip!/a.dcm", etag=after[0]["etag"]) == b"A"
    assert _reason(root, "x.zip!/b.dcm") == "source.unreadable"


def test_an_archive_is_opened_once_and_closed_when_others_are(tmp_path, monkeypatch):
    opened: list[str] = []
    index = archives.index
    monkeypatch.setattr(members, "index", lambda *args: opened.append("") or index(*args))
    for number in range(members.MAX_OPEN + 2):
        (tmp_path / f"{number}.zip").write_bytes(_zip({f"{i}.dcm": b"x" * i for i in range(1, 50)}))
    for url in _urls(str(tmp_path)):
        assert members.read_object(str(tmp_path), url)
    assert len(opened) <= 2 * (members.MAX_OPEN + 2)  # once to list, once to read
    assert len(members._open) == members.MAX_OPEN
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    ]
    assert sum(str(tmp_path) in path for path in held) == members.MAX_OPEN


def test_a_bad_archive_is_tried_once(tmp_path, monkeypatch):
    tried: list[str] = []
    index = archives.index
    monkeypatch.setattr(members, "index", lambda *args: tried.append("") or index(*args))
    (tmp_path / "x.zip").write_bytes(b"no zip")
    assert _urls(str(tmp_path)) == ["x.zip!/"]
    assert [_reason(str(tmp_path), "x.zip!/") for _ in range(3)] == ["archive.truncated"] * 3
    assert len(tried) == 1


def test_a_folder_may_be_called_like_an_archive(tmp_path):
    (tmp_path / "x.zip!").mkdir()
    (tmp_path / "x.zip!/a.dcm").write_bytes(b"a")
    assert _urls(str(tmp_path)) == ["x.zip!/a.dcm"]
    assert members.read_object(str(tmp_path), "x.zip!/a.dcm") == b"a"
    with local_copy(str(tmp_path), "x.zip!/a.dcm") as path:
        assert path == str(tmp_path / "x.zip!/a.dcm")


@pytest.mark.parametrize(
    ("url", "chain"),
    [
        ("a/b.dcm", ()), ("a!/b.dcm", ()), ("x.zip!/b.dcm", ("x.zip", "b.dcm")), ("x.zip!/", ("x.zip", "")),
        ("a!/x.tar.gz!/b!/c.dcm", ("a!/x.tar.gz", "b!/c.dcm")),
        ("a/x.ZIP!/b.tgz!/c/d.zip!/e", ("a/x.ZIP", "b.tgz", "c/d.zip", "e")),
    ],
)  # fmt: skip
def test_a_name_says_through_which_archives_it_leads(url, chain):
    assert members.chain_of(url) == chain


def test_a_source_of_papers_is_listed_as_before(tmp_path):
    (tmp_path / "x.zip").write_bytes(_zip(FILES))
    assert listing.list_objects(str(tmp_path))["url"].to_pylist() == ["x.zip"]
    assert listing.read_object(str(tmp_path), "x.zip", limit_bytes=2) == b"PK"


@pytest.mark.slow
def test_a_build_from_an_archive_is_the_build_from_its_folder(tmp_path, monkeypatch):
    """Same media and table of two CT series; a DICOMDIR beside them is refused as what it is."""
    monkeypatch.setenv(IDENTITY_KEY, "k" * 64)
    folder = tmp_path / "folder"
    sources.write_ct(folder / "patient-a" / "ct", patient="A-1", series=1, n=6)
    sources.write_ct(folder / "patient-b" / "ct", patient="B-2", series=2, n=5)
    shutil.copy(get_testdata_file("dicomdirtests/DICOMDIR", download=False), folder / "DICOMDIR")
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder))
    recipe = sources.write_recipe(
        tmp_path / "r.py", sources='(Scans("scans", source, deidentify="on", terms_id="cc0-1.0"),)'
    )
    plain = sources.build(tmp_path / "of folder", recipe, folder)
    of_zip = sources.build(tmp_path / "of zip", recipe, packed)
    media = {name: digest for name, digest in plain["files"].items() if name.startswith(("media/", "tables/series/"))}
    assert media
    assert media == {name: of_zip["files"][name] for name in media}
    assert [row["reason"] for row in Build(str(tmp_path / "of zip")).refusals()] == ["dicom.directory"]
