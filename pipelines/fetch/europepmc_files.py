"""The zip of an article's files in Europe PMC → the files of the figures that may be shown.

    <article>/files      role "record": names and sizes in the zip, by which it is known to be done with

The zip holds whatever the publisher gave, figures by others' permission among it: it is not kept, and of its files only
those that pass the gates are. Where no figure passes, it is not asked for.
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from medloom.connectors import europepmc
from medloom.connectors.archives import Limits, Member, members
from medloom.connectors.http import Http
from medloom.connectors.pmc import ObjectUrl
from medloom.pipelines.fetch.articles import Known, Row
from medloom.pipelines.fetch.job import Taken, refused_row
from medloom.pipelines.fetch.pmc_article import MAX_MEDIA_BYTES, files_of
from medloom.pipelines.tables.pictures import base_of
from medloom.schemas.errors import Refused
from medloom.schemas.keys import canonical_json
from medloom.schemas.raw import RawZone

LIMITS = Limits(members=10_000, member_bytes=MAX_MEDIA_BYTES, total_bytes=8 << 30)


@dataclass(frozen=True)
class Graphic:
    """A graphic of a figure: what it is called, and why it may not be had (None: it may)."""

    href: str
    refused: Refused | None


@dataclass(frozen=True)
class Files:
    """The files of one article.

    Attributes:
        article: "PMC11370360.1".
        known: the catalog's rows of the article, by name.
        folder: for what is being downloaded.
        refresh: ask for the zip again where there was none.
    """

    raw: RawZone
    http: Http
    folder: Path
    article: str
    known: Known
    refresh: bool = False

    @property
    def url(self) -> str:
        """Where the zip is."""
        return europepmc.files_url(self.article.partition(".")[0])

    def take(self, graphics: Sequence[Graphic]) -> Taken:
        """Return what the graphics come to; the objects are in the raw zone when this returns, the rows are not.

        Raises:
            SourceError, RetryLater: as `medloom.connectors.europepmc.files_zip` does.
        """
        if not self.needs_zip(graphics):
            return _Entering(self, _Listed(), Taken()).all(graphics, is_asked=False)
        path = self.folder / uuid.uuid4().hex
        try:
            return _Entering(self, self._zip(path), Taken()).all(graphics, is_asked=True)
        finally:
            path.unlink(missing_ok=True)

    def needs_zip(self, graphics: Sequence[Graphic]) -> bool:
        """Whether the service must be asked."""
        return not all(self._is_settled(graphic) for graphic in graphics if graphic.refused is None)

    def _is_settled(self, graphic: Graphic) -> bool:
        """Whether a graphic is kept, or refused for what the zip held, other than for the tiers that were asked for."""
        row, mark = self.row_of(graphic.href), self.known.get(files_name(self.article))
        if row is not None and row["outcome"] == "kept":
            return True
        if row is None or mark is None or (self.refresh and mark["outcome"] == "refused"):
            return False
        return bool(row["reason"] != "terms.tier")

    def row_of(self, href: str) -> Row | None:
        """Return the catalog's row of the file that a graphic means."""
        media = [row for row in self.known.values() if (row["article"], row["role"]) == (self.article, "media")]
        by_name = {row["name"]: row for row in media}
        best = files_of(href, [ObjectUrl(name, "") for name in by_name])
        return by_name[best[0].key] if best else by_name.get(self.unknown_name(href))

    def unknown_name(self, href: str) -> str:
        """Return what a graphic is called in the catalog when no file is known for it."""
        return f"{self.article}/{base_of(href)[-200:] or 'graphic'}"

    def _zip(self, path: Path) -> "_Listed":
        try:
            europepmc.files_zip(self.http, self.article.partition(".")[0], to=path)
            with open(path, "rb") as file:
                listed = [(member.name, member.size) for member in members(file, "zip", LIMITS)]
            return _Listed(dict(reversed(listed)), path)  # of two members of one name, the first counts
        except Refused as refused:
            return _Listed(refused=refused)


@dataclass(frozen=True)
class _Listed:
    """What a zip holds: sizes by name; or why there is none."""

    sizes: dict[str, int] = field(default_factory=dict)
    path: Path | None = None
    refused: Refused | None = None

    def file_of(self, href: str) -> str:
        """Return the member that a graphic means, of equally good ones the largest; "" when none is meant."""
        best = [target.key for target in files_of(href, [ObjectUrl(name, "") for name in self.sizes])]
        return min(best, key=lambda name: (-self.sizes[name], name), default="")

    def members(self, wanted: set[str]) -> Iterator[Member]:
        """Give the members of these names, each to be read before the next."""
        if self.path is not None and wanted:
            with open(self.path, "rb") as file:
                yield from (member for member in members(file, "zip", LIMITS) if member.name in wanted)


