"""A stream gives the same global batches whatever the ranks, workers, threads, stops and faults."""

import json
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tests.builds import write_release

from medloom.model.stream import ShardStream
from medloom.schemas.b2nd import encode_volume
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.release import Release, append_overlay
from medloom.schemas.shard import shard_name
from medloom.schemas.store import Store


def keys(stream, steps: int) -> list[tuple[str, ...]]:
    """Example ids of the next batches, across epochs."""
    found: list[tuple[str, ...]] = []
    while len(found) < steps:
        found += [batch.keys for batch in islice(stream, steps - len(found))]
    return found


def interleaved(shares: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The global batch of which rank r has every world-th example."""
    whole = [""] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return tuple(whole)


def withhold(build: str, scope: str, subject: str, state: str = "withheld") -> None:
    row = {"scope": scope, "id": subject, "state": state, "reason": "test", "by": "curator:test"}
    append_overlay(Store(f"{build}/releases"), [row])


def test_an_epoch_gives_every_row_once(shared_build):
    stream = ShardStream(shared_build, seed=1, global_batch=1)
    ids = [key for batch in stream for key in batch.keys]
    assert sorted(ids) == sorted(Release(shared_build).live_rows("train")["example_id"].to_pylist())
    assert len(stream) == len(ids)
    again = [key for batch in stream for key in batch.keys]
    assert sorted(again) == sorted(ids)
    assert again != ids


def test_what_is_streamed_is_what_was_stored(shared_build):
    build = Build(shared_build)
    stored = {row["example_id"]: row for row in build.examples().to_pylist()}
    stream = ShardStream(shared_build, seed=2, global_batch=5)
    pictures = volumes = 0
    for batch in stream:
        for streamed in batch.examples:
            row = stored[streamed.example.example_id]
            assert [t.role for t in streamed.example.turns] == [t["role"] for t in row["turns"]]
            texts = [p["text"] for t in row["turns"] for p in t["parts"]]
            assert [p.text for t in streamed.example.turns for p in t.parts] == texts
            assert streamed.example.measured == dict(row["measured"])
            assert list(streamed.media) == row["media"]
            for key, medium in streamed.media.items():
                assert medium.facts["key"] == key
                assert medium.facts["layout"] == medium.layout
                if medium.layout.startswith("volume"):
                    volumes += 1
                    assert medium.content.dtype == np.int16
                    assert list(medium.content.shape) == medium.facts["shape"]
                    p01 = medium.facts["measured"]["p01"]
                    assert p01 == pytest.approx(np.percentile(medium.content, 1))
                else:
                    pictures += 1
                    facts = medium.facts
                    assert medium.content.shape == (facts["height"], facts["width"], 3)
                    assert medium.content.dtype == np.uint8
                    assert abs(medium.content.mean() - facts["measured"]["mean"]) < 2  # JPEG rounds
    assert pictures
    assert volumes


@pytest.mark.parametrize("global_batch", [4, 7])
def test_ranks_share_one_global_batch_whatever_their_number(shared_build, global_batch):
    whole = keys(ShardStream(shared_build, seed=3, global_batch=global_batch), 9)
    for world in (1, 2, 3, 4):
        ranks = [
            ShardStream(shared_build, seed=3, global_batch=global_batch, rank=r, world_size=world) for r in range(world)
        ]
        shares = [keys(stream, 9) for stream in ranks]
        assert [interleaved([share[step] for share in shares]) for step in range(9)] == whole


@pytest.mark.parametrize("mix", [None, {"papers": 2, "scans": 1}])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 3), (4, 1), (1, 4), (3, 2)])
def test_a_resume_on_another_world_size_repeats_and_loses_nothing(shared_build, mix, before, after):
    settings = {"seed": 4, "global_batch": 6, "mix": mix}
    whole = keys(ShardStream(shared_build, **settings), 12)
    first = [ShardStream(shared_build, **settings, rank=r, world_size=before) for r in range(before)]
    begun = [keys(stream, 5) for stream in first]
    state = json.loads(json.dumps(first[0].state_dict()))
    assert all(stream.state_dict() == state for stream in first)
    second = [ShardStream(shared_build, **settings, rank=r, world_size=after) for r in range(after)]
    for stream in second:
        stream.load_state_dict(state)
    ended = [keys(stream, 7) for stream in second]
    shares = [begun] * 5 + [ended] * 7
    steps = [*range(5), *range(7)]
    assert [interleaved([s[step] for s in part]) for part, step in zip(shares, steps, strict=True)] == whole


def test_a_mix_has_exact_shares_in_every_block(shared_build):
    stream = ShardStream(shared_build, seed=5, global_batch=5, mix={"papers": 3, "scans": 2})
    for batch in [batch for _ in range(2) for batch in stream]:
        sources = [streamed.example.source for streamed in batch.examples]
        assert (sources.count("papers"), sources.count("scans")) == (3, 2)


def test_at_says_what_a_step_holds(shared_build):
    settings = {"seed": 6, "global_batch": 4, "mix": {"papers": 1, "scans": 1}}
    found = keys(ShardStream(shared_build, **settings), 8)
    stream = ShardStream(shared_build, **settings)
    assert [stream.at(step) for step in (7, 0, 3)] == [found[7], found[0], found[3]]
    assert stream.state_dict()["t"] == 0


def test_threads_and_pickles_change_nothing(shared_build):
    whole = keys(ShardStream(shared_build, seed=7, global_batch=4), 15)
    assert keys(ShardStream(shared_build, seed=7, global_batch=4, threads=3), 15) == whole
    assert keys(pickle.loads(pickle.dumps(ShardStream(shared_build, seed=7, global_batch=4))), 15) == whole


def test_reading_ahead_leaves_the_state_at_the_batch_given(shared_build):
    stream = ShardStream(shared_build, seed=7, global_batch=4, threads=2)
    steps = iter(stream)
    next(steps), next(steps)
    assert stream.state_dict()["t"] == 8
    steps.close()
    other = ShardStream(shared_build, seed=7, global_batch=4)
    other.load_state_dict(stream.state_dict())
    assert next(iter(other)).step == 2


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_dataloader_gives_the_same_batches_with_any_workers(shared_build, workers):
    data = pytest.importorskip("torch.utils.data")
    whole = keys(ShardStream(shared_build, seed=8, global_batch=4), 6)
    stream = ShardStream(shared_build, seed=8, global_batch=4)

    class Wrapped(data.IterableDataset):
        def __iter__(self):
            return islice(iter(stream), 6)

    batches = list(data.DataLoader(Wrapped(), batch_size=None, num_workers=workers))
    assert [batch.keys for batch in batches][:6] == whole
    state = stream.state_dict(after=batches[3])
    stream.load_state_dict(state)
    assert next(iter(stream)).keys == whole[4]


@pytest.mark.parametrize(
    ("where", "good"),
    [
        ({"task": "caption"}, lambda e: e["task"] == "caption"),
        ({"task": ["caption", "interleaved"]}, lambda e: e["task"] != "header_vqa"),
        ({"modalities": "CT"}, lambda e: set(e["modalities"]) == {"CT"}),
        ({"modalities": ["CT", "MR"], "layouts": ["volume"]}, lambda e: set(e["layouts"]) == {"volume"}),
        ({"layouts": {"png"}}, lambda e: set(e["layouts"]) == {"png"}),
        ({"row": 0}, lambda e: e["row"] == 0),
    ],
)
def test_where_keeps_rows_by_their_columns(shared_build, where, good):
    rows = Release(shared_build).live_rows("train").to_pylist()
    wanted = {row["example_id"] for row in rows if good(row)}
    stream = ShardStream(shared_build, seed=9, global_batch=1, where=where)
    assert {key for step in range(len(stream)) for key in stream.at(step)} == wanted
    assert wanted


def test_a_predicate_on_media_holds_for_all_media_of_the_example(build):
    release = Release(build)
    rows = release.rows.to_pylist()
    mixed = next(row for row in rows if row["split"] == "train" and row["task"] == "interleaved")
    mixed["modalities"] = ["figure", "CT"]
    bare = next(row for row in rows if row["split"] == "train" and row["task"] == "caption")
    bare["modalities"], bare["media"] = [], []
    write_release(Build(build).store, rows, number=2)
    stream = ShardStream(build, seed=9, global_batch=1, where={"modalities": "figure"})
    found = {key for step in range(len(stream)) for key in stream.at(step)}
    assert mixed["example_id"] not in found
    assert bare["example_id"] not in found
    assert found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": {"organ": "liver"}}, "organ.*columns of a release are example_id"),
        ({"where": {"row": "first"}}, "int32"),
        ({"where": {"task": "sonnets"}}, "no live row"),
        ({"mix": {"papers": 1, "dreams": 1}}, "dreams.*papers, scans"),
        ({"mix": {"papers": -1}}, "weight"),
        ({"split": "training"}, r"train \(\d+\)"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"world_size": 8}, "global_batch 4"),
    ],
)
def test_the_users_mistakes_are_named(shared_build, settings, message):
    with pytest.raises(ConfigError, match=message):
        ShardStream(shared_build, **{"seed": 1, "global_batch": 4, **settings})


def test_a_folder_without_a_release_says_how_to_make_one(tmp_path):
    with pytest.raises(SourceError, match="medloom release"):
        ShardStream(str(tmp_path), seed=1, global_batch=1)


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


def test_a_resume_stays_with_its_release_and_a_new_segment_takes_the_newest(build):
    stream = ShardStream(build, seed=3, global_batch=4)
    whole = keys(stream, 8)
    stream.load_state_dict({**stream.state_dict(), "t": 16})
    state = stream.state_dict()
    rows = Release(build).rows.to_pylist()
    write_release(Build(build).store, rows[: len(rows) // 2], number=2)
    resumed = ShardStream(build, seed=3, global_batch=4)
    resumed.load_state_dict(state)
    assert keys(resumed, 4) == whole[4:]
    renewed = ShardStream(build, seed=3, global_batch=4)
    renewed.load_state_dict(state, begin_segment=True)
    assert [s.release for s in renewed.segments] == [1, 2]
    assert renewed.at(0) == whole[0]
    half = {row["example_id"] for row in rows[: len(rows) // 2]}
    assert {key for batch in keys(renewed, 6) for key in batch} <= half
    assert renewed.state_dict()["t"] == 40


def test_the_mix_may_change_mid_run_and_epochs_go_on(build):
    first = ShardStream(build, seed=5, global_batch=4, mix={"papers": 1, "scans": 1})
    begun = keys(first, 2)
    withhold(build, "example", next(k for k in first.at(5)))  # a later overlay does not restart the epochs
    second = ShardStream(build, seed=5, global_batch=4, mix={"papers": 3, "scans": 1})
    with pytest.raises(ConfigError, match="begin_segment"):
        second.load_state_dict(first.state_dict())
    second.load_state_dict(first.state_dict(), begin_segment=True)
    ended = keys(second, 4)
    sources = {row["example_id"]: row["source"] for row in Release(build).rows.to_pylist()}
    assert all([sources[key] for key in batch].count("papers") == 3 for batch in ended)
    papers = [key for batch in begun + ended for key in batch if sources[key] == "papers"]
    withheld_stand_ins = len(papers) - len(set(papers))
    assert withheld_stand_ins <= 1  # 16 draws of more than 16 rows: none comes twice, but for a substitute
    third = ShardStream(build, seed=5, global_batch=4, mix={"papers": 3, "scans": 1})
    third.load_state_dict(second.state_dict())
    assert third.at(1) == second.at(1) == begun[1]
    assert keys(third, 3) == keys(second, 3)


@pytest.mark.parametrize("state", ["{}", '{"version": 1, "t": 3}', '{"version": 2, "t": 4, "segments": [1]}'])
def test_what_is_no_state_is_refused(shared_build, state):
    with pytest.raises(FormatError, match="cannot resume"):
        ShardStream(shared_build, seed=1, global_batch=4).load_state_dict(state)


def test_a_state_of_another_order_is_refused(shared_build):
    stream = ShardStream(shared_build, seed=1, global_batch=4)
    state = stream.state_dict()
    state["segments"][0]["order_version"] = 99
    with pytest.raises(FormatError, match="order_version is 99"):
        stream.load_state_dict(state)


def test_the_state_is_short(shared_build):
    stream = ShardStream(shared_build, seed=1, global_batch=4, mix={"papers": 3, "scans": 1})
    keys(stream, 20)
    assert len(json.dumps(stream.state_dict())) < 400


def test_a_build_may_grow_under_a_stream(build):
    """What a later build step adds is in no pinned manifest, so nothing changes."""
    whole = keys(ShardStream(build, seed=1, global_batch=4), 5)
    Path(build, "ledger/train-000099.json").write_text('{"format_version": 1, "tars": {}}')
    assert keys(ShardStream(build, seed=1, global_batch=4), 5) == whole


def test_streaming_needs_none_of_the_heavy_libraries(shared_build):
    heavy = "torch", "ray", "pyspark", "transformers", "pandas", "typer", "rich", "pydantic"
    script = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {heavy}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import medloom\n"
        f"stream = medloom.ShardStream({shared_build!r}, seed=1, global_batch=8)\n"
        "print(len(next(iter(stream)).examples))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("8", "")


def test_a_picture_of_any_kind_becomes_rows_columns_channels():
    import io

    from PIL import Image

    from medloom.model.reader import _picture

    for mode, channels in (("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("RGBA", 4), ("I;16", 1)):
        file = io.BytesIO()
        Image.new(mode, (5, 3)).save(file, "PNG")
        assert _picture(file.getvalue(), "key").shape == (3, 5, channels), mode


def test_a_volume_is_bit_exact(shared_build):
    stream = ShardStream(shared_build, seed=1, global_batch=1, where={"layouts": ["volume", "volume-seg"]})
    medium = next(iter(next(iter(stream)).examples[0].media.values()))
    stored = Build(shared_build)
    for shard in [shard_name("train-000000"), shard_name("train-000001"), shard_name("train-000002")]:
        for row in stored.index(shard).to_pylist():
            if (row["key"], row["field"]) == (medium.facts["key"], "ct.b2nd"):
                assert encode_volume(medium.content, isotropic=False).data == stored.member(row, shard)
                return
    pytest.fail("the medium is in no index")
