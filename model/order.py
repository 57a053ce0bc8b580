"""The order of examples as arithmetic: a pure function of one integer, a seed and how many rows each source has.

Nothing here reads, remembers or draws random numbers, so that any position of any epoch costs the same, and ranks and
workers cannot matter. Integers are uint64 and wrap around on purpose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import sha256_hex

ORDER_VERSION = 1  # changes when any (seed, sizes, weights, t) would give another row
MAX_BLOCK = 1_000_000  # slots of one block of a mix; finer shares than that mean a typing error

_ROUNDS = 8
_SMALL, _ROUNDS_SMALL = 16, 32  # on a grid of few cells 8 rounds leave orders up to 5 % more or less likely than others
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the step of splitmix64 (Steele, Lea, Flood 2014)
_MASK = 2**64 - 1


def key_of(seed: int, label: str) -> int:
    """Return the 64-bit key of one permutation of a run: another for every seed and label."""
    return int(sha256_hex(f"{ORDER_VERSION}|{seed}|{label}")[:16], 16)


def scramble(value: np.ndarray) -> np.ndarray:
    """Return the splitmix64 finaliser of uint64 values: a bijection in which every input bit moves every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


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


def whole_weights(mix: Mapping[str, float]) -> dict[str, int]:
    """Return the shares of `mix` as the smallest whole numbers, by name: {"a": 0.7, "b": 0.3} is {"a": 7, "b": 3}.

    Raises:
        ConfigError: a weight is not positive and finite, or the shares need a block of more than `MAX_BLOCK` slots.
    """
    for name, weight in mix.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ConfigError(f"mix gives {name!r} the weight {weight!r}; a weight is a number above 0")
    shares = {name: Fraction(str(mix[name])) for name in sorted(mix)}
    scale = math.lcm(*(share.denominator for share in shares.values()))
    whole = {name: int(share * scale) for name, share in shares.items()}
    common = math.gcd(*whole.values())
    whole = {name: weight // common for name, weight in whole.items()}
    if sum(whole.values()) > MAX_BLOCK:
        raise ConfigError(f"mix {dict(mix)} needs blocks of {sum(whole.values())} draws; round its weights")
    return whole


@dataclass(frozen=True)
class Order:
    """Which row of which source draw t takes.

    Draws come in blocks of sum(weights) slots; in every block source k has exactly `weights[k]`, at places that a
    permutation of the block decides. The c-th draw of a source is position c mod size of epoch c div size, and each
    epoch is a permutation of the source's rows: no row comes twice before all have come once.

    Attributes:
        seed: of the run.
        names, weights, sizes: of the sources; weights whole and positive, sizes how many rows each has, at least 1.
        drawn: how many draws each source had before t = 0 (an earlier segment of the run), () for none.
    """

    seed: int
    names: tuple[str, ...]
    weights: tuple[int, ...]
    sizes: tuple[int, ...]
    drawn: tuple[int, ...] = ()

    def __call__(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (source, member) of each draw in `t`: places in `names` and in 0 … sizes[source]-1, int64."""
        source, count = self._count(np.asarray(t, dtype=np.uint64))
        member = np.zeros(len(source), np.int64)
        for k, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            mine = np.flatnonzero(source == k)
            epoch, position = np.divmod(count[mine], np.uint64(size))
            member[mine] = permute(position, size, scramble(epoch + np.uint64(key_of(self.seed, f"rows|{name}"))))
        return source, member

    def _count(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return of each draw its source and how many draws that source had before it."""
        slots = sum(self.weights)
        edges = np.cumsum(self.weights)
        block, slot = np.divmod(t, np.uint64(slots))
        place = permute(slot, slots, scramble(block + np.uint64(key_of(self.seed, "mix"))))
        source = np.searchsorted(edges, place, side="right")
        first = np.concatenate([[0], edges[:-1]]).astype(np.uint64)[source]
        weight = np.asarray(self.weights, np.uint64)[source]
        before = np.asarray(self.drawn or [0] * len(self.names), np.uint64)[source]
        return source.astype(np.int64), before + block * weight + (place - first)

    def drawn_before(self, t: int) -> tuple[int, ...]:
        """Return how many draws each source has had when draw `t` is due, those of `drawn` included.

        Inside a block this counts whole ranks, as `_count` deals them: the next segment repeats none of them.
        """
        blocks, rest = divmod(t, sum(self.weights))
        source, _ = self._count(np.arange(t - rest, t, dtype=np.uint64))
        begun = np.bincount(source, minlength=len(self.names)) > 0
        before = self.drawn or (0,) * len(self.names)
        return tuple(
            had + weight * (blocks + int(some))
            for had, weight, some in zip(before, self.weights, begun, strict=True)
        )  # fmt: skip

    @property
    def epoch_draws(self) -> int:
        """The smallest number of whole blocks, in draws, in which every row of every source comes at least once."""
        return sum(self.weights) * max(
            -(-size // weight) for size, weight in zip(self.sizes, self.weights, strict=True)
        )  # fmt: skip


def substitute(seed: int, t: int, attempt: int, n: int) -> int:
    """Return which of `n` rows stands in for the row of draw `t`, the same for the same arguments."""
    return key_of(seed, f"substitute|{t}|{attempt}") % n
