"""One article out of an archive → rows of a raw zone: its XML through the gates, then the pictures that it shows."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medloom.connectors import jats
from medloom.connectors.guard import Guard
from medloom.connectors.pmc import ObjectUrl
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.archive_lists import Listed
from medloom.pipelines.fetch.articles import kept_rows, take_back, version_of
from medloom.pipelines.fetch.job import Taken
from medloom.pipelines.fetch.parsing import parse_guarded
from medloom.pipelines.fetch.pmc_article import files_of
from medloom.pipelines.tables.pictures import FORMS
from medloom.schemas.errors import Refused
from medloom.schemas.raw import RawZone

TEXTS = ("nxml", "xml")
ENDINGS = (*TEXTS, *FORMS)
Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A file of an article, unpacked to where it is for now.

    Attributes:
        name: in the archive.
        path: where its bytes are.
        size: in bytes.
    """

    name: str
    path: Path
    size: int

    @property
    def base(self) -> str:
        """The last part of its name."""
        return re.split(r"[/\\]", self.name)[-1]

    @property
    def ending(self) -> str:
        """What its name ends in, lower-case."""
        return self.base.rpartition(".")[2].lower()


@dataclass
class Package:
    """The files of one article, as far as they have come.

    Attributes:
        token: "PMC13900", or "PMC11370360.1", by the names of the files or of the archive; "" when none says one.
        archive: URL of the archive.
        retrieved_at: when the archive was read.
    """

    token: str
    archive: str
    retrieved_at: str
    files: list[Found] = field(default_factory=list)

    @property
    def pmcid(self) -> str:
        """The token without a version."""
        return self.token.partition(".")[0]

    def goes_on(self, token: str, file: Found) -> bool:
        """Whether a file belongs to it; without a token, what lies in its folder does, up to the next XML."""
        if token or self.token:
            return token == self.token
        folder, new = self.files[0].name.rpartition("/")[0], file.name.rpartition("/")[0]
        return folder == new and not (file.ending in TEXTS and any(f.ending in TEXTS for f in self.files))

    def clear(self) -> None:
        """Delete the unpacked files."""
        for file in self.files:
            file.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Article:
    """An article as it was parsed, and its name in the raw zone."""

    name: str
    article: Row
    figures: list[Row]


