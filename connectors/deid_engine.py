"""The de-identification engine: every attribute of an object, at every level, by the table, the profile and the IOD.

It changes the data set in place and rewrites its file meta information; pixel data stay as they are. The same object,
profile and secret give the same result, in any order and in any process, since every new value is a keyed hash of the
old one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medloom.connectors import deid_private, deid_rules, deid_table, deid_types, deid_values, deid_words
from medloom.connectors.deid_known import MAX_DEPTH, Known, collect, values_of
from medloom.connectors.deid_rules import Action, Place, Profile
from medloom.connectors.dicom_headers import BROKEN, IMAGE_TYPES, MODALITIES, PHOTOMETRIC, quiet, word
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

IMPLEMENTATION_UID = "2.25.143921603894217305180527709347716230517"  # ours, drawn once
IMPLEMENTATION = "MEDLOOM"
# What this engine writes itself; nothing of the original is in it.
OWN = frozenset({
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified", "BurnedInAnnotation",
})  # fmt: skip
SEARCHED = frozenset({"AE", "AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
# The VRs that a change can be made to; a file may give an attribute any other.
_KINDS = {
    "uid": {"UI"}, "shift": deid_rules.DATES, "age": {"AS"}, "token": deid_rules.WORDS_VRS,
    "clean": deid_rules.WORDS_VRS,
}  # fmt: skip
_SPEAKING = MODALITIES + PHOTOMETRIC


@dataclass(frozen=True)
class Done:
    """What was done to one object.

    Attributes:
        actions: (path of keywords and item numbers, action), in the order of the data set. Actions are those of
            `deid_rules.Action`, "scrub" for a text that repeated an identifier, "unreadable" for a broken element.
    """

    actions: tuple[tuple[str, str], ...]


@dataclass
class _Walk:
    """What one object's walk needs, and the actions so far."""

    asked: Profile
    identity: Identity
    sop_class: str
    patient: str
    known: Known
    days: int
    actions: list[tuple[str, str]] = field(default_factory=list)
    table: deid_table.Table = field(default_factory=deid_table.load)


def patient_of(dataset: "Dataset") -> str:
    """Return what stands for the patient in tokens and shifts: issuer and PatientID, else the study."""
    patient = word(dataset, "PatientID")
    return f"{word(dataset, 'IssuerOfPatientID')}\0{patient}" if patient else study_of(dataset)