@dataclass
class _Entering:
    """Enters what each graphic comes to."""

    files: Files
    listed: _Listed
    taken: Taken

    def all(self, graphics: Sequence[Graphic], *, is_asked: bool) -> Taken:
        """Enter the graphics; of a file of several, all must permit it."""
        shown: dict[str, tuple[str, Refused | None]] = {}
        for graphic in graphics:
            member = self.listed.file_of(graphic.href)
            name = self._name(graphic, member, is_asked)
            shown[name] = (member, graphic.refused or shown.get(name, ("", None))[1])
        wanted = {
            member: name for name, (member, refused) in shown.items()
            if member and refused is None and not self._is_kept(name)
        }  # fmt: skip
        got = dict(self._unpacked(wanted))
        for name, (member, refused) in shown.items():
            self._enter(name, refused or got.get(member), is_asked)
        self._mark(is_asked)
        self.taken.asked = self.taken.kept + self.taken.known + self.taken.refused
        return self.taken

    def _is_kept(self, name: str) -> bool:
        row = self.files.known.get(name)
        return row is not None and row["outcome"] == "kept"

    def _name(self, graphic: Graphic, member: str, is_asked: bool) -> str:
        if member:
            return f"{self.files.article}/{member.rpartition('/')[2]}"
        row = None if is_asked else self.files.row_of(graphic.href)
        return row["name"] if row is not None else self.files.unknown_name(graphic.href)

    def _unpacked(self, wanted: dict[str, str]) -> Iterator[tuple[str, Row | Refused]]:
        """Give the row of each wanted member, or why there is none."""
        done: set[str] = set()
        for member in self.listed.members(set(wanted)):
            if member.name in done:
                continue
            done.add(member.name)
            path = self.files.folder / uuid.uuid4().hex
            try:
                member.save(path)
                yield member.name, self._kept(wanted[member.name], path)
            except Refused as refused:
                yield member.name, refused
            finally:
                path.unlink(missing_ok=True)

    def _kept(self, name: str, path: Path) -> Row:
        digest, size = self.files.raw.put(path)
        with open(path, "rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        return self._row(name, "media") | {"digest": digest, "md5": md5, "size": size}

    def _row(self, name: str, role: str) -> Row:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "name": name, "article": self.files.article, "role": role, "url": self.files.url, "digest": "", "md5": "",
            "size": 0, "etag": "", "retrieved_at": now, "outcome": "kept", "reason": "", "detail": "",
        }  # fmt: skip

    def _enter(self, name: str, found: Row | Refused | None, is_asked: bool) -> None:
        before, taken = self.files.known.get(name), self.taken
        if isinstance(found, dict):
            taken.keep(found)
            return
        if self._is_kept(name) and (found is None or found.reason != "terms.third_party"):
            taken.known += 1  # only the tiers asked for are narrower, or the service gives less this time
            return
        if found is None and before is not None and not is_asked:
            taken.refuse(before["reason"])
            return
        why = f"no picture: {self.listed.refused}" if self.listed.refused else "no picture of that name in the zip"
        refused = found or Refused("media.unavailable", why)
        is_same = before is not None and (before["outcome"], before["reason"]) == ("refused", refused.reason)
        row = refused_row(name, refused, article=self.files.article, role="media", url=self.files.url)
        taken.refuse(refused.reason, None if is_same else row)

    def _mark(self, is_asked: bool) -> None:
        """Say that the article's files are done with."""
        name = files_name(self.files.article)
        if self.listed.refused is not None:
            row = refused_row(name, self.listed.refused, article=self.files.article, role="record", url=self.files.url)
        elif is_asked or name not in self.files.known:
            said = [{"name": name, "size": size} for name, size in sorted(self.listed.sizes.items())]
            digest, size = self.files.raw.put(canonical_json(said).encode())
            row = self._row(name, "record") | {"digest": digest, "size": size}
        else:
            return
        self.taken.rows.append(row)


def files_name(article: str) -> str:
    """Return the catalog's name of what an article's zip held."""
    return f"{article}/files"
