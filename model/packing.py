"""Packing: rows of a lane put into packs of at most so many tokens, a window of draws at a time, from known lengths."""

import heapq
import math
from bisect import bisect_right, insort
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.model.lanes import Lane
from medloom.model.order import nth_key, permute
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release
from medloom.schemas.tar_set import TarSet
from medloom.schemas.token_counts import tokens_part

TRIAL_DRAWS, TRIAL_EPOCHS = 8192, 4  # packed once to learn how many packs a token needs
WINDOW_DRAWS = 65_536  # a window has about as many: enough to fill packs well, few enough to be planned in an instant
MOST_PACKS = 2**20  # of a step
FEWEST_STEPS, MOST_STEPS = 8, 1024  # of a window, where the lane is large enough
_ALIGNED_STEPS = 4  # an epoch of so many steps gets windows of its own, of which only the last is not full


def pack(lengths: np.ndarray, *, budget: int) -> np.ndarray:
    """Return the pack, 0 … n-1, that each of `lengths` goes to, int64; no pack holds more than `budget`.

    Best fit decreasing: the longest first, each into the fullest pack that still takes it (at most 11/9 of the fewest
    packs + 1; Johnson, Demers, Ullman, Garey, Graham 1974). Items of equal length are placed together, so that the work
    goes with how many lengths there are rather than with how many items.

    Args:
        lengths: whole, at most `budget`; one of 0 takes the place of 1.
        budget: of a pack.
    """
    lengths = np.maximum(np.asarray(lengths, np.int64), 1)
    distinct, counts = np.unique(lengths, return_counts=True)
    packs_with: dict[int, list[int]] = {}  # by the room that is left in them
    rooms, made = 0, 0  # bit r of `rooms` is set while a pack has room r
    taken: list[int] = []  # pack after pack …
    times: list[int] = []  # … and how many items it takes
    for length, left in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            fitting = rooms >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else budget
            each = min(room // length, left)
            if fitting:
                packs = packs_with[room]
                some = packs[-(left // each) :]
                del packs[-(left // each) :]
                if not packs:
                    rooms ^= 1 << room
            else:
                some = list(range(made, made + left // each))
                made += len(some)
            taken += some
            times += [each] * len(some)
            left -= each * len(some)
            rest = room - each * length
            if rest:
                packs_with.setdefault(rest, []).extend(some)
                rooms |= 1 << rest
    out = np.empty(len(lengths), np.int64)
    out[np.argsort(-lengths, kind="stable")] = np.repeat(np.asarray(taken, np.int64), np.asarray(times, np.int64))
    return out


def split_packs(packs: np.ndarray, lengths: np.ndarray, *, wanted: int) -> np.ndarray:
    """Return packs 0 … wanted-1 out of fewer: the longest that can be halved is, until there are as many.

    With fewer items than that, as many packs as items; the last ones stay empty.
    """
    made = int(packs.max(initial=-1)) + 1
    if made >= wanted:
        return packs
    packs = packs.copy()
    tokens = np.bincount(packs, weights=lengths, minlength=made)
    by_pack = np.split(np.argsort(packs, kind="stable"), np.cumsum(np.bincount(packs, minlength=made))[:-1])
    queue = [(-float(tokens[p]), p, items) for p, items in enumerate(by_pack) if len(items) > 1]
    heapq.heapify(queue)
    while made < wanted and queue:
        _, kept, items = heapq.heappop(queue)
        items = items[np.argsort(-lengths[items], kind="stable")]
        halves = ((kept, items[::2]), (made, items[1::2]))
        packs[items[1::2]] = made
        made += 1
        for number, half in halves:
            if len(half) > 1:
                heapq.heappush(queue, (-float(lengths[half].sum()), number, half))
    return packs


@dataclass(frozen=True)
class Windows:
    """Which draws of a lane are packed together: `head` draws first, then cycle after cycle of `cycle` draws.

    Head and cycles are cut into windows of `size` draws, the last of them up to twice as long.
    """

    head: int
    cycle: int
    size: int

    def bounds(self, window: int) -> tuple[int, int]:
        """Return the first draw of a window and the one behind its last."""
        heads = max(1, self.head // self.size) if self.head else 0
        if window < heads:
            start, inside, count, whole = 0, window, heads, self.head
        else:
            count, whole = max(1, self.cycle // self.size), self.cycle
            cycle, inside = divmod(window - heads, count)
            start = self.head + cycle * self.cycle
        end = whole if inside == count - 1 else (inside + 1) * self.size
        return start + inside * self.size, start + end


@dataclass(frozen=True)
class Plan:
    """One window, planned.

    Attributes:
        first: its first draw of the lane.
        steps: how many steps it makes.
        draws, rows, packs: int64, of each draw number, row and pack in its step; step by step, pack by pack.
        edges: int64, where in them each step begins, and their length.
        tokens: of all its draws.
    """

    first: int
    steps: int
    draws: np.ndarray
    rows: np.ndarray
    packs: np.ndarray
    edges: np.ndarray
    tokens: int


class PackedLane:
    """A lane whose steps hold packs: step by step, a pure function of the lane's draws and the lengths of its rows.

    The number of steps of a window is known when it is planned; so a step is found by planning the windows before it,
    or from an anchor on, the (window, first step) of any window, which saves that.

    Args:
        lane: the draws.
        lengths: int32, of every row of the release, in tokens.
        budget: tokens of a pack.
        packs: of a step.
        key: of the permutations that spread packs over steps.
    """

    def __init__(self, lane: Lane, lengths: np.ndarray, *, budget: int, packs: int, key: int):
        self.lane, self.lengths, self.budget, self.packs, self.key = lane, lengths, budget, packs, key
        trial_draws = min(TRIAL_DRAWS, max(packs, TRIAL_EPOCHS * lane.size))
        trial = np.maximum(lengths[lane.rows_at(0, trial_draws)], 1).astype(np.int64)
        packs_per_token = Fraction(int(pack(trial, budget=budget).max()) + 1, int(trial.sum()))
        self.packs_per_draw = min(Fraction(1), packs_per_token * _mean_length(lane, lengths))
        self.windows = _windows(lane, self.packs_per_draw, packs, float(trial.std() / budget))
        self._found: list[tuple[int, int]] = [(0, 0)]  # (first step, window), ascending
        self._kept: list[tuple[int, Plan]] = []

    def step(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, packs), int64, of a step: in the order of packs, inside a pack of draws."""
        window, first = self._find(number)
        plan = self._plan(window)
        mine = slice(plan.edges[number - first], plan.edges[number - first + 1])
        return plan.rows[mine], plan.packs[mine]

    def given_before(self, number: int) -> tuple[int, np.ndarray]:
        """Return how many draws were planned for the steps before `number`, and which of them come from it on."""
        window, first = self._find(number)
        if number == first:
            return self.windows.bounds(window)[0], np.zeros(0, np.int64)
        plan = self._plan(window)
        return plan.first + len(plan.draws), np.sort(plan.draws[plan.edges[number - first] :])

    def anchor(self, number: int) -> tuple[int, int]:
        """Return the last (window, first step) known that does not lie behind a step."""
        first, window = self._found[bisect_right(self._found, (number, math.inf)) - 1]
        return window, first

    def remember(self, window: int, first: int) -> None:
        """Take over an anchor."""
        if (first, window) not in self._found:
            insort(self._found, (first, window))

    def until_draw(self, draw: int) -> tuple[int, int]:
        """Return the steps and tokens of all windows from the first on until `draw` draws were made; plans them all."""
        window, steps, tokens, end = 0, 0, 0, 0
        while end < draw:
            plan = self._plan(window)
            self.remember(window, steps)
            window, steps, tokens = window + 1, steps + plan.steps, tokens + plan.tokens
            end = plan.first + len(plan.draws)
        return steps, tokens

    def _find(self, number: int) -> tuple[int, int]:
        """Return (window, first step) of the window that step `number` lies in."""
        window, first = self.anchor(number)
        while number >= first + (steps := self._plan(window).steps):
            window, first = window + 1, first + steps
            self.remember(window, first)
        return window, first

    def _plan(self, window: int) -> Plan:
        for kept, plan in tuple(self._kept):
            if kept == window:
                return plan
        plan = self._planned(window)
        self._kept[:] = [(window, plan), *self._kept[:1]]  # one assignment, so that threads find it whole
        return plan

    def _planned(self, window: int) -> Plan:
        start, end = self.windows.bounds(window)
        rows = self.lane.rows_at(start, end - start)
        lengths = self.lengths[rows].astype(np.int64)
        packs = pack(lengths, budget=self.budget)
        steps = -(-(int(packs.max()) + 1) // self.packs)
        packs = split_packs(packs, lengths, wanted=steps * self.packs)
        number = np.arange(steps * self.packs, dtype=np.uint64)
        keys = np.full(len(number), nth_key(self.key, np.asarray([window]))[0])
        place = permute(number, len(number), keys).astype(np.int64)[packs]
        order = np.argsort(place, kind="stable")
        step, packs = np.divmod(place[order], self.packs)
        edges = np.searchsorted(step, np.arange(steps + 1))
        return Plan(start, steps, start + order, rows[order], packs, edges, int(lengths.sum()))


def _mean_length(lane: Lane, lengths: np.ndarray) -> Fraction:
    """Return the mean length of a lane's draws, exactly; 1 of rows without tokens."""
    total = Fraction(0)
    for weight, queue in zip(lane.turns.weights, lane.queues.values(), strict=True):
        total += Fraction(weight * int(np.maximum(lengths[queue.rows], 1).sum(dtype=np.int64)), len(queue.rows))
    return total / lane.turns.block


def _windows(lane: Lane, packs_per_draw: Fraction, packs: int, deviation: float) -> Windows:
    """Return windows that fill their steps: a little less than whole steps of draws, by two standard deviations.

    Where a lane has one source and epochs of many steps, its epochs are packed apart from each other, so that no row
    comes twice before all have come once; else windows go on over their ends. Windows that could come to more packs
    than they have draws are cut to whole multiples of `packs`, so that no pack stays empty.

    Args:
        packs: of a step.
        deviation: standard deviation of a draw's length, in packs.
    """
    per_epoch = lane.size * packs_per_draw / packs  # steps
    most = min(max(int(WINDOW_DRAWS * packs_per_draw / packs), FEWEST_STEPS), MOST_STEPS)
    steps = max(1, min(most, int(per_epoch)))
    rough = float(steps * packs / packs_per_draw)
    unsure = deviation * math.sqrt(rough * max(0.0, 1 - rough / lane.size))  # drawn without replacement
    size = int((steps * packs - 2 * unsure) / packs_per_draw)
    if size < (steps + 1) * packs:
        size = max(1, size // packs) * packs
        return Windows(0, size, size)
    if len(lane.queues) > 1 or per_epoch < _ALIGNED_STEPS:
        return Windows(0, size, size)
    (queue,) = lane.queues.values()
    head = len(queue.left) + -queue.drawn % len(queue.rows)
    if 0 < head < _ALIGNED_STEPS * packs / packs_per_draw:
        head += len(queue.rows)  # too few for windows of their own
    return Windows(head, len(queue.rows), size)


def check_lengths(lengths: np.ndarray, *, budget: int) -> None:
    """Check that every row fits a pack.

    Raises:
        ConfigError: rows are longer; it says how many.
    """
    long = int((lengths > budget).sum())
    if long:
        raise ConfigError(
            f"{long} of {len(lengths)} rows are longer than pack_tokens={budget}, the longest has "
            f"{int(lengths.max())} tokens; nothing is cut silently: raise pack_tokens or leave them out with where"
        )


def read_lengths(source: Release | TarSet, rows: np.ndarray, *, tokenizer: str, media_tokens: int) -> np.ndarray:
    """Return the tokens of rows of a release, int32: those of their text and `media_tokens` for each medium in it.

    Raises:
        ConfigError: the tokenizer's counts of a build are not there.
        FormatError: the counts are not those of the rows' examples.
    """
    if isinstance(source, TarSet):
        raise ConfigError(
            f"{source.url}: packing needs the token counts of a build, and tars have none; leave pack_tokens"
        )
    table = source.rows.select(["build", "part", "row", "example_id"]).take(pa.array(rows))
    builds, lengths = source.builds(), np.zeros(len(rows), np.int32)
    build = np.asarray(table["build"])
    parts = pc.dictionary_encode(table["part"].combine_chunks())
    group = build.astype(np.int64) * max(1, len(parts.dictionary)) + np.asarray(parts.indices)
    order = np.argsort(group, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else ():
        part = parts.dictionary[int(np.asarray(parts.indices)[mine[0]])].as_py()
        at = builds[int(build[mine[0]])]
        path = tokens_part(tokenizer, part)
        try:
            counts = at.store.read_table(path, ["example_id", "tokens", "media"])
        except FileNotFoundError as fault:
            raise ConfigError(
                f"{at.url} has no token counts of {part}; `medloom tokens {at.url} --tokenizer {tokenizer}` makes them"
            ) from fault
        inside = np.asarray(table["row"])[mine]
        counts = counts.take(pa.array(np.minimum(inside, counts.num_rows - 1))) if counts.num_rows else counts
        if not counts["example_id"].combine_chunks().equals(table["example_id"].take(pa.array(mine)).combine_chunks()):
            raise FormatError(
                f"{at.url}/{path} counts other examples than release {source.number} has; "
                f"`medloom tokens {at.url} --tokenizer {tokenizer}` counts again"
            )
        tokens, media = (np.asarray(counts[name]).astype(np.int64) for name in ("tokens", "media"))
        lengths[mine] = np.minimum(tokens + media * media_tokens, np.iinfo(np.int32).max)  # longer than any budget
    return lengths
