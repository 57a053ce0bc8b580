"""Scans: a folder of DICOM series, volumes and images; a unit is a series with its masks, or a file."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medloom.connectors import dicom, dicom_reference, images, volumes
from medloom.connectors.dicom import Policy
from medloom.connectors.dicom_captures import capture_reason, stated_of
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish, origin_of_series, refusal
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import slug
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.origin import TERMS
from medloom.schemas.volume import Label, Volume

Fallback = Literal["folder", "file"]
GRID_TOLERANCE_MM = 1e-3  # between the places of a volume's and its label map's voxels


@dataclass(frozen=True)
class Scans:
    """A source of scans.

    Attributes:
        name: of the source, a column of every row.
        root: folder by path or fsspec URL. It decides no byte, so it is in no fingerprint.
        deidentify: "on": units, groups and digests are HMAC tokens; "off" is declared for public data.
        group: what stands for the patient where a header names none: the file's folder (the careful choice: one folder
            never splits) or each file by itself.
        terms_id, licence, attribution: what holds for all of it, a row of `TERMS`.
        sources_file: JSON file in the root: {path: {terms_id, licence, attribution}} where files differ; "" for none.
        mask_suffix: what a label map's name adds to its image's stem ("_seg": a.nii.gz and a_seg.nii.gz); "" for none.
        mask_labels: value and name of the classes in such label maps.
        modality, body_part: of volumes and images whose headers name none.
        policy: what becomes of DICOM series with gaps, of tilted ones and of films.
        captures: "quarantine" refuses saved screens, sheets of doses and photographs, whose pixels often name a
            patient, unless the source is public; "read" takes them as pictures.
        version: changes when equal files would give other media.
    """

    name: str
    root: str = field(metadata={"decides": False})
    deidentify: str = "on"
    group: Fallback = "folder"
    terms_id: str = "private"
    licence: str = ""
    attribution: str = ""
    sources_file: str = ""
    mask_suffix: str = ""
    mask_labels: tuple[tuple[int, str], ...] = ()
    modality: str = "OT"
    body_part: str = ""
    policy: Policy = field(default_factory=Policy)
    captures: Literal["quarantine", "read"] = "quarantine"
    version: str = "2"

    kind = "scans"

    def __post_init__(self) -> None:
        if self.terms_id not in TERMS:
            raise ConfigError(f"source {self.name}: terms {self.terms_id!r} are none of {', '.join(TERMS)}")

    def read(self, work: UnitWork) -> UnitMade:
        """Return the samples of one series; called in the guarded child."""
        made = UnitMade(work.unit)
        try:
            stacks = self._stacks(work)
        except Refused as refused:
            made.taken = 1
            made.refused.append(refusal(work, work.unit, "read", refused))
            return made
        made.taken, made.made = 1, len(stacks) - 1
        layers = self._layers(work, made, stacks)
        for stack in stacks:
            key = f"{work.unit}{stack.suffix}"
            if stack.refused:
                made.refused.append(refusal(work, key, "read", stack.refused))
                continue
            finish(work, made, self._medium(work, key, stack, layers[stack.suffix]))
        return made

    def _stacks(self, work: UnitWork) -> list["_Stack"]:
        """Return everything that is in the objects of one unit."""
        kind = work.rows["series"][0]["format"]
        paths = [work.paths[link["url"]] for link in work.links if link["key"] == ""]
        if not paths:
            raise Refused("seg.no_image", "a label map without the image that it belongs to")
        if kind == "dicom":
            read = dicom.read_series(paths, policy=self.policy)
            kept = [self._dicom_stack(stack) for stack in read.stacks]
            return kept + [_Stack(_suffix(part), refused=Refused(why, detail)) for part, why, detail in read.refused]
        copies = Refused("series.duplicate", "another file of the same name, but for its ending, comes before it")
        refused = [_Stack(f"-file-{i + 1}", refused=copies) for i in range(1, len(paths))]
        if kind == "parametric":
            from medloom.connectors import dicom_parametric

            return _numbered(dicom_parametric.read_parametric(paths[0])) + refused
        if kind in volumes.KINDS:
            return _numbered(volumes.read_volumes(paths[0], kind, companions=_beside(work))) + refused
        return [_Stack("", images.read_picture(Path(paths[0]).read_bytes())), *refused]

    def _dicom_stack(self, stack: dicom.Stack) -> "_Stack":
        if self.deidentify == "on" and self.captures == "quarantine" and (why := capture_reason(stack.header)):
            return _Stack(stack.suffix, refused=Refused(why, "its header says that its pixels may name a patient"))
        return _Stack(
            stack.suffix, stack.content, stack.plane, stack.transforms, stated=stated_of(stack.header),
            sop_uids=stack.sop_uids,
        )  # fmt: skip

    def _layers(self, work: UnitWork, made: UnitMade, stacks: list["_Stack"]) -> dict[str, list["_Mask"]]:
        """Return the label maps by stack; one that is on the grid of none is refused, and costs no volume."""
        found: dict[str, list[_Mask]] = {stack.suffix: [] for stack in stacks}
        scans = [stack for stack in stacks if isinstance(stack.content, Volume)]
        masks = [link for link in work.links if link["key"] in ("mask", "seg", "rtstruct")]
        for number, link in enumerate(masks, 1):
            fault, taken = Refused("seg.no_image", "no volume of its series could be read"), False
            for stack in scans:
                try:
                    if link["url"] not in work.paths:
                        raise Refused("source.unreadable", "the label map cannot be read now")
                    found[stack.suffix] += self._masks(work, link, stack, is_one_of_several=len(scans) > 1)
                    taken = True
                except Refused as refused:
                    fault = refused
            if not taken:
                made.made += 1
                made.refused.append(refusal(work, f"{work.unit}-mask-{number}", "read", fault))
        return found

    def _masks(
        self, work: UnitWork, link: dict[str, Any], stack: "_Stack", *, is_one_of_several: bool
    ) -> list["_Mask"]:
        """Return the layers of one object on the grid of a stack's volume; of several, that which it was drawn on."""
        path, volume = work.paths[link["url"]], stack.content
        assert isinstance(volume, Volume)
        if link["key"] in ("seg", "rtstruct"):
            about = dicom_reference.read_reference(path)
            if is_one_of_several and about.sop_uids and stack.sop_uids.isdisjoint(about.sop_uids):
                raise Refused("seg.other_volume", "it was drawn on other images of the series than those of a volume")
        if link["key"] == "seg":
            from medloom.connectors import dicom_seg

            return [_Mask(layer, about.transforms) for layer in dicom_seg.read_seg(path, volume)]
        if link["key"] == "rtstruct":
            from medloom.connectors import dicom_rtstruct

            return [_Mask(layer) for layer in dicom_rtstruct.read_rtstruct(path, volume)]
        with open(path, "rb") as file:
            kind = images.sniff(file.read(images.HEAD_BYTES))
        layers = volumes.read_labels(path, kind, companions=_beside(work))
        for layer in layers:
            if layer.shape != volume.shape or np.abs(layer.affine - volume.affine).max() > GRID_TOLERANCE_MM:
                raise Refused("seg.grid", f"a label map of shape {layer.shape} is not on the grid of {volume.shape}")
        names = {value: Label(name, stated=name) for value, name in self.mask_labels}
        return [_Mask(replace(layer, labels=names or self._labels(layer))) for layer in layers]

    def _labels(self, layer: Volume) -> dict[int, Label]:
        """Return the labels that a file states itself; of patients, a name outside the vocabulary may be a person's."""
        if self.deidentify == "off":
            return layer.labels
        from medloom.connectors.dicom_labels import is_allowed

        unnamed = {value: Label(f"segment {value}") for value in layer.labels}
        return {v: label if is_allowed(label.stated) else unnamed[v] for v, label in layer.labels.items()}

    def _medium(self, work: UnitWork, key: str, stack: "_Stack", masks: list["_Mask"]) -> Medium:
        series = work.rows["series"][0]
        assert stack.content is not None
        return Medium(
            key=key,
            unit=work.unit,
            group=work.group,
            origin=origin_of_series(work),
            content=stack.content,
            seg=tuple(mask.layer for mask in masks),
            labelled=tuple(dict.fromkeys(label.name for mask in masks for label in mask.layer.labels.values())),
            modality=series["modality"],
            body_part=series["body_part"],
            plane=stack.plane or series["plane"],
            text=series["text"],
            transforms=(*stack.transforms, *dict.fromkeys(done for mask in masks for done in mask.transforms)),
            stated=stack.stated,
        )


