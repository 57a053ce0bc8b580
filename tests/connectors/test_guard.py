"""A child process that dies, hangs or fills memory costs one refusal, and the next call works."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from medloom.connectors import guard as guard_module
from medloom.connectors.guard import Guard, GuardBug
from medloom.connectors.images import decode_picture
from medloom.schemas.errors import Refused
from medloom.schemas.keys import sha256_hex
from medloom.schemas.medium import Picture
from medloom.schemas.volume import Volume


@pytest.fixture(scope="module")
def guard():
    with Guard() as shared:
        yield shared


def test_results_come_back_from_another_process(guard):
    assert guard.call(sha256_hex, b"abc") == sha256_hex(b"abc")
    assert guard.call(os.getpid) != os.getpid()
    assert guard.call(os.getpid) == guard.call(os.getpid)


def test_large_arrays_travel_unchanged_both_ways(guard):
    array = np.arange(3_000_000, dtype=np.int16).reshape(3, 1000, 1000)
    assert np.array_equal(guard.call(np.negative, array), -array)


def test_a_view_that_is_not_contiguous_travels_unchanged(guard):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::-1, ::-1].transpose(2, 0, 1)
    assert np.array_equal(guard.call(np.negative, array), -array)


def test_refusals_keep_their_reason(guard):
    with pytest.raises(Refused, match="is not a non-empty") as error:
        guard.call(Volume, np.zeros((2, 2), np.int16), np.eye(4))
    assert error.value.reason == "volume.shape"


def test_any_other_exception_is_a_bug_with_its_traceback(guard):
    pid = guard.call(os.getpid)
    with pytest.raises(GuardBug, match=r"(?s)Traceback.*images\.py.*KeyError"):
        guard.call(decode_picture, Picture(b"", "bmp", 1, 1, 1))  # type: ignore[arg-type]
    assert guard.call(os.getpid) == pid


def test_the_message_of_a_librarys_exception_is_withheld(guard):
    with pytest.raises(GuardBug, match="ValueError") as error:
        guard.call(int, "Doe^Jane")
    assert "Doe" not in str(error.value)


def test_a_result_that_cannot_be_pickled_is_a_bug(guard):
    with pytest.raises(GuardBug):
        guard.call(threading.Lock)


def test_a_function_that_has_no_name_leaves_the_channel_intact(guard):
    with pytest.raises((pickle.PicklingError, AttributeError)):
        guard.call(lambda: None)
    assert guard.call(abs, -2) == 2


def test_a_crash_is_tried_twice_then_refused():
    with Guard() as guard:
        before = guard.call(os.getpid)
        with pytest.raises(Refused) as error:
            guard.call(os.abort)
        assert error.value.reason == "guard.crashed"
        assert "SIGABRT" in error.value.detail
        after = guard.call(os.getpid)
        assert after != before
        with pytest.raises(Refused, match="status 3"):
            guard.call(os._exit, 3)


def test_a_crash_that_happens_once_is_forgiven(tmp_path):
    marker = tmp_path / "seen"
    program = f"import os, pathlib\np = pathlib.Path({str(marker)!r})\nif not p.exists():\n p.touch(); os.abort()\n"
    with Guard() as guard:
        guard.call(exec, program)
    assert marker.exists()


def test_a_hang_is_refused_and_its_process_is_gone():
    with Guard() as guard:
        pid = guard.call(os.getpid)
        start = time.monotonic()
        with pytest.raises(Refused) as error:
            guard.call(time.sleep, 60, timeout_s=0.3)
        assert error.value.reason == "guard.timeout"
        assert time.monotonic() - start < 30
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_memory_beyond_the_cap_is_refused():
    with Guard(memory_bytes=2**30) as guard:
        with pytest.raises(Refused) as error:
            guard.call(bytearray, 2 * 2**30)
        assert error.value.reason == "guard.memory"
        assert len(guard.call(bytearray, 2**20)) == 2**20


def test_what_decoders_print_does_not_reach_the_channel(guard):
    assert guard.call(os.write, 1, b"junk" * 100) == 400
    assert guard.call(exec, "print('junk', flush=True)") is None
    assert guard.call(abs, -3) == 3


def test_a_child_killed_between_two_calls_is_replaced(guard):
    pid = guard.call(os.getpid)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert guard.call(os.getpid) != pid


def test_secrets_do_not_reach_the_child(monkeypatch):
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", "secret")
    with Guard() as guard:
        assert guard.call(os.getenv, "MEDLOOM_IDENTITY_KEY") is None
        assert guard.call(os.getenv, "OMP_NUM_THREADS") == "1"


def test_the_child_dies_with_a_parent_that_is_killed():
    program = (
        "import os, time, threading\nfrom medloom.connectors.guard import Guard\n"
        "g = Guard()\nprint(g.call(os.getpid), flush=True)\n"
        "threading.Thread(target=lambda: g.call(time.sleep, 100), daemon=True).start()\ntime.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)
    parent.stdout.close()


def test_an_interrupted_call_does_not_answer_the_next_one():
    with Guard() as guard:
        guard.call(abs, -1)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            guard.call(time.sleep, 1.0)
        assert guard.call(abs, -7) == 7


def test_a_forked_process_uses_a_child_of_its_own(guard):
    pid = guard.call(os.getpid)
    read, write = os.pipe()
    fork = os.fork()
    if fork == 0:
        try:
            os.write(write, str(guard.call(os.getpid)).encode())
            guard.close()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    assert int(os.read(read, 20)) != pid
    assert guard.call(os.getpid) == pid
    os.close(read)
    os.close(write)


def test_threads_wait_for_each_other(guard):
    answers: dict[int, int] = {}
    threads = [threading.Thread(target=lambda i=i: answers.update({i: guard.call(abs, -i)})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: i for i in range(8)}


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_whose_channel_closes_ends():
    command = [sys.executable, "-m", guard_module.__name__, str(2**32), str(os.getpid())]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said, _ = child.communicate(timeout=60)
    assert b"ready" in said
    assert child.returncode == 0


def test_a_child_without_parent_does_not_start():
    done = subprocess.run(
        [sys.executable, "-m", guard_module.__name__, str(2**31), "0"], stdin=subprocess.DEVNULL, capture_output=True
    )
    assert done.returncode == 1
    assert b"parent" in done.stderr
