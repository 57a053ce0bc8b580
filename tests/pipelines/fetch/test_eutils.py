import logging

import pytest
from tests.services.articles import Article
from tests.services.eutils import Eutils
from tests.services.fetches import everything_in, held, kept, killed, reasons, run
from tests.services.id_converter import NEW, IdConverter
from tests.services.loopback import Loopback, Reply, loopback

from medloom.connectors.jats import parse_article
from medloom.schemas.errors import ConfigError, RetryLater, SourceError
from medloom.schemas.raw import RawZone

ARTICLES = tuple(Article(n, figures=((f"g{n}", "Seen."),)) for n in range(101, 131))
QUERY = '"case reports"[Filter]'


@pytest.fixture
def serve(monkeypatch):
    contexts = []

    def start(service: Eutils) -> Loopback:
        contexts.append(loopback(service))
        server = contexts[-1].__enter__()
        monkeypatch.setenv("MEDLOOM_EUTILS_URL", server.url)
        return server

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def fetched_ids(server: Loopback) -> list[str]:
    """Numbers that efetch was asked for, in order."""
    return [n for asked in server.seen if asked.path.endswith("efetch.fcgi") for n in asked.query["id"].split(",")]


def test_what_a_query_finds_is_kept_as_articles_of_their_own(serve, tmp_path):
    server = serve(Eutils.holding(*ARTICLES))
    done = run("eutils", tmp_path / "raw", query=QUERY)
    assert (done.asked, done.kept, done.known, done.refused) == (30, 30, 0, 0)
    assert done.requests == len(server.seen)
    assert kept(tmp_path / "raw") == {f"{a.name}/{a.name}.xml" for a in ARTICLES}
    zone = RawZone(str(tmp_path / "raw"))
    row = held(tmp_path / "raw")["PMC107.1/PMC107.1.xml"]
    assert parse_article(zone.read(row["digest"]), source="x")["article"][0]["pmcid"] == "PMC107"
    assert row["url"] == "efetch.fcgi?db=pmc&retmode=xml&id=107"
    assert server.seen[0].query["term"] == f"({QUERY}) AND open_access[Filter]"


def test_a_run_again_asks_for_no_article_that_is_kept_or_refused(serve, tmp_path):
    service = Eutils.holding(*ARTICLES[:20], Article(200, front_only=True), Article(201, retracted=True))
    del service.articles[104]
    service.articles[103] = b"<article><front></article>"
    server = serve(service)
    settings = {"ids": ",".join(f"PMC{n}" for n in [*range(101, 121), 200, 201])}
    first = run("eutils", tmp_path / "raw", **settings)
    assert (first.asked, first.kept, first.refused) == (22, 18, 4)
    before, asked = held(tmp_path / "raw"), len(server.seen)
    again = run("eutils", tmp_path / "raw", **settings)
    assert (again.asked, again.kept, again.known, again.refused, again.requests) == (22, 0, 18, 4, 0)
    assert len(server.seen) == asked
    assert again.reasons == first.reasons
    assert held(tmp_path / "raw") == before
    assert reasons(tmp_path / "raw") == {
        "PMC103/PMC103.xml": "jats.malformed",
        "PMC104/PMC104.xml": "article.not_found",
        "PMC200/PMC200.xml": "article.not_open_access",
        "PMC201.1/PMC201.1.xml": "article.retracted",
    }


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 5, 7])
def test_a_killed_fetch_run_again_equals_an_unbroken_one_and_asks_for_nothing_twice(serve, tmp_path, at):
    server = serve(Eutils.holding(*(Article(n) for n in range(1, 551)), Article(900, licence="CC BY-NC")))
    unbroken = run("eutils", tmp_path / "unbroken", query=QUERY)
    killed("eutils", tmp_path / "killed", server, at, query=QUERY)
    had = kept(tmp_path / "killed")
    assert len(had) == (at - 2) * 100
    server.seen.clear()
    resumed = run("eutils", tmp_path / "killed", query=QUERY)
    assert held(tmp_path / "killed") == held(tmp_path / "unbroken")
    assert (resumed.asked, resumed.known) == (unbroken.asked, len(had)) == (551, (at - 2) * 100)
    assert len(fetched_ids(server)) == 551 - len(had)


