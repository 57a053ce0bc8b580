"""What a segment draws is pinned: every row comes, none too often, and no stop, resume or withdrawal moves another."""

import collections
import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builds import write_release
from tests.model.streams import withhold
from tests.model.test_packing import count_bytes

from medloom.model.rows import Segment, SegmentRows, StepPlan, begin, live_rows
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release
from medloom.schemas.release_index import has_index
from medloom.schemas.tar_set import TarSet

CHOICE = {
    "t0": 0, "split": "train", "where": {}, "mix": {}, "seed": 1, "global_batch": 4, "buckets": "dimension",
    "shuffle": "global", "pack_tokens": None, "tokenizer": "bytes", "media_tokens": 0,
}  # fmt: skip


def segment_of(release: Release, **choice: object) -> Segment:
    return begin(release, **{**CHOICE, **choice})


def rows_of(release: Release, **choice: object) -> SegmentRows:
    return SegmentRows(release, segment_of(release, **choice))


def same(one: StepPlan, other: StepPlan) -> bool:
    arrays = ("rows", "t", "packs", "rooms")
    return one.lane == other.lane and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)


def drawn(rows: SegmentRows, steps: int) -> list[int]:
    return [int(row) for number in range(steps) for row in rows.step(number).rows]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    """A release whose examples are counted."""
    from tests.builds import synthetic_release

    url = synthetic_release(tmp_path_factory.mktemp("counted"), n_units=60)
    count_bytes(url)
    return Release(url)


