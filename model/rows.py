"""Which rows of a release a segment of a run draws from: pinned by what was so when it began."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.model.order import ORDER_VERSION, Order, substitute, whole_weights
from medloom.schemas.build import conform
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.release import Release, States
from medloom.schemas.tables import RELEASE_ROW, STATE

EVERYTHING = ""  # name of the one source of a run without a mix


@dataclass(frozen=True)
class Segment:
    """A stretch of a run in which nothing that decides the order changes; all of a checkpoint but `t`.

    Attributes:
        t0: draw with which it begins.
        release, sha256: number and digest of the release.
        overlay: how many parts the overlay had: rows withheld in them are not drawn, later ones are substituted.
        split, where: which rows.
        mix: whole weights by source, {} for all rows in equal parts.
        seed: of the run.
        order_version: of `medloom.model.order`.
    """

    t0: int
    release: int
    sha256: str
    overlay: int
    split: str
    where: dict[str, Any]
    mix: dict[str, int]
    seed: int
    order_version: int = ORDER_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        pin = {"number": self.release, "sha256": self.sha256, "overlay": self.overlay}
        return {
            "t0": self.t0, "release": pin, "split": self.split, "where": self.where, "mix": self.mix,
            "seed": self.seed, "order_version": self.order_version,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Segment":
        """Undo `to_json`.

        Raises:
            FormatError: it lacks something, or its order is of another version than this code's.
        """
        try:
            pin = value["release"]
            segment = cls(
                t0=int(value["t0"]), release=int(pin["number"]), sha256=str(pin["sha256"]),
                overlay=int(pin["overlay"]), split=str(value["split"]), where=dict(value["where"]),
                mix={str(k): int(v) for k, v in value["mix"].items()}, seed=int(value["seed"]),
                order_version=int(value["order_version"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as fault:
            raise FormatError(f"cannot resume: {value!r} is not a segment of a stream ({fault!r})") from fault
        if segment.order_version != ORDER_VERSION:
            raise FormatError(
                f"cannot resume: the checkpoint's order_version is {segment.order_version} and this MedLoom draws by "
                f"{ORDER_VERSION}; install the version that began the run, or begin a new run"
            )
        return segment

    def continues(self, earlier: "Segment") -> bool:
        """Whether it draws from the same rows as `earlier`, so that epochs of its sources go on."""
        return all(
            getattr(self, name) == getattr(earlier, name)
            for name in ("release", "sha256", "overlay", "split", "where", "seed")
        )


def begin(
    release: Release, *, t0: int, split: str, where: Mapping[str, Any], mix: Mapping[str, float], seed: int
) -> Segment:
    """Return the segment that begins now with the newest state of `release`.

    Raises:
        ConfigError: `where` names an unknown column or `mix` a bad weight.
    """
    return Segment(
        t0=t0,
        release=release.number,
        sha256=release.digest,
        overlay=len(_overlay_parts(release)),
        split=split,
        where=_plain_where(where),
        mix=whole_weights(mix) if mix else {},
        seed=seed,
    )


class SegmentRows:
    """The rows of a segment and the order over them.

    Raises:
        FormatError: the release is not the one that the segment pins.
        ConfigError: no row is left, or `mix` names a source that has none.
    """

    def __init__(self, release: Release, segment: Segment, *, drawn: Mapping[str, int]):
        if release.digest != segment.sha256:
            raise FormatError(
                f"{release.url}: release {release.number} is not the one that the stream began with; "
                "its release.json was written again: restore it, or begin a new run"
            )
        self.release, self.segment = release, segment
        mask = _selected(release.rows, segment.split, segment.where)
        begun = _live(release.rows, _states(release, segment.overlay), mask)
        self._live_now = _live(release.rows, _states(release, None), begun)
        self._sources = _by_source(release, begun, segment)
        self._live_by_source: dict[str, np.ndarray] = {}
        names = tuple(self._sources)
        self.order = Order(
            seed=segment.seed,
            names=names,
            weights=tuple(segment.mix.get(name, 1) for name in names),
            sizes=tuple(len(rows) for rows in self._sources.values()),
            drawn=tuple(drawn.get(name, 0) for name in names),
        )

    def rows_at(self, t: np.ndarray) -> np.ndarray:
        """Return which row of the release each draw takes; rows withheld since the segment began are substituted."""
        source, member = self.order(t - np.uint64(self.segment.t0))
        rows = np.zeros(len(t), np.int64)
        for k, name in enumerate(self.order.names):
            rows[source == k] = self._sources[name][member[source == k]]
        for i in np.flatnonzero(~self._live_now[rows]):
            rows[i] = self.substitute(int(t[i]), int(rows[i]), 0)
        return rows

    def substitute(self, t: int, row: int, attempt: int) -> int:
        """Return the live row of the same source that stands in for `row` at draw `t`.

        Raises:
            FormatError: the source has no other live row.
        """
        live = self._live_like(row)
        others = live[live != row]
        if not len(others):
            name = self.release.rows["source"][row].as_py()
            raise FormatError(f"source {name} of release {self.release.number} has no live row left to stand in")
        return int(others[substitute(self.segment.seed, t, attempt, len(others))])

    def _live_like(self, row: int) -> np.ndarray:
        """Rows of the segment that have the source of `row` and are live now."""
        source = self.release.rows["source"][row].as_py()
        if source not in self._live_by_source:
            mine = self._sources[source if self.segment.mix else EVERYTHING]
            same = _numpy(pc.equal(self.release.rows["source"], source))
            self._live_by_source[source] = mine[(same & self._live_now)[mine]]
        return self._live_by_source[source]

    def drawn_before(self, t: int) -> dict[str, int]:
        """How many draws each source has had when draw `t` of the run is due."""
        return dict(zip(self.order.names, self.order.drawn_before(t - self.segment.t0), strict=True))


def live_rows(release: Release, *, split: str, where: Mapping[str, Any] | None = None) -> np.ndarray:
    """Return, in stored order, the numbers of the rows of a split that are live now and satisfy `where`."""
    mask = _selected(release.rows, split, _plain_where(where or {}))
    return np.flatnonzero(_live(release.rows, _states(release, None), mask))


def _plain_where(where: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(where) - set(RELEASE_ROW.names))
    if unknown:
        raise ConfigError(f"where names {', '.join(unknown)}; columns of a release are {', '.join(RELEASE_ROW.names)}")
    return {
        name: sorted(value) if isinstance(value, (list, tuple, set, frozenset)) else value
        for name, value in sorted(where.items())
    }


def _selected(rows: pa.Table, split: str, where: Mapping[str, Any]) -> np.ndarray:
    mask: np.ndarray = _numpy(pc.equal(rows["split"], split))
    if not mask.any():
        have = ", ".join(f"{v['values']} ({v['counts']})" for v in pc.value_counts(rows["split"]).to_pylist())
        raise ConfigError(f"the release has no rows of split {split!r}; it has {have or 'no rows'}")
    for name, value in where.items():
        mask &= _satisfies(rows[name], value if isinstance(value, list) else [value])
    return mask


def _satisfies(column: pa.ChunkedArray, allowed: list[Any]) -> np.ndarray:
    """Whether each value is one of `allowed`; of a list, whether all are (a row without media satisfies nothing)."""
    is_list = pa.types.is_list(column.type)
    inner = column.type.value_type if is_list else column.type
    try:
        values = pa.array(allowed, inner)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as fault:
        raise ConfigError(f"where compares a column of {inner} with {allowed!r}") from fault
    if not is_list:
        return _numpy(pc.is_in(column, values))
    flat = _numpy(pc.is_in(pc.list_flatten(column), values))
    parent = _numpy(pc.list_parent_indices(column))
    good = np.bincount(parent[flat], minlength=len(column))
    length = _numpy(pc.fill_null(pc.list_value_length(column), 0))
    return (good == length) & (length > 0)


def _overlay_parts(release: Release) -> list[str]:
    return [name for name in release.store.names("overlay") if name.endswith(".parquet")]


def _states(release: Release, overlay: int | None) -> States:
    """States by the release's policy and the first `overlay` parts of the overlay, or all of it."""
    names = [f"{release.name}/states.parquet"]
    names += [f"overlay/{name}" for name in _overlay_parts(release)[:overlay]]
    return States.of(*(conform(release.store.read_table(name), STATE) for name in names))


def _live(rows: pa.Table, states: States, among: np.ndarray) -> np.ndarray:
    return among & _numpy(pc.equal(states.of_rows(rows), "live"))


def _by_source(release: Release, mask: np.ndarray, segment: Segment) -> dict[str, np.ndarray]:
    chosen = np.flatnonzero(mask)
    if not len(chosen):
        raise ConfigError(f"no live row of split {segment.split!r} satisfies where={segment.where}")
    if not segment.mix:
        return {EVERYTHING: chosen}
    column = release.rows["source"]
    have = sorted(pc.unique(column.filter(pa.array(mask))).to_pylist())
    missing = sorted(set(segment.mix) - set(have))
    if missing:
        raise ConfigError(f"mix names {', '.join(missing)}; sources with rows to draw are {', '.join(have)}")
    return {name: np.flatnonzero(mask & _numpy(pc.equal(column, name))) for name in sorted(segment.mix)}


def _numpy(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.array(array.to_numpy(zero_copy_only=False))
