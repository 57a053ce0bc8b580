"""Anatomy: one vocabulary of what label maps and reports name, with the side beside the name and never in it.

A name is singular, lower case and in American spelling ("kidney", "liver tumor", "vertebra L1"). A structure that is
labelled on both sides at once has no side. Adding a source's spelling is adding a word to `SYNONYMS`.
"""

import re
from functools import lru_cache

from medloom.schemas.volume import Label, Side

# name: other ways in which sources write it. The name itself, spaces, case, "_", "-" and one plural "s" need no entry.
SYNONYMS: dict[str, tuple[str, ...]] = {
    # Abdomen and pelvis
    "liver": ("hepar", "whole liver"),
    "spleen": ("lien",),
    "kidney": ("both kidneys", "kidney and kidney masses"),
    "pancreas": (),
    "stomach": (),
    "gallbladder": ("gall bladder",),
    "duodenum": (),
    "small bowel": ("small intestine", "small intestin"),
    "intestine": ("bowel",),
    "colon": ("large intestine", "large bowel"),
    "rectum": (),
    "esophagus": ("oesophagus",),
    "adrenal gland": ("adrenal", "suprarenal gland", "surrenal gland", "suprarenal", "surrenal", "gland adrenal"),
    "urinary bladder": ("bladder",),
    "prostate": (),
    "uterus": (),
    "prostate or uterus": ("prostate/uterus", "prostate and uterus"),
    "biliary system": ("biliary tree", "bile ducts"),
    "stone": (),
    "metastasectomy": ("metastasectomie",),
    # Vessels
    "artery": ("arterial system",),
    "venous system": ("vein", "venoussystem"),
    "aorta": (),
    "vena cava": (),
    "inferior vena cava": ("postcava", "ivc", "v cava inferior", "post cava"),
    "superior vena cava": ("svc", "precava"),
    "portal vein": ("vena portae",),
    "splenic vein": (),
    "portal vein and splenic vein": ("portal and splenic veins", "veins portal and splenic"),
    "renal vein": (),
    "renal artery": (),
    "hepatic vessel": ("liver vessel",),
    "hepatic vein": (),
    "iliac artery": (),
    "iliac vein": ("iliac vena",),
    "pulmonary artery": (),
    "pulmonary vein": (),
    "carotid artery": ("a carotid", "carotid"),
    "common carotid artery": (),
    "subclavian artery": (),
    "brachiocephalic trunk": (),
    "brachiocephalic vein": (),
    # Chest
    "lung": ("both lungs",),
    "lung upper lobe": ("upper lobe of lung",),
    "lung middle lobe": ("middle lobe of lung",),
    "lung lower lobe": ("lower lobe of lung",),
    "trachea": (),
    "heart": (),
    "heart atrium": ("atrium", "atria"),
    "heart ventricle": ("ventricle of heart",),
    "heart myocardium": ("myocardium",),
    "atrial appendage": (),
    "breast": (),
    "thymus": (),
    # Head and neck
    "brain": (),
    "brainstem": ("brain stem",),
    "spinal cord": (),
    "optic chiasm": ("chiasma opticum", "optic chiasma"),
    "optic nerve": ("optic nrv",),
    "cochlea": (),
    "pituitary gland": ("pituitary", "hypophysis", "glnd pituitary"),
    "anterior eyeball": ("eye a", "eyeball anterior"),
    "posterior eyeball": ("eye p", "eyeball posterior"),
    "eye": ("eyeball",),
    "lacrimal gland": ("glnd lacrimal",),
    "submandibular gland": ("glnd submand", "gland submandibular"),
    "parotid gland": ("parotid", "glnd parotid"),
    "thyroid gland": ("thyroid", "glnd thyroid"),
    "mandible": ("bone mandible",),
    "oral cavity": ("cavity oral",),
    "buccal mucosa": (),
    "lip": (),
    "arytenoid": (),
    "cricopharyngeal inlet": ("cricopharyngeus",),
    "cervical esophagus": ("esophagus s",),
    "glottis": ("larynx glottis", "larynx g", "glottic larynx"),
    "supraglottis": ("larynx supraglottic", "larynx supraglottis", "larynx sg", "supraglottic larynx"),
    "larynx": (),
    "face": (),
    "skull": (),
    # Bones
    "bone": (),
    "spine": ("vertebral column",),
    "vertebra": ("vertebrae",),
    "rib": (),
    "sacrum": ("os sacrum",),
    "coccyx": ("coccygis",),
    "sternum": (),
    "costal cartilage": (),
    "clavicle": ("clavicula",),
    "scapula": (),
    "humerus": (),
    "femur": (),
    "femoral head": ("head of femur", "femur head"),
    "hip bone": ("hip", "os coxae"),
    # Muscles and the rest
    "autochthonous back muscles": ("autochthon",),
    "iliopsoas muscle": ("iliopsoas",),
    "gluteus maximus": (),
    "gluteus medius": (),
    "gluteus minimus": (),
    "skin": (),
    "metal": (),
}
# What may be found in an organ: "tumor" in the liver is a "liver tumor". Words that sources write for it:
FINDINGS: dict[str, tuple[str, ...]] = {
    "tumor": ("tumor", "tumour", "cancer", "carcinoma", "neoplasm", "cancer primaries", "tumor primary"),
    "cyst": ("cyst", "kyst", "kyste"),
    "lesion": ("lesion",),
    "nodule": ("nodule",),
    "vessel": ("vessel",),
}
# The word that an organ has before a finding, where it is not its name.
ADJECTIVES = {
    "hepatic": "liver", "renal": "kidney", "pancreatic": "pancreas", "pulmonary": "lung", "splenic": "spleen",
    "colonic": "colon", "cerebral": "brain", "adrenal": "adrenal gland", "suprarenal": "adrenal gland",
    "surrenal": "adrenal gland",
}  # fmt: skip
RIBS = tuple(f"rib {n}" for n in range(1, 13))
LEVELS = (*(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 14)), *(f"L{n}" for n in range(1, 7)), "S1")
SPINE = {"C": "cervical", "T": "thoracic", "L": "lumbar", "S": "sacral"}
_SIDES: dict[str, Side] = {"left": "left", "right": "right", "l": "left", "r": "right", "lt": "left", "rt": "right"}
_BOTH = ("both", "bilateral")
_GLUED = re.compile(r"(?P<before>left|right)?(?P<rest>.+?)(?P<after>left|right)?$")
_EYE = re.compile(r"eye ([ap])([lr])$")  # HaN-Seg: Eye_AL is the anterior segment of the left eyeball


