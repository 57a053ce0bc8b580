"""Withdrawals: what a raw zone takes back or replaces is told in a table, read no more, and made nothing of."""

from pathlib import Path
from typing import Any

from tests import sources
from tests.pipelines.conftest import Built

from medloom.pipelines import steps
from medloom.pipelines.adoption import Rebuild
from medloom.quality.lint import lint
from medloom.schemas.raw import RawZone

PAPERS = '(Papers("papers", source),)'
NOW = "2026-11-22T18:00:00Z"


def filled(folder: Path, n: int) -> RawZone:
    """A raw zone of n small papers, each under a name of its own with the files of its figures."""
    sources.write_papers(folder / "papers", n)
    raw, rows = RawZone.at(str(folder / "raw")), []
    for number in range(1, n + 1):
        for path in sorted((folder / "papers").rglob(f"a{number:03d}*.*")):
            digest, size = raw.put(path)
            role = "article" if path.suffix == ".xml" else "media"
            rows.append(row(number, f"PMC{number}.1/{path.name}", role, "kept", digest=digest, size=size))
    raw.append(rows)
    return raw


def row(number: int, name: str, role: str, outcome: str, **facts: Any) -> dict[str, Any]:
    nothing = {"url": "", "digest": "", "md5": "", "size": 0, "etag": "", "reason": "", "detail": ""}
    stated = {"name": name, "article": f"PMC{number}.1", "role": role, "outcome": outcome, "retrieved_at": NOW}
    return {**nothing, **stated, **facts}


def test_a_unit_that_its_source_took_back_is_told_and_not_read_again(tmp_path: Path):
    raw = filled(tmp_path, 4)
    recipe = sources.write_recipe(tmp_path / "papers.py", sources=PAPERS)
    built = Built(tmp_path / "raw", recipe, tmp_path / "out", {})
    before = sources.build(built.out, recipe, tmp_path / "raw")
    assert before["counts"]["articles"] == 4
    assert built.build.table("withdrawal").num_rows == 0
    facts = sources.facts_of(built.out, among=("media", "index", "ledger", "plan"))

    raw.append([
        row(1, "PMC1.1/a001.xml", "article", "withdrawn", reason="article.withdrawn", detail="gone from the bucket"),
        row(2, "metadata/PMC2.1.json", "metadata", "superseded"),
    ])  # fmt: skip
    sources.build(built.out, recipe, tmp_path / "raw")
    assert built.build.table("withdrawal").to_pylist() == [
        {"unit": "pmc9000001-1", "source": "papers", "reason": "article.withdrawn", "detail": "gone from the bucket"},
        {"unit": "pmc9000002-1", "source": "papers", "reason": "article.superseded", "detail": ""},
    ]
    assert sources.facts_of(built.out, among=("media", "index", "ledger", "plan")) == facts  # facts stay as they are

    sources.write_recipe(tmp_path / "papers.py", sources=PAPERS, stages='(Measure(version="other"),)')
    after = sources.rest(built.out, rebuild=Rebuild(all=True))
    assert {row["unit"] for row in built.build.index().to_pylist()} == {"pmc9000003-1", "pmc9000004-1"}
    assert {row["unit"] for row in built.build.examples().to_pylist()} == {"pmc9000003-1", "pmc9000004-1"}
    assert after["counts"]["refused"]["article.withdrawn"] == 1 + len(after["recipe"]["tasks"])
    flow = after["counts"]["flow"]
    assert flow["in"] + flow["made"] == flow["out"] + flow["refused"]
    assert not lint(built.build)


def test_an_article_that_comes_back_is_withdrawn_no_more(tmp_path: Path):
    raw = filled(tmp_path, 2)
    recipe = sources.write_recipe(tmp_path / "papers.py", sources=PAPERS)
    kept = raw.rows().to_pylist()
    steps.tables(sources.step(tmp_path / "out", tmp_path / "raw"), recipe)
    raw.append([row(1, "PMC1.1/a001.xml", "article", "withdrawn")])
    steps.tables(sources.step(tmp_path / "out", tmp_path / "raw"), recipe)
    built = Built(tmp_path / "raw", recipe, tmp_path / "out", {})
    assert built.build.table("withdrawal")["unit"].to_pylist() == ["pmc9000001-1"]
    raw.append([one for one in kept if one["article"] == "PMC1.1"])
    steps.tables(sources.step(tmp_path / "out", tmp_path / "raw"), recipe)
    assert built.build.table("withdrawal").num_rows == 0
