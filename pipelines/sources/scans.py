"""Scans: a folder of DICOM series, NIfTI volumes and JPEG/PNG images; a unit is an image series or a file."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medloom.connectors import dicom, images, nifti
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish, refusal
from medloom.schemas.errors import Refused
from medloom.schemas.keys import digest_of
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.origin import TERMS, Origin
from medloom.schemas.volume import Volume

Fallback = Literal["folder", "file"]


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
    version: str = "1"

    kind = "scans"

    def read(self, work: UnitWork) -> UnitMade:
        """Return the samples of one series; called in the guarded child."""
        series = work.rows["series"][0]
        images_of = [link for link in work.links if link["key"] != "mask"]
        made = UnitMade(work.unit)
        paths = [work.paths[link["url"]] for link in images_of]
        try:
            stacks = self._stacks(series["format"], paths)
        except Refused as refused:
            made.taken = 1
            made.refused.append(refusal(work, work.unit, "read", refused))
            return made
        made.taken, made.made = 1, len(stacks) - 1
        for suffix, content, plane, refused_stack in stacks:
            key = f"{work.unit}{suffix}"
            if refused_stack:
                made.refused.append(refusal(work, key, "read", refused_stack))
                continue
            assert content is not None
            finish(work, made, self._medium(work, key, content, plane))
        return made

    def _stacks(self, kind: str, paths: list[str]) -> list[tuple[str, Volume | Picture | None, str, Refused | None]]:
        """Return (suffix, content, plane, refusal) of everything that is in the objects of one unit."""
        if kind == "dicom":
            read = dicom.read_series(paths)
            kept = [(s.suffix, s.content, s.plane, None) for s in read.stacks]
            return kept + [(suffix, None, "", Refused(reason, detail)) for suffix, reason, detail in read.refused]
        if kind in ("nifti", "nifti.gz"):
            volumes = nifti.read_volumes(paths[0])
            many = len(volumes) > 1
            return [(f"-{i + 1}" if many else "", v, plane_of(v), None) for i, v in enumerate(volumes)]
        return [("", images.read_picture(Path(paths[0]).read_bytes()), "", None)]

    def _medium(self, work: UnitWork, key: str, content: Volume | Picture, plane: str) -> Medium:
        series = work.rows["series"][0]
        masks = [link for link in work.links if link["key"] == "mask"] if isinstance(content, Volume) else []
        seg = tuple(self._mask(work.paths[link["url"]]) for link in masks)
        origin = Origin(
            source=self.name,
            source_id=work.unit,
            licence=series["licence"],
            spdx=TERMS[series["terms_id"]].spdx,
            licence_evidence="declared",
            terms_id=series["terms_id"],
            attribution=series["attribution"],
            digest=digest_of(work.digests[link["url"]] for link in work.links),
            fetched_object="" if self.deidentify == "on" else work.links[0]["url"],
            key_id=work.key_id,
        )
        return Medium(
            key=key,
            unit=work.unit,
            group=work.group,
            origin=origin,
            content=content,
            seg=seg,
            labelled=tuple(name for _, name in self.mask_labels) if seg else (),
            modality=series["modality"],
            body_part=series["body_part"],
            plane=plane or series["plane"],
            text=series["text"],
        )

    def _mask(self, path: str) -> Volume:
        """Return a label map as a volume of uint8; that its grid is the image's is checked where both are encoded."""
        label = nifti.read_volumes(path)[0]
        known = dict(self.mask_labels)
        if label.array.min() < 0 or label.array.max() > 255:
            raise Refused("seg.values", "a label map holds values outside 0 to 255")
        return replace(label, array=label.array.astype("uint8"), kind="label", units="label", labels=known)


def plane_of(volume: Volume) -> str:
    """Return "axial", "coronal" or "sagittal": the plane of the stored slices, from the affine."""
    return {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}.get(volume.orientation[2], "sagittal")
