"""One article of the PMC Cloud Service → rows of a raw zone: record, gates, XML, gates again, the media it shows.

Nothing is asked that the catalog knows already: a record by its ETag, XML and media by the md5 that the record names.
The row of the article comes with all others of it, so that an article with one is finished.
"""

import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medloom.connectors import jats
from medloom.connectors.guard import Guard
from medloom.connectors.pmc import Metadata, ObjectUrl, PmcCloud, md5_of, metadata_key, read_metadata
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.job import Taken, kept_row, refused_row
from medloom.pipelines.fetch.parsing import parse_guarded
from medloom.pipelines.tables.pictures import FORMS, base_of, names_of
from medloom.schemas.errors import Refused, RetryLater, SourceError
from medloom.schemas.raw import RawZone

T = TypeVar("T")

MAX_MEDIA_BYTES = 128 << 20
UNNAMED = "media.unnamed"  # kept before, and shown by no figure any more: nobody asks for it
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """An article to be had.

    Attributes:
        pmcid: "PMC11370360".
        versions: ETag of the record by version, as an inventory says; {} when nobody has said which there are.
        known: the catalog's rows of all its versions, by name.
    """

    pmcid: str
    versions: Mapping[int, str] = field(default_factory=dict)
    known: Mapping[str, Row] = field(default_factory=dict)

    def article_row(self, version: int) -> Row | None:
        """The catalog's row of a version's XML."""
        return next((row for row in self.rows_of(version) if row["role"] == "article"), None)

    def rows_of(self, version: int) -> list[Row]:
        """The catalog's rows of a version: of its XML and of the media that its figures show."""
        article = f"{self.pmcid}.{version}"
        rows = (row for row in self.known.values() if row["article"] == article and row["role"] != "metadata")
        return [row for row in rows if row["reason"] != UNNAMED]

    def known_versions(self) -> list[int]:
        """Versions whose record is in the catalog."""
        rows = [row for row in self.known.values() if row["role"] == "metadata" and row["outcome"] != "withdrawn"]
        return sorted(int(row["article"].rpartition(".")[2]) for row in rows)


@dataclass(frozen=True)
class Articles:
    """Takes articles of the service into a raw zone; threads may share one.

    Attributes:
        tiers: of licences that may be fetched.
        refresh: ask again which versions there are, and for what a fault of the service refused.
        folder: for what is being downloaded.
    """

    raw: RawZone
    cloud: PmcCloud
    guard: Guard
    tiers: tuple[str, ...]
    refresh: bool = False
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))

    def take(self, wanted: Wanted) -> Taken:
        """Return what an article came to; objects are in the raw zone when it returns, rows are not.

        Raises:
            BugError: the parser failed in a way that is no refusal.
        """
        taking = _Taking(self, wanted)
        try:
            taking.run()
        except RetryLater as fault:
            whole = [row for row in taking.taken.rows if row["role"] == "media" and row["outcome"] == "kept"]
            return Taken(asked=len(whole), kept=len(whole), rows=whole, later=fault)
        return taking.taken

    def holds(self, row: Row | None) -> bool:
        """Whether the raw zone has the bytes of a catalog's row; only with `refresh` is it looked."""
        if row is None or not row["digest"]:
            return False
        return not self.refresh or self.raw.store.exists(self.raw.object_path(row["digest"]))

    def settled(self, wanted: Wanted) -> Taken | None:
        """Return what the catalog says of an article when it says all, None when the service must be asked."""
        versions = wanted.versions or dict.fromkeys(wanted.known_versions(), "")
        if self.refresh or not versions:
            return None
        newest = max(versions)
        record, article = wanted.known.get(metadata_key(f"{wanted.pmcid}.{newest}")), wanted.article_row(newest)
        if record is None or article is None or versions[newest] not in ("", record["etag"]):
            return None
        rows = wanted.rows_of(newest)
        if not is_decided(article) or any(row["reason"] == "terms.tier" for row in rows):
            return None
        taken = Taken()
        taken.know([record, *rows])
        return taken


