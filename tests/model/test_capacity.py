"""What capacity says agrees with enumeration, with closed forms and with what readers really ask for."""

import json
import math
from math import comb

import numpy as np
import pytest

from medloom.__main__ import main
from medloom.model.capacity import Job, coverage, mixing, order_of, traffic, uniform_distinct
from medloom.model.costs import Cost, picture_cost, release_cost, volume_cost
from medloom.model.media_reader import REMOTE_GAP
from medloom.model.ranges import plan_ranges
from medloom.model.rows import live_rows
from medloom.schemas.errors import ConfigError
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex

BILLION = Job(examples=1_000_000_000, shards=10_000, ranks=1024, workers=8, global_batch=8192)


def small(**changes) -> Job:
    return Job(**{"examples": 10_007, "shards": 40, "ranks": 6, "workers": 3, "global_batch": 64, **changes})


def test_a_billion_examples_are_drawn_once_by_one_of_8192_readers():
    covered = coverage(BILLION, order_of(BILLION, seed=5))
    assert covered.readers == 8192
    assert covered.draws >= BILLION.examples > covered.draws - BILLION.global_batch
    assert covered.ahead == covered.draws - BILLION.examples
    assert (covered.missed, covered.repeated_draws, covered.repeated_rows) == (0, 0, 0)
    assert covered.rank_draws[0] * BILLION.ranks == covered.draws
    low, high = covered.reader_draws
    assert high - low == 8
    assert covered.looked_at == 1 << 20
    assert covered.expected_if_random > 500, "independent draws would have been noticed"


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("ranks", [1, 5, 64])
def test_every_position_of_a_small_epoch_comes_once(window, ranks):
    job = small(ranks=ranks)
    covered = coverage(job, order_of(job, seed=1, window=window), every_position=True)
    assert (covered.missed, covered.repeated_draws, covered.repeated_rows) == (0, 0, 0)
    assert covered.looked_at == job.examples
    share = [len(range(rank, job.global_batch, ranks)) for rank in range(ranks)]
    assert covered.rank_draws == (min(share) * job.steps, max(share) * job.steps)
    by_worker = [len(range(worker, job.steps, job.workers)) for worker in range(job.workers)]
    assert covered.reader_draws == (min(share) * min(by_worker), max(share) * max(by_worker))


