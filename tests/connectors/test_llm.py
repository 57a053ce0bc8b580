import email.utils
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medloom.connectors.llm import (
    ChatModel,
    Patience,
    Remembering,
    ResponseStore,
    checked_url,
    goes_to,
    model_digest,
    permitted,
)
from medloom.connectors.settings import child_environment
from medloom.schemas.ask import Answer, Request
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from tests.connectors.llm_servers import QUESTION_SCHEMA, completion, proxy, real_server

SECRET_WORDS = "Jane Quux of 7 Elm Street"
QUICK = Patience(attempts=4, timeout_s=60.0, longest_wait_s=3.0)
REQUEST = Request("Reply with JSON.", "Ask which organ is shown.", QUESTION_SCHEMA, max_tokens=48)


@pytest.fixture(scope="module")
def server():
    with real_server() as running:
        yield running


def test_a_real_server_answers_by_the_schema_and_repeatably(server):
    chat = ChatModel(server.url)
    assert chat.model == server.model
    assert chat.egress == "local"
    first, second = chat(REQUEST), chat(REQUEST)
    assert set(json.loads(first.text)) == {"question"}
    assert first == second
    assert not first.remembered
    assert 0 < first.answer_tokens <= 48
    assert first.prompt_tokens > 10


@pytest.mark.parametrize(
    "fault",
    [
        ("status", 500), ("status", 503), ("status", 408), ("status", 425), ("cut",), ("drop",),
        ("body", "<html>busy</html>"), ("body", '{"choices": []}'),
    ],
    ids=lambda fault: "-".join(str(f)[:12] for f in fault),
)  # fmt: skip
def test_a_passing_fault_is_met_by_another_attempt(server, fault):
    with proxy(server.url) as between:
        chat = ChatModel(between.url, model=server.model, patience=QUICK)
        between.faults = [fault, fault]
        assert set(json.loads(chat(REQUEST).text)) == {"question"}
        assert between.asked == 3


def test_a_hanging_server_is_left_after_the_time_out_and_asked_again(server):
    with proxy(server.url) as between:
        patience = Patience(attempts=2, timeout_s=30.0, longest_wait_s=1.0)
        chat = ChatModel(between.url, model=server.model, patience=patience)
        chat(REQUEST)
        hasty = ChatModel(between.url, model=server.model, patience=Patience(3, 1.0, 1.0))
        between.faults = [("hang", 3.0), ("hang", 3.0), ("hang", 3.0)]
        before = between.asked
        with pytest.raises(RetryLater, match="ReadTimeout"):
            hasty(REQUEST)
        assert between.asked - before == 3
        assert chat(REQUEST).text


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form):
    with proxy() as between:
        chat = ChatModel(between.url, model="m", patience=QUICK)
        header = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        between.faults = [("status", 429, {"Retry-After": header}), completion("fine")]
        assert chat(Request("", "x")).text == "fine"
        waited_s = between.seen[1][0] - between.seen[0][0]
        assert 0.9 <= waited_s <= 4


def test_a_server_that_asks_to_wait_long_is_not_asked_again():
    with proxy() as between:
        chat = ChatModel(between.url, model="m", patience=QUICK)
        between.faults = [("status", 429, {"Retry-After": "3600"})] * 4
        with pytest.raises(RetryLater, match="asks to wait 3600 s"):
            chat(Request("", "x"))
        assert between.asked == 1


def test_attempts_are_bounded():
    with proxy() as between:
        chat = ChatModel(between.url, model="m", patience=Patience(3, 5.0, 0.05))
        between.faults = [("status", 502)] * 9
        with pytest.raises(RetryLater, match="attempt 3 of 3"):
            chat(Request("", "x"))
        assert between.asked == 3