def label(stated: str, *, within: str = "") -> Label:
    """Return what `stated` names, in our vocabulary, with its side.

    A word that the vocabulary has not keeps its own words: lower case, "_" as a space, the side taken off.

    Args:
        stated: as the source writes it: "gall_bladder", "Kidney L", "livertumor01", "vertebrae_L1".
        within: the organ that the source is about, to which a finding without one belongs: a "tumour" within "liver"
            is a "liver tumor".
    """
    return _label(stated, within)


def is_known(stated: str, *, within: str = "") -> bool:
    """Whether the vocabulary has a name for `stated`."""
    _, words = _without_side(_words(stated))
    return _known(_compact(words), within) is not None


def names() -> tuple[str, ...]:
    """Return every name of an anatomical structure, sorted; findings in organs are made of them."""
    return tuple(sorted(set(_table().values())))


@lru_cache(maxsize=4096)
def _label(stated: str, within: str) -> Label:
    side, words = _without_side(_words(stated))
    return Label(_known(_compact(words), within) or " ".join(words) or stated.strip().lower(), side, stated)


def _words(stated: str) -> list[str]:
    """Return the words of a label, lower case; a capital after a small letter begins a word (OpticNrv_L)."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stated.strip())
    text = " ".join(re.sub(r"[^0-9A-Za-z]+", " ", text).lower().split())
    return _EYE.sub(r"eye \1 \2", text).split()


def _without_side(words: list[str]) -> tuple[Side, list[str]]:
    """Return the side, and the words without it: "left" anywhere, glued or not; a letter at an end alone."""
    sides = [i for i, word in enumerate(words) if word in ("left", "right")]
    if not sides and len(words) > 1 and words[-1] in _SIDES:
        sides = [len(words) - 1]
    elif not sides and len(words) > 1 and words[0] in _SIDES and _known(_compact(words[1:]), ""):
        sides = [0]
    if sides:
        return _SIDES[words[sides[0]]], [word for i, word in enumerate(words) if i not in sides]
    glued = _GLUED.match(_compact(words))
    if glued and (side := glued["before"] or glued["after"]) and _known(glued["rest"], ""):
        return _SIDES[side], [glued["rest"]]
    return "", [word for word in words if word not in _BOTH] or words


def _known(compact: str, within: str) -> str | None:
    """Return the name of compact words, which may end in a running number ("livertumor01"), or None."""
    table = _table()
    unnumbered = compact.rstrip("0123456789") or compact
    if compact in table:  # before its plural is one: "T1" is no running number either
        return table[compact]
    for text in (unnumbered, unnumbered.removesuffix("s")):
        if finding := _finding(text, within):
            return finding
        if text in table:
            return table[text]
    return None


def _finding(text: str, within: str) -> str | None:
    """Return "<organ> <finding>" when `text` ends in the word of a finding, the organ as stated, else `within`."""
    for finding, words in FINDINGS.items():
        for word in sorted(map(_compact, words), key=len, reverse=True):
            if not text.endswith(word):
                continue
            organ = text.removesuffix(word)
            name = _table().get(ADJECTIVES.get(organ, organ).replace(" ", "")) if organ else within
            if name is None or (not name and finding == "vessel"):
                continue
            made = f"{name} {finding}".strip()
            return _table().get(_compact(made), made)
    return None


def _compact(words: list[str] | str) -> str:
    return re.sub(r"[^0-9a-z]+", "", "".join(words))


@lru_cache(maxsize=1)
def _table() -> dict[str, str]:
    """Return the name by every compact spelling; a spelling of two names is a mistake in the table."""
    spelled = [(text, name) for name, others in SYNONYMS.items() for text in (name, *others)]
    spelled += [(rib, rib) for rib in RIBS]
    for level in LEVELS:
        part, text = SPINE[level[0]], level.lower()
        ways = (text, f"vertebra {text}", f"vertebrae {text}", f"{part} spine {text}", f"{part} vertebra {text}")
        spelled += [(way, f"vertebra {level}") for way in (*ways, f"{text} vertebra")]
    spelled += [("additional 13th thoracic vertebra t13", "vertebra T13")]
    table: dict[str, str] = {}
    for text, name in spelled:
        if table.setdefault(_compact(text), name) != name:
            raise AssertionError(f"{text!r} names both {table[_compact(text)]} and {name}")
    return table