def is_decided(article: Row) -> bool:
    """Whether a catalog's row of an article says what became of it; one superseded may count again."""
    return article["outcome"] in ("kept", "refused") or article["reason"].startswith("article.")


@dataclass(frozen=True)
class _Xml:
    """An XML: its row as if kept, its bytes, its row of "article" and rows of "figure"."""

    row: Row
    data: bytes
    article: Row
    figures: list[Row]


class _Taking:
    """The work on one article."""

    def __init__(self, articles: Articles, wanted: Wanted):
        self.articles, self.raw, self.cloud, self.wanted = articles, articles.raw, articles.cloud, wanted
        self.taken = Taken()

    def run(self) -> None:
        wanted, taken = self.wanted, self.taken
        said = wanted.known.get(wanted.pmcid)
        if said is not None and not wanted.versions and not wanted.known_versions() and not self.articles.refresh:
            taken.asked += 1
            taken.refuse(said["reason"])
            return
        versions = wanted.versions or self._versions()
        if not versions:
            taken.asked += 1
            unknown = Refused("pmc.unknown", "the service has no article of this id")
            taken.refuse(unknown.reason, refused_row(wanted.pmcid, unknown, article=wanted.pmcid, role="record"))
            self._take_back(wanted.known.values(), "withdrawn", "pmc.vanished", "")
            return
        chosen = self._choose(versions)
        if chosen is not None:
            self._version(*chosen)

    def _versions(self) -> dict[int, str]:
        known = self.wanted.known_versions()
        if known and not self.articles.refresh:
            return dict.fromkeys(known, "")
        return dict.fromkeys(self._listed(self.cloud.versions, self.wanted.pmcid), "")

    def _listed(self, listing: Callable[[str], T], name: str) -> T:
        try:
            return listing(name)
        except Refused as refused:  # it concerns no single article
            raise SourceError(f"{self.cloud.url} gives no listing: {refused}; see that its address is right") from None

    def _choose(self, versions: Mapping[int, str]) -> tuple[Metadata, bool] | None:
        """Return the record of the newest version as published, else of the newest manuscript; whether it is new."""
        manuscript = None
        for version in sorted(versions, reverse=True):
            try:
                record = self._record(f"{self.wanted.pmcid}.{version}", versions[version])
            except Refused:
                continue
            if not record[0].is_manuscript:
                return record
            manuscript = manuscript or record
        return manuscript

    def _record(self, article: str, etag: str) -> tuple[Metadata, bool]:
        """Return a version's record, and whether it is another than the catalog's.

        Raises:
            Refused: there is none, or it is none; that is in `taken` then.
        """
        name, taken = metadata_key(article), self.taken
        known = self.wanted.known.get(name)
        taken.asked += 1
        same = known is not None and known["outcome"] != "withdrawn" and etag in ("", known["etag"])
        if known is not None and same and not self.articles.refresh:
            if known["outcome"] == "refused":
                taken.refuse(known["reason"])
                raise Refused(known["reason"], known["detail"])
            taken.known += 1
            return read_metadata(self.raw.read(known["digest"]), article=article), False
        try:
            is_held = known is not None and known["outcome"] == "kept" and self.articles.holds(known)
            held = known["etag"] if known is not None and is_held else ""
            answer = self.cloud.metadata(article, etag=held)
            if answer.status == 304 and known is not None:
                taken.known += 1
                return read_metadata(self.raw.read(known["digest"]), article=article), False
            etag = answer.headers.get("etag", "").strip('"') or etag
            record = read_metadata(answer.content, article=article)
        except Refused as refused:
            row = refused_row(name, refused, article=article, role="metadata", url=self.cloud.address(name), etag=etag)
            taken.refuse(refused.reason, row)
            raise
        digest, size = self.raw.put(answer.content)
        md5 = md5_of(answer.content)
        taken.keep(
            kept_row(name, article=article, role="metadata", answer=answer, digest=digest, md5=md5, size=size)
            | {"etag": etag}
        )
        return record, True

    def _version(self, record: Metadata, is_new: bool) -> None:
        known = self.wanted.article_row(record.version)
        rows = self.wanted.rows_of(record.version)
        if known is not None and is_decided(known) and not is_new and not any(map(self._is_open, rows)):
            self.taken.know(rows)
            return
        xml = None
        self.taken.asked += 1
        try:
            self._hold_record(record)
            xml = self._xml(record, known, is_new)
            said, tiers = record.license_code, self.articles.tiers
            terms_id = gates.must_be_readable(xml.article, licence_code=said, tiers=tiers)
        except Refused as refused:
            if known is not None and known["outcome"] == "kept" and not is_new:
                self.taken.asked -= 1  # only the tiers asked for are narrower: what is there stays
                self.taken.know(rows)
            else:
                self._refuse_article(record, refused, known, xml)
            return
        self._media(record, xml.figures, terms_id, is_new)
        row = xml.row | {"digest": self.raw.put(xml.data)[0]}
        if known is not None and known["outcome"] == "kept" and known["digest"] == row["digest"]:
            self.taken.known += 1
        else:
            self.taken.keep(row)
        self._supersede(record)

    def _is_open(self, row: Row) -> bool:
        """Whether a row may be decided otherwise now: by other tiers, or by asking for what is missing once more."""
        if row["outcome"] == "kept":
            return not self.articles.holds(row)
        return row["reason"] == "terms.tier" or (self.articles.refresh and row["reason"].startswith("http."))

    def _hold_record(self, record: Metadata) -> None:
        gates.must_be_fetchable(
            is_open_access=record.is_pmc_openaccess, is_retracted=record.is_retracted,
            licence_code=record.license_code, tiers=self.articles.tiers,
        )  # fmt: skip

    def _xml(self, record: Metadata, known: Row | None, is_new: bool) -> "_Xml":
        """Return the XML, out of the raw zone when it is there.

        Raises:
            Refused: the record names none, the service has none as announced, or the parser refuses it.
        """
        target = record.xml()
        is_same = known is not None and (known["md5"] == target.md5 if target.md5 else not is_new)
        if known is not None and is_same and self.articles.holds(known):
            row = known | {"outcome": "kept", "reason": "", "detail": ""}
            data = self.raw.read(known["digest"])
        else:
            answer = self.cloud.get(target, max_bytes=jats.MAX_BYTES)
            data, md5 = answer.content, target.md5 or md5_of(answer.content)
            row = kept_row(
                target.key, article=record.article, role="article", answer=answer, digest="", md5=md5, size=len(data)
            )
        return _Xml(row, data, *parse_guarded(self.articles.guard, data, target.key))

    def _refuse_article(self, record: Metadata, refused: Refused, known: Row | None, xml: "_Xml | None") -> None:
        """Refuse an article, and take back what was kept of it, unless only the service or the XML is at fault.

        An XML that is not of the tiers asked for is held all the same, so that others can be asked for later.
        """
        for_good = refused.reason.startswith(("article.", "terms."))
        name = f"{record.article}/{record.article}.xml"
        if known is not None and known["outcome"] == "kept" and for_good:
            self.taken.refuse(refused.reason)
            rows = self.wanted.rows_of(record.version)
            self._take_back(rows, "withdrawn", refused.reason, refused.detail)
        elif known is not None and known["outcome"] == "refused" and known["reason"] == refused.reason:
            self.taken.refuse(refused.reason)
        elif xml is not None and refused.reason == "terms.tier":
            held = xml.row | {"digest": self.raw.put(xml.data)[0], "outcome": "refused"}
            self.taken.refuse(refused.reason, held | {"reason": refused.reason, "detail": refused.detail})
        else:
            url = self.cloud.address(name)
            self.taken.refuse(
                refused.reason, refused_row(name, refused, article=record.article, role="article", url=url)
            )
        if for_good:
            self._supersede(record)

    def _media(self, record: Metadata, figures: Sequence[Row], terms_id: str, is_new: bool) -> None:
        """Fetch the file of every figure that may be shown; of a file of several figures, all must permit it."""
        shown: dict[str, tuple[ObjectUrl | None, Refused | None]] = {}
        for figure in figures:
            refused = None
            try:
                gates.must_be_shown_freely(figure, terms_id=terms_id, tiers=self.articles.tiers)
            except Refused as fault:
                refused = fault
            for media in figure["media"]:
                if media["role"] != "figure":
                    continue
                target = self._file_of(record, media["href"])
                lost = Refused("media.unavailable", f"the record names no picture for graphic {media['href'][-80:]!r}")
                name = target.key if target else f"{record.article}/graphic/{media['key']}"
                shown[name] = (target, refused or shown.get(name, (None, None))[1] or (None if target else lost))
        for name, (target, refused) in shown.items():
            self._medium(name, target, refused, record.article, is_new)
        for row in self.wanted.rows_of(record.version):
            if row["role"] == "media" and row["outcome"] == "kept" and row["name"] not in shown:
                unnamed = "no figure of the article shows it any more"
                self.taken.rows.append(row | {"outcome": "refused", "reason": UNNAMED, "detail": unnamed})

    def _medium(self, name: str, target: ObjectUrl | None, refused: Refused | None, article: str, is_new: bool) -> None:
        taken, known = self.taken, self.wanted.known.get(name)
        taken.asked += 1
        if refused is None:
            assert target is not None
            if known is not None and not is_new and known["outcome"] == "refused" and not self._is_open(known):
                taken.refuse(known["reason"])
                return
            is_same = known is not None and (known["md5"] == target.md5 if target.md5 else not is_new)
            if known is not None and is_same and self.articles.holds(known):
                if known["outcome"] == "kept":
                    taken.known += 1
                else:
                    taken.keep(known | {"outcome": "kept", "reason": "", "detail": ""})
                return
            try:
                taken.keep(self._download(target, article))
                return
            except Refused as fault:
                refused = fault
        if known is not None and (known["outcome"], known["reason"]) == ("refused", refused.reason):
            taken.refuse(refused.reason)
            return
        url = self.cloud.address(name) if target is not None else ""
        taken.refuse(refused.reason, refused_row(name, refused, article=article, role="media", url=url))

    def _download(self, target: ObjectUrl, article: str) -> Row:
        path = self.articles.folder / uuid.uuid4().hex
        try:
            answer = self.cloud.download(target, to=path, max_bytes=MAX_MEDIA_BYTES)
            md5 = target.md5 or md5_of(path)
            digest, size = self.raw.put(path)
        finally:
            path.unlink(missing_ok=True)
        return kept_row(target.key, article=article, role="media", answer=answer, digest=digest, md5=md5, size=size)

    def _file_of(self, record: Metadata, href: str) -> ObjectUrl | None:
        """Return the file that a graphic means; of equally good ones the largest, for which the folder is listed."""
        best = files_of(href, record.media())
        if len(best) < 2:
            return best[0] if best else None
        sizes = self._listed(self.cloud.sizes, record.article)
        return min(best, key=lambda target: (-sizes.get(target.key, 0), target.key))

    def _supersede(self, record: Metadata) -> None:
        others = [row for row in self.wanted.known.values() if row["article"] != record.article]
        detail = f"{record.article} is the version that counts"
        self._take_back(others, "superseded", "pmc.version", detail)

    def _take_back(self, rows: Iterable[Row], outcome: str, reason: str, detail: str) -> None:
        for row in rows:
            if row["outcome"] == "kept" and row["role"] != "metadata":
                self.taken.take_back(row, outcome=outcome, reason=reason, detail=detail)


def files_of(href: str, media: Iterable[ObjectUrl]) -> list[ObjectUrl]:
    """Return the pictures that a graphic's href may mean, those that fit best: its name, its stem, the last part of
    an `info:doi/…` or of a URL; JPEG and PNG before TIFF before GIF, which may be a thumbnail. Other media are never
    meant.
    """
    base = base_of(href)
    names = names_of(base)
    ranked: list[tuple[tuple[int, int], ObjectUrl]] = []
    for target in media:
        stem, _, ending = target.name.rpartition(".")
        if base and ending.lower() in FORMS and stem in names:
            by_name = 0 if target.name == base else 1 if stem == base else 2
            ranked.append(((by_name, FORMS[ending.lower()]), target))
    best = min((rank for rank, _ in ranked), default=None)
    return [target for rank, target in ranked if rank == best]