def test_a_server_that_is_not_there_is_worth_retrying():
    with proxy() as gone:
        url = gone.url
    with pytest.raises(RetryLater, match="ConnectError"):
        ChatModel(url, patience=Patience(2, 1.0, 0.05))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("half", finish="length"), "llm.truncated"),
        (completion("", finish="stop"), "llm.empty"),
        (completion(None, finish="content_filter"), "llm.filtered"),
        (completion(None, refusal="I would rather not"), "llm.declined"),
        (completion("no json"), "llm.schema"),
        (("status", 400, {}, json.dumps({"error": {"code": "context_length_exceeded"}})), "llm.request"),
        (("status", 422), "llm.request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_model_does_is_a_refusal_with_its_reason(reply, reason):
    with proxy() as between:
        chat = ChatModel(between.url, model="m", patience=QUICK)
        between.faults = [reply]
        with pytest.raises(Refused) as refused:
            chat(REQUEST)
        assert refused.value.reason == reason
        assert between.asked == 1


def test_real_refusals_of_the_server_are_refused(server):
    chat = ChatModel(server.url)
    with pytest.raises(Refused) as cut:
        chat(Request("", "Tell a long story.", max_tokens=3))
    assert cut.value.reason == "llm.truncated"
    with pytest.raises(Refused) as long:
        chat(Request("", "word " * 9000))
    assert long.value.reason == "llm.request"
    assert "exceed_context_size_error" in long.value.detail


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_the_users_to_mend_and_never_shown(status):
    with proxy() as between:
        chat = ChatModel(between.url, model="m", key="sk-secret", patience=QUICK)
        between.faults = [("status", status)]
        with pytest.raises(ConfigError, match="MEDLOOM_LLM_KEY") as raised:
            chat(Request("", "x"))
        assert "sk-secret" not in str(raised.value)
        assert between.asked == 1
        assert between.seen[0][2]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("status", [301, 302, 404])
def test_a_wrong_address_is_the_users_to_mend_and_a_redirect_is_not_followed(status):
    with proxy() as elsewhere, proxy() as between:
        chat = ChatModel(between.url, model="m", patience=QUICK)
        between.faults = [("status", status, {"Location": elsewhere.url + "/chat/completions"})]
        with pytest.raises(ConfigError, match="http://host:port/v1"):
            chat(Request("", "x"))
        assert elsewhere.seen == []


def test_prompts_and_keys_reach_no_log_and_no_error_text(caplog):
    caplog.set_level(logging.DEBUG)
    quoting = json.dumps({"error": {"message": SECRET_WORDS, "code": SECRET_WORDS, "type": SECRET_WORDS}})
    request = Request(SECRET_WORDS, SECRET_WORDS, QUESTION_SCHEMA)
    said = []
    with proxy() as between:
        chat = ChatModel(between.url, model="m", key="sk-secret", patience=Patience(2, 1.0, 0.05))
        faults = [[("status", s, {}, quoting)] * 2 for s in (400, 401, 404, 429, 500)]
        faults += [[("body", quoting)] * 2, [completion(SECRET_WORDS)], [completion(SECRET_WORDS, finish="length")]]
        for between.faults in faults:
            with pytest.raises((Refused, ConfigError, RetryLater)) as raised:
                chat(request)
            fault: BaseException | None = raised.value
            while fault is not None:
                said.append(str(fault))
                fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    assert len(said) >= len(faults)
    for text in [*said, caplog.text]:
        assert "Quux" not in text
        assert "sk-secret" not in text


def test_a_proxy_named_in_the_environment_carries_no_loopback_text(monkeypatch):
    with proxy() as elsewhere, proxy() as between:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        between.faults = [completion("fine")]
        assert ChatModel(between.url, model="m")(Request("", "x")).text == "fine"
        assert elsewhere.seen == []


def test_a_server_of_several_models_needs_one_named():
    with proxy() as between:
        between.faults = [("body", json.dumps({"data": [{"id": "b"}, {"id": "a"}]}))]
        with pytest.raises(ConfigError, match=r"serves 2 models \(a, b\).*#MODEL"):
            ChatModel(between.url)


@pytest.mark.parametrize(
    ("url", "egress"),
    [
        ("http://127.0.0.1:1/v1", "local"), ("http://127.9.9.9/v1", "local"), ("http://[::1]:8/v1", "local"),
        ("http://localhost:8/v1", "local"), ("http://LOCALHOST/v1", "local"), ("https://api.example.org/v1", "remote"),
        ("http://10.0.0.1/v1", "remote"), ("http://127.0.0.1.example.org/v1", "remote"),
        ("http://localhost.example.org/v1", "remote"), ("http://0.0.0.0/v1", "remote"),
        ("http://2130706433/v1", "remote"),
    ],
)  # fmt: skip
def test_only_the_loopback_is_local(url, egress):
    assert goes_to(url) == egress


@pytest.mark.parametrize(
    "url",
    [
        "",
        "embeded",
        "ftp://h/v1",
        "http://",
        "http://h/v1?k=1",
        "http://h/v1#m",
        "http://u:pw@h/v1",
        "http://h:port/v1",
    ],
)
def test_an_address_that_is_no_base_of_an_api_is_refused(url):
    with pytest.raises(ConfigError) as raised:
        checked_url(url)
    assert "pw" not in str(raised.value)


def test_terms_decide_what_goes_where():
    class To:
        model, digest = "m", "d"

        def __init__(self, egress):
            self.egress = egress

        def __call__(self, request):
            raise AssertionError("not asked")

    table = {(e, w): permitted(To(w), egress=e) for e in ("none", "local", "any", "") for w in ("local", "remote")}
    assert {pair for pair, allowed in table.items() if allowed} == {
        ("local", "local"), ("any", "local"), ("any", "remote"),
    }  # fmt: skip


def test_a_models_digest_changes_with_its_name_and_its_weights():
    assert len({model_digest("a"), model_digest("b"), model_digest("a", "00"), model_digest("a", "01")}) == 4


class Counting:
    """An `Ask` over the proxy's side of the world: a model that counts how often it is asked."""

    model, digest, egress = "counting", "digest", "local"

    def __init__(self):
        self.n_asked = 0

    def __call__(self, request: Request) -> Answer:
        self.n_asked += 1
        return Answer(f"{self.n_asked}: {request.prompt}", 1, 2, remembered=False)


_requests = st.builds(
    Request,
    system=st.text(max_size=8),
    prompt=st.text(max_size=8),
    schema=st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
    max_tokens=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 2),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests=st.lists(_requests, max_size=12))
