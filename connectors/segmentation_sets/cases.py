"""Cases: the files of a public set, by their names alone, become images with their masks; every file ends somewhere."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from medloom.connectors.segmentation_sets.spec import SPLITS, WITHIN_IMAGE, SetSpec, compiled, plain_path

Role = Literal["image", "mask", "split_table", "unused"]


@dataclass(frozen=True)
class Case:
    """One image of a set with its masks.

    Attributes:
        name: unique in the set.
        patient: whose images never split.
        split: the official one, "" when none is stated.
        part: which of the set's parts it is of.
        images, masks: urls, slices in the order of their numbers; an image's header before its voxels.
    """

    name: str
    patient: str
    split: str
    part: int
    images: tuple[str, ...]
    masks: tuple[str, ...]


@dataclass(frozen=True)
class Grouped:
    """What became of a set's files.

    Attributes:
        cases: by name.
        refused: reason and detail by url of every file that is in no case.
    """

    cases: tuple[Case, ...]
    refused: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Place:
    """What a file is by its path: its role, part, the folder that the pattern stands in, and the pattern's groups."""

    role: Role
    part: int = -1
    root: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)


def place_of(spec: SetSpec, path: str) -> Place | None:
    """Return what the set says of a path (see `plain_path`), None when no pattern fits."""
    for number, part in enumerate(spec.parts):
        patterns: tuple[tuple[Role, str], ...] = (("image", part.image), ("mask", part.mask))
        for role, pattern in patterns:
            if pattern and (found := compiled(pattern).match(path)):
                return Place(role, number, found["root"], _groups(found))
    if spec.split_table and (found := compiled(spec.split_table.path).match(path)):
        return Place("split_table", root=found["root"])
    for pattern in spec.unused:
        if found := compiled(pattern).match(path):
            return Place("unused", root=found["root"])
    return None


def group(spec: SetSpec, urls: Iterable[str], *, prefix: str = "", splits: Mapping[str, str] | None = None) -> Grouped:
    """Return the cases of the files at `urls`, the same for any order of them.

    Args:
        prefix: what patterns see before each url: the name of the source's folder, when it is a part of the layout.
        splits: official split by patient, where a table of the set states it.
    """
    refused: dict[str, tuple[str, str]] = {}
    images: dict[tuple[str, ...], dict[str, Place]] = {}
    masks: dict[tuple[str, ...], dict[str, Place]] = {}
    for url in sorted(urls):
        path = plain_path(prefix + url)
        place = None if is_hidden(url) else place_of(spec, path)
        if place is None or place.role in ("split_table", "unused"):
            refused[url] = _why_not(url, place)
        elif place.role == "image":
            name = spec.parts[place.part].case.format(**place.groups)
            others = (text for key, text in sorted(place.groups.items()) if key not in WITHIN_IMAGE)
            images.setdefault((name, place.root, *others), {})[url] = place
        else:
            masks.setdefault(_shared(spec, place), {})[url] = place
    cases: dict[str, Case] = {}
    claimed: set[str] = set()
    for (name, *_), places in sorted(images.items()):
        if name in cases:
            said = "series.duplicate", "another folder, or series, of the same set has this case already"
            refused |= dict.fromkeys(places, said)
            continue
        drawn = masks.get(_shared(spec, next(iter(places.values()))), {})
        claimed |= set(drawn)
        cases[name] = _case(spec, name, places, drawn, splits or {})
    without = "seg.no_image", "a mask without the image that it belongs to"
    refused |= {url: without for found in masks.values() for url in found if url not in claimed}
    return Grouped(tuple(cases[name] for name in sorted(cases)), refused)


def is_hidden(url: str) -> bool:
    """Whether a file is one of those that macOS and archivers leave beside the real ones (`._a.nii.gz`)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in url.split("/"))


def groups_of(pattern: str, url: str, *, prefix: str = "") -> dict[str, str]:
    """Return the groups of a url that fits `pattern`."""
    found = compiled(pattern).match(plain_path(prefix + url))
    assert found, pattern
    return _groups(found)


def in_order(text: str) -> list[tuple[int, str]]:
    """Return a sorting key by which image_10 follows image_9."""
    return [(int(piece or 0), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text)]


def _groups(found: re.Match[str]) -> dict[str, str]:
    return {name: text or "" for name, text in found.groupdict().items() if name != "root"}


def _why_not(url: str, place: Place | None) -> tuple[str, str]:
    if is_hidden(url):
        return "source.hidden_file", "a file whose name, or its folder's, starts with a dot"
    if place is None:
        return "set.extra_file", "no pattern of the set fits its path"
    if place.role == "split_table":
        return "set.split_table", "the table of the official split is read, not built"
    return "set.unused", "it belongs to the set, which is read without it"


def _shared(spec: SetSpec, place: Place) -> tuple[str, ...]:
    """Return what an image and its masks have in common: the folder, and the groups of both patterns."""
    part = spec.parts[place.part]
    if not part.mask:
        return ("", str(place.part))
    names = set(compiled(part.image).groupindex) & set(compiled(part.mask).groupindex) - {"root", *WITHIN_IMAGE}
    return (part.mask, place.root, *(place.groups[name] for name in sorted(names)))


def _case(
    spec: SetSpec, name: str, images: Mapping[str, Place], masks: Mapping[str, Place], splits: Mapping[str, str]
) -> Case:
    place = next(iter(images.values()))
    part = spec.parts[place.part]
    patient = part.patient.format(**place.groups)
    split = part.split or SPLITS.get(place.groups.get("split", ""), "") or SPLITS.get(splits.get(patient, ""), "")
    return Case(name, patient, split, place.part, _sorted(images), _sorted(masks))


def _sorted(places: Mapping[str, Place]) -> tuple[str, ...]:
    """Return urls in the order of their numbers, a MetaImage's header first ("mhd" is before "raw" and "zraw")."""
    return tuple(sorted(places, key=lambda url: (in_order(os.path.splitext(url)[0]), url)))
