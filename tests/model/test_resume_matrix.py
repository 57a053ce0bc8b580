"""World {1, 2, 3, 4, 6, 12} x workers {0, 1, 2, 3} in real processes: every global batch is the unbroken run's."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.builds import synthetic_release, write_release
from tests.model.ranks import Phase, Ranks, Run, Told, batches
from tests.model.streams import withhold

from medloom.model.stream import ShardStream
from medloom.pipelines.tokens import count_tokens
from medloom.schemas.build import Build
from medloom.schemas.release import Release

WORLDS, WORKERS = (1, 2, 3, 4, 6, 12), (0, 1, 2, 3)
STEPS = 2  # per world size and workers: 24 of them, 48 steps, about six epochs
WHOLE = ("alone", "mix, packing and buckets")  # settings that see all 24, the others see 12
MIX, PACK = {"mix": {"papers": 2, "scans": 1}}, {"pack_tokens": 320, "media_tokens": 16}
SETTINGS = {
    "alone": {"buckets": None},
    "mix": {**MIX, "buckets": None},
    "buckets": {"buckets": "shape"},
    "window": {"shuffle": "window:2", "buckets": "dimension"},
    "packing": {**PACK},
    "mix, packing and buckets": {**MIX, **PACK, "buckets": "dimension"},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    """A build with tokens counted and two releases: 2 leaves out every fifth example of 1."""
    build = Build(synthetic_release(tmp_path_factory.mktemp("matrix"), n_units=36))
    count_tokens(build.url)
    rows = Release(build.url).rows.to_pylist()
    write_release(build.store, [row for i, row in enumerate(rows) if i % 5], number=2)
    return build.url


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    found = Ranks(max(WORLDS))
    yield found
    found.close()


def phase(url: str, name: str, **more) -> Phase:
    return Phase(url, 1, {"seed": 11, "global_batch": 12, **SETTINGS[name]}, **more)


def unbroken(url: str, name: str, steps: int, *, then: int = 0) -> list[Told]:
    """`steps` steps of release 1 and `then` of release 2, read by one rank without workers in this process."""
    stream = phase(url, name).stream(0)
    found = batches(stream, steps)
    if then:
        state = stream.state_dict()
        stream = phase(url, name, state=state, begin_segment=True)
        found += batches(replace(stream, release=2).stream(0), then)
    return found


def shapes(name: str) -> list[tuple[int, int]]:
    """(World size, workers) in an order in which nearly every stop changes both: all 24, or 12 with each of them."""
    found = list(itertools.product(WORLDS, WORKERS))
    if name not in WHOLE:
        found = [(world_size, workers) for i, (world_size, workers) in enumerate(found) if (i + i // 4) % 2]
    random.Random(name).shuffle(found)
    assert {world_size for world_size, _ in found} == set(WORLDS)
    assert {workers for _, workers in found} == set(WORKERS)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_global_batch_is_that_of_the_unbroken_run(url, ranks, name):
    """Stopped and resumed on ever another world size and number of workers; release 2 comes in half-way."""
    found: list[Told] = []
    state, now = None, phase(url, name, steps=STEPS)
    order = shapes(name)
    for i, (world_size, workers) in enumerate(order):
        now = replace(now, state=state, world_size=world_size, workers=workers, begin_segment=False)
        if i == len(order) // 2:
            now = replace(now, release=2, begin_segment=True)
        steps, state = ranks.play(now)
        found += steps
    half = STEPS * len(order) // 2
    assert found == unbroken(url, name, half, then=half)
    assert [step for step, _, _ in found] == list(range(2 * half))


def test_the_matrix_holds_what_it_should(url):
    """The cases above would prove little if all steps were alike, or packs held one example each."""
    mixed = unbroken(url, "mix", 24)
    rows = Release(url, number=1).rows
    source = dict(zip(rows["example_id"].to_pylist(), rows["source"].to_pylist(), strict=True))
    drawn = [Counter(source[key] for pack in packs for key, _, _ in pack) for _, _, packs in mixed]
    assert all(count == {"papers": 8, "scans": 4} for count in drawn)
    packed = unbroken(url, "mix, packing and buckets", 24)
    assert {lane for _, lane, _ in packed} == {"2d", "3d"}
    assert any(len(pack) > 1 for _, _, packs in packed for pack in packs)
    assert all(any(packs) for _, _, packs in packed)
    both = unbroken(url, "alone", 12, then=12)
    late = {key for _, _, packs in both[12:] for pack in packs for key, _, _ in pack}
    assert late <= set(Release(url, number=2).rows["example_id"].to_pylist())
    assert not {key for _, _, packs in both[:12] for pack in packs for key, _, _ in pack} <= late


@pytest.mark.parametrize("name", WHOLE)
def test_a_withdrawal_between_two_phases_is_substituted_alike_on_every_world(build, ranks, name):
    count_tokens(build)
    begun = phase(build, name, steps=3)
    _, state = ranks.play(begun)
    later = Counter(key for step in range(3, 9) for key in phase(build, name).stream(0).at(step))
    gone = [key for key, _ in later.most_common(2)]
    for key in gone:
        withhold(build, "example", key, "withdrawn")
    resumed = replace(begun, steps=6, state=state)
    alone, _ = ranks.play(resumed)
    assert not set(gone) & {key for _, _, packs in alone for pack in packs for key, _, _ in pack}
    for world_size, workers in ((2, 1), (3, 2), (12, 0)):
        assert ranks.play(replace(resumed, world_size=world_size, workers=workers))[0] == alone


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_run_killed_at_any_step_goes_on_as_if_nothing_had_been(url, tmp_path, name):
    """SIGKILL to all ranks at once, thrice; what counts as done is what the checkpoint on disk says."""
    run = Run(tmp_path, phase(url, name))
    done = []
    for world_size, workers, steps in ((3, 2, 4), (2, 0, 1), (4, 3, 5)):
        run.train_until_killed(world_size=world_size, workers=workers, steps=steps)
        done.append(run.state["t"] // 12 if run.state else 0)
    assert done == sorted(done)
    assert done[-1] >= 7, "a kill costs a step at most"
    must_equal_unbroken(run, unbroken(url, name, done[-1] + 2), checkpointed=done[-1])


@pytest.mark.slow
def test_worker_processes_end_with_their_killed_rank(url, tmp_path):
    run = Run(tmp_path, phase(url, "mix"))
    run.train_until_killed(world_size=2, workers=2, steps=3, processes=True)
    run.train_until_killed(world_size=3, workers=1, steps=2)
    done = run.state["t"] // 12
    assert done >= 3
    must_equal_unbroken(run, unbroken(url, "mix", done + 2), checkpointed=done)


def must_equal_unbroken(run: Run, truth: list[Told], *, checkpointed: int) -> None:
    """Every share that any rank saw, repeated ones too, is the unbroken run's, and no checkpointed one is missing."""
    seen: dict[int, set[tuple[int, int]]] = {}
    for rank in range(max(WORLDS)):
        for world_size, (step, lane, packs) in run.steps_of(rank):
            assert (step, lane, packs) == (*truth[step][:2], truth[step][2][rank::world_size])
            seen.setdefault(step, set()).add((world_size, rank))
    for step in range(checkpointed):
        worlds = {world_size for world_size, _ in seen[step]}
        assert any({(world, rank) for rank in range(world)} <= seen[step] for world in worlds), step


def test_uneven_shares_lose_nothing(url, ranks):
    """56 of 64 ranks, in small: 5 ranks of a global batch of 12 have 3, 3, 2, 2 and 2 examples."""
    found, state = ranks.play(phase(url, "mix", steps=4, world_size=5))
    more, _ = ranks.play(phase(url, "mix", steps=4, world_size=7, workers=1, state=state))
    assert found + more == unbroken(url, "mix", 8)


def test_at_says_what_the_ranks_read(url, ranks):
    for name in SETTINGS:
        found, _ = ranks.play(phase(url, name, steps=3, world_size=3, workers=1))
        stream: ShardStream = phase(url, name).stream(0)
        for step, _, packs in found:
            assert sorted(key for pack in packs for key, _, _ in pack) == sorted(stream.at(step))
