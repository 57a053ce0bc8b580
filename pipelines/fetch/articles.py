"""Articles of services that give XML alone: from what was received to rows of a raw zone, through the gates.

What the catalog decides is not asked again. An XML whose licence is of no tier asked for is held all the same, so that
other tiers can be asked for later; everything else that is refused leaves no bytes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medloom.connectors import envelopes
from medloom.connectors.envelopes import Received, parse_envelope
from medloom.connectors.jats_front import Front, is_retracted
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.job import Taken
from medloom.schemas.errors import Refused
from medloom.schemas.raw import RawZone

VERSIONS = 32  # of an article, that are looked for in the catalog; the most seen are below ten
FAULTS = ("http.", "article.not_given")  # refusals that a service may be at fault for: asked again on demand
Row = dict[str, Any]
Known = Mapping[str, Row]


def known_rows(raw: RawZone, pmcids: Sequence[str]) -> dict[str, dict[str, Row]]:
    """Return the catalog's rows of articles, in all their versions, by PMCID and name."""
    known: dict[str, dict[str, Row]] = {pmcid: {} for pmcid in pmcids}
    names = [name for pmcid in known for name in (pmcid, *(f"{pmcid}.{v}" for v in range(1, VERSIONS + 1)))]
    for row in raw.rows(names).to_pylist():
        known[row["article"].partition(".")[0]][row["name"]] = row
    return known


def article_row(known: Known) -> Row | None:
    """Return the row that says what became of an article, None when none does.

    That is the newest version kept; else what was taken back for what the article says of itself; else the last
    refusal. What a service took back may have come back since.
    """
    rows = [row for row in known.values() if row["role"] == "article"]
    kept = [row for row in rows if row["outcome"] == "kept"]
    ended = [row for row in rows if row["outcome"] == "withdrawn" and row["reason"].startswith("article.")]
    refused = [row for row in rows if row["outcome"] == "refused"]
    for some in (kept, ended, refused):
        if some:
            return max(some, key=lambda row: (version_of(row["article"]), row["retrieved_at"]))
    return None


def version_of(article: str) -> int:
    """Return the version in "PMC11370360.1", 0 when there is none."""
    version = article.partition(".")[2]
    return int(version) if version.isdigit() else 0


@dataclass(frozen=True)
class Taker:
    """Takes articles into a raw zone.

    Attributes:
        tiers: of licences that may be fetched.
        refresh: ask again for what a service failed to give.
    """

    raw: RawZone
    tiers: tuple[str, ...]
    refresh: bool = False

    def settled(self, known: Known) -> Taken | None:
        """Return what the catalog says of an article, None when the service must be asked."""
        row = article_row(known)
        if row is None or (self.refresh and row["reason"].startswith(FAULTS)):
            return None
        taken = Taken(asked=1)
        if row["outcome"] == "kept":
            taken.known += 1
        elif row["reason"] == "terms.tier" and row["digest"]:
            self._decide_again(taken, row)
        elif row["reason"] == "terms.tier":
            return None
        else:
            taken.refuse(row["reason"])
        return taken

    def _decide_again(self, taken: Taken, row: Row) -> None:
        """Hold an XML that the zone has, and that other tiers refused, against the tiers asked for now."""
        front = front_of(self.raw.read(row["digest"]))
        try:
            hold(front, licence_code=None, tiers=self.tiers)
        except Refused as refused:
            taken.refuse(refused.reason)
        else:
            taken.keep(row | {"outcome": "kept", "reason": "", "detail": ""})

    def take(self, received: Received, known: Known, *, etag: str = "", licence_code: str | None = None) -> Taken:
        """Return what a received article comes to; its bytes are in the raw zone when this returns, its rows are not.

        Args:
            etag: how the service marks this state of the article.
            licence_code: what the service's record says, None when it says nothing.
        """
        taken = Taken(asked=1)
        if received.refused is not None:
            self._refuse(taken, received, received.refused, known, etag)
            return taken
        newest = max((version_of(row["article"]) for row in kept_rows(known)), default=0)
        if newest > received.version:  # a service may not have the newest version yet, or not state which it gives
            taken.known += 1
            return taken
        assert received.front is not None
        try:
            hold(received.front, licence_code=licence_code, tiers=self.tiers)
        except Refused as refused:
            self._refuse(taken, received, refused, known, etag)
            return taken
        digest, size = self.raw.put(received.content)
        taken.keep(_row(received, etag) | {"digest": digest, "size": size, "outcome": "kept"})
        detail = f"{received.article} is the version that counts"
        older = [row for row in kept_rows(known) if version_of(row["article"]) < received.version]
        take_back(taken, older, outcome="superseded", reason="pmc.version", detail=detail)
        return taken

    def _refuse(self, taken: Taken, received: Received, refused: Refused, known: Known, etag: str) -> None:
        """Refuse an article; what was kept of it is taken back when the article itself says why, and else stays."""
        held = kept_rows(known)
        if received.content and held:
            taken.refuse(refused.reason)
            rows = [row | {"etag": etag} for row in held]
            take_back(taken, rows, outcome="withdrawn", reason=refused.reason, detail=refused.detail)
            return
        row = _row(received, etag) | {"outcome": "refused", "reason": refused.reason, "detail": refused.detail}
        if refused.reason == "terms.tier" and received.content:
            row["digest"], row["size"] = self.raw.put(received.content)
        taken.refuse(refused.reason, row)


def hold(front: Front, *, licence_code: str | None, tiers: Iterable[str]) -> str:
    """Hold an article's front matter against the gates; return the terms that hold for it.

    Raises:
        Refused: as `medloom.pipelines.fetch.gates.must_be_readable` does.
    """
    article = {"is_retracted": is_retracted(front), "terms_id": front.licence.terms_id}
    return gates.must_be_readable(article, licence_code=licence_code, tiers=tiers)


def front_of(content: bytes) -> Front:
    """Return the front matter of an article's XML that was kept, and so was parsed before."""
    return envelopes.front_of(parse_envelope(content))


def kept_rows(known: Known) -> list[Row]:
    """Return the rows of what is kept of an article, its record apart."""
    return [row for row in known.values() if row["outcome"] == "kept" and row["role"] in ("article", "media")]


def take_back(taken: Taken, rows: Iterable[Row], *, outcome: str, reason: str, detail: str) -> None:
    """Enter that objects kept before count no more."""
    for row in rows:
        taken.take_back(row, outcome=outcome, reason=reason, detail=detail)


def name_of(pmcid: str, version: int) -> str:
    """Return the catalog's name of an article's XML; of one that was never seen, no version is known."""
    article = f"{pmcid}.{version}" if version else pmcid
    return f"{article}/{article}.xml"


def _row(received: Received, etag: str) -> Row:
    name = name_of(received.pmcid, received.version)
    md5 = hashlib.md5(received.content, usedforsecurity=False).hexdigest() if received.content else ""
    return {
        "name": name, "article": name.partition("/")[0], "role": "article", "url": received.url, "digest": "",
        "md5": md5, "size": 0, "etag": etag, "retrieved_at": received.retrieved_at, "outcome": "", "reason": "",
        "detail": "",
    }  # fmt: skip
