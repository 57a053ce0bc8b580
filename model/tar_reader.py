"""From samples of foreign tars to examples with their media: the tars are those that were walked, or it says so."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import crc32c

from medloom.model.byte_source import ByteSource, open_source
from medloom.model.example_rows import Rows
from medloom.model.foreign_decoding import FOREIGN_DECODERS
from medloom.model.media_reader import MASKS, Answer, Ask, MediaReader, Run
from medloom.model.meter import Meter
from medloom.model.pinned import COLUMNS, field_of
from medloom.model.places import FieldPlace, Place
from medloom.model.ranges import plan_ranges
from medloom.model.reader import ReadOptions
from medloom.model.regions import check_roi, region_of
from medloom.model.streamed import MediaData, StreamedExample, Wish
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.example import Box, Example, Part, Turn
from medloom.schemas.store import Store
from medloom.schemas.tar_names import Roles, kind_of, roles_of
from medloom.schemas.tar_set import TarSet

_GAP = 64 << 10  # bytes between two texts that are rather read than asked around
_ROW = ("example_id", "group", "split", "task", "source", "media")
_SAYS = ("text", "caption")  # what in a sample's json is its text, where it has no text of its own


@dataclass(frozen=True, eq=False)
class _Sample:
    """One row: what it is called, where it stands, what its members are for."""

    row: Mapping[str, Any]
    tar: int
    fields: Mapping[str, FieldPlace]
    roles: Roles

    @property
    def keys(self) -> list[str]:
        return [f"{self.row['example_id']}.{field}" for field, _ in self.roles.media]


@dataclass(frozen=True, eq=False)
class _Said:
    """The text members of a sample: its json as stored, and its text."""

    facts: bytes
    text: str


class TarReader:
    """Reads samples of a set of tars as examples; safe to share between threads.

    A sample's media come first in its one turn, its text (`txt`, `caption`, or "text" or "caption" of its json) last.
    Checksums are compared where the set's index has them (`medloom index --checksums`).

    Args:
        meter: counts what was fetched and decoded.

    Raises:
        ConfigError: an option makes no sense.
    """

    def __init__(self, tars: TarSet, options: ReadOptions | None = None, *, meter: Meter | None = None):
        self.tars, self.options = tars, options or ReadOptions()
        self._roi, self.meter = check_roi(self.options.roi), meter or Meter()
        settings = {name: getattr(self.options, name) for name in ("cache", "cache_bytes", "timeout_s", "attempts")}
        folders = sorted({tar.folder for tar in tars.tars})
        self._sources = {folder: open_source(Store(folder), **settings, meter=self.meter) for folder in folders}
        self._media = MediaReader(decoders=FOREIGN_DECODERS, pin=self.options.pin, meter=self.meter)
        self._rows, self._members = Rows(tars.rows.select(_ROW)), Rows(tars.members.select(["shard", *COLUMNS]))
        self._checked: set[int] = set()
        self._lock = Lock()

    def example(self, row: int) -> Example:
        """Return the example of a row.

        Raises:
            WrongBytes: its text cannot be read.
            FormatError: its tar was rewritten, or is not there.
        """
        (sample,) = self._samples([row])
        said = self._said([sample])[0]
        if isinstance(said, WrongBytes):
            raise said
        return _example(sample, said.text)

    def read(self, row: int, *, t: int = -1) -> StreamedExample:
        """Return the example of a row with all its media.

        Raises:
            WrongBytes: a member's bytes are wrong, twice, or it does not decode.
            FormatError: its tar was rewritten, or is not there.
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
            FormatError: a tar was rewritten, or is not there.
            RetryLater: a store does not answer.
        """
        samples = self._samples([wish.row for wish in wishes])
        asks: list[tuple[int, Ask]] = []
        told: list[tuple[Example, bytes] | WrongBytes] = []
        for wish, sample, words in zip(wishes, samples, self._said(samples), strict=True):
            if isinstance(words, _Said):
                example = _example(sample, words.text)
                asks += self._asks(sample, example, wish.t)
                told.append((example, words.facts))
            else:
                told.append(words)
        read = self._media.read([ask for _, ask in asks], run=run)
        answers = iter([self._or_again(*ask, answer) for ask, answer in zip(asks, read, strict=True)])
        found: list[StreamedExample | WrongBytes] = []
        for wish, sample, one in zip(wishes, samples, told, strict=True):
            if isinstance(one, WrongBytes):
                found.append(one)
                continue
            example, facts = one
            media: dict[str, MediaData] = {}
            fault: WrongBytes | None = None
            for key in sample.keys:
                answer = next(answers)
                if isinstance(answer, WrongBytes):
                    fault = fault or answer
                else:
                    media[key] = replace(answer, text=facts) if facts else answer
            found.append(fault or StreamedExample(example, media, wish.t))
        return found

    def stats(self) -> dict[str, int]:
        """How many media, requests and bytes of media were read."""
        return self._media.stats()

    def close(self) -> None:
        """Close files and connections; reading again opens them, and looks whether they are still the same."""
        with self._lock:
            self._checked.clear()
        for source in self._sources.values():
            source.close()

    def _samples(self, rows: Sequence[int]) -> list[_Sample]:
        edges, samples = self.tars.edges, []
        for row in rows:
            held = [self._members[number] for number in range(edges[row], edges[row + 1])]
            fields = {member["field"]: field_of(member) for member in held}
            samples.append(_Sample(self._rows[row], held[0]["shard"], fields, roles_of(tuple(fields))))
        self._check({sample.tar for sample in samples} - self._checked)
        return samples

    def _check(self, numbers: Iterable[int]) -> None:
        """Hold tars against what was walked: when they are first read from, and when bytes of them are wrong."""
        by_folder: dict[str, list[int]] = {}
        for number in sorted(numbers):
            by_folder.setdefault(self.tars.tars[number].folder, []).append(number)
        for folder, these in by_folder.items():
            source, names = self._sources[folder], [self.tars.tars[number].name for number in these]
            try:
                found = source.identities(names)
            except FileNotFoundError as fault:
                raise _gone(fault.filename or folder) from fault
            for number, now in zip(these, found, strict=True):
                self.tars.check(number, size=now.size, tag=now.tag)
        with self._lock:
            self._checked.update(numbers)

    def _said(self, samples: Sequence[_Sample]) -> list[_Said | WrongBytes]:
        """Read the texts of samples, those of a store at once."""
        wanted = [
            (number, name) for number, sample in enumerate(samples) for name in (sample.roles.facts, sample.roles.text)
            if name
        ]  # fmt: skip
        texts: list[dict[str, bytes | WrongBytes]] = [{} for _ in samples]
        by_folder: dict[str, list[tuple[int, str]]] = {}
        for number, name in wanted:
            by_folder.setdefault(self.tars.tars[samples[number].tar].folder, []).append((number, name))
        for folder, these in by_folder.items():
            for (number, name), data in zip(these, self._texts(folder, samples, these), strict=True):
                texts[number][name] = data
        return [_said_of(sample, mine) for sample, mine in zip(samples, texts, strict=True)]

    def _texts(
        self, folder: str, samples: Sequence[_Sample], wanted: Sequence[tuple[int, str]]
    ) -> list[bytes | WrongBytes]:
        source, fields = self._sources[folder], [samples[number].fields[name] for number, name in wanted]
        tars = [self.tars.tars[samples[number].tar].name for number, _ in wanted]
        pieces = [(tar, field.offset, field.end) for tar, field in zip(tars, fields, strict=True)]
        ranges = plan_ranges(pieces, gap=_GAP)
        try:
            answers = source.read_many(ranges.requests)
        except FileNotFoundError as fault:
            raise _gone(folder) from fault
        found: list[bytes | WrongBytes] = []
        for (number, _), piece, field, (request, at) in zip(wanted, pieces, fields, ranges.places, strict=True):
            answer = answers[request]
            data = answer if isinstance(answer, WrongBytes) else bytes(memoryview(answer)[at : at + field.size])
            if isinstance(data, WrongBytes) or not _is_whole(data, field):
                self._check([samples[number].tar])
                data = _read_again(source, piece, field)
            found.append(data)
        return found

    def _asks(self, sample: _Sample, example: Example, t: int) -> list[tuple[int, Ask]]:
        tar = self.tars.tars[sample.tar]
        asks: list[tuple[int, Ask]] = []
        for key, (name, masks) in zip(sample.keys, sample.roles.media, strict=True):
            fields = {name: sample.fields[name]} | ({MASKS: sample.fields[masks]} if masks else {})
            place = Place(key, self._sources[tar.folder], tar.name, name, fields)
            box: Box = ()
            cut = None
            if self._roi is not None:
                shape = sample.fields[name].shape
                choose = partial(_region, self._roi, self.options.seed, t, example, key, name)
                box, cut = (choose(shape), None) if shape else ((), choose)
            asks.append((sample.tar, Ask(place, box, self.options.masks, cut)))
        return asks

    def _or_again(self, tar: int, ask: Ask, answer: Answer) -> MediaData | WrongBytes:
        """Return what was read, or what a second reading gives, unless the tar is no longer the one that was walked."""
        if isinstance(answer, MediaData):
            return answer
        place = ask.place
        for field in place.fields.values():
            place.where.forget(place.tar, field.offset, field.end)
        self._check([tar])
        (again,) = self._media.read([ask])
        if isinstance(again, FileNotFoundError):
            raise _gone(self.tars.tars[tar].url) from again
        return again


def _region(roi: Any, seed: int, t: int, example: Example, key: str, field: str, shape: tuple[int, ...]) -> Box:
    return region_of(
        roi, seed=seed, t=t, example=example, key=key, shape=shape, is_picture=kind_of(field) == "picture"
    )  # fmt: skip


def _example(sample: _Sample, text: str) -> Example:
    parts = tuple(Part(media=key) for key in sample.keys) + ((Part(text=text),) if text else ())
    row = sample.row
    return Example(
        example_id=row["example_id"], unit=row["example_id"], group=row["group"], split=row["split"], task=row["task"],
        language="", generator="", source=row["source"], licence="", terms_id="", turns=(Turn("document", parts),),
    )  # fmt: skip


def _said_of(sample: _Sample, texts: Mapping[str, bytes | WrongBytes]) -> _Said | WrongBytes:
    """Return the json and the text of a sample; a json that should say the text and does not parse is wrong bytes."""
    name = sample.row["example_id"]
    for data in texts.values():
        if isinstance(data, WrongBytes):
            return WrongBytes(f"{name}: {data}")
    facts, text = texts.get(sample.roles.facts, b""), texts.get(sample.roles.text)
    assert isinstance(facts, bytes)
    if isinstance(text, bytes):
        return _Said(facts, text.decode("utf-8", "replace").strip())
    try:
        said = json.loads(facts) if facts else {}
    except (ValueError, RecursionError) as fault:
        return WrongBytes(f"{name}: its json does not parse ({fault})")
    found = [said[key] for key in _SAYS if isinstance(said, dict) and isinstance(said.get(key), str)]
    return _Said(facts, found[0].strip() if found else "")


def _is_whole(data: bytes, field: FieldPlace) -> bool:
    return len(data) == field.size and (field.crc32c is None or crc32c.crc32c(data) == field.crc32c)


def _read_again(source: ByteSource, piece: tuple[str, int, int], field: FieldPlace) -> bytes | WrongBytes:
    source.forget(*piece)
    try:
        data = bytes(source.read(*piece))
    except WrongBytes as fault:
        return fault
    return data if _is_whole(data, field) else WrongBytes(f"bytes {piece[1]} to {piece[2]} of {piece[0]} are wrong")


def _gone(url: str) -> FormatError:
    return FormatError(f"{url} is not there; restore it, or run `medloom index` without it")