def test_an_order_that_repeats_is_noticed():
    job, order = small(), order_of(small())
    assert coverage(job, lambda draws: order(draws // 2), every_position=True).repeated_rows > job.examples / 3
    huge = order_of(BILLION)
    drawn = np.random.default_rng(0).integers(0, BILLION.examples, 1 << 20)
    independent = coverage(
        BILLION, lambda draws: drawn[: len(draws)] if len(draws) == 1 else huge(drawn[draws % (1 << 20)])
    )
    assert independent.repeated_rows > 100


def test_the_uniform_figure_is_the_hypergeometric_one():
    job = Job(examples=5_000, shards=20, ranks=1, workers=1, global_batch=8)
    exact = 20 * (1 - comb(5_000 - 250, 32) / comb(5_000, 32))
    assert uniform_distinct(job, 32) == pytest.approx(exact)
    assert exact == pytest.approx(16.1, abs=0.05)
    assert uniform_distinct(Job(examples=9, shards=3, ranks=1, workers=1, global_batch=1), 8) == 3


def test_a_global_shuffle_mixes_as_a_uniform_one():
    for job in (BILLION, Job(examples=5_000, shards=20, ranks=1, workers=1, global_batch=8)):
        mixed = mixing(job, order_of(job, seed=2))
        assert mixed.share > 0.99
        assert mixed.spread == pytest.approx(1, abs=0.03)


def test_a_window_mixes_its_shards_and_keeps_to_them():
    mixed = mixing(BILLION, order_of(BILLION, window=16))
    assert mixed.distinct == pytest.approx(16 * (1 - (15 / 16) ** 32), rel=0.02)
    assert mixed.spread == pytest.approx(16 / 10_000, rel=0.02)
    stored = mixing(BILLION, lambda draws: draws)
    assert stored.distinct == pytest.approx(1, abs=0.01)
    assert stored.spread == pytest.approx(1e-4, rel=0.05)


def test_traffic_follows_from_the_step_time():
    asked = traffic(BILLION, Cost(2.0, 1e6, 3.1e6, 5e5), step_s=0.5, latency_s=0.05, ahead=3)
    assert asked.requests_per_s == 8192 / 0.5 * 2
    assert asked.rank_requests_per_s == 8 / 0.5 * 2
    assert asked.rank_bytes_per_s * 1024 == asked.bytes_per_s == 8192 / 0.5 * 1e6
    assert asked.in_flight == pytest.approx(1.6)
    assert asked.rank_cores == pytest.approx(16 * 2e-3)
    assert asked.rank_memory_bytes == 4 * 8 * 5e5
    assert asked.epoch_s == BILLION.steps * 0.5
    uneven = traffic(small(ranks=6), Cost(1.0, 1.0, 1.0, 1.0), step_s=1.0)
    assert uneven.rank_requests_per_s == 11, "64 examples of 6 ranks: the fullest has 11"


@pytest.mark.parametrize(
    ("shape", "patch", "chunk"),
    [
        ((140, 512, 512), (96, 96, 96), (32, 128, 128)),
        ((140, 512, 512), (96, 96, 96), (64, 64, 64)),
        ((70, 200, 130), (40, 150, 125), (32, 128, 128)),
        ((33, 129, 129), (96, 96, 96), (32, 128, 128)),
    ],
)
def test_a_patch_costs_the_chunks_that_it_touches(shape, patch, chunk):
    """Against every chunk of many patches, and the ranges that a reader would ask for."""
    grid = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    extents = [[min((i + 1) * c, n) - i * c for i in range(g)] for n, c, g in zip(shape, chunk, grid, strict=True)]
    sizes = [2 * z * y * x for z in extents[0] for y in extents[1] for x in extents[2]]
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    random, found = np.random.default_rng(3), []
    for _ in range(1_500):
        low = [random.integers(0, max(n - p, 0) + 1) for n, p in zip(shape, patch, strict=True)]
        high = [min(a + p, n) for a, p, n in zip(low, patch, shape, strict=True)]
        axes = [range(a // c, (b - 1) // c + 1) for a, b, c in zip(low, high, chunk, strict=True)]
        numbers = [(z * grid[1] + y) * grid[2] + x for z in axes[0] for y in axes[1] for x in axes[2]]
        ranges = plan_ranges([("tar", -700, 0), *(("tar", starts[n], starts[n + 1]) for n in numbers)])
        found.append((len(ranges.requests), ranges.size_bytes))
    requests, read = np.mean(found, axis=0)
    cost = volume_cost(shape, patch=patch, chunk=chunk, ratio=1.0)
    assert cost.requests == pytest.approx(requests, rel=0.03)
    assert cost.fetched_bytes == cost.decoded_bytes == pytest.approx(read - 700, rel=0.02)
    assert cost.kept_bytes == 2 * math.prod(map(min, patch, shape))


def test_a_whole_volume_is_a_request_for_each_8_mib():
    cost = volume_cost((140, 512, 512), ratio=2.0)
    assert (cost.requests, cost.fetched_bytes, cost.kept_bytes) == (5, 140 * 512 * 512, 2 * 140 * 512 * 512)
    assert volume_cost((32, 256, 256), ratio=2.0).requests == 1
    assert picture_cost(57_000).decoded_bytes == pytest.approx(512 * 512 * 3, rel=0.01)


@pytest.mark.parametrize("tasks", [("caption",), ("header_vqa",), ()])
@pytest.mark.parametrize("together", [1, 6, 25])
def test_a_releases_cost_is_what_drawing_from_it_costs(shared_build, tasks, together):
    release = Release(shared_build)
    rows = live_rows(release, split="train", where={"task": list(tasks)} if tasks else None)
    together = min(together, len(rows))
    random, found = np.random.default_rng(1), []
    pieces = [_pieces(release, row) for row in release.rows.to_pylist()]
    for _ in range(3_000 // together):
        drawn = random.choice(rows, together, replace=False)
        ranges = plan_ranges([piece for row in drawn for piece in pieces[row]], gap=REMOTE_GAP)
        wanted = sum(end - start for _, start, end in {piece for row in drawn for piece in pieces[row]})
        found.append((len(ranges.requests) / together, wanted / together))
    requests, read = np.mean(found, axis=0)
    cost = release_cost(release, rows, together=together)
    assert cost.fetched_bytes == pytest.approx(read, rel=0.03)
    assert cost.requests == pytest.approx(requests, rel=0.03)


def _pieces(release: Release, row: dict) -> list[tuple[str, int, int]]:
    found = []
    for layout, at in zip(row["layouts"], row["media_at"], strict=True):
        json_, content, *_ = ReleaseIndex(release, row["split"], layout).members(at)
        tar = f"{row['split']}-{layout}-{json_['shard']}"
        found.append((tar, json_["offset"], content["offset"] + content["size"]))
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": 65}, "65 ranks share 64"),
        ({"workers": 0}, "workers is 0"),
        ({"shards": 10_008}, "cannot fill 10008 shards"),
    ],
)
def test_a_job_that_cannot_be_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        small(**change)


def test_the_command_tells_a_billion_in_a_table_and_as_json(capsys):
    assert main(["capacity"]) == 0
    said = capsys.readouterr().out
    assert "1,000,000,000 examples" in said
    assert "0 come twice" in said
    assert main(["capacity", "--json", "--shuffle", "window:16", "--picture-kb", "57", "--step-s", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mixing_share"] == pytest.approx(0.44, abs=0.02)
    assert told["traffic"]["bytes_per_s"] == pytest.approx(8192 * 57_000 / 2)


def test_the_command_plans_for_a_release(shared_build, capsys):
    assert main(["capacity", shared_build, "--ranks", "2", "--global-batch", "4", "--workers", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    release = Release(shared_build)
    assert told["job"]["examples"] == len(live_rows(release, split="train"))
    assert told["job"]["shards"] == len({row["part"][-12:] for row in release.live_rows("train").to_pylist()})
    assert 0 < told["cost"]["requests"] <= 2


@pytest.mark.parametrize(
    "options",
    [["--shuffle", "window:0"], ["--patch", "96x96"], ["--ratio", "0"], ["--step-s", "0"], ["--ranks", "9000"]],
)
def test_the_commands_mistakes_are_named(options, capsys):
    assert main(["capacity", *options]) == 2
    assert capsys.readouterr().err.startswith("medloom: ")
