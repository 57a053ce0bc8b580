"""What is withheld, damaged or rewritten under a stream: substituted in its place and listed, or stopped at."""

from pathlib import Path

import pytest
from tests.builds import write_release
from tests.model.streams import keys, withhold

from medloom.model.stream import ShardStream
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.release import Release
from medloom.schemas.store import Store


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
                path = Path(build) / shard.tar(row["layout"])
                data = bytearray(path.read_bytes())
                data[row["offset"] + row["size"] // 2] ^= 0xFF
                path.write_bytes(data)


@pytest.mark.parametrize("threads", [0, 2])
def test_wrong_bytes_are_substituted_and_listed_and_shift_nothing(build, threads):
    settings = {"seed": 3, "global_batch": 4, "threads": threads}
    whole = keys(ShardStream(build, **settings), 14)
    victim = next(row for row in Release(build).live_rows("train").to_pylist() if row["task"] == "header_vqa")
    damage(build, victim["media"][0], "ct.b2nd")
    stream = ShardStream(build, **settings)
    found = keys(stream, 14)
    assert {(q["t"], q["example_id"]) for q in stream.quarantined} == {
        (4 * step + i, key)
        for step, batch in enumerate(whole)
        for i, key in enumerate(batch)
        if key == victim["example_id"]
    }
    stand_ins = {q["t"]: q["substitute"] for q in stream.quarantined}
    sources = {row["example_id"]: row["source"] for row in Release(build).rows.to_pylist()}
    for t, (old, new) in enumerate(zip(sum(whole, ()), sum(found, ()), strict=True)):
        assert new == stand_ins.get(t, old)
        assert sources[new] == sources[old]
    assert all("crc32c" in q["reason"] for q in stream.quarantined)
    assert stand_ins
    again = ShardStream(build, **settings)
    assert keys(again, 14) == found


def test_a_read_that_fails_once_is_tried_again(build, monkeypatch):
    whole = keys(ShardStream(build, seed=3, global_batch=4), 3)
    read, failed = Store.read, set()

    def flaky(self, name, start=None, end=None):
        data = read(self, name, start, end)
        if start is not None and (name, start) not in failed:
            failed.add((name, start))
            return data[:-1]
        return data

    monkeypatch.setattr(Store, "read", flaky)
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


@pytest.mark.parametrize("what", ["ledger/train-000000.json", "index/train-*", "examples/*/*/part-train-*"])
def test_a_rewritten_shard_stops_the_stream(build, what):
    path = min(Path(build).glob(what))
    stream = ShardStream(build, seed=3, global_batch=4)
    state = stream.state_dict()
    path.write_bytes(path.read_bytes() + b"\n")
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
        ledger.write_text(ledger.read_text() + "\n")
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
