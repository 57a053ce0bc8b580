"""What a segment or a region of interest may be called: words of fixed vocabularies only.

SegmentLabel, ROIName and CodeMeaning are free text in which people write names of patients and of readers. A text gets
through when `anatomy` knows it, or when each of its words is in `WORDS`; a code is named by the standard's dictionary
(PS3.16), never by the meaning that the object states beside it. What is left is called "segment N".
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from medloom.connectors import anatomy
from medloom.connectors.dicom_headers import items_of, word
from medloom.schemas.volume import Label, Side

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from medloom.connectors.dicom_elements import Elements

# Words that qualify what `anatomy` names, and those of radiotherapy (AAPM TG-263); none that is a common surname.
_QUALIFIERS = """
    left right l r bilateral both upper lower middle mid superior inferior anterior posterior medial lateral proximal
    distal apical basal central peripheral transition transitional zone lobe lobes segment region area cavity wall
    lumen cortex medulla body tail structure organ tissue whole total part parts primary secondary and or of with
    without the in non mass masses metastasis metastases metastatic necrosis necrotic edema oedema enhancing core
    cystic solid calcification hemorrhage haemorrhage hematoma thrombus plaque stent effusion pleural pericardial
    ascites infiltrate consolidation opacity emphysema fibrosis pneumothorax atelectasis infarct infarction
    lymph node nodes ln mediastinal axillary inguinal cervical thoracic lumbar sacral fat subcutaneous visceral muscle
    bone marrow ventricle ventricles cerebellum cerebrum thalamus hippocampus amygdala putamen
    caudate pallidum accumbens hypothalamus airway airways bronchus bronchi diaphragm mediastinum pleura pericardium
    coronary vessels artery arteries vein veins abdomen pelvis thorax chest neck head tongue palate pharynx
    nasopharynx oropharynx hypopharynx constrictor constrictors lens retina cornea ovary testis testes penile bulb penis
    vagina cervix seminal vesicle vesicles sigmoid bowelbag bowel bag cauda equina plexus brachial joint cartilage
    meniscus tendon ligament tibia fibula patella radius ulna carpal foot hand knee ankle shoulder elbow wrist
    gtv gtvp gtvn gtvt gtvs gtv1 gtv2 ctv ctvp ctvn ctv1 ctv2 ptv ptvp ptvn ptv1 ptv2 itv igtv igtvp ictv oar prv avoid
    avoidance external outer contour couch bolus artifact artefact skin background foreground mask label target
    treated volume isocenter marker support fixation
"""
_GENERIC = frozenset({  # concepts that say only that there is something, as `_spoken` writes them
    "tissue", "organ", "body", "body structure", "body tissue", "anatomical structure", "body part", "physical object",
    "body substance", "morphologically abnormal structure", "spatial and relational concept", "body region", "function",
    "foreground", "abnormality", "region of interest", "structure", "morphologically altered structure", "unknown",
    "entire body",
})  # fmt: skip
_NAMELESS = """
    left right l r and or of the in with without non whole total part parts segment region area structure mask label
    target object marker support wall core
"""
_PHRASES = re.compile(r"\b((white|gray|grey) matter|ground glass)\b")  # of words that alone may be names
_SRT = ("SRT", "SNM3", "99SDM")  # schemes in which SNOMED RT codes are written
_SIDES: dict[str, Side] = {"7771000": "left", "24028007": "right"}  # SNOMED CT qualifiers; both sides: no side
_PARENTHESIS = re.compile(r"\s*\([^)]*\)")
_NUMBER = re.compile(r"[0-9]{1,2}$")  # longer ones may be a date, a dose or an identifier


def label_of(item: "Dataset | Elements", *, text: str, number: int) -> Label:
    """Return what an item with coded concepts and a free text names.

    The code decides, unless the text is of the vocabulary and says more ("vertebra L1" beside the code of a vertebra).
    A finding belongs to the anatomic region stated with it: a neoplasm in the liver is a "liver tumor". Where code and
    text name opposite sides, no side is told.

    Args:
        item: of SegmentSequence (PS3.3 C.8.20.2), or of RTROIObservationsSequence (C.8.8.8).
        text: SegmentLabel or ROIName.
        number: of the segment, its name when nothing else may be said.
    """
    within = anatomy.label(_first_meaning(item, _REGIONS)).name
    coded = _first_meaning(item, _TYPES)
    named, told = anatomy.label(coded, within=within), Label("")
    is_specific = bool(coded) and _spoken(coded) not in _GENERIC
    if is_allowed(text, within=within):
        told = anatomy.label(text, within=within)
        if not is_specific or set(named.name.split()) < set(told.name.split()):
            named, is_specific = told, True
    stated = text if told.name else coded
    if not is_specific:
        return Label(f"segment {number}", stated=stated or f"segment {number}")
    sides = {named.side, told.side, _side(item)} - {""}
    return Label(named.name, sides.pop() if len(sides) == 1 else "", stated)


def is_allowed(text: str, *, within: str = "") -> bool:
    """Whether a free text is made of the vocabulary's words and at most one short number, and may be shown."""
    if not text.isascii() or len(text) > 64:
        return False
    words = _PHRASES.sub("tissue", _spoken(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))).split()
    numbers = [word for word in words if _NUMBER.match(word)]
    spoken = [word for word in words if word not in numbers]
    if (
        len(numbers) > 1
        or any(re.search(r"[0-9]{3}", word) for word in words)
        or not set(spoken) - set(_NAMELESS.split())
    ):
        return False
    return anatomy.is_known(text, within=within) or all(word in _words() for word in spoken)


