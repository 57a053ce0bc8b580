"""The one way to ask a service, against a real server on loopback that fails as services do."""

import logging
import pickle
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

import pytest

from medloom.connectors.addresses import redirected, without_secrets
from medloom.connectors.http import Again, Answer, Http
from medloom.connectors.rates import Rates
from medloom.schemas.errors import Refused, RetryLater
from tests.services.loopback import (
    RESET,
    SLOW_DOWN,
    Loopback,
    Reply,
    damaged,
    gzipped,
    header,
    in_seconds,
    loopback,
    md5_hex,
    redirect,
    reset_halfway,
    slow,
    too_many,
    truncated,
)

BODY = bytes(range(256)) * 500


@pytest.fixture
def server():
    with loopback(objects={"a.bin": BODY}) as serving:
        yield serving


@pytest.fixture
def http(tmp_path):
    with Http(rates=Rates(tmp_path / "rates"), attempts=4, timeout_s=5.0, longest_wait_s=2.0) as client:
        client.first_wait_s = 0.02
        yield client


def refusal_of(server: Loopback, http: Http, path: str = "/a.bin", **how) -> Refused:
    with pytest.raises(Refused) as raised:
        http.get(server.url + path, **how)
    return raised.value


def test_an_answer_is_whole_and_says_when_and_whence_it_came(server, http):
    answer = http.get(f"{server.url}/a.bin", params={"x": 1}, md5=md5_hex(BODY).upper())
    assert (answer.status, answer.content) == (200, BODY)
    assert answer.url == f"{server.url}/a.bin?x=1"
    assert answer.headers["etag"] == f'"{md5_hex(BODY)}"'
    at = time.mktime(time.strptime(answer.retrieved_at, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert abs(at - time.time()) < 5
    assert server.seen[0].headers["user-agent"].startswith("medloom/")
    assert (http.requests, http.received_bytes) == (1, len(BODY))


@pytest.mark.parametrize(
    "fault",
    [
        Reply(408), Reply(425), too_many("0"), Reply(500), Reply(502), SLOW_DOWN, Reply(504), Reply(599), RESET,
        truncated, damaged, reset_halfway,
        lambda r: replace(r, chunked=True, cut=len(r.body) // 2),
    ],
)  # fmt: skip
def test_every_transient_fault_is_asked_again(server, http, fault, tmp_path):
    server.faults = [fault, fault]
    assert http.get(f"{server.url}/a.bin", md5=md5_hex(BODY)).content == BODY
    server.faults = [fault]
    http.download(f"{server.url}/a.bin", to=tmp_path / "a", max_bytes=len(BODY), md5=md5_hex(BODY), size=len(BODY))
    assert (tmp_path / "a").read_bytes() == BODY
    assert http.requests == len(server.seen) == 5


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "http.forbidden"), (403, "http.forbidden"), (404, "http.not_found"), (410, "http.gone"),
     (451, "http.forbidden"), (400, "http.status"), (414, "http.status"), (204, "http.status"), (304, "http.status"),
     (206, "http.status"), (300, "http.status")],
)  # fmt: skip
def test_what_is_permanent_is_refused_at_once(server, http, status, reason):
    server.faults = [Reply(status, b"" if status in (204, 304) else b"secret words")]
    refused = refusal_of(server, http)
    assert refused.reason == reason
    assert str(status) in refused.detail
    assert "secret words" not in str(refused)
    assert len(server.seen) == 1


def test_a_server_that_stays_unavailable_is_worth_another_run(server, http):
    server.faults = [SLOW_DOWN] * 9
    with pytest.raises(RetryLater, match=r"127.0.0.1:\d+ keeps failing: status 503, attempt 4 of 4; run the same"):
        http.get(f"{server.url}/a.bin")
    assert len(server.seen) == 4


def test_a_connection_that_nobody_takes_is_worth_another_run(http):
    with loopback() as gone:
        pass
    with pytest.raises(RetryLater, match="ConnectError, attempt 4 of 4"):
        http.get(f"{gone.url}/a.bin")


@pytest.mark.parametrize(("fault", "reason"), [(damaged, "http.md5"), (truncated, "http.truncated")])
def test_bytes_that_stay_wrong_are_refused_and_leave_no_file(server, http, tmp_path, fault, reason):
    server.faults = [fault] * 8
    assert refusal_of(server, http, md5=md5_hex(BODY)).reason == reason
    with pytest.raises(Refused, match=reason):
        http.download(f"{server.url}/a.bin", to=tmp_path / "a", max_bytes=1 << 20, md5=md5_hex(BODY))
    assert len(server.seen) == 8
    assert not list(tmp_path.glob("a*"))