@dataclass(frozen=True)
class Unpacker:
    """Takes packages into a raw zone."""

    raw: RawZone
    guard: Guard
    tiers: tuple[str, ...]

    def take(self, package: Package, known: Mapping[str, Row], listed: Listed | None) -> Taken:
        """Return what a package comes to; its objects are in the raw zone when this returns, its rows are not.

        Args:
            known: the catalog's rows of the article, by name.
            listed: what a list says of it.
        """
        taken = Taken()
        texts = [file for file in package.files if file.ending in TEXTS]
        try:
            if listed is not None and listed.is_retracted:
                raise Refused("article.retracted", "the list beside the archive says that it is retracted")
            found, text = self._of(package, texts, known)
            code = listed.licence_code if listed is not None else None
            terms_id = gates.must_be_readable(found.article, licence_code=code, tiers=self.tiers)
        except Refused as refused:
            self._refuse(taken, package, texts, known, refused)
            return taken
        if text is not None:
            newer = [row for row in kept_rows(known) if version_of(row["article"]) > version_of(found.name)]
            if newer:
                taken.asked += 1
                taken.known += 1
                return taken
            self._keep(taken, package, text, known, found.name, "article")
        self._pictures(taken, package, known, found, terms_id)
        older = [row for row in kept_rows(known) if version_of(row["article"]) < version_of(found.name)]
        detail = f"{found.name} is the version that counts"
        take_back(taken, older, outcome="superseded", reason="pmc.version", detail=detail)
        return taken

    def _of(self, package: Package, texts: list[Found], known: Mapping[str, Row]) -> tuple[_Article, Found | None]:
        """Return the article of a package, and its file; of pictures alone, the article that the raw zone has.

        Raises:
            Refused: there is none, or none that can be read.
        """
        if not texts:
            kept = [row for row in kept_rows(known) if row["role"] == "article"]
            if not kept:
                raise Refused("article.unknown", "pictures without an article, which the raw zone has not either")
            row = max(kept, key=lambda row: version_of(row["article"]))
            article, figures = parse_guarded(self.guard, self.raw.read(row["digest"]), row["name"])
            return _Article(row["article"], article, figures), None
        first: Refused | None = None
        for text in sorted(texts, key=lambda file: (TEXTS.index(file.ending), file.name)):
            try:
                if text.size > jats.MAX_BYTES:
                    raise Refused("jats.large", f"{text.size} bytes, the limit is {jats.MAX_BYTES}")
                article, figures = parse_guarded(self.guard, text.path.read_bytes(), text.name)
            except Refused as refused:
                first = first or refused
                continue
            name = f"{article['pmcid']}.{article['version']}" if article["pmcid"] else f"{package.pmcid}.1"
            if not (article["pmcid"] or package.pmcid):
                name = text.base.rpartition(".")[0]
            return _Article(name, article, figures), text
        assert first is not None
        raise first

    def _refuse(
        self, taken: Taken, package: Package, texts: list[Found], known: Mapping[str, Row], refused: Refused
    ) -> None:
        """Refuse an article; what was kept of it is taken back when the article, or its list, says why."""
        taken.asked += 1
        held = kept_rows(known)
        for_good = refused.reason.startswith("article.") and refused.reason != "article.unknown"
        if held and for_good:
            taken.refuse(refused.reason)
            take_back(taken, held, outcome="withdrawn", reason=refused.reason, detail=refused.detail)
        elif held or refused.reason == "article.unknown":  # the catalog says more than this archive does
            taken.refuse(refused.reason)
        else:
            named = texts[0] if texts else package.files[0]
            article = f"{package.pmcid}.1" if package.pmcid else named.base.rpartition(".")[0]
            row = _row(package, named, f"{article}/{named.base}", article, "article")
            taken.refuse(refused.reason, row | {
                "outcome": "refused", "reason": refused.reason, "detail": refused.detail, "size": 0, "md5": "",
            })  # fmt: skip

    def _pictures(
        self, taken: Taken, package: Package, known: Mapping[str, Row], found: _Article, terms_id: str
    ) -> None:
        """Keep the file of every figure that may be shown; of a file of several figures, all must permit it."""
        pictures = {file.name: file for file in package.files if file.ending in FORMS}
        shown: dict[str, Refused | None] = {}
        for figure, href in _graphics(found.figures):
            best = files_of(href, [ObjectUrl(name, "") for name in pictures])
            if not best:
                continue
            name = min(best, key=lambda url: (-pictures[url.key].size, url.key)).key
            try:
                gates.must_be_shown_freely(figure, terms_id=terms_id, tiers=self.tiers)
                shown.setdefault(name, None)
            except Refused as refused:
                shown[name] = refused
        for name, why in shown.items():
            if why is None:
                self._keep(taken, package, pictures[name], known, found.name, "media")
                continue
            row = _row(package, pictures[name], f"{found.name}/{pictures[name].base}", found.name, "media")
            taken.asked += 1
            refusal = {"outcome": "refused", "reason": why.reason, "detail": why.detail, "size": 0, "md5": ""}
            held = known.get(row["name"])
            taken.refuse(why.reason, None if held and held["outcome"] == "refused" else row | refusal)

    def _keep(
        self, taken: Taken, package: Package, file: Found, known: Mapping[str, Row], article: str, role: str
    ) -> None:
        row = _row(package, file, f"{article}/{file.base}", article, role)
        row["digest"], row["size"] = self.raw.put(file.path)
        taken.asked += 1
        held = known.get(row["name"])
        if held is not None and (held["outcome"], held["digest"]) == ("kept", row["digest"]):
            taken.known += 1
        else:
            taken.keep(row)


def _graphics(figures: list[Row]) -> Iterator[tuple[Row, str]]:
    for figure in figures:
        for media in figure["media"]:
            if media["role"] == "figure" and media["href"]:
                yield figure, media["href"]


def _row(package: Package, file: Found, name: str, article: str, role: str) -> Row:
    with open(file.path, "rb") as opened:
        md5 = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return {
        "name": name, "article": article, "role": role, "url": f"{package.archive}#{file.name}", "md5": md5,
        "size": file.size, "retrieved_at": package.retrieved_at, "outcome": "kept", "digest": "", "etag": "",
        "reason": "", "detail": "",
    }  # fmt: skip