def test_licences_of_other_tiers_are_refused_held_and_let_pass_later_without_asking_again(serve, tmp_path):
    articles = [
        Article(1), Article(2, licence="CC BY-NC"), Article(3, licence="CC BY-ND"), Article(4, licence="CC BY-NC-ND"),
        Article(5, licence=""), Article(6, licence="CC0"),
    ]  # fmt: skip
    server = serve(Eutils.holding(*articles))
    run("eutils", tmp_path / "raw", query=QUERY)
    assert kept(tmp_path / "raw") == {"PMC1.1/PMC1.1.xml", "PMC6.1/PMC6.1.xml"}
    assert set(reasons(tmp_path / "raw").values()) == {"terms.tier"}
    server.seen.clear()
    done = run("eutils", tmp_path / "raw", query=QUERY, tiers="open,nd")
    assert (done.kept, done.known, done.refused) == (1, 2, 3)
    assert not fetched_ids(server)
    assert "PMC3.1/PMC3.1.xml" in kept(tmp_path / "raw")
    done = run("eutils", tmp_path / "raw", query=QUERY, tiers="open,nc,nd,other")
    assert (done.kept, done.known, done.refused) == (3, 3, 0)
    assert not fetched_ids(server)


def test_a_newer_version_supersedes_and_an_older_one_changes_nothing(serve, tmp_path):
    service = Eutils.holding(Article(1, version=2), Article(2, version=1))
    serve(service)
    zone = RawZone.at(str(tmp_path / "raw"))
    digest, size = zone.put(b"<article/>")
    row = {"role": "article", "digest": digest, "size": size, "outcome": "superseded", "url": "x"}
    zone.append([
        row | {"name": "PMC1.1/PMC1.1.xml", "article": "PMC1.1"},
        row | {"name": "PMC2.3/PMC2.3.xml", "article": "PMC2.3", "outcome": "kept"},
    ])  # fmt: skip
    done = run("eutils", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.known) == (1, 1)
    assert kept(tmp_path / "raw") == {"PMC1.2/PMC1.2.xml", "PMC2.3/PMC2.3.xml"}


def test_a_retraction_found_before_is_not_asked_for_and_what_a_service_took_back_is(serve, tmp_path):
    server = serve(Eutils.holding(Article(1), Article(2)))
    zone = RawZone.at(str(tmp_path / "raw"))
    digest, size = zone.put(b"<article/>")
    row = {"role": "article", "digest": digest, "size": size, "outcome": "withdrawn"}
    zone.append([
        row | {"name": "PMC1.1/PMC1.1.xml", "article": "PMC1.1", "reason": "article.retracted"},
        row | {"name": "PMC2.1/PMC2.1.xml", "article": "PMC2.1", "reason": "oai.deleted"},
    ])  # fmt: skip
    done = run("eutils", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.refused, done.reasons) == (1, 1, {"article.retracted": 1})
    assert fetched_ids(server) == ["2"]


def test_ids_of_every_kind_are_converted_once_and_remembered(serve, tmp_path, monkeypatch):
    server = serve(Eutils.holding(*ARTICLES))
    records = [{"pmcid": a.pmcid, "pmid": 30_000_000 + a.number, "doi": f"10.9999/A.{a.number}"} for a in ARTICLES]
    with loopback(IdConverter(records)) as converter:
        monkeypatch.setenv("MEDLOOM_IDCONV_URL", converter.url + NEW)
        settings = {"ids": "PMC101,30000102,10.9999/a.103,10.9999/none.1,30000101"}
        first = run("eutils", tmp_path / "raw", **settings)
        assert (first.asked, first.kept, first.refused) == (4, 3, 1)
        asked = len(converter.seen), len(server.seen)
        again = run("eutils", tmp_path / "raw", **settings)
        assert (again.asked, again.known, again.refused) == (4, 3, 1)
        assert (len(converter.seen), len(server.seen)) == asked
        assert reasons(tmp_path / "raw") == {"ids/10.9999/none.1": "article.not_found"}
        run("eutils", tmp_path / "raw", refresh=True, **settings)
        assert len(converter.seen) == asked[0] + 1


