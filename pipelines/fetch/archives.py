"""Archives: packages and volumes of the retired PMC layout, and zips of figures, from a folder or a mirror.

An archive is read once: the catalog knows it by its URL, size and change mark. Its packing is verified first, so that a
damaged download leaves nothing; then its members are unpacked, article by article, into a temporary folder, under
names of our own.
"""

import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medloom.connectors import archives
from medloom.connectors.archives import Kind, Limits, Member, kind_of
from medloom.connectors.guard import Guard
from medloom.connectors.http import Http
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.archive_article import ENDINGS, Found, Package, Unpacker
from medloom.pipelines.fetch.archive_lists import Lists
from medloom.pipelines.fetch.job import FetchDone, Ledger, Taken
from medloom.pipelines.fetch.recent import Recent
from medloom.pipelines.recipe import Location
from medloom.pipelines.sources.listing import list_objects, place_of
from medloom.schemas.errors import Refused, RetryLater, SourceError
from medloom.schemas.keys import canonical_json
from medloom.schemas.raw import RawZone
from medloom.schemas.store import mendable

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

WHAT = "fetch archives"
RECORDS = "archives"  # the `article` of the rows that say what became of whole archives
GROUP = 100  # articles whose rows of the catalog are looked up at once
REFUSALS_NAMED = 1000  # refused members of one archive that get a row of their own; the rest is counted
LIMITS = Limits()
_PMCID = re.compile(r"(?i)^PMC[1-9]\d{0,11}(?:\.\d{1,3})?(?![0-9a-z])")
Row = dict[str, Any]


