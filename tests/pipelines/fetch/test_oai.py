from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from lxml import etree
from tests.services.articles import DEFAULT_NAMESPACE, Article, deep
from tests.services.fetches import held, kept, killed, reasons, run
from tests.services.loopback import Loopback, Reply, loopback
from tests.services.oai import Kept, Oai
from tests.services.oai import kept as record

from medloom.pipelines.fetch import oai as fetch_oai
from medloom.schemas.errors import ConfigError, RetryLater
from medloom.schemas.raw import RawZone

DAY = date(2026, 9, 1)
SPAN = {"since": "2026-09-01", "until": "2026-09-04"}


def records(n: int = 48) -> list[Kept]:
    """Twelve records a day, over four days."""
    return [record(Article(100 + i), DAY + timedelta(days=i // 12)) for i in range(n)]


@pytest.fixture
def serve(monkeypatch):
    contexts = []

    def start(service: Oai) -> Loopback:
        contexts.append(loopback(service))
        server = contexts[-1].__enter__()
        monkeypatch.setenv("MEDLOOM_OAI_URL", server.url)
        return server

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def verbs(server: Loopback) -> list[str]:
    return [asked.query["verb"] for asked in server.seen]


def articles(to) -> dict[str, dict]:
    """Rows but for the marks of days, which say how far a run came."""
    return held(to, but=lambda row: row["role"] == "record")


def test_what_changed_on_the_days_asked_for_is_kept(serve, tmp_path):
    server = serve(Oai([*records(), record(Article(900), date(2026, 9, 5))]))
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.asked, done.kept) == (48, 48)
    assert kept(tmp_path / "raw") == {f"PMC{100 + i}.1/PMC{100 + i}.1.xml" for i in range(48)}
    assert verbs(server) == ["ListRecords"] * 8
    zone = RawZone(str(tmp_path / "raw"))
    row = held(tmp_path / "raw")["PMC107.1/PMC107.1.xml"]
    assert etree.fromstring(zone.read(row["digest"])).tag == f"{{{DEFAULT_NAMESPACE}}}article"
    assert row["etag"] == "oai:2026-09-01"


def test_days_that_are_over_and_whole_are_not_listed_again(serve, tmp_path):
    server = serve(Oai(records()))
    first = run("oai", tmp_path / "raw", **SPAN)
    server.seen.clear()
    again = run("oai", tmp_path / "raw", **SPAN)
    assert (again.asked, again.kept, again.known, again.requests) == (first.asked, 0, 48, 0)
    later = run("oai", tmp_path / "raw", since="2026-08-30", until="2026-09-05")
    assert (later.asked, later.known) == (48, 48)
    assert verbs(server) == ["ListRecords"] * 3  # the days before and after


def test_a_day_that_is_not_over_is_listed_by_headers_and_only_the_new_is_asked_for(serve, tmp_path):
    today = datetime.now(UTC).date()
    service = Oai([record(Article(n), today) for n in range(1, 16)])
    server = serve(service)
    run("oai", tmp_path / "raw", since=today)
    service.records.append(record(Article(50), today))
    server.seen.clear()
    done = run("oai", tmp_path / "raw", since=today)
    assert (done.kept, done.known) == (1, 15)
    assert verbs(server) == ["ListIdentifiers", "ListIdentifiers", "GetRecord"]
    assert server.seen[-1].query["identifier"].endswith(":50")


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_a_killed_fetch_run_again_equals_an_unbroken_one(serve, tmp_path, at):
    server = serve(Oai(records()))
    unbroken = run("oai", tmp_path / "unbroken", **SPAN)
    killed("oai", tmp_path / "killed", server, at, **SPAN)
    had = kept(tmp_path / "killed") if at else set()
    server.seen.clear()
    resumed = run("oai", tmp_path / "killed", **SPAN)
    assert held(tmp_path / "killed") == held(tmp_path / "unbroken")
    assert resumed.asked == unbroken.asked
    assert resumed.known == len(had) == at // 2 * 12


@pytest.mark.parametrize("batch", [10, 100])
def test_a_run_broken_off_within_a_day_asks_for_nothing_that_was_given(serve, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(fetch_oai, "BATCH", batch)
    service = Oai([record(Article(n), DAY) for n in range(1, 46)])
    server = serve(service)
    server.faults_of["/"] = [lambda reply: reply] * 3 + [Reply(503)] * 2
    with pytest.raises(RetryLater):
        run("oai", tmp_path / "raw", **SPAN)
    assert len(kept(tmp_path / "raw")) == 30
    server.seen.clear()
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.kept, done.known) == (15, 30)
    got = [asked.query["identifier"] for asked in server.seen if asked.query["verb"] == "GetRecord"]
    assert len(got) == len(set(got)) == 15
    fresh = run("oai", tmp_path / "fresh", **SPAN)
    assert fresh.asked == done.asked
    assert held(tmp_path / "raw") == held(tmp_path / "fresh")


@pytest.mark.parametrize("expires_after", [2, 3])
def test_expired_tokens_neither_lose_nor_double(serve, tmp_path, expires_after):
    serve(Oai(records(), expires_after=expires_after))
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.asked, done.kept) == (48, 48)
    serve(Oai(records()))
    run("oai", tmp_path / "straight", **SPAN)
    assert held(tmp_path / "raw") == held(tmp_path / "straight")


def test_deleted_records_withdraw_what_is_kept_of_them_media_too(serve, tmp_path):
    service = Oai(records())
    serve(service)
    run("oai", tmp_path / "raw", **SPAN)
    zone = RawZone(str(tmp_path / "raw"))
    digest, size = zone.put(b"jpeg")
    medium = {"article": "PMC105.1", "role": "media", "digest": digest, "size": size, "outcome": "kept"}
    zone.append([medium | {"name": "PMC105.1/g1.jpg", "retrieved_at": "2026-09-01T00:00:00Z"}])
    today = datetime.now(UTC).date()
    service.records[5] = replace(service.records[5], day=today, content=None)
    service.records.append(Kept(999, today, None))
    done = run("oai", tmp_path / "raw", since=today)
    assert (done.asked, done.withdrawn) == (0, 2)
    assert reasons(tmp_path / "raw") == {"PMC105.1/PMC105.1.xml": "oai.deleted", "PMC105.1/g1.jpg": "oai.deleted"}
    assert {held(tmp_path / "raw")[name]["outcome"] for name in reasons(tmp_path / "raw")} == {"withdrawn"}
    again = run("oai", tmp_path / "raw", since=today)
    assert (again.asked, again.withdrawn) == (0, 0)


def test_what_another_service_gave_after_a_deletion_stays(serve, tmp_path):
    serve(Oai([Kept(5, DAY, None)]))
    zone = RawZone.at(str(tmp_path / "raw"))
    digest, size = zone.put(b"<article/>")
    row = {"name": "PMC5.1/PMC5.1.xml", "article": "PMC5.1", "role": "article", "digest": digest, "size": size}
    zone.append([row | {"outcome": "kept", "retrieved_at": "2026-09-02T00:00:00Z"}])
    assert run("oai", tmp_path / "raw", **SPAN).withdrawn == 0
    zone.append([row | {"outcome": "kept", "retrieved_at": "2026-08-30T00:00:00Z"}])
    assert run("oai", tmp_path / "other", **SPAN).withdrawn == 0


def test_a_changed_record_is_asked_for_and_a_new_version_supersedes_the_old(serve, tmp_path):
    service = Oai([record(Article(1), DAY), record(Article(2), DAY), record(Article(3), DAY)])
    serve(service)
    run("oai", tmp_path / "raw", **SPAN)
    after = date(2026, 9, 10)
    service.records = [
        record(Article(1, version=2), after), record(Article(2, title="Mended"), after),
        record(Article(3, retracted=True), after),
    ]  # fmt: skip
    done = run("oai", tmp_path / "raw", since=after, until=after)
    assert (done.asked, done.kept, done.refused, done.withdrawn) == (3, 2, 1, 2)
    assert kept(tmp_path / "raw") == {"PMC1.2/PMC1.2.xml", "PMC2.1/PMC2.1.xml"}
    rows = held(tmp_path / "raw")
    assert (rows["PMC1.1/PMC1.1.xml"]["outcome"], rows["PMC1.1/PMC1.1.xml"]["reason"]) == ("superseded", "pmc.version")
    assert rows["PMC3.1/PMC3.1.xml"]["outcome"] == "withdrawn"
    assert rows["PMC3.1/PMC3.1.xml"]["reason"] == "article.retracted"
    assert b"Mended" in RawZone(str(tmp_path / "raw")).read(rows["PMC2.1/PMC2.1.xml"]["digest"])


def test_an_older_version_than_the_one_kept_changes_nothing(serve, tmp_path):
    service = Oai([record(Article(1, version=2), DAY)])
    serve(service)
    run("oai", tmp_path / "raw", **SPAN)
    after = date(2026, 9, 10)
    service.records = [record(Article(1, version=1), after)]
    done = run("oai", tmp_path / "raw", since=after, until=after)
    assert (done.asked, done.known, done.withdrawn) == (1, 1, 0)
    assert kept(tmp_path / "raw") == {"PMC1.2/PMC1.2.xml"}


def test_a_hostile_record_costs_itself_and_not_its_day(serve, tmp_path):
    service = Oai(records())
    service.records[17] = replace(service.records[17], content=deep(117))
    service.records[18] = replace(service.records[18], content=b"<article><front></article>")
    server = serve(service)
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.asked, done.kept, done.refused) == (48, 46, 2)
    assert reasons(tmp_path / "raw") == {"PMC117/PMC117.xml": "jats.deep", "PMC118/PMC118.xml": "jats.malformed"}
    server.seen.clear()
    assert run("oai", tmp_path / "raw", **SPAN).refused == 2
    assert not server.seen


