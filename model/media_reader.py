"""Many media at once: what is wanted of each becomes ranges, ranges become checked bytes, bytes become arrays.

A range that several need is read once, a region costs its chunks, and nothing is decoded that fails its checksum.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import crc32c
import numpy as np

from medloom.model.arena import Arena, Pin
from medloom.model.byte_source import ByteSource, LocalSource
from medloom.model.decoding import DECODERS, Decoder, decoder_of
from medloom.model.meter import Meter
from medloom.model.places import FieldPlace, Place
from medloom.model.ranges import Piece, Ranges, plan_ranges
from medloom.model.regions import whole_or
from medloom.model.streamed import MediaData
from medloom.schemas.b2nd import ZEROS
from medloom.schemas.b2nd_read import chunks_of, decode_box, decode_box_of
from medloom.schemas.errors import FormatError, WrongBytes
from medloom.schemas.example import Box

CONTENT = {"jpg": "jpg", "png": "png", "volume": "ct.b2nd", "volume-seg": "ct.b2nd"}  # field that is drawn, by layout
TEXT, MASKS = "json", "seg.b2nd"
LOCAL_GAP, REMOTE_GAP = 4 << 10, 64 << 10  # bytes rather read than asked around: a header of a tar, a round trip
_TASK = 128 << 10  # bytes that are worth handing to a thread: two pictures of a millisecond each

Task = Callable[[], Any]
Run = Callable[[Sequence[Task]], None]
Cut = Callable[[tuple[int, ...]], Box]
Answer = MediaData | WrongBytes | FileNotFoundError


@dataclass(frozen=True, eq=False)
class Ask:
    """What is wanted of a medium.

    Attributes:
        place: of the medium; asks of the same `Place` and box are answered by the same `MediaData`.
        box: half-open indices of the stored array, () for all of it.
        masks: whether its masks are wanted too, where there are some.
        cut: gives the box once the shape is known, for media whose index does not say it; () for all.
    """

    place: Place
    box: Box = ()
    masks: bool = False
    cut: Cut | None = None


class MediaReader:
    """Reads and decodes media into memory that is used again when nobody looks at it any more; safe to share.

    Args:
        decoders: by suffix of a field's name.
        pin: see `Arena`.
        meter: counts seconds and bytes of decoding.
    """

    def __init__(self, *, decoders: Mapping[str, Decoder] = DECODERS, pin: Pin = "auto", meter: Meter | None = None):
        self.decoders, self.meter = decoders, meter or Meter()
        self.arena = Arena(pin=pin)
        self._lock = Lock()
        self._counts = {"media": 0, "shared": 0, "requests": 0, "bytes": 0}

    def stats(self) -> dict[str, int]:
        """How many media were read, how many answered by one already read, and by how many requests and bytes."""
        with self._lock:
            return dict(self._counts)

    def read(self, asks: Sequence[Ask], *, run: Run | None = None) -> list[Answer]:
        """Return what was asked, in order; what cannot be had takes the place of its medium.

        Args:
            run: carries out tasks side by side and returns when all are done; None: one after the other, here.

        Raises:
            RetryLater, SourceError: a store does not answer, or does not serve what is asked.
        """
        run = run or _in_turn
        jobs: dict[Any, _Job] = {}
        for ask in asks:
            key = (id(ask.place), ask.box, ask.masks, id(ask.cut) if ask.cut else None)
            if key not in jobs:
                jobs[key] = _Job(ask)
            jobs[key].asked += 1
        self.count(media=len(jobs), shared=len(asks) - len(jobs))
        remote: dict[int, list[_Job]] = {}
        tasks: list[Task] = []
        local = [job for job in jobs.values() if isinstance(job.ask.place.where, LocalSource)]
        for job in jobs.values():
            if not isinstance(job.ask.place.where, LocalSource):
                remote.setdefault(id(job.ask.place.where), []).append(job)
        tasks += [partial(self._answer_local, some) for some in _grouped(local)]
        tasks += [partial(self._fetch, some) for some in remote.values()]
        run(tasks)
        fetched = [job for some in remote.values() for job in some if job.answer is None]
        if fetched:
            run([partial(self._answer_fetched, some) for some in _grouped(fetched)])
        answers = (jobs[id(ask.place), ask.box, ask.masks, id(ask.cut) if ask.cut else None].result for ask in asks)
        return list(answers)

    def count(self, **more: int) -> None:
        """Add to what `stats` says."""
        with self._lock:
            for name, n in more.items():
                self._counts[name] += n

    def _answer_local(self, jobs: Iterable["_Job"]) -> None:
        for job in jobs:
            place = job.ask.place
            ranges = plan_ranges(job.pieces, gap=LOCAL_GAP)
            self.count(requests=len(ranges.requests), bytes=ranges.size_bytes)
            try:
                buffers = [self._filled(place.where, *request) for request in ranges.requests]
            except (WrongBytes, FileNotFoundError) as fault:
                job.answer = fault
                continue
            job.views = _views(job.pieces, ranges, buffers)
            self._decode(job)

    def _filled(self, where: ByteSource, path: str, start: int, end: int) -> memoryview:
        view = self.arena.take((end - start,), np.uint8).data
        where.read_into(path, start, end, view)
        return view

    def _fetch(self, jobs: Sequence["_Job"]) -> None:
        """Ask a store for what many media need of it, at once."""
        where = jobs[0].ask.place.where
        ranges = plan_ranges([piece for job in jobs for piece in job.pieces], gap=REMOTE_GAP)
        self.count(requests=len(ranges.requests), bytes=ranges.size_bytes)
        try:
            answers: Sequence[Any] = where.read_many(ranges.requests)
        except FileNotFoundError:
            answers = [_one(where, request) for request in ranges.requests]  # says of which file it is true
        at = 0
        for job in jobs:
            places = ranges.places[at : at + len(job.pieces)]
            at += len(job.pieces)
            faults = [answers[number] for number, _ in places if isinstance(answers[number], Exception)]
            if faults:
                job.answer = faults[0]
            else:
                mine = Ranges(ranges.requests, places)
                job.views = _views(job.pieces, mine, answers)

    def _answer_fetched(self, jobs: Iterable["_Job"]) -> None:
        for job in jobs:
            self._decode(job)

    def _decode(self, job: "_Job") -> None:
        began = time.perf_counter()
        try:
            job.answer = self._decoded(job)
        except FormatError as fault:
            place = job.ask.place
            job.answer = WrongBytes(f"{place.key} in {place.tar}: {fault}")
        finally:
            job.views = {}
        answer = job.answer
        if isinstance(answer, MediaData):
            self.meter.decoded(time.perf_counter() - began, answer.content.nbytes)

    def _decoded(self, job: "_Job") -> MediaData:
        ask, place = job.ask, job.ask.place
        text = place.fields.get(TEXT)
        said = bytes(_checked(job.views[text.offset, text.end], text, TEXT)) if text else b""
        box = ask.box
        if job.field is None:
            return MediaData(place.layout, np.empty(0, np.uint8), said)
        if box and job.field.chunks is not None:
            extent = job.field.chunks.shape
            content = self._part(job, job.field, box)
        else:
            content = self._whole(job, job.field, job.name)
            extent = content.shape
            if ask.cut is not None:
                box = whole_or(ask.cut(content.shape), content.shape)
            content = self._cut(content, box)
        masks = self._masks(job, box, extent)
        return MediaData(place.layout, content, said, masks, box)

    def _masks(self, job: "_Job", box: Box, extent: tuple[int, ...]) -> np.ndarray | None:
        """Return the masks of a box of a volume of shape `extent`."""
        field = job.masks
        if field is None:
            return None
        if job.masks_box:
            return self._part(job, field, job.masks_box)
        masks = self._whole(job, field, MASKS)
        if masks.shape[1:] != extent:
            raise FormatError(f"its masks are of shape {masks.shape}, layers first, where its volume is of {extent}")
        return self._cut(masks, _of_layers(box, masks.shape[0]) if box else ())

    def _whole(self, job: "_Job", field: FieldPlace, name: str) -> np.ndarray:
        decoder = decoder_of(name, self.decoders)
        if decoder is None:
            raise FormatError(f"nothing decodes a field {name!r}; known are {', '.join(sorted(self.decoders))}")
        data = _checked(job.views[field.offset, field.end], field, name)
        return decoder(data, field, self.arena.take)

    def _part(self, job: "_Job", field: FieldPlace, box: Box) -> np.ndarray:
        """Return a box of a b2nd from its chunks, or from all of it where its chunks cannot be checked alone."""
        table = field.chunks
        assert table is not None
        rank = len(table.shape)
        out = self.arena.take(tuple(b - a for a, b in zip(box[:rank], box[rank:], strict=True)), np.dtype(table.dtype))
        if not table.can_be_cut:
            data = _checked(job.views[field.offset, field.end], field, "b2nd")
            decode_box_of(data, box, out, expect=table)
            return out

        def chunk(number: int) -> memoryview:
            start = field.offset + table.offsets[number]
            data = job.views[start, start + table.sizes[number]]
            if crc32c.crc32c(data) != table.crc32c[number]:
                raise FormatError(f"chunk {number} at byte {start} fails its crc32c")
            return data

        decode_box(chunk, table, box, out)
        return out

    def _cut(self, content: np.ndarray, box: Box) -> np.ndarray:
        if not box:
            return content
        rank = len(box) // 2
        part = content[tuple(slice(a, b) for a, b in zip(box[:rank], box[rank:], strict=True))]
        out = self.arena.take(part.shape, part.dtype)
        out[...] = part
        return out


class _Job:
    """One medium on its way: what is wanted, the pieces it takes, their bytes, the answer."""

    def __init__(self, ask: Ask):
        self.ask, self.asked = ask, 0
        self.answer: Answer | None = None
        self.views: dict[tuple[int, int], memoryview] = {}
        fields = ask.place.fields
        self.name = CONTENT.get(ask.place.layout, ask.place.layout)
        self.field = fields.get(self.name)
        self.masks = fields.get(MASKS) if ask.masks else None
        self.masks_box = self._masks_box()
        self.pieces = list(self._pieces())
        self.size_bytes = sum(end - start for _, start, end in self.pieces)

    def _pieces(self) -> Iterator[Piece]:
        tar, box = self.ask.place.tar, self.ask.box
        text = self.ask.place.fields.get(TEXT)
        if text is not None:
            yield tar, text.offset, text.end
        if self.field is not None:
            yield from _pieces(tar, self.field, box)
        if self.masks is not None:
            yield from _pieces(tar, self.masks, self.masks_box)

    def _masks_box(self) -> Box:
        """The box to read of the masks; () for all, so also where they are not known to be of the volume's extent."""
        if not self.ask.box or self.field is None or self.masks is None or self.masks.chunks is None:
            return ()
        extent = self.field.chunks.shape if self.field.chunks else self.field.shape
        layers, *shape = self.masks.chunks.shape
        return _of_layers(self.ask.box, layers) if tuple(shape) == extent else ()

    @property
    def result(self) -> Answer:
        assert self.answer is not None
        return self.answer


