"""The order of examples as arithmetic: pure functions of one integer, a seed and how many rows each source has.

Nothing here reads, remembers or draws random numbers, so that any position of any epoch costs the same, and ranks and
workers cannot matter. Integers are uint64 and wrap around on purpose.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import sha256_hex

ORDER_VERSION = 2  # changes when any (seed, rows, choice, step) would give another row
MAX_BLOCK = 1_000_000  # slots of one block of a mix; finer shares than that mean a typing error
MAX_TURNS = 2**31 - 1  # sum of weights: products of two of them stay below 2^62

_ROUNDS = 8
_SMALL, _ROUNDS_SMALL = 16, 32  # on a grid of few cells 8 rounds leave orders up to 5 % more or less likely than others
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the step of splitmix64 (Steele, Lea, Flood 2014)
_MASK = 2**64 - 1
_REACH = 300  # strides tried on either side
_SHUFFLED = 4096  # turns of the largest block that is shuffled: to count in it is to sort it


def key_of(seed: int, label: str) -> int:
    """Return the 64-bit key of one permutation of a run: another for every seed and label."""
    return int(sha256_hex(f"{ORDER_VERSION}|{seed}|{label}")[:16], 16)


def scramble(value: np.ndarray) -> np.ndarray:
    """Return the splitmix64 finaliser of uint64 values: a bijection in which every input bit moves every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def nth_key(key: int, n: np.ndarray) -> np.ndarray:
    """Return the keys of the n-th permutations (uint64) of the family that `key` begins."""
    return scramble(np.asarray(n, np.uint64) + np.uint64(key))


