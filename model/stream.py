"""ShardStream: global batches in an order that no rank, worker, crash or restart can change."""

import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medloom.model import pool
from medloom.model.batches import Batch
from medloom.model.byte_source import TIMEOUT_S
from medloom.model.meter import Meter
from medloom.model.opening import Data, open_data
from medloom.model.reader import CACHE_BYTES, Reader, ReadOptions, Roi
from medloom.model.rows import Segment
from medloom.model.streamed import StreamedExample, Wish
from medloom.model.timeline import Settings, Step, Timeline
from medloom.schemas.errors import ConfigError, FormatError, WrongBytes
from medloom.schemas.release import Release

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from medloom.model.tar_reader import TarReader

ATTEMPTS = 16  # substitutes tried for one draw; if that many do not read, the storage is at fault and not a file

Made = tuple[Any, list[dict[str, Any]], tuple[float, ...]]  # what a step gives, what did not read, counts to add


class ShardStream:
    """Streams a release, or anyone's tars: iterate for batches, `state_dict()` to stop, `load_state_dict()` to go on.

    Every global batch is a pure function of its step, the seed and the data: the release, and what its overlay said
    when the run began. Ranks that start while a curator appends to it, or while a release is made, may see different
    ones: let them all load the `state_dict()` of one before the first batch. Rank r gets the packs (without packing:
    the examples) whose place in the batch is r modulo `world_size`. One pass of a `for` loop is as many steps as an
    epoch has, and the next pass goes on from there; where the batch does not divide the rows, their epochs end inside.

    Args:
        data: URL of a folder of releases or of a build (its newest release is meant), a `Release`; a list or pattern of
            tars, a folder of tars or of their index (`medloom index`), of which each sample is an example.
        seed: decides the order.
        global_batch: examples per step over all ranks; with `pack_tokens`, packs per step.
        rank, world_size: of this process; both may change at a resume.
        workers: threads that read ahead, 0 to read when asked; with `processes`, worker processes.
        split: "train", "validation" or "test".
        mix: weight by source, e.g. {"pmc": 3, "scans": 1}; others are left out. Exact in every block of sum(weights)
            draws, or steps where buckets keep the sources apart; to 1 part in 10^6 where a source is in several
            buckets. None draws all rows alike, each once per epoch.
        where: column of the release's rows, or of its index of media, to a value or a list of values. What speaks of
            media must hold for all media of the example; without media it does not.
        roi: region that is read of each volume: a size (z, y, x) in voxels, placed by the draw, or a function of
            (example, key, shape, t) that returns a half-open box (None for the whole).
        masks: read the masks of volumes too.
        pack_tokens: longest pack in tokens: examples are put together so that each pack of a step is nearly full.
        tokenizer, media_tokens: whose side column of lengths (`medloom tokens`) packing uses, and how many tokens a
            medium takes.
        buckets: examples of one batch have in common: "dimension" (2D, 3D, both or text), "shape" (also the shapes of
            their media), None (nothing). A bucket of fewer rows than a batch repeats some within it.
        shuffle: "global", or "window:N" to keep N shards at a time, for stores that like locality.
        transform: what is given instead of a batch: its result for the batch, made by the workers.
        processes: workers are processes, for transforms that hold the interpreter's lock; it must be picklable then.
        prefetch: steps that are read ahead.
        cache, cache_bytes: folder of this machine for what is read from remote stores, and its bound.
        timeout_s: after which a read of a remote store counts as failed.
        quarantine: file to which a JSON line is appended for each example that did not read.

    Raises:
        ConfigError: a column or source that is not there, or a rank without a share.
        FormatError: the release or a build it pins is not what it promises.
    """

    def __init__(
        self,
        data: "str | Sequence[str] | Data",
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        split: str = "train",
        mix: Mapping[str, float] | None = None,
        where: Mapping[str, Any] | None = None,
        roi: Roi = None,
        masks: bool = False,
        pack_tokens: int | None = None,
        tokenizer: str = "bytes",
        media_tokens: int = 0,
        buckets: str | None = "dimension",
        shuffle: str = "global",
        transform: Callable[[Batch], Any] | None = None,
        processes: bool = False,
        prefetch: int = 3,
        cache: str = "",
        cache_bytes: int = CACHE_BYTES,
        timeout_s: float = TIMEOUT_S,
        quarantine: str = "",
    ):
        if not 0 <= rank < world_size <= global_batch:
            raise ConfigError(
                f"rank {rank} of world size {world_size} with global_batch {global_batch}: "
                "ranks count from 0 and every rank needs at least one example of a batch"
            )
        if workers < 0 or prefetch < 1 or (processes and not workers):
            raise ConfigError(
                f"workers={workers}, prefetch={prefetch}, processes={processes}: workers count from 0 (from 1 with "
                "processes=True) and prefetch from 1"
            )
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed={seed!r} is not a whole number")
        opened = open_data(data)
        settings = Settings(
            seed, global_batch, split, mix, where, buckets, shuffle, pack_tokens, tokenizer, media_tokens
        )
        self.global_batch, self.rank, self.world_size, self.workers = global_batch, rank, world_size, workers
        self.transform, self.processes, self.prefetch, self.quarantine = transform, processes, prefetch, quarantine
        self.next_step = 0
        self.quarantined: list[dict[str, Any]] = []
        self.meter = Meter()
        self.timeline = Timeline(opened, settings)
        self._options = ReadOptions(
            roi=roi, masks=masks, seed=seed, cache=cache, cache_bytes=cache_bytes, timeout_s=timeout_s
        )
        self._readers: dict[int, Reader | TarReader] = {}
        self._opening = threading.RLock()
        self.timeline.newest  # noqa: B018 - what is wrong with the settings is told here

    @property
    def t(self) -> int:
        """Draw that comes next: `next_step` times the global batch."""
        return self.next_step * self.global_batch

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stretches of the run in which nothing changes that decides the order."""
        return self.timeline.segments

    def __len__(self) -> int:
        """Steps per epoch: the fewest in which every row that the newest segment draws from has come."""
        return self.timeline.newest.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        """Give this rank's batches from where the stream stands to the end of the epoch."""
        yield from self.receive(self.produce())  # both begin with the first batch that is asked for

    def produce(self) -> Iterator[Made]:
        """Make the steps from where the stream stands to the end of the epoch; a DataLoader's worker, those it has."""
        worker, workers = _torch_worker()
        steps = self._steps_left()[worker::workers]
        if not self.workers:
            return pool.here(self.make if workers == 1 else self.make_apart, steps)
        if self.processes:
            return pool.on_processes(self.make_apart, steps, processes=self.workers, ahead=self.prefetch)
        return pool.on_threads(self.make, steps, threads=self.workers, ahead=self.prefetch, depth=self.meter.queue)

    def receive(self, made: Iterator[Made]) -> Iterator[Any]:
        """Give what was made for the steps that are left, and keep count of where the stream stands."""
        self.meter.begin()
        try:
            for step in self._steps_left():
                with self.meter.waiting():
                    batch, refused, counts = next(made)
                if counts:
                    self.meter.add(counts)
                self._note(refused)
                self.next_step = step + 1
                try:
                    yield batch
                finally:
                    self.meter.step()
        finally:
            if isinstance(made, Generator):
                made.close()

    def _steps_left(self) -> range:
        return range(self.next_step, self.timeline.end_of_epoch(self.next_step))

    def at(self, step: int) -> tuple[str, ...]:
        """Return the example_ids of a global batch, over all ranks; no media are read."""
        found = self.timeline.step(step)
        rows = found.plan.rows[found.plan.rows >= 0]
        return tuple(found.data.rows["example_id"].take(rows).to_pylist())

    def state_dict(self, *, after: Batch | int | None = None) -> dict[str, Any]:
        """Return what resumes the run behind the batch given last.

        Args:
            after: the batch, or number of the step, behind which to resume instead: for loaders that read ahead.
        """
        step = after.step if isinstance(after, Batch) else after
        return self.timeline.state(self.next_step if step is None else step + 1)

    def load_state_dict(self, state: Mapping[str, Any] | str, *, begin_segment: bool = False) -> None:
        """Go on where `state` (or its JSON) was taken, on any number of ranks and workers.

        The rows stay those of the checkpoint's last segment. With `begin_segment`, a new segment begins here with this
        stream's own data, mix, where, seed and batch: that is how a mix changes, or new rows come in, mid-run.

        Raises:
            ConfigError: this stream was made with other settings, and `begin_segment` is False.
            FormatError: what the checkpoint pins was rewritten.
        """
        self.next_step = self.timeline.load(state, begin_segment=begin_segment)

    def dataloader(self, *, num_workers: int = 0, **options: Any) -> "DataLoader[Any]":
        """Return torch's DataLoader over this stream: its processes share the steps, and batches come in order.

        State, quarantine and meter stand at the batch that was given last, as without it.

        Raises:
            ConfigError: torch is not installed, or persistent workers are asked for, which would not know where the
                stream stands.
        """
        try:
            from medloom.model.torch_loader import loader
        except ModuleNotFoundError as fault:
            if fault.name != "torch":
                raise
            raise ConfigError(
                'dataloader() needs torch, which is not installed: pip install "medloom[train]"'
            ) from fault
        return loader(self, num_workers=num_workers, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a worker process opens anew."""
        return {**self.__dict__, "_readers": {}, "_opening": None, "meter": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._opening, self.meter = threading.RLock(), Meter()

    def make(self, number: int, run: pool.Run | None = None) -> Made:
        """Return this rank's share of a step (what `transform` makes of it), what did not read, and counts to add."""
        with self._opening:
            began = time.perf_counter()
            step = self.timeline.step(number)
            self.meter.planned(time.perf_counter() - began)
            reader = self._reader(step.data)
        size = step.rows.segment.global_batch  # of an earlier segment it may be another
        if self.world_size > size:
            raise ConfigError(f"step {number} has {size} examples or packs, too few for world_size={self.world_size}")
        mine = np.flatnonzero(step.plan.packs % self.world_size == self.rank)
        found, refused = self._read(step, reader, mine, run)
        began = time.perf_counter()
        batch = _batch(step, found, mine, range(self.rank, size, self.world_size))
        made = self.transform(batch) if self.transform else batch
        self.meter.transformed(time.perf_counter() - began)
        return made, refused, ()

    def make_apart(self, number: int, run: pool.Run | None = None) -> Made:
        """Return what `make` does, with what this process counted meanwhile: for the stream of another process."""
        made, refused, _ = self.make(number, run)
        return made, refused, self.meter.take()

    def _read(
        self, step: Step, reader: "Reader | TarReader", mine: np.ndarray, run: pool.Run | None
    ) -> tuple[dict[int, StreamedExample], list[dict[str, Any]]]:
        """Return examples by slot, substitutes where one did not read, and what did not read.

        Raises:
            FormatError: so many substitutes do not read that the storage must be at fault.
        """
        plan, found, refused = step.plan, dict[int, StreamedExample](), list[dict[str, Any]]()
        rows = {int(slot): int(plan.rows[slot]) for slot in mine if plan.rows[slot] >= 0}
        wanted = dict(rows)
        for attempt in range(1, ATTEMPTS + 1):
            wishes = [Wish(row, int(plan.t[slot])) for slot, row in wanted.items()]
            again: dict[int, int] = {}
            for (slot, row), result in zip(wanted.items(), reader.read_many(wishes, run=run), strict=True):
                if isinstance(result, StreamedExample):
                    found[slot] = result
                    continue
                t, room = int(plan.t[slot]), int(plan.rooms[slot])
                stand_in = self._stand_in(step, rows[slot], t, room, attempt, result)
                refused.append(_refusal(step, t, row, stand_in, result))
                self.meter.substituted(stand_in >= 0)
                if stand_in >= 0:
                    again[slot] = stand_in
            if not again:
                return found, refused
            wanted = again
        raise FormatError(
            f"step {step.number}: an example and {ATTEMPTS} substitutes cannot be read; the last: "
            f"{refused[-1]['reason']}"
        )

    def _stand_in(self, step: Step, row: int, t: int, room: int, attempt: int, fault: Exception) -> int:
        try:
            with self._opening:
                return step.rows.substitute(t, row, attempt, room)
        except FormatError as none_left:
            raise FormatError(f"step {step.number}: {fault}; {none_left}") from none_left

    def _reader(self, data: Data) -> "Reader | TarReader":
        if data.number not in self._readers:
            if isinstance(data, Release):
                self._readers[data.number] = Reader(data, self._options, meter=self.meter)
            else:
                from medloom.model.tar_reader import TarReader

                self._readers[data.number] = TarReader(data, self._options, meter=self.meter)
        return self._readers[data.number]

    def _note(self, refused: list[dict[str, Any]]) -> None:
        self.quarantined += refused
        if refused and self.quarantine:
            with Path(self.quarantine).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in refused)


