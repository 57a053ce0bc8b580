"""Answers: phrases that an English caption sentence states in so many words, found by a small grammar.

The grammar knows what it finds and no more: a modality, a plane, an MR sequence, a stain, a magnification, a size, a
place with its side, what an arrow marks. What it does not know it does not find; nothing is inferred.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["modality", "plane", "sequence", "stain", "magnification", "size", "place", "marked"]
KINDS: tuple[Kind, ...] = ("modality", "plane", "sequence", "stain", "magnification", "size", "place", "marked")
# Kinds that speak of a whole image: two answers of one kind make the question ambiguous.
OF_THE_IMAGE: frozenset[Kind] = frozenset({"modality", "plane", "sequence", "stain", "magnification"})


@dataclass(frozen=True)
class Found:
    """A phrase that answers a question of `kind`.

    Attributes:
        start, end: half-open character offsets into the sentence.
        name: the class it stands for ("CT" for "computed tomography"), or its own words in lower case.
        also: other words for the same; a question that says one of them gives the answer away.
    """

    kind: Kind
    start: int
    end: int
    name: str
    also: tuple[str, ...] = ()


# name: (pattern, other words). Abbreviations are matched in upper case only: "ct" in a word list is noise.
_NAMED: dict[Kind, dict[str, tuple[str, tuple[str, ...]]]] = {
    "modality": {
        "PET/CT": (r"PET[/-]CT", ("PET-CT", "PET/CT", "PET", "CT", "positron emission tomography")),
        "CT angiography": (r"CT angiogra(?:phy|m)|CTA", ("CTA", "CT angiography", "CT", "angiogram")),
        "MR angiography": (r"MR angiogra(?:phy|m)|MRA", ("MRA", "MR angiography", "MRI", "MR", "angiogram")),
        "CT": (
            r"CT(?: scans?)?(?! (?:Green|Orange|values?))|(?i:computed tomograph(?:y|ic))(?: \(CT\))?",
            ("CT", "computed tomography"),
        ),
        "MRI": (
            r"MRI(?: scans?)?|MR imag(?:e|es|ing)|(?i:magnetic resonance(?: imag(?:e|es|ing))?)(?: \(MRI\))?",
            ("MRI", "MR", "magnetic resonance imaging", "magnetic resonance"),
        ),
        "PET": (r"PET|(?i:positron[- ]emission tomography)", ("PET", "positron emission tomography")),
        "ultrasound": (
            r"(?i:ultraso(?:und|nogra(?:phy|m|phic))|sonogra(?:m|phy|phic))",
            ("ultrasound", "ultrasonography", "ultrasonogram", "sonogram", "sonography", "ultrasonographic"),
        ),
        "echocardiography": (
            r"(?i:(?:transthoracic |transesophageal |transoesophageal )?echocardiogra(?:phy|m|phic))",
            ("echocardiography", "echocardiogram", "ultrasound"),
        ),
        "radiography": (
            r"(?i:(?:plain |chest )?(?:radiogra(?:ph|phs|phy|phic)|x-rays?|roentgenogram)"
            r"(?! (?:film|crystal|diffract|scatter|struct)))",
            ("radiograph", "radiographs", "radiography", "radiographic", "X-ray", "X-rays", "plain film"),
        ),
        "mammography": (r"(?i:mammogra(?:m|ms|phy|phic))", ("mammogram", "mammography", "X-ray")),
        "angiography": (r"(?i:angiogra(?:m|ms|phy|phic))", ("angiogram", "angiography", "angiographic")),
        "endoscopy": (
            r"(?i:endoscop(?:y|ic)|colonoscop(?:y|ic)|gastroscop(?:y|ic)|bronchoscop(?:y|ic))",
            ("endoscopy", "endoscopic", "colonoscopy", "gastroscopy", "bronchoscopy"),
        ),
        "electron microscopy": (
            r"(?i:(?:transmission |scanning )?electron micro(?:scopy|graphs?|scopic))",
            ("electron microscopy", "electron micrograph", "TEM", "SEM"),
        ),
        "optical coherence tomography": (r"(?i:optical coherence tomography)", ("OCT", "optical coherence tomography")),
        "scintigraphy": (r"(?i:scintigra(?:phy|m|phic)|bone scan)", ("scintigraphy", "scintigram", "bone scan")),
    },
    "plane": {
        "axial": (
            r"(?i:axial)(?! (?:skelet|load|length|spondyl|compress))"  # words of anatomy are no planes
            r"|(?i:transverse)(?= (?:sections?|views?|planes?|images?|scans?|slices?|CT|MR|T[12]))",
            ("axial", "transverse"),
        ),
        "coronal": (r"(?i:coronal)(?! sutur)", ("coronal",)),
        "sagittal": (r"(?i:(?:mid)?sagittal)(?! (?:sinus|sutur|balance|align))", ("sagittal", "midsagittal")),
    },
    "sequence": {
        "T1-weighted": (r"T1(?:[- ]weighted|W|WI)", ("T1", "T1-weighted", "T1W", "T1WI")),
        "T2-weighted": (r"T2(?:[- ]weighted|W|WI)", ("T2", "T2-weighted", "T2W", "T2WI")),
        "FLAIR": (
            r"FLAIR|(?i:fluid[- ]attenuated inversion recovery)",
            ("FLAIR", "fluid attenuated inversion recovery"),
        ),
        "diffusion-weighted": (r"DWI|(?i:diffusion[- ]weighted)", ("DWI", "diffusion-weighted", "diffusion")),
        "STIR": (r"STIR", ("STIR", "short tau inversion recovery")),
        "ADC": (r"ADC|(?i:apparent diffusion coefficient)", ("ADC", "apparent diffusion coefficient", "diffusion")),
    },
    "stain": {
        "H&E": (
            r"H ?& ?E|(?i:ha?ematoxylin(?: and |[- –/&]+)eosin)(?: \(H ?& ?E\))?",
            ("H&E", "haematoxylin and eosin", "hematoxylin and eosin", "haematoxylin", "hematoxylin", "eosin"),
        ),
        "PAS": (
            r"PAS(?=[ -](?:stain|positive|reaction))|(?i:periodic acid[- –]schiff)",
            ("PAS", "periodic acid-Schiff"),
        ),
        "Masson trichrome": (r"(?i:masson(?:['’]?s)? trichrome)", ("Masson", "trichrome")),
        "Giemsa": (r"(?i:(?:may[- –]gr[uü]nwald[- –]|wright[- –])?giemsa)", ("Giemsa",)),
        "Gram": (r"(?:Gram stain(?:ing)?)", ("Gram",)),
        "Ziehl-Neelsen": (r"(?i:ziehl[- –]neelsen)", ("Ziehl-Neelsen", "acid-fast")),
        "Congo red": (r"(?i:congo red)", ("Congo red",)),
        "Ki-67": (r"(?i:ki-?67)", ("Ki-67", "Ki67", "MIB-1")),
    },
}
_COMPILED = {
    kind: [(name, re.compile(rf"(?<![\w/‐-])(?:{pattern})(?![\w/])"), also) for name, (pattern, also) in named.items()]
    for kind, named in _NAMED.items()
}

_TIMES = r"\d{2,5}|\d{1,3}(?:,\d{3})+"
_MAGNIFICATION = re.compile(  # not "3 × 12 mm", "2.4 × 106 cells" or "40× objective"
    rf"(?:(?<=[(,;:] )|(?<=\()|(?<=magnification )|(?<=magnification of ))"
    rf"[×x] ?(?:{_TIMES})(?![\w/−-]|\.\d| ?(?:mm|cm|\d))"
    rf"|(?<![\w.,])(?:{_TIMES}) ?×(?= magnification)",
    re.IGNORECASE,
)
_LENGTH = r"\d+(?:[.,·]\d+)?"
_SIZE = re.compile(
    rf"(?<![\w.,·/+−<>=~-])(?<!, ){_LENGTH}(?: ?(?:mm|cm)? ?(?:[×x]|by) ?{_LENGTH}){{0,2}}[ -]?(?:mm|cm)(?![\w/²³−])"
)
# A length is a finding's size only where the words around it say so; dishes, bars and coordinates have lengths too.
_FINDING = (
    r"mass|lesion|nodul|tumou?r|cyst|aneurysm|stone|calcul|node|abscess|ha?ematoma|polyp|defect|adenoma|carcinoma"
    r"|metasta|thromb|effusion|opacit|collection|diverticul|foreign body|fragment|ulcer|gap|plaque|fibroid|myoma"
)
_SIZED_BEFORE = re.compile(
    r"\b(?:measur(?:es|ed|ing)|diameter of|size of|(?:thickness|length|width) of)[\w ]{0,15}$", re.I
)
_SIZED_AFTER = re.compile(
    rf"^(?:[ -][\w-]+){{0,4}}? (?:{_FINDING})|^ in (?:\w+ )?(?:diameter|size|length)", re.IGNORECASE
)
_OF_THE_METHOD = re.compile(r"\b(?:bars?|scales?|slice|section|spacing|interval|field of view|fov)\b", re.IGNORECASE)
_ABBREVIATED = re.compile(
    r"[A-Z]{1,4}\d?(?:,|:| =|,? indicates) ?$"
)  # "LH, left hemisphere" explains, it does not show

_SIDE = r"(?:left|right|bilateral)"
_TOWARDS = (
    r"(?:upper|middle|lower|mid|anterior|posterior|medial|lateral|superior|inferior|proximal|distal|main|frontal"
    r"|temporal|parietal|occipital|internal|external|common|maxillary|hepatic|renal|coronary|carotid|cerebral"
    r"|pulmonary|femoral|iliac|pleural|adrenal|basal|cerebellar)"
)
_ORGAN = (
    r"(?:lobes?|lungs?|kidneys?|ureters?|ventricles?|atri(?:um|a)|breasts?|ovar(?:y|ies)|test(?:is|icle)s?|femurs?"
    r"|femoral head|tibias?|fibula|humerus|radius|ulna|clavicle|scapula|ribs?|hips?|knees?|shoulders?|wrists?|ankles?"
    r"|eyes?|orbits?|hemispheres?|hemithorax|arter(?:y|ies)|veins?|hilum|pleura|cavity|adrenal gland|parotid gland"
    r"|thyroid lobe|sinus(?:es)?|mandible|maxilla|thalamus|basal ganglia|cerebellum|retina|cornea|iliac bone)"
)
_PLACE = re.compile(rf"\b{_SIDE}(?:[ -]{_TOWARDS}){{0,3}} {_ORGAN}\b", re.IGNORECASE)

_ARROW = re.compile(
    r"(?<=[\w)]) \((?:(?:small|large|long|short|thin|thick|open|solid|white|black|red|yellow|blue|green|curved|straight"
    r"|dashed),? )*arrow(?:head)?s?\)",
    re.IGNORECASE,
)
_WORDS_BEFORE = re.compile(r"(?:[^\W\d_][\w'’-]*[ ]){0,5}[^\W\d_][\w'’-]*$")
# Words at which a noun phrase begins anew, and words with which none ends.
_BREAKS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those of in on at with without and or by from to for as is are was were be been has"
        " have had show shows showed showing shown reveal reveals revealed revealing demonstrate demonstrates"
        " demonstrated demonstrating note noted noting see seen indicate indicates indicated indicating confirm"
        " confirms confirmed confirming within into near between through during after before its their his her there"
        " which where no not"
        " mark marks marked marking point points pointing identify identified depict depicts depicted display displays"
        " displayed suggest suggests suggesting contain contains containing cm mm",
    )
)


def found(sentence: str) -> Iterator[Found]:
    """Give the phrases of `sentence` that the grammar knows, by kind and then by place; none of a kind overlap."""
    for kind in KINDS:
        taken: list[Found] = []
        for phrase in sorted(_of_kind(kind, sentence), key=lambda p: (p.start - p.end, p.start)):  # the longest first
            if all(phrase.end <= t.start or phrase.start >= t.end for t in taken):
                taken.append(phrase)
        yield from sorted(taken, key=lambda p: p.start)


def _of_kind(kind: Kind, sentence: str) -> Iterator[Found]:
    if kind in _COMPILED:
        for name, pattern, also in _COMPILED[kind]:
            yield from (Found(kind, *m.span(), name, also) for m in pattern.finditer(sentence))
    elif kind == "marked":
        yield from _marked(sentence)
    else:
        pattern = {"magnification": _MAGNIFICATION, "size": _SIZE, "place": _PLACE}[kind]
        for m in pattern.finditer(sentence):
            before, after = sentence[max(0, m.start() - 40) : m.start()], sentence[m.end() : m.end() + 50]
            if kind == "size" and not _is_size(before, after):
                continue
            if kind == "place" and _ABBREVIATED.search(before):
                continue
            yield Found(kind, *m.span(), m.group().lower())


def _is_size(before: str, after: str) -> bool:
    """Whether the words around a length make it the size of a finding."""
    sized = _SIZED_BEFORE.search(before) or _SIZED_AFTER.search(after)
    return bool(sized) and not _OF_THE_METHOD.search(before)


def _marked(sentence: str) -> Iterator[Found]:
    """Give the words right before "(arrow)" that read as a noun phrase: those after the last word that breaks one."""
    for arrow in _ARROW.finditer(sentence):
        before = _WORDS_BEFORE.search(sentence, 0, arrow.start())
        if before is None:
            continue
        start = before.start()
        for word in re.finditer(r"\S+", before.group()):
            if word.group().lower() in _BREAKS:
                start = before.start() + word.end() + 1
        phrase = sentence[start : arrow.start()]
        if len(phrase) >= 4 and not phrase.endswith(("ed", "ly")):  # "is enlarged (arrow)" names nothing
            yield Found("marked", start, arrow.start(), phrase.lower())
