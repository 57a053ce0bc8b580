"""Volumes: every file format of 3-D images but DICOM, behind one reader; what a file is says `images.sniff`.

Every format is held to the same: left and right are stated or the file is refused; a value is one real number; the file
holds the bytes that its header declares; nothing is allocated before its size was checked.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medloom.connectors import metaimage, mgh, nifti, nrrd
from medloom.connectors.voxels import Stored, classes, intensities, read_stored
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume

KINDS = ("nifti", "nifti.gz", "nrrd", "mha", "mhd", "mgz", "mgh")


@dataclass(frozen=True)
class VolumeHeader:
    """What a header says of the volumes of a file.

    Attributes:
        shape: (Z, Y, X) of one volume.
        spacing_mm: (Z, Y, X), of the affine.
        n_volumes: how many volumes or layers it holds.
        companions: names of the files beside it that hold its voxels; () when it holds them itself.
        is_segmentation: whether it states segments, as 3D Slicer does: read it by `read_labels`.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    n_volumes: int
    companions: tuple[str, ...] = ()
    is_segmentation: bool = False


def read_header(path: str | os.PathLike[str], kind: str) -> VolumeHeader:
    """Return the header of a file; its voxels are not read.

    Args:
        kind: one of `KINDS`.

    Raises:
        Refused: as the `read_header` of the format does.
    """
    stored, segments = _header(path, kind)
    companions = (stored.companion,) if stored.companion else ()
    return VolumeHeader(stored.shape, stored.spacing_mm, stored.n_volumes, companions, bool(segments))


def read_volumes(
    path: str | os.PathLike[str], kind: str, *, companions: Mapping[str, str] | None = None
) -> list[Volume]:
    """Return the volumes of a file; integers stay integers of 8 or 16 bits where they fit, others become float32.

    The units are "arbitrary", since no format but DICOM states what a value means.

    Args:
        kind: one of `KINDS`.
        companions: {name: path} of the files that the header names, where they do not lie in its folder.

    Raises:
        Refused: as `read_header`; "….truncated", "….corrupt", "….extra" of its bytes; "….range", "….not_finite" of its
            values; "….companion" when the file of its voxels is not there.
    """
    stored, _ = _header(path, kind)
    return [Volume(intensities(one, stored), stored.affine) for one in read_stored(path, stored, companions)]


def read_labels(
    path: str | os.PathLike[str], kind: str, *, companions: Mapping[str, str] | None = None
) -> list[Volume]:
    """Return the label maps of a file as uint8 or uint16; `labels` holds the segments that 3D Slicer states.

    Raises:
        Refused: as `read_volumes`; "….labels" when a value is not a whole number from 0 to 65535; "nrrd.segments" when
            values and segments are not the same.
    """
    stored, segments = _header(path, kind)
    layers = [
        Volume(classes(one, stored), stored.affine, units="label", kind="label")
        for one in read_stored(path, stored, companions)
    ]
    return _named(layers, segments) if segments else layers


def _header(path: str | os.PathLike[str], kind: str) -> tuple[Stored, tuple[nrrd.Segment, ...]]:
    if kind in ("nifti", "nifti.gz"):
        return nifti.read_header(path), ()
    if kind == "nrrd":
        header = nrrd.read_header(path)
        return header.stored, header.segments
    if kind in ("mha", "mhd"):
        return metaimage.read_header(path), ()
    if kind in ("mgz", "mgh"):
        return mgh.read_header(path), ()
    raise Refused("volume.format", f"{kind} is none of {', '.join(KINDS)}")


def _named(layers: list[Volume], segments: tuple[nrrd.Segment, ...]) -> list[Volume]:
    """Return the layers with the labels of their segments; a value that no segment states is refused."""
    from medloom.connectors.anatomy import label

    if any(segment.layer >= len(layers) for segment in segments):
        raise Refused("nrrd.segments", f"a segment is in none of the {len(layers)} layers")
    named = []
    for number, layer in enumerate(layers):
        table: dict[int, Label] = {s.value: label(s.stated) for s in segments if s.layer == number}
        found = {value for plane in layer.array for value in np.unique(plane).tolist()}
        unknown = found - {0, *table}
        if unknown:
            raise Refused("nrrd.segments", f"layer {number} holds {len(unknown)} values that no segment states")
        named.append(Volume(layer.array, layer.affine, layer.units, layer.kind, table))
    return named
