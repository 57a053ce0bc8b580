"""Label tables: what public sets of 2-D images say of each image in CSV files beside them, read into one shape.

A set is one `LabelSet` in a module of this package. What a table does not say of an image is not known: it is never
taken for absent. Birth dates, study dates and ages in the tables are not read.
"""

import csv
import gzip
import importlib
import io
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from medloom.connectors import label_tables
from medloom.schemas.errors import Refused

Presence = Literal["present", "absent", "uncertain"]
Row = dict[str, str]
MAX_TABLE_BYTES = 4 << 30
MAX_CELL = 64 << 20  # characters: a run-length mask, or a report


@dataclass(frozen=True)
class Finding:
    """What a table says of one finding in one image.

    Attributes:
        name: in one vocabulary for all sets ("pleural effusion").
        presence: "uncertain" also where several readers disagree evenly.
        stated: the name as the table writes it.
        box: half-open pixels (y0, x0, y1, x1) of the image as it lies at the source; () for the whole image.
        by: who says so: "reader 3", "2 of 3 readers", "report" (taken from its text by a program), "".
    """

    name: str
    presence: Presence
    stated: str
    box: tuple[float, ...] = ()
    by: str = ""


@dataclass(frozen=True)
class Labelled:
    """What the tables say of one image.

    Attributes:
        image: by which its file is found (see `LabelSet.image_of`).
        patient, study: as the set names them; the study may be "".
        split: the official one, "" when there is none.
        view: "PA", "AP", "lateral", … as stated, "".
        text: report or caption, "".
        findings: in the order of the table.
    """

    image: str
    patient: str
    study: str = ""
    split: str = ""
    view: str = ""
    text: str = ""
    findings: tuple[Finding, ...] = ()


class Tables:
    """The files of a set that are no images, by the end of their paths.

    Args:
        files: {path: what gives its bytes}.
    """

    def __init__(self, files: Mapping[str, Callable[[], bytes]]):
        self._files = files
        self.used: list[str] = []

    def paths(self, pattern: str) -> list[str]:
        """Return the paths whose end matches a regular expression, sorted."""
        return sorted(p for p in self._files if re.search(rf"(^|/){pattern}$", p))

    def read(self, pattern: str) -> bytes:
        """Return the bytes of the first file that matches, inflated; b"" when there is none.

        Raises:
            Refused("labels.large"), ("labels.damaged")
        """
        found = self.paths(pattern)
        if not found:
            return b""
        self.used.append(found[0])
        return _inflated(self._files[found[0]]())

    def rows(self, pattern: str, *needed: str) -> Iterator[Row]:
        """Give the rows of the first CSV file that matches, nothing when there is none.

        Raises:
            Refused("labels.columns"): it lacks a column that is needed.
            Refused("labels.large"), ("labels.damaged")
        """
        data = self.read(pattern)
        if not data:
            return
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or ()]
        except (UnicodeDecodeError, csv.Error) as fault:
            raise Refused("labels.damaged", f"the table {pattern} is no UTF-8 CSV ({type(fault).__name__})") from fault
        missing = sorted(set(needed) - set(names))
        if missing:
            raise Refused("labels.columns", f"the table {pattern} has no column {', '.join(missing)}")
        reader.fieldnames = names
        usual = csv.field_size_limit(MAX_CELL)  # it holds for the whole process: given back when the table is read
        try:
            for row in reader:
                yield {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        finally:
            csv.field_size_limit(usual)


def _inflated(data: bytes) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.open(io.BytesIO(data)) as file:
            inflated = file.read(MAX_TABLE_BYTES + 1)
    except (OSError, EOFError) as fault:
        raise Refused("labels.damaged", f"a table's gzip stream is broken ({type(fault).__name__})") from fault
    if len(inflated) > MAX_TABLE_BYTES:
        raise Refused("labels.large", f"a table inflates to more than {MAX_TABLE_BYTES} bytes")
    return inflated


@dataclass(frozen=True)
class LabelSet:
    """A public set of labelled 2-D images.

    Attributes:
        name: of its source, and of this set on the command line.
        title, modality, body_part, licence, terms_id, attribution: what holds for all of it.
        marks: patterns of the tables by which it is recognised, all of which must be there.
        images: how many a whole copy has.
        read: gives what the tables say, one entry per image.
        image_of: of a path, by what `Labelled.image` names that file; "" for what is no image of the set.
    """

    name: str
    title: str
    modality: str
    body_part: str
    licence: str
    terms_id: str
    attribution: str
    marks: tuple[str, ...]
    images: int
    read: Callable[[Tables], Iterable[Labelled]] = field(compare=False)
    image_of: Callable[[str], str] = field(compare=False)


@lru_cache
def label_sets() -> dict[str, LabelSet]:
    """Return every set by name: the `LabelSet`s of the modules of this package."""
    found: dict[str, LabelSet] = {}
    for entry in pkgutil.iter_modules(label_tables.__path__):
        module = importlib.import_module(f"{label_tables.__name__}.{entry.name}")
        found |= {one.name: one for one in vars(module).values() if isinstance(one, LabelSet)}
    return dict(sorted(found.items()))


def name_of(path: str) -> str:
    """Return the name of an image's file without folders and ending, "" when it is no image."""
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.lower() in ("png", "jpg", "jpeg", "dcm", "dicom") and not name.startswith(".") else ""


def agreed(votes: Iterable[bool], stated: str, name: str) -> Finding:
    """Return what several readers say together: the majority, "uncertain" when they are evenly divided."""
    said = list(votes)
    yes = sum(said)
    presence: Presence = "present" if 2 * yes > len(said) else "absent" if 2 * yes < len(said) else "uncertain"
    return Finding(name, presence, stated, by=f"{yes} of {len(said)} readers")
