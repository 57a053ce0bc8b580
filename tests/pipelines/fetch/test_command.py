"""`medloom fetch` as its users meet it, and a recipe over what it kept."""

import json
import re
from pathlib import Path

import pytest
from tests import sources
from tests.pipelines.fetch.zones import kept, outcomes
from tests.services.loopback import SLOW_DOWN
from tests.services.pmc import BORROWED, plain

from medloom.__main__ import main
from medloom.connectors.http import Http
from medloom.schemas.build import Build


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Run `medloom fetch …` in this process: (exit status, standard output, standard error)."""
    monkeypatch.setenv("MEDLOOM_RATES", str(tmp_path / "rates"))

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["fetch", *map(str, arguments)])
        return status, *capsys.readouterr()

    return call


def test_services_are_listed_with_their_parameters(cli):
    status, out, err = cli()
    assert (status, err) == (0, "")
    assert re.search(r"^pmc: Articles of PubMed Central", out, re.M)
    assert re.search(r"^ {4}ids +a,b,…, default \"\"$", out, re.M)
    assert re.search(r"^ {4}tiers +a,b,…, default open$", out, re.M)
    assert re.search(r"^ {4}inventory +on \| off, default off$", out, re.M)
    assert not re.search(r"^(job|gates|inventory|pmc_article):", out, re.M)
    assert json.loads(cli("--json")[1])["pmc"]["parameters"]["limit"] == "int = 0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pmx", "--to", "RAW"), "there is no service 'pmx'; known are "),
        (("gates", "--to", "RAW"), "there is no service 'gates'; known are "),
        (("../pmc", "--to", "RAW"), "there is no service '../pmc'"),
        (("pmc",), "say where to: medloom fetch pmc --to RAW"),
        (("pmc", "--to", "RAW"), "say which articles: one of ids=…"),
        (("pmc", "--to", "RAW", "--set", "idz=PMC1"), "service pmc has no parameter 'idz'; it knows ids"),
        (("pmc", "--to", "RAW", "--set", "limit=x"), "service pmc: --set limit=x is not int"),
        (("pmc", "--to", "RAW", "--set", "ids"), "--set ids is not NAME=VALUE"),
        (("pmc", "--to", "FULL", "--set", "ids=PMC1"), "holds files and is no raw zone"),
        (("pmc", "--to", "FULL/file", "--set", "ids=PMC1"), "FULL/file"),
    ],
)
def test_a_mistake_is_exit_2_and_makes_nothing(cli, service, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("FULL").mkdir()
    Path("FULL/file").touch()
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.startswith("medloom: ")
    assert not Path("RAW").exists()
    assert service.asked == []


def test_the_answer_says_what_was_asked_kept_known_and_refused(cli, service, tmp_path):
    service.add(plain(51), plain(52, said={"is_retracted": True}))
    arguments = ("pmc", "--to", tmp_path / "raw", "--set", "ids=PMC51,PMC52")
    status, out, err = cli(*arguments)
    assert status == 0
    size = sum(len(service.objects[name]) for name in kept(tmp_path / "raw"))
    assert out == (
        f"{tmp_path}/raw: asked for 6 objects: 5 kept ({size:,} bytes), 0 known, 1 refused; 7 requests\n"
        "reasons: 1 article.retracted\n"
    )
    assert err.splitlines()[0] == "fetch pmc, by 100 articles: 1 to do"
    assert re.fullmatch(
        r"fetch pmc, by 100 articles 1/1: 5 kept, 0 known, 1 refused, [\d,]+ bytes.*", err.splitlines()[1]
    )
    status, out, err = cli(*arguments, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert {name: found[name] for name in ("asked", "kept", "known", "refused", "requests", "later")} == {
        "asked": 6, "kept": 0, "known": 5, "refused": 1, "requests": 0, "later": 0,
    }  # fmt: skip


def test_what_a_transient_fault_left_out_is_exit_75_and_the_next_run_finishes(cli, service, tmp_path, monkeypatch):
    monkeypatch.setattr(Http, "first_wait_s", 0.01)
    service.add(plain(53), plain(54))
    service.server.faults_of["/pmc-oa-opendata/PMC53.1/PMC53.1.xml"] = [SLOW_DOWN] * 6
    arguments = ("pmc", "--to", tmp_path / "raw", "--set", "ids=PMC53,PMC54")
    status, out, err = cli(*arguments)
    assert status == 75
    assert "asked for 4 objects: 4 kept" in out
    assert re.fullmatch(r"medloom: 1 article put off: 127\.0\.0\.1:\d+ keeps failing: .*", err.splitlines()[-1])
    assert cli(*arguments)[0] == 0
    assert len(kept(tmp_path / "raw")) == 8


@pytest.mark.slow
def test_a_recipe_builds_from_the_raw_zone(service, fetch, tmp_path):
    """Of the articles asked for those that the gates let through are units, with the pictures that they may show."""
    own, other = plain(57).figures
    articles = [
        plain(55),
        plain(56, n_figures=3),
        plain(57, figures=(own, type(other)(other.href, other.files, BORROWED))),
    ]
    retracted = plain(58, said={"is_retracted": True})
    service.add(*articles, retracted)
    fetch(*articles, retracted)
    out, raw = tmp_path / "out", tmp_path / "raw"
    sources.build(out, "pmc_inline", raw)
    build = Build(str(out))
    assert sorted(build.table("article", ["article_key"])["article_key"].to_pylist()) == [
        "pmc55-1",
        "pmc56-1",
        "pmc57-1",
    ]
    media = [name for name in kept(raw) if name.endswith(".jpg")]
    assert len(media) == 2 + 3 + 1
    assert sorted({row["digest"] for row in build.index().to_pylist()}) == sorted(kept(raw)[name] for name in media)
    assert outcomes(raw)[f"PMC57.1/{other.files[0]}"] == "refused terms.third_party"
