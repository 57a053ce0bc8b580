"""A run that was stopped anywhere ends as one that was not, and learns what it is shown."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from filelock import FileLock  # noqa: E402
from tests.builds import write_release  # noqa: E402
from tests.model.tiny import FILE, tiny  # noqa: E402

from medloom.model import checkpoint  # noqa: E402
from medloom.model.evaluate import Judge, Limits  # noqa: E402
from medloom.model.language import MedicalModel  # noqa: E402
from medloom.model.reader import Reader  # noqa: E402
from medloom.model.rows import live_rows  # noqa: E402
from medloom.model.run import RunFolder  # noqa: E402
from medloom.model.scores import answer_of  # noqa: E402
from medloom.model.stream import ShardStream  # noqa: E402
from medloom.model.train import endless, held_out_examples, settle, step_once, to_tensors, train  # noqa: E402
from medloom.pipelines.tokens import count_tokens  # noqa: E402
from medloom.schemas.errors import ConfigError, FormatError, RetryLater  # noqa: E402
from medloom.schemas.release import Release, append_overlay  # noqa: E402
from medloom.schemas.store import Store  # noqa: E402

TIMES = ("wait_s", "step_s")


def metrics(run) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in RunFolder(str(run)).metrics()]


def weights(run) -> dict:
    return torch.load(checkpoint.newest(Path(run)) / "weights.pt", weights_only=True)


def same(one, other) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def unbroken(shared_build, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("unbroken")
    train(shared_build, to=str(run), config=tiny())
    return run


def stop_after(steps: int):
    left = iter(range(steps + 1))
    return lambda: next(left) == steps


def test_a_run_leaves_what_the_design_says(unbroken):
    found = {p.relative_to(unbroken).as_posix() for p in unbroken.rglob("*")}
    assert {"config.json", "metrics.jsonl", "loss.png", "checkpoints/00000008/state.json"} <= found
    assert checkpoint.steps(unbroken) == [6, 8]
    rows = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, *range(1, 9), 8]
    assert all({"loss", "tokens", "bytes", "truncated", *TIMES} <= row.keys() for row in rows[1:-1])
    assert rows[0]["held_out_loss"] > rows[-1]["held_out_loss"]
    assert (rows[0]["split"], rows[0]["examples"]) == ("validation", 3)
    assert (unbroken / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_run_again_is_the_same_bit_by_bit(shared_build, unbroken, tmp_path):
    train(shared_build, to=str(tmp_path), config=tiny(read_threads=0))
    assert metrics(tmp_path) == metrics(unbroken)
    assert same(tmp_path, unbroken)


@pytest.mark.parametrize("steps", [0, 1, 3, 5, 7])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(shared_build, unbroken, tmp_path, steps):
    first = train(shared_build, to=str(tmp_path), config=tiny(), should_stop=stop_after(steps))
    assert (first.step, first.finished) == (steps, False)
    assert np.isnan(first.loss_after)
    second = train(shared_build, to=str(tmp_path), config=tiny())
    assert (second.step, second.finished) == (8, True)
    assert metrics(tmp_path) == metrics(unbroken)
    assert same(tmp_path, unbroken)


def test_a_killed_run_goes_on_from_its_checkpoint(shared_build, unbroken, tmp_path):
    (tmp_path / "run.py").write_text(FILE)
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "medloom",
        "train",
        shared_build,
        "--to",
        str(run),
        "--config",
        str(tmp_path / "run.py"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = (line.decode() for line in process.stdout)
    assert any(line.startswith("step 4/8") for line in lines)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # what a kill in the middle of a line leaves
    assert checkpoint.steps(run)[-1] < 8
    train(shared_build, to=str(run), config=tiny())
    assert metrics(run) == metrics(unbroken)
    assert same(run, unbroken)


def test_a_finished_run_may_be_lengthened(shared_build, unbroken, tmp_path):
    train(shared_build, to=str(tmp_path), config=tiny(steps=4))
    done = train(shared_build, to=str(tmp_path), config=tiny(steps=8))
    assert done.finished
    assert [r for r in metrics(tmp_path) if "loss" in r] == [r for r in metrics(unbroken) if "loss" in r]
    assert same(tmp_path, unbroken)
    again = train(shared_build, to=str(tmp_path), config=tiny(steps=8))
    assert (again.step, again.finished, again.loss_after) == (8, True, done.loss_after)


def test_a_run_stays_with_the_release_it_began_with(build, unbroken, tmp_path):
    def killed() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build, to=str(tmp_path), config=tiny(), should_stop=killed)
    write_release(Store(build), Release(build).rows.to_pylist()[:30], number=2)
    train(build, to=str(tmp_path), config=tiny())
    assert metrics(tmp_path) == metrics(unbroken)


def test_a_run_refuses_rows_that_were_rewritten(build, tmp_path):
    train(build, to=str(tmp_path), config=tiny(), should_stop=stop_after(2))
    write_release(Store(build), Release(build).rows.to_pylist()[::-1], number=1)
    with pytest.raises(FormatError, match="not the one that the stream began with"):
        train(build, to=str(tmp_path), config=tiny())


def test_withheld_rows_leave_a_run_that_goes_on(build, tmp_path):
    train(build, to=str(tmp_path), config=tiny(), should_stop=stop_after(2))
    stream = ShardStream(build, seed=0, global_batch=4)
    row = {"scope": "example", "id": stream.at(3)[0], "state": "withdrawn", "reason": "asked", "by": "curator:test"}
    append_overlay(Store(f"{build}/releases"), [row])
    done = train(build, to=str(tmp_path), config=tiny())
    assert done.finished


def test_another_config_in_the_same_folder_is_refused(shared_build, unbroken):
    with pytest.raises(ConfigError, match="seed=0 there and 5 now"):
        train(shared_build, to=str(unbroken), config=tiny(seed=5))


def test_two_runs_in_one_folder_are_refused(shared_build, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(RetryLater, match="another process"):
        train(shared_build, to=str(tmp_path), config=tiny())


def test_what_is_cut_is_counted(shared_build, tmp_path):
    done = train(shared_build, to=str(tmp_path), config=tiny(steps=2, max_bytes=30))
    rows = [row for row in metrics(tmp_path) if "loss" in row]
    assert done.truncated == sum(row["truncated"] for row in rows) > 0


def test_a_device_that_is_not_there_is_the_users_mistake():
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(ConfigError, match="cuda"):
        settle(tiny(device="cuda"))


def test_held_out_examples_are_of_the_validation_split(shared_build):
    found, split = held_out_examples(Release(shared_build), tiny(held_out=6))
    assert split == "validation"
    assert {s.example.split for s in found} == {"validation"}
    assert len({s.example.example_id for s in found}) == 6
    assert len({s.example.task for s in found}) > 1


@pytest.mark.slow
def test_a_model_learns_what_only_the_pictures_show(shared_build):
    """Captions name a colour. With the picture the colour of unseen pictures is right, without it often wrong."""
    config = tiny(learning_rate=3e-3, where={"task": "caption"}, global_batch=8)
    device = settle(config)
    stream = ShardStream(shared_build, seed=0, global_batch=8, where=config.where)
    model = MedicalModel(config.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    losses = []
    for step, batch in zip(range(160), endless(stream), strict=False):
        losses.append(step_once(model, optimizer, to_tensors(batch.examples, config, device), step, config))
    assert losses[-1] < losses[0] / 20
    release = Release(shared_build)
    reader, judge = Reader(release), Judge(model.eval(), config, device, Limits())
    unseen = [reader.read(int(row)) for row in live_rows(release, split="test", where=config.where)]
    options = tuple(f"A {name} rectangle on white ground." for name in ("red", "green", "blue"))
    right = {
        blind: [options[judge.choose(s, options, blind=blind)] == answer_of(s.example) for s in unseen]
        for blind in (False, True)
    }
    assert np.mean(right[False]) == 1
    assert np.mean(right[True]) <= 0.5


def test_time_waited_for_data_is_told_from_time_computed(shared_build, tmp_path, monkeypatch):
    read = Reader.read_many

    def slow(self, wishes, *, run=None):
        time.sleep(0.05 * len(wishes))
        return read(self, wishes, run=run)

    monkeypatch.setattr(Reader, "read_many", slow)
    done = train(shared_build, to=str(tmp_path), config=tiny(steps=3, read_threads=0, held_out=1))
    rows = [row for row in RunFolder(str(tmp_path)).metrics() if "loss" in row]
    assert all(row["wait_s"] >= 4 * 0.05 for row in rows)
    assert 0 < done.wait_share < 1


def test_packed_rows_train_and_resume_to_the_bit(build, tmp_path):
    count_tokens(build, "bytes")
    settings = {"global_batch": 2, "pack_tokens": 640, "held_out": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(build, to=str(whole), config=tiny(steps=6, **settings))
    train(build, to=str(parts), config=tiny(steps=3, **settings))
    train(build, to=str(parts), config=tiny(steps=6, **settings))
    kept = ("step", "loss", "tokens", "bytes", "lane")
    first, second = (
        [{name: row[name] for name in kept} for row in RunFolder(str(folder)).metrics() if "loss" in row]
        for folder in (whole, parts)
    )
    assert first == second
    alone = ShardStream(build, seed=0, global_batch=2)
    packed = ShardStream(build, seed=0, global_batch=2, pack_tokens=640, media_tokens=tiny().model.latents)
    assert len(packed) < len(alone)


def test_a_run_leaves_what_its_stream_cost(shared_build, tmp_path):
    done = train(shared_build, to=str(tmp_path), config=tiny(steps=3, held_out=1))
    told = json.loads((tmp_path / "stream.json").read_text())
    assert told["steps"] == 3
    assert told["verdict"] == done.stall
    assert "medloom_stream_steps_total 3" in (tmp_path / "stream.prom").read_text()


def test_batches_of_which_nothing_is_live_are_passed_over(build):
    count_tokens(build, "bytes")
    settings = {"seed": 0, "global_batch": 2, "pack_tokens": 640}
    state = ShardStream(build, **settings).state_dict()
    scans = [row["example_id"] for row in Release(build).rows.to_pylist() if row["source"] == "scans"]
    for scan in scans:
        row = {"scope": "example", "id": scan, "state": "withdrawn", "reason": "test", "by": "curator:test"}
        append_overlay(Store(f"{build}/releases"), [row])
    stream = ShardStream(build, **settings)
    stream.load_state_dict(state)
    assert any(not batch.examples for batch in islice(stream, len(stream)))
    found = list(islice(endless(stream), 2 * len(stream)))
    assert all(batch.examples for batch in found)
    assert not {key for batch in found for key in batch.keys} & set(scans)
