"""Hostile and damaged archives into a raw zone: a trap, a bomb or a cut costs its own member, article or archive."""

import io
import random
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.services.articles import Article, bomb
from tests.services.europepmc import zip_of
from tests.services.packed import image, package_files, tar_gz, write_package, write_volume
from tests.services.zones import kept, objects, refusals
from tests.sources import Quiet

from medloom.connectors.http import Http
from medloom.pipelines.fetch import archives as fetch_archives
from medloom.pipelines.fetch import job
from medloom.pipelines.fetch.job import FetchDone

FIGURES = (("p1-g001", "A film."), ("p1-g002", "A scan."))
ONE = Article(13900, figures=FIGURES)
Fetching = Callable[..., FetchDone]


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def raw(tmp_path) -> str:
    return str(tmp_path / "raw")


@pytest.fixture
def fetch(source, raw) -> Fetching:
    def run(**settings: str) -> FetchDone:
        with Http() as http:
            return job.fetch("archives", raw, {"source": str(source), **settings}, Quiet(), http=http)

    return run


def link(name: str, to: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


def test_a_trap_among_the_members_is_refused_and_the_article_is_not(source, raw, fetch, tmp_path):
    traps = [("../../../trap.jpg", b"x"), ("/trap.jpg", b"x"), link("PMC13900/p1-g003.jpg"), link("x.pdf")]
    (source / "PMC13900.tar.gz").write_bytes(tar_gz([*traps, *package_files(ONE), *package_files(ONE)[1:2]]))
    done = fetch()
    assert (done.kept, done.reasons) == (3, {"archive.path": 2, "archive.link": 2, "archive.duplicate": 1})
    assert refusals(raw)["archives/PMC13900.tar.gz#../../../trap.jpg"] == "archive.path"
    assert not list(tmp_path.rglob("trap.jpg"))
    assert objects(raw) == {ONE.xml(), image("p1-g001"), image("p1-g002")}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[: len(data) // 2], "archive.truncated"),
        (lambda data: data[:-8] + bytes(8), "archive.damaged"),
        (lambda data: b"<html>404</html>", "archive.damaged"),
        (lambda data: b"", "archive.truncated"),
        (lambda data: zlib.compress(bytes(100 << 20), wbits=31), "archive.ratio"),
    ],
)
def test_a_spoilt_archive_leaves_nothing_but_a_row_and_its_neighbours_all(source, raw, fetch, spoil, reason):
    path = write_package(source, ONE)
    path.write_bytes(spoil(path.read_bytes()))
    write_volume(source, [Article(101)])
    done = fetch()
    assert (done.kept, done.reasons) == (1, {reason: 1})
    assert refusals(raw) == {f"archives/{path.relative_to(source)}": reason}
    assert objects(raw) == {Article(101).xml()}
    assert fetch().reasons == {reason: 1}
    write_package(source, ONE)
    assert fetch().kept == 3


def test_a_damaged_volume_leaves_nothing_not_even_what_came_before(source, raw, fetch, monkeypatch):
    monkeypatch.setattr(fetch_archives, "GROUP", 2)
    noise = random.Random(1)
    path = write_volume(source, [Article(n, title=noise.randbytes(4000).hex()) for n in range(101, 121)])
    data = path.read_bytes()
    path.write_bytes(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])
    assert fetch().reasons == {"archive.damaged": 1}
    assert (kept(raw), objects(raw)) == ([], set())


def test_of_a_tar_that_goes_wrong_later_whole_articles_stay(source, raw, fetch):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, data in [*package_files(Article(1)), *package_files(ONE)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    cut = held.getvalue().index(b"p1-g002.gif ") + 300
    (source / "v.tar").write_bytes(held.getvalue()[:cut])
    assert fetch().reasons == {"archive.truncated": 1}
    assert kept(raw) == ["PMC1.1/paper.nxml"]
    assert objects(raw) == {Article(1).xml()}


def test_a_damaged_member_of_a_zip_is_refused_alone(source, raw, fetch):
    data = zip_of({"a/p1-g001.jpg": image("p1-g001"), "a/paper.nxml": ONE.xml(), "a/p1-g002.jpg": image("p1-g002")})
    at = data.index(b"PK\1\2")
    (source / "PMC13900.zip").write_bytes(data[: at + 16] + b"\0\0\0\0" + data[at + 20 :])
    assert fetch().reasons == {"archive.damaged": 1}
    assert kept(raw) == ["PMC13900.1/p1-g002.jpg", "PMC13900.1/paper.nxml"]


def test_an_xml_that_attacks_is_refused_and_its_neighbours_are_not(source, raw, fetch):
    files = [("PMC5.nxml", bomb(5)), ("PMC6.nxml", b"<html><p>"), ("PMC7.nxml", b""), ("PMC8.nxml", Article(8).xml())]
    (source / "v.tgz").write_bytes(tar_gz(files))
    done = fetch()
    assert (done.asked, done.kept, done.refused) == (4, 1, 3)
    assert all(reason.startswith("jats.") for reason in refusals(raw).values()), refusals(raw)
    assert fetch().known == 1


def test_the_temporary_folder_is_left_empty(source, raw, fetch, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    write_package(source, ONE)
    (source / "PMC5.tar").write_bytes(tar_gz(package_files(Article(5, figures=FIGURES)))[:900])
    fetch()
    assert list((tmp_path / "scratch").iterdir()) == []
