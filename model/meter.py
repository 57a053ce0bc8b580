"""How long training waits for data, and which stage of reading is to blame; a count costs less than a microsecond."""

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from threading import Lock
from typing import Any
from weakref import WeakSet

STALL = 0.01  # share of a step spent waiting above which `verdict` names a stage
STAGES = ("order", "fetch", "decode", "transform")
RECENT = 100  # steps that `line` and `verdict` look back
_KEPT = 1_000  # steps whose counts are kept, the most that can be looked back

_STEPS, _STEP_S, _WAIT_S, _ORDER_S, _FETCH_S, _DECODE_S, _TRANSFORM_S = range(7)
_FETCHED, _DECODED, _HITS, _MISSES, _RETRIES, _SUBSTITUTES, _DEPTHS, _LOOKS = range(7, 15)
_MEND = {
    "order": "take a larger global batch, or with packing fewer sources and buckets",
    "fetch": "name a cache folder, add workers, or bring the bytes nearer",
    "decode": "add workers while cores are free, read a region (roi=), or build with codec bitshuffle_lz4",
    "transform": "make the transform lighter, or run it in processes (processes=True)",
}


class _Waiting:
    """Counts the time inside a `with` block as waited."""

    __slots__ = ("_meter", "_since")

    def __init__(self, meter: "Meter"):
        self._meter = meter

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *fault: object) -> None:
        waited, meter = time.perf_counter() - self._since, self._meter
        with meter._lock:
            meter._counts[_WAIT_S] += waited


class Meter:
    """Counts of one stream; any thread may count, the thread that trains calls `waiting` and `step`.

    Pickles without its lock, and survives a fork in the middle of a count.
    """

    def __init__(self) -> None:
        self._counts: list[float] = [0] * (_LOOKS + 1)
        self._marks: deque[list[float]] = deque([list(self._counts)], maxlen=_KEPT + 1)  # counts at each step's end
        self._depth = 0
        self._since = time.perf_counter()
        self._renew()

    def _renew(self) -> None:
        self._lock = Lock()
        _meters.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._since = time.perf_counter()
        self._renew()

    def _add(self, at: int, amount: float) -> None:
        with self._lock:
            self._counts[at] += amount

    def begin(self) -> None:
        """Begin the first step now: what went before (an evaluation, a checkpoint) is no part of it."""
        self._since = time.perf_counter()

    def waiting(self) -> _Waiting:
        """Return a context whose time counts as waited for data."""
        return _Waiting(self)

    def planned(self, seconds: float) -> None:
        """Count time spent to find out which rows a step takes."""
        self._add(_ORDER_S, seconds)

    def fetched(self, seconds: float, bytes: int) -> None:
        """Count bytes read from a store or the cache, and the seconds that took (of one thread or request)."""
        with self._lock:
            self._counts[_FETCH_S] += seconds
            self._counts[_FETCHED] += bytes

    def decoded(self, seconds: float, bytes: int) -> None:
        """Count bytes of decoded arrays, and the seconds of one thread that took."""
        with self._lock:
            self._counts[_DECODE_S] += seconds
            self._counts[_DECODED] += bytes

    def transformed(self, seconds: float) -> None:
        """Count time spent on the user's transform and on making batches."""
        self._add(_TRANSFORM_S, seconds)

    def hit(self, n: int = 1) -> None:
        """Count pieces that the cache held."""
        self._add(_HITS, n)

    def miss(self, n: int = 1) -> None:
        """Count pieces that the cache had to fetch."""
        self._add(_MISSES, n)

    def retried(self, n: int = 1) -> None:
        """Count reads that were tried again."""
        self._add(_RETRIES, n)

    def substituted(self, n: int = 1) -> None:
        """Count examples that another one stood in for."""
        self._add(_SUBSTITUTES, n)

    def queue(self, depth: int) -> None:
        """Note how many steps lie ready, looked at before one is taken."""
        with self._lock:
            self._depth = depth
            self._counts[_DEPTHS] += depth
            self._counts[_LOOKS] += 1

    def step(self, step_s: float | None = None) -> None:
        """End a step that took `step_s` seconds, waiting included; by default, since the last one ended or `begin`."""
        now = time.perf_counter()
        with self._lock:
            self._counts[_STEPS] += 1
            self._counts[_STEP_S] += now - self._since if step_s is None else step_s
            self._since = now
            self._marks.append(self._counts[:])

    def take(self) -> tuple[float, ...]:
        """Return all counts since the last `take`, and begin again at 0: what a worker process sends to its stream."""
        with self._lock:
            counts, self._counts = self._counts, [0] * len(self._counts)
            self._marks.clear()
            self._marks.append(list(self._counts))
        return tuple(counts)

    def add(self, counts: Iterable[float]) -> None:
        """Add what another meter's `take` gave."""
        with self._lock:
            self._counts = [mine + other for mine, other in zip(self._counts, counts, strict=True)]

    def snapshot(self, steps: int | None = None) -> dict[str, Any]:
        """Return what the last `steps` steps cost, or all (None); plain numbers and text, ready for JSON.

        Keys: steps; step_s, wait_s per step; wait_share of the time; queue_depth, mean number of steps that lay ready;
        bytes_per_s fetched and decoded_bytes_per_s by the wall clock; decode_share of the time that readers were busy;
        busy_s per step and stage, summed over threads; cache_hit_share, None without a cache; retries, substitutes;
        slow_stage, "" while waiting stays below `STALL`.
        """
        with self._lock:
            last = self._marks[-1]
            back = None if steps is None else len(self._marks) - 1 - steps
            first = [0.0] * len(last) if back is None else next(islice(self._marks, max(back, 0), None))
        return _told([b - a for a, b in zip(first, last, strict=True)])

    def line(self) -> str:
        """Return one line on the last `RECENT` steps for a progress bar; no markup."""
        told = self.snapshot(RECENT)
        parts = [
            f"{_time(told['step_s'])} a step",
            f"waited {told['wait_share']:.1%}",
            f"queue {told['queue_depth']:.1f}",
            f"{readable_size(told['bytes_per_s'])}/s read",
            f"{readable_size(told['decoded_bytes_per_s'])}/s decoded",
            f"decode {told['decode_share']:.0%}",
        ]
        if told["cache_hit_share"] is not None:
            parts.append(f"cache {told['cache_hit_share']:.0%}")
        if told["substitutes"]:
            parts.append(f"{told['substitutes']} substituted")
        if told["slow_stage"]:
            parts.append(f"slow: {told['slow_stage']}")
        return " · ".join(parts)

    def verdict(self, steps: int | None = RECENT) -> str:
        """Return one sentence: whether training waits for data, and if so which stage is slow and what would help."""
        told = self.snapshot(steps)
        if not told["steps"]:
            return "no step has ended yet"
        waited = f"waited {told['wait_share']:.1%} of {told['steps']} steps for data"
        if told["wait_share"] <= STALL:
            return waited
        stage = told["slow_stage"]
        if stage == "unknown":
            return f"{waited}, and no stage of reading was busy meanwhile"
        busy = told["busy_s"]
        share = busy[stage] / sum(busy.values())
        return (
            f"{waited}: {stage} is slow, {share:.0%} of the readers' busy time "
            f"({_time(busy[stage])} a step); {_MEND[stage]}"
        )

    def prometheus(self, labels: Mapping[str, str] | None = None) -> str:
        """Return all counters in Prometheus' text format 0.0.4, with `labels` (such as the rank) on every sample."""
        with self._lock:
            counts, depth = self._counts[:], self._depth
        families: list[tuple[str, str, str, list[tuple[dict[str, str], float]]]] = [
            ("steps_total", "counter", "Steps that ended.", [({}, counts[_STEPS])]),
            ("step_seconds_total", "counter", "Time of all steps.", [({}, counts[_STEP_S])]),
            ("wait_seconds_total", "counter", "Time that training waited for data.", [({}, counts[_WAIT_S])]),
            (
                "busy_seconds_total", "counter", "Time that readers were busy, by stage, over all threads.",
                [({"stage": stage}, counts[_ORDER_S + i]) for i, stage in enumerate(STAGES)],
            ),
            (
                "bytes_total", "counter", "Bytes read and bytes of decoded arrays.",
                [({"stage": "fetch"}, counts[_FETCHED]), ({"stage": "decode"}, counts[_DECODED])],
            ),
            (
                "cache_requests_total", "counter", "Pieces asked of the cache.",
                [({"result": "hit"}, counts[_HITS]), ({"result": "miss"}, counts[_MISSES])],
            ),
            ("retries_total", "counter", "Reads that were tried again.", [({}, counts[_RETRIES])]),
            ("substitutes_total", "counter", "Examples another stood in for.", [({}, counts[_SUBSTITUTES])]),
            ("queue_depth", "gauge", "Steps that lay ready when one was last taken.", [({}, depth)]),
        ]  # fmt: skip
        lines = []
        for name, kind, said, samples in families:
            lines += [f"# HELP medloom_stream_{name} {said}", f"# TYPE medloom_stream_{name} {kind}"]
            lines += [f"medloom_stream_{name}{_labels({**(labels or {}), **more})} {v}" for more, v in samples]
        return "\n".join(lines) + "\n"


