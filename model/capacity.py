"""What a run will ask of its stores and machines, from arithmetic alone: no data are read, any size costs the same."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from medloom.model.costs import DECODE_BYTES_PER_S, Cost
from medloom.model.order import Shuffled, ShuffledByShard, key_of
from medloom.schemas.errors import ConfigError

_LOOKED = 1 << 20  # draws whose rows are compared when not all are
_AT_ONCE = 1 << 14  # draws computed in one go: they stay in the processor's cache
_RUN = 32  # consecutive examples of which mixing counts the shards

RowsAt = Callable[[np.ndarray], np.ndarray]  # draws (int64) to rows


@dataclass(frozen=True)
class Job:
    """A run: who reads how many examples together.

    Attributes:
        examples: rows that one epoch draws from.
        shards: tars they stand in, alike in size.
        ranks: processes that train.
        workers: readers of each rank.
        global_batch: examples of a step over all ranks.

    Raises:
        ConfigError: a number is not positive, or a rank or a shard would be empty.
    """

    examples: int
    shards: int
    ranks: int
    workers: int
    global_batch: int

    def __post_init__(self) -> None:
        for name in ("examples", "shards", "ranks", "workers", "global_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it counts from 1")
        if self.ranks > self.global_batch:
            raise ConfigError(f"{self.ranks} ranks share {self.global_batch} examples a step: some get none")
        if self.shards > self.examples:
            raise ConfigError(f"{self.examples} examples cannot fill {self.shards} shards")

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.examples // self.global_batch)

    @property
    def rank_batch(self) -> int:
        """Examples of a step of the rank that has most."""
        return -(-self.global_batch // self.ranks)

    @property
    def shard_sizes(self) -> np.ndarray:
        """Rows of each shard, int64; they differ by one at most."""
        return np.diff(np.arange(self.shards + 1) * self.examples // self.shards)

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the shard of each row: rows of a shard are neighbours."""
        return np.searchsorted(np.cumsum(self.shard_sizes), rows, side="right")


@dataclass(frozen=True)
class Coverage:
    """Who draws what in an epoch, and whether anything is drawn twice or never.

    Attributes:
        steps, draws: of the epoch.
        ahead: draws of its last step that belong to the next epoch.
        readers: ranks times workers.
        rank_draws, reader_draws: the fewest and the most that a rank, a reader has in the epoch.
        missed, repeated_draws: draws of a period of `workers` steps that no reader or more than one has; after a
            period the same readers come again.
        looked_at: draws whose rows were compared, of them `repeated_rows` had a row that another had too.
        expected_if_random: rows that would repeat among so many draws if draws were independent: what 0 is worth.
    """

    steps: int
    draws: int
    ahead: int
    readers: int
    rank_draws: tuple[int, int]
    reader_draws: tuple[int, int]
    missed: int
    repeated_draws: int
    looked_at: int
    repeated_rows: int
    expected_if_random: float


@dataclass(frozen=True)
class Mixing:
    """How well an order mixes, against draws that know of no shard.

    Attributes:
        distinct: shards among 32 consecutive examples, mean over places of the epoch.
        uniform: the same of a uniform shuffle, in closed form.
        spread: how far apart in the epoch the examples of a shard come, 1 for a uniform shuffle; N of S shards at a
            time give about N / S.
    """

    distinct: float
    uniform: float
    spread: float

    @property
    def share(self) -> float:
        """Of the uniform figure."""
        return self.distinct / self.uniform


@dataclass(frozen=True)
class Traffic:
    """What a step time asks of store, network and machines.

    Attributes:
        epoch_s: time of an epoch.
        requests_per_s, bytes_per_s: of all ranks.
        rank_requests_per_s, rank_bytes_per_s: of the rank that has most.
        rank_epoch_bytes: that this rank reads in an epoch.
        in_flight: requests that this rank has open at a time, by Little's law (1961): rate times latency.
        rank_cores: that decode for it without a pause.
        rank_memory_bytes: of its batches, those read ahead included.
    """

    epoch_s: float
    requests_per_s: float
    bytes_per_s: float
    rank_requests_per_s: float
    rank_bytes_per_s: float
    rank_epoch_bytes: float
    in_flight: float
    rank_cores: float
    rank_memory_bytes: float


def order_of(job: Job, *, seed: int = 0, window: int = 0) -> RowsAt:
    """Return the order of a run over one lane and source, as streams have it.

    Args:
        window: shards that are mixed at a time, 0 for all.
    """
    key = key_of(seed, "capacity")
    epochs = ShuffledByShard(job.shard_sizes, window, key) if window else Shuffled(job.examples, key)
    return epochs.members


