"""Timeline: the segments of a run, which step belongs to which, what each step holds, and the checkpoint of it all.

A run is a row of segments; within one nothing changes that decides the order. All here is arithmetic on rows: no
medium is read, and no rank or worker is known.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medloom.model.opening import Data, open_data
from medloom.model.rows import Segment, SegmentRows, StepPlan, begin
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release

STATE_VERSION = 2
DECIDING = ("split", "where", "mix", "seed", "global_batch", "buckets", "shuffle", "pack")  # of a segment


@dataclass(frozen=True)
class Settings:
    """What decides the order of a run, beside its data; `ShardStream` says what each is."""

    seed: int
    global_batch: int
    split: str = "train"
    mix: Mapping[str, float] | None = None
    where: Mapping[str, Any] | None = None
    buckets: str | None = "dimension"
    shuffle: str = "global"
    pack_tokens: int | None = None
    tokenizer: str = "bytes"
    media_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Step:
    """A step of the run: its plan, and the rows and data that the plan speaks of."""

    number: int
    plan: StepPlan
    rows: SegmentRows
    data: Data


class Timeline:
    """The segments of a run over `data`; a new one has one segment, which begins at step 0.

    Raises:
        ConfigError: a setting names what the data have not.
    """

    def __init__(self, data: Data, settings: Settings):
        self.data, self.settings = data, settings
        self.segments: tuple[Segment, ...] = (self._segment(step=0),)
        self._opened: dict[int, Data] = {data.number: data}
        self._rows: dict[int, SegmentRows] = {}
        self._anchors: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process can open anew."""
        return {**self.__dict__, "_rows": {}, "_opened": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._opened = {self.data.number: self.data}

    @property
    def newest(self) -> SegmentRows:
        """Rows of the last segment."""
        return self._rows_of(len(self.segments) - 1)

    def step(self, number: int) -> Step:
        """Return what step `number` of the run holds."""
        k = self._segment_of(number)
        rows = self._rows_of(k)
        return Step(number, rows.step(number - first_step(self.segments[k])), rows, self._data_of(k))

    def end_of_epoch(self, number: int) -> int:
        """Return the step behind the epoch that step `number` lies in, of the newest segment."""
        begun, length = first_step(self.segments[-1]), self.newest.steps_per_epoch
        return begun + (max(number - begun, 0) // length + 1) * length

    def state(self, number: int) -> dict[str, Any]:
        """Return the checkpoint of a run whose next step is `number`: a short JSON."""
        k = self._segment_of(number)
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "t": number * self.segments[-1].global_batch,
            "segments": [segment.to_json() for segment in self.segments],
        }
        anchors = self._rows_of(k).anchors(number - first_step(self.segments[k]))
        return state | ({"anchors": anchors} if anchors and k == len(self.segments) - 1 else {})

    def load(self, state: Mapping[str, Any] | str, *, begin_segment: bool) -> int:
        """Take over the segments of a checkpoint and return the next step; see `ShardStream.load_state_dict`."""
        t, segments, anchors = _parsed(state)
        step = t // segments[-1].global_batch
        if begin_segment:
            segments = tuple(s for s in segments if first_step(s) < step) or segments[:1]
            segments, anchors = self._with_new(segments, step), None
        else:
            _must_match(self._segment(step=step), segments[-1])
        known = self._rows if anchors is None and segments[0] == self.segments[0] else {}
        self._rows = {k: rows for k, rows in known.items() if k == 0}  # the first rests on no other segment
        self._anchors, self.segments = anchors, segments
        self._rows_of(len(segments) - 1)
        return step

    def _with_new(self, segments: tuple[Segment, ...], step: int) -> tuple[Segment, ...]:
        """Return segments with a new one from `step` on.

        It draws from the rows of the one before where it can, so that epochs go on: what was withheld since is
        substituted then. Where other rows are asked for, or too few are left, it draws from what is live now.
        """
        kept = tuple(s for s in segments if first_step(s) < step)
        last = segments[-1]
        if (self.data.number, self.data.digest) == (last.release, last.sha256):
            going_on = self._segment(step=step, overlay=last.overlay)
            if going_on.continues(last) and SegmentRows(self.data, going_on).can_go_on:
                return (*kept, going_on)
        return (*kept, self._segment(step=step))

    def _segment(self, *, step: int, overlay: int | None = None) -> Segment:
        settings = self.settings
        return begin(
            self.data, t0=step * settings.global_batch, split=settings.split, where=settings.where or {},
            mix=settings.mix or {}, seed=settings.seed, global_batch=settings.global_batch, buckets=settings.buckets,
            shuffle=settings.shuffle, pack_tokens=settings.pack_tokens, tokenizer=settings.tokenizer,
            media_tokens=settings.media_tokens, overlay=overlay,
        )  # fmt: skip

    def _segment_of(self, number: int) -> int:
        return max((k for k, s in enumerate(self.segments) if first_step(s) <= number), default=0)

    def _rows_of(self, k: int) -> SegmentRows:
        """Rows of a segment, opened when first asked for."""
        if k not in self._rows:
            segment, drawn = self.segments[k], None
            if k and segment.continues(self.segments[k - 1]):
                drawn = self._drawn_before(k)
            anchors = self._anchors if k == len(self.segments) - 1 else None
            self._rows[k] = SegmentRows(self._data_of(k), segment, drawn=drawn, anchors=anchors)
        return self._rows[k]

    def _drawn_before(self, k: int) -> dict[str, Any]:
        """Return what each source has had when segment k begins: in the one before, or earlier where it rested."""
        drawn: dict[str, Any] = {}
        first = k
        while first and self.segments[first].continues(self.segments[first - 1]):
            first -= 1
        for one in range(first, k):
            steps = first_step(self.segments[one + 1]) - first_step(self.segments[one])
            for lane, sources in self._rows_of(one).drawn_before(steps).items():
                drawn[lane] = {**drawn.get(lane, {}), **sources}
        return drawn

    def _data_of(self, k: int) -> Data:
        number = self.segments[k].release
        if number not in self._opened:
            if not isinstance(self.data, Release):
                raise FormatError(f"{self.data.url}: the checkpoint speaks of release {number}, and these are tars")
            self._opened[number] = open_data(self.data.url, number=number)
        return self._opened[number]


def first_step(segment: Segment) -> int:
    """Return the step of the run with which a segment begins."""
    return segment.t0 // segment.global_batch


def _parsed(state: Mapping[str, Any] | str) -> tuple[int, tuple[Segment, ...], dict[str, Any] | None]:
    try:
        value = json.loads(state) if isinstance(state, str) else state
        version, t, segments = int(value["version"]), int(value["t"]), list(value["segments"])
    except (KeyError, TypeError, ValueError) as fault:
        raise FormatError(f"cannot resume: this is not the state of a stream ({fault!r})") from fault
    if version != STATE_VERSION or t < 0 or not segments:
        raise FormatError(
            f"cannot resume: state of version {version} at draw {t} with {len(segments)} segments; this MedLoom reads "
            f"version {STATE_VERSION}: install the one that began the run, or begin a new run"
        )
    return t, tuple(Segment.from_json(segment) for segment in segments), value.get("anchors")


def _must_match(mine: Segment, saved: Segment) -> None:
    for name in DECIDING:
        now, then = _setting(mine, name), _setting(saved, name)
        if now != then:
            raise ConfigError(
                f"the checkpoint streams with {name}={then!r} and this stream was made with {now!r}; give the same, or "
                "load with begin_segment=True to change it from here on"
            )


def _setting(segment: Segment, name: str) -> Any:
    """Return a setting without what it pins of the data: lengths are those of the rows that were live at its begin."""
    value = getattr(segment, name)
    return {k: v for k, v in value.items() if k != "sha256"} if name == "pack" and value else value
