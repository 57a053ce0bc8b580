import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

import pytest
from lxml import etree

from medloom.connectors import eutils
from medloom.connectors.eutils import Search
from medloom.connectors.http import Http
from medloom.connectors.jats import parse_article
from medloom.connectors.rates import Rates
from medloom.schemas.errors import ConfigError, RetryLater, SourceError
from tests.services.articles import DEFAULT_NAMESPACE, Article, bomb, deep
from tests.services.eutils import EPOCH, Eutils, said
from tests.services.loopback import Loopback, Reply, loopback, too_many, truncated

SECRET = "0123456789abcdef0123456789abcdef0123"
ARTICLES = tuple(Article(n) for n in range(101, 121))


@pytest.fixture
def http(tmp_path) -> Iterator[Http]:
    with Http(rates=Rates(tmp_path / "rates"), timeout_s=5.0, attempts=3, longest_wait_s=5.0) as client:
        yield client


@pytest.fixture
def serve(monkeypatch):
    """Serve E-utilities for the rest of a test."""
    servers = []

    def start(service: Eutils) -> Loopback:
        context = loopback(service)
        server = context.__enter__()
        servers.append(context)
        monkeypatch.setenv("MEDLOOM_EUTILS_URL", f"{server.url}/entrez/eutils")
        return server

    yield start
    for context in servers:
        context.__exit__(None, None, None)


def found(http: Http, *args, **kwargs) -> list[str]:
    return [pmcid for page in eutils.find(http, Search(*args, **kwargs)) for pmcid in page]


def fetched(http: Http, *numbers: int, batch: int = 100) -> dict[str, eutils.Received]:
    everything = list(eutils.fetch(http, [f"PMC{n}" for n in numbers], batch=batch))
    assert len({one.pmcid for one in everything}) == len(everything) == len(set(numbers))
    return {one.pmcid: one for one in everything}


def reasons(got: dict[str, eutils.Received]) -> dict[str, str]:
    return {pmcid: one.refused.reason for pmcid, one in got.items() if one.refused}


def test_a_search_is_paged_through_the_services_history(http, serve, monkeypatch):
    server = serve(Eutils.holding(*ARTICLES))
    monkeypatch.setattr(eutils, "PAGE", 7)
    assert found(http, "open_access[Filter]") == [a.pmcid for a in ARTICLES]
    assert [asked.query.get("WebEnv") for asked in server.seen] == [None, "MCID_0", "MCID_0"]
    assert [asked.query["term"] for asked in server.seen][1:] == ["#1", "#1"]


def test_more_than_a_search_lists_is_asked_for_in_windows_of_days_and_nothing_is_cut(http, serve, monkeypatch):
    articles = {n: b"" for n in range(1, 2001)}
    released = {n: (n * 37) % 900 for n in articles if n % 50}  # every 50th has no date
    server = serve(Eutils(articles, released, limit=99))
    monkeypatch.setattr(eutils, "LIMIT", 99)
    got = found(http, "x")
    assert len(got) == len(set(got)) == 2000
    assert set(got) == {f"PMC{n}" for n in articles}
    assert all("WebEnv" not in asked.query for asked in server.seen)  # each window fits a page


def test_a_window_given_is_kept_to_at_both_ends(http, serve):
    serve(Eutils({n: b"" for n in range(1, 31)}, {n: n for n in range(1, 31)}))
    since, until = EPOCH + timedelta(days=5), EPOCH + timedelta(days=9)
    assert found(http, "x", since=since, until=until) == [f"PMC{n}" for n in range(5, 10)]
    assert found(http, "x", since=EPOCH + timedelta(days=29)) == ["PMC29", "PMC30"]
    assert eutils.count(http, Search("x", until=EPOCH + timedelta(days=3))) == 3


def test_one_day_with_more_than_is_listed_is_an_error_and_not_a_shorter_list(http, serve, monkeypatch):
    serve(Eutils({n: b"" for n in range(1, 201)}, dict.fromkeys(range(1, 201), 3), limit=99))
    monkeypatch.setattr(eutils, "LIMIT", 99)
    with pytest.raises(SourceError, match=r"counts 200 articles .* and lists 99; narrow the query"):
        found(http, "x")