MIX = {"papers": 2, "scans": 1}
CHOICES = [
    dict(zip(("global_batch", "buckets", "shuffle", "mix", "pack_tokens"), values, strict=True))
    for values in itertools.product([1, 5], ["dimension", "shape"], ["global"], [{}, MIX], [None, 300])
] + [
    {"global_batch": 3, "buckets": None, "shuffle": "window:2", "mix": mix, "pack_tokens": tokens}
    for mix, tokens in itertools.product([{}, MIX], [None, 300])
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_an_epoch_has_every_row_in_batches_of_one_lane(release, choice):
    rows = rows_of(release, **choice)
    plans = [rows.step(number) for number in range(rows.steps_per_epoch)]
    assert {int(row) for plan in plans for row in plan.rows} == set(live_rows(release, split="train").tolist())
    layouts, shapes = (release.rows[column].to_pylist() for column in ("layouts", "shapes"))
    for plan in plans:
        assert sorted(set(plan.packs.tolist())) == list(range(choice["global_batch"]))
        if choice["buckets"]:
            assert len({layouts[row][0].startswith("volume") for row in plan.rows}) == 1
        if choice["buckets"] == "shape":
            assert plan.lane.startswith("2d") or len({tuple(shapes[row]) for row in plan.rows}) == 1
    for number in (len(plans) - 1, 0, len(plans) // 2):
        assert same(rows_of(release, **choice).step(number), plans[number])
    draws = [int(t) for plan in plans for t in plan.t]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("shuffle", ["global", "window:3"])
@pytest.mark.parametrize("buckets", ["dimension", "shape", None])
def test_one_example_a_step_gives_every_row_exactly_once_an_epoch(release, buckets, shuffle):
    rows = rows_of(release, global_batch=1, buckets=buckets, shuffle=shuffle)
    everything = sorted(live_rows(release, split="train").tolist())
    found = drawn(rows, 3 * rows.steps_per_epoch)
    assert rows.steps_per_epoch == len(everything)
    for epoch in np.array(found).reshape(3, -1).tolist():
        assert sorted(epoch) == everything
    assert found[: len(everything)] != found[len(everything) : 2 * len(everything)]


def test_lanes_advance_at_the_same_rate_and_are_mixed_over_time(release):
    rows = rows_of(release, global_batch=3)
    sizes = {lane.name: -(-lane.size // 3) for lane in rows.lanes}  # in whole steps
    steps = [rows.step(number).lane for number in range(600)]
    for name, size in sizes.items():
        places = np.flatnonzero(np.array(steps) == name)
        share = size / sum(sizes.values())
        assert abs(len(places) / 600 - share) < 0.01
        assert np.diff(places).max() <= 3.5 / share


def test_a_lane_smaller_than_a_batch_comes_once_an_epoch(release):
    pictures, volumes = (lane.size for lane in rows_of(release).lanes)
    batch = 2 * volumes
    rows = rows_of(release, global_batch=batch)
    steps = [rows.step(number).lane for number in range(400)]
    epochs = steps.count("2d") * batch / pictures
    assert steps.count("3d") / epochs == pytest.approx(1, abs=0.1)
    assert rows.steps_per_epoch <= pictures / batch + 5


@pytest.mark.parametrize("buckets", ["dimension", "shape", None])
@pytest.mark.parametrize("mix", [{"papers": 2, "scans": 1}, {"papers": 1, "scans": 4}])
def test_shares_are_exact_in_every_block(release, mix, buckets):
    rows = rows_of(release, mix=mix, buckets=buckets, global_batch=5)
    source = release.rows["source"].to_pylist()
    live = live_rows(release, split="train")
    steps = sum(mix.values())
    if buckets == "shape":  # scans are in several lanes, each with its part of their weight, in n_scans-ths
        steps *= sum(source[row] == "scans" for row in live)
    blocks = np.array([source[row] for row in drawn(rows, 3 * steps)]).reshape(3, -1)
    for block in blocks.tolist():
        per_weight = len(block) // sum(mix.values())
        assert {name: block.count(name) for name in mix} == {name: per_weight * w for name, w in mix.items()}


@given(stops=st.lists(st.integers(0, 25), min_size=1, max_size=4), data=st.data())
@settings(max_examples=12, deadline=None)
def test_segments_that_follow_each_other_lose_and_repeat_nothing(release, stops, data):
    """Batch, packing and mix change at every stop, and each source's rows still come in whole epochs, as if nothing
    had: no row is ahead of another by more than one epoch and what packed windows left open.
    """
    state, found, t0 = None, [], 0
    keys = set()
    for steps in stops:
        choice = {
            "global_batch": data.draw(st.integers(1, 6)), "pack_tokens": data.draw(st.sampled_from([None, 300])),
            "mix": data.draw(st.sampled_from([{"papers": 1, "scans": 3}, MIX])),
        }  # fmt: skip
        rows = SegmentRows(release, segment_of(release, t0=t0, **choice), drawn=state)
        for number in range(steps):
            found += rows.step(number).rows.tolist()
        state, t0 = json.loads(json.dumps(rows.drawn_before(steps))), t0 + steps * choice["global_batch"]
        keys |= set(state)
    assert keys == {"2d", "3d"}
    expected: list[int] = []
    for lane in rows.lanes:
        for name, queue in lane.queues.items():
            had, left = state[lane.name][name]
            ordinals = np.setdiff1d(np.arange(had), left)
            expected += queue.rows[queue.epochs.members(ordinals)].tolist()
    assert sorted(found) == sorted(expected)


def test_epochs_go_on_when_the_mix_changes(release):
    before = rows_of(release, mix={"papers": 1, "scans": 1}, global_batch=1)
    state = before.drawn_before(40)
    after = SegmentRows(release, segment_of(release, t0=40, mix={"papers": 3, "scans": 1}), drawn=state)
    source = np.array(release.rows["source"].to_pylist())
    first, then = drawn(before, 40), drawn(after, 8)
    papers = [row for row in first + then if source[row] == "papers"]
    assert len(set(papers)) == len(papers) > 20


def test_anchors_are_a_cache_and_nothing_more(release):
    segment = segment_of(release, pack_tokens=300, global_batch=2)
    whole = SegmentRows(release, segment)
    plans = [whole.step(number) for number in range(60)]
    epoch = whole.steps_per_epoch
    anchors = json.loads(json.dumps(whole.anchors(40)))
    assert any(first > 0 for _, first in anchors["windows"].values())
    resumed = SegmentRows(release, segment, anchors=anchors)
    assert all(same(resumed.step(number), plans[number]) for number in (40, 59, 0))
    assert resumed.steps_per_epoch == epoch == SegmentRows(release, segment).steps_per_epoch
    assert resumed.fill() == whole.fill()
    assert rows_of(release).anchors(7) == {}
    with pytest.raises(FormatError, match="anchors"):
        SegmentRows(release, segment, anchors={"windows": {"2d": "first"}})


def test_packs_hold_their_budget_and_say_how_full_they_are(release):
    counted = rows_of(release, pack_tokens=10**6, media_tokens=7)
    rows = rows_of(release, pack_tokens=400, media_tokens=7, global_batch=3)
    plans = [rows.step(number) for number in range(rows.steps_per_epoch)]
    for plan in plans:
        loads = np.bincount(plan.packs, weights=plan.rooms)
        assert loads.max() <= 400
        assert plan.fill == pytest.approx(loads.sum() / 1200)
        assert plan.rooms.tolist() == counted._lengths[plan.rows].tolist()
    assert rows.fill() == pytest.approx(np.mean([plan.fill for plan in plans]), abs=0.03)
    assert rows_of(release).fill() == 1
    assert rows_of(release).step(0).fill == 1


def test_rows_longer_than_a_pack_are_refused_unless_left_out(release):
    lengths = count_bytes(release.url.removesuffix("/releases"))
    longest = max(n for n, _ in lengths.values())
    with pytest.raises(ConfigError, match=rf"longer than pack_tokens={longest - 1}, the longest has {longest}"):
        rows_of(release, pack_tokens=longest - 1)
    assert rows_of(release, pack_tokens=longest).step(0).rows.size


def test_counts_that_changed_under_a_stream_are_refused(build):
    count_bytes(build)
    segment = segment_of(Release(build), pack_tokens=4000)
    with pytest.raises(FormatError, match="not those that the stream began with"):
        SegmentRows(Release(build), replace(segment, pack={**segment.pack, "sha256": "0" * 64}))


@pytest.mark.parametrize("pack_tokens", [None, 300])
def test_what_was_withheld_since_is_replaced_and_nothing_else_moves(build, pack_tokens):
    count_bytes(build)
    choice = {"pack_tokens": pack_tokens, "seed": 5}
    segment = segment_of(Release(build), **choice)
    whole = SegmentRows(Release(build), segment)
    steps = 2 * whole.steps_per_epoch
    plans = [whole.step(number) for number in range(steps)]
    gone = sorted({int(row) for row in plans[1].rows} | {int(plans[0].rows[0])})
    ids, source, layouts = (whole.source.rows[c].to_pylist() for c in ("example_id", "source", "layouts"))
    for row in gone:
        withhold(build, "example", ids[row])
    release = Release(build)
    resumed = SegmentRows(release, segment)
    for number in range(steps):
        plan = resumed.step(number)
        assert plan.lane == plans[number].lane
        assert np.array_equal(plan.t, plans[number].t)
        assert np.array_equal(plan.rooms, plans[number].rooms)
        for row, stood, room in zip(plan.rows, plans[number].rows, plan.rooms, strict=True):
            if stood not in gone:
                assert row == stood
            elif row >= 0:
                assert row not in gone
                assert (source[row], len(layouts[row]) > 0) == (source[stood], len(layouts[stood]) > 0)
                assert pack_tokens is None or resumed._lengths[row] <= room
            else:
                assert pack_tokens
    assert same(SegmentRows(release, segment).step(1), resumed.step(1))
    fresh = SegmentRows(release, segment_of(release, **choice))
    assert not set(drawn(fresh, fresh.steps_per_epoch)) & set(gone)


def test_a_substitute_is_another_row_of_its_source_and_lane_and_no_longer_than_its_room(release):
    rows = rows_of(release, pack_tokens=500)
    lengths, source = rows._lengths, np.array(release.rows["source"].to_pylist())
    lane_of = np.array([row[0].startswith("volume") if row else None for row in release.rows["layouts"].to_pylist()])
    live = live_rows(release, split="train")
    row = int(live[3])
    for room in (0, int(lengths[live].min()), int(lengths[row]), 500):
        allowed = {
            int(r) for r in live if lengths[r] <= room and source[r] == source[row] and lane_of[r] == lane_of[row]
        }
        found = {rows.substitute(t, row, attempt, room) for t in range(500) for attempt in range(2)}
        assert found == ((allowed - {row}) or {-1})
        assert rows.substitute(9, row, 1, room) == rows.substitute(9, row, 1, room)


def test_a_source_of_pictures_and_volumes_stands_in_for_each_by_its_like(build):
    rows = [{**row, "source": "one"} for row in Release(build).rows.to_pylist()]
    write_release(Build(build).store, rows, number=2)
    release = Release(build)
    live = live_rows(release, split="train").tolist()
    volumes = {row for row in live if rows[row]["layouts"][0].startswith("volume")}
    for some, drawing in itertools.product(
        (volumes, set(live) - volumes), (rows_of(release), rows_of(release, mix={"one": 1}))
    ):
        found = {drawing.substitute(t, min(some), 0) for t in range(60)}
        assert found <= some - {min(some)}
        assert len(found) > 1


def test_without_a_mix_another_source_of_the_lane_stands_in_before_a_run_must_stop(build):
    release = Release(build)
    rows = release.rows.to_pylist()
    for row in rows:
        row["source"] = "papers" if row["layouts"][0] in ("jpg", "png") else row["shapes"][0]
    write_release(Build(build).store, rows, number=2)
    release = Release(build)
    scans = [i for i in live_rows(release, split="train") if rows[i]["source"] != "papers"]
    lonely = next(i for i in scans if sum(rows[j]["source"] == rows[i]["source"] for j in scans) <= 3)
    alike = [j for j in scans if rows[j]["source"] == rows[lonely]["source"]]
    assert len(alike) < len(scans)
    segments = [segment_of(release), segment_of(release, mix={rows[lonely]["source"]: 1, "papers": 1})]
    for j in alike:
        withhold(build, "example", rows[j]["example_id"])
    free, mixed = (SegmentRows(Release(build), segment) for segment in segments)
    assert {free.substitute(t, lonely, 0) for t in range(200)} == set(scans) - set(alike)
    with pytest.raises(FormatError, match="no other live row in lane 3d"):
        mixed.substitute(3, lonely, 0)


@pytest.mark.parametrize(
    ("where", "good"),
    [
        ({"plane": "axial"}, lambda e: set(e["layouts"]) <= {"volume", "volume-seg"}),
        ({"dtype": ["int16", "uint8"]}, lambda e: True),
        ({"dtype": "int16", "modalities": "CT"}, lambda e: set(e["modalities"]) == {"CT"}),
        ({"modality": "CT"}, lambda e: set(e["modalities"]) == {"CT"}),
        ({"body_part": "head"}, lambda e: False),
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
def test_where_asks_the_index_of_all_media_of_a_row(build, where, good, is_old):
    if is_old:  # a release of before releases had an index of their own
        path = Path(build, "releases/0001/release.json")
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "index"}))
    release = Release(build)
    assert has_index(release) != is_old
    rows = release.live_rows("train").to_pylist()
    wanted = sorted(row["example_id"] for row in rows if good(row))
    found = live_rows(release, split="train", where=where)
    assert sorted(release.rows["example_id"].take(found).to_pylist()) == wanted


def test_a_window_holds_all_rows_of_its_shards_in_whatever_order_the_release_has_them(build):
    rows = sorted(Release(build).rows.to_pylist(), key=lambda row: row["example_id"])
    write_release(Build(build).store, rows, number=2)
    drawing = rows_of(Release(build), global_batch=1, buckets=None, shuffle="window:1")
    shards = [rows[row]["part"][-12:] for row in drawn(drawing, drawing.steps_per_epoch)]
    assert len(list(itertools.groupby(shards))) == len(set(shards)) > 2


def test_samples_of_anyones_tars_are_drawn_once_an_epoch_and_a_window_keeps_to_its_tars(tmp_path):
    for number in range(6):
        with tarfile.open(tmp_path / f"train-{number:06d}.tar", "w") as tar:
            for sample in range(3 + number):
                for field in ("jpg", "txt") if number % 2 else ("jpg",):
                    tar.add(__file__, f"{number}-{sample}.{field}")
    tars = TarSet(str(tmp_path))
    rows = rows_of(tars, global_batch=1, shuffle="window:2")
    found = drawn(rows, rows.steps_per_epoch)
    assert sorted(found) == list(range(sum(3 + number for number in range(6))))
    parts = tars.rows["part"].take(found).to_pylist()
    order = list(dict.fromkeys(parts))
    assert len(order) == 6
    at = 0
    for window in (order[:2], order[2:4], order[4:]):
        size = sum(parts.count(part) for part in window)
        assert set(parts[at : at + size]) == set(window)
        at += size
    assert drawn(rows_of(tars, where={"units": ""}, global_batch=1), 1)
    with pytest.raises(ConfigError, match="token counts"):
        rows_of(tars, pack_tokens=100)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"buckets": "size"}, "buckets='size': choose None, 'dimension', 'shape'"),
        ({"shuffle": "window"}, "window:N"),
        ({"shuffle": "window:0"}, "window:N"),
        ({"global_batch": 0}, "global_batch=0"),
        ({"pack_tokens": 0}, "pack_tokens=0"),
        ({"pack_tokens": 99, "media_tokens": -1}, "media_tokens=-1"),
        ({"pack_tokens": 10**6, "media_tokens": 10**12}, "the longest has 2147483647"),
        ({"where": {"organ": "liver"}}, "organ.*example_id.*body_part"),
        ({"where": {"plane": 3}}, "plane, a column of string"),
    ],
)
def test_the_users_mistakes_are_named(release, choice, message):
    with pytest.raises(ConfigError, match=message):
        segment_of(release, **choice) and rows_of(release, **choice)


