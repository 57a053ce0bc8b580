"""DICOMweb: series of an archive, as they are stored there, into a raw zone that only its owner may read.

    studies/<StudyInstanceUID>/<SeriesInstanceUID>/<SOPInstanceUID>      role "media"; the article is the series' UID

The zone holds what identifies patients, like any folder of originals: what is built from it does not.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medloom.connectors.dicom_headers import load, word
from medloom.connectors.dicomweb import DicomWeb, FoundSeries
from medloom.connectors.guard import Guard
from medloom.connectors.http import Http
from medloom.pipelines.fetch.job import FetchDone, Ledger, Taken, kept_row, refused_row, take_each
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from medloom.schemas.raw import RawZone

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

SERIES_AT_ONCE = 500  # whose rows of the catalog are looked up together
HEADER_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Dicomweb:
    """Series of a DICOMweb server that MEDLOOM_DICOMWEB_URL names: images, and the SEG and RTSTRUCT among them.

    Attributes:
        studies: StudyInstanceUIDs; all that match the other fields when none is named.
        modalities: of series (CT, MR, SEG, …); all when none is named.
        since, until: study dates, YYYYMMDD, both included.
        limit: at most so many studies, 0 for all.
        refresh: ask again for what the server failed to give.
    """

    studies: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    since: str = ""
    until: str = ""
    limit: int = 0
    refresh: bool = False

    def __post_init__(self) -> None:
        for name, day in (("since", self.since), ("until", self.until)):
            if day and not (len(day) == 8 and day.isdigit()):
                raise ConfigError(f"{name}={day} is no date of the form YYYYMMDD")
        if self.limit < 0:
            raise ConfigError("limit must not be negative")

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep in `raw` the objects of the series that are wanted and not yet there."""
        if raw.store.is_local:
            os.chmod(raw.store.local(""), 0o700)
        server, ledger, before = DicomWeb.of_environment(http), Ledger(raw), http.requests
        with Guard() as guard:
            run = _Run(server, raw, guard, self.refresh)
            for some in _by_number(self._series(server), SERIES_AT_ONCE):
                run.look_up(some)
                take_each(some, run.take, ledger, told, what="fetch dicomweb", workers=4)
        return ledger.done(http, requests_before=before)

    def _series(self, server: DicomWeb) -> Iterator[FoundSeries]:
        for number, study in enumerate(self.studies or server.studies(self._wanted())):
            if self.limit and number == self.limit:
                return
            yield from server.series(study, self.modalities)

    def _wanted(self) -> dict[str, str]:
        wanted = {"StudyDate": f"{self.since}-{self.until}"} if self.since or self.until else {}
        return wanted | ({"ModalitiesInStudy": ",".join(self.modalities)} if self.modalities else {})


def _by_number(series: Iterator[FoundSeries], number: int) -> Iterator[list[FoundSeries]]:
    some: list[FoundSeries] = []
    for one in series:
        some.append(one)
        if len(some) == number:
            yield some
            some = []
    if some:
        yield some


@dataclass
class _Run:
    """One run: where it asks, and what the catalog knows of the series at hand."""

    server: DicomWeb
    raw: RawZone
    guard: Guard
    refresh: bool
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def look_up(self, series: list[FoundSeries]) -> None:
        rows = self.raw.rows(one.uid for one in series).to_pylist()
        self.known = {row["name"]: row for row in rows}

    def take(self, series: FoundSeries) -> Taken:
        """Return what a series came to: every object that the server names is kept, known or refused."""
        taken = Taken()
        try:
            names = {_name(series, uid): uid for uid in self.server.instances(series)}
            settled = {name: self.known[name] for name in names if self._is_settled(name)}
            taken.know(settled.values())
            missing = {name: uid for name, uid in names.items() if name not in settled}
            if missing and not settled:
                self._download(series, missing, taken)
            for name, uid in list(missing.items()):
                try:
                    if name in missing:
                        self._download(series, missing, taken, instance=uid)
                    if name in missing:
                        raise Refused("dicomweb.missing", "the server names it, and gives another object in its place")
                except Refused as refused:
                    self._refuse(series, name, refused, taken)
        except Refused as refused:  # the series itself: its list of objects cannot be had
            self._refuse(series, f"studies/{series.study_uid}/{series.uid}", refused, taken)
        except RetryLater as fault:
            taken.later = fault
        return taken

    def _is_settled(self, name: str) -> bool:
        row = self.known.get(name)
        return row is not None and (row["outcome"] == "kept" or not self.refresh)

    def _download(self, series: FoundSeries, missing: dict[str, str], taken: Taken, *, instance: str = "") -> None:
        """Keep what the server gives of `missing`, and take it out of there; a broken whole leaves each to be asked."""
        with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
            try:
                answer, parts = self.server.download(series, Path(folder), instance=instance)
            except Refused:
                if instance:
                    raise
                return
            for path, uid in zip(parts, self.guard.call(read_uids, parts, timeout_s=HEADER_TIMEOUT_S), strict=True):
                name = _name(series, uid)
                if missing.pop(name, None) is None:
                    continue
                digest, size = self.raw.put(path)
                taken.asked += 1
                row = kept_row(name, article=series.uid, role="media", answer=answer, digest=digest, md5="", size=size)
                taken.keep(row)

    def _refuse(self, series: FoundSeries, name: str, refused: Refused, taken: Taken) -> None:
        taken.asked += 1
        taken.refuse(refused.reason, refused_row(name, refused, article=series.uid, role="media"))


def read_uids(paths: list[Path]) -> list[str]:
    """Return the SOPInstanceUID of each file, "" for one that is no DICOM object; called in the guarded child."""
    found = []
    for path in paths:
        try:
            found.append(word(load(path, ["SOPInstanceUID"])[0], "SOPInstanceUID"))
        except Refused:
            found.append("")
    return found


def _name(series: FoundSeries, uid: str) -> str:
    return f"studies/{series.study_uid}/{series.uid}/{uid}"