def test_records_without_a_number_are_refused_each_under_a_name_of_its_own(serve, tmp_path):
    service = Oai(records(3))
    server = serve(service)
    spoil = lambda reply: replace(  # noqa: E731
        reply, body=reply.body.replace(b":100</identifier>", b":one</identifier>").replace(b":101</id", b":t.w/o</id")
    )
    server.faults.append(spoil)
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.kept, done.refused) == (1, 2)
    assert set(reasons(tmp_path / "raw").values()) == {"jats.no_article"}
    assert len(reasons(tmp_path / "raw")) == 2
    assert run("oai", tmp_path / "raw", **SPAN).refused == 2


def test_gates_hold_for_records_and_other_tiers_let_them_pass_later(serve, tmp_path):
    server = serve(Oai([
        record(Article(1, licence="CC BY-ND"), DAY), record(Article(2, front_only=True), DAY),
        record(Article(3, retracted=True), DAY), record(Article(4), DAY),
    ]))  # fmt: skip
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.kept, done.refused) == (1, 3)
    server.seen.clear()
    done = run("oai", tmp_path / "raw", tiers="open,nd", **SPAN)
    assert (done.asked, done.kept, done.known, done.refused) == (4, 1, 1, 2)
    assert not server.seen


def test_what_another_service_gave_since_is_not_asked_for(serve, tmp_path):
    serve(Oai(records(12)))
    zone = RawZone.at(str(tmp_path / "raw"))
    digest, size = zone.put(Article(103).xml())
    row = {"name": "PMC103.1/PMC103.1.xml", "article": "PMC103.1", "role": "article", "digest": digest, "size": size}
    zone.append([row | {"outcome": "kept", "retrieved_at": "2026-09-20T00:00:00Z", "etag": "d41d"}])
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.kept, done.known) == (11, 1)
    assert held(tmp_path / "raw")["PMC103.1/PMC103.1.xml"]["digest"] == digest


def test_a_limit_is_kept_to_and_the_next_run_goes_on(serve, tmp_path):
    serve(Oai(records()))
    assert run("oai", tmp_path / "raw", limit=17, **SPAN).kept == 17
    done = run("oai", tmp_path / "raw", limit=17, **SPAN)
    assert (done.kept, done.known) == (17, 17)
    done = run("oai", tmp_path / "raw", **SPAN)
    assert (done.kept, done.known) == (14, 34)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs --set since"),
        ({"since": "2026-09-04", "until": "2026-09-01"}, "is before since"),
        ({"since": "2999-01-01"}, "a day to come"),
        ({"since": "2026-09-04", "set_name": " "}, "a set must be named"),
        ({"since": "2026-09-04", "tiers": "all"}, "names 'all'"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_asked(serve, tmp_path, settings, said):
    server = serve(Oai(records()))
    with pytest.raises(ConfigError, match=said):
        run("oai", tmp_path / "raw", **settings)
    assert not server.seen
