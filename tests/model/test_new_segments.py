"""A run goes on with another mix, batch or what is live now: epochs go on where they can, nothing comes twice."""

import pytest
from tests.model.streams import keys, withhold

from medloom.model.stream import ShardStream
from medloom.pipelines.tokens import count_tokens
from medloom.schemas.errors import FormatError
from medloom.schemas.release import Release


def test_a_withdrawal_of_all_of_a_lane_is_got_over_by_a_new_segment(build):
    settings = {"seed": 3, "global_batch": 2}
    stream = ShardStream(build, **settings)
    rows = Release(build).rows.to_pylist()
    scans = [row["example_id"] for row in rows if row["source"] == "scans" and row["split"] == "train"]
    state = stream.state_dict(after=0)
    for scan in scans:
        withhold(build, "example", scan, "withdrawn")
    resumed = ShardStream(build, **settings)
    resumed.load_state_dict(state)
    with pytest.raises(FormatError, match=r"no other live row in lane 3d.*begin_segment"):
        keys(resumed, len(resumed))
    resumed.load_state_dict(state, begin_segment=True)
    assert not {key for batch in keys(resumed, len(resumed)) for key in batch} & set(scans)


def test_a_source_that_rested_goes_on_where_it_was(build):
    sources = {row["example_id"]: row["source"] for row in Release(build).rows.to_pylist()}
    n_scans = Release(build).live_rows("train")["source"].to_pylist().count("scans")
    settings = {"seed": 5, "global_batch": 4, "buckets": None}
    first = ShardStream(build, **settings, mix={"papers": 1, "scans": 1})
    drawn = keys(first, 2)
    second = ShardStream(build, **settings, mix={"papers": 1})
    second.load_state_dict(first.state_dict(), begin_segment=True)
    drawn += keys(second, 2)
    third = ShardStream(build, **settings, mix={"papers": 1, "scans": 1})
    third.load_state_dict(second.state_dict(), begin_segment=True)
    drawn += keys(third, (n_scans - 4) // 2)
    scans = [key for batch in drawn for key in batch if sources[key] == "scans"]
    assert len(scans) == len(set(scans)) == n_scans - n_scans % 2


def test_packed_runs_begin_segments_after_a_withdrawal(build):
    count_tokens(build, "bytes")
    settings = {"seed": 0, "global_batch": 2, "pack_tokens": 400}
    first = ShardStream(build, **settings)
    withhold(build, "example", first.at(4)[0])
    second = ShardStream(build, **settings)
    second.load_state_dict(first.state_dict(after=1), begin_segment=True)
    assert first.at(4)[0] not in {key for batch in keys(second, 12) for key in batch}


def test_a_step_of_an_earlier_segment_has_its_own_size(build):
    first = ShardStream(build, seed=0, global_batch=8)
    whole = keys(first, 4)
    second = ShardStream(build, seed=0, global_batch=4)
    second.load_state_dict(first.state_dict(), begin_segment=True)
    keys(second, 2)
    second.load_state_dict(second.state_dict(after=1))
    assert keys(second, 2) == whole[2:]
