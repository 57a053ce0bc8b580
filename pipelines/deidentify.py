"""De-identify: a folder of DICOM objects into a folder whose names, headers and references tell nobody.

Each object is read, changed, written and verified in the guarded child, under a secret made from the project's; the
output stands whole or not at all. What of the original became which token is written nowhere, unless `links` asks.
"""

import csv
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from medloom.connectors import deid_file, deid_table, settings
from medloom.connectors.deid_file import CleanPixels, Task, Written
from medloom.connectors.deid_known import Known
from medloom.connectors.deid_rules import Profile, profile
from medloom.connectors.deid_score import Card
from medloom.connectors.guard import Guard, GuardBug
from medloom.connectors.ocr import engine
from medloom.pipelines.csv_guard import guarded
from medloom.pipelines.new_folder import new_folder
from medloom.pipelines.sources.listing import list_objects
from medloom.pipelines.sources.local import local_copy
from medloom.schemas.errors import BugError, ConfigError, Refused, RetryLater
from medloom.schemas.keys import Identity

log = logging.getLogger(__name__)

SURVEY_TIMEOUT_S, TIMEOUT_S = 60.0, 300.0
TOLD_EVERY = 100  # objects per line of progress
NOTE = "This is de-identification by rules and a search for known values; it is no proof of anonymity."
LINK_COLUMNS = ("original", "original_uid", "file", "token", "reason")


class Tell(Protocol):
    """Who is told of progress (`progress.Bars`)."""

    def begin(self, what: str, pieces: int) -> None:
        """Work of so many pieces starts."""

    def piece(self, line: str) -> None:
        """One piece is done."""


@dataclass(frozen=True)
class Asked:
    """What a run was asked for.

    Attributes:
        source: folder or file.
        to: new or empty folder.
        profile: how to de-identify.
        pixels: "quarantine" refuses pixels that may show text, "keep" lets them through.
        links: file for the private links between originals and tokens, "" for none.
        clean_pixels: removes text from pixels (see `deid_file.Task`), None where nobody can.
    """

    source: str
    to: str
    profile: Profile
    pixels: str = "quarantine"
    links: str = ""
    clean_pixels: CleanPixels | None = None


@dataclass
class Outcome:
    """What became of all objects; nothing here names anybody.

    Attributes:
        taken: objects found; each is one of `written` and `refused`.
        refused: (token of the object, reason, detail).
        actions: how often each action was carried out, over all objects.
        card: the scorecard.
    """

    taken: int = 0
    written: int = 0
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    card: Card = field(default_factory=Card)


@dataclass(frozen=True)
class _Object:
    """An object of the source: where it is, and by what it is told of."""

    root: str = field(repr=False)
    url: str = field(repr=False)
    etag: str = field(repr=False)
    token: str


MASK = "mask"  # a word for --pixels: what may show text is covered, and quarantined where that cannot be done


