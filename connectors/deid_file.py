"""One file de-identified: read, changed, written beside its place, verified from the disk, and only then put there.

The functions here run in the guarded child: what they read may be hostile, and what they return names nobody but for
`Surveyed`, which stays in memory.
"""

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medloom.connectors import deid_engine, deid_pixels, deid_score, deid_types, deid_verify
from medloom.connectors.deid_known import Known, collect
from medloom.connectors.deid_rules import Profile
from medloom.connectors.deid_score import Card
from medloom.connectors.dicom_headers import BROKEN, quiet, word
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_BROKEN = (*BROKEN, zlib.error)  # a deflated data set may be cut off
_DIRECTORY = "1.2.840.10008.1.3.10"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DISK = "deid.disk"  # the reason of a refusal that is no fault of the object
PIXELS = ("quarantine", "keep")

CleanPixels = Callable[["Dataset"], bool]


@dataclass(frozen=True)
class Surveyed:
    """What a look at an object's header tells: its study, and what identifies it. For memory only."""

    study: str = field(repr=False)
    known: Known = field(repr=False)


@dataclass(frozen=True)
class Task:
    """One object to de-identify.

    Attributes:
        path: the file to read.
        folder: where to write `<token of series>/<token of object>.dcm`.
        known: what identifies its study.
        pixels: "quarantine" refuses pixels that may show text, "keep" lets them through.
        clean_pixels: removes the text in an object's pixels, and says whether none is left; named at the top of a
            module, so that the child can import it.
    """

    path: str = field(repr=False)
    folder: str
    identity: Identity
    profile: Profile
    known: Known = field(repr=False)
    pixels: str = "quarantine"
    clean_pixels: CleanPixels | None = None


@dataclass(frozen=True)
class Written:
    """One object as written.

    Attributes:
        file: path below the folder.
        actions: how often each action was carried out.
        card: its scorecard.
        original_uid: of the object, for a private file of links.
    """

    file: str
    actions: Counter[str]
    card: Card = field(repr=False)
    original_uid: str = field(repr=False)


def survey(path: str) -> Surveyed:
    """Return what the header of an object states of its study.

    Raises:
        Refused("dicom.not_dicom"), ("deid.header"), ("deid.truncated"), ("deid.depth"), ("deid.directory").
    """
    dataset = read(path, pixels=False)
    with quiet():
        return Surveyed(deid_engine.study_of(dataset), collect(dataset))


def read(path: str, *, pixels: bool = True) -> "Dataset":
    """Return a whole data set, its elements still as read, with a transfer syntax even if the file states none.

    SOP class and SOP instance UID come from the file meta information where the data set leaves them empty.

    Raises:
        Refused("dicom.not_dicom"): the file does not start like a DICOM object.
        Refused("deid.directory"): it is a DICOMDIR, whose records repeat what its files hold.
        Refused("deid.header"): it cannot be read.
        Refused("deid.truncated"): it ends inside an element.
    """
    import pydicom

    with open(path, "rb") as file, quiet():
        if sniff(file.read(HEAD_BYTES)) != "dicom":
            raise Refused("dicom.not_dicom", "the file does not start like a DICOM object")
        file.seek(0)
        try:
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
            tags = list(dataset.keys())
            raws = [dataset.get_item(tag) for tag in tags]
            media_class = word(dataset.file_meta, "MediaStorageSOPClassUID")
            _state_syntax(dataset)
            _state_names(dataset)
        except _BROKEN as error:
            raise Refused("deid.header", f"the data set cannot be read ({type(error).__name__})") from error
        if _DIRECTORY in (media_class, word(dataset, "SOPClassUID")):
            raise Refused("deid.directory", "it is a directory (DICOMDIR); make a new one of the output where needed")
    for raw in raws:
        length, value = getattr(raw, "length", 0xFFFFFFFF), getattr(raw, "value", None)
        if length != 0xFFFFFFFF and isinstance(value, bytes) and len(value) < length:
            raise Refused("deid.truncated", "the file ends inside an element")
    return dataset


def _state_syntax(dataset: "Dataset") -> None:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _state_names(dataset: "Dataset") -> None:
    """Give a data set that leaves its SOP class and UID empty those of its file meta information."""
    for keyword, stated in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        uid = word(dataset.file_meta, stated)
        if uid and not word(dataset, keyword):
            setattr(dataset, keyword, uid)