def _pieces(tar: str, field: FieldPlace, box: Box) -> Iterator[Piece]:
    table = field.chunks
    if not box or table is None or not table.can_be_cut:
        yield tar, field.offset, field.end
        return
    for number in chunks_of(box, table):
        if table.offsets[number] != ZEROS:
            start = field.offset + table.offsets[number]
            yield tar, start, start + table.sizes[number]


def _views(pieces: Sequence[Piece], ranges: Ranges, buffers: Sequence[Any]) -> dict[tuple[int, int], memoryview]:
    """The bytes of each piece, by its start and end."""
    found = {}
    for (_, start, end), (number, at) in zip(pieces, ranges.places, strict=True):
        found[start, end] = memoryview(buffers[number])[at : at + end - start]
    return found


def _checked(data: memoryview, field: FieldPlace, name: str) -> memoryview:
    if len(data) != field.size or (field.crc32c is not None and crc32c.crc32c(data) != field.crc32c):
        raise FormatError(f"bytes {field.offset} to {field.end} ({name}) fail their crc32c")
    return data


def _of_layers(box: Box, layers: int) -> Box:
    """The box of all layers of masks that a box of their volume is."""
    return (0, *box[:3], layers, *box[3:])


def _one(where: ByteSource, request: Piece) -> Any:
    try:
        return where.read(*request)
    except (WrongBytes, FileNotFoundError) as fault:
        return fault


def _grouped(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    """The largest first, so that threads end together; small ones together, so that handing them over costs little."""
    group: list[_Job] = []
    size = 0
    for job in sorted(jobs, key=lambda job: job.size_bytes, reverse=True):
        group.append(job)
        size += job.size_bytes
        if size >= _TASK:
            yield group
            group, size = [], 0
    if group:
        yield group


def _in_turn(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()
