"""What identifies a study: the names, identifiers, days and UIDs that its headers state, and finding them in a text.

They are used twice: to take attributes away that repeat one of them, and to search what was written for what is left.
Nothing of it may reach a log, an error or a file.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from medloom.connectors import deid_table, deid_words
from medloom.connectors.deid_values import dates_of, is_well_known
from medloom.connectors.dicom_headers import BROKEN
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

MAX_DEPTH = 32  # levels of sequences; the standard's deepest reports stay below 16
SHORTEST_NAME = 3  # letters
SHORTEST_ID = 4  # characters; three where letters and digits are mixed
SHORTEST_NUMBER = 6  # digits by which a numeric attribute, or a number among bytes, is taken for an identifier
# What stands in place of a name or an identifier where there is none.
_PLACEHOLDERS = frozenset({
    "anon", "anonym", "anonymous", "anonymised", "anonymized", "deidentified", "default", "doctor", "empty", "name",
    "none", "null", "patient", "person", "phantom", "physician", "prof", "removed", "test", "unknown", "unspecified",
})  # fmt: skip
_IDENTIFIES = re.compile(r"(ID|IDs|Number|Numbers|Identifier|IdentifyingNumber|Locator|AETitle|AE|SlotID)$")
_PHRASES = re.compile(r"(Address|Institution\w*Name|DepartmentName|StationName|Organization|OwnerName|TelephoneNumbers|"
                      r"TelecomInformation|Location|InstitutionResidence|SiteName|SponsorName)$")  # fmt: skip
_TEXT = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UT"})
_WORD = re.compile(r"[^\W_]+")
_UID = re.compile(r"\d+(?:\.\d+){3,}")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR_FIRST = re.compile(r"(?<![\d.])(\d{4})[-./ ]?(\d{2})[-./ ]?(\d{2})(?!\.\d)")
_YEAR_LAST = re.compile(r"(?<![\d.])(\d{1,2})[-./ ](\d{1,2})[-./ ](\d{4}|\d{2})(?!\d)")
_DAY_MONTH = re.compile(rf"(?<!\d)(\d{{1,2}})[-. ]*({'|'.join(_MONTHS)})[a-z]*[-., ]*(\d{{4}}|\d{{2}})(?!\d)")
_MONTH_DAY = re.compile(rf"({'|'.join(_MONTHS)})[a-z]*[-. ]*(\d{{1,2}})(?:st|nd|rd|th)?[-., ]+(\d{{4}}|\d{{2}})(?!\d)")


@dataclass(frozen=True)
class Known:
    """What identifies one study; never shown.

    Attributes:
        names: words of at least three letters out of person names, case folded.
        phrases: identifiers, addresses and names of places, case folded.
        days: YYYYMMDD.
        uids: those that are not the standard's own.
    """

    names: frozenset[str] = field(default=frozenset(), repr=False)
    phrases: frozenset[str] = field(default=frozenset(), repr=False)
    days: frozenset[str] = field(default=frozenset(), repr=False)
    uids: frozenset[str] = field(default=frozenset(), repr=False)

    def __or__(self, other: "Known") -> "Known":
        return Known(
            self.names | other.names, self.phrases | other.phrases, self.days | other.days, self.uids | other.uids
        )

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The identifiers that are numbers, long enough to be no measurement."""
        return frozenset(phrase for phrase in self.phrases if phrase.isdigit() and len(phrase) >= SHORTEST_NUMBER)

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word of `names` and `phrases` that is no common word."""
        parts = (word for phrase in self.phrases for word in _WORD.findall(phrase))
        return self.names | {word for word in parts if len(word) >= SHORTEST_ID and not deid_words.is_plain(word)}

    def names_someone(self, word: str) -> bool:
        """Whether a case-folded word belongs to an identifier."""
        return word in self.words or word in self.phrases

    def uid_in(self, text: str) -> bool:
        """Whether a text holds one of the UIDs."""
        return bool(self.uids) and any(uid in self.uids for uid in _UID.findall(text))

    def kind_in(self, text: str) -> str:
        """Return what a text holds, "name", "identifier", "UID" or "date"; "" for nothing known."""
        folded = text.casefold()
        if self.names and not self.names.isdisjoint(_WORD.findall(folded)):
            return "name"
        if any(phrase in folded and _stands_alone(phrase, folded) for phrase in self.phrases):
            return "identifier"
        if self.uid_in(folded):
            return "UID"
        return "date" if self.days and not self.days.isdisjoint(days_in(folded)) else ""


def _stands_alone(phrase: str, text: str) -> bool:
    """Whether a phrase occurs with no letter or digit right before or after it; digits not as a part of a number."""
    start = text.find(phrase)
    while start >= 0:
        before, after = text[max(start - 2, 0) : start], text[start + len(phrase) : start + len(phrase) + 2]
        in_number = phrase.isdigit() and (before.endswith(".") or (after[:1] == "." and after[1:].isdigit()))
        if not before[-1:].isalnum() and not after[:1].isalnum() and not in_number:
            return True
        start = text.find(phrase, start + 1)
    return False


def days_in(text: str) -> Iterator[str]:
    """Return the days, YYYYMMDD, that a case-folded text may state, in every common notation and both readings."""
    for found in _YEAR_FIRST.finditer(text):
        yield "".join(found.groups())
    for found in _YEAR_LAST.finditer(text):
        first, second, year = found.groups()
        for full in _years(year):
            yield f"{full}{second:0>2}{first:0>2}"
            yield f"{full}{first:0>2}{second:0>2}"
    for pattern, order in ((_DAY_MONTH, (2, 1, 3)), (_MONTH_DAY, (1, 2, 3))):
        for found in pattern.finditer(text):
            month, day, year = (found[number] for number in order)
            for full in _years(year):
                yield f"{full}{_MONTHS.index(month) + 1:02}{day:0>2}"


def _years(text: str) -> tuple[str, ...]:
    return (text,) if len(text) == 4 else (f"19{text}", f"20{text}")


def notations(day: str) -> tuple[str, ...]:
    """Return how a day YYYYMMDD is written in headers."""
    year, month, number = day[:4], day[4:6], day[6:]
    return (
        day, f"{year}-{month}-{number}", f"{year}.{month}.{number}", f"{year}/{month}/{number}",
        f"{number}.{month}.{year}", f"{number}/{month}/{year}", f"{month}/{number}/{year}", f"{number}-{month}-{year}",
    )  # fmt: skip


def values_of(element: "DataElement") -> list[Any]:
    """Return the values of an element as a list."""
    value = element.value
    if value is None or value == "":
        return []
    return list(value) if hasattr(value, "append") else [value]


def elements(dataset: "Dataset", *, depth: int = 0) -> "Iterator[DataElement]":
    """Return every element that can be read, at every level.

    Raises:
        Refused("deid.depth"): sequences are nested deeper than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise Refused("deid.depth", f"its sequences are nested deeper than {MAX_DEPTH} levels")
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except BROKEN:
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value or []:
                yield from elements(item, depth=depth + 1)