def permute(index: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
    """Return where a keyed permutation of 0 … n-1 sends each index, without ever holding the permutation.

    A Feistel network on a grid of about sqrt(n) x sqrt(n) cells with additions modulo its sides (Black and Rogaway
    2002, "Ciphers with arbitrary finite domains"); a result outside 0 … n-1 is sent on until it is inside, which the
    tight grid makes rare.

    Args:
        index: uint64, each below `n`.
        n: size of the domain, at least 1.
        key: uint64, one per index: a key is one permutation.
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    out = _feistel(index, rows, columns, key)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = _feistel(out[outside], rows, columns, key[outside])
        outside = outside[out[outside] >= n]
    return out


def _feistel(index: np.ndarray, rows: int, columns: int, key: np.ndarray) -> np.ndarray:
    left, right = np.divmod(index, np.uint64(columns))
    for turn in range(_ROUNDS if rows > _SMALL else _ROUNDS_SMALL):
        turned = key + np.uint64(turn * _GOLDEN & _MASK)
        if turn % 2:
            right = _add(right, scramble(left * np.uint64(_GOLDEN) + turned), columns)
        else:
            left = _add(left, scramble(right * np.uint64(_GOLDEN) + turned), rows)
    return left * np.uint64(columns) + right


def _add(value: np.ndarray, noise: np.ndarray, side: int) -> np.ndarray:
    """Return value + noise modulo `side` < 2^32; noise is scaled down by its upper half, which costs no division."""
    total = value + ((noise >> np.uint64(32)) * np.uint64(side) >> np.uint64(32))
    return np.where(total >= side, total - np.uint64(side), total)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Return the sum of (a * i + b) // m over i = 0 … n-1 in O(log m) steps; a, b >= 0, m > 0.

    Whole parts are summed in closed form; what is left counts lattice points under a line, which Euclid's algorithm
    turns over and makes smaller (Graham, Knuth, Patashnik, "Concrete Mathematics", 3.5).
    """
    total = 0
    while n > 0:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        n, b = divmod(a * n + b, m)
        m, a = a, m
        if not m:
            break
    return total


def _quotients(a: int, b: int) -> list[int]:
    """Return the partial quotients of a / b (its continued fraction)."""
    found = []
    while b:
        found.append(a // b)
        a, b = b, a % b
    return found


@dataclass(frozen=True)
class Turns:
    """Whose turn it is in an endless row of turns: in every block of sum(weights) each has exactly its weight.

    Blocks of up to 4096 turns are shuffled. In larger ones, and where `even` is set,
    turns go round a circle of arcs in steps near the golden ratio (a Kronecker sequence): each comes back at nearly
    equal distances, and floor_sum counts its turns before any other without walking there. Either way the turns of
    each are counted in time: the c-th comes before the next.

    Attributes:
        weights: whole, positive, their sum at most `MAX_TURNS`.
        key: of the permutations.
        even: spread evenly instead of by chance.
    """

    weights: tuple[int, ...]
    key: int
    even: bool = False

    @cached_property
    def block(self) -> int:
        """Turns of a block."""
        return sum(self.weights)

    @cached_property
    def _edges(self) -> np.ndarray:
        return np.cumsum(self.weights)

    @cached_property
    def _stride(self) -> int:
        """The number near block / golden ratio that shares no divisor with the block and spreads turns best.

        That of smallest partial quotients: a large one would let turns of a small weight come in clusters (three-gap
        theorem; the golden ratio's own are all 1, and only whole strides come round exactly).
        """
        near = round(self.block * (math.sqrt(5) - 1) / 2)
        reach = range(max(1, near - _REACH), min(self.block, near + _REACH) + 1)
        strides = [stride for stride in reach if math.gcd(stride, self.block) == 1]
        return min(strides, key=lambda stride: (max(_quotients(stride, self.block)), abs(stride - near)))

    def deal(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (who, before), int64, of the turns start … start+count-1: whose they are and how many that one had
        before.
        """
        if len(self.weights) == 1:
            return np.zeros(count, np.int64), np.arange(start, start + count)
        who = self._whose(start, count)
        before = np.zeros(count, np.int64)
        for k in np.unique(who):
            mine = np.flatnonzero(who == k)
            before[mine] = self.before(int(k), start) + np.arange(len(mine))
        return who, before

    def before(self, who: int, turn: int) -> int:
        """How many of the turns 0 … turn-1 are those of `who`."""
        block, rest = divmod(turn, self.block)
        return block * self.weights[who] + self._within(block, rest, who)

    def first_after(self, who: int, count: int) -> int:
        """The fewest turns among which `who` has `count`."""
        if count <= 0:
            return 0
        block, rest = divmod(count - 1, self.weights[who])
        low, high = 1, self.block
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._within(block, middle, who) > rest else (middle + 1, high)
        return block * self.block + low

    def _within(self, block: int, rest: int, who: int) -> int:
        """How many of the first `rest` turns of a block are those of `who`."""
        if rest == 0 or len(self.weights) == 1:
            return rest
        first, last = int(self._edges[who]) - self.weights[who], int(self._edges[who])
        if not self._is_even:
            return int((self._whose(block * self.block, rest) == who).sum())
        shift = int(self._shift(np.asarray([block], np.uint64))[0])
        return self._below(last, rest, shift) - self._below(first, rest, shift)

    def _below(self, edge: int, rest: int, shift: int) -> int:
        """How many of the first `rest` places on the circle are below `edge`."""
        whole = floor_sum(rest, self.block, self._stride, shift + self.block)
        return whole - floor_sum(rest, self.block, self._stride, shift + self.block - edge)

    @property
    def _is_even(self) -> bool:
        return self.even or self.block > _SHUFFLED

    def _shift(self, block: np.ndarray) -> np.ndarray:
        return nth_key(self.key, block) % np.uint64(self.block)

    def _whose(self, start: int, count: int) -> np.ndarray:
        """Return whose the turns start … start+count-1 are, int64."""
        if self._is_even:
            turn = np.arange(start, start + count, dtype=np.uint64)
            block, slot = np.divmod(turn, np.uint64(self.block))
            place = (slot * np.uint64(self._stride) + self._shift(block)) % np.uint64(self.block)
        else:
            first, last = start // self.block, (start + max(count, 1) - 1) // self.block
            keys = nth_key(self.key, np.arange(first, last + 1))
            # distinct numbers, since scramble is a bijection: their ranks are a permutation, whatever sorts them
            noise = scramble(keys[:, None] + np.arange(self.block, dtype=np.uint64) * np.uint64(_GOLDEN))
            place = np.argsort(noise, axis=1).reshape(-1)[start - first * self.block :][:count]
        return np.searchsorted(self._edges, place.astype(np.int64), side="right")


@dataclass(frozen=True)
class Shuffled:
    """Epochs of `size` members, each a permutation of them all; draw c is position c mod size of epoch c div size."""

    size: int
    key: int

    def members(self, draw: np.ndarray) -> np.ndarray:
        """Return which member of 0 … size-1 each draw takes, int64."""
        epoch, position = np.divmod(np.asarray(draw, np.uint64), np.uint64(self.size))
        return permute(position, self.size, nth_key(self.key, epoch)).astype(np.int64)


@dataclass(frozen=True)
class _Layout:
    """One epoch of `ShuffledByShard`: shards in their order, where each ends, where each window ends."""

    shards: np.ndarray
    ends: np.ndarray
    window_ends: np.ndarray


@dataclass(frozen=True, eq=False)
class ShuffledByShard:
    """Epochs that go from one window of shards to the next: locality for a cache, at the price of mixing less.

    In each epoch the shards are permuted and cut into windows of `window` shards; the members of a window are permuted
    among themselves. An epoch takes memory for its shards, not for its members.

    Attributes:
        sizes: members of each shard, int64, at least 1 each; members are numbered shard by shard.
        window: shards of a window, at least 1.
        key: of the permutations.
    """

    sizes: np.ndarray
    window: int
    key: int
    _kept: list[tuple[int, _Layout]] = field(default_factory=list)  # the two epochs asked for last

    @property
    def size(self) -> int:
        """Members of all shards."""
        return int(self.sizes.sum())

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum(self.sizes) - self.sizes

    def members(self, draw: np.ndarray) -> np.ndarray:
        """Return which member of 0 … size-1 each draw takes, int64."""
        epoch, position = np.divmod(np.asarray(draw, np.int64), self.size)
        member = np.zeros(len(position), np.int64)
        for e in np.unique(epoch):
            mine = np.flatnonzero(epoch == e)
            member[mine] = self._in_epoch(int(e), position[mine])
        return member

    def _in_epoch(self, epoch: int, position: np.ndarray) -> np.ndarray:
        layout = self._layout(epoch)
        window = np.searchsorted(layout.window_ends, position, side="right")
        place = np.zeros(len(position), np.int64)
        epoch_key = int(nth_key(self.key, np.asarray([epoch]))[0])
        for w in np.unique(window):
            mine = np.flatnonzero(window == w)
            start = int(layout.window_ends[w - 1]) if w else 0
            inner = (position[mine] - start).astype(np.uint64)
            keys = np.full(len(mine), nth_key(epoch_key, np.asarray([w + 1]))[0])
            place[mine] = start + permute(inner, int(layout.window_ends[w]) - start, keys).astype(np.int64)
        at = np.searchsorted(layout.ends, place, side="right")
        shard = layout.shards[at]
        return self._starts[shard] + place - (layout.ends[at] - self.sizes[shard])

    def _layout(self, epoch: int) -> _Layout:
        for kept, layout in tuple(self._kept):
            if kept == epoch:
                return layout
        number = np.arange(len(self.sizes), dtype=np.uint64)
        keys = np.full(len(number), nth_key(self.key, np.asarray([epoch]))[0])
        shards = permute(number, len(number), keys).astype(np.int64)
        ends = np.cumsum(self.sizes[shards])
        last = np.minimum(np.arange(self.window, len(ends) + self.window, self.window), len(ends)) - 1
        layout = _Layout(shards, ends, ends[last])
        self._kept[:] = [(epoch, layout), *self._kept[:1]]  # one assignment, so that threads find it whole
        return layout


def whole_weights(mix: Mapping[str, float]) -> dict[str, int]:
    """Return the shares of `mix` as the smallest whole numbers, by name: {"a": 0.7, "b": 0.3} is {"a": 7, "b": 3}.

    Raises:
        ConfigError: a weight is not positive and finite, or the shares need a block of more than `MAX_BLOCK` slots.
    """
    for name, weight in mix.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ConfigError(f"mix gives {name!r} the weight {weight!r}; a weight is a number above 0")
    names = sorted(mix)
    shares = [Fraction(str(mix[name])) for name in names]
    scale = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * scale) for share in shares]
    common = math.gcd(*whole)
    if sum(whole) // common > MAX_BLOCK:
        raise ConfigError(f"mix {dict(mix)} needs blocks of {sum(whole) // common} draws; round its weights")
    return dict(zip(names, (weight // common for weight in whole), strict=True))


def turns_of(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """Return positive shares as whole weights for `Turns`: exact where their sum can be at most `MAX_TURNS`, else
    to one part in 2^30 of the sum for each share.
    """
    scale = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * scale) for share in shares]
    common = math.gcd(*whole)
    whole = [weight // common for weight in whole]
    total = sum(whole)
    if total > MAX_TURNS:
        room = MAX_TURNS - len(whole)
        whole = [max(1, weight * room // total) for weight in whole]
    return tuple(whole)


def substitute(seed: int, t: int, attempt: int, n: int) -> int:
    """Return which of `n` rows stands in for the row of draw `t`, the same for the same arguments."""
    return key_of(seed, f"substitute|{t}|{attempt}") % n
