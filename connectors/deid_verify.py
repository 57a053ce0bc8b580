"""Verifying a de-identified file: it is read anew from the disk and searched for what the original stated.

First the table's rules at every level, on values and not on what the engine says it did; then every text; then the
bytes of the header, in case something stands where no reader looks. What is found is told by keyword, never by value.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medloom.connectors import deid_private, deid_rules, deid_table, deid_values, deid_words
from medloom.connectors.deid_engine import OWN, holds_known, place_of
from medloom.connectors.deid_known import SHORTEST_NUMBER, Known, elements, elements_of, notations, values_of
from medloom.connectors.deid_rules import DATES, Profile
from medloom.connectors.dicom_headers import quiet, word

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

_DEFLATED = "1.2.840.10008.1.2.1.99"
_SHORTEST_IN_BYTES = 5  # characters of a name or identifier; shorter ones occur in numbers by chance


@dataclass(frozen=True)
class Leak:
    """Something of the original in the output: the keyword of the attribute that holds it, and what it is."""

    where: str
    kind: str


def leaks(path: Path, output: "Dataset", original: "Dataset", *, known: Known, profile: Profile) -> list[Leak]:
    """Return what a written file still tells of the original, [] when nothing is found.

    Args:
        output: read from `path`.
        original: as it was read before it was de-identified; its pixels are not needed.
        known: what identifies its study, this object and others.
    """
    with quiet():
        if "retain-uids" in profile.options:
            known = Known(known.names, known.phrases, known.days)
        found = [*_against_the_table(output, original, profile), *_in_texts(output, known)]
        return [*found, *_in_bytes(_header_bytes(path), output, known)]


def _against_the_table(output: "Dataset", original: "Dataset", asked: Profile) -> Iterator[Leak]:
    """Give the elements that may not be there, or whose value is one that the original has for the same attribute."""
    sop_class, table = word(original, "SOPClassUID"), deid_table.load()
    stated: dict[int, set[str]] = {}
    for element in elements(original):
        if element.VR == "UI" or (element.VR != "SQ" and table.code(element.tag)):
            stated.setdefault(int(element.tag), set()).update(_texts(element))
    if output.preamble and output.preamble.strip(b"\0"):
        yield Leak("preamble", "bytes of the original")
    for around, in_content, dataset in _levels(output, "", False):
        for element in dataset:
            name = element.keyword or "private" if element.tag.is_private else element.keyword or "unknown"
            if around == "" and element.keyword in OWN:
                continue
            if element.tag.is_private:
                if not _may_stay(dataset, element, asked):
                    yield Leak(name, "private attribute")
                continue
            place = place_of(element, sop_class, around, in_content=in_content)
            action = deid_rules.choose(place, table, asked)
            if action == "remove":
                yield Leak(name, "attribute that must go")
            elif action not in ("keep", "walk") and _unchanged(element, stated.get(int(element.tag), set()), action):
                yield Leak(name, "value of the original")


def _levels(dataset: "Dataset", around: str, in_content: bool) -> "Iterator[tuple[str, bool, Dataset]]":
    """Give every data set at every level, with the sequence around it and whether it is a report's content."""
    yield around, in_content, dataset
    for element in dataset:
        if element.VR == "SQ":
            inside = in_content or element.keyword in deid_rules.CONTENT_SEQUENCES
            for item in element.value or []:
                yield from _levels(item, element.keyword, inside)


def _may_stay(dataset: "Dataset", element: "DataElement", asked: Profile) -> bool:
    """Whether a private element is one that the option Retain Safe Private lets through, or its creator."""
    if "retain-safe-private" not in asked.options:
        return False
    if element.tag.is_private_creator:
        return str(element.value).strip(" \0") in deid_private.SAFE
    creator = dataset.get((element.tag.group, element.tag.element >> 8))
    return creator is not None and deid_private.safe_vr(str(creator.value), int(element.tag)) != ""


def _texts(element: "DataElement") -> set[str]:
    """Return the values of an element as texts that can be compared."""
    return {text for value in values_of(element) if (text := str(value).strip(" \0"))}


