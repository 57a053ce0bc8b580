"""Ranks of a run as real processes: they start once, play one phase of a run after another, and can be killed."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from medloom.model.stream import Batch, ShardStream
from medloom.schemas.release import Release

PATIENCE_S = 120
ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # processes inherit the path, and find this module by its name

# What a slot of a step holds: the example, its draw, and a digest of all that was read for it.
Slot = tuple[str, int, str]
# A global batch, or one rank's share of it: the lane, and of each pack its slots.
Packs = tuple[tuple[Slot, ...], ...]
Told = tuple[int, str, Packs]


@dataclass(frozen=True)
class Phase:
    """A stretch of a run between two stops.

    Attributes:
        url, release: data and number of the release.
        settings: of the stream, but rank, world size and workers.
        steps: to take.
        state: the checkpoint to go on from, None for a new run.
        begin_segment: whether the release (or a setting) changes here.
    """

    url: str
    release: int
    settings: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1
    workers: int = 0
    processes: bool = False
    steps: int = 1
    state: dict[str, Any] | None = None
    begin_segment: bool = False

    def stream(self, rank: int) -> ShardStream:
        """The stream of one rank, where the phase begins."""
        stream = ShardStream(
            Release(self.url, number=self.release), **self.settings, rank=rank, world_size=self.world_size,
            workers=self.workers, processes=self.processes,
        )  # fmt: skip
        if self.state is not None:
            stream.load_state_dict(self.state, begin_segment=self.begin_segment)
        return stream


def told(batch: Batch) -> Told:
    """What a batch holds, small enough to send and to compare."""
    slots = [(key, e.t, _digest(e.media)) for key, e in zip(batch.keys, batch.examples, strict=True)]
    return batch.step, batch.lane, tuple(tuple(slots[i] for i in pack) for pack in batch.packs)


def _digest(media: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    for key, medium in media.items():
        found.update(repr((key, medium.layout, medium.content.dtype.str, medium.content.shape, medium.box)).encode())
        found.update(medium.content.tobytes())
        found.update(medium.text)
    return found.hexdigest()


def batches(stream: ShardStream, steps: int) -> list[Told]:
    """The next steps of a stream, across epochs."""
    found: list[Told] = []
    while len(found) < steps:
        found += [told(batch) for batch in islice(stream, steps - len(found))]
    return found


def whole(shares: list[Told]) -> Told:
    """The global batch of which rank r has every world-th pack, from the r-th on."""
    assert len({share[:2] for share in shares}) == 1, f"ranks disagree on step or lane: {[s[:2] for s in shares]}"
    packs: list[tuple[Slot, ...]] = [()] * sum(len(share[2]) for share in shares)
    for rank, (_, _, mine) in enumerate(shares):
        packs[rank :: len(shares)] = mine
    return (*shares[0][:2], tuple(packs))


class Ranks:
    """`count` processes, of which a phase takes the first; forked from a server that has imported the model."""

    def __init__(self, count: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["medloom.model.stream", "medloom.model.reader"])
        pairs = [context.Pipe() for _ in range(count)]
        self._played = 0
        self._lines = [ours for ours, _ in pairs]
        self._processes = [context.Process(target=_rank, args=(theirs, rank)) for rank, (_, theirs) in enumerate(pairs)]
        for process, (_, theirs) in zip(self._processes, pairs, strict=True):
            process.start()
            theirs.close()

    def play(self, phase: Phase) -> tuple[list[Told], dict[str, Any]]:
        """The global batches of a phase, and the checkpoint of one of its ranks, on which all agree.

        They need not agree on `anchors`, which spare planning again and must change nothing: whose are taken differs
        from phase to phase, and some phases do without.
        """
        lines = self._lines[: phase.world_size]
        for line in lines:
            line.send(phase)
        shares, states = zip(*(_answer(line) for line in lines), strict=True)
        pinned = {json.dumps({k: v for k, v in state.items() if k != "anchors"}, sort_keys=True) for state in states}
        assert len(pinned) == 1, "ranks disagree on the checkpoint:\n" + "\n".join(sorted(pinned))
        chosen = json.loads(json.dumps(states[self._played % len(states)]))
        self._played += 1
        if self._played % 3 == 0:
            chosen.pop("anchors", None)
        return [whole([share[i] for share in shares]) for i in range(phase.steps)], chosen

    def close(self) -> None:
        """End the processes."""
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.join(PATIENCE_S)


def _answer(line: Any) -> Any:
    assert line.poll(PATIENCE_S), "a rank hangs"
    answer = line.recv()
    assert not isinstance(answer, str), answer
    return answer


def _rank(line: Any, rank: int) -> None:
    while True:
        try:
            phase = line.recv()
        except EOFError:
            return
        try:
            stream = phase.stream(rank)
            found = batches(stream, phase.steps)
            line.send((found, stream.state_dict()))
        except Exception:  # noqa: BLE001 - the test that asked shows it
            line.send(traceback.format_exc())


class Run:
    """A training run in a folder, as ranks that checkpoint every step: what a SIGKILL leaves is all that is known."""

    def __init__(self, folder: Path, phase: Phase):
        self.folder, self.phase = folder, phase

    @property
    def state(self) -> dict[str, Any] | None:
        """The newest checkpoint."""
        path = self.folder / "state.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def train_until_killed(self, *, world_size: int, workers: int, steps: int, processes: bool = False) -> None:
        """Go on from the newest checkpoint, and kill every rank with SIGKILL when rank 0 has done `steps` steps."""
        state = self.state
        phase = replace(self.phase, world_size=world_size, workers=workers, processes=processes, state=state)
        phase = replace(phase, begin_segment=self.phase.begin_segment and state is None)
        context = multiprocessing.get_context("forkserver")
        barrier = context.Barrier(world_size)
        ranks = [context.Process(target=_train, args=(self.folder, phase, r, barrier)) for r in range(world_size)]
        for process in ranks:
            process.start()
        begun, limit = len(self.steps_of(0)), time.monotonic() + PATIENCE_S
        while len(self.steps_of(0)) < begun + steps:
            assert time.monotonic() < limit, "the run hangs"
            assert all(process.is_alive() for process in ranks), "a rank ended by itself"
            time.sleep(0.02)
        workers_of_ranks = [pid for process in ranks for pid in _children(process.pid)]
        assert len(workers_of_ranks) == (world_size * workers if processes else 0)
        for process in ranks:
            os.kill(process.pid, signal.SIGKILL)
        for process in ranks:
            process.join()
        while left := [pid for pid in workers_of_ranks if _lives(pid)]:
            assert time.monotonic() < limit, f"worker processes {left} outlive their rank"
            time.sleep(0.02)

    def steps_of(self, rank: int) -> list[tuple[int, Told]]:
        """(world size, what the step held) of all that a rank did, repeated steps included; a cut line is none."""
        path = self.folder / f"rank{rank}.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(row["world_size"], _tupled(row["told"])) for row in rows]


def _children(pid: int) -> list[int]:
    """Processes that a process started and that run Python's workers, not its resource tracker."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def _train(folder: Path, phase: Phase, rank: int, barrier: Any) -> None:
    stream = phase.stream(rank)
    with (folder / f"rank{rank}.jsonl").open("a") as log:
        while True:
            for batch in stream:
                log.write(json.dumps({"world_size": phase.world_size, "told": told(batch)}) + "\n")
                log.flush()
                barrier.wait()  # an optimiser step: nobody is a step ahead
                if not rank:
                    (folder / "state.part").write_text(json.dumps(stream.state_dict()))
                    (folder / "state.part").replace(folder / "state.json")