def asked(
    source: str, to: str, *, profile_name: str, pixels: str, links: str = "", clean_pixels: CleanPixels | None = None
) -> Asked:
    """Return what a command's words ask for.

    Raises:
        ConfigError: an unknown profile or word; source, output and links that lie inside one another.
    """
    found = profile(profile_name)
    if pixels not in (*deid_file.PIXELS, MASK):
        raise ConfigError(f"--pixels {pixels} is none of {', '.join((*deid_file.PIXELS, MASK))}")
    if pixels == MASK:
        from medloom.pipelines.deid_masking import mask_text

        engine()  # here, where a missing library can be said, and not in each child
        pixels, clean_pixels = "quarantine", mask_text
    if not os.path.exists(source):
        raise ConfigError(f"cannot read {source}: no such file or folder")
    real_source, real_to = os.path.realpath(source), os.path.realpath(to)
    if _is_within(real_to, real_source) or _is_within(real_source, real_to):
        raise ConfigError(f"{to} and {source} lie inside one another; give another folder for the output")
    if links and _is_within(os.path.realpath(links), real_to):
        raise ConfigError(f"--links {links} lies inside {to}, which would hand the originals on with the output")
    return Asked(source, to, found, pixels, links, clean_pixels)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def run(what: Asked, tell: Tell) -> dict[str, Any]:
    """De-identify every object below the source, and return the report.

    Raises:
        ConfigError: `MEDLOOM_IDENTITY_KEY` is missing, the output is not empty, the file of links exists, or the
            package that carries the table is missing.
        SourceError: the source holds no file.
    """
    master = Identity(settings.identity_secret())
    secret = hashlib.sha256(f"deidentify {master.number('secret', 'deidentify', bits=256):x}".encode()).digest()
    identity = Identity(secret)  # the child reads hostile files, and never sees the project's own secret
    edition = deid_table.load().edition
    outcome = Outcome()
    with new_folder(what.to) as target, _links(what.links) as links, Guard() as guard:
        objects = list(_objects(what.source, identity))
        outcome.taken = len(objects)
        known, studies = _survey(objects, guard, outcome, links, tell)
        tell.begin("deidentify", -(-len(studies) // TOLD_EVERY))
        for number, (object_, study) in enumerate(studies, 1):
            task = Task(
                path="", folder=target.root, identity=identity, profile=what.profile, known=known[study],
                pixels=what.pixels, clean_pixels=what.clean_pixels,
            )  # fmt: skip
            _convert(object_, task, guard, outcome, links)
            if number % TOLD_EVERY == 0 or number == len(studies):
                tell.piece(f"{outcome.written} written, {len(outcome.refused)} refused")
    assert outcome.taken == outcome.written + len(outcome.refused)
    return _report(what, outcome, edition=edition, key_id=master.key_id)


def _objects(source: str, identity: Identity) -> Iterator[_Object]:
    if os.path.isdir(source):
        for row in list_objects(source).to_pylist():
            yield _Object(source, row["url"], row["etag"], identity.token("file", row["url"]))
        return
    folder, name = os.path.split(os.path.abspath(source))
    yield _Object(folder, name, "", identity.token("file", name))


def _survey(
    objects: list[_Object], guard: Guard, outcome: Outcome, links: "_Links", tell: Tell
) -> tuple[dict[str, Known], list[tuple[_Object, str]]]:
    """Return what identifies each study, over all its objects, and which object belongs to which."""
    known: dict[str, Known] = {}
    studies: list[tuple[_Object, str]] = []
    tell.begin("survey", -(-len(objects) // TOLD_EVERY))
    for number, object_ in enumerate(objects, 1):
        try:
            with local_copy(object_.root, object_.url, etag=object_.etag) as path:
                found = guard.call(deid_file.survey, path, timeout_s=SURVEY_TIMEOUT_S)
        except Refused as refused:
            _refuse(object_, refused, outcome, links)
        except GuardBug as fault:
            raise _bug(object_, fault) from fault
        else:
            # UIDs stay with their own object: a study of ten thousand would repeat them ten thousand times.
            theirs = Known(found.known.names, found.known.phrases, found.known.days)
            known[found.study] = known.get(found.study, Known()) | theirs
            studies.append((object_, found.study))
        if number % TOLD_EVERY == 0 or number == len(objects):
            tell.piece(f"{len(studies)} DICOM objects of {len(known)} studies")
    return known, studies


def _convert(object_: _Object, task: Task, guard: Guard, outcome: Outcome, links: "_Links") -> None:
    try:
        with local_copy(object_.root, object_.url, etag=object_.etag) as path:
            written: Written = guard.call(deid_file.convert, replace(task, path=path), timeout_s=TIMEOUT_S)
    except Refused as refused:
        if refused.reason == deid_file.DISK:
            raise RetryLater(f"cannot write the output: {refused.detail}; mend the disk, and run it again") from refused
        outcome.card.required["pixels_hidden"] += refused.reason == "deid.pixels"
        outcome.card.right["pixels_hidden"] += refused.reason == "deid.pixels"
        _refuse(object_, refused, outcome, links)
        return
    except GuardBug as fault:
        raise _bug(object_, fault) from fault
    outcome.written += 1
    outcome.actions += written.actions
    outcome.card.add(written.card)
    links.add(object_.url, written.original_uid, written.file, object_.token, "")


def _refuse(object_: _Object, refused: Refused, outcome: Outcome, links: "_Links") -> None:
    outcome.refused.append((object_.token, refused.reason, refused.detail))
    links.add(object_.url, "", "", object_.token, refused.reason)


def _bug(object_: _Object, fault: GuardBug) -> BugError:
    last = " | ".join(line.strip() for line in str(fault).strip().splitlines()[-3:])
    return BugError(f"de-identifying object {object_.token} failed by a bug: {last}")


class _Links:
    """The private file that says which original became which token; without a file, nothing is kept."""

    def __init__(self, file: TextIO | None):
        self._rows = csv.writer(file) if file else None
        if self._rows:
            self._rows.writerow(LINK_COLUMNS)

    def add(self, *values: str) -> None:
        if self._rows:
            self._rows.writerow([guarded(value) for value in values])


@contextmanager
def _links(path: str) -> Iterator[_Links]:
    """Open a new file of links that only its owner may read; it is deleted when the run fails.

    Raises:
        ConfigError: there is a file of that name, or it cannot be made.
    """
    if not path:
        yield _Links(None)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as fault:
        why = "it exists already" if isinstance(fault, FileExistsError) else (fault.strerror or "").lower()
        raise ConfigError(f"cannot write --links {path}: {why}; give the name of a new file") from fault
    try:
        with open(descriptor, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield _Links(file)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def _report(what: Asked, outcome: Outcome, *, edition: str, key_id: str) -> dict[str, Any]:
    """Return the facts that the command prints."""
    reasons = Counter(reason for _, reason, _ in outcome.refused)
    return {
        "to": what.to,
        "profile": what.profile.name,
        "codes": [code for code, _ in what.profile.codes],
        "table": f"PS3.15 E.1-1, {edition}",
        "key_id": key_id,
        "objects": {"in": outcome.taken, "out": outcome.written, "refused": len(outcome.refused)},
        "reasons": dict(sorted(reasons.items())),
        "refused": [{"object": t, "reason": r, "detail": d} for t, r, d in sorted(outcome.refused)],
        "actions": dict(sorted(outcome.actions.items())),
        "scorecard": outcome.card.rows(),
        "note": NOTE,
    }