def test_a_history_that_is_forgotten_is_searched_again_without_loss_or_duplicates(http, serve, monkeypatch):
    serve(Eutils.holding(*ARTICLES, forgets=2))
    monkeypatch.setattr(eutils, "PAGE", 7)
    assert found(http, "x") == [a.pmcid for a in ARTICLES]
    serve(Eutils.holding(*ARTICLES, forgets=99))
    with pytest.raises(RetryLater, match="forgets a search"):
        found(http, "x")


def test_errors_inside_200_are_asked_again_when_the_service_is_busy_and_told_when_the_query_is_wrong(http, serve):
    server = serve(Eutils.holding(*ARTICLES))
    server.faults += [
        said({"esearchresult": {"ERROR": "Search Backend failed: Exception"}}),
        Reply(200, b'{"esearchresult": {"count": '),
    ]
    assert len(found(http, "x")) == 20
    assert len(server.seen) == 3
    with pytest.raises(SourceError, match="does not understand what it is asked"):
        found(http, "nonsense")
    with pytest.raises(SourceError, match="does not know 'unknown' and would search without"):
        found(http, "x AND y[unknown]")


def test_control_characters_in_strings_do_not_end_a_search(http, serve):
    server = serve(Eutils.holding(*ARTICLES))
    body = b'{"esearchresult":{"count":"1","idlist":["5"],"querytranslation":"a\x01b\nc"}}'
    server.faults.append(Reply(200, body))
    assert found(http, "x") == ["PMC5"]


def test_429_is_waited_out_as_long_as_the_service_asks(http, serve):
    server = serve(Eutils.holding(*ARTICLES))
    server.faults.append(too_many("1"))
    began = time.monotonic()
    assert len(found(http, "x")) == 20
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    ("search", "said_of_it"),
    [
        ({"term": " "}, "search for nothing"),
        ({"term": "x" * 5000}, "5000 characters"),
        ({"term": "x", "date_field": "crdt"}, "none of pmcrdat"),
    ],
)
def test_a_search_that_cannot_be_is_told_before_it_is_asked(search, said_of_it):
    with pytest.raises(ConfigError, match=said_of_it):
        Search(**search)


def test_each_article_of_a_set_is_its_own_bytes_whatever_stands_beside_it(http, serve):
    serve(Eutils.holding(*ARTICLES))
    together = fetched(http, *(a.number for a in ARTICLES))
    alone = fetched(http, *(a.number for a in ARTICLES), batch=1)
    for article in ARTICLES:
        assert together[article.pmcid].content == alone[article.pmcid].content
        assert together[article.pmcid].article == article.name
        rows = parse_article(together[article.pmcid].content, source="x")
        assert rows == parse_article(article.xml(), source="x") | {"article": rows["article"]}
        assert rows["article"][0]["pmcid"] == article.pmcid


def test_namespaces_and_undeclared_entities_outlive_the_envelope(http, serve):
    one = Article(7, inner="<p>a&nbsp;b &hearts;</p>", figures=(("g1", "A caption."),))
    named = replace(one, number=8, namespace=DEFAULT_NAMESPACE, inner="")
    serve(Eutils.holding(one, named))
    got = fetched(http, 7, 8)
    text = parse_article(got["PMC7"].content, source="x")
    assert any("a b ♥" in row["text"].replace("\xa0", " ") for row in text["paragraph"])
    assert text["figure"][0]["media"][0]["href"] == "g1"
    assert etree.fromstring(got["PMC8"].content).tag == f"{{{DEFAULT_NAMESPACE}}}article"