def test_each_request_is_asked_once_and_keeps_its_answer_in_any_order(requests):
    with tempfile.TemporaryDirectory() as folder:
        ask = Counting()
        first = [Remembering(ask, ResponseStore(folder))(r) for r in requests]
        distinct = {repr(r) for r in requests}
        assert ask.n_asked == len(distinct)
        again = [Remembering(ask, ResponseStore(folder))(r) for r in reversed(requests)]
        assert ask.n_asked == len(distinct)
        assert [a.text for a in reversed(again)] == [a.text for a in first]
        assert all(a.remembered for a in again)


def test_an_answer_is_remembered_without_a_second_call_to_the_real_server(server, tmp_path):
    with proxy(server.url) as between:
        ask = Remembering(ChatModel(between.url), ResponseStore(str(tmp_path)))
        first, second = ask(REQUEST), ask(REQUEST)
        assert between.asked == 1
        assert (second.text, second.remembered) == (first.text, True)
        other = Remembering(ChatModel(between.url, digest="another"), ResponseStore(str(tmp_path)))
        other(REQUEST)
        assert between.asked == 2


@pytest.mark.parametrize(("finish", "n_asked"), [("length", 1), (None, 2)])
def test_what_the_model_refused_is_remembered_and_what_the_server_refused_is_not(tmp_path, finish, n_asked):
    reply = completion("half", finish=finish) if finish else ("status", 400)
    with proxy() as between:
        ask = Remembering(ChatModel(between.url, model="m", patience=QUICK), ResponseStore(str(tmp_path)))
        between.faults = [reply, reply]
        reasons = []
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                ask(REQUEST)
            reasons.append((refused.value.reason, refused.value.detail))
        assert between.asked == n_asked
        assert reasons[0] == reasons[1]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_or_foreign_file_is_asked_again_and_mended(data):
    with tempfile.TemporaryDirectory() as folder:
        ask = Counting()
        remembering = Remembering(ask, ResponseStore(folder))
        remembering(Request("s", "p"))
        remembering(Request("s", "another"))
        key, other = (ResponseStore.key("digest", Request("s", p)) for p in ("p", "another"))
        place = Path(folder, key[:2], f"{key}.json")
        whole = place.read_bytes()
        torn = data.draw(
            st.integers(0, len(whole) - 1).map(lambda n: whole[:n])
            | st.integers(0, len(whole) - 1).map(lambda n: whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :])
            | st.sampled_from([b"", b"[]", b"null", b"{}", b'{"kept": {}, "sha256": ""}', b"\xff" * 20])
            | st.just(Path(folder, other[:2], f"{other}.json").read_bytes())
        )
        place.write_bytes(torn)
        kept = ResponseStore(folder).get(key)
        assert kept in (None, json.loads(whole)["kept"])  # a change of white space or of the key's echo harms nothing
        before = ask.n_asked
        answer = remembering(Request("s", "p"))
        assert ask.n_asked - before == (kept is None)
        assert answer.text == f"{ask.n_asked if kept is None else 1}: p"
        assert ResponseStore(folder).get(key) == {"text": answer.text, "prompt_tokens": 1, "answer_tokens": 2}