def test_a_limit_counts_what_is_asked_of_the_service(serve, tmp_path):
    server = serve(Eutils.holding(*ARTICLES))
    assert run("eutils", tmp_path / "raw", query=QUERY, limit=7).kept == 7
    done = run("eutils", tmp_path / "raw", query=QUERY, limit=7)
    assert (done.kept, done.known) == (7, 7)
    assert len(set(fetched_ids(server))) == len(fetched_ids(server)) == 14


def test_what_was_fetched_before_the_service_went_down_is_kept(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("medloom.connectors.eutils.BATCH", 10)
    server = serve(Eutils.holding(*ARTICLES))
    fetches = iter(range(99))

    def answer(asked):
        down = asked.path.endswith("efetch.fcgi") and next(fetches) >= 2
        return Reply(503) if down else service(asked)

    service = server.answer
    server.answer = answer
    with pytest.raises(RetryLater, match="status 503"):
        run("eutils", tmp_path / "raw", query=QUERY)
    assert len(kept(tmp_path / "raw")) == 20
    server.answer = service
    done = run("eutils", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.known) == (10, 20)


def test_faults_of_the_service_are_asked_again_on_demand(serve, tmp_path):
    service = Eutils.holding(*ARTICLES, silent={105})
    server = serve(service)
    assert run("eutils", tmp_path / "raw", query=QUERY).reasons == {"article.not_given": 1}
    service.silent.clear()
    assert run("eutils", tmp_path / "raw", query=QUERY).kept == 0
    done = run("eutils", tmp_path / "raw", query=QUERY, refresh=True)
    assert (done.kept, done.known, done.refused) == (1, 29, 0)
    assert fetched_ids(server)[30:] == ["105"]


def test_the_key_stands_nowhere_in_the_zone_nor_in_the_logs(serve, tmp_path, monkeypatch, caplog):
    secret = "f00dfeed" * 5
    monkeypatch.setenv("MEDLOOM_NCBI_KEY", secret)
    monkeypatch.setenv("MEDLOOM_EMAIL", "someone@example.org")
    caplog.set_level(logging.DEBUG)
    server = serve(Eutils.holding(*ARTICLES, bad={103}))
    run("eutils", tmp_path / "raw", query=QUERY)
    assert all(asked.query["api_key"] == secret for asked in server.seen)
    everything = everything_in(tmp_path / "raw") + caplog.text.encode()
    assert b"PMC101.1" in everything
    assert secret.encode() not in everything
    assert b"someone@example" not in everything
    server.faults += [Reply(200, f'{{"error":"API key invalid","api-key":"{secret}"}}'.encode())] * 2
    with pytest.raises((SourceError, RetryLater)) as raised:
        run("eutils", tmp_path / "raw", query=QUERY)
    assert secret not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either query=… or ids=…"),
        ({"query": "x", "ids": "PMC1"}, "either query=… or ids=…"),
        ({"ids": "PMC1", "since": "2026-01-01"}, "since and until are of a query"),
        ({"ids": "PMC1,nonsense"}, "'nonsense' is no PMCID"),
        ({"query": "x", "tiers": "open,free"}, "names 'free'"),
        ({"query": "x", "since": "yesterday"}, "is not"),
        ({"query": "x", "date_field": "crdt"}, "is none of pmcrdat"),
        ({"query": "x", "limit": "-1"}, "is negative"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_asked(serve, tmp_path, settings, said):
    server = serve(Eutils.holding(*ARTICLES))
    with pytest.raises(ConfigError, match=said):
        run("eutils", tmp_path / "raw", **settings)
    assert not server.seen
    assert not (tmp_path / "raw").exists()
