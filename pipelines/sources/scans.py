"""Scans: a folder of DICOM series, NIfTI volumes and JPEG/PNG images; a unit is an image series or a file."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medloom.connectors import dicom, images, nifti
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish, refusal
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import digest_of, slug
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.origin import TERMS, Origin
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
        modality, body_part: of NIfTI volumes and images, whose headers name none.
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
    version: str = "1"

    kind = "scans"

    def __post_init__(self) -> None:
        if self.terms_id not in TERMS:
            raise ConfigError(f"source {self.name}: terms {self.terms_id!r} are none of {', '.join(TERMS)}")

    def read(self, work: UnitWork) -> UnitMade:
        """Return the samples of one series; called in the guarded child."""
        series = work.rows["series"][0]
        made = UnitMade(work.unit)
        paths = [work.paths[link["url"]] for link in work.links if link["key"] == ""]
        try:
            stacks = self._stacks(series["format"], paths)
        except Refused as refused:
            made.taken = 1
            made.refused.append(refusal(work, work.unit, "read", refused))
            return made
        made.taken, made.made = 1, len(stacks) - 1
        for stack in stacks:
            key = f"{work.unit}{stack.suffix}"
            if stack.refused:
                made.refused.append(refusal(work, key, "read", stack.refused))
                continue
            seg = self._layers(work, made, key, stack.content) if isinstance(stack.content, Volume) else ()
            finish(work, made, self._medium(work, key, stack, seg))
        return made

    def _stacks(self, kind: str, paths: list[str]) -> list["_Stack"]:
        """Return everything that is in the objects of one unit."""
        if kind == "dicom":
            read = dicom.read_series(paths)
            kept = [_Stack(s.suffix, s.content, s.plane, s.transforms) for s in read.stacks]
            return kept + [_Stack(_suffix(part), refused=Refused(why, detail)) for part, why, detail in read.refused]
        if not paths:
            raise Refused("seg.no_image", "a label map without the image that it belongs to")
        copies = Refused("series.duplicate", "another file of the same name, but for its ending, comes before it")
        refused = [_Stack(f"-file-{i + 1}", refused=copies) for i in range(1, len(paths))]
        if kind in ("nifti", "nifti.gz"):
            volumes = nifti.read_volumes(paths[0])
            many = len(volumes) > 1
            return [_Stack(f"-{i + 1}" if many else "", v, plane_of(v)) for i, v in enumerate(volumes)] + refused
        return [_Stack("", images.read_picture(Path(paths[0]).read_bytes())), *refused]

    def _layers(self, work: UnitWork, made: UnitMade, key: str, volume: Volume) -> tuple[Volume, ...]:
        """Return the label maps on the grid of `volume`; one that is refused leaves the volume without it."""
        layers: list[Volume] = []
        for number, link in enumerate((link for link in work.links if link["key"] == "mask"), 1):
            try:
                if link["url"] not in work.paths:
                    raise Refused("source.unreadable", "the label map cannot be read now")
                layers += self._mask(work.paths[link["url"]], volume)
            except Refused as refused:
                made.made += 1
                made.refused.append(refusal(work, f"{key}-mask-{number}", "read", refused))
        return tuple(layers)

    def _mask(self, path: str, volume: Volume) -> list[Volume]:
        layers = nifti.read_labels(path)
        for layer in layers:
            if layer.shape != volume.shape or np.abs(layer.affine - volume.affine).max() > GRID_TOLERANCE_MM:
                raise Refused("seg.grid", f"a label map of shape {layer.shape} is not on the grid of {volume.shape}")
        return [
            replace(layer, labels={value: Label(name, stated=name) for value, name in self.mask_labels})
            for layer in layers
        ]

    def _medium(self, work: UnitWork, key: str, stack: "_Stack", seg: tuple[Volume, ...]) -> Medium:
        series = work.rows["series"][0]
        assert stack.content is not None
        origin = Origin(
            source=self.name,
            source_id=work.unit,
            licence=series["licence"],
            spdx=TERMS[series["terms_id"]].spdx,
            licence_evidence="declared",
            terms_id=series["terms_id"],
            attribution=series["attribution"],
            digest=digest_of(sorted(work.digests[link["url"]] for link in work.links)),
            fetched_object="" if self.deidentify == "on" else work.links[0]["url"],
            key_id=work.key_id,
        )
        return Medium(
            key=key,
            unit=work.unit,
            group=work.group,
            origin=origin,
            content=stack.content,
            seg=seg,
            labelled=tuple(name for _, name in self.mask_labels) if seg else (),
            modality=series["modality"],
            body_part=series["body_part"],
            plane=stack.plane or series["plane"],
            text=series["text"],
            transforms=stack.transforms,
        )


@dataclass(frozen=True, eq=False)
class _Stack:
    """One volume or picture of a unit, or the refusal of one; `suffix` tells it from the others."""

    suffix: str
    content: Volume | Picture | None = None
    plane: str = ""
    transforms: tuple[str, ...] = ()
    refused: Refused | None = None


def _suffix(part: str) -> str:
    """Return what a refused part of a series adds to its unit's name: "-2" as it is, "object 3" as "-object-3"."""
    return part if part.startswith("-") or not part else f"-{slug(part)}"


def plane_of(volume: Volume) -> str:
    """Return "axial", "coronal" or "sagittal": the plane of the stored slices, from the affine."""
    return {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}.get(volume.orientation[2], "sagittal")
