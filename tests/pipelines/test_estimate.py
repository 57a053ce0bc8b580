"""The estimate: arithmetic that can be followed by hand, over rates that were measured here."""

import json
from pathlib import Path

import pytest
from tests import many_papers

from medloom.__main__ import main
from medloom.pipelines import estimate as estimates
from medloom.pipelines.estimate import Corpus, Measured, estimate

PER_ITEM = Measured(
    "", parse_s=1e-7, figure_s=0.1, examples_s=1e-8, table_bytes=0.1, example_bytes=0.01, driver_bytes=200
)


def test_hours_requests_and_bytes_are_those_of_a_pencil():
    corpus = Corpus(articles=3_600_000, article_bytes=100_000, figures=2, figure_bytes=1_000_000)
    fetch, tables, media, examples, disk, driver = estimate(corpus, PER_ITEM, cores=10)
    assert fetch.work == "14.4 M requests, 7.6 TB"  # 4 of each article; 2 x 1 MB + 103 kB
    assert fetch.hours == pytest.approx(40)  # at 100 a second
    assert tables.hours == pytest.approx(1)  # 36,000 s of a core on 10 cores
    assert media.hours == pytest.approx(20)
    assert examples.hours == pytest.approx(0.1)
    assert disk.work == "14.8 TB"
    assert driver.work == "2.2 GB of memory"
    assert driver.limited_by.startswith("2 builds")


def test_twice_the_cores_halve_what_is_computed_and_not_what_is_asked_for():
    few, many = estimate(Corpus(), PER_ITEM, cores=2), estimate(Corpus(), PER_ITEM, cores=4)
    assert [a.hours / b.hours for a, b in zip(few[1:4], many[1:4], strict=True)] == pytest.approx([2, 2, 2])
    assert few[0].hours == many[0].hours


def test_the_command_measures_and_tells_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimates, "MEASURED_S", 0.05)
    many_papers.write(tmp_path, 3)
    (tmp_path / "broken.xml").write_text("<article>")
    arguments = ["estimate", "pmc_inline", "--sample", str(tmp_path), "--articles", "1000", "--cores", "1", "--json"]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["corpus"]["articles"] == 1000
    measured = said["measured"]
    assert measured["sample"].startswith("3 articles")
    assert min(measured[name] for name in ("parse_s", "figure_s", "examples_s", "table_bytes", "example_bytes")) > 0
    assert said["costs"][1]["hours"] == pytest.approx(1000 * 163_000 * measured["parse_s"] / 3600)
    assert main(arguments[:-1]) == 0
    assert "100 requests/s" in capsys.readouterr().out


def test_what_cannot_be_estimated_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "scans"]) == 2
    assert "reads more than papers" in capsys.readouterr().err
    assert main(["estimate", "pmc_inline", "--sample", str(tmp_path)]) == 2
    assert "no article" in capsys.readouterr().err
    assert main(["estimate", "pmc_inline", "--sample", str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err
