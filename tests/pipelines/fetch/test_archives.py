"""Archives into a raw zone: whole articles that the gates let pass, once; bombs, traps and cuts cost their own only."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest
from tests.services.articles import Article
from tests.services.europepmc import zip_of
from tests.services.loopback import md5_hex
from tests.services.packed import (
    VOLUME,
    image,
    package_files,
    tar_gz,
    write_csv,
    write_oa_file_list,
    write_package,
    write_volume,
)
from tests.services.s3 import s3_server
from tests.services.zones import kept, objects, refusals, rows
from tests.sources import Quiet

from medloom.connectors.http import Http
from medloom.pipelines.fetch import archives as fetch_archives
from medloom.pipelines.fetch import job
from medloom.pipelines.fetch.job import FetchDone
from medloom.schemas.errors import ConfigError, SourceError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.raw import RawZone

FIGURES = (("p1-g001", "A film."), ("p1-g002", "A scan."))
ONE = Article(13900, figures=FIGURES)
ROWS = ("name", "article", "role", "outcome", "reason", "digest", "size", "md5")

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


def test_a_package_gives_its_article_and_the_best_file_of_each_figure(source, raw, fetch):
    path = write_package(source, ONE)
    done = fetch()
    assert (done.asked, done.kept, done.known, done.refused, done.requests) == (3, 3, 0, 0, 0)
    assert kept(raw) == ["PMC13900.1/p1-g001.jpg", "PMC13900.1/p1-g002.jpg", "PMC13900.1/paper.nxml"]
    found = rows(raw)
    article, figure = found["PMC13900.1/paper.nxml"], found["PMC13900.1/p1-g001.jpg"]
    assert (article["article"], article["role"], figure["role"]) == ("PMC13900.1", "article", "media")
    assert RawZone(raw).read(article["digest"]) == ONE.xml()
    assert RawZone(raw).read(figure["digest"]) == image("p1-g001")
    assert (figure["size"], figure["md5"]) == (len(image("p1-g001")), md5_hex(image("p1-g001")))
    assert figure["url"] == f"{path}#PMC13900/p1-g001.jpg"
    assert objects(raw) == {ONE.xml(), image("p1-g001"), image("p1-g002")}
    assert done.bytes == sum(map(len, objects(raw))) + found[f"archives/{path.relative_to(source)}"]["size"]


def test_a_volume_gives_each_of_its_articles(source, raw, fetch, monkeypatch):
    monkeypatch.setattr(fetch_archives, "GROUP", 4)
    write_volume(source, [Article(n, licence=["CC BY", "CC0", ""][n % 3]) for n in range(101, 112)], retracted=[105])
    done = fetch()
    none = [n for n in range(101, 112) if n % 3 == 2]
    assert kept(raw) == [f"PMC{n}.1/PMC{n}.xml" for n in range(101, 112) if n not in (105, *none)]
    assert refusals(raw) == {
        **{f"PMC{n}.1/PMC{n}.xml": "terms.tier" for n in none}, "PMC105.1/PMC105.xml": "article.retracted",
    }  # fmt: skip
    assert (done.asked, done.kept, done.refused) == (11, 6, 5)
    assert done.reasons == {"article.retracted": 1, "terms.tier": 4}


def marks_of(path: Path) -> tuple[int, int]:
    return path.stat().st_atime_ns, path.stat().st_mtime_ns


def test_a_second_run_reads_nothing_again(source, raw, fetch):
    volume = write_volume(source, [Article(n) for n in range(101, 104)], retracted=[102])
    package = write_package(source, ONE)
    first, before = fetch(), rows(raw)
    for path in (package, volume):  # as large and as old as before, so that it is not looked into
        marks, size = marks_of(path), path.stat().st_size
        path.write_bytes(bytes(size))
        os.utime(path, ns=marks)
    parts = RawZone(raw).store.names("catalog")
    second = fetch()
    assert (second.kept, second.known, second.refused, second.bytes) == (0, first.kept, first.refused, 0)
    assert second.asked == first.asked
    assert second.reasons == first.reasons
    assert rows(raw) == before
    assert RawZone(raw).store.names("catalog") == parts
    again = fetch(refresh="on")
    assert again.reasons == {"archive.damaged": 2}


def test_a_changed_archive_is_read_again_and_only_what_is_new_is_kept(source, raw, fetch):
    write_volume(source, [Article(101), Article(102)])
    fetch()
    time.sleep(0.01)
    write_volume(source, [Article(101), Article(102, title="Other words"), Article(103)])
    done = fetch()
    assert (done.asked, done.kept, done.known) == (3, 2, 1)
    assert RawZone(raw).read(rows(raw)["PMC102.1/PMC102.xml"]["digest"]) == Article(102, title="Other words").xml()


def test_other_tiers_are_asked_of_the_same_archive(source, raw, fetch):
    write_package(source, Article(13900, licence="CC BY-NC-ND", figures=FIGURES))
    assert fetch().reasons == {"terms.tier": 1}
    assert objects(raw) == set()
    assert fetch(tiers="open,nc").reasons == {"terms.tier": 1}
    assert fetch(tiers="open,nc,nd").kept == 3
    assert len(kept(raw)) == 3


def test_what_a_list_says_is_retracted_leaves_no_byte(source, raw, fetch):
    write_volume(source, [ONE], retracted=[13900])
    done = fetch()
    assert done.reasons == {"article.retracted": 1}
    assert objects(raw) == set()


def test_what_a_later_list_says_is_retracted_is_taken_back(source, raw, fetch):
    package = write_package(source, ONE)
    fetch()
    write_csv(source / "filelist.csv", [["Accession ID", "License", "Retracted"], ["PMC13900", "CC BY", "yes"]])
    os.utime(package)
    done = fetch()
    assert (done.withdrawn, done.reasons) == (3, {"article.retracted": 4})
    assert kept(raw) == []
    assert {row["outcome"] for row in rows(raw).values() if row["article"] == "PMC13900.1"} == {"withdrawn"}


def test_an_article_that_says_it_is_retracted_leaves_no_byte(source, raw, fetch):
    write_package(source, Article(13900, retracted=True, figures=FIGURES))
    assert fetch().reasons == {"article.retracted": 1}
    assert objects(raw) == set()


def test_the_stricter_of_list_and_article_holds(source, raw, fetch):
    write_package(source, ONE)
    write_oa_file_list(source, [Article(13900, licence="CC BY-NC")])
    assert fetch().reasons == {"terms.tier": 1}
    assert fetch(tiers="nc").kept == 3


def test_a_list_that_is_none_is_told(source, fetch):
    write_package(source, ONE)
    (source / "oa_file_list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"oa_file_list.csv under .* has no column 'Accession ID'"):
        fetch()
    (source / "oa_file_list.csv").write_text('Accession ID\n"' + "x" * 200_000)
    with pytest.raises(SourceError, match="cannot read the list"):
        fetch()


def test_a_figure_shown_by_permission_is_refused_and_the_others_are_not(source, raw, fetch):
    figures = (("p1-g001", "A film."), ("p1-g002", "Reproduced with permission from Elsevier."))
    write_package(source, Article(13900, figures=figures))
    done = fetch()
    assert (done.kept, done.reasons) == (2, {"terms.third_party": 1})
    assert refusals(raw) == {"PMC13900.1/p1-g002.jpg": "terms.third_party"}
    assert image("p1-g002") not in objects(raw)


@pytest.mark.parametrize("where", ["folder", "same run"])
def test_a_zip_of_pictures_is_held_against_the_article_that_is_known(source, raw, fetch, where):
    zipped = zip_of({"p1-g001.jpg": image("p1-g001"), "other.jpg": b"x", "sub/p1-g002.png": image("p1-g002", "png")})
    write_volume(source, [ONE])
    if where == "folder":
        fetch()
    (source / "PMC13900_supplementary.zip").write_bytes(zipped)
    done = fetch()
    assert (done.kept, done.known) == ((2, 1) if where == "folder" else (3, 0))
    assert kept(raw) == ["PMC13900.1/PMC13900.xml", "PMC13900.1/p1-g001.jpg", "PMC13900.1/p1-g002.png"]


def test_pictures_of_no_article_are_refused_until_the_article_is_there(source, raw, fetch):
    (source / "PMC13900.zip").write_bytes(zip_of({"p1-g001.jpg": image("p1-g001")}))
    assert fetch().reasons == {"article.unknown": 1}
    assert objects(raw) == set()
    write_volume(source, [ONE])
    assert fetch().kept == 2
    assert fetch().known == 2


def test_a_newer_version_counts_and_an_older_one_comes_too_late(source, raw, fetch):
    new = Article(13900, version=2, figures=FIGURES, title="Again")
    (source / "b.tar.gz").write_bytes(tar_gz(package_files(new)))
    write_package(source, ONE)
    done = fetch()
    assert (done.kept, done.known, done.withdrawn) == (3, 1, 0)
    (source / "c.tar.gz").write_bytes(tar_gz(package_files(Article(13900, version=3, figures=FIGURES))))
    assert fetch().withdrawn == 3
    assert {name.partition("/")[0] for name in kept(raw)} == {"PMC13900.3"}
    assert {r["outcome"] for r in rows(raw).values() if r["article"] == "PMC13900.2"} == {"superseded"}


def test_articles_without_a_pmcid_are_told_apart_by_their_xml(source, raw, fetch):
    def nameless(word: str, figure: str) -> bytes:
        text = Article(7, figures=((figure, "A film."),), title=word).xml().decode()
        return (
            text.replace('<article-id pub-id-type="pmc">7</article-id>', "")
            .replace('<article-id pub-id-type="pmcid-ver">PMC7.1</article-id>', "")
            .encode()
        )

    files = [
        ("journal/a.nxml", nameless("one", "g1")), ("journal/g1.jpg", image("g1")),
        ("journal/b.nxml", nameless("two", "g2")), ("journal/g2.jpg", image("g2")),
    ]  # fmt: skip
    (source / "journal.tar.gz").write_bytes(tar_gz(files))
    fetch()
    assert kept(raw) == ["a/a.nxml", "a/g1.jpg", "b/b.nxml", "b/g2.jpg"]


def test_pictures_before_the_xml_are_kept_too(source, raw, fetch):
    (source / "PMC13900.tar.gz").write_bytes(tar_gz(sorted(package_files(ONE))[::-1]))
    assert fetch().kept == 3


def test_a_member_of_an_article_that_ended_before_is_refused(source, raw, fetch):
    late = ("PMC13900/p1-g009.jpg", b"late")
    (source / "v.tar.gz").write_bytes(tar_gz([*package_files(ONE), *package_files(Article(2)), late]))
    assert fetch().reasons == {"archive.order": 1}
    assert b"late" not in objects(raw)


def test_a_supplement_in_xml_does_not_hide_the_article(source, raw, fetch):
    (source / "PMC13900.tar.gz").write_bytes(tar_gz([("PMC13900/a-table.xml", b"<table/>"), *package_files(ONE)]))
    assert fetch().kept == 3


def test_a_folder_without_archives_is_told(source, fetch):
    with pytest.raises(SourceError):
        fetch()
    (source / "x.txt").write_text("x")
    with pytest.raises(SourceError, match=r"holds no archive: no file is named \*.tar.gz"):
        fetch()
    with pytest.raises(ConfigError, match="tiers=all"):
        fetch(tiers="all")


def test_an_archive_that_cannot_be_opened_is_put_off(source, raw, fetch):
    write_volume(source, [Article(101)])
    (source / "gone.zip").symlink_to(source / "nothing of that name")
    done = fetch()
    assert (done.kept, done.later) == (1, 1)
    assert "gone.zip" in done.why_later
    assert "archives/gone.zip" not in rows(raw)


def test_a_mirror_on_an_object_store_is_read_as_a_folder(source, raw, fetch, monkeypatch, tmp_path):
    write_volume(source, [Article(n) for n in range(101, 106)], retracted=[103])
    write_package(source, ONE)
    (source / "PMC101.zip").write_bytes(zip_of({"x.jpg": b"x"}))
    fetch()
    with s3_server(monkeypatch) as bucket, Http() as http:
        import s3fs

        s3fs.S3FileSystem().put(f"{source}/", f"{bucket}/mirror/", recursive=True)
        s3fs.S3FileSystem.clear_instance_cache()
        remote = {"source": f"{bucket}/mirror"}
        done = job.fetch("archives", f"{bucket}/raw", remote, Quiet(), http=http)
        assert job.fetch("archives", f"{bucket}/raw", remote, Quiet(), http=http).known == done.kept == 7
        there = RawZone(f"{bucket}/raw").rows().to_pylist()
        local = [[r[n] for n in ROWS] for r in rows(raw).values() if r["role"] != "record"]
        assert [[r[n] for n in ROWS] for r in there if r["role"] != "record"] == local
        assert all(sha256_hex(RawZone(f"{bucket}/raw").read(r["digest"])) == r["digest"] for r in there if r["digest"])


RUN = """
import sys
sys.path.insert(0, sys.argv[3])
from tests.sources import Quiet
from medloom.pipelines.fetch import archives, job
archives.GROUP = 3
class Told(Quiet):
    def begin(self, what, pieces):
        print("begun", flush=True)