_meters: WeakSet[Meter] = WeakSet()


def _after_fork() -> None:
    for meter in list(_meters):
        meter._renew()  # a lock that another thread held at the fork would never be released in the child


os.register_at_fork(after_in_child=_after_fork)


def _told(counts: list[float]) -> dict[str, Any]:
    steps, seconds = int(counts[_STEPS]), counts[_STEP_S]
    busy = {stage: counts[_ORDER_S + i] for i, stage in enumerate(STAGES)}
    wait_share, asked = _ratio(counts[_WAIT_S], seconds), counts[_HITS] + counts[_MISSES]
    slow = max(busy, key=busy.__getitem__) if any(busy.values()) else "unknown"
    return {
        "steps": steps,
        "step_s": _ratio(seconds, steps),
        "wait_s": _ratio(counts[_WAIT_S], steps),
        "wait_share": wait_share,
        "queue_depth": _ratio(counts[_DEPTHS], counts[_LOOKS]),
        "bytes_per_s": _ratio(counts[_FETCHED], seconds),
        "decoded_bytes_per_s": _ratio(counts[_DECODED], seconds),
        "decode_share": _ratio(busy["decode"], sum(busy.values())),
        "busy_s": {stage: _ratio(spent, steps) for stage, spent in busy.items()},
        "cache_hit_share": counts[_HITS] / asked if asked else None,
        "retries": int(counts[_RETRIES]),
        "substitutes": int(counts[_SUBSTITUTES]),
        "slow_stage": slow if wait_share > STALL else "",
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def readable_size(size_bytes: float) -> str:
    """Return bytes as a person reads them: "3.42 MB"."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size_bytes >= 1000 and len(units) > 1:
        size_bytes /= 1000
        units.pop(0)
    return f"{size_bytes:.0f} {units[0]}" if units[0] in ("B", "kB") else f"{size_bytes:.2f} {units[0]}"


def _labels(labels: Mapping[str, str]) -> str:
    quoted = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{quoted}}}" if quoted else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
