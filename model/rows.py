"""Which rows a segment of a run takes, step by step: pinned by what was so when it began."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from medloom.model.lanes import EVERYTHING, Lane, Queue, lanes_of, shares_of
from medloom.model.order import Shuffled, ShuffledByShard, Turns, key_of, substitute, turns_of
from medloom.model.packing import PackedLane, check_lengths, read_lengths
from medloom.model.segment import Segment, begin, digest_of_lengths
from medloom.model.selection import live, live_rows, selected
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release
from medloom.schemas.tar_set import TarSet

__all__ = ["Segment", "SegmentRows", "StepPlan", "begin", "live_rows"]

PLACE_BITS = 44  # of a draw number, below the place in its pack
_ANY = -1  # source
PLANNED = 1024  # draws that are planned at once, at least


@dataclass(frozen=True, eq=False)
class StepPlan:
    """What a step takes, slot by slot; slots of a pack are adjacent.

    Attributes:
        lane: which all of them are from.
        rows: int64, of the release; -1 where a pack stays empty, or nothing fits where a row was withheld (packing).
        t: int64, the draw number: its slot's own in the segment, and in the run unless a later segment has a smaller
            global batch.
        packs: int64, ascending, 0 … global_batch-1; without packing one slot each.
        rooms: int64, tokens of the slot, 0 without packing.
        fill: how much of the packs' tokens is used, 1 without packing.
    """

    lane: str
    rows: np.ndarray
    t: np.ndarray
    packs: np.ndarray
    rooms: np.ndarray
    fill: float = 1.0


class SegmentRows:
    """The rows of a segment and their order: a pure function of the segment and its release.

    Every global batch is of one lane (`lanes_of`); lanes take turns evenly. Without a mix they do so by their rows, so
    that their epochs advance at the same rate; a lane of fewer rows than a global batch comes once per epoch. With a
    mix, a source's share is exact in every sum(mix) steps if each source is in one lane, else to 1 part in 10^6; with
    packing it is exact in draws within a lane, and over lanes as exact as a trial packing predicts their packs.

    Args:
        drawn: what `drawn_before` said at the end of the segment that this one continues.
        anchors: what `anchors` said of this segment: with packing they save planning again; else of no effect.

    Raises:
        FormatError: the release or the token counts are not the ones that the segment pins.
        ConfigError: no row is left, `mix` names a source that has none, or a row is longer than a pack.
    """

    def __init__(
        self, source: Release | TarSet, segment: Segment, *,
        drawn: Mapping[str, Any] | None = None, anchors: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        if source.digest != segment.sha256:
            raise FormatError(
                f"{source.url}: release {source.number} is not the one that the stream began with; "
                "its release.json was written again: restore it, or begin a new run"
            )
        self.source, self.segment = source, segment
        begun = live(source.rows, source.states(parts=segment.overlay), selected(source, segment.split, segment.where))
        self._live_now = live(source.rows, source.states(), begun)
        self._lane_names, self._lane_of = lanes_of(source.rows, segment.buckets)
        sources = pc.dictionary_encode(source.rows["source"].combine_chunks())
        self._source_names, self._source_of = sources.dictionary.to_pylist(), np.asarray(sources.indices)
        self._lengths = self._read_lengths(begun)
        self.lanes = self._make_lanes(begun, drawn or {})
        self._packed = self._make_packed(anchors or {}) if segment.pack else ()
        self._turns = self._make_turns()
        self._stand_ins: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._planned: dict[int, tuple[int, np.ndarray]] = {}

    def step(self, number: int) -> StepPlan:
        """Return what step `number` of the segment, from 0, takes; rows withheld since it began are substituted."""
        lane, lane_step = (int(found[0]) for found in self._turns.deal(number, 1))
        size = self.segment.global_batch
        first = self.segment.t0 + number * size
        if not self._packed:
            rows, packs = self._rows_at(lane, lane_step), np.arange(size)
            t, rooms, fill = first + packs, np.zeros(size, np.int64), 1.0
        else:
            rows, packs = _with_empty_packs(*self._packed[lane].step(lane_step), size)
            t = first + packs + (_places(packs) << PLACE_BITS)
            rooms = np.where(rows < 0, 0, self._lengths[rows]).astype(np.int64)
            fill = float(rooms.sum() / (size * self._budget))
        for i in np.flatnonzero((rows >= 0) & ~self._live_now[rows]):
            rows[i] = self.substitute(int(t[i]), int(rows[i]), 0, int(rooms[i]))
        return StepPlan(self.lanes[lane].name, rows, t, packs, rooms, fill)

    def _rows_at(self, lane: int, lane_step: int) -> np.ndarray:
        """Return the rows of one step of a lane, planned with its neighbours: one call costs as much as many draws."""
        size = self.segment.global_batch
        steps = -(-PLANNED // size)
        block, place = divmod(lane_step, steps)
        kept = self._planned.get(lane)
        if kept is None or kept[0] != block:
            kept = self._planned[lane] = block, self.lanes[lane].rows_at(block * steps * size, steps * size)
        return kept[1][place * size : (place + 1) * size].copy()

    @cached_property
    def steps_per_epoch(self) -> int:
        """The fewest steps from the segment's first in which each source has, in each lane, as many draws as rows.

        With packing this plans an epoch of every lane, unless an anchor says what came of it.
        """
        return max(self._turns.first_after(k, steps) for k, (steps, _) in enumerate(self._epochs))

    def fill(self) -> float:
        """Return how much of the packs' tokens an epoch uses, 1 without packing."""
        if not self._packed:
            return 1.0
        whole = sum(steps for steps, _ in self._epochs) * self.segment.global_batch * self._budget
        return sum(tokens for _, tokens in self._epochs) / whole

    @cached_property
    def _epochs(self) -> list[tuple[int, int]]:
        """Of each lane the steps and, with packing, the tokens of its first epoch."""
        if not self._packed:
            return [(-(-lane.draws_per_epoch // self.segment.global_batch), 0) for lane in self.lanes]
        return [packed.until_draw(packed.lane.draws_per_epoch) for packed in self._packed]

    def substitute(self, t: int, row: int, attempt: int, room: int = 0) -> int:
        """Return the live row that stands in for `row` at draw `t`: another of its source and lane.

        Without packing and without a mix, any of its lane if its source has none left there. With packing it is no
        longer than `room`, and -1 if there is none.

        Raises:
            FormatError: without packing, no other row is left.
        """
        chosen = self._stand_in(t, row, attempt, room, int(self._source_of[row]))
        if chosen < 0 and not self._packed and not self.segment.mix:
            chosen = self._stand_in(t, row, attempt, room, _ANY)
        if chosen < 0 and not self._packed:
            source, lane = self._source_names[self._source_of[row]], self._lane_names[self._lane_of[row]]
            raise FormatError(
                f"release {self.source.number}: source {source} has no other live row in lane {lane} to stand in for "
                "one that was withheld or does not read; load with begin_segment=True, or make a release without it"
            )
        return chosen

    def _stand_in(self, t: int, row: int, attempt: int, room: int, source: int) -> int:
        stand_ins, lengths = self._like(int(self._lane_of[row]), source)
        count, first, behind = len(stand_ins), 0, len(stand_ins)
        if self._packed:
            count = int(np.searchsorted(lengths, room, side="right"))
            first, behind = (int(np.searchsorted(lengths, self._lengths[row], side=s)) for s in ("left", "right"))
        at = first + int(np.searchsorted(stand_ins[first:behind], row))
        has_itself = bool(at < count and stand_ins[at] == row)
        if count == has_itself:
            return -1
        chosen = substitute(self.segment.seed, t, attempt, count - has_itself)
        return int(stand_ins[chosen + (has_itself and chosen >= at)])

    @property
    def can_go_on(self) -> bool:
        """Whether each lane (with a mix, each source in it) still has a live row."""
        return all(
            self._live_now[queue.rows].any() if self.segment.mix else self._live_now[self._lane_of == code].any()
            for lane in self.lanes
            for code in [self._lane_names.index(lane.name)]
            for queue in lane.queues.values()
        )

    def drawn_before(self, step: int) -> dict[str, Any]:
        """Return what each source has had when step `step` of the segment is due, for a segment that continues it."""
        drawn = {}
        for k, lane in enumerate(self.lanes):
            steps = self._turns.before(k, step)
            if self._packed:
                planned, late = self._packed[k].given_before(steps)
                drawn[lane.name] = lane.state(planned, not_given=late)
            else:
                drawn[lane.name] = lane.state(steps * self.segment.global_batch)
        return drawn

    def anchors(self, step: int) -> dict[str, Any]:
        """Return what spares a resume at step `step` to plan what lies before: a short JSON, {} without packing."""
        if not self._packed:
            return {}
        windows = {p.lane.name: list(p.anchor(self._turns.before(k, step))) for k, p in enumerate(self._packed)}
        known = self.__dict__.get("_epochs")
        return {"windows": windows, **({"epochs": [list(epoch) for epoch in known]} if known else {})}

    def _read_lengths(self, begun: np.ndarray) -> np.ndarray:
        """Return the length of each row, of which only those in `begun` are known; none without packing."""
        pack = self.segment.pack
        if not pack:
            return np.zeros(0, np.int32)
        chosen = np.flatnonzero(begun)
        found = read_lengths(self.source, chosen, tokenizer=pack["tokenizer"], media_tokens=pack["media_tokens"])
        if digest_of_lengths(found) != pack["sha256"]:
            raise FormatError(
                f"{self.source.url}: the counts of tokenizer {pack['tokenizer']} are not those that the stream began "
                "with; restore them, or begin a new run or segment"
            )
        lengths = np.zeros(len(begun), np.int32)
        lengths[chosen] = found
        return lengths

    def _make_lanes(self, begun: np.ndarray, drawn: Mapping[str, Any]) -> tuple[Lane, ...]:
        """Return the lanes that have rows, with their sources."""
        segment, rows = self.segment, self._rows_by_lane(begun)
        shares = shares_of({lane: {s: len(r) for s, r in found.items()} for lane, found in rows.items()}, segment.mix)
        self._shares = {lane: sum(shares[lane].values(), Fraction(0)) for lane in shares}
        lanes = []
        for lane, found in rows.items():
            queues = {s: self._queue(lane, s, r, drawn.get(lane, {}).get(s, (0, ()))) for s, r in found.items()}
            turns = Turns(turns_of(list(shares[lane].values())), key_of(segment.seed, f"mix|{lane}"))
            lanes.append(Lane(lane, queues, turns))
        return tuple(lanes)

    def _rows_by_lane(self, begun: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Return the rows to draw by lane and by source of the mix, or by `EVERYTHING`; those of a shard adjacent."""
        chosen, mix = np.flatnonzero(begun), self.segment.mix
        if not len(chosen):
            raise ConfigError(f"no live row of split {self.segment.split!r} satisfies where={self.segment.where}")
        if self.segment.window:
            chosen = chosen[np.argsort(self._shard_of[chosen], kind="stable")]
        have = sorted(self._source_names[code] for code in np.unique(self._source_of[chosen]))
        missing = sorted(set(mix) - set(have))
        if missing:
            raise ConfigError(f"mix names {', '.join(missing)}; sources with rows to draw are {', '.join(have)}")
        small = chosen.astype(np.int32) if len(begun) < 2**31 else chosen
        found: dict[str, dict[str, np.ndarray]] = {}
        for source in sorted(mix) or [EVERYTHING]:
            mine = small[self._source_of[small] == self._source_names.index(source)] if mix else small
            for code in np.unique(self._lane_of[mine]):
                found.setdefault(self._lane_names[code], {})[source] = mine[self._lane_of[mine] == code]
        return dict(sorted(found.items()))

    @cached_property
    def _shard_of(self) -> np.ndarray:
        """Which shard each row's media are in: the build and the file of examples, cut like the shards."""
        parts = pc.dictionary_encode(self.source.rows["part"].combine_chunks())
        names = [posixpath.basename(part) for part in parts.dictionary.to_pylist()]
        place = {name: number for number, name in enumerate(sorted(set(names)))}
        shard = np.array([place[name] for name in names], np.int64)[np.asarray(parts.indices)]
        return np.asarray(self.source.rows["build"]).astype(np.int64) * len(place) + shard

    def _queue(self, lane: str, source: str, rows: np.ndarray, state: Any) -> Queue:
        key = key_of(self.segment.seed, f"rows|{lane}|{source}")
        epochs: Shuffled | ShuffledByShard = Shuffled(len(rows), key)
        if self.segment.window:
            begins = np.flatnonzero(np.diff(self._shard_of[rows], prepend=-1))
            epochs = ShuffledByShard(np.diff(begins, append=len(rows)), self.segment.window, key)
        drawn, left = state
        return Queue(rows, epochs, int(drawn), np.asarray(left, np.int64))

    def _make_packed(self, anchors: Mapping[str, Any]) -> tuple[PackedLane, ...]:
        for lane in self.lanes:
            for queue in lane.queues.values():
                check_lengths(self._lengths[queue.rows], budget=self._budget)
        packed = tuple(
            PackedLane(
                lane, self._lengths, budget=self._budget, packs=self.segment.global_batch,
                key=key_of(self.segment.seed, f"packs|{lane.name}"),
            )
            for lane in self.lanes
        )  # fmt: skip
        try:
            for one in packed:
                window, first = anchors.get("windows", {}).get(one.lane.name, (0, 0))
                one.remember(int(window), int(first))
            if "epochs" in anchors:
                self.__dict__["_epochs"] = [(int(steps), int(tokens)) for steps, tokens in anchors["epochs"]]
        except (TypeError, ValueError, AttributeError) as fault:
            raise FormatError(f"cannot resume: {anchors!r} are not the anchors of a segment ({fault!r})") from fault
        return packed

    @property
    def _budget(self) -> int:
        return int(self.segment.pack["tokens"]) if self.segment.pack else 0

    def _make_turns(self) -> Turns:
        """Return whose turn each step is: of lanes by their shares of draws, with packing of packs."""
        size, shares = self.segment.global_batch, [self._shares[lane.name] for lane in self.lanes]
        if self._packed:
            shares = [s * p.packs_per_draw for s, p in zip(shares, self._packed, strict=True)]
        if not self.segment.mix:
            shares = [Fraction(-(-share // size) * size) for share in shares]  # of whole steps, one at least
        return Turns(turns_of(shares), key_of(self.segment.seed, "lanes"), even=True)

    def _like(self, lane: int, source: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a lane and a source (or `_ANY`) that are live now, by length, and their lengths; without packing
        they have none.
        """
        if (lane, source) not in self._stand_ins:
            mine = self._live_now & (self._lane_of == lane)
            found = np.flatnonzero(mine & (self._source_of == source) if source != _ANY else mine)
            if self._packed:
                found = found[np.argsort(self._lengths[found], kind="stable")]
            self._stand_ins[lane, source] = found, self._lengths[found] if self._packed else self._lengths
        return self._stand_ins[lane, source]


def _with_empty_packs(rows: np.ndarray, packs: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slots and packs with a slot of row -1 for every pack that has none."""
    empty = np.setdiff1d(np.arange(size), packs)
    if not len(empty):
        return rows.copy(), packs
    rows, packs = np.concatenate([rows, np.full(len(empty), -1)]), np.concatenate([packs, empty])
    order = np.argsort(packs, kind="stable")
    return rows[order], packs[order]


def _places(packs: np.ndarray) -> np.ndarray:
    """Return the place of each slot in its pack."""
    return np.arange(len(packs)) - np.searchsorted(packs, packs)