def _unchanged(element: "DataElement", stated: set[str], action: str) -> bool:
    """Whether an element that had to change has a value of the original that tells something."""
    if element.VR == "SQ":
        return False  # its items are looked at by themselves
    same = {text for text in _texts(element) & stated if text != str(deid_values.dummy(element.VR))}
    if action == "uid":
        same = {uid for uid in same if not deid_values.is_well_known(uid)}
    elif action == "clean":
        same = {text for text in same if not deid_words.is_plain(text)}
    elif action == "age":
        same = {text for text in same if deid_values.capped_age(text) != text}
    elif action == "shift":
        # A time of day stays, and a moved date may fall on another of the original's dates.
        moved = element.VR == "TM" or len(stated) > 1
        same = set() if moved else same
    return bool(same)


def _in_texts(output: "Dataset", known: Known) -> Iterator[Leak]:
    """Give the texts that repeat a name, an identifier, a UID or a date of the study."""
    for element in output:
        if element.keyword in OWN:
            continue
        inside = elements_of(element)
        for inner in inside:
            if inner.VR in DATES or inner.tag.is_private_creator:
                continue
            kind = holds_known(inner, known)
            if not kind and inner.VR == "PN":
                kind = next((k for value in values_of(inner) if (k := known.kind_in(str(value)))), "")
            if not kind and inner.VR == "UI" and known.uids & _texts(inner):
                kind = "UID"
            if kind:
                yield Leak(inner.keyword or "private", f"{kind} of the original")


def _header_bytes(path: Path) -> bytes:
    """Return the bytes of a file up to its pixel data; of a deflated one, inflated."""
    import pydicom
    from pydicom.filereader import read_file_meta_info

    if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == _DEFLATED:
        with open(path, "rb") as file:
            pydicom.filereader.read_preamble(file, False)
            pydicom.filereader._read_file_meta_info(file)
            return zlib.decompress(file.read(), -zlib.MAX_WBITS)
    with open(path, "rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        end = file.tell()
        file.seek(0)
        return file.read(end)


def _in_bytes(data: bytes, output: "Dataset", known: Known) -> Iterator[Leak]:
    """Give the kinds of identifiers of the study that the bytes of a header hold, in any of its encodings."""
    lowered = data.lower()
    stated = output.original_character_set
    encodings = {"utf-8", "latin-1", *([stated] if isinstance(stated, str) else stated)}
    ours = {text for element in elements(output) if element.VR in ("DA", "DT") for text in _texts(element)}
    own_words = " ".join(str(output.get(keyword, "")) for keyword in OWN).casefold()
    needles: dict[bytes, str] = {}
    for text in known.names | known.phrases:
        shortest = SHORTEST_NUMBER if text.isdigit() else _SHORTEST_IN_BYTES
        if len(text) >= shortest and not deid_words.is_plain(text) and text not in own_words:
            kind = "name" if text in known.names else "identifier"
            for spelled in {text, text.upper(), text.title()}:
                for encoding in encodings:
                    needles[spelled.encode(encoding, "ignore").lower()] = kind
    for day in known.days:
        if not any(text.startswith(day) for text in ours):
            needles |= {notation.encode(): "date" for notation in notations(day)}
    if known.uid_in(data.decode("latin-1")):
        yield Leak("header bytes", "UID of the original")
    for needle, kind in needles.items():
        if len(needle) >= _SHORTEST_IN_BYTES and _alone(needle, lowered):
            yield Leak("header bytes", f"{kind} of the original")


def _alone(needle: bytes, data: bytes) -> bool:
    """Whether bytes occur with no letter or digit around, and digits not inside a number."""
    digits = needle.isdigit()
    start = data.find(needle)
    while start >= 0:
        before, after = data[max(start - 1, 0) : start], data[start + len(needle) : start + len(needle) + 1]
        if not before.isalnum() and not after.isalnum() and not (digits and b"." in (before, after)):
            return True
        start = data.find(needle, start + 1)
    return False