def test_the_first_answer_that_is_kept_wins(tmp_path):
    store = ResponseStore(str(tmp_path))
    assert store.keep("ab" * 32, {"text": "first"}) == {"text": "first"}
    assert ResponseStore(str(tmp_path)).keep("ab" * 32, {"text": "second"}) == {"text": "first"}


def test_two_processes_that_share_a_store_end_with_one_answer_each(tmp_path):
    program = (
        "import os, sys\n"
        "from medloom.connectors.llm import ResponseStore\n"
        "store = ResponseStore(sys.argv[1])\n"
        "for n in range(150):\n"
        "    print(store.keep(f'{n % 7:02x}{n:062x}', {'text': f'{os.getpid()} {n}'})['text'])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment()) for _ in range(2)]
    said = [run.communicate()[0].splitlines() for run in runs]
    assert len(said[0]) == 150
    assert said[0] == said[1]


def test_a_process_killed_while_it_writes_leaves_no_torn_answer_in_use(tmp_path):
    program = (
        "import sys\n"
        "from medloom.connectors.llm import ResponseStore\n"
        "store = ResponseStore(sys.argv[1])\n"
        "for n in range(10**6):\n"
        "    store.keep(f'{n % 5:02x}{n:062x}', {'text': 'x' * 200_000 + str(n)})\n"
        "    print(n, flush=True)\n"
    )
    for round_number in range(4):
        folder = tmp_path / str(round_number)
        run = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True, env=child_environment()
        )
        assert run.stdout is not None
        done = int(run.stdout.readline())
        time.sleep(0.05 + 0.011 * round_number)
        os.kill(run.pid, signal.SIGKILL)
        done = max([done, *(int(line) for line in run.stdout.read().split("\n")[:-1])])
        run.wait()
        store = ResponseStore(str(folder))
        for n in range(done + 1):
            kept = store.get(f"{n % 5:02x}{n:062x}")
            assert kept == {"text": "x" * 200_000 + str(n)}
        after = store.keep(f"{(done + 1) % 5:02x}{done + 1:062x}", {"text": "x" * 200_000 + str(done + 1)})
        assert after["text"].endswith(str(done + 1))


def test_an_address_and_what_it_names_travel_to_another_process():
    from medloom.connectors.local_llm import ModelAddress

    address = ModelAddress("http://127.0.0.1:1/v1", "m", "d", "/nowhere")
    assert pickle.loads(pickle.dumps(address)) == address