_TYPES = (
    "SegmentedPropertyTypeCodeSequence",
    "RTROIIdentificationCodeSequence",
    "SegmentedPropertyCategoryCodeSequence",
)
_REGIONS = ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence")
_MODIFIERS = (
    "SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionModifierSequence",
    "PrimaryAnatomicStructureModifierSequence",
)  # fmt: skip


def _first_meaning(item: "Dataset | Elements", keywords: tuple[str, ...]) -> str:
    """Return the meaning of the first code that the dictionary has, "" when there is none."""
    for keyword in keywords:
        for code in items_of(item, keyword):
            if meaning := meaning_of(code):
                return meaning
    return ""


def meaning_of(code: "Dataset | Elements") -> str:
    """Return the standard's meaning of a code, without what SNOMED adds to it; of an unknown one the meaning stated
    beside it where the vocabulary has its words, else "".
    """
    scheme, value = _sct(word(code, "CodingSchemeDesignator").upper(), word(code, "CodeValue"))
    if found := _dictionary(scheme).get(value):
        return found
    stated = word(code, "CodeMeaning")
    return stated if is_allowed(stated) else ""


def _sct(scheme: str, value: str) -> tuple[str, str]:
    from pydicom.sr.coding import snomed_mapping

    if scheme in _SRT and value in snomed_mapping["SRT"]:
        return "SCT", snomed_mapping["SRT"][value]
    return scheme, value


@lru_cache(maxsize=8)
def _dictionary(scheme: str) -> dict[str, str]:
    """Return meaning by value of a coding scheme.

    Of several the one that DICOM itself gives, without the kind of concept in brackets that SNOMED's full names have;
    then the one that anatomy knows, then the shortest.
    """
    from pydicom.sr.codedict import codes

    if scheme not in ("SCT", "FMA", "RADLEX", "NCIT", "DCM"):
        return {}
    meanings: dict[str, list[str]] = {}
    for code in getattr(codes, {"NCIT": "NCIt"}.get(scheme, scheme)).concepts.values():
        meanings.setdefault(code.value, []).append(code.meaning)
    return {
        value: _plain(min(found, key=lambda text: ("(" in text, not anatomy.is_known(_plain(text)), len(text), text)))
        for value, found in meanings.items()
    }


def _plain(meaning: str) -> str:
    """Return "left kidney" of "Structure of left kidney (body structure)"; other meanings stay as they are."""
    text = _PARENTHESIS.sub("", meaning).strip()
    return re.sub(r"(?i)^((bone )?structure of|entire)\s+|\s+structure$", "", text) if text != meaning else text


def _spoken(text: str) -> str:
    return " ".join(re.sub(r"[^0-9A-Za-z]+", " ", text).lower().split())


def _side(item: "Dataset | Elements") -> Side:
    """Return the side that a modifier of the type, or of its region, states."""
    holders = [item, *(code for keyword in (*_TYPES, *_REGIONS) for code in items_of(item, keyword))]
    for holder in holders:
        for keyword in _MODIFIERS:
            for code in items_of(holder, keyword):
                _, value = _sct(word(code, "CodingSchemeDesignator").upper(), word(code, "CodeValue"))
                if side := _SIDES.get(value):
                    return side
    return ""


@lru_cache(maxsize=1)
def _words() -> frozenset[str]:
    """Return the words of `anatomy` and of `_QUALIFIERS`; single letters only for sides."""
    texts = [*anatomy.names(), *(text for others in anatomy.SYNONYMS.values() for text in others)]
    texts += [text for others in anatomy.FINDINGS.values() for text in others] + list(anatomy.ADJECTIVES)
    found = {word for text in texts for word in re.findall(r"[a-z]{2,}", text.lower())}
    return frozenset(found | {f"{word}s" for word in found} | set(_QUALIFIERS.split()) | {"l", "r"})
