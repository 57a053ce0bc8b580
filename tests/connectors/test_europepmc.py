from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medloom.connectors.europepmc import LONGEST_QUERY, Result, files_zip, full_text, search
from medloom.connectors.http import Http
from medloom.connectors.jats import parse_article
from medloom.connectors.rates import Rates
from medloom.schemas.errors import ConfigError, Refused, RetryLater, SourceError
from tests.services.articles import Article, bomb, deep
from tests.services.europepmc import REST, EuropePmc, result, said, service, zip_of
from tests.services.loopback import Loopback, Reply, loopback, too_many, truncated

ARTICLES = [Article(n, figures=((f"fig{n}", "Seen."),)) for n in range(101, 126)]


@pytest.fixture
def http(tmp_path) -> Iterator[Http]:
    with Http(rates=Rates(tmp_path / "rates"), timeout_s=5.0, attempts=3, longest_wait_s=5.0) as client:
        yield client


@pytest.fixture
def serve(monkeypatch):
    contexts = []

    def start(held: EuropePmc) -> Loopback:
        contexts.append(loopback(held))
        server = contexts[-1].__enter__()
        monkeypatch.setenv("MEDLOOM_EUROPEPMC_URL", server.url + REST)
        return server

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def found(http: Http, query: str = "OPEN_ACCESS:Y", page: int = 10) -> list[str]:
    return [one.name for some in search(http, query, page=page) for one in some.results]


@pytest.mark.parametrize("ending", ["none", "same", "empty"])
@pytest.mark.parametrize("count", [0, 10, 20, 25])
def test_a_search_is_followed_by_its_cursor_to_each_of_its_ends(http, serve, ending, count):
    server = serve(replace(service(*ARTICLES[:count]), ending=ending))
    assert found(http) == [a.pmcid for a in ARTICLES[:count]]
    assert len(server.seen) <= count // 10 + 2


def test_the_address_of_the_next_page_is_made_anew(http, serve):
    server = serve(service(*ARTICLES))
    query = 'OPEN_ACCESS:Y AND LICENSE:"CC BY" AND TITLE:"a & b = c + d"'
    assert len(found(http, query)) == 25
    assert [asked.query["query"] for asked in server.seen] == [query] * 3
    assert server.seen[1].query["cursorMark"] == "AoE/10"


def test_a_result_given_twice_is_given_once(http, serve):
    held = service(*ARTICLES)
    held.results.insert(12, held.results[3])
    serve(held)
    assert found(http) == [a.pmcid for a in ARTICLES]


def test_a_cursor_in_a_circle_ends_in_retry_later(http, serve):
    serve(replace(service(*ARTICLES, *(Article(n) for n in range(200, 230))), loops=True))
    with pytest.raises(RetryLater, match="same page of a search again"):
        found(http)


def test_fewer_results_than_counted_are_no_whole_search(http, serve):
    serve(replace(service(*ARTICLES), counts=400))
    with pytest.raises(RetryLater, match="counts 400 results and lists 25"):
        found(http)


def test_errors_inside_200_are_asked_again_or_told(http, serve):
    server = serve(service(*ARTICLES))
    server.faults += [said({"errCode": 503, "errMsg": "down"}), Reply(200, b"<html></html>")]
    assert len(found(http)) == 25
    with pytest.raises(SourceError, match="error 400 inside HTTP 200"):
        found(http, "((")
    server.faults += [Reply(400)]
    with pytest.raises(SourceError, match="refuses a search"):
        found(http)


def test_maintenance_and_load_are_waited_out_within_bounds(http, serve):
    server = serve(service(*ARTICLES))
    server.faults += [Reply(503, b"Service unavailable", {"Content-Type": "text/plain"}), Reply(504)]
    assert len(found(http)) == 25
    server.faults += [too_many("0"), truncated]
    assert len(found(http)) == 25
    server.faults += [Reply(503, b"Service unavailable", {"Content-Type": "text/plain"})] * 3
    with pytest.raises(RetryLater, match="status 503"):
        found(http)


@pytest.mark.parametrize("query", ["", "  ", "x" * (LONGEST_QUERY + 1)])
def test_a_query_that_cannot_be_asked_is_told_before(http, query):
    with pytest.raises(ConfigError, match="Europe PMC takes 1 to"):
        found(http, query)


def test_what_a_search_says_of_an_article_is_read(http, serve):
    one = Article(1)
    rows = [
        result(one),
        result(replace(one, number=2, retracted=True)),
        result(replace(one, number=3), isOpenAccess="N", license=None),
        result(replace(one, number=4), commentCorrectionList={"commentCorrection": [{"type": "Retraction in"}]}),
        result(replace(one, number=5), title="RETRACTED: Sight"),
        {"id": "PPR77", "source": "PPR", "title": "A preprint"},
        result(replace(one, number=6), pmcid="PMC6/../../secret"),
    ]
    serve(EuropePmc(rows))
    got = [one for some in search(http, "x") for one in some.results]
    assert got[0] == Result("PMC1", "MED", "30000001", True, False, "cc by")
    assert [one.is_retracted for one in got] == [False, True, False, True, True, False, False]
    assert (got[2].is_open_access, got[2].licence_code) == (False, "")
    assert (got[5].pmcid, got[5].name) == ("", "PPR-PPR77")
    assert (got[6].pmcid, got[6].name) == ("", "MED-30000006")


