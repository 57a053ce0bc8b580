"""The step tables: every object of a listing ends in a link or a refusal, once, whatever came before and after it."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests import sources
from tests.pipelines.conftest import Built

from medloom.connectors.guard import GuardBug
from medloom.pipelines import steps
from medloom.pipelines.sources.listing import list_objects
from medloom.pipelines.spark import session
from medloom.pipelines.tables.found import reading_bug
from medloom.pipelines.tables.job import spark_faults
from medloom.pipelines.tables.known import read_links
from medloom.schemas.errors import BugError, ConfigError, SourceError
from medloom.schemas.keys import Identity
from medloom.schemas.store import Store

TWO = '(Papers("papers", source + "/papers"), Papers("more", source + "/more"))'


def links(out: Path) -> list[dict[str, Any]]:
    return read_links(Store(str(out))).to_pylist()


def reasons(built: Built) -> dict[str, str]:
    """The file's name by what the tables say of it: url to reason, for papers."""
    rows = built.build.table("quarantine").to_pylist()
    return {row["detail"].partition(": ")[0]: row["reason"] for row in rows}


def papers_only(tmp_path: Path, n: int) -> Built:
    recipe = sources.write_recipe(tmp_path / "papers.py", sources='(Papers("papers", source + "/papers"),)')
    sources.write_papers(tmp_path / "source" / "papers", n)
    return Built(tmp_path / "source", recipe, tmp_path / "out", {})


def again(built: Built, **settings: str) -> dict[str, Any]:
    return steps.tables(sources.step(built.out, built.source, **settings), built.recipe)


def test_every_object_is_accounted_for_once(built: Built):
    for name in ("papers", "scans"):
        urls = [row["url"] for row in links(built.out) if row["source"] == name]
        assert sorted(urls) == list_objects(str(built.source / name))["url"].to_pylist()


def test_a_group_stays_in_one_split_and_a_unit_in_one_shard(built: Built):
    rows = built.build.table("group").to_pylist()
    splits = {(row["group"], row["split"]) for row in rows}
    assert len(splits) == len({row["group"] for row in rows})
    places = [(u["unit"], str(shard)) for shard, units in built.build.shards.items() for u in units]
    assert len(places) == len({unit for unit, _ in places}) == len(rows)


def test_files_of_a_figure_are_found_by_name_by_stem_and_in_the_articles_own_folder(built: Built):
    found = {row["key"]: row["url"] for row in links(built.out) if row["key"].startswith("pmc")}
    assert found["pmc9000001-1-f1"] == "a001/a001-g1.jpg"
    assert found["pmc9000002-1-f1"] == "a002-g1.png"
    assert len(found) == 12 * 2 - 2  # of 6 and 12, the second figure has no file
    assert built.build.table("figure").num_rows == 24


def test_a_second_copy_is_refused_and_the_first_to_come_stays(tmp_path: Path):
    papers = papers_only(tmp_path, 2)
    folder = papers.source / "papers"
    shutil.copy(folder / "a001.xml", folder / "b-copy.xml")
    again(papers)
    assert reasons(papers) == {"b-copy.xml": "article.duplicate"}
    before = sources.facts_of(papers.out)
    shutil.copy(folder / "a001.xml", folder / "a000-earlier-by-name.xml")
    again(papers)
    assert reasons(papers) == {"b-copy.xml": "article.duplicate", "a000-earlier-by-name.xml": "article.duplicate"}
    assert {n: f for n, f in sources.facts_of(papers.out).items() if n in before} == before


def test_an_article_that_moved_keeps_its_unit_and_its_place(tmp_path: Path):
    papers = papers_only(tmp_path, 2)
    again(papers)
    plan = papers.build.shards
    folder = papers.source / "papers"
    (folder / "a002.xml").rename(folder / "z002.xml")
    again(papers)
    assert papers.build.shards == plan
    assert [row["url"] for row in links(papers.out) if row["unit"] == "pmc9000002-1" and not row["key"]] == ["z002.xml"]
    assert reasons(papers) == {}


def test_an_article_in_two_sources_is_kept_once(tmp_path: Path):
    sources.write_papers(tmp_path / "source" / "papers", 2)
    sources.write_papers(tmp_path / "source" / "more", 3)
    recipe = sources.write_recipe(tmp_path / "two.py", sources=TWO)
    both = Built(tmp_path / "source", recipe, tmp_path / "out", {})
    manifest = sources.build(both.out, both.recipe, both.source)
    assert manifest["counts"]["articles"] == manifest["counts"]["units"] == 3
    assert manifest["counts"]["refused"]["article.duplicate"] == 2
    assert (
        sorted(row["url"] for row in links(both.out) if row["source"] == "more")
        == list_objects(str(both.source / "more"))["url"].to_pylist()
    )
    assert steps.gate(sources.step(both.out)).success
    assert sources.build(both.out, both.recipe, both.source) == manifest


def test_a_better_file_for_a_figure_replaces_the_one_before_which_becomes_a_refusal(tmp_path: Path):
    papers = papers_only(tmp_path, 2)
    folder = papers.source / "papers"
    (folder / "far").mkdir()
    (folder / "a002-g1.png").rename(folder / "far" / "a002-g1.png")
    again(papers)
    (folder / "a002-g1.png").write_bytes(sources.picture_bytes(5, "png"))
    again(papers)
    assert [row["url"] for row in links(papers.out) if row["key"] == "pmc9000002-1-f1"] == ["a002-g1.png"]
    assert reasons(papers) == {"far/a002-g1.png": "image.unreferenced"}
    before = sources.facts_of(papers.out)
    again(papers)
    assert sources.facts_of(papers.out) == before


