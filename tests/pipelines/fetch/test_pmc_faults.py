"""Fetching from the PMC Cloud Service when it, or the run, fails on the way."""

import hashlib
import json
import signal

import pytest
from tests.pipelines.fetch.zones import MANY, kept, must_be_what_the_service_gave, outcomes, rows, stopped_after
from tests.services.loopback import SLOW_DOWN, damaged, reset_halfway, s3_error, slow, truncated
from tests.services.pmc import Figure, plain

from medloom.schemas.errors import RetryLater, SourceError


def test_faults_on_the_way_are_met_and_leave_no_other_bytes(service, fetch, tmp_path):
    service.add(*MANY)
    faults = ([SLOW_DOWN, truncated], [damaged], [truncated, damaged], [reset_halfway], [damaged, SLOW_DOWN])
    paths = sorted(f"/pmc-oa-opendata/{key}" for key in service.objects)
    service.server.faults_of = {path: list(faults[n % 5]) for n, path in enumerate(paths)}
    service.server.faults_of["/pmc-oa-opendata/"] = [SLOW_DOWN, truncated]
    done = fetch(*MANY)
    assert (done.refused, done.later) == (0, 0)
    assert done.requests > done.asked + len(MANY)
    must_be_what_the_service_gave(tmp_path / "raw", service)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part") or p.name.startswith(".partial-")]


@pytest.mark.parametrize(("fault", "reason"), [(damaged, "http.md5"), (truncated, "http.truncated")])
def test_what_is_damaged_every_time_is_refused_until_asked_for_again(service, fetch, tmp_path, fault, reason):
    article = plain(41)
    service.add(article)
    bad = f"{article.folder}/{article.figures[0].files[0]}"
    service.server.faults_of[f"/pmc-oa-opendata/{bad}"] = [fault] * 3
    done = fetch(article)
    assert (dict(done.reasons), done.kept) == ({reason: 1}, 3)
    assert outcomes(tmp_path / "raw")[bad] == f"refused {reason}"
    assert fetch(article).requests == 0
    assert fetch(article, refresh="on").kept == 1
    must_be_what_the_service_gave(tmp_path / "raw", service)


def test_what_vanished_between_record_and_object_is_refused(service, fetch, tmp_path):
    article = plain(42)
    service.add(article)
    del service.objects[article.xml_key]
    assert dict(fetch(article).reasons) == {"http.not_found": 1}


def test_an_article_that_is_no_xml_is_refused_and_the_others_kept(service, fetch, tmp_path):
    broken, whole = plain(43), plain(44)
    service.add(whole)
    service.add(broken)
    html = b"<html><body>gone<br></body></html>"
    service.objects[broken.xml_key] = html
    record = json.loads(service.objects[broken.record_key])
    record["xml_url"] = f"s3://pmc-oa-opendata/{broken.xml_key}?md5={hashlib.md5(html).hexdigest()}"
    service.objects[broken.record_key] = json.dumps(record).encode()
    done = fetch(broken, whole)
    assert dict(done.reasons) == {"jats.malformed": 1}
    assert whole.xml_key in kept(tmp_path / "raw")


def test_a_transient_fault_puts_one_article_off_and_keeps_the_others(service, fetch, tmp_path):
    service.add(*MANY)
    bad = f"{MANY[4].folder}/{MANY[4].figures[1].files[0]}"
    service.server.faults_of[f"/pmc-oa-opendata/{bad}"] = [SLOW_DOWN] * 3
    done = fetch(*MANY)
    assert (done.later, done.refused) == (1, 0)
    assert "keeps failing" in done.why_later
    assert MANY[4].xml_key not in kept(tmp_path / "raw")
    service.server.seen.clear()
    again = fetch(*MANY)
    assert again.later == 0
    assert again.known == done.kept
    assert len([name for name in service.asked if not name.startswith("list")]) == again.kept
    assert f"{MANY[4].folder}/{MANY[4].figures[0].files[0]}" not in service.asked
    whole = tmp_path / "whole"
    fetch(*MANY, to=whole)
    assert kept(tmp_path / "raw") == kept(whole)


def test_a_service_that_is_down_ends_the_run(service, fetch, tmp_path):
    many = [plain(700 + n) for n in range(40)]
    service.add(*many)
    service.server.answer = lambda _: SLOW_DOWN
    with pytest.raises(RetryLater, match=r"127\.0\.0\.1:.* keeps failing: status 503"):
        fetch(*many, workers="4")
    assert len(service.server.seen) < 3 * len(many)


def test_a_bucket_that_may_not_be_listed_is_the_users_mistake(service, fetch):
    service.server.answer = lambda _: s3_error(403, "AccessDenied")
    with pytest.raises(SourceError, match="gives no listing"):
        fetch(plain(1))
    service.server.answer = service.answer
    service.add(plain(99, figures=(Figure("x", ("x.jpg", "x.png")),)))
    service.server.faults_of["/pmc-oa-opendata/"] = [lambda reply: reply, s3_error(403, "AccessDenied")]
    with pytest.raises(SourceError, match="gives no listing"):
        fetch(plain(99))


@pytest.mark.slow
def test_ctrl_c_enters_what_was_finished_and_the_next_run_goes_on(service, fetch, tmp_path, monkeypatch):
    many = [plain(800 + n, n_figures=2) for n in range(40)]
    service.add(*many)
    monkeypatch.setenv("MEDLOOM_RATES", str(tmp_path / "rates"))
    service.server.faults = [slow(0.005)] * 2000
    ids = "ids=" + ",".join(a.pmcid for a in many)
    status, told = stopped_after(service, tmp_path / "raw", 150, "--set", ids, "--set", "workers=2", by=signal.SIGINT)
    assert status == 130
    assert told.splitlines()[-1].startswith("medloom: interrupted; run the same command again to go on")
    assert 10 <= len({row["article"] for row in rows(tmp_path / "raw").values()}) < len(many)
    service.server.faults.clear()
    assert fetch(*many).known > 0
    fetch(*many, to=tmp_path / "unbroken")
    assert kept(tmp_path / "raw") == kept(tmp_path / "unbroken")


@pytest.mark.slow
def test_a_killed_fetch_goes_on_and_equals_an_unbroken_one(service, fetch, tmp_path, monkeypatch):
    many = [plain(800 + n, n_figures=2) for n in range(130)]
    service.add(*many)
    monkeypatch.setenv("MEDLOOM_RATES", str(tmp_path / "rates"))
    service.server.faults = [slow(0.002)] * 2000
    ids = "ids=" + ",".join(a.pmcid for a in many)
    stopped_after(service, tmp_path / "raw", 580, "--set", ids, "--set", "workers=4")
    finished = {row["article"] for row in rows(tmp_path / "raw").values()}
    assert 100 <= len(finished) < len(many)  # a batch was entered, and not all
    service.server.faults.clear()
    service.server.seen.clear()
    done = fetch(*many)
    assert not [name for name in service.asked if name.partition("/")[0] in finished]
    assert done.known >= 400
    fetch(*many, to=tmp_path / "unbroken")
    assert kept(tmp_path / "raw") == kept(tmp_path / "unbroken")
    assert outcomes(tmp_path / "raw") == outcomes(tmp_path / "unbroken")
    must_be_what_the_service_gave(tmp_path / "raw", service)
