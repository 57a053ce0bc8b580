"""From a release's rows to examples with their media: what was pinned is read, checked and decoded, or it says so."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from medloom.model.arena import Pin
from medloom.model.byte_source import ATTEMPTS, TIMEOUT_S, open_source
from medloom.model.example_rows import Rows, parse_example
from medloom.model.media_reader import CONTENT, Ask, MediaReader, Run
from medloom.model.meter import Meter
from medloom.model.pinned import CHUNK_COLUMNS, COLUMNS, Pinned, place_of
from medloom.model.places import Place
from medloom.model.regions import Roi, check_roi, region_of
from medloom.model.streamed import MediaData, StreamedExample, Wish
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.example import Box, Example
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex, batches_of, has_index
from medloom.schemas.shard import ShardName, shard_name

CACHE_BYTES = 64 << 30
_ROW = ("example_id", "build", "split", "part", "row", "media", "layouts", "media_at")
_MEMBERS = ("build", "shard", *COLUMNS)
_PICTURES = tuple(name for name in _MEMBERS if name not in CHUNK_COLUMNS)  # half the time of all


@dataclass(frozen=True)
class ReadOptions:
    """How a reader reads.

    Attributes:
        roi: part of each medium that is wanted (`medloom.model.regions`), None for all of it.
        masks: whether masks are read too.
        seed: decides, with the draw and the key, where a patch is cut.
        cache: local folder that keeps what was read, "" for none; it holds at most `cache_bytes`.
        timeout_s, attempts: for each request to a remote store.
        pin: see `medloom.model.arena.Arena`.
    """

    roi: Roi = None
    masks: bool = False
    seed: int = 0
    cache: str = ""
    cache_bytes: int = CACHE_BYTES
    timeout_s: float = TIMEOUT_S
    attempts: int = ATTEMPTS
    pin: Pin = "auto"


class Reader:
    """Reads rows of one release; safe to share between threads.

    A medium that several of the examples read at once refer to is read once, and is the same `MediaData` in all; its
    arrays are then read-only, so that what is done to one example is not done to another.

    Args:
        meter: counts what was fetched and decoded.

    Raises:
        FormatError: a build no longer holds the manifest that the release pins.
        ConfigError: an option makes no sense.
    """

    def __init__(self, release: Release, options: ReadOptions | None = None, *, meter: Meter | None = None):
        self.release, self.options = release, options or ReadOptions()
        self._roi, self.meter = check_roi(self.options.roi), meter or Meter()
        settings = {name: getattr(self.options, name) for name in ("cache", "cache_bytes", "timeout_s", "attempts")}
        self._pinned = [
            Pinned(build, pinned, open_source(build.store, **settings, meter=self.meter), release=release.number)
            for build, pinned in zip(release.builds(), release.facts["builds"], strict=True)
        ]
        self._store = open_source(release.store, **settings, meter=self.meter)
        self._media = MediaReader(pin=self.options.pin, meter=self.meter)
        self._rows = Rows(release.rows.select(_ROW))
        self._has_index = has_index(release)
        if self._has_index:
            batches_of(release)  # now, while a release is opened: later reads go through sources that never hang
        self._index = lru_cache(maxsize=None)(self._open_index)

    def example(self, row: int) -> Example:
        """Return the example of a row of the release.

        Raises:
            FormatError: its file was rewritten since the release was made.
        """
        return self._example(self._rows[row])

    def read(self, row: int, *, t: int = -1) -> StreamedExample:
        """Return the example of a row with all its media.

        Raises:
            WrongBytes: a medium's bytes are wrong, twice.
            FormatError: a shard was rewritten since the release was made.
            RetryLater: a store does not answer.
        """
        (result,) = self.read_many([Wish(row, t)])
        if isinstance(result, WrongBytes):
            raise result
        return result

    def read_many(self, wishes: Sequence[Wish], *, run: Run | None = None) -> list[StreamedExample | WrongBytes]:
        """Return examples with their media, in order; the fault takes the place of one whose bytes are wrong, twice.

        Args:
            run: carries out tasks side by side and returns when all are done; None: one after the other, here.

        Raises:
            FormatError: a shard was rewritten since the release was made, or is gone.
            RetryLater: a store does not answer.
        """
        rows = [self._rows[wish.row] for wish in wishes]
        examples = [self._example(row) for row in rows]
        asks, wanted = self._asks(wishes, rows, examples)
        media = self._read_media(asks, run)
        _protect(media, wanted)
        self._media.count(shared=sum(map(len, wanted)) - len(asks))
        found: list[StreamedExample | WrongBytes] = []
        for wish, example, numbers in zip(wishes, examples, wanted, strict=True):
            fault = next((m for m in map(media.__getitem__, numbers.values()) if isinstance(m, WrongBytes)), None)
            mine = {key: media[number] for key, number in numbers.items()}
            found.append(fault or StreamedExample(example, mine, wish.t))  # type: ignore[arg-type]
        return found

    def stats(self) -> dict[str, int]:
        """How many media, requests and bytes were read."""
        return self._media.stats()

    def close(self) -> None:
        """Close files and connections; reading again opens them."""
        for pinned in self._pinned:
            pinned.source.close()
        self._store.close()

    def _example(self, row: dict[str, Any]) -> Example:
        pinned, part = self._pinned[row["build"]], row["part"]
        rows = pinned.part(part)
        if not 0 <= row["row"] < rows.count:
            raise FormatError(f"{pinned.url}/{part} has no row {row['row']}")
        example = parse_example(rows[row["row"]])
        if example.example_id != row["example_id"]:
            raise FormatError(
                f"{pinned.url}/{part} holds {example.example_id} in row {row['row']}, where release "
                f"{self.release.number} promises {row['example_id']}"
            )
        return example

    def _asks(
        self, wishes: Sequence[Wish], rows: Sequence[dict[str, Any]], examples: Sequence[Example]
    ) -> tuple[list[tuple[int, Ask]], list[dict[str, int]]]:
        """What is to be read, each thing once, and which of that each wish wants, by key."""
        places: dict[tuple[int, str], Place] = {}
        numbers: dict[tuple[int, str, Box], int] = {}
        asks: list[tuple[int, Ask]] = []
        wanted = []
        for wish, row, example in zip(wishes, rows, examples, strict=True):
            build, mine = row["build"], dict[str, int]()
            for key in example.media:
                place = places.get((build, key))
                if place is None:
                    place = places[build, key] = self._place(row, key)
                box = self._box(wish.t, example, place)
                number = numbers.setdefault((build, key, box), len(asks))
                if number == len(asks):
                    asks.append((build, Ask(place, box, self.options.masks)))
                mine[key] = number
            wanted.append(mine)
        return asks, wanted

    def _box(self, t: int, example: Example, place: Place) -> Box:
        if self._roi is None:
            return ()
        field = place.fields[CONTENT[place.layout]]
        is_picture = field.chunks is None
        return region_of(
            self._roi, seed=self.options.seed, t=t, example=example, key=place.key, shape=field.shape,
            is_picture=is_picture,
        )  # fmt: skip

    def _place(self, row: dict[str, Any], key: str) -> Place:
        pinned = self._pinned[row["build"]]
        if not self._has_index or not row["media_at"] or key not in row["media"]:
            return pinned.place(key, shard_name(PurePosixPath(row["part"]).stem.removeprefix("part-")))
        which = row["media"].index(key)
        layout, number = row["layouts"][which], row["media_at"][which]
        columns = _MEMBERS if layout.startswith("volume") else _PICTURES
        members = self._index(row["split"], layout).members(number, columns=columns)
        if any((member["key"], member["build"]) != (key, row["build"]) for member in members):
            raise FormatError(
                f"{self.release.url}: row {number} of the index of {row['split']}-{layout} is of "
                f"{members[0]['key']}, where medium {key} should stand; `medloom lint --repair` writes it again"
            )
        return place_of(members, pinned.source, ShardName(row["split"], members[0]["shard"]), layout)

    def _open_index(self, split: str, layout: str) -> ReleaseIndex:
        if self.release.store.is_local:
            return ReleaseIndex(self.release, split, layout)
        return ReleaseIndex(self.release, split, layout, read=self._store.read, forget=self._store.forget)

    def _read_media(self, asks: Sequence[tuple[int, Ask]], run: Run | None) -> list[MediaData | WrongBytes]:
        answers = self._media.read([ask for _, ask in asks], run=run)
        return [
            answer if isinstance(answer, MediaData) else self._once_more(build, ask, answer)
            for (build, ask), answer in zip(asks, answers, strict=True)
        ]

    def _once_more(self, build: int, ask: Ask, fault: WrongBytes | FileNotFoundError) -> MediaData | WrongBytes:
        """Read a medium a second time, unless its shard is no longer the pinned one."""
        pinned, place = self._pinned[build], ask.place
        if isinstance(fault, WrongBytes):
            # The last word on a shard is its ledger: if that is not the pinned one, the shard was rewritten.
            split, _, number = PurePosixPath(place.tar).stem.rpartition("-")
            pinned.check_shard(ShardName(split.removesuffix(f"-{place.layout}"), int(number)))
            for field in place.fields.values():
                pinned.source.forget(place.tar, field.offset, field.end)
            (answer,) = self._media.read([ask])
            if not isinstance(answer, FileNotFoundError):
                return answer
            fault = answer
        raise FormatError(f"{pinned.url}/{place.tar} is not there; restore it") from fault


def _protect(media: Sequence[MediaData | WrongBytes], wanted: Sequence[dict[str, int]]) -> None:
    """Make the arrays of media that stand in several examples read-only."""
    uses = Counter(number for numbers in wanted for number in numbers.values())
    for number, count in uses.items():
        medium = media[number]
        if count > 1 and isinstance(medium, MediaData):
            medium.content.flags.writeable = False
            if medium.masks is not None:
                medium.masks.flags.writeable = False
