"""References from outside, checked one by one: what is wrong with one costs that one and no other."""

import bisect
from typing import Any

import pydantic

from medloom.pipelines.imports.articles import Cited, paragraph_spans
from medloom.pipelines.imports.job import Import, is_safe
from medloom.schemas.errors import Refused

_CLOSERS = "\"'”’»)]"


class Given(pydantic.BaseModel):
    """One entry of `img_ref` as published."""

    model_config = pydantic.ConfigDict(strict=True)

    id: str
    start: int
    end: int


def cited(job: Import, name: str, text: str, entries: list[Any]) -> list[Cited]:
    """Return the entries of an article as places in its text, by start; each entry is counted as made or refused.

    Entries of one span are one place. Refused are "reference.form", "reference.id", "reference.span" (outside of the
    text, or across paragraphs), "reference.duplicate" and "reference.overlap": what starts within an earlier place.
    """
    spans: dict[tuple[int, int], list[str]] = {}
    rooms = list(paragraph_spans(text))
    starts = [start for start, _ in rooms]
    for number, entry in enumerate(entries):
        try:
            given = _given(entry)
            room = rooms[bisect.bisect_right(starts, given.start) - 1] if rooms else (0, -1)
            if not room[0] <= given.start <= given.end <= room[1]:
                raise Refused("reference.span", f"[{given.start}:{given.end}] is not inside one paragraph")
            if given.id in spans.get((given.start, given.end), ()):
                raise Refused("reference.duplicate", f"{given.id} stands twice at [{given.start}:{given.end}]")
        except Refused as refused:
            job.refuse("reference", f"{name}:{number}", refused)
            continue
        spans.setdefault((given.start, given.end), []).append(given.id)
    return _apart(job, name, spans)


def end_of_words(sentence: str) -> int:
    """Return where in a sentence to say that it means a figure, when nobody knows which words do: before its stop.

    What follows a cross-reference may be read as a panel ("A mass …"), a full stop may not.
    """
    words = sentence.rstrip()
    stopped = words.rstrip(_CLOSERS)
    said = stopped.rstrip(".!?")
    return len(said) if said != stopped else len(words)


def _given(entry: Any) -> Given:
    try:
        given = Given.model_validate(entry)
    except pydantic.ValidationError as fault:
        where = ".".join(map(str, fault.errors()[0]["loc"])) or "entry"
        raise Refused("reference.form", f"{where}: {fault.errors()[0]['msg'].lower()}") from fault
    if not is_safe(given.id):
        raise Refused("reference.id", "the id is no plain name of at most 100 letters, digits, '.', '_' and '-'")
    return given


def _apart(job: Import, name: str, spans: dict[tuple[int, int], list[str]]) -> list[Cited]:
    found: list[Cited] = []
    for (start, end), ids in sorted(spans.items()):
        if found and start < found[-1].end:
            for one in ids:
                detail = f"{one} at [{start}:{end}] begins inside [{found[-1].start}:{found[-1].end}]"
                job.refuse("reference", name, Refused("reference.overlap", detail))
            continue
        found.append(Cited(start, end, tuple(ids)))
        job.made["reference"] += len(ids)
    return found