def test_articles_are_matched_by_id_and_what_is_missing_is_named(http, serve):
    service = Eutils.holding(*ARTICLES, silent={104}, answers_for={105: Article(106, title="A stranger").xml()})
    del service.articles[103]
    serve(service)
    got = fetched(http, 101, 102, 103, 104, 105)
    assert reasons(got) == {
        "PMC103": "article.not_found", "PMC104": "article.not_given", "PMC105": "article.not_given"
    }  # fmt: skip
    assert "not available" in got["PMC103"].refused.detail
    for n in (101, 102):
        assert f">{n}<".encode() in got[f"PMC{n}"].content


def test_comments_and_instructions_are_kept_in_the_bytes_and_are_no_part_of_a_title(http, serve):
    content = Article(7).xml().replace(b"Sight 7", b"<!--RETRACTED: --><?page 1?>Si<!--g-->ght&#160;7")
    serve(Eutils({7: content}))
    one = fetched(http, 7)["PMC7"]
    assert one.front.title == "Sight 7"
    assert b"<!--RETRACTED: --><?page 1?>Si<!--g-->ght" in one.content
    assert one.front.title == parse_article(one.content, source="x")["article"][0]["title"]


def test_of_two_versions_in_a_set_the_newer_is_taken(http, serve):
    both = [Article(101, version=v).xml() for v in (3, 1)]
    serve(Eutils.holding(answers_for={101: both[0] + both[1], 102: both[1].replace(b"101", b"102")}))
    got = fetched(http, 101, 102)
    assert (got["PMC101"].article, got["PMC102"].article) == ("PMC101.3", "PMC102.1")
    serve(Eutils.holding(answers_for={101: both[1] + both[0]}))
    assert fetched(http, 101)["PMC101"].article == "PMC101.3"


def test_an_article_given_by_its_front_only_is_refused(http, serve):
    scanned = Article(202, front_only=True).xml().replace(b"<!--", b"<!--scan ").replace(b"does not allow", b"gave")
    service = Eutils.holding(Article(201, front_only=True), Article(203, licence=""))
    service.articles[202] = scanned
    service.articles[204] = scanned.replace(b"202", b"204").replace(b"licenses/by/", b"none/")
    serve(service)
    got = fetched(http, 201, 202, 203, 204)
    assert reasons(got) == {"PMC201": "article.not_open_access", "PMC204": "article.not_open_access"}


def test_one_bad_id_costs_itself_and_not_its_batch(http, serve):
    server = serve(Eutils.holding(*ARTICLES, bad={109}))
    got = fetched(http, *(a.number for a in ARTICLES))
    assert reasons(got) == {"PMC109": "http.status"}
    assert sum(not one.refused for one in got.values()) == 19
    assert len(server.seen) < 12  # halves, not one by one


def test_a_service_that_refuses_every_id_is_told_as_such(http, serve):
    serve(Eutils.holding(*ARTICLES, bad={a.number for a in ARTICLES}))
    with pytest.raises(SourceError, match="refuses each of 10 ids"):
        fetched(http, *(a.number for a in ARTICLES))


def test_a_wrong_address_is_told_and_refuses_no_article(http, serve, monkeypatch):
    server = serve(Eutils.holding(*ARTICLES))
    monkeypatch.setenv("MEDLOOM_EUTILS_URL", f"{server.url}/elsewhere?".rstrip("?") + "/x")
    server.faults.append(Reply(404))
    with pytest.raises(SourceError, match="see that its address is right"):
        fetched(http, 101)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb(110), "jats.entities"),
        (deep(110), "jats.deep"),
        (b"<article><front></article>", "jats.malformed"),
        (b"<article><body><p>" + b"x" * 10_500_000 + b"</p></body></article>", "jats.large"),
        (b"<article>\xff\xfe</article>", "jats.malformed"),
    ],
    ids=["entities", "deep", "malformed", "large", "utf-8"],
)
def test_a_hostile_article_costs_itself_and_not_its_batch(http, serve, content, reason):
    service = Eutils.holding(*ARTICLES, answers_for={110: content})
    serve(service)
    got = fetched(http, *(a.number for a in ARTICLES))
    assert list(reasons(got)) == ["PMC110"]
    # a document type inside of a set is malformed before its entities are looked at
    assert reasons(got)["PMC110"] in {reason, "jats.malformed"}
    assert sum(not one.refused for one in got.values()) == 19


