"""The lists that lie beside archives of the retired layout: which licence an article has, and whether it is retracted.

`oa_file_list.csv` has a row per package (File, Article Citation, Accession ID, …, License); a volume's own
`NAME.filelist.csv` has `Article File` first and `Retracted` last. Columns are found by the letters of their names.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from medloom.pipelines.sources.listing import place_of
from medloom.schemas.errors import SourceError

_LIST = re.compile(r"(?i)(?:^|/)(?:[^/]*[._])?file_?list\.csv$")
_YES = ("yes", "y", "true", "1")
_KEY, _LICENCE, _RETRACTED = "accessionid", "license", "retracted"


@dataclass(frozen=True)
class Listed:
    """What a list says of an article: its licence in the list's words ("CC BY", "NO-CC CODE"), and its state."""

    licence_code: str
    is_retracted: bool


class Lists:
    """The lists under a root; a row is looked for when an archive is read, and only what may be asked for is held.

    Args:
        root: folder or fsspec URL.
        urls: of all its objects, as `list_objects` gives them.
        wanted: PMCIDs of the archives that are packages of one article; None when some archive is of many.
    """

    def __init__(self, root: str, urls: Iterable[str], wanted: set[str] | None):
        self._root = root
        self._urls = sorted(url for url in urls if _LIST.search(url))
        self._wanted = wanted
        self._general: dict[str, Listed] | None = None

    def of(self, archive: str) -> Mapping[str, Listed]:
        """Return what is said of the articles of an archive, by PMCID: by the list of its name, else by all others.

        Raises:
            SourceError: a list cannot be read as one.
        """
        stem = re.sub(r"(?i)(\.tar)?\.[a-z]+$", "", archive)
        own = f"{stem}.filelist.csv"
        if own in self._urls:
            return dict(_rows(self._root, own))
        if self._general is None:
            self._general = {}
            for url in self._urls:
                for pmcid, listed in _rows(self._root, url):
                    if self._wanted is None or pmcid in self._wanted:
                        self._general[pmcid] = _worse(listed, self._general.get(pmcid))
        return self._general


def _worse(listed: Listed, other: Listed | None) -> Listed:
    """Return what the later of two lists says, retracted when either says so."""
    return Listed(listed.licence_code, listed.is_retracted or (other is not None and other.is_retracted))


def _rows(root: str, url: str) -> Iterator[tuple[str, Listed]]:
    fs, full = place_of(root, url)
    try:
        with fs.open(full, "rb") as file:
            rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
            names = [re.sub(r"[^a-z]", "", name.lower()) for name in next(rows, [])]
            if _KEY not in names:
                raise SourceError(f"{url} under {root} is no list of articles: it has no column 'Accession ID'")
            for row in rows:
                said = dict(zip(names, row, strict=False))
                if said.get(_KEY):
                    retracted = said.get(_RETRACTED, "").strip().lower() in _YES
                    yield said[_KEY].strip().upper(), Listed(said.get(_LICENCE, "").strip(), retracted)
    except (OSError, csv.Error) as fault:
        raise SourceError(f"cannot read the list {url} under {root}: {fault}") from fault