def coverage(job: Job, rows_at: RowsAt, *, every_position: bool = False) -> Coverage:
    """Return who draws what, checked on the arithmetic that streams use.

    Args:
        rows_at: the order, such as `order_of` gives it.
        every_position: compare the rows of all draws (1e9 take minutes and a gigabyte), not of 2^20 of them.
    """
    taken = np.zeros(job.workers * job.global_batch, np.int32)  # a period: step s belongs to worker s mod workers
    for rank in range(job.ranks):
        for worker in range(job.workers):
            step = taken[worker * job.global_batch : (worker + 1) * job.global_batch]
            step[rank :: job.ranks] += 1
    looked_at, repeated = _repeats(job.examples, rows_at, all_of_them=every_position)
    least, most = job.global_batch // job.ranks, job.rank_batch
    return Coverage(
        steps=job.steps,
        draws=job.steps * job.global_batch,
        ahead=job.steps * job.global_batch - job.examples,
        readers=job.ranks * job.workers,
        rank_draws=(job.steps * least, job.steps * most),
        reader_draws=(job.steps // job.workers * least, -(-job.steps // job.workers) * most),
        missed=int((taken == 0).sum()),
        repeated_draws=int((taken > 1).sum()),
        looked_at=looked_at,
        repeated_rows=repeated,
        expected_if_random=looked_at - _distinct_if_random(job.examples, looked_at),
    )


def _repeats(n: int, rows_at: RowsAt, *, all_of_them: bool) -> tuple[int, int]:
    """How many draws of an epoch of n were looked at, and how many had a row that an earlier one had."""
    if not all_of_them and n > _LOOKED:
        rows = np.sort(np.concatenate(list(_in_parts(_spread_draws(n), rows_at))))
        return _LOOKED, int((rows[1:] == rows[:-1]).sum())
    seen = np.zeros(n, bool)
    for first in range(0, n, _AT_ONCE):
        seen[rows_at(np.arange(first, min(first + _AT_ONCE, n), dtype=np.int64))] = True
    return n, n - int(np.count_nonzero(seen))


def _spread_draws(n: int) -> np.ndarray:
    """Draws of an epoch of n, at equal distances."""
    looked = min(n, _LOOKED)
    return np.arange(looked, dtype=np.int64) * n // looked


def _in_parts(draws: np.ndarray, rows_at: RowsAt) -> Iterator[np.ndarray]:
    for first in range(0, len(draws), _AT_ONCE):
        yield rows_at(draws[first : first + _AT_ONCE])


def _distinct_if_random(n: int, draws: int) -> float:
    return -n * math.expm1(draws * math.log1p(-1 / n)) if n > 1 else 1.0


def mixing(job: Job, rows_at: RowsAt, *, places: int = 1_000) -> Mixing:
    """Return how well an order mixes, measured at `places` places that are spread over the first epoch."""
    run = min(_RUN, job.examples)
    starts = np.linspace(0, job.examples - run, places).astype(np.int64)
    rows = rows_at((starts[:, None] + np.arange(run)).ravel()).reshape(places, run)
    distinct = np.array([len(set(shards)) for shards in job.shard_of(rows).tolist()])
    return Mixing(float(distinct.mean()), uniform_distinct(job, run), _spread(job, rows_at))


def uniform_distinct(job: Job, run: int) -> float:
    """Return how many shards a uniform shuffle is expected to have among `run` consecutive examples."""
    size = job.examples / job.shards
    absent = sum(math.log1p(-size / (job.examples - i)) if size < job.examples - i else -math.inf for i in range(run))
    return job.shards * -math.expm1(absent)


def _spread(job: Job, rows_at: RowsAt) -> float:
    """Standard deviation of the draws that have one shard's rows, against that of draws spread over the epoch."""
    draws = _spread_draws(job.examples)
    shards = job.shard_of(np.concatenate(list(_in_parts(draws, rows_at))))
    n = np.bincount(shards, minlength=job.shards).astype(float)
    position = draws / job.examples
    mean = np.bincount(shards, position, job.shards) / np.maximum(n, 1)
    squares = np.bincount(shards, (position - mean[shards]) ** 2, job.shards)
    several = n > 1
    if not several.any():
        return 1.0
    return float(math.sqrt((squares[several].sum() / (n[several] - 1).sum()) * 12))


def traffic(job: Job, cost: Cost, *, step_s: float, latency_s: float = 0.03, ahead: int = 3) -> Traffic:
    """Return what a step of `step_s` seconds asks for.

    Args:
        latency_s: of a request, 30 ms for an object store in the same region.
        ahead: steps that are read ahead.

    Raises:
        ConfigError: a time is not positive.
    """
    if step_s <= 0 or latency_s <= 0:
        raise ConfigError(f"step_s={step_s} and latency_s={latency_s}: both must be positive")
    each, rank = job.global_batch / step_s, job.rank_batch / step_s
    return Traffic(
        epoch_s=job.steps * step_s,
        requests_per_s=each * cost.requests,
        bytes_per_s=each * cost.fetched_bytes,
        rank_requests_per_s=rank * cost.requests,
        rank_bytes_per_s=rank * cost.fetched_bytes,
        rank_epoch_bytes=job.steps * job.rank_batch * cost.fetched_bytes,
        in_flight=rank * cost.requests * latency_s,
        rank_cores=rank * cost.decoded_bytes / DECODE_BYTES_PER_S,
        rank_memory_bytes=(1 + ahead) * job.rank_batch * cost.kept_bytes,
    )