def test_a_segment_survives_its_json(release):
    for choice in ({}, {"pack_tokens": 500, "media_tokens": 3}, {"mix": MIX, "where": {"task": {"caption"}}}):
        segment = segment_of(release, t0=12, **choice)
        assert Segment.from_json(json.loads(json.dumps(segment.to_json()))) == segment


def test_what_is_no_segment_is_refused(release):
    good = segment_of(release, pack_tokens=500).to_json()
    assert Segment.from_json(good)
    for name in good:
        with pytest.raises(FormatError, match="cannot resume"):
            Segment.from_json({key: value for key, value in good.items() if key != name})
    for name, value in [("order_version", 1), ("mix", []), ("pack", 3), ("global_batch", 0), ("shuffle", "x")]:
        with pytest.raises(FormatError, match="cannot resume"):
            Segment.from_json({**good, name: value})


def test_only_a_segment_of_the_same_rows_in_the_same_order_continues_another(release):
    segment = segment_of(release)
    assert segment_of(release, t0=8, global_batch=6, pack_tokens=400).continues(segment)
    mixed = segment_of(release, t0=8, mix=MIX)
    assert segment_of(release, mix={**MIX, next(iter(MIX)): 7}).continues(mixed)
    assert not mixed.continues(segment)  # all rows in one queue, and a queue of each source
    for choice in ({"seed": 2}, {"where": {"task": "caption"}}, {"shuffle": "window:2"}, {"buckets": None}):
        assert not segment_of(release, **choice).continues(segment)


def test_draw_numbers_go_on_in_the_next_segment(release):
    first = rows_of(release, pack_tokens=300)
    second = SegmentRows(release, segment_of(release, t0=4 * 10, global_batch=4))
    numbers = collections.Counter(
        int(t) for rows, steps in ((first, 10), (second, 10)) for n in range(steps) for t in rows.step(n).t
    )
    assert max(numbers.values()) == 1
    assert second.step(2).t.tolist() == [48, 49, 50, 51]
