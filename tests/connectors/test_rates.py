"""Rates: no second sees more requests than a host allows, however many processes and threads ask."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medloom.connectors.rates import EUTILS, Rates, is_loopback
from medloom.schemas.errors import ConfigError, RetryLater
from tests.services.loopback import loopback

ASK = """
import sys
from pathlib import Path
from medloom.connectors.http import Http
from medloom.connectors.rates import Rates
folder, url, host, rate, times = sys.argv[1:]
http = Http(rates=Rates(Path(folder), per_second={host: float(rate)}))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(times)):
    http.get(url)
"""

WAIT = """
import sys
from pathlib import Path
from medloom.connectors.rates import Rates
rates = Rates(Path(sys.argv[1]), per_second={"x": 500.0})
print("ready", flush=True)
while True:
    rates.wait("x")
"""


def most_in_a_second(moments: list[float]) -> int:
    """Return the largest number of moments in any window of one second."""
    moments = sorted(moments)
    return max(sum(1 for other in moments if at <= other < at + 1.0) for at in moments)


@pytest.mark.parametrize(("rate", "times"), [(4, 4), (60, 50)])
def test_processes_that_share_a_folder_stay_together_below_the_rate(tmp_path, rate, times):
    with loopback(objects={"x": b"x"}) as server:
        host = server.url.removeprefix("http://")
        args = [sys.executable, "-c", ASK, str(tmp_path), f"{server.url}/x", host, str(rate), str(times)]
        asking = [subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        for process in asking:
            assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        for process in asking:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in asking:
            process.communicate(timeout=60)
            assert process.returncode == 0
        took_s = time.monotonic() - began
    assert len(server.seen) == 4 * times
    assert most_in_a_second([asked.at for asked in server.seen]) <= rate
    assert took_s < 3 * 4 * times / rate + 3  # and the rate is made use of, on a busy machine too


def test_threads_of_one_process_share_it_too(tmp_path):
    rates, moments = Rates(tmp_path, per_second={"x": 20.0}), []

    def ask(_: int) -> None:
        rates.wait("x")
        moments.append(time.time())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(45)))
    assert most_in_a_second(moments) <= 20
    assert 2.0 <= max(moments) - min(moments) < 3.5


def test_hosts_do_not_wait_for_each_other(tmp_path):
    rates = Rates(tmp_path, per_second={"a": 1.0, "b": 1.0})
    began = time.monotonic()
    rates.wait("a")
    rates.wait("b")
    assert time.monotonic() - began < 0.9


def test_the_table_says_how_often_each_host_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDLOOM_NCBI_KEY", raising=False)
    rates = Rates(tmp_path)
    assert rates.per_second(EUTILS) == 3.0
    assert rates.per_second("pmc.ncbi.nlm.nih.gov") == 3.0
    assert rates.per_second("www.ebi.ac.uk") == 5.0
    assert rates.per_second("pmc-oa-opendata.s3.amazonaws.com") == 100.0
    assert rates.per_second("pmc-oa-opendata.s3.us-east-1.amazonaws.com:443") == 100.0
    assert rates.per_second("example.org") == 5.0
    assert rates.per_second("amazonaws.com.example.org") == 5.0
    assert rates.per_second("127.0.0.1:8080") == rates.per_second("[::1]:80") == math.inf
    monkeypatch.setenv("MEDLOOM_NCBI_KEY", "k")
    assert Rates(tmp_path).per_second(EUTILS) == 10.0


@pytest.mark.parametrize(
    ("host", "loops"),
    [("localhost", True), ("127.3.2.1", True), ("::1", True), ("[::1]", True), ("10.0.0.1", False),
     ("localhost.example.org", False), ("127.0.0.1.example.org", False)],
)  # fmt: skip
def test_loopback_is_told_from_other_hosts(host, loops):
    assert is_loopback(host) is loops


def test_a_host_that_asks_to_be_left_alone_is_left_alone_by_all(tmp_path):
    Rates(tmp_path).hold("127.0.0.1:1", 0.5)
    began = time.monotonic()
    Rates(tmp_path).wait("127.0.0.1:1")
    assert 0.4 < time.monotonic() - began < 1.5
    Rates(tmp_path).hold("127.0.0.1:1", 30.0)
    Rates(tmp_path).hold("127.0.0.1:1", 1.0)  # a shorter word takes nothing back
    with pytest.raises(RetryLater, match=r"127.0.0.1:1 asks not to be asked for another (29|30) s"):
        Rates(tmp_path).wait("127.0.0.1:1", longest_hold_s=20.0)


def test_a_hold_of_years_is_taken_for_a_mistake(tmp_path):
    Rates(tmp_path).hold("x", 1e9)
    with pytest.raises(RetryLater, match=r"another (3599|3600) s"):
        Rates(tmp_path).wait("x", longest_hold_s=60.0)
    assert json.loads((tmp_path / "x.json").read_text())["held_until"] < time.time() + 3601  # and it comes nearer


def test_a_killed_process_holds_nobody_up_and_breaks_nothing(tmp_path):
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WAIT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        began = time.monotonic()
        Rates(tmp_path, per_second={"x": 500.0}).wait("x")
        assert time.monotonic() - began < 0.9
        json.loads((tmp_path / "x.json").read_text())


@pytest.mark.parametrize("found", ["", "{", "[]", '{"free_at": "x"}', '{"free_at": null, "held_until": 0, "at": 0}'])
def test_a_torn_file_counts_as_none(tmp_path, found):
    (tmp_path / "x.json").write_text(found)
    began = time.monotonic()
    Rates(tmp_path).wait("x")
    assert time.monotonic() - began < 0.9


def test_a_clock_that_was_set_back_holds_nobody_up(tmp_path):
    later = time.time() + 86_400
    (tmp_path / "x.json").write_text(json.dumps({"free_at": later + 0.2, "held_until": 0, "at": later}))
    began = time.monotonic()
    Rates(tmp_path).wait("x")
    assert time.monotonic() - began < 5.0


def test_a_copy_in_another_process_uses_the_same_folder(tmp_path):
    copy = pickle.loads(pickle.dumps(Rates(tmp_path, per_second={"x": 7.0})))
    assert (copy.folder, copy.per_second("x")) == (tmp_path, 7.0)


def test_the_folder_is_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOM_RATES", str(tmp_path / "shared"))
    assert Rates().folder == tmp_path / "shared"
    monkeypatch.delenv("MEDLOOM_RATES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Rates().folder == tmp_path / "cache/medloom/rates"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot share request rates through .*MEDLOOM_RATES"):
        Rates(tmp_path / "file").wait("x")


def test_a_host_is_no_path(tmp_path):
    Rates(tmp_path / "rates").wait("../../x/y")
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / "rates"}