def test_a_download_of_another_size_than_announced_is_refused(server, http, tmp_path):
    for size in (len(BODY) - 1, len(BODY) + 1):
        with pytest.raises(Refused, match=r"http.truncated: .* has 128000 bytes where 12\d{4} were announced"):
            http.download(f"{server.url}/a.bin", to=tmp_path / "a", max_bytes=1 << 20, size=size)
    assert not list(tmp_path.glob("a*"))


def test_a_download_that_fails_leaves_what_was_there(server, http, tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    server.faults = [Reply(404)]
    with pytest.raises(Refused):
        http.download(f"{server.url}/a.bin", to=tmp_path / "a", max_bytes=1 << 20)
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_download_is_not_seen_under_its_name_before_it_is_whole(server, http, tmp_path):
    server.faults = [slow(0.05)]
    seen = []
    worker = threading.Thread(
        target=http.download, args=(f"{server.url}/a.bin",), kwargs={"to": tmp_path / "a", "max_bytes": 1 << 20}
    )
    worker.start()
    while worker.is_alive():
        if (tmp_path / "a").exists():
            seen.append((tmp_path / "a").stat().st_size)
        time.sleep(0.01)
    assert (tmp_path / "a").read_bytes() == BODY
    assert set(seen) <= {len(BODY)}
    assert not (tmp_path / "a.part").exists()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_cap_is_refused_announced_or_not(server, http, tmp_path, chunked):
    server.faults = [lambda r: replace(r, chunked=chunked)] * 3
    assert refusal_of(server, http, max_bytes=len(BODY) - 1).reason == "http.large"
    with pytest.raises(Refused, match=r"http.large"):
        http.download(f"{server.url}/a.bin", to=tmp_path / "a", max_bytes=len(BODY) - 1)
    assert http.get(f"{server.url}/a.bin", max_bytes=len(BODY)).content == BODY
    assert len(server.seen) == 3


def test_retry_after_in_seconds_and_as_a_date_is_waited_out_by_all_who_share_the_rate(server, http, tmp_path):
    other = Http(rates=Rates(tmp_path / "rates"), longest_wait_s=2.0)
    for retry_after in (lambda: "1", lambda: in_seconds(2)):  # a date has no fractions: 1 to 2 s
        server.faults, server.seen = [too_many(retry_after())], []
        asking = threading.Thread(target=http.get, args=(f"{server.url}/a.bin",))
        asking.start()
        while not server.seen:
            time.sleep(0.005)
        time.sleep(0.1)  # for the answer to be read
        other.get(f"{server.url}/a.bin")
        asking.join()
        first, *later = [asked.at for asked in server.seen]
        assert len(later) == 2
        assert min(later) - first >= 0.95
    other.close()


def test_a_server_that_asks_for_more_patience_than_there_is_ends_the_run_for_all(server, http, tmp_path):
    server.faults = [too_many("600")]
    with pytest.raises(RetryLater, match=r"status 429, which asks to wait 600 s, attempt 1 of 4"):
        http.get(f"{server.url}/a.bin")
    with Http(rates=Rates(tmp_path / "rates")) as other, pytest.raises(RetryLater, match=r"another (599|600) s"):
        other.get(f"{server.url}/a.bin")
    assert len(server.seen) == 1


def test_back_off_grows_with_full_jitter(server, tmp_path):
    waits: list[list[float]] = [[], [], []]
    with Http(rates=Rates(tmp_path / "rates"), attempts=4) as http:
        http.first_wait_s = 0.04
        for _ in range(12):
            server.seen, server.faults = [], [Reply(500)] * 3
            http.get(f"{server.url}/a.bin")
            for number, (before, after) in enumerate(zip(server.seen, server.seen[1:], strict=False)):
                waits[number].append(after.at - before.at)
    for number, found in enumerate(waits):
        ceiling = 0.04 * 2**number
        assert median(found) <= ceiling + 0.05
        assert min(found) < ceiling / 2 + 0.01  # a wait that only grows would never be short
    assert max(waits[2]) > 0.05


def test_an_error_inside_a_200_is_asked_again_as_long_as_the_check_says(server, http):
    def check(answer: Answer) -> None:
        if answer.content.startswith(b'{"error"'):
            raise Again("an error inside 200", 0.1)

    server.faults = [Reply(200, b'{"error":"backend"}')] * 2
    assert http.get(f"{server.url}/a.bin", check=check).content == BODY
    server.faults = [Reply(200, b'{"error":"backend"}')] * 4
    with pytest.raises(RetryLater, match="keeps failing: an error inside 200, attempt 4 of 4"):
        http.get(f"{server.url}/a.bin", check=check)


def test_a_check_may_refuse_for_good(server, http):
    def check(answer: Answer) -> None:
        raise Refused("service.unknown", "there is no such thing")

    assert refusal_of(server, http, check=check).reason == "service.unknown"
    assert len(server.seen) == 1


def test_what_is_unchanged_is_not_sent_again(server, http, tmp_path):
    etag = http.get(f"{server.url}/a.bin").headers["etag"]
    answer = http.get(f"{server.url}/a.bin", headers={"If-None-Match": etag}, check=lambda a: 1 / 0)
    assert (answer.status, answer.content) == (304, b"")
    (tmp_path / "a").write_bytes(b"kept")
    answer = http.download(f"{server.url}/a.bin", to=tmp_path / "a", max_bytes=1 << 20, headers={"If-None-Match": etag})
    assert (answer.status, (tmp_path / "a").read_bytes()) == (304, b"kept")
    assert http.get(f"{server.url}/a.bin", headers={"If-None-Match": '"other"'}).status == 200


def test_a_range_gives_a_part(server, http):
    answer = http.get(f"{server.url}/a.bin", headers={"Range": "bytes=10-19"})
    assert (answer.status, answer.content) == (206, BODY[10:20])


def test_a_zipped_body_is_unzipped_and_must_be_whole(server, http):
    server.faults = [gzipped]
    assert http.get(f"{server.url}/a.bin").content == BODY
    assert http.received_bytes < len(BODY) / 10
    short = Reply(200, zlib.compress(BODY, wbits=31)[:-20], {"Content-Encoding": "gzip"})
    server.faults = [short]
    assert http.get(f"{server.url}/a.bin").content == BODY
    server.faults = [short] * 4
    assert refusal_of(server, http).reason == "http.truncated"


def test_a_zip_bomb_in_the_transfer_encoding_is_stopped_at_the_cap(server, http):
    bomb = Reply(200, zlib.compress(bytes(200 << 20), wbits=31), {"Content-Encoding": "gzip"})
    server.faults = [bomb]
    assert refusal_of(server, http, max_bytes=1 << 20).reason == "http.large"
    server.faults = [Reply(200, b"x", {"Content-Encoding": "br"})]
    assert refusal_of(server, http).reason == "http.encoding"


def test_a_body_that_trickles_is_given_up(tmp_path):
    with (
        loopback(lambda asked: Reply(200, bytes(100), slow_s=0.2)) as server,
        Http(rates=Rates(tmp_path), attempts=1, timeout_s=0.6) as http,
        pytest.raises(RetryLater, match="a body at less than 1024 bytes/s"),
    ):
        http.get(server.url)


def test_a_server_that_says_nothing_is_given_up(tmp_path):
    with (
        loopback(lambda asked: Reply(200, b"x" * 10, slow_s=1.0)) as server,
        Http(rates=Rates(tmp_path), attempts=1, timeout_s=0.2) as http,
        pytest.raises(RetryLater, match="ReadTimeout, attempt 1 of 1"),
    ):
        http.get(server.url)


def test_redirects_stay_on_the_host_and_end(server, http):
    server.objects["b.bin"] = b"b"
    server.faults = [redirect("/b.bin", 302)]
    answer = http.get(f"{server.url}/a.bin")
    assert (answer.content, answer.url) == (b"b", f"{server.url}/b.bin")
    server.faults = [redirect(f"{server.url}/b.bin", status) for status in (301, 303, 307, 308, 302)]
    assert http.get(f"{server.url}/a.bin").content == b"b"
    server.faults = [redirect("/b.bin") for _ in range(6)]
    assert refusal_of(server, http).reason == "http.redirect"


@pytest.mark.parametrize(
    "to",
    ["http://169.254.169.254/latest/meta-data", "http://localhost:1/x", "http://example.org/", "file:///etc/passwd",
     "ftp://127.0.0.1/x", "//10.0.0.1/x", "http://user:word@127.0.0.1/x", "gopher:x"],
)  # fmt: skip
def test_a_redirect_to_anybody_else_is_refused(server, http, to):
    server.faults = [redirect(to)]
    assert refusal_of(server, http).reason == "http.redirect"
    assert len(server.seen) == 1


def test_a_redirect_may_lead_to_another_known_service_but_not_out_of_https(server, http, monkeypatch):
    old = "https://www.ncbi.nlm.nih.gov/pmc/utils/idconv/v1.0/?ids=PMC1"
    new = "https://pmc.ncbi.nlm.nih.gov/tools/idconv/api/v1/articles/?ids=PMC1"
    assert redirected(old, new) == new
    assert redirected("http://www.ncbi.nlm.nih.gov/", new) == new
    for bad in ("http://pmc.ncbi.nlm.nih.gov/x", "http://www.ncbi.nlm.nih.gov/x", "https://evil.ncbi.nlm.nih.gov.x/"):
        with pytest.raises(Refused, match=r"http.redirect"):
            redirected(old, bad)
    bucket = "https://pmc-oa-opendata.s3.amazonaws.com/x"
    regional = bucket.replace("s3.", "s3.us-east-1.")
    assert redirected(bucket, regional) == regional
    for bad in ("https://other.s3.us-east-1.amazonaws.com/x", "https://pmc-oa-opendata.s3.x.amazonaws.com.evil.org/x"):
        with pytest.raises(Refused, match=r"http.redirect"):
            redirected(bucket, bad)
    mirror = server.url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("MEDLOOM_IDCONV_URL", mirror)
    server.objects["b.bin"] = b"b"
    server.faults = [redirect(f"{mirror}/b.bin")]
    assert http.get(f"{server.url}/a.bin").content == b"b"


def test_no_key_and_no_address_of_a_person_is_told_logged_or_kept(server, http, caplog):
    caplog.set_level(logging.DEBUG)
    asked = {"db": "pmc", "api_key": "k3y", "email": "me@example.org", "tool": "medloom"}
    server.objects["fetch"] = b"x"
    answer = http.get(f"{server.url}/fetch", params=asked)
    assert answer.url == f"{server.url}/fetch?db=pmc&tool=medloom"
    assert server.seen[0].query == asked
    said = [str(refusal_of(server, http, "/gone", params=asked))]
    server.faults = [Reply(500)] * 4
    with pytest.raises(RetryLater) as raised:
        http.get(f"{server.url}/fetch", params=asked)
    server.faults = [redirect("http://example.org/?api_key=k3y")]
    said += [str(raised.value), str(refusal_of(server, http, "/fetch", params=asked)), caplog.text]
    for text in said:
        assert text
        assert "k3y" not in text
        assert "me@" not in text
        assert "me%40" not in text
    assert without_secrets("https://x/?API_KEY=a&email=b") == "https://x/"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "x/y", "http://", "http://a:b@x/", "http://[::"])
