from collections.abc import Iterator

import pytest

from medloom.connectors.http import Http
from medloom.connectors.id_converter import Identifiers, convert, kind_of
from medloom.connectors.rates import Rates
from medloom.schemas.errors import ConfigError, RetryLater, SourceError
from tests.services.id_converter import NEW, OLD, IdConverter
from tests.services.loopback import Loopback, Reply, loopback, too_many, truncated

ARTICLES = [
    {"pmcid": f"PMC{n}", "pmid": 30_000_000 + n, "doi": f"10.1234/Ab.{n}", "mid": f"NIHMS{n}"} for n in range(1, 501)
]


@pytest.fixture
def http(tmp_path) -> Iterator[Http]:
    with Http(rates=Rates(tmp_path / "rates"), timeout_s=5.0, attempts=3, longest_wait_s=5.0) as client:
        yield client


@pytest.fixture
def serve(monkeypatch):
    contexts = []

    def start(service: IdConverter, *, at: str = NEW) -> Loopback:
        contexts.append(loopback(service))
        server = contexts[-1].__enter__()
        monkeypatch.setenv("MEDLOOM_IDCONV_URL", server.url + at)
        return server

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def test_ids_of_every_kind_become_pmcids_in_calls_of_one_kind_each(http, serve):
    server = serve(IdConverter(ARTICLES))
    asked = ["PMC7", "30000008", "10.1234/ab.9", "NIHMS10", "PMC11.2"]
    converted = convert(http, asked)
    assert converted.known["PMC7"] == Identifiers("PMC7", "30000007", "10.1234/Ab.7", "NIHMS7")
    assert [converted.known[one].pmcid for one in asked[:4]] == ["PMC7", "PMC8", "PMC9", "PMC10"]
    assert set(converted.refused) == {"PMC11.2"}
    assert sorted(one.query["idtype"] for one in server.seen) == ["doi", "mid", "pmcid", "pmid"]


def test_no_call_has_more_than_200_ids(http, serve):
    server = serve(IdConverter(ARTICLES))
    converted = convert(http, [a["doi"] for a in ARTICLES] * 2)
    assert len(converted.known) == 500
    assert [len(one.query["ids"].split(",")) for one in server.seen] == [200, 200, 100]


def test_the_old_address_leads_to_the_new_one(http, serve):
    server = serve(IdConverter(ARTICLES), at=OLD)
    assert convert(http, ["PMC7"]).known["PMC7"].pmid == "30000007"
    assert server.paths == [OLD, NEW]


def test_one_bad_id_costs_itself_and_not_its_call(http, serve):
    serve(IdConverter(ARTICLES, bad={"PMC37"}))
    converted = convert(http, [a["pmcid"] for a in ARTICLES[:200]])
    assert len(converted.known) == 199
    assert {one: refused.reason for one, refused in converted.refused.items()} == {"PMC37": "http.status"}


def test_unknown_and_unanswered_ids_are_told_by_name_whatever_their_place(http, serve):
    serve(IdConverter(ARTICLES, silent={"PMC3"}))
    converted = convert(http, ["PMC2", "PMC3", "PMC900", "PMC4"])
    assert {one: found.pmcid for one, found in converted.known.items()} == {"PMC2": "PMC2", "PMC4": "PMC4"}
    assert {one: refused.reason for one, refused in converted.refused.items()} == {
        "PMC3": "article.not_given", "PMC900": "article.not_found"
    }  # fmt: skip
    assert "not found in PMC" in converted.refused["PMC900"].detail


def test_a_doi_with_a_comma_is_asked_for_alone(http, serve):
    odd = "10.1016/0022-2836(81)90087-5,x"
    server = serve(IdConverter([*ARTICLES, {"pmcid": "PMC77777", "doi": odd}]))
    converted = convert(http, [odd, "10.1234/ab.9"])
    assert converted.known[odd].pmcid == "PMC77777"
    assert converted.known["10.1234/ab.9"].pmcid == "PMC9"
    assert len(server.seen) == 2


def test_a_service_that_refuses_everything_is_told_as_such(http, serve):
    serve(IdConverter(ARTICLES, bad={a["pmcid"] for a in ARTICLES}))
    with pytest.raises(SourceError, match="the ID converter refuses each of 10 ids"):
        convert(http, [a["pmcid"] for a in ARTICLES[:50]])


def test_faults_of_the_network_are_met_with_another_try(http, serve):
    server = serve(IdConverter(ARTICLES))
    server.faults += [too_many("0"), truncated]
    assert convert(http, ["PMC7"]).known["PMC7"].pmid == "30000007"
    server.faults += [Reply(200, b"<html>maintenance</html>"), Reply(200, b"[]")]
    assert convert(http, ["PMC7"]).known["PMC7"].pmid == "30000007"
    server.faults += [Reply(502)] * 3
    with pytest.raises(RetryLater):
        convert(http, ["PMC7"])


def test_an_error_inside_200_halves_as_a_400_does(http, serve):
    server = serve(IdConverter(ARTICLES))
    server.faults.append(Reply(200, b'{"status":"error","errors":[{"code":"invalid_ids"}]}'))
    assert len(convert(http, ["PMC7", "PMC8"]).known) == 2
    assert len(server.seen) == 3


def test_the_key_of_another_service_is_not_sent(http, serve, monkeypatch):
    monkeypatch.setenv("MEDLOOM_NCBI_KEY", "k" * 36)
    monkeypatch.setenv("MEDLOOM_EMAIL", "someone@example.org")
    server = serve(IdConverter(ARTICLES))
    convert(http, ["PMC7"])
    assert server.seen[0].query["tool"] == "medloom"
    assert server.seen[0].query["email"] == "someone@example.org"
    assert "api_key" not in server.seen[0].query


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("PMC1", "pmcid"), ("pmc12.3", "pmcid"), ("38867410", "pmid"), ("10.1002/npr2.12456", "doi"),
        ("NIHMS12345", "mid"), ("nihms-12345", "mid"), ("EMS12345", "mid"),
    ],
)  # fmt: skip
def test_kinds_of_ids_are_told_apart(text, kind):
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    "text", ["", "PMC", "PMC0", "0", "1234567890", "10.1/x", "10.1002/a b", "PMC1\n", "a", "PMC1&ids=2"]
)
def test_what_is_no_id_is_told_before_it_is_asked(text):
    with pytest.raises(ConfigError, match="is no PMCID"):
        kind_of(text)