def test_a_picture_that_waited_for_its_article_is_no_refusal_any_more(tmp_path: Path):
    papers = papers_only(tmp_path, 2)
    article = papers.source / "papers" / "a002.xml"
    whole = article.read_bytes()
    article.unlink()
    again(papers)
    assert set(reasons(papers).values()) == {"image.unreferenced"}
    article.write_bytes(whole)
    again(papers)
    assert reasons(papers) == {}


def test_a_file_that_was_broken_and_is_mended_loses_its_refusal(tmp_path: Path):
    papers = papers_only(tmp_path, 2)
    article = papers.source / "papers" / "a002.xml"
    whole = article.read_bytes()
    article.write_bytes(whole[:200])
    again(papers)
    assert reasons(papers)["a002.xml"] == "jats.malformed"
    article.write_bytes(whole)
    again(papers)
    assert reasons(papers) == {}
    assert papers.build.table("article").num_rows == 2


@pytest.mark.slow
def test_an_interrupt_at_any_rename_and_running_again_give_the_same_tables(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A changed, a touched and a new article, and a slice more: older parts are written again, and that may be cut."""
    copied = built.copied(tmp_path)
    sources.write_paper(copied.source / "papers", 3, word="nodule")
    sources.write_paper(copied.source / "papers", 70)
    os.utime(copied.source / "papers" / "a001.xml")
    sources.write_ct(copied.source / "scans" / "patient-b" / "ct", patient="B-2", series=2, n=1, first=5)
    before = sources.copy(copied.out, tmp_path / "before")
    expected, expected_links, rename = again(copied), shown_links(copied.out), os.replace
    for nth in (2, 5, 8, 11, 14):
        shutil.rmtree(copied.out)
        sources.copy(before, copied.out)
        calls: list[tuple[str, ...]] = []

        def replace(*paths: str, calls: list = calls, nth: int = nth) -> None:
            calls.append(paths)
            if len(calls) == nth:
                raise KeyboardInterrupt
            rename(*paths)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                again(copied)
        assert sources.state_of(again(copied)) == sources.state_of(expected)
        assert shown_links(copied.out) == expected_links


def shown_links(out: Path) -> list[tuple[Any, ...]]:
    return sorted((row["unit"], row["key"], row["url"], row["mtime_ns"]) for row in links(out))


def test_a_new_slice_changes_its_series_and_no_other(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    sources.write_ct(copied.source / "scans" / "patient-b" / "ct", patient="B-2", series=2, n=1, first=5)
    again(copied)
    was = {row["unit"]: row for row in built.build.table("series").to_pylist()}
    now = {row["unit"]: row for row in copied.build.table("series").to_pylist()}
    (changed,) = [unit for unit in now if now[unit] != was[unit]]
    assert (was[changed]["n_objects"], now[changed]["n_objects"]) == (5, 6)


def test_a_folder_that_is_not_there_is_the_users_mistake(built: Built, tmp_path: Path):
    with pytest.raises(SourceError, match="is not there"):
        steps.tables(sources.step(tmp_path / "out", tmp_path / "none"), built.recipe)


def test_changed_terms_of_a_source_reach_its_series_and_media(tmp_path: Path):
    recipe = sources.write_recipe(
        tmp_path / "terms.py",
        sources='(Scans("scans", source + "/scans", deidentify="off", sources_file="SOURCES.json"),)',
    )
    folder = tmp_path / "source" / "scans"
    folder.mkdir(parents=True)
    for name in ("one.png", "two.png"):
        (folder / name).write_bytes(sources.picture_bytes(len(name), "png"))
    terms = folder / "SOURCES.json"
    terms.write_text('{"one.png": {"terms_id": "mit", "licence": "MIT"}}')
    scans = Built(tmp_path / "source", recipe, tmp_path / "out", {})
    sources.build(scans.out, recipe, scans.source)
    assert sorted(scans.build.table("series")["terms_id"].to_pylist()) == ["mit", "private"]
    terms.write_text('{"one.png": {"terms_id": "cc-by", "licence": "CC BY"}}')
    sources.build(scans.out, recipe, scans.source)
    assert sorted(scans.build.table("series")["terms_id"].to_pylist()) == ["cc-by", "private"]
    assert set(scans.build.index()["terms_id"].to_pylist()) == {"cc-by", "private"}
    terms.write_text('{"one.png": {"terms_id": "no such terms"}}')
    with pytest.raises(ConfigError, match="no such terms"):
        again(scans)


def test_a_bug_in_a_worker_of_spark_comes_out_as_one_sentence_that_names_the_object():
    def fails(batches: Any) -> Any:
        raise reading_bug(GuardBug("Traceback\nFile a.py\nKeyError (its message is withheld)"), Identity(), "name.dcm")

    spark = session("local[2]", name="a bug")
    with (
        pytest.raises(BugError, match=r"^reading object [a-z2-7]{16} failed by a bug: .*KeyError") as fault,
        spark_faults(),
    ):
        spark.range(1).mapInArrow(fails, "id long").collect()
    assert "name" not in str(fault.value)
    assert "\n" not in str(fault.value)