def test_what_is_no_web_address_is_refused(http, url):
    with pytest.raises(Refused, match=r"http.url"):
        http.get(url)
    assert http.requests == 0


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(server, http, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert http.get(f"{server.url}/a.bin").content == BODY


def test_cookies_are_not_kept(server, http):
    server.faults = [lambda r: header(r, Set_Cookie="session=1")]
    http.get(f"{server.url}/a.bin")
    http.get(f"{server.url}/a.bin")
    assert "cookie" not in server.seen[1].headers


def test_threads_share_a_client_and_a_copy_goes_to_another_process(server, http):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.get(f"{server.url}/a.bin").content, range(8)))
    assert answers == [BODY] * 8
    assert http.requests == 8
    with pickle.loads(pickle.dumps(http)) as copy:
        assert copy.get(f"{server.url}/a.bin").content == BODY
        assert copy.requests == 1


def test_a_closed_client_opens_again(server, http):
    http.get(f"{server.url}/a.bin")
    http.close()
    assert http.get(f"{server.url}/a.bin").content == BODY


def test_the_loopback_server_answers_as_an_object_store():
    """The imitation itself: what other tests lean on."""
    with loopback(objects={"x": b"0123456789"}) as server:

        def ask(**headers: str) -> tuple[int, bytes]:
            request = urllib.request.Request(f"{server.url}/x", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=5) as reply:
                    return reply.status, reply.read()
            except urllib.error.HTTPError as fault:
                return fault.code, fault.read()

        assert ask() == (200, b"0123456789")
        assert ask(Range="bytes=2-4") == (206, b"234")
        assert ask(Range="bytes=-3") == (206, b"789")
        assert ask(Range="bytes=99-")[0] == 416
        assert ask(**{"If-None-Match": f'"{md5_hex(b"0123456789")}"'}) == (304, b"")
        assert [asked.path for asked in server.seen] == ["/x"] * 5
