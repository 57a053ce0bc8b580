"""What is withheld, damaged or rewritten under a stream: substituted in its place and listed, or stopped at."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.builds import write_release
from tests.model.streams import fingerprint, flip, keys, truth, withhold

from medloom.model.byte_source import LocalSource
from medloom.model.stream import ShardStream
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError, MedloomError
from medloom.schemas.release import Release


def test_withholding_before_the_stream_leaves_the_row_out(build):
    first = ShardStream(build, seed=1, global_batch=1)
    victim = first.at(0)[0]
    withhold(build, "example", victim)
    stream = ShardStream(build, seed=1, global_batch=1)
    assert len(stream) == len(first) - 1
    assert victim not in {key for step in range(len(stream)) for key in stream.at(step)}


@pytest.mark.parametrize("scope", ["example", "medium", "group", "query"])
def test_withholding_later_substitutes_that_row_alone(build, scope):
    settings = {"seed": 2, "global_batch": 4, "mix": {"papers": 3, "scans": 1}}
    stream = ShardStream(build, **settings)
    before = keys(stream, 10)
    state = stream.state_dict()
    state["t"] = 0
    row = next(r for r in Release(build).rows.to_pylist() if r["example_id"] == before[5][1])
    subject = {"example": row["example_id"], "medium": row["media"][0], "group": row["group"]}
    query = f"task={row['task']},source={row['source']},group={row['group']}"
    withhold(build, scope, {**subject, "query": query}[scope])
    resumed = ShardStream(build, **settings)
    resumed.load_state_dict(state)
    after = keys(resumed, 10)
    rows = {r["example_id"]: r for r in Release(build).rows.to_pylist()}
    live = set(Release(build).live_rows("train")["example_id"].to_pylist())
    changed = 0
    for old, new in zip(sum(before, ()), sum(after, ()), strict=True):
        assert new in live
        assert rows[old]["source"] == rows[new]["source"]
        assert (old == new) == (old in live)
        changed += old != new
    assert changed
    once_more = ShardStream(build, **settings)
    once_more.load_state_dict(state)
    assert keys(once_more, 10) == after


def test_a_withheld_row_that_is_lifted_comes_back_to_its_place(build):
    stream = ShardStream(build, seed=2, global_batch=4)
    before, state = keys(stream, 6), {**stream.state_dict(), "t": 0}
    withhold(build, "example", before[0][0])
    withhold(build, "example", before[0][0], state="live")
    stream.load_state_dict(state)
    assert keys(stream, 6) == before


def damage(build: str, key: str, field: str) -> None:
    """Change one byte in the middle of a member, in its tar."""
    for shard, _ in Build(build).ledgers():
        for row in Build(build).index(shard).to_pylist():
            if (row["key"], row["field"]) == (key, field):
                flip(Path(build) / shard.tar(row["layout"]), (row["offset"] + row["size"] // 2) * 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_wrong_bytes_are_substituted_and_listed_and_shift_nothing(build, tmp_path, workers):
    settings = {"seed": 3, "global_batch": 4, "workers": workers}
    whole = keys(ShardStream(build, **settings), 14)
    victim = next(row for row in Release(build).live_rows("train").to_pylist() if row["task"] == "header_vqa")
    damage(build, victim["media"][0], "ct.b2nd")
    stream = ShardStream(build, quarantine=str(tmp_path / "quarantine.jsonl"), **settings)
    found = keys(stream, 14)
    drawn = {(step, key) for step, batch in enumerate(whole) for key in batch if key == victim["example_id"]}
    assert drawn
    assert {(q["step"], q["example_id"]) for q in stream.quarantined} == drawn
    sources = {row["example_id"]: row["source"] for row in Release(build).rows.to_pylist()}
    for step, (old, new) in enumerate(zip(whole, found, strict=True)):
        stand_ins = [q["substitute"] for q in stream.quarantined if q["step"] == step]
        assert new == tuple(stand_ins.pop(0) if key == victim["example_id"] else key for key in old)
        assert [sources[key] for key in new] == [sources[key] for key in old]
    assert all("crc32c" in q["reason"] and victim["media"][0] in q["reason"] for q in stream.quarantined)
    assert [json.loads(line) for line in (tmp_path / "quarantine.jsonl").open()] == stream.quarantined
    assert keys(ShardStream(build, **settings), 14) == found


def test_a_read_that_fails_once_is_tried_again(build, monkeypatch):
    whole = keys(ShardStream(build, seed=3, global_batch=4), 3)
    read_into, failed = LocalSource.read_into, set()

    def flaky(self, path, start, end, out):
        read_into(self, path, start, end, out)
        if (path, start) not in failed:
            failed.add((path, start))
            out[len(out) // 2] ^= 1

    monkeypatch.setattr(LocalSource, "read_into", flaky)
    stream = ShardStream(build, seed=3, global_batch=4)
    assert keys(stream, 3) == whole
    assert failed
    assert stream.quarantined == []


def test_storage_where_nothing_reads_stops_the_stream(build):
    for tar in Path(build, "media").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(FormatError, match="16 substitutes cannot be read"):
        keys(ShardStream(build, seed=3, global_batch=4), 1)


def test_a_missing_tar_stops_the_stream(build):
    for tar in Path(build, "media").glob("*.tar"):
        tar.unlink()
    with pytest.raises(FormatError, match="is not there"):
        keys(ShardStream(build, seed=3, global_batch=4), 1)


def test_rewritten_examples_stop_the_stream(build):
    stream = ShardStream(build, seed=3, global_batch=4)
    state = stream.state_dict()
    flip(min(Path(build).glob("examples/*/*/part-train-*")), 1000)
    resumed = ShardStream(build, seed=3, global_batch=4)
    resumed.load_state_dict(state)
    with pytest.raises(FormatError, match="was rewritten after release 1 pinned it"):
        keys(resumed, len(resumed) * 2)


def test_a_shard_rewritten_while_it_streams_is_told_from_a_bad_byte(build):
    stream = ShardStream(build, seed=3, global_batch=4, where={"layouts": ["volume", "volume-seg"]})
    keys(stream, len(stream))  # indexes are in memory now
    for tar in Path(build, "media").glob("train-volume*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    for ledger in Path(build, "ledger").glob("train*.json"):
        ledger.write_text(ledger.read_text().replace("sha256", "sha512"))
    with pytest.raises(FormatError, match="was rewritten"):
        keys(stream, 1)


def test_rewritten_rows_stop_a_resume(build):
    stream = ShardStream(build, seed=3, global_batch=4)
    state, rows = stream.state_dict(), Release(build).rows.to_pylist()
    write_release(Build(build).store, rows[::-1], number=1)
    with pytest.raises(FormatError, match="not the one that the stream began with"):
        ShardStream(build, seed=3, global_batch=4).load_state_dict(state)


def test_rows_that_release_json_does_not_promise_stop_a_stream(build):
    Path(build, "releases/0001/rows.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(FormatError, match="was changed after release 1"):
        ShardStream(build, seed=3, global_batch=4)


FILES = {
    "tars": "media/train-*.tar",
    "examples": "examples/*/*/part-train-*.parquet",
    "rows": "releases/0001/rows.parquet",
    "the release's index": "releases/0001/index/train-*.arrow",
    "the index of its index": "releases/0001/index/batches.parquet",
    "release.json": "releases/0001/release.json",
    "the manifest": "manifests/0001.json",
}


@pytest.mark.parametrize("what", FILES)
def test_a_bit_flipped_anywhere_never_reaches_a_batch(small_build, what):
    """Either the stream says what is wrong, or all that it gives is what was stored, flipped bits left out."""
    true, files = truth(small_build, masks=True), sorted(Path(small_build).glob(FILES[what]))
    random, told, quarantined = np.random.default_rng(1), list[tuple[str, str]](), 0
    for n in range(8):
        path = files[n % len(files)]
        bit = int(random.integers(path.stat().st_size * 8))
        flip(path, bit)
        try:
            stream = ShardStream(small_build, seed=n, global_batch=4, masks=True)
            for batch in stream:
                for streamed in batch.examples:
                    assert fingerprint(streamed) == true[streamed.example.example_id]
            quarantined += len(stream.quarantined)
        except MedloomError as fault:
            told.append((path.name, str(fault)))
        flip(path, bit)
    assert all(name in said or "release" in said for name, said in told)
    assert quarantined if what == "tars" else told


@pytest.mark.parametrize("what", ["tars", "examples", "the release's index"])
@pytest.mark.parametrize("workers", [0, 2])
def test_files_deleted_during_a_run_are_named_and_until_then_all_is_right(small_build, what, workers):
    true, files = truth(small_build), sorted(Path(small_build).glob(FILES[what]))
    stream = ShardStream(small_build, seed=1, global_batch=1, workers=workers)
    batches = iter(stream)
    first = next(batches)
    for path in files:
        path.unlink()
    seen = [*first.examples]
    with pytest.raises(FormatError, match="is not there") as caught:
        seen.extend(streamed for batch in batches for streamed in batch.examples)
    assert any(path.name in str(caught.value) for path in files)
    assert [fingerprint(streamed) for streamed in seen] == [true[streamed.example.example_id] for streamed in seen]


def test_an_index_cut_short_during_a_run_is_named_and_kills_nothing(small_build):
    batches = iter(ShardStream(small_build, seed=1, global_batch=1))
    next(batches)
    for path in Path(small_build).glob(FILES["the release's index"]):
        os.truncate(path, 100)
    with pytest.raises(FormatError, match=r"index/train-[\w-]+\.arrow (was cut short|has 100 bytes)"):
        list(batches)


def test_a_tar_cut_short_during_a_run_is_substituted(small_build):
    true = truth(small_build)
    stream = ShardStream(small_build, seed=1, global_batch=4)
    batches = iter(stream)
    next(batches)
    for path in Path(small_build).glob("media/train-jpg-*.tar"):
        os.truncate(path, 700)
    for batch in batches:
        for streamed in batch.examples:
            assert fingerprint(streamed) == true[streamed.example.example_id]
    assert stream.quarantined
    assert all("it has 700" in row["reason"] for row in stream.quarantined)


def test_states_that_changed_after_the_release_are_refused(build):
    """Else a flipped bit could give back what a policy withholds."""
    flip(Path(build, "releases/0001/states.parquet"), 1000)
    with pytest.raises(FormatError, match=r"states\.parquet was changed after release 1"):
        ShardStream(build, seed=1, global_batch=1)
