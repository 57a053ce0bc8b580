"""What happens to an attribute: the table's code, the profile's options and the type in the IOD, brought to one action.

Rules of PS3.15 Annex E: a compound code leaves the choice to the de-identifier so that the object stays valid (X where
the attribute may be missing, Z where it may be empty, D where it needs a value); options replace codes of their rows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from medloom.connectors.deid_table import CURVE_GROUPS, OVERLAY_GROUPS, Table
from medloom.connectors.deid_types import Type
from medloom.schemas.errors import ConfigError

Action = Literal["keep", "walk", "remove", "empty", "dummy", "token", "uid", "shift", "age", "clean"]

BASIC = ("113100", "Basic Application Confidentiality Profile")
PIXELS_CLEANED = ("113101", "Clean Pixel Data Option")
OPTIONS: Mapping[str, tuple[str, str]] = MappingProxyType({  # PS3.16, CID 7050
    "clean-structured-content": ("113104", "Clean Structured Content Option"),
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    "longitudinal-modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain-uids": ("113110", "Retain UIDs Option"),
    "retain-safe-private": ("113111", "Retain Safe Private Option"),
})  # fmt: skip

_RESEARCH = frozenset({"longitudinal-modified", "clean-descriptors", "clean-structured-content"})
_PROFILES: Mapping[str, tuple[frozenset[str], str]] = MappingProxyType({
    "basic": (frozenset(), "the basic profile: dates, descriptions and report text go, identifiers are replaced"),
    "research": (_RESEARCH, "dates shifted per patient; descriptions and report text keep known words only"),
    "research-patient": (
        _RESEARCH | {"patient-characteristics"}, "research, with sex, size, weight and age up to 89 years kept"
    ),
    "research-private": (
        _RESEARCH | {"retain-safe-private"}, "research, with the private numbers that diffusion and PET scans need"
    ),
    "retain-uids": (frozenset({"retain-uids"}), "the basic profile with the original UIDs, for a trusted receiver"),
})  # fmt: skip

TOKENS: Mapping[str, str] = MappingProxyType({  # identifiers that stay useful as tokens, and the token's kind
    "PatientID": "patient", "AccessionNumber": "accession", "StudyID": "study-id", "ClinicalTrialSubjectID": "patient",
    "PlacerOrderNumberImagingServiceRequest": "order", "FillerOrderNumberImagingServiceRequest": "order",
    "SpecimenIdentifier": "specimen", "ContainerIdentifier": "specimen",
})  # fmt: skip

# Rows with C under Clean Descriptors: text with such a name, and these; the device's own descriptions are no part.
_DESCRIBES = re.compile(r"(Description|Comments?|Label|Notes|Narrative|Text|History)$|^Reason|^Comments")
_ALSO_DESCRIPTORS = frozenset({
    "AcquisitionProtocolName", "Allergies", "AssignedLocation", "CommentsOnTheScheduledProcedureStep",
    "ContactDisplayName", "ContrastBolusAgent", "DocumentTitle", "EntityName", "FillerOrderNumberProcedure",
    "HangingProtocolCreator", "Impressions", "InstructionText", "MedicalAlerts", "Occupation", "OwnerID",
    "PatientState", "PlacerOrderNumberProcedure", "PositionAcquisitionTemplateName", "ProtocolName", "ROIName",
    "RTPlanName", "RequestedContrastAgent", "StructureSetName", "TrackingID", "TreatmentSite", "TreatmentSites",
})  # fmt: skip
_NO_DESCRIPTORS = frozenset({
    "ConfidentialityConstraintOnPatientDataDescription", "DeviceDescription", "DeviceLabel", "XRayDetectorLabel",
    "ImagePresentationComments", "ModifiedImageDescription", "TextComments",
})  # fmt: skip
# Birth and death by another calendar, whose days no rule can shift; the table does not name them.
_OTHER_CALENDARS = frozenset({
    "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar",
})  # fmt: skip
_DESCRIPTOR_SEQUENCES = frozenset({
    "AdmittingDiagnosesCodeSequence", "ReasonForRequestedProcedureCodeSequence", "ReasonForVisitCodeSequence",
    "PrescriptionNotesSequence", "RequestAttributesSequence",
})  # fmt: skip
CONTENT_SEQUENCES = frozenset({"ContentSequence", "AcquisitionContextSequence", "SpecimenPreparationSequence"})
_REFERENCES = frozenset({  # rows with K under Retain UIDs that are sequences
    "ReferencedImageSequence", "SourceImageSequence", "ReferencedStudySequence",
    "ReferencedPerformedProcedureStepSequence",
})  # fmt: skip
_CHARACTERISTICS = frozenset({  # rows with K under Retain Patient Characteristics
    "PatientSex", "PatientSexNeutered", "PatientSize", "PatientWeight", "SmokingStatus", "PregnancyStatus",
})  # fmt: skip
_BIRTH = frozenset({"PatientBirthDate", "PatientBirthTime"})  # dates that no option keeps
DATES = frozenset({"DA", "DT", "TM"})
WORDS_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})


@dataclass(frozen=True)
class Profile:
    """What is asked of a de-identification.

    Attributes:
        name: by which it is chosen.
        options: keys of `OPTIONS` on top of the basic profile.
    """

    name: str
    options: frozenset[str]

    @property
    def codes(self) -> tuple[tuple[str, str], ...]:
        """(code, meaning) of CID 7050 for DeidentificationMethodCodeSequence, in the order of the codes."""
        return tuple(sorted([BASIC, *(OPTIONS[option] for option in self.options)]))


def profile(name: str) -> Profile:
    """Return a profile by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _PROFILES:
        raise ConfigError(f"there is no de-identification profile {name!r}; known are {', '.join(_PROFILES)}")
    return Profile(name, _PROFILES[name][0])