@dataclass(frozen=True, eq=False)
class _Stack:
    """One volume or picture of a unit, or the refusal of one; `suffix` tells it from the others."""

    suffix: str
    content: Volume | Picture | None = None
    plane: str = ""
    transforms: tuple[str, ...] = ()
    refused: Refused | None = None
    stated: tuple[str, ...] = ()
    sop_uids: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, eq=False)
class _Mask:
    """A label map on the grid of a volume, and what was done to make it one."""

    layer: Volume
    transforms: tuple[str, ...] = ()


def _numbered(found: list[Volume]) -> list[_Stack]:
    """Return the volumes of one file as stacks: "-1", "-2", … when there are several."""
    return [_Stack(f"-{i + 1}" if len(found) > 1 else "", v, plane_of(v)) for i, v in enumerate(found)]


def _beside(work: UnitWork) -> dict[str, str]:
    """Return {name: path} of the unit's files of bare voxels."""
    data = (link["url"] for link in work.links if link["key"] == "data")
    return {os.path.basename(url): work.paths[url] for url in data if url in work.paths}


def _suffix(part: str) -> str:
    """Return what a refused part of a series adds to its unit's name: "-2" as it is, "object 3" as "-object-3"."""
    return part if part.startswith("-") or not part else f"-{slug(part)}"


def plane_of(volume: Volume) -> str:
    """Return "axial", "coronal" or "sagittal": the plane of the stored slices, from the affine."""
    return {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}.get(volume.orientation[2], "sagittal")