@dataclass(frozen=True)
class Archives:
    """Articles and the figures they show out of tar.gz packages and volumes, and zips, under a folder or URL.

    Attributes:
        source: folder by path or fsspec URL: `*.tar.gz`, `*.tgz`, `*.tar`, `*.zip` anywhere in it; the lists beside
            them (`oa_file_list.csv`, `NAME.filelist.csv`) say licences and retractions.
        tiers: licences that may be taken: open (CC0, BY, BY-SA), nc, nd, other.
        refresh: read known archives again.
    """

    source: Location
    tiers: tuple[str, ...] = gates.DEFAULT_TIERS
    refresh: bool = False

    def __post_init__(self) -> None:
        gates.check_tiers(self.tiers)

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep in `raw` what the archives hold and the gates let pass.

        Raises:
            SourceError: there is no archive under `source`, or a list there is none.
        """
        objects = list_objects(self.source).to_pylist()
        # Zips hold pictures alone, mostly, whose articles must be known first.
        found = sorted((o for o in objects if kind_of(o["url"])), key=lambda o: (kind_of(o["url"]) == "zip", o["url"]))
        if not found:
            raise SourceError(f"{self.source} holds no archive: no file is named *.tar.gz, *.tgz, *.tar or *.zip")
        packages = {_token(o["url"]).partition(".")[0] for o in found}
        lists = Lists(self.source, [o["url"] for o in objects], packages if "" not in packages else None)
        known = {row["name"]: row for row in raw.rows([RECORDS]).to_pylist()}
        ledger, before = Ledger(raw), http.requests
        told.begin(WHAT, len(found))
        with Guard() as guard:
            run = _Run(self, lists, Unpacker(raw, guard, self.tiers), ledger, Recent(raw))
            for start in range(0, len(found), GROUP):
                some = [_Archive(run, row) for row in found[start : start + GROUP]]
                unread = [archive for archive in some if not archive.is_known(known)]
                run.recent.look_up([_token(archive.row["url"]).partition(".")[0] for archive in unread])
                for archive in some:
                    told.piece(f"{archive.row['url']}: {archive.settle(known) or archive.take()}")
        told.end()
        return ledger.done(http, requests_before=before)


@dataclass(frozen=True)
class _Run:
    """What the archives of a run share."""

    how: Archives
    lists: Lists
    unpacker: Unpacker
    ledger: Ledger
    recent: Recent

    def add(self, taken: Taken) -> None:
        """Enter what something came to."""
        self.ledger.add(taken)
        if self.recent.add(taken.rows):
            self.ledger.flush()
            self.recent.appended()


@dataclass
class _Archive:
    """One archive on its way into the raw zone."""

    run: _Run
    row: Row
    total: Taken = field(default_factory=Taken)
    waiting: list[Package] = field(default_factory=list)
    is_settled: bool = True

    @property
    def name(self) -> str:
        """Its name in the catalog."""
        return f"{RECORDS}/{self.row['url']}"

    @property
    def url(self) -> str:
        """Its full URL."""
        return f"{self.run.how.source.rstrip('/')}/{self.row['url']}"

    @property
    def mark(self) -> str:
        """What changes when the archive does, or what is asked of it."""
        state = self.row["etag"] or self.row["mtime_ns"]
        return f"{self.row['size']}-{state}-{','.join(sorted(self.run.how.tiers))}"

    def is_known(self, known: dict[str, Row]) -> bool:
        """Whether the catalog says what it came to, and it has not changed since."""
        row = known.get(self.name)
        return row is not None and row["etag"] == self.mark and not self.run.how.refresh

    def settle(self, known: dict[str, Row]) -> str:
        """Enter what the catalog says of it; "" when it must be read."""
        if not self.is_known(known):
            return ""
        row = known[self.name]
        if row["outcome"] == "refused":
            taken = Taken(asked=1)
            taken.refuse(row["reason"])
        else:
            said = json.loads(self.run.ledger.raw.read(row["digest"]))
            taken = Taken(asked=said["kept"] + said["refused"], known=said["kept"], refused=said["refused"])
            taken.reasons.update(said["reasons"])
        self.run.add(taken)
        return f"{taken.known} known, {taken.refused} refused"

    def take(self) -> str:
        """Read the archive into the raw zone."""
        kind = kind_of(self.row["url"])
        assert kind is not None
        fs, full = place_of(self.run.how.source, self.row["url"])
        with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
            try:
                with fs.open(full, "rb") as file:
                    archives.check(file, kind, LIMITS)
                    self._unpack(file, kind, Path(folder))
                self._record()
            except OSError as fault:
                why = RetryLater(f"cannot read {self.row['url']} ({type(fault).__name__})")
                self.run.add(Taken(later=why))
                return str(why)
            except Refused as refused:
                self._take_waiting()
                self._refuse(refused)
        return f"{self.total.kept} kept, {self.total.known} known, {self.total.refused} refused"

    def _unpack(self, file: IO[bytes], kind: Kind, folder: Path) -> None:
        for package in self._packages(archives.members(file, kind, LIMITS), folder):
            self.waiting.append(package)
            if len(self.waiting) == GROUP:
                self._take_waiting()
        self._take_waiting()

    def _packages(self, members: Iterator[Member], folder: Path) -> Iterator[Package]:
        """Give the members as packages, each with what comes together in the archive."""
        at, ended = _now(), set[str]()
        package: Package | None = None
        for member in members:
            found, token = self._found(member, folder / uuid.uuid4().hex), self._token_of(member.name)
            if found is None:
                continue
            if package is not None and not package.goes_on(token, found):
                ended.add(package.token)
                whole, package = package, None
                yield whole
            if token and token in ended:
                found.path.unlink()
                self._refuse_member(member, Refused("archive.order", "its article ended before, in this archive"))
                continue
            package = package or Package(token, self.url, at)
            package.files.append(found)
        if package is not None:
            yield package

    def _token_of(self, member: str) -> str:
        """Return "PMC13900" or "PMC11370360.1" for a member: by its folder, its own name or the archive's; else ""."""
        *folders, name = re.split(r"[/\\]", member)
        return next(filter(None, map(_token, [*reversed(folders), name, self.row["url"]])), "")

    def _found(self, member: Member, path: Path) -> Found | None:
        """Return a member unpacked to `path`, None for one that is refused or that nobody asks for."""
        if member.refused is None and member.name.rpartition(".")[2].lower() not in ENDINGS:
            return None
        try:
            if member.refused is not None:
                raise member.refused
            member.save(path)
        except Refused as refused:
            path.unlink(missing_ok=True)
            if member.refused is None and kind_of(self.row["url"]) != "zip":
                raise  # what follows in a tar cannot be trusted
            self._refuse_member(member, refused)
            return None
        except OSError as fault:
            raise mendable(fault, str(path.parent)) from fault
        return Found(member.name, path, member.size)

    def _take_waiting(self) -> None:
        """Take the packages that wait, through the gates, and delete what was unpacked of them."""
        packages, self.waiting = self.waiting, []
        known = self.run.recent.of([package.pmcid for package in packages])
        listed = self.run.lists.of(self.row["url"])
        for package in packages:
            try:
                taken = self.run.unpacker.take(package, known[package.pmcid], listed.get(package.pmcid))
            finally:
                package.clear()
            self.is_settled &= "article.unknown" not in taken.reasons
            self._add(taken)

    def _add(self, taken: Taken) -> None:
        for name in ("asked", "kept", "known", "refused"):
            setattr(self.total, name, getattr(self.total, name) + getattr(taken, name))
        self.total.reasons += taken.reasons
        self.run.add(taken)

    def _refuse_member(self, member: Member, refused: Refused) -> None:
        taken = Taken(asked=1)
        row = self._row(f"{self.name}#{member.name[:300]}", refused) | {"article": "", "size": 0, "etag": ""}
        taken.refuse(refused.reason, row if self.total.refused < REFUSALS_NAMED else None)
        self._add(taken)

    def _refuse(self, refused: Refused) -> None:
        """Refuse the archive as a whole; of what it had before that, whole articles stay."""
        taken = Taken(asked=1)
        taken.refuse(refused.reason, self._row(self.name, refused))
        self._add(taken)

    def _record(self) -> None:
        """Enter that the archive was read, unless something in it must be asked for again."""
        if not self.is_settled:
            return
        total = self.total
        said = {
            "archive": self.url, "kept": total.kept + total.known, "reasons": dict(sorted(total.reasons.items())),
            "refused": total.refused,
        }  # fmt: skip
        data = (canonical_json(said) + "\n").encode()
        digest, size = self.run.ledger.raw.put(data)
        row = self._row(self.name, None) | {"digest": digest, "size": size, "outcome": "kept"}
        self.run.add(Taken(rows=[row | {"md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}]))

    def _row(self, name: str, refused: Refused | None) -> Row:
        return {
            "name": name, "article": RECORDS, "role": "record", "url": self.url, "size": 0, "etag": self.mark,
            "outcome": "refused", "reason": refused.reason if refused else "",
            "detail": refused.detail if refused else "", "digest": "", "md5": "",
            "retrieved_at": _now(),
        }  # fmt: skip


def _token(name: str) -> str:
    """Return the PMCID, with its version where stated, that the last part of a name starts with; "" for none."""
    found = _PMCID.match(name.rpartition("/")[2])
    return found[0].upper() if found else ""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
