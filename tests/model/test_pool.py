"""Results come in order from threads and processes, faults reach whoever asked, and closing stops what runs."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from medloom.model.pool import here, on_processes, on_threads
from medloom.schemas.errors import ConfigError, RetryLater


@pytest.fixture(autouse=True)
def findable(monkeypatch):
    """Let spawned processes find this file's functions."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))


def squares(step, run):
    if run is None:
        return step * step
    found = []
    run([lambda: found.append(step * step)])
    return found[0]


def slow_first(step, run):
    time.sleep(0.05 if step == 0 else 0)
    return step


def faulty(step, run):
    if step == 3:
        raise ConfigError("step 3 cannot be made")
    return step


def failing(step, run):
    raise KeyError("nothing")


def dying(step, run):
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step


def test_all_three_ways_give_the_same_results_in_order():
    wanted = [step * step for step in range(20)]
    assert list(here(squares, range(20))) == wanted
    for threads in (1, 3):
        for ahead in (1, 4):
            assert list(on_threads(squares, range(20), threads=threads, ahead=ahead)) == wanted


def test_processes_give_the_same_results_in_order():
    assert list(on_processes(squares, range(7), processes=2, ahead=3)) == [step * step for step in range(7)]


def test_a_slow_step_is_waited_for():
    assert list(on_threads(slow_first, range(5), threads=2, ahead=4)) == list(range(5))


def test_no_more_is_made_ahead_than_asked_for():
    made = []
    results = on_threads(lambda step, run: made.append(step), range(100), threads=2, ahead=3)
    next(results)
    time.sleep(0.2)
    assert len(made) <= 4
    results.close()


@pytest.mark.parametrize(
    "many", [lambda: on_threads(faulty, range(9), threads=2, ahead=3), lambda: here(faulty, range(9))]
)
def test_a_fault_comes_where_its_step_would(many):
    results = many()
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError, match="step 3 cannot be made"):
        next(results)


def test_a_fault_of_a_task_reaches_whoever_asked():
    def make(step, run):
        run([lambda: None, lambda: [][step]])

    with pytest.raises(IndexError):
        next(on_threads(make, range(3), threads=2, ahead=2))


def test_faults_of_processes_come_back():
    results = on_processes(faulty, range(3, 9), processes=2, ahead=2)
    with pytest.raises(ConfigError, match="step 3 cannot be made"):
        next(results)
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        next(on_processes(failing, range(3), processes=1, ahead=1))


def test_a_process_that_is_killed_is_told_and_nobody_hangs():
    results = on_processes(dying, range(6), processes=2, ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RetryLater, match="exit code -9"):
        next(results)


def test_closing_stops_threads_though_one_task_hangs():
    release, before = threading.Event(), threading.active_count()

    def make(step, run):
        if step:
            run([release.wait])
        return step

    results = on_threads(make, range(9), threads=2, ahead=3)
    assert next(results) == 0
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 5
    release.set()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
