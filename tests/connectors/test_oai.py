import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

import pytest
from lxml import etree

from medloom.connectors.http import Http
from medloom.connectors.jats import parse_article
from medloom.connectors.oai import Harvest, Header, get_record, list_headers, list_records
from medloom.connectors.rates import Rates
from medloom.schemas.errors import Refused, RetryLater, SourceError
from tests.services.articles import DEFAULT_NAMESPACE, Article, bomb, deep
from tests.services.loopback import Loopback, Reply, loopback, too_many, truncated
from tests.services.oai import PREFIX, Kept, Oai, answer, error, kept

DAY = date(2026, 9, 1)


def records(n: int = 45, *, per_day: int = 4) -> list[Kept]:
    return [kept(Article(100 + i, figures=(("g1", "Seen."),)), DAY + timedelta(days=i // per_day)) for i in range(n)]


@pytest.fixture
def http(tmp_path) -> Iterator[Http]:
    with Http(rates=Rates(tmp_path / "rates"), timeout_s=5.0, attempts=3, longest_wait_s=5.0) as client:
        yield client


@pytest.fixture
def serve(monkeypatch):
    contexts = []

    def start(service: Oai) -> Loopback:
        contexts.append(loopback(service))
        server = contexts[-1].__enter__()
        monkeypatch.setenv("MEDLOOM_OAI_URL", f"{server.url}/api/oai/v1/mh")
        return server

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def numbers(http: Http, harvest: Harvest = Harvest()) -> list[int]:  # noqa: B008
    return [int(one.header.pmcid[3:]) for one in list_records(http, harvest)]


def header(number: int) -> Header:
    return Header(PREFIX + str(number), DAY.isoformat(), False)


def test_a_list_is_followed_page_by_page_with_the_token_alone(http, serve):
    server = serve(Oai(records()))
    assert numbers(http) == list(range(100, 145))
    assert len(server.seen) == 5
    assert all(set(asked.query) == {"verb", "resumptionToken"} for asked in server.seen[1:])


def test_an_article_in_a_default_namespace_is_pulled_out_as_its_own_bytes(http, serve):
    serve(Oai(records(3)))
    listed = list(list_records(http, Harvest()))
    root = etree.fromstring(listed[0].received.content)
    assert root.tag == f"{{{DEFAULT_NAMESPACE}}}article"
    rows = parse_article(listed[0].received.content, source="x")
    assert rows["article"][0]["pmcid"] == "PMC100"
    assert rows["figure"][0]["media"][0]["href"] == "g1"
    assert listed[0].received.article == "PMC100.1"
    assert b"OAI" not in listed[0].received.content.replace(b"openarchives", b"")
    assert get_record(http, listed[0].header).received.content == listed[0].received.content


@pytest.mark.parametrize("expires_after", [2, 3, 4])
@pytest.mark.parametrize("order", ["by day", "any"])
def test_an_expired_token_loses_nothing_and_gives_nothing_twice(http, serve, expires_after, order):
    held = records(60)
    if order == "any":
        random.Random(5).shuffle(held)
    serve(Oai(held, expires_after=expires_after))
    got = numbers(http)
    assert sorted(got) == list(range(100, 160))


def test_after_an_expired_token_a_list_by_day_goes_on_from_the_last_day_seen(http, serve):
    server = serve(Oai(records(60), expires_after=3))
    assert numbers(http) == list(range(100, 160))
    starts = [asked.query.get("from") for asked in server.seen if "resumptionToken" not in asked.query]
    assert starts[0] is None
    assert starts[1] == (DAY + timedelta(days=29 // 4)).isoformat()
    assert starts == sorted(starts, key=lambda day: day or "")


def test_a_long_list_in_any_order_is_cut_by_days_until_its_parts_outlive_their_tokens(http, serve):
    held = [kept(Article(100 + i), DAY - timedelta(days=97 * i)) for i in range(60)]
    random.Random(6).shuffle(held)
    serve(Oai(held, expires_after=1))
    assert sorted(numbers(http)) == list(range(100, 160))


def test_tokens_that_never_hold_end_in_retry_later(http, serve):
    serve(Oai([kept(Article(100 + i), DAY) for i in range(30)], expires_after=1))
    with pytest.raises(RetryLater, match="lets its tokens expire"):
        numbers(http)


def test_a_token_that_leads_in_a_circle_ends_in_retry_later(http, serve):
    serve(Oai(records(), loops=True))
    with pytest.raises(RetryLater, match="same page again"):
        numbers(http)


def test_deleted_records_are_told_without_an_article(http, serve):
    held = records(3)
    held[1] = replace(held[1], content=None)
    serve(Oai(held))
    listed = list(list_records(http, Harvest()))
    assert [one.header.is_deleted for one in listed] == [False, True, False]
    assert [one.received is None for one in listed] == [False, True, False]
    assert [one.is_deleted for one in list_headers(http, Harvest())] == [False, True, False]


def test_days_bound_a_harvest_at_both_ends_and_an_empty_one_is_empty(http, serve):
    serve(Oai(records()))
    day = DAY + timedelta(days=2)
    assert numbers(http, Harvest(since=day, until=day)) == [108, 109, 110, 111]
    assert numbers(http, Harvest(since=DAY + timedelta(days=400))) == []


def test_errors_inside_200_are_the_users_or_the_records(http, serve):
    serve(Oai(records()))
    with pytest.raises(SourceError, match="badArgument"):
        numbers(http, Harvest(set_name="no-such-set"))
    assert get_record(http, header(9)).received.refused.reason == "oai.no_record"
    assert get_record(http, header(100), prefix="mods").received.refused.reason == "oai.no_format"


def test_a_record_under_another_name_is_not_taken(http, serve):
    server = serve(Oai(records()))
    server.faults.append(answer(f"<GetRecord><record>{kept(Article(101), DAY).header}</record></GetRecord>"))
    assert get_record(http, header(100)).received.refused.reason == "oai.no_record"


def test_what_is_not_a_whole_answer_is_asked_again(http, serve):
    server = serve(Oai(records(12)))
    server.faults += [truncated, Reply(200, b"<html><body>Down for maintenance</body></html>")]
    assert len(numbers(http)) == 12
    server.faults += [too_many("0"), lambda reply: replace(reply, body=reply.body[:-30])]
    assert len(numbers(http)) == 12
    server.faults += [Reply(503)] * 3
    with pytest.raises(RetryLater):
        numbers(http)
    server.faults += [Reply(403)]
    with pytest.raises(SourceError, match="see that MEDLOOM_OAI_URL is right"):
        numbers(http)


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (bomb(105), {"jats.entities", "jats.malformed"}),
        (deep(105), {"jats.deep"}),
        (b"<article><front></article>", {"jats.malformed"}),
        (b"<article>\xff</article>", {"jats.malformed"}),
    ],
    ids=["entities", "deep", "malformed", "utf-8"],
)
def test_a_hostile_record_is_refused_by_itself_and_its_page_says_so(http, serve, content, reasons):
    held = records(12)
    held[5] = replace(held[5], content=content)
    serve(Oai(held))
    with pytest.raises(Refused) as raised:
        numbers(http)
    assert raised.value.reason in reasons
    alone = [get_record(http, one) for one in list_headers(http, Harvest())]
    assert [one.header.pmcid for one in alone if one.received.refused] == ["PMC105"]
    assert alone[5].received.refused.reason in reasons


def test_a_list_of_headers_that_cannot_be_read_ends_in_retry_later(http, serve):
    server = serve(Oai(records(12)))
    server.faults.append(answer("<ListIdentifiers><header></ListIdentifiers>"))
    with pytest.raises(RetryLater, match="gives a list that cannot be read"):
        list(list_headers(http, Harvest()))


def test_a_record_with_two_articles_or_none_is_refused_alone(http, serve):
    held = records(3)
    held[1] = replace(held[1], content=held[1].content * 2)
    held[2] = replace(held[2], content=b"<dc>no article</dc>")
    serve(Oai(held))
    listed = list(list_records(http, Harvest()))
    assert [one.received.refused and one.received.refused.reason for one in listed] == [
        None, "jats.no_article", "jats.no_article",
    ]  # fmt: skip


def test_an_article_that_is_all_front_is_not_open_access(http, serve):
    serve(Oai([kept(Article(100, front_only=True), DAY), kept(Article(101), DAY)]))
    listed = list(list_records(http, Harvest()))
    assert listed[0].received.refused.reason == "article.not_open_access"
    assert not listed[1].received.refused


def test_an_unknown_error_is_told_with_its_code(http, serve):
    server = serve(Oai(records()))
    server.faults.append(answer(error("noSetHierarchy", "no sets here")))
    with pytest.raises(SourceError, match="noSetHierarchy: 'no sets here'"):
        numbers(http)
