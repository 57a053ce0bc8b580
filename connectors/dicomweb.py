"""DICOMweb: what an archive holds (QIDO-RS) and its objects as they are stored there (WADO-RS), PS3.18 chapter 10.

UIDs are data: they stand in no error text and in no log (see `medloom.connectors.addresses`).
"""

import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medloom.connectors import settings
from medloom.connectors.http import Again, Answer, Http
from medloom.schemas.errors import ConfigError, Refused, SourceError

PAGE = 100  # studies, series or objects asked for at once; a server may give fewer
MAX_PAGES = 100_000
MAX_SERIES_BYTES = 8 << 30
MAX_PARTS = 100_000
MAX_PART_HEADER = 4096
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_SEARCH = {"Accept": "application/dicom+json"}
_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


@dataclass(frozen=True)
class FoundSeries:
    """A series that a search found."""

    study_uid: str = field(repr=False)
    uid: str = field(repr=False)


@dataclass(frozen=True)
class DicomWeb:
    """A DICOMweb server.

    Attributes:
        url: its base, such as "https://pacs.example.org/dicom-web".
        authorization: header by which it knows who asks, "" for none.
    """

    http: Http
    url: str
    authorization: str = field(default="", repr=False)

    @classmethod
    def of_environment(cls, http: Http) -> "DicomWeb":
        """Return the server that `MEDLOOM_DICOMWEB_URL` names.

        Raises:
            ConfigError: it names none.
        """
        return cls(http, settings.dicomweb_url(), settings.dicomweb_authorization())

    def studies(self, wanted: Mapping[str, str]) -> Iterator[str]:
        """Give the UIDs of the studies that match `wanted` (keyword: value, as QIDO-RS takes them), each once."""
        for found in self._search("/studies", wanted):
            yield _uid(found, "0020000D")

    def series(self, study_uid: str, modalities: Sequence[str] = ()) -> list[FoundSeries]:
        """Return the series of a study, of some modalities only where any are named."""
        path, found = f"/studies/{_checked(study_uid)}/series", []
        for row in self._search(path, {}):
            if not modalities or _text(row, "00080060") in modalities:
                found.append(FoundSeries(study_uid, _uid(row, "0020000E")))
        return found

    def instances(self, series: FoundSeries) -> list[str]:
        """Return the SOPInstanceUIDs of a series' objects."""
        path = f"/studies/{_checked(series.study_uid)}/series/{_checked(series.uid)}/instances"
        return [_uid(row, "00080018") for row in self._search(path, {})]

    def download(self, series: FoundSeries, to: Path, *, instance: str = "") -> tuple[Answer, list[Path]]:
        """Write the objects of a series, or one of them, as they are stored at the server, to files in the folder `to`;
        return the answer and the files.

        Raises:
            Refused("http.…"), RetryLater: as `Http.download`.
            Refused("dicomweb.multipart"): the answer is no whole multipart body.
        """
        url = f"{self.url}/studies/{_checked(series.study_uid)}/series/{_checked(series.uid)}"
        if instance:
            url += f"/instances/{_checked(instance)}"
        body = to / "body"
        answer = self.http.download(url, to=body, max_bytes=MAX_SERIES_BYTES, headers=_STORED | self._who())
        try:
            return answer, split_parts(body, answer.headers.get("content-type", ""), to)
        finally:
            body.unlink()

    def _who(self) -> dict[str, str]:
        return {"Authorization": self.authorization} if self.authorization else {}

    def _search(self, path: str, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Give the matches of a search, page by page until a page has none that is new."""
        seen: dict[str, dict[str, Any]] = {}
        for _ in range(MAX_PAGES):
            params: dict[str, str | int] = {**wanted, "limit": PAGE, "offset": len(seen)}
            page = {json.dumps(row, sort_keys=True): row for row in self._page(path, params)}
            fresh = {name: row for name, row in page.items() if name not in seen}
            yield from fresh.values()
            if not fresh:  # a server may cap a page below what was asked, so a short one is not yet the last
                return
            seen |= fresh
        raise SourceError(f"the DICOMweb server at {self.url} gives pages without end")

    def _page(self, path: str, params: Mapping[str, str | int]) -> list[dict[str, Any]]:
        try:
            answer = self.http.get(f"{self.url}{path}", params=params, headers=_SEARCH | self._who(), check=_is_json)
        except Refused as refused:
            if refused.reason == "http.forbidden":
                raise ConfigError(
                    f"the DICOMweb server at {self.url} does not let us in; set {settings.DICOMWEB_TOKEN}, or "
                    f"{settings.DICOMWEB_LOGIN}=name:password"
                ) from None
            raise
        rows = json.loads(answer.content) if answer.content.strip() else []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SourceError(f"{self.url} is no DICOMweb server: a search gives no list; look at its base address")
        return rows


def _is_json(answer: Answer) -> None:
    if answer.status == 204:
        return
    try:
        json.loads(answer.content)
    except ValueError:
        raise Again("an answer that is no JSON") from None


def _text(row: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute of the DICOM JSON model (PS3.18 Annex F), "" when there is none."""
    found = row.get(tag)
    values = found.get("Value") if isinstance(found, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _uid(row: Mapping[str, Any], tag: str) -> str:
    return _checked(_text(row, tag))


def _checked(uid: str) -> str:
    """Return `uid` when it is one: it becomes part of a path."""
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise Refused("dicomweb.uid", "the server names an examination by what is no UID")
    return uid


def split_parts(body: Path, content_type: str, to: Path) -> list[Path]:
    """Write each part of a multipart body (RFC 2046 5.1) to a file of its own in the folder `to`, in their order.

    Raises:
        Refused("dicomweb.multipart"): it has no boundary, ends without its last one, or has too many parts.
    """
    found = re.search(r'boundary="?([^";,]{1,200})"?', content_type)
    if not content_type.lower().startswith("multipart/related") or not found:
        raise Refused("dicomweb.multipart", "the answer is no multipart body")
    if os.path.getsize(body) == 0:
        raise Refused("dicomweb.multipart", "the answer is empty")
    mark = b"--" + found[1].strip().encode()
    parts: list[Path] = []
    with open(body, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(mark)
        while at >= 0 and data[at + len(mark) : at + len(mark) + 2] != b"--":
            start = data.find(b"\r\n\r\n", at, at + MAX_PART_HEADER)
            end = data.find(b"\r\n" + mark, start)
            if start < 0 or end < 0 or len(parts) == MAX_PARTS:
                raise Refused("dicomweb.multipart", "the multipart body is cut short or broken")
            parts.append(to / f"part-{len(parts):06d}")
            with open(parts[-1], "wb") as part:
                for block in range(start + 4, end, 16 << 20):
                    part.write(data[block : min(block + (16 << 20), end)])
            at = end + 2
        if at < 0:
            raise Refused("dicomweb.multipart", "the multipart body has no boundary")
    return parts