def test_an_external_entity_is_not_read(http, serve, tmp_path):
    (tmp_path / "secret").write_text("the secret of the machine")
    service = Eutils.holding(*ARTICLES)
    doctype = f'<!DOCTYPE pmc-articleset [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    body = f"{doctype}<pmc-articleset>{Article(101, inner='<p>a &x; b</p>').xml().decode()}</pmc-articleset>"
    server = serve(service)
    server.faults.append(Reply(200, body.encode()))
    got = fetched(http, 101)["PMC101"]
    assert b"secret of the machine" not in got.content
    assert b"<!ENTITY" not in got.content
    rows = parse_article(got.content, source="x")
    assert not any("secret" in row["text"] for row in rows["paragraph"])


def test_sets_cut_short_and_errors_in_their_place_are_asked_again(http, serve):
    server = serve(Eutils.holding(*ARTICLES))
    server.faults += [truncated, lambda reply: replace(reply, body=reply.body[:-40])]
    assert not reasons(fetched(http, 101, 102))
    server.faults += [lambda reply: replace(reply, body=reply.body[:-40])]
    assert not reasons(fetched(http, 101))
    server.faults += [
        Reply(200, b"<eFetchResult><ERROR>Error: Backend temporarily unavailable</ERROR></eFetchResult>"),
        Reply(200, b'{"error":"API rate limit exceeded","api-key":"1.2.3.4","count":"4","limit":"3"}'),
    ]
    assert not reasons(fetched(http, 101, 102))
    server.faults += [Reply(200, b"<!DOCTYPE html><html><body>Maintenance</body></html>")]
    assert not reasons(fetched(http, 101, 102))


def test_a_service_that_is_down_ends_in_retry_later(http, serve):
    server = serve(Eutils.holding(*ARTICLES))
    server.faults += [Reply(503)] * 9
    with pytest.raises(RetryLater, match="status 503"):
        fetched(http, 101)


def test_the_key_reaches_the_service_and_neither_logs_nor_errors_nor_what_is_kept(http, serve, monkeypatch, caplog):
    monkeypatch.setenv("MEDLOOM_NCBI_KEY", SECRET)
    monkeypatch.setenv("MEDLOOM_EMAIL", "someone@example.org")
    caplog.set_level(logging.DEBUG)
    server = serve(Eutils.holding(*ARTICLES, bad={102}))
    got = fetched(http, 101, 102, 999)
    assert server.seen[-1].query["api_key"] == SECRET
    assert server.seen[-1].query["email"] == "someone@example.org"
    told = [repr(got), caplog.text]
    for fault in (
        [said({"esearchresult": {"ERROR": f"Invalid key api_key={SECRET} of someone@example.org"}})],
        [Reply(400, SECRET.encode())],
        [Reply(503, SECRET.encode())] * 3,
        [Reply(200, b"<ERROR>" + SECRET.encode() + b"</ERROR>")] * 3,
    ):
        server.faults += fault
        with pytest.raises((SourceError, RetryLater)) as raised:
            found(http, "x")
        told.append(str(raised.value))
    assert not [text for text in [*told, caplog.text] if SECRET in text or "someone@example" in text]


def test_the_rate_of_the_service_is_kept(tmp_path, serve):
    server = serve(Eutils.holding(*ARTICLES))
    host = server.url.removeprefix("http://")
    with Http(rates=Rates(tmp_path / "rates", per_second={host: 10.0})) as http:
        fetched(http, *(a.number for a in ARTICLES[:8]), batch=1)
    at = sorted(asked.at for asked in server.seen)
    assert at[-1] - at[0] >= 0.6  # seven gaps of a tenth of a second, less what the first one came late


def test_windows_halve_without_gap_or_overlap():
    window = eutils.Window(date(2024, 2, 28), date(2024, 3, 1))
    earlier, later = window.halves()
    assert (earlier.since, later.until) == (window.since, window.until)
    assert later.since - earlier.until == timedelta(days=1)