def study_of(dataset: "Dataset") -> str:
    """Return what stands for the study: its UID, else that of the series or of the object."""
    found = (word(dataset, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    return next(filter(None, found), "")


def deidentify(
    dataset: "Dataset",
    *,
    identity: Identity,
    profile: Profile,
    known: Known | None = None,
    pixels_cleaned: bool = False,
) -> Done:
    """De-identify an object in place and return what was done.

    Args:
        identity: makes the tokens, UIDs and the shift of dates.
        known: what identifies its study, when other objects of it state more than this one.
        pixels_cleaned: whether the caller has removed the text in its pixels; only then BurnedInAnnotation is NO.

    Raises:
        Refused("deid.header"): it lacks the UIDs that name it, or its data set cannot be read.
        Refused("deid.depth"): its sequences are nested too deeply.
        ConfigError: the package that carries the table is missing.
    """
    with quiet():
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            if not word(dataset, keyword):
                raise Refused("deid.header", f"{keyword} is missing, without which it is no object of a kind")
        patient = patient_of(dataset)
        walk = _Walk(
            asked=profile,
            identity=identity,
            sop_class=word(dataset, "SOPClassUID"),
            patient=patient,
            known=collect(dataset) | (known or Known()),
            days=deid_values.shift_days(patient, identity),
        )
        _walk(walk, dataset, path="", around="", depth=0, in_content=False)
        _stamp(dataset, walk, pixels_cleaned=pixels_cleaned)
        _rewrite_meta(dataset)
    return Done(tuple(walk.actions))


def _walk(walk: _Walk, dataset: "Dataset", *, path: str, around: str, depth: int, in_content: bool) -> None:
    """De-identify one data set: an object, or an item of the sequence `around`."""
    if depth > MAX_DEPTH:
        raise Refused("deid.depth", f"its sequences are nested deeper than {MAX_DEPTH} levels")
    _drop_private(walk, dataset, path)
    for tag in list(dataset.keys()):
        if tag.is_private:
            continue
        try:
            element = dataset[tag]
        except BROKEN:
            del dataset[tag]
            walk.actions.append((f"{path}{tag}", "unreadable"))
            continue
        where = f"{path}{element.keyword or tag}"
        place = place_of(element, walk.sop_class, around, in_content=in_content)
        action: str = deid_rules.choose(place, walk.table, walk.asked)
        if element.VR == "SQ" and action in ("walk", "dummy"):
            _walk_items(walk, element, action, where=where, depth=depth, in_content=in_content)
        else:
            action = _apply(walk, dataset, element, place, action)
        walk.actions.append((where, action))


def _walk_items(walk: _Walk, element: "DataElement", action: str, *, where: str, depth: int, in_content: bool) -> None:
    """De-identify the items of a sequence; of a dummy, one item stays whose values say nothing."""
    items = element.value or []
    if action == "dummy":
        del items[1:]
    inside = in_content or element.keyword in deid_rules.CONTENT_SEQUENCES
    for index, item in enumerate(items):
        _walk(walk, item, path=f"{where}[{index}].", around=element.keyword, depth=depth + 1, in_content=inside)
        if action == "dummy":
            _blank(item)


def _blank(item: "Dataset") -> None:
    """Leave nothing in an item but its shape and its new UIDs."""
    for element in item:
        if element.VR == "SQ":
            for inner in element.value or []:
                _blank(inner)
        elif element.VR != "UI":
            _take_away(item, element, "dummy")


def place_of(element: "DataElement", sop_class: str, around: str, *, in_content: bool) -> Place:
    """Return what decides over an element inside the sequence `around`, "" at top level."""
    keyword = element.keyword
    return Place(int(element.tag), keyword, element.VR, deid_types.type_of(sop_class, around, keyword), in_content)


def _apply(walk: _Walk, dataset: "Dataset", element: "DataElement", place: Place, action: str) -> str:
    """Carry out an action on one element, and return the one that was: a value that cannot be mended is taken away."""
    change = _CHANGES.get(action)
    if action == "walk" or (change and element.VR not in _KINDS[action]):
        action, change = "remove", None  # it is not of the kind that its tag has in the standard
    if action == "keep":
        if not holds_known(element, walk.known):
            return "keep"
        _take_away(dataset, element, deid_rules.by_type(place.type))
        return "scrub"
    if change is None:
        _take_away(dataset, element, action)
        return action
    try:
        values = [new for old in values_of(element) if (new := change(walk, element, old)) != ""]
    except ValueError:
        values = []
    if values:
        element.value = values if len(values) > 1 else values[0]
        return action
    in_table = action in ("clean", "age") and walk.table.code(place.tag)
    left = deid_rules.choose(place, walk.table, _BASIC) if in_table else deid_rules.by_type(place.type)
    _take_away(dataset, element, left)
    return left


_BASIC = deid_rules.profile("basic")
_CHANGES: dict[str, Callable[[_Walk, "DataElement", Any], str]] = {
    "uid": lambda walk, element, old: deid_values.new_uid(str(old).strip(" \0"), walk.identity),
    "token": lambda walk, element, old: _token(walk, element.keyword, str(old)),
    "shift": lambda walk, element, old: deid_values.shifted(element.VR, str(old), walk.days),
    "age": lambda walk, element, old: deid_values.capped_age(str(old)),
    "clean": lambda walk, element, old: deid_words.clean(str(old), names_someone=walk.known.names_someone),
}


def _token(walk: _Walk, keyword: str, old: str) -> str:
    """Return the token of an identifier, "" for an empty one; a patient's stands for issuer and id."""
    text = old.strip(" \0")
    if not text:
        return ""
    return walk.identity.token(deid_rules.TOKENS[keyword], walk.patient if keyword == "PatientID" else text)


def _take_away(dataset: "Dataset", element: "DataElement", how: Action | str) -> None:
    """Remove an element, empty it, or give it a value that says nothing."""
    if how == "remove":
        del dataset[element.tag]
    elif how == "empty" or not values_of(element):
        element.value = [] if element.VR == "SQ" else None
    else:
        element.value = deid_values.dummy(element.VR)


def holds_known(element: "DataElement", known: Known) -> str:
    """Return the kind of identifier that a text repeats, "" for none; a code out of known words tells of nobody."""
    if element.VR not in SEARCHED:
        return ""
    if element.VR in ("DS", "IS"):
        numbers = known.numbers
        return "identifier" if numbers and any(str(value).strip() in numbers for value in values_of(element)) else ""
    for value in values_of(element):
        text = str(value)
        if element.VR == "CS" and (text in _SPEAKING or text in IMAGE_TYPES or deid_words.is_plain(text)):
            continue
        if found := known.kind_in(text):
            return found
    return ""


def _drop_private(walk: _Walk, dataset: "Dataset", path: str) -> None:
    """Delete private elements; under the option, leave those on the safe list with their creators."""
    tags = list(dataset.keys())
    private = [tag for tag in tags if tag.is_private]
    if not private:
        return
    keeping = "retain-safe-private" in walk.asked.options
    kept = {tag for tag in private if keeping and _is_safe(dataset, tag)}
    kept |= {tag for tag in private if tag.is_private_creator and any(_creator_tag(k) == tag for k in kept)}
    for tag in private:
        if tag not in kept:
            del dataset[tag]
    dropped = len(private) - len(kept)
    walk.actions += [(f"{path}{tag}", "keep") for tag in sorted(kept)]
    if dropped:
        walk.actions.append((f"{path}private x{dropped}", "remove"))


def _creator_tag(tag: int) -> int:
    """Return the tag of the creator whose block a private element is in (PS3.5, 7.8.1)."""
    return (tag & 0xFFFF0000) | (tag >> 8 & 0xFF)


def _is_safe(dataset: "Dataset", tag: int) -> bool:
    """Whether a private element is on the safe list and holds what its place there promises."""
    creator = dataset.get(_creator_tag(tag))
    if tag & 0xFFFF < 0x1000 or creator is None:
        return False
    vr = deid_private.safe_vr(str(creator.value or ""), tag)
    raw = dataset.get_item(tag)
    data = raw.value if raw is not None else None
    if not vr:
        return False
    if isinstance(data, bytes):
        if not deid_private.is_plain(vr, data):
            return False
        return raw.VR in (None, "UN", vr)
    try:
        element = dataset[tag]
    except BROKEN:
        return False
    texts = "\\".join(map(str, values_of(element))).encode()
    return vr == element.VR and (vr not in ("CS", "DS", "IS") or deid_private.is_plain(vr, texts))


def _stamp(dataset: "Dataset", walk: _Walk, *, pixels_cleaned: bool) -> None:
    """Write into the object what was done to it (PS3.3 C.12.1.1.7.1; CID 7050)."""
    from pydicom.dataset import Dataset as New

    codes = sorted([*walk.asked.codes, *([deid_rules.PIXELS_CLEANED] if pixels_cleaned else [])])
    items = []
    for value, meaning in codes:
        item = New()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"MedLoom {walk.asked.name}, PS3.15 E.1-1 of {walk.table.edition}"
    dataset.DeidentificationMethodCodeSequence = items
    modified = "MODIFIED" if "longitudinal-modified" in walk.asked.options else "REMOVED"
    dataset.LongitudinalTemporalInformationModified = modified
    if pixels_cleaned:
        dataset.BurnedInAnnotation = "NO"


def _rewrite_meta(dataset: "Dataset") -> None:
    """Replace preamble and file meta information by those of a new file (PS3.10, 7.1)."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