def profiles() -> dict[str, str]:
    """Return {name: what it does} of all profiles."""
    return {name: about for name, (_, about) in _PROFILES.items()}


@dataclass(frozen=True)
class Place:
    """An attribute where it stands.

    Attributes:
        tag: group and element as one number.
        keyword: of the standard's dictionary, "" when that does not know the tag.
        vr: as read.
        type: in the object's IOD, inside the sequence it stands in.
        in_content: whether it stands in the content of a report that the profile cleans.
    """

    tag: int
    keyword: str
    vr: str
    type: Type
    in_content: bool = False


def choose(place: Place, table: Table, asked: Profile) -> Action:
    """Return what must happen to an attribute; private ones are decided elsewhere (`deid_private`)."""
    group, element = place.tag >> 16, place.tag & 0xFFFF
    if not place.keyword or element == 0 or group < 8 or group & 0xFF00 in (CURVE_GROUPS, OVERLAY_GROUPS):
        return "remove"  # unknown to the standard, a group length, a command's or a directory's, a curve, an overlay
    code = table.code(place.tag)
    action = (_by_option(place, code, asked) if code else _outside(place, asked)) or _by_code(place, code)
    if place.keyword in TOKENS and action in ("empty", "dummy"):
        return "token"
    return action


def _outside(place: Place, asked: Profile) -> Action:
    """Return the action for a standard attribute that the table does not name."""
    if place.vr == "SQ":
        return "walk"
    if place.vr == "UI":
        return "keep" if "retain-uids" in asked.options else "uid"
    if place.vr in DATES:
        return "shift" if "longitudinal-modified" in asked.options else by_type(place.type)
    if place.vr in ("PN", "UR", "UN"):  # a person, an address of a server, bytes that nobody can judge
        return by_type(place.type)
    if place.keyword in _OTHER_CALENDARS:
        return by_type(place.type)
    if describes(place):
        return "clean" if "clean-descriptors" in asked.options else by_type(place.type)
    return "clean" if place.in_content and place.keyword == "TextValue" else "keep"


def _by_option(place: Place, code: str, asked: Profile) -> Action | None:
    """Return what an option of the profile says of a row of the table, None when none does."""
    options, keyword = asked.options, place.keyword
    if "retain-uids" in options and ("U" in code.replace("*", "").split("/") or keyword in _REFERENCES):
        return "walk" if place.vr == "SQ" else "keep"
    if "longitudinal-modified" in options and place.vr in DATES and keyword not in _BIRTH:
        return "shift"
    if "clean-descriptors" in options:
        if keyword in _DESCRIPTOR_SEQUENCES:
            return "walk"
        if describes(place):
            return "clean"
    if "clean-structured-content" in options and keyword in CONTENT_SEQUENCES:
        return "walk"
    if "patient-characteristics" in options and keyword in (*_CHARACTERISTICS, "PatientAge"):
        return "age" if keyword == "PatientAge" else "keep"
    return None


def describes(place: Place) -> bool:
    """Whether it is a text that the Clean Descriptors Option cleans."""
    if place.vr not in WORDS_VRS or place.keyword in _NO_DESCRIPTORS:
        return False
    return place.keyword in _ALSO_DESCRIPTORS or _DESCRIBES.search(place.keyword) is not None


def _by_code(place: Place, code: str) -> Action:
    """Return what the code of the basic profile means for an attribute of this type."""
    if code == "U":
        return "uid"
    parts = code.split("/")
    if "U*" in parts:
        return "remove" if place.type == "3" else "walk"
    if place.type == "1" or (place.type == "1C" and parts != ["X"]):
        return "dummy"
    if parts == ["D"]:
        return "dummy"
    if place.type == "3" or (place.type in ("1C", "2C") and parts == ["X"]):
        return "remove" if "X" in parts else "empty"
    return "empty" if "Z" in parts or parts == ["X"] else "dummy"


def by_type(type_: Type) -> Action:
    """Return the least that an object may keep of an attribute whose value must go."""
    return "remove" if type_ == "3" else "empty" if type_.startswith("2") else "dummy"