def elements_of(element: "DataElement") -> "Iterator[DataElement]":
    """Return an element and all that it holds."""
    yield element
    if element.VR == "SQ":
        for item in element.value or []:
            yield from elements(item, depth=1)


def collect(dataset: "Dataset") -> Known:
    """Return what identifies the study of an object, as far as its attributes of the standard state it."""
    table = deid_table.load()
    names: set[str] = set()
    phrases: set[str] = set()
    days: set[str] = set()
    uids: set[str] = set()
    for element in elements(dataset):
        if element.tag.is_private:
            continue
        texts = [str(value) for value in values_of(element)] if element.VR not in ("SQ", "OB", "OW", "UN") else []
        if element.VR == "PN":
            names.update(word for text in texts for word in _name_words(text))
        elif element.VR in ("DA", "DT"):
            days.update(day for text in texts if (day := dates_of(element.VR, text)))
        elif element.VR == "UI":
            uids.update(text for text in texts if text and not is_well_known(text))
        elif element.VR in _TEXT and table.code(element.tag):
            phrases.update(_phrases(element.keyword, texts))
    return Known(frozenset(names), frozenset(phrases), frozenset(days - {"19000101"}), frozenset(uids))


def _name_words(text: str) -> Iterator[str]:
    """Return the parts of a person's name that can be searched for."""
    for word in _WORD.findall(text.casefold()):
        if len(word) >= SHORTEST_NAME and not word.isdigit() and word not in _PLACEHOLDERS:
            yield word


def _phrases(keyword: str, texts: Iterable[str]) -> Iterator[str]:
    """Return the values of an attribute that name a person's record or a place, when they can be searched for."""
    if not _IDENTIFIES.search(keyword) and not _PHRASES.search(keyword):
        return
    for text in texts:
        folded = text.strip(" \0").casefold()
        mixed = any(map(str.isdigit, folded)) and any(map(str.isalpha, folded))
        if len(folded) >= (SHORTEST_ID - 1 if mixed else SHORTEST_ID) and not _means_nothing(folded):
            yield folded


def _means_nothing(text: str) -> bool:
    """Whether a value stands for none, is zeros, or made of common words."""
    return text in _PLACEHOLDERS or not text.strip("0 .-_") or (deid_words.is_plain(text) and not text.isdigit())