def test_full_text_is_an_article_of_its_own(http, serve):
    serve(service(*ARTICLES))
    one = full_text(http, "PMC101")
    assert one.refused is None
    assert one.article == "PMC101.1"
    assert parse_article(one.content, source="x")["figure"][0]["media"][0]["href"] == "fig101"
    assert one.url.endswith("/PMC101/fullTextXML")


def test_an_empty_404_is_no_full_text_and_is_not_asked_again(http, serve):
    server = serve(service(*ARTICLES))
    assert full_text(http, "PMC9").refused.reason == "europepmc.no_full_text"
    assert len(server.seen) == 1
    server.faults.append(said({"errCode": 404, "errMsg": "No full text"}))
    assert full_text(http, "PMC101").refused.reason == "europepmc.no_full_text"
    server.faults.append(Reply(200))
    assert full_text(http, "PMC101").refused.reason == "europepmc.no_full_text"


def test_full_text_that_fails_for_now_is_asked_again(http, serve):
    server = serve(service(*ARTICLES))
    server.faults += [said({"errCode": 500, "errMsg": "oops"}), Reply(200, b"<html><body>down</body></html>")]
    assert full_text(http, "PMC101").refused is None
    server.faults += [truncated, lambda reply: replace(reply, body=reply.body[:-300])]
    assert full_text(http, "PMC101").refused is None
    server.faults += [truncated] * 3
    assert full_text(http, "PMC101").refused.reason == "http.truncated"
    server.faults += [Reply(503)] * 3
    with pytest.raises(RetryLater):
        full_text(http, "PMC101")
    server.faults += [Reply(403)]
    with pytest.raises(SourceError, match="see that MEDLOOM_EUROPEPMC_URL is right"):
        full_text(http, "PMC101")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb(9), "jats.entities"),
        (deep(9), "jats.deep"),
        (b"<article><front></article>", "jats.malformed"),
        (b"<r><article/><article/></r>", "jats.no_article"),
        (Article(9, front_only=True).xml(), "article.not_open_access"),
    ],
)
def test_hostile_or_partial_full_text_is_refused_with_its_reason(http, serve, content, reason):
    serve(EuropePmc(texts={"PMC9": content}))
    assert full_text(http, "PMC9").refused.reason == reason


def test_the_zip_of_files_is_downloaded_whole(http, serve, tmp_path: Path):
    server = serve(service(*ARTICLES))
    server.faults.append(truncated)
    files_zip(http, "PMC101", to=tmp_path / "zip")
    assert (tmp_path / "zip").read_bytes() == service(*ARTICLES).zips["PMC101"]
    assert len(server.seen) == 2


def test_no_zip_of_files_is_refused_and_leaves_no_file(http, serve, tmp_path: Path):
    server = serve(service(*ARTICLES))
    cases = {
        "europepmc.no_files": [Reply(404), said({"errCode": 404, "errMsg": "none"})],
        "europepmc.no_zip": [Reply(200, b"<html></html>"), Reply(200), said({"errCode": 400})],
    }
    for reason, replies in cases.items():
        for reply in replies:
            server.faults.append(reply)
            with pytest.raises(Refused) as raised:
                files_zip(http, "PMC101", to=tmp_path / "zip")
            assert raised.value.reason == reason
            assert not list(tmp_path.glob("zip*"))
    server.faults.append(said({"errCode": 503, "errMsg": "down"}))
    with pytest.raises(RetryLater, match="503 inside HTTP 200"):
        files_zip(http, "PMC101", to=tmp_path / "zip")


def test_an_id_from_outside_never_becomes_another_path(http):
    for pmcid in ("PMC1/../x", "../PMC1", "PMC", "1", "PMC1?x=1"):
        with pytest.raises(Refused) as raised:
            full_text(http, pmcid)
        assert raised.value.reason == "article.no_pmcid"


def test_the_address_of_whoever_asks_is_sent_and_not_kept(http, serve, monkeypatch):
    monkeypatch.setenv("MEDLOOM_EMAIL", "someone@example.org")
    server = serve(service(*ARTICLES))
    assert "someone" not in repr(full_text(http, "PMC101"))
    found(http)
    assert {asked.query["email"] for asked in server.seen} == {"someone@example.org"}


def test_an_empty_zip_is_a_zip(http, serve, tmp_path: Path):
    serve(EuropePmc(zips={"PMC9": zip_of({})}))
    files_zip(http, "PMC9", to=tmp_path / "zip")
    assert (tmp_path / "zip").exists()
