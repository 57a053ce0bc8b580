"""A meter's shares and sentences follow from what was counted, whoever counted it."""

import json
import os
import pickle
import re
import threading
import time

import pytest

from medloom.model.meter import Meter


def run(meter: Meter, steps: int, *, waited_s: float, step_s: float = 0.1, **busy_s: float) -> Meter:
    """Steps of `step_s` of which `waited_s` were waited for, and what readers did meanwhile."""
    for _ in range(steps):
        meter._add(2, waited_s)
        meter.planned(busy_s.get("order", 0))
        meter.fetched(busy_s.get("fetch", 0), 1_000_000)
        meter.decoded(busy_s.get("decode", 0), 3_000_000)
        meter.transformed(busy_s.get("transform", 0))
        meter.step(step_s)
    return meter


def test_shares_and_rates_are_those_of_the_counts():
    meter = run(Meter(), 10, waited_s=0.02, fetch=0.1, decode=0.3)
    meter.hit(3), meter.miss(), meter.retried(), meter.substituted(2), meter.queue(1), meter.queue(4)
    assert meter.snapshot()["cache_hit_share"] is None, "what belongs to a step that has not ended is not told yet"
    meter.step(0.0)
    told = meter.snapshot()
    assert json.loads(json.dumps(told)) == told
    assert told["steps"] == 11
    assert told["wait_share"] == pytest.approx(0.2)
    assert told["wait_s"] == pytest.approx(0.2 / 11)
    assert told["bytes_per_s"] == pytest.approx(1e7)
    assert told["decoded_bytes_per_s"] == pytest.approx(3e7)
    assert told["decode_share"] == pytest.approx(0.75)
    assert told["cache_hit_share"] == 0.75
    assert told["queue_depth"] == 2.5
    assert (told["retries"], told["substitutes"]) == (1, 2)


def test_the_last_steps_are_told_apart_from_the_whole_run():
    meter = run(run(Meter(), 5, waited_s=0.1), 2_000, waited_s=0.0)
    assert meter.snapshot(1)["wait_share"] == 0
    assert meter.snapshot(2_004)["wait_share"] == 0, "no more than the counts of the last steps are kept"
    assert meter.snapshot()["wait_share"] == pytest.approx(5 / 2_005)
    assert run(Meter(), 3, waited_s=0.1).snapshot(50)["steps"] == 3


def test_waiting_is_timed():
    meter = Meter()
    meter.begin()
    with meter.waiting():
        time.sleep(0.02)
    with pytest.raises(KeyError), meter.waiting():
        raise KeyError
    time.sleep(0.02)
    meter.step()
    told = meter.snapshot()
    assert 0.02 <= told["wait_s"] < told["step_s"] - 0.019


@pytest.mark.parametrize("stage", ["order", "fetch", "decode", "transform"])
def test_a_stall_names_the_slow_stage(stage):
    meter = run(Meter(), 200, waited_s=0.05, **{"fetch": 0.01, "decode": 0.01, stage: 0.2})
    assert meter.snapshot(100)["slow_stage"] == stage
    assert re.match(rf"waited 50\.0% of 100 steps for data: {stage} is slow, 9\d%", meter.verdict())
    assert f"slow: {stage}" in meter.line()


def test_below_one_percent_nobody_is_blamed():
    meter = run(Meter(), 20, waited_s=0.0009, decode=0.2)
    assert meter.verdict() == "waited 0.9% of 20 steps for data"
    assert meter.snapshot()["slow_stage"] == ""
    assert "slow" not in meter.line()


def test_a_stall_without_a_busy_stage_says_so():
    assert "no stage of reading was busy" in run(Meter(), 2, waited_s=0.05).verdict()
    assert Meter().verdict() == "no step has ended yet"
    assert Meter().line().startswith("0.0 ms a step")
    assert Meter().snapshot()["wait_share"] == 0


def test_threads_lose_no_count():
    meter = Meter()

    def count() -> None:
        for _ in range(5_000):
            meter.decoded(0.5, 2)
            meter.hit()
            meter.queue(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert samples(meter)['bytes_total{stage="decode"}'] == 40_000
    assert samples(meter)['cache_requests_total{result="hit"}'] == 20_000


def test_a_worker_sends_its_counts_once():
    worker, ours = Meter(), Meter()
    run(worker, 3, waited_s=0.0, decode=0.25)
    ours.add(worker.take())
    ours.add(worker.take())
    assert samples(ours)['busy_seconds_total{stage="decode"}'] == 0.75
    assert worker.snapshot()["steps"] == 0
    worker.step(1.0)
    assert worker.snapshot()["steps"] == 1


def test_a_pickled_meter_goes_on_counting():
    meter = pickle.loads(pickle.dumps(run(Meter(), 4, waited_s=0.05, decode=0.1)))
    meter.step(0.1)
    assert meter.snapshot()["steps"] == 5
    assert meter.snapshot()["wait_share"] == pytest.approx(0.4)


def test_a_child_forked_in_the_middle_of_a_count_still_counts():
    meter = Meter()
    with meter._lock:
        child = os.fork()
        if not child:
            taken = meter._lock.acquire(timeout=5)
            os._exit(0 if taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def samples(meter: Meter, labels: dict[str, str] | None = None) -> dict[str, float]:
    """Samples of the text format by name and labels, read by the grammar of its version 0.0.4."""
    found = {}
    for line in meter.prometheus(labels).splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP [a-z_]+ .+|TYPE [a-z_]+ (counter|gauge))", line)
            continue
        name = re.fullmatch(
            r"medloom_stream_([a-z_]+(?:\{(?:[a-z_]+=\"(?:[^\"\\]|\\[\\n\"])*\",?)+\})?) ([0-9.e+-]+)", line
        )
        assert name, line
        found[name[1]] = float(name[2])
    return found


def test_prometheus_reads_the_counters():
    meter = run(Meter(), 4, waited_s=0.5, decode=0.25)
    meter.queue(3)
    found = samples(meter)
    assert found["steps_total"] == 4
    assert found["wait_seconds_total"] == 2
    assert found["queue_depth"] == 3
    assert found['bytes_total{stage="fetch"}'] == 4_000_000
    named = samples(meter, {"rank": "3", "run": 'a"b\\c\nd'})
    assert named['steps_total{rank="3",run="a\\"b\\\\c\\nd"}'] == 4
    assert len(named) == len(found)
