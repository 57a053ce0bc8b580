"""Spec: what a public segmentation set looks like on disk, as data; one engine reads them all.

A pattern is a path with named groups: `{id}` is a piece of one folder or file name, `{id:\\d+}` one that fits, `*` any
piece without a name. It may stand under any folder. The same group in image and mask is the same text. Archives are
folders (`images.zip!/a.nii.gz` is `images/a.nii.gz`), and a folder that repeats its parent's name counts once.
Groups `slice` and `file` number the objects of one image or mask, `split` names the official split, `label` the class
and `rater` who drew it.
"""

import importlib
import pkgutil
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from medloom.connectors import segmentation_sets
from medloom.connectors.anatomy import label
from medloom.schemas.volume import Label

Kind = Literal["label_map", "per_class_files", "per_class_dicom", "png_stack", "multi_rater"]
WITHIN_IMAGE = ("slice", "file")  # groups that tell the objects of one image apart, not two images
SPLITS = {  # how sets call their official splits
    "Tr": "train", "Va": "validation", "Val": "validation", "Ts": "test", "train": "train", "training": "train",
    "Training": "train", "val": "validation", "validation": "validation", "Validation": "validation", "test": "test",
    "01_training": "train", "02_validation": "validation", "03_test": "test", "01training": "train",
    "02validation": "validation", "03test": "test",
}  # fmt: skip
_ARCHIVE = re.compile(r"\.(?:zip|tar|tar\.gz|tgz)!/")
_GROUP = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[\d,]+\})+))?\}|(\*)")


@dataclass(frozen=True)
class Class:
    """One class of a set: the values from `low` to `high` of its masks, and how the set calls it."""

    stated: str
    low: int
    high: int


def numbered(*stated: str, start: int = 1) -> tuple[Class, ...]:
    """Return classes of the values `start`, `start` + 1, … in the order given."""
    return tuple(Class(text, value, value) for value, text in enumerate(stated, start))


@dataclass(frozen=True)
class Intensity:
    """What a stored value means: slope * stored + offset, in `units`."""

    units: str
    slope: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Fix:
    """What must be mended in a set's masks before they fit their images.

    Attributes:
        flip: voxel axes ("x", "y", "z") of the mask that are to be turned around.
        by_index: the mask's own affine says nothing: its voxels are those that dcm2niix makes of the image (x to the
            left, y to the front, z up), after `flip`.
        whole: values carry rounding errors of a stored slope and are rounded.
        sides_by_place: two values of one paired structure whose sides are told by where they lie, not by their number.
        resample: masks have grids of their own and are laid on the image's by their geometry.
        tolerance_mm: how far a mask's voxels may be off the image's and still be the same grid: NIfTI's float32 fields
            put far corners a few thousandths of a millimetre apart.
    """

    flip: tuple[str, ...] = ()
    by_index: bool = False
    whole: bool = False
    sides_by_place: tuple[int, ...] = ()
    resample: bool = False
    tolerance_mm: float = 0.01


@dataclass(frozen=True)
class Part:
    """One way in which images of a set lie, and their masks.

    Attributes:
        image: pattern of its objects; several objects of one case are the slices of one image.
        mask: pattern of its masks, "" when none are published.
        kind: what a mask is.
        classes: values (of "label_map", "png_stack") or names in the order of the values that we give ("per_class_…",
            "multi_rater": names outside of the list come after it).
        modality: of the images.
        case: name of one image, of the groups of `image`.
        patient: whom it shows, of the same groups.
        split: official split of all of it; "" for that of the group `split`, else none.
    """

    image: str
    mask: str = ""
    kind: Kind = "label_map"
    classes: tuple[Class, ...] = ()
    modality: str = "CT"
    case: str = "{id}"
    patient: str = "{id}"
    split: str = ""


@dataclass(frozen=True)
class SplitTable:
    """A file that names the official split of each patient: its pattern, separator and two columns."""

    path: str
    separator: str
    patient: str
    split: str


@dataclass(frozen=True)
class SetSpec:
    """A public set.

    Attributes:
        name: of its source and the start of its units' keys.
        number: in M3D-Seg.
        parts: how its images lie.
        body_part: in our vocabulary, "" where it differs.
        within: the organ that a finding without one belongs to.
        aliases: (as stated, as the vocabulary calls it), where the word alone would be understood otherwise.
        intensity: of CT images; others are in arbitrary units.
        fix: what its masks need.
        split_table: file of the official split.
        patients: name of the numbering of patients, that sets share which show the same ones; "" for its own.
        unused: patterns of files that belong to the set and are not read.
        hint: what a folder above must be called for the set to be recognised, where its files have anybody's names.
        terms_id, licence, attribution: what holds for it.
        n_cases: how many cases with masks it is known to have, in its versions; () where that is not certain.
    """

    name: str
    number: str
    parts: tuple[Part, ...]
    terms_id: str
    licence: str
    attribution: str
    body_part: str = ""
    within: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
    intensity: Intensity = Intensity("HU")
    fix: Fix = Fix()
    split_table: SplitTable | None = None
    patients: str = ""
    unused: tuple[str, ...] = ()
    hint: str = ""
    n_cases: tuple[int, ...] = ()

    def label(self, stated: str) -> Label:
        """Return what the set's `stated` names, in our vocabulary."""
        found = label(dict(self.aliases).get(stated, stated), within=self.within)
        return Label(found.name, found.side, stated)


@lru_cache(maxsize=1)
def known_sets() -> dict[str, SetSpec]:
    """Return every set by name: `SETS` of the modules beside this one."""
    found: dict[str, SetSpec] = {}
    for entry in pkgutil.iter_modules(segmentation_sets.__path__):
        module = importlib.import_module(f"{segmentation_sets.__name__}.{entry.name}")
        found |= {spec.name: spec for spec in getattr(module, "SETS", ())}
    return dict(sorted(found.items(), key=lambda item: item[1].number))


def plain_path(url: str) -> str:
    """Return a url as patterns see it: archives as folders, a folder that repeats its parent's name once."""
    parts: list[str] = []
    for part in _ARCHIVE.sub("/", url).split("/"):
        if part and parts[-1:] != [part]:
            parts.append(part)
    return "/".join(parts)


@lru_cache(maxsize=512)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression for `plain_path`s; its group `root` is the folder that it stands in."""
    text, end, seen = "", 0, set()
    for group in _GROUP.finditer(pattern):
        name, fits, star = group.groups()
        text += re.escape(pattern[end : group.start()])
        text += "[^/]*" if star else f"(?P={name})" if name in seen else f"(?P<{name}>{fits or '[^/]+?'})"
        seen.add(name)
        end = group.end()
    return re.compile(rf"(?P<root>(?:[^/]+/)*?){text}{re.escape(pattern[end:])}\Z")
