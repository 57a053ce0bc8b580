"""A root is a folder, an fsspec URL or a raw zone: what is listed can be read, and a build cannot tell them apart."""

import os
from pathlib import Path

import pytest
from tests import sources
from tests.services.s3 import s3_server

from medloom.connectors.guard import Guard
from medloom.connectors.images import sniff
from medloom.pipelines.sources.listing import OBJECT, list_objects, read_object
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.tables.headers import _volume_facts
from medloom.schemas.build import Build
from medloom.schemas.errors import Refused, SourceError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.raw import RawZone
from medloom.schemas.store import Store


@pytest.fixture(params=["disk", "s3"])
def url(request, tmp_path, monkeypatch):
    if request.param == "disk":
        yield str(tmp_path / "raw")
        return
    with s3_server(monkeypatch) as bucket:
        yield f"{bucket}/raw"


def keep(zone: RawZone, name: str, data: bytes, *, role: str = "media", **more) -> dict:
    digest, size = zone.put(data)
    article = name.partition("/")[0]
    return {"name": name, "article": article, "role": role, "outcome": "kept", "digest": digest, "size": size, **more}


def fill(zone: RawZone, folder: Path) -> None:
    """Keep every file of a folder under its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    roles = {".xml": "article", ".nxml": "article"}
    zone.append([
        keep(zone, str(path.relative_to(folder)), path.read_bytes(), role=roles.get(path.suffix, "media"))
        for path in files
    ])  # fmt: skip


def test_a_raw_zone_lists_what_is_kept_by_name(url):
    zone = RawZone.at(url)
    zone.append([
        keep(zone, "b.1/b.xml", b"<b/>", role="article"), keep(zone, "b.1/x.jpg", b"x"),
        keep(zone, "a.1/a.xml", b"<a/>", role="article"), keep(zone, "metadata/b.1.json", b"{}", role="metadata"),
        keep(zone, "archives/x.tar", b"{}", role="record"),
        {"name": "b.1/gone.jpg", "article": "b.1", "role": "media", "outcome": "refused", "reason": "http.not_found"},
    ])  # fmt: skip
    assert list_objects(url).schema == OBJECT
    assert list_objects(url).to_pylist() == [
        {"url": "a.1/a.xml", "size": 4, "mtime_ns": 0, "etag": "sha256:" + sha256_hex(b"<a/>")},
        {"url": "b.1/b.xml", "size": 4, "mtime_ns": 0, "etag": "sha256:" + sha256_hex(b"<b/>")},
        {"url": "b.1/x.jpg", "size": 1, "mtime_ns": 0, "etag": "sha256:" + sha256_hex(b"x")},
    ]


@pytest.mark.parametrize("outcome", ["withdrawn", "superseded"])
def test_nothing_is_listed_of_an_article_that_was_taken_back(url, outcome):
    zone = RawZone.at(url)
    xml = keep(zone, "b.1/b.xml", b"<b/>", role="article")
    zone.append([xml, keep(zone, "b.1/x.jpg", b"x"), keep(zone, "a.1/a.jpg", b"a"), keep(zone, "a.1/c.jpg", b"c")])
    zone.append([xml | {"outcome": outcome}, keep(zone, "a.1/c.jpg", b"c", outcome=outcome)])
    assert list_objects(url)["url"].to_pylist() == ["a.1/a.jpg"]
    zone.append([xml])
    assert list_objects(url)["url"].to_pylist() == ["a.1/a.jpg", "b.1/b.xml", "b.1/x.jpg"]


def test_an_object_of_a_raw_zone_is_read_by_its_mark_without_the_catalog(url):
    zone = RawZone.at(url)
    zone.append([keep(zone, "a.1/a.xml", b"<a>" * 1000, role="article"), keep(zone, "a.1/empty.jpg", b"")])
    xml, empty = list_objects(url).to_pylist()
    for name in zone.store.names("catalog"):
        zone.store.delete(f"catalog/{name}")
    zone.store.delete("raw.json")
    assert read_object(url, xml["url"], etag=xml["etag"]) == b"<a>" * 1000
    assert read_object(url, xml["url"], etag=xml["etag"], limit_bytes=4) == b"<a><"
    with local_copy(url, xml["url"], etag=xml["etag"]) as path:
        assert Path(path).read_bytes() == b"<a>" * 1000
    assert not os.path.lexists(path)
    for limit_bytes in (None, 4096):
        with pytest.raises(Refused, match=r"source.empty_file"):
            read_object(url, empty["url"], etag=empty["etag"], limit_bytes=limit_bytes)


def test_bytes_of_a_raw_zone_that_changed_are_refused(url):
    zone = RawZone.at(url)
    row = keep(zone, "a.1/a.xml", b"<a/>", role="article")
    zone.append([row])
    zone.store.write(zone.object_path(row["digest"]), b"<b/>")
    mark = list_objects(url)["etag"][0].as_py()
    with pytest.raises(Refused, match=r"source.damaged"):
        read_object(url, "a.1/a.xml", etag=mark)
    with pytest.raises(Refused, match=r"source.damaged"), local_copy(url, "a.1/a.xml", etag=mark):
        pass


@pytest.mark.parametrize("mark", ["sha256:" + "0" * 64, "sha256:../../etc/passwd", "sha256:"])
def test_a_mark_that_names_no_object_is_refused_and_no_path(url, mark):
    RawZone.at(url)
    with pytest.raises(Refused, match=r"source.unreadable"):
        read_object(url, "a", etag=mark)
    with pytest.raises(Refused, match=r"source.unreadable"), local_copy(url, "a", etag=mark):
        pass


def test_a_raw_zone_of_nothing_is_told(url):
    zone = RawZone.at(url)
    zone.append([keep(zone, "archives/x.tar", b"{}", role="record")])
    with pytest.raises(SourceError, match="holds no article and no picture"):
        list_objects(url)


def test_a_copy_of_an_object_keeps_the_ending_by_which_readers_choose(tmp_path):
    sources.write_nifti(tmp_path / "ct.nii.gz", seed=1)
    zone = RawZone.at(str(tmp_path / "raw"))
    zone.append([keep(zone, "case/ct.nii.gz", (tmp_path / "ct.nii.gz").read_bytes())])
    mark = list_objects(zone.url)["etag"][0].as_py()
    with local_copy(zone.url, "case/ct.nii.gz", etag=mark) as path:
        assert path.endswith(".nii.gz")
        assert sniff(Path(path).read_bytes()[:4096]).startswith("nifti")


def test_a_plain_folder_is_listed_and_read_as_before(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b").write_bytes(b"12")
    (tmp_path / "a").write_bytes(b"1")
    rows = list_objects(str(tmp_path)).to_pylist()
    assert [(r["url"], r["size"], r["etag"]) for r in rows] == [("a", 1, ""), ("sub/b", 2, "")]
    assert rows[1]["mtime_ns"] == (tmp_path / "sub/b").stat().st_mtime_ns
    assert read_object(str(tmp_path), "sub/b") == b"12"
    with local_copy(str(tmp_path), "sub/b") as path:
        assert path == str(tmp_path / "sub/b")


def test_an_object_store_is_listed_with_its_etags(monkeypatch):
    with s3_server(monkeypatch) as bucket:
        Store(bucket).write("folder/a.xml", b"<a/>")
        (row,) = list_objects(f"{bucket}/folder").to_pylist()
        assert (row["url"], row["size"], len(row["etag"])) == ("a.xml", 4, 32)
        assert read_object(f"{bucket}/folder", "a.xml", etag=row["etag"]) == b"<a/>"
        with local_copy(f"{bucket}/folder", "a.xml", etag=row["etag"]) as path:
            assert Path(path).read_bytes() == b"<a/>"


@pytest.mark.slow
def test_a_build_from_a_raw_zone_is_the_build_from_its_folder(tmp_path):
    """Same media, examples and tables; and a second run, or one after a withdrawal elsewhere, reads nothing again."""
    sources.write_papers(tmp_path / "source/papers", 5)
    zone = RawZone.at(str(tmp_path / "zone/papers"))
    fill(zone, tmp_path / "source/papers")
    recipe = sources.write_recipe(tmp_path / "r.py", sources='(Papers("papers", source + "/papers"),)')
    built = sources.build(tmp_path / "of folder", recipe, tmp_path / "source")
    again = sources.build(tmp_path / "of zone", recipe, tmp_path / "zone")
    assert {n: f for n, f in again["files"].items() if n.startswith("media/")} == {
        n: f for n, f in built["files"].items() if n.startswith("media/")
    }
    assert built["files"] == again["files"]
    before = sources.facts_of(tmp_path / "of zone")
    assert sources.build(tmp_path / "of zone", recipe, tmp_path / "zone")["files"] == again["files"]
    assert sources.facts_of(tmp_path / "of zone") == before
    units = Build(str(tmp_path / "of zone")).table("article")["article_key"].to_pylist()
    assert len(units) == 5


def test_a_volume_in_a_raw_zone_is_read_by_its_header(tmp_path):
    sources.write_nifti(tmp_path / "ct.nii.gz", seed=1)
    zone = RawZone.at(str(tmp_path / "raw"))
    zone.append([keep(zone, "case/ct.nii.gz", (tmp_path / "ct.nii.gz").read_bytes())])
    mark = list_objects(zone.url)["etag"][0].as_py()
    with Guard() as guard:
        facts = _volume_facts(guard, Scans("scans", zone.url), "case/ct.nii.gz", mark, "nifti.gz")
    assert (facts["series"], facts["rows"] > 0) == ("case/ct", True)