def convert(task: Task) -> Written:
    """De-identify one object into a file of its own, verified.

    Raises:
        Refused: as `read` and `deid_engine.deidentify`; and
            "deid.class": a private SOP class, of which no rule knows what it holds.
            "deid.document": its content cannot be cleaned by rules (a document, raw data, a surface of the body).
            "deid.no_pixels": an image without pixel data.
            "deid.pixels": its pixels may show text.
            "deid.duplicate": an object with its UID has been written.
            "deid.write": the result cannot be written as DICOM.
            "deid.disk": the output's disk is full or fails.
            "deid.leak": the result still told something of the original; it is deleted.
    """
    dataset = read(task.path)
    original_uid, is_cleaned, risk = _admit(dataset, task)
    pixels = _pixel_digest(dataset)
    file = _place(dataset, task.identity)
    target = Path(task.folder, file)
    if target.exists():
        raise Refused("deid.duplicate", "another object with its UID has been written; keep one of them")
    done = deid_engine.deidentify(
        dataset, identity=task.identity, profile=task.profile, known=task.known, pixels_cleaned=is_cleaned
    )
    partial = target.with_suffix(".partial")
    try:
        _write(dataset, partial)
        card = _verified(task, partial, pixels)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    if risk:
        card.count("pixels_hidden", is_cleaned)
    return Written(file, Counter(action for _, action in done.actions), card, original_uid)


def _admit(dataset: "Dataset", task: Task) -> tuple[str, bool, str]:
    """Return the object's UID, whether its pixels were cleaned, and why they may show text ("": nothing says so)."""
    with quiet():
        sop_class = word(dataset, "SOPClassUID")
        what = deid_pixels.document(sop_class)
        if what:
            raise Refused("deid.document", f"it is {what}, which no rule can clean")
        if sop_class and not sop_class.startswith("1.2.840.10008."):
            raise Refused("deid.class", "its SOP class is a maker's own, and nobody else knows what it holds")
        is_image = deid_types.has_pixels(sop_class) or word(dataset, "Rows") not in ("", "0")
        if is_image and not any(name in dataset for name in _PIXELS):
            raise Refused("deid.no_pixels", "it is an image and holds no pixel data; it may have been cut off")
        more = deid_pixels.carries_more(dataset)
        if more:
            raise Refused("deid.pixels", more)
        risk = deid_pixels.may_show_text(dataset)
        is_cleaned = bool(risk and task.pixels == "quarantine" and task.clean_pixels and task.clean_pixels(dataset))
        if risk and not is_cleaned and task.pixels == "quarantine":
            raise Refused("deid.pixels", risk)
        return word(dataset, "SOPInstanceUID"), is_cleaned, risk


def _place(dataset: "Dataset", identity: Identity) -> str:
    with quiet():
        instance = word(dataset, "SOPInstanceUID")
        series = word(dataset, "SeriesInstanceUID") or instance
    return f"{identity.token('series', series)}/{identity.token('object', instance)}.dcm"


def _write(dataset: "Dataset", path: Path) -> None:
    with quiet():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path, enforce_file_format=True)
        except OSError as error:
            raise Refused(DISK, error.strerror or "the disk failed") from error
        except _BROKEN as error:
            raise Refused("deid.write", f"the result cannot be written as DICOM ({type(error).__name__})") from error


def _verified(task: Task, path: Path, pixels: str) -> Card:
    """Return the card of a written file that tells nothing of the original."""
    original, output = read(task.path, pixels=False), read(str(path))
    with quiet():
        known = task.known | collect(original)
    found = deid_verify.leaks(path, output, original, known=known, profile=task.profile)
    if found:
        told = sorted({f"{leak.where} ({leak.kind})" for leak in found})
        raise Refused("deid.leak", f"the result still held something of the original in {', '.join(told[:8])}")
    card = deid_score.score(original, output, known=known, profile=task.profile)
    if pixels:
        is_same = _pixel_digest(output) == pixels
        if not is_same:
            raise Refused("deid.write", "its pixel data would not stay as they are")
        card.count("pixels_retained", is_same)
    return card


def _pixel_digest(dataset: "Dataset") -> str:
    """Return the sha256 of the pixel data as stored, "" when there are none."""
    digest = hashlib.sha256()
    found = False
    for name in _PIXELS:
        if name in dataset:
            value = _value(dataset, name)
            found = True
            digest.update(value)
            digest.update(b"\0" * (len(value) % 2))  # an odd length is padded when it is written (PS3.5, 7.1.1)
    return digest.hexdigest() if found else ""


def _value(dataset: "Dataset", keyword: str) -> bytes:
    with quiet():
        try:
            value = dataset[keyword].value
        except BROKEN as error:
            raise Refused("deid.header", f"{keyword} cannot be read ({type(error).__name__})") from error
    return value if isinstance(value, bytes) else b""