print(job.fetch("archives", sys.argv[1], {"source": sys.argv[2]}, Told()).kept, flush=True)
"""


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(source, raw, fetch, tmp_path, monkeypatch):
    write_volume(source, [Article(n, title="words " * 200) for n in range(101, 161)])
    for number in range(1, 9):
        write_package(source, Article(number, figures=FIGURES))
    root = str(Path(__file__).parents[3])
    for delay_s in (0.2, 0.5, 0.8):
        args = [sys.executable, "-c", RUN, raw, str(source), root]
        process = subprocess.Popen(args, stdout=PIPE, text=True, start_new_session=True)
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    fetch()
    whole = str(tmp_path / "whole")
    with Http() as http:
        job.fetch("archives", whole, {"source": str(source)}, Quiet(), http=http)
    found, truth = ({n: [r[c] for c in ROWS] for n, r in rows(z).items()} for z in (raw, whole))
    assert found == truth
    assert objects(raw) == objects(whole)
    assert fetch().kept == 0


def test_the_record_of_an_archive_says_what_it_came_to(source, raw, fetch):
    write_volume(source, [Article(101), Article(102)], retracted=[102])
    fetch()
    record = rows(raw)[f"archives/{VOLUME}.tar.gz"]
    assert json.loads(RawZone(raw).read(record["digest"])) == {
        "archive": f"{source}/{VOLUME}.tar.gz", "kept": 1, "reasons": {"article.retracted": 1}, "refused": 1,
    }  # fmt: skip


def test_a_copy_of_the_source_elsewhere_is_the_same_archives(source, raw, fetch, tmp_path):
    """Names in the catalog are relative to the source, so that a mirror that moved is not read again."""
    write_volume(source, [Article(101)])
    fetch()
    shutil.copytree(source, tmp_path / "moved")
    with Http() as http:
        done = job.fetch("archives", raw, {"source": str(tmp_path / "moved")}, Quiet(), http=http)
    assert (done.kept, done.known) == (0, 1)
