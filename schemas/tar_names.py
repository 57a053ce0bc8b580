"""What names say: which tars a pattern means, which sample and field a member is, which split a tar belongs to."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from medloom.schemas.errors import SourceError

MAX_TARS = 1_000_000  # of one set: a shard's number has six digits

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

PICTURES = ("jpg", "jpeg", "png", "webp")
VOLUMES = ("b2nd", "nii", "nii.gz")
ARRAYS = ("npy", "npz", "npy.zst")
TEXTS = ("txt", "caption", "text")  # the first that a sample has is its text, else its json's
FACTS = "json"
MASKS = "seg.b2nd"
_THUMBS = ("thumb", "thumbnail")

Kind = Literal["picture", "volume", "array", ""]


def expand(pattern: str) -> Iterator[str]:
    """Give the names that `{000..012}` and `{a,b}` stand for, in order; a range keeps the digits of its first number.

    Raises:
        SourceError: they are more than `MAX_TARS`, or a range runs backwards.
    """
    least = prod(len(_choices(braces[1], pattern)) for braces in _BRACES.finditer(pattern))
    if least > MAX_TARS:
        raise SourceError(f"{pattern} means {least} tars, more than {MAX_TARS}; name fewer")
    found = [pattern]
    while any(_BRACES.search(name) for name in found):
        found = [wider for name in found for wider in _widened(name, pattern)]
    yield from dict.fromkeys(found)  # braces in braces give a choice of the outer ones more than once


def _widened(name: str, pattern: str) -> Iterator[str]:
    braces = _BRACES.search(name)
    if braces is None:
        yield name
        return
    for choice in _choices(braces[1], pattern):
        yield name[: braces.start()] + choice + name[braces.end() :]


def _choices(inside: str, pattern: str) -> Sequence[str]:
    between = _RANGE.fullmatch(inside)
    if between is None:
        return inside.split(",")
    first, last, width = int(between[1]), int(between[2]), len(between[1])
    if not 0 <= last - first < MAX_TARS:
        raise SourceError(f"{{{inside}}} in {pattern} is no range of at most {MAX_TARS} tars; write {{first..last}}")
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def is_pattern(url: str) -> bool:
    """Whether a URL stands for several names."""
    return bool(_BRACES.search(url)) or any(sign in url for sign in "*[") or ("?" in url and "://" not in url)


def split_of(path: str) -> str:
    """Return the split that a word of a tar's name says, else one of its folder's name, else "train"."""
    folder, name = os.path.split(path)
    for text in (name, os.path.basename(folder)):
        for word in re.split(r"[^a-z]+", text.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return "train"


def key_and_field(names: Sequence[str]) -> tuple[list[str], list[str], list[int]]:
    """Return key, field and place in `names` of every member that belongs to a sample.

    The key is the name up to the first dot after its last slash, the field the rest in lower case, as webdataset and
    Hugging Face datasets cut them. Members without either (`.DS_Store`, `._a.jpg`, `README`) and `__meta__` are none.
    """
    keys, fields, places = list[str](), list[str](), list[int]()
    for place, name in enumerate(names):
        begin = name.rfind("/") + 1
        dot = name.find(".", begin)
        if begin < dot < len(name) - 1 and not (name.startswith("__") and name.endswith("__")):
            keys.append(name[:dot])
            fields.append(name[dot + 1 :].lower())
            places.append(place)
    return keys, fields, places


def suffix_of(field: str) -> str:
    """Return the end of a field that says how its bytes decode ("nii.gz" of "ct.nii.gz"), "" when nothing does."""
    known = [s for s in (*PICTURES, *VOLUMES, *ARRAYS) if field == s or field.endswith(f".{s}")]
    return max(known, key=len, default="")


def kind_of(field: str) -> Kind:
    """Return what a field holds by its suffix."""
    suffix = suffix_of(field)
    if suffix in PICTURES:
        return "picture"
    if suffix in VOLUMES:
        return "volume"
    return "array" if suffix else ""


@dataclass(frozen=True)
class Roles:
    """What the fields of a sample are for.

    Attributes:
        media: fields that are media of their own, each with the field of its masks or "".
        text: field of its text, "" for none.
        facts: "json" or "".
    """

    media: tuple[tuple[str, str], ...]
    text: str
    facts: str


@lru_cache(maxsize=4096)
def roles_of(fields: tuple[str, ...]) -> Roles:
    """Return what each field of a sample is for.

    Previews (`thumb.jpg`) are no media where there is anything else. Masks as MedLoom stores them (`seg.b2nd`) are
    those of the only other volume; masks of other forms are media of their own.
    """
    known = [field for field in fields if suffix_of(field)]
    real = [field for field in known if _head(field) not in _THUMBS] or known
    volumes = [field for field in real if kind_of(field) != "picture" and field != MASKS]
    masks = MASKS if MASKS in real and len(volumes) == 1 else ""
    media = tuple((f, masks if f in volumes else "") for f in real if f != masks)
    text = next((name for name in TEXTS if name in fields), "")
    return Roles(media, text, FACTS if FACTS in fields else "")


def _head(field: str) -> str:
    """Return what stands before the suffix: "seg" of "seg.nii.gz", "" of "nii.gz"."""
    return field[: -len(suffix_of(field))].rstrip(".")