def _batch(step: Step, found: Mapping[int, StreamedExample], mine: np.ndarray, packs: range) -> Batch:
    slots = [int(slot) for slot in mine if int(slot) in found]
    members: dict[int, list[int]] = {pack: [] for pack in packs}
    for place, slot in enumerate(slots):
        members[int(step.plan.packs[slot])].append(place)
    return Batch(
        step.number,
        tuple(found[slot] for slot in slots),
        tuple(found[slot].example.example_id for slot in slots),
        step.plan.lane,
        tuple(tuple(members[pack]) for pack in packs),
    )


def _refusal(step: Step, t: int, row: int, stand_in: int, fault: WrongBytes) -> dict[str, Any]:
    ids = step.data.rows["example_id"]
    name = ids[stand_in].as_py() if stand_in >= 0 else ""
    return {
        "step": step.number, "t": t, "example_id": ids[row].as_py(), "reason": str(fault), "substitute": name
    }  # fmt: skip


def _torch_worker() -> tuple[int, int]:
    """(number, count) of this DataLoader worker process, (0, 1) outside one; torch is not imported for it."""
    torch_data = sys.modules.get("torch.utils.data")
    worker = torch_data.get_worker_info() if torch_data else None
    return (worker.id, worker.num_workers) if worker else (0, 1)
