"""The streaming bench tells of everything it promises, and a goal is met only by figures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.bench.stream import rows_of
from tests.bench.stream_clock import count, touch
from tests.bench.stream_data import QUICK, ct
from tests.bench.stream_goals import aims
from tests.bench.stream_jobs import sections
from tests.bench.stream_ours import _uniform, _unlike_in
from tests.bench.stream_run import OURS, Worker, allowed_cores

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quick_prints_every_row_and_keeps_it_as_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.stream", "--quick", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {(row["section"], row["name"]): row for row in found["rows"]}
    for section in sections(QUICK):
        for job in section.jobs:
            row = rows[section.title, job.name]
            assert (row["median"] is None) == (job.who != OURS), row
            assert job.name in done.stdout
    assert {row["name"] for row in found["rows"] if row["section"] == "shuffle"} == {"global", "window:4"}
    assert len(found["goals"]) == 15
    assert {"cpu", "cores", "python", "blosc2"} <= found["machine"].keys()
    shared = rows["examples that share volumes", "20 examples of 4 volumes"]
    assert shared["unit"] == "ms/step of processor time"


def _answers(**seconds: float) -> dict[tuple[str, str], list[dict[str, object]]]:
    (section,) = (s for s in sections(QUICK) if s.title == "walk over a tar's headers")
    by_how = {"ours": "medloom index", "tarfile": "tarfile"}
    return {
        (section.title, by_how[how]): [{"samples": 100, "cpu": s}] if s else [{"error": "it raised"}]
        for how, s in seconds.items()
    }


@pytest.mark.parametrize(("ours", "verdict"), [(0.1, "met"), (0.11, "MISSED"), (0.0, "–")])
def test_a_goal_is_met_only_by_figures(ours: float, verdict: str) -> None:
    (section,) = (s for s in sections(QUICK) if s.title == "walk over a tar's headers")
    rows = rows_of(section, _answers(ours=ours, tarfile=1.0))
    (goal,) = aims(rows)
    assert goal["verdict"] == verdict
    assert (rows[0]["median"] is None) == (not ours)
    if not ours:
        assert rows[0]["failed"] == "it raised"


def test_a_time_is_better_when_it_is_less() -> None:
    (section,) = (s for s in sections(QUICK) if s.title == "first batch after a resume")
    took = {job.name: [{"wall": 0.02 if job.who == OURS else 0.08}] for job in section.jobs}
    rows = rows_of(section, {(section.title, name): answers for name, answers in took.items()})
    assert {row["ours_is_better"] for row in rows if row["role"] == "peer"} == {4.0}


def test_a_process_that_hangs_is_ended_and_says_so(tmp_path: Path) -> None:
    with Worker(OURS, sys.executable, cores=allowed_cores(), log=tmp_path / "log") as worker:
        assert "error" in worker.ask({"job": "order", "n": -1, "at": 0, "count": 1})
        assert (
            "no answer"
            in worker.ask({"job": "write", "how": "npy", "shape": [64, 512, 512], "many": 64}, timeout_s=0.5)["error"]
        )
        assert "no answer" in worker.ask({"job": "order", "n": 9, "at": 0, "count": 9})["error"]


def test_shards_among_draws_at_random_are_those_of_the_closed_form() -> None:
    sizes = np.full(20, 256)
    rng = np.random.default_rng(0)
    shards = np.concatenate([rng.permutation(np.repeat(np.arange(20), 256)) for _ in range(20)])
    assert _unlike_in(shards, 32) == pytest.approx(_uniform(sizes, 32), rel=0.01)
    assert _uniform(np.array([5, 5]), 10) == 2


def test_what_is_touched_and_counted_is_all_of_it() -> None:
    array = np.zeros((4, 2, 64, 64), np.int16)
    array[3, 1, 63, 0] = 7  # in the last page
    assert touch(array.reshape(-1)[-2048:]) == 0
    assert touch(np.asfortranarray(np.ones((3, 5, 7), np.int16))) == 1
    assert count([[array], [array[0]]]) == (5, 5 * 2 * 64 * 64 * 2)


def test_volumes_pack_as_real_ones_do() -> None:
    import gzip

    array = ct((16, 128, 128), 3)
    assert array[0, 0, 0] == -1024  # outside the field of view
    assert 2.0 < array.nbytes / len(gzip.compress(array.tobytes(), 6)) < 3.2
    assert not np.array_equal(array, ct((16, 128, 128), 4))
