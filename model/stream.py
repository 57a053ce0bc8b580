"""ShardStream: global batches of a release in an order that no rank, worker, crash or restart can change."""

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medloom.model.reader import Reader, StreamedExample, WrongBytes
from medloom.model.rows import Segment, SegmentRows, begin
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release

STATE_VERSION = 1
ATTEMPTS = 16  # substitutes tried for one draw; if that many do not read, the storage is at fault and not a file
_AHEAD = 3  # steps that reading threads may be ahead of the one being used


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        step: number of the global batch in the run, from 0.
        examples: in the order of their draws.
        keys: their example_ids.
    """

    step: int
    examples: tuple[StreamedExample, ...]
    keys: tuple[str, ...]


class ShardStream:
    """Streams a release: iterate for batches, `state_dict()` to stop anywhere, `load_state_dict()` to go on from there.

    Global batch b holds draws b*global_batch … (b+1)*global_batch - 1 of the run; rank r takes every world_size-th of
    them, from the r-th on. One pass of a `for` loop ends with the epoch; the next pass begins the next one. Under a
    torch DataLoader (iterated by an IterableDataset, `batch_size=None`) the workers share the steps and the batches
    still come in order.

    Args:
        data: URL of a folder of releases or of a build (its newest release is meant), or a `Release`.
        seed: decides the order.
        global_batch: examples per step over all ranks.
        rank, world_size: of this process; both may change at a resume.
        split: "train", "validation" or "test".
        mix: weight by source, e.g. {"pmc": 3, "scans": 1}: exact in every block of sum(weights) draws; others are left
            out. None draws all rows alike, each once per epoch.
        where: column of the release's rows to a value or a list of values. A list column (`modalities`, `layouts`,
            `shapes`, `media`) must hold them for all media of the example; without media it does not.
        threads: that read ahead; 0 reads when asked.

    Raises:
        ConfigError: a column or source that is not there, or a rank without a share.
        FormatError: the release or a build it pins is not what it promises.
    """

    def __init__(
        self,
        data: str | Release,
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
        mix: Mapping[str, float] | None = None,
        where: Mapping[str, Any] | None = None,
        threads: int = 0,
    ):
        if not 0 <= rank < world_size <= global_batch:
            raise ConfigError(
                f"rank {rank} of world size {world_size} with global_batch {global_batch}: "
                "ranks count from 0 and every rank needs at least one example of a batch"
            )
        release = data if isinstance(data, Release) else Release(str(data))
        self.url, self.global_batch, self.rank, self.world_size = release.url, global_batch, rank, world_size
        self.threads, self.t = threads, 0
        self.quarantined: list[dict[str, Any]] = []
        self._releases: dict[int, Release] = {release.number: release}
        self._rows: dict[int, SegmentRows] = {}
        self._readers: dict[int, Reader] = {}
        self.segments: tuple[Segment, ...] = (
            begin(release, t0=0, split=split, where=where or {}, mix=mix or {}, seed=seed),
        )
        self._rows_of(0)

    def __len__(self) -> int:
        """Steps per epoch: the fewest in which every row that the newest segment draws from has come."""
        return -(-self._rows_of(len(self.segments) - 1).order.epoch_draws // self.global_batch)

    def __iter__(self) -> Iterator[Batch]:
        """Give this rank's batches from where the stream stands to the end of the epoch."""
        first = self.t // self.global_batch
        begun = self.segments[-1].t0 // self.global_batch
        last = begun + ((first - begun) // len(self) + 1) * len(self)
        worker, workers = _torch_worker()
        for step in self._read_steps(range(first + worker, last, workers)):
            self.t = (step.step + 1) * self.global_batch
            yield step

    def at(self, step: int) -> tuple[str, ...]:
        """Return the example_ids of a global batch, over all ranks; no media are read."""
        ids = []
        for number, row, _ in self._drawn(self._draws(step)):
            ids.append(self._rows_of(number).release.rows["example_id"][row].as_py())
        return tuple(ids)

    def state_dict(self, *, after: Batch | None = None) -> dict[str, Any]:
        """Return what resumes the run behind the batch given last (or `after`, under a DataLoader that reads ahead)."""
        t = (after.step + 1) * self.global_batch if after else self.t
        return {"version": STATE_VERSION, "t": t, "segments": [s.to_json() for s in self.segments]}

    def load_state_dict(self, state: Mapping[str, Any] | str, *, begin_segment: bool = False) -> None:
        """Go on where `state` (or its JSON) was taken, on any number of ranks.

        The rows stay those of the checkpoint's last segment. With `begin_segment`, a new segment begins here with this
        stream's own release, mix, where and seed: that is how a mix changes, or new rows come in, mid-run.

        Raises:
            ConfigError: this stream was made with another split, mix, where or seed, and `begin_segment` is False.
            FormatError: what the checkpoint pins was rewritten.
        """
        wanted = self.segments[-1]
        t, segments = _parsed(state)
        if t % self.global_batch:
            raise ConfigError(
                f"cannot resume at draw {t} with global_batch {self.global_batch}, which does not divide it"
            )
        if begin_segment:
            same_release = (wanted.release, wanted.sha256) == (segments[-1].release, segments[-1].sha256)
            overlay = segments[-1].overlay if same_release else wanted.overlay  # so that epochs of its sources go on
            kept = [segment for segment in segments if segment.t0 < t]
            segments = (*kept, replace(wanted, t0=t, overlay=overlay))
        else:
            _must_match(wanted, segments[-1])
        self._rows, self.segments, self.t = {}, segments, t
        self._rows_of(len(segments) - 1)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a worker process can open anew."""
        return {**self.__dict__, "_rows": {}, "_readers": {}, "_releases": {}}

    def _draws(self, step: int) -> np.ndarray:
        return np.arange(step * self.global_batch, (step + 1) * self.global_batch, dtype=np.uint64)

    def _drawn(self, draws: np.ndarray) -> list[tuple[int, int, int]]:
        """Return (segment, row, t) of each draw."""
        starts = np.asarray([segment.t0 for segment in self.segments], np.uint64)
        number = np.searchsorted(starts, draws, side="right") - 1
        found = []
        for k in np.unique(number):
            mine = draws[number == k]
            rows = self._rows_of(int(k)).rows_at(mine)
            found += [(int(k), int(row), int(t)) for row, t in zip(rows, mine, strict=True)]
        return found

    def _rows_of(self, number: int) -> SegmentRows:
        """Rows of the segment of that number, opened when first asked for."""
        if number not in self._rows:
            segment, drawn = self.segments[number], dict[str, int]()
            if number and segment.continues(self.segments[number - 1]):
                drawn = self._rows_of(number - 1).drawn_before(segment.t0)
            self._rows[number] = SegmentRows(self._release(segment.release), segment, drawn=drawn)
        return self._rows[number]

    def _release(self, number: int) -> Release:
        if number not in self._releases:
            self._releases[number] = Release(self.url, number=number)
        return self._releases[number]

    def _reader(self, number: int) -> Reader:
        if number not in self._readers:
            self._readers[number] = Reader(self._release(number))
        return self._readers[number]

    def _read_steps(self, steps: range) -> Iterator[Batch]:
        if not self.threads:
            for step in steps:
                yield self._batch(step, [self._read(*drawn) for drawn in self._share(step)])
            return
        pending: deque[tuple[int, list[Future]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for step in steps:
                    pending.append((step, [pool.submit(self._read, *drawn) for drawn in self._share(step)]))
                    if len(pending) > _AHEAD:
                        yield self._collected(*pending.popleft())
                while pending:
                    yield self._collected(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _share(self, step: int) -> list[tuple[int, int, int]]:
        drawn = self._drawn(self._draws(step)[self.rank :: self.world_size])
        for number, _, _ in drawn:
            self._reader(self.segments[number].release)  # opened here, so that threads find it
        return drawn

    def _collected(self, step: int, futures: list[Future]) -> Batch:
        return self._batch(step, [future.result() for future in futures])

    def _batch(self, step: int, read: list[tuple[StreamedExample, list[dict[str, Any]]]]) -> Batch:
        for _, refused in read:
            self.quarantined += refused
        examples = tuple(example for example, _ in read)
        return Batch(step, examples, tuple(streamed.example.example_id for streamed in examples))

    def _read(self, number: int, row: int, t: int) -> tuple[StreamedExample, list[dict[str, Any]]]:
        """Return the example of a draw, or of the first substitute that reads, and what did not read."""
        rows, refused = self._rows_of(number), list[dict[str, Any]]()
        reader, chosen = self._reader(self.segments[number].release), row
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return reader.read(chosen, t=t), refused
            except WrongBytes as fault:
                name = rows.release.rows["example_id"][chosen].as_py()
                chosen = rows.substitute(t, row, attempt)
                stand_in = rows.release.rows["example_id"][chosen].as_py()
                refused.append({"t": t, "example_id": name, "reason": str(fault), "substitute": stand_in})
        raise FormatError(f"draw {t} and {ATTEMPTS} substitutes cannot be read; the last: {refused[-1]['reason']}")


def _parsed(state: Mapping[str, Any] | str) -> tuple[int, tuple[Segment, ...]]:
    value = json.loads(state) if isinstance(state, str) else state
    try:
        version, t, segments = int(value["version"]), int(value["t"]), list(value["segments"])
    except (KeyError, TypeError, ValueError) as fault:
        raise FormatError(f"cannot resume: this is not the state of a stream ({fault!r})") from fault
    if version != STATE_VERSION or t < 0 or not segments:
        raise FormatError(f"cannot resume: state of version {version} at draw {t} with {len(segments)} segments")
    return t, tuple(Segment.from_json(segment) for segment in segments)


def _must_match(mine: Segment, saved: Segment) -> None:
    for name in ("split", "mix", "where", "seed"):
        if getattr(mine, name) != getattr(saved, name):
            raise ConfigError(
                f"the checkpoint streams with {name}={getattr(saved, name)!r} and this stream was made with "
                f"{getattr(mine, name)!r}; give the same, or load with begin_segment=True to change it from here on"
            )


def _torch_worker() -> tuple[int, int]:
    """(number, count) of this DataLoader worker process, (0, 1) outside one; torch is not imported for it."""
    torch_data = sys.modules.get("torch.utils.data")
    worker = torch_data.get_worker_info() if torch_data else None
    return (worker.id, worker.num_workers) if worker else (0, 1)
