"""Cases: a public segmentation set as its spec describes it; a unit is one image with the masks that belong to it."""

import os
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medloom.connectors import dicom, volumes
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.connectors.segmentation_sets.cases import group
from medloom.connectors.segmentation_sets.spec import Intensity, Part, SetSpec, plain_path
from medloom.pipelines.sources.case_masks import CaseFiles, Masks, read_masks
from medloom.pipelines.sources.scans import plane_of
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish, origin_of_series, refusal
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium
from medloom.schemas.origin import TERMS
from medloom.schemas.volume import Volume


@dataclass(frozen=True)
class Cases:
    """A source of the cases of one public set.

    Attributes:
        name: of the source, a column of every row and the start of its units' keys.
        root: folder by path or fsspec URL. It decides no byte, so it is in no fingerprint.
        spec: what the set looks like.
        within: beginnings of the paths that the set takes, as `plain_path` has them after `prefix`, where other sets
            lie under the same root; () for all of it.
        raters: of masks that several people drew: "vote" keeps what most of them drew, "keep" a layer of each.
        version: changes when equal files would give other media.
    """

    name: str
    root: str = field(metadata={"decides": False})
    spec: SetSpec
    within: tuple[str, ...] = field(default=(), metadata={"decides": False})
    raters: Literal["vote", "keep"] = "vote"
    version: str = "1"

    kind = "cases"
    deidentify = "off"  # published without names
    sources_file = ""  # one licence holds for a whole set

    def __post_init__(self) -> None:
        if self.spec.terms_id not in TERMS:
            raise ConfigError(f"source {self.name}: terms {self.spec.terms_id!r} are none of {', '.join(TERMS)}")

    @property
    def prefix(self) -> str:
        """What patterns see before each url: the root's own name, which may be a part of the layout."""
        return f"{os.path.basename(self.root.rstrip('/'))}/"

    def takes(self, url: str) -> bool:
        """Whether an object under the root is the set's to read or to refuse."""
        return not self.within or plain_path(self.prefix + url).startswith(self.within)

    def read(self, work: UnitWork) -> UnitMade:
        """Return the sample of one case; called in the guarded child."""
        made = UnitMade(work.unit, taken=1)
        files = self._files(work)
        try:
            image, done = read_image(files)
        except Refused as refused:
            made.refused.append(refusal(work, work.unit, "read", refused))
            return made
        masks = Masks()
        if files.masks:
            masks = read_masks(files, image, raters=self.raters)
        elif files.part.mask:
            masks.refused.append(Refused("seg.missing", "the set has a mask for such an image, and it is not there"))
        for number, fault in enumerate(masks.refused, 1):
            made.made += 1
            made.refused.append(refusal(work, f"{work.unit}-mask-{number}", "read", fault))
        finish(work, made, self._medium(work, image, masks, (*done, *masks.done)))
        return made

    def _files(self, work: UnitWork) -> CaseFiles:
        (case,) = group(self.spec, [link["url"] for link in work.links], prefix=self.prefix).cases
        return CaseFiles(
            self.spec,
            self.spec.parts[case.part],
            {url: work.paths[url] for url in case.images},
            {url: work.paths.get(url) for url in case.masks},
            self.prefix,
        )

    def _medium(self, work: UnitWork, image: Volume, masks: Masks, done: tuple[str, ...]) -> Medium:
        series = work.rows["series"][0]
        return Medium(
            key=work.unit,
            unit=work.unit,
            group=work.group,
            origin=origin_of_series(work),
            content=image,
            seg=tuple(masks.layers),
            labelled=tuple(masks.labelled),
            modality=series["modality"],
            body_part=series["body_part"],
            plane=plane_of(image),
            text=series["text"],
            transforms=done,
        )


def read_image(files: CaseFiles) -> tuple[Volume, tuple[str, ...]]:
    """Return the image of a case in the units that its set states, and what was done to it.

    Raises:
        Refused("set.volumes"): its files hold none or several volumes where the set has one.
        Refused: as the readers do.
    """
    paths = list(files.images.values())
    with open(paths[0], "rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
    if kind == "dicom":
        return _of_series(paths, files.part, files.spec.intensity)
    companions = {os.path.basename(url): path for url, path in files.images.items()}
    found = volumes.read_volumes(paths[0], kind, companions=companions)
    if len(found) != 1:
        raise Refused("set.volumes", f"a file of {len(found)} volumes where the set has one")
    return _in_units(found[0], files.part, files.spec.intensity)


def _of_series(paths: list[str], part: Part, intensity: Intensity) -> tuple[Volume, tuple[str, ...]]:
    """Return the one volume of a DICOM series, in the units of its own headers."""
    read = dicom.read_series(paths)
    if read.refused:
        _, reason, detail = read.refused[0]
        raise Refused(reason, detail)
    found = [stack for stack in read.stacks if isinstance(stack.content, Volume)]
    if len(found) != 1 or len(read.stacks) != 1:
        raise Refused("set.volumes", f"a series of {len(read.stacks)} stacks where the set has one volume")
    volume = found[0].content
    assert isinstance(volume, Volume)
    scaled, done = _in_units(volume, part, replace(intensity, units=volume.units))
    return scaled, (*found[0].transforms, *done)


def _in_units(volume: Volume, part: Part, intensity: Intensity) -> tuple[Volume, tuple[str, ...]]:
    if part.modality != "CT":
        return volume, ()
    if (intensity.slope, intensity.offset) == (1.0, 0.0):
        return replace(volume, units=intensity.units), ()
    values = volume.array * np.float64(intensity.slope) + intensity.offset
    limits = np.iinfo(np.int16)
    is_whole = np.array_equal(values, np.rint(values)) and limits.min <= values.min() and values.max() <= limits.max
    array = values.astype(np.int16 if is_whole else np.float32)
    return replace(volume, array=array, units=intensity.units), (
        f"intensity({intensity.slope:g},{intensity.offset:g})",
    )
