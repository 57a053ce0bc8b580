"""A stream gives the same global batches whatever the ranks, workers, threads, stops and faults."""

import json
import pickle
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
from tests.builds import write_release
from tests.model.streams import flip, keys, withhold

from medloom.model.stream import ShardStream
from medloom.schemas.b2nd import encode_volume
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.release import Release
from medloom.schemas.shard import shard_name
from medloom.schemas.tables import measured_values


def interleaved(shares: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The global batch of which rank r has every world-th example."""
    whole = [""] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return tuple(whole)


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
            assert streamed.example.measured == measured_values(row["measured"])
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
    stream = ShardStream(shared_build, seed=5, global_batch=5, mix={"papers": 3, "scans": 2}, buckets=None)
    for batch in [batch for _ in range(2) for batch in stream]:
        sources = [streamed.example.source for streamed in batch.examples]
        assert (sources.count("papers"), sources.count("scans")) == (3, 2)


def test_pictures_and_volumes_never_share_a_batch_and_come_mixed_over_time(shared_build):
    layouts = {row["example_id"]: row["layouts"] for row in Release(shared_build).rows.to_pylist()}
    stream = ShardStream(shared_build, seed=5, global_batch=4)
    lanes = []
    for step in range(2 * len(stream)):
        kinds = {layout.startswith("volume") for key in stream.at(step) for layout in layouts[key]}
        assert len(kinds) == 1
        lanes.append(kinds.pop())
    volumes = sum(
        row["layouts"][0].startswith("volume") for row in Release(shared_build).live_rows("train").to_pylist()
    )
    share = volumes / Release(shared_build).live_rows("train").num_rows
    for n in range(1, len(lanes) + 1):
        assert abs(sum(lanes[:n]) - n * share) < 1.5
    assert [batch.lane for batch in stream] == ["3d" if is_volume else "2d" for is_volume in lanes[: len(stream)]]


def test_a_mix_over_lanes_has_its_shares(shared_build):
    sources = {row["example_id"]: row["source"] for row in Release(shared_build).rows.to_pylist()}
    stream = ShardStream(shared_build, seed=5, global_batch=4, mix={"papers": 2, "scans": 1})
    drawn = [sources[key] for step in range(60) for key in stream.at(step)]
    assert abs(drawn.count("papers") - 160) <= 4


def test_at_says_what_a_step_holds(shared_build):
    settings = {"seed": 6, "global_batch": 4, "mix": {"papers": 1, "scans": 1}}
    found = keys(ShardStream(shared_build, **settings), 8)
    stream = ShardStream(shared_build, **settings)
    assert [stream.at(step) for step in (7, 0, 3)] == [found[7], found[0], found[3]]
    assert stream.state_dict()["t"] == 0


def test_threads_and_pickles_change_nothing(shared_build):
    whole = keys(ShardStream(shared_build, seed=7, global_batch=4), 15)
    assert keys(ShardStream(shared_build, seed=7, global_batch=4, workers=3), 15) == whole
    assert keys(pickle.loads(pickle.dumps(ShardStream(shared_build, seed=7, global_batch=4))), 15) == whole


def shapes_of(batch):
    return [[medium.content.shape for medium in example.media.values()] for example in batch.examples]


def test_processes_give_the_same_batches_and_may_transform_them(shared_build, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))  # so that they find `shapes_of`
    here = ShardStream(shared_build, seed=7, global_batch=4, transform=shapes_of)
    apart = ShardStream(shared_build, seed=7, global_batch=4, workers=2, processes=True, transform=shapes_of)
    assert list(islice(apart, 5)) == list(islice(here, 5))
    assert apart.state_dict() == here.state_dict()
    assert apart.meter.snapshot()["busy_s"]["decode"] > 0  # counted there, told here


def test_a_state_is_taken_behind_any_step(shared_build):
    stream = ShardStream(shared_build, seed=7, global_batch=4, workers=2)
    batches = list(islice(stream, 4))
    assert stream.state_dict(after=batches[1]) == stream.state_dict(after=1)
    stream.load_state_dict(stream.state_dict(after=1))
    assert next(iter(stream)).keys == batches[2].keys


def test_a_state_loaded_before_the_first_batch_of_an_iterator_counts(shared_build):
    stream = ShardStream(shared_build, seed=7, global_batch=4)
    state = stream.state_dict(after=2)
    steps = iter(stream)
    stream.load_state_dict(state)
    assert [next(steps).step, stream.next_step] == [3, 4]


def test_reading_ahead_leaves_the_state_at_the_batch_given(shared_build):
    stream = ShardStream(shared_build, seed=7, global_batch=4, workers=2)
    steps = iter(stream)
    next(steps), next(steps)
    assert stream.state_dict()["t"] == 8
    steps.close()
    other = ShardStream(shared_build, seed=7, global_batch=4)
    other.load_state_dict(stream.state_dict())
    assert next(iter(other)).step == 2


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_dataloader_gives_the_same_batches_with_any_workers(shared_build, workers):
    pytest.importorskip("torch")
    whole = keys(ShardStream(shared_build, seed=8, global_batch=4), 6)
    stream = ShardStream(shared_build, seed=8, global_batch=4)
    context = {"multiprocessing_context": "fork"} if workers else {}  # spawning takes seconds each
    batches = list(islice(stream.dataloader(num_workers=workers, **context), 6))
    assert [batch.keys for batch in batches] == whole
    state = stream.state_dict(after=batches[3])
    stream.load_state_dict(state)
    assert next(iter(stream)).keys == whole[4]


def test_a_dataloader_goes_on_where_the_stream_stands(shared_build):
    """Its workers are copies, which are ahead and are gone after a pass."""
    pytest.importorskip("torch")
    plain = ShardStream(shared_build, seed=8, global_batch=7)
    passes = [[batch.keys for batch in plain] for _ in range(2)]
    stream = ShardStream(shared_build, seed=8, global_batch=7)
    loader = stream.dataloader(num_workers=2, multiprocessing_context="fork")
    assert [batch.keys for batch in loader] == passes[0]
    assert stream.state_dict()["t"] == 7 * len(stream)
    assert [batch.keys for batch in islice(loader, 2)] == passes[1][:2]
    assert [batch.keys for batch in loader] == passes[1][2:]
    assert stream.meter.snapshot()["busy_s"]["decode"] > 0
    with pytest.raises(ConfigError, match="persistent_workers"):
        stream.dataloader(num_workers=1, persistent_workers=True)


def test_a_dataloader_tells_what_its_workers_could_not_read(build):
    pytest.importorskip("torch")
    first = ShardStream(build, seed=8, global_batch=4)
    bad = next(iter(first)).examples[0]
    key = next(iter(bad.media))
    for shard in ("train-000000", "train-000001", "train-000002"):
        for row in Build(build).index(shard_name(shard)).to_pylist():
            if row["key"] == key and row["field"] in ("jpg", "png", "ct.b2nd"):
                flip(Path(build, shard_name(shard).tar(row["layout"])), 8 * (row["offset"] + row["size"] // 2))
    stream = ShardStream(build, seed=8, global_batch=4)
    next(iter(stream.dataloader(num_workers=1, multiprocessing_context="fork")))
    assert [refused["example_id"] for refused in stream.quarantined] == [bad.example.example_id]


@pytest.mark.parametrize("seed", [True, 3.0, "3"])
def test_a_seed_that_json_would_change_is_refused(shared_build, seed):
    with pytest.raises(ConfigError, match="whole number"):
        ShardStream(shared_build, seed=seed, global_batch=1)


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
        ({"where": {"organ": "liver"}}, "organ.*example_id"),
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


def test_a_build_without_a_release_is_not_taken_for_a_folder_of_tars(build):
    shutil.rmtree(Path(build, "releases"))
    with pytest.raises(SourceError, match="build without a release; `medloom release"):
        ShardStream(build, seed=1, global_batch=1)


def test_the_tars_of_a_build_are_streamed_by_its_release_only(shared_build):
    for data in (f"{shared_build}/media", sorted(map(str, Path(shared_build, "media").glob("*.tar")))):
        with pytest.raises(SourceError, match="tars of a build"):
            ShardStream(data, seed=1, global_batch=1)


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
    sources = {row["example_id"]: row["source"] for row in Release(build).rows.to_pylist()}
    n_papers = Release(build).live_rows("train")["source"].to_pylist().count("papers")
    first = ShardStream(build, seed=5, global_batch=4, mix={"papers": 1, "scans": 1}, buckets=None)
    begun = keys(first, 6)
    later = next(key for key in first.at(6) if sources[key] == "scans")
    withhold(build, "example", later)  # a longer overlay does not restart the epochs of an unchanged release
    second = ShardStream(build, seed=5, global_batch=4, mix={"papers": 3, "scans": 1}, buckets=None)
    with pytest.raises(ConfigError, match="begin_segment"):
        second.load_state_dict(first.state_dict())
    second.load_state_dict(first.state_dict(), begin_segment=True)
    assert (n_papers - 12) % 3 == 0
    ended = keys(second, (n_papers - 12) // 3)
    assert all([sources[key] for key in batch].count("papers") == 3 for batch in ended)
    papers = [key for batch in begun + ended for key in batch if sources[key] == "papers"]
    assert len(papers) == len(set(papers)) == n_papers  # one epoch, across the change: none twice, none left out
    assert later not in {key for batch in ended for key in batch}
    third = ShardStream(build, seed=5, global_batch=4, mix={"papers": 3, "scans": 1}, buckets=None)
    third.load_state_dict(second.state_dict())
    assert third.at(1) == second.at(1)
    assert {key for key in third.at(1) if sources[key] == "papers"} <= set(begun[1])
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


def test_a_build_that_was_copied_to_an_object_store_streams_the_same(shared_build):
    files = fsspec.filesystem("memory")
    files.put(shared_build, "/bucket/data/build", recursive=True)
    try:
        local, remote = (
            ShardStream(url, seed=1, global_batch=4) for url in (shared_build, "memory://bucket/data/build")
        )
        assert keys(remote, 5) == keys(local, 5)
        assert remote.state_dict() == local.state_dict()
    finally:
        files.rm("/bucket", recursive=True)


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
