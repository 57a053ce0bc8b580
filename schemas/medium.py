"""Medium: one image or volume of a unit, as decoded and after each stage; `Sample` is its stored form."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medloom.schemas.origin import Origin
from medloom.schemas.volume import Label, Volume

Layout = Literal["jpg", "png", "volume", "volume-seg"]
LAYOUTS: dict[str, tuple[str, ...]] = {  # one field set per layout, members of a sample in this order
    "jpg": ("json", "jpg"),
    "png": ("json", "png"),
    "volume": ("json", "ct.b2nd", "thumb.jpg"),
    "volume-seg": ("json", "ct.b2nd", "seg.b2nd", "thumb.jpg"),
}
Face = Literal["", "none", "possible", "removed"]
STATED = ("burned_in", "derived", "features_removed")
MODALITIES = ("CT", "MR", "PT", "US", "CR", "DX", "MG", "XA", "NM", "OT", "figure", "label")


@dataclass(frozen=True, eq=False)
class Picture:
    """A 2D image in its encoding, with metadata segments stripped losslessly.

    Attributes:
        data: the encoded bytes, JPEG or PNG.
        format: "jpg" or "png".
        height, width: in pixels.
        channels: 1 or 3 (4 with alpha, PNG only).
        reencoded: True when the bytes are ours and not the source's encoding (a windowed X-ray, a palette).
    """

    data: bytes
    format: Literal["jpg", "png"]
    height: int
    width: int
    channels: int
    reencoded: bool = False


@dataclass(frozen=True)
class PanelBox:
    """Where a panel of a compound figure stands: a region of the stored figure, never a crop.

    Attributes:
        letter: of the panel as its caption declares it, upper-case; "" when no letter could be given.
        box: half-open pixel indices (y0, x0, y1, x1) of the stored figure.
        confidence: that the box is this panel, 0 to 1.
    """

    letter: str
    box: tuple[int, int, int, int]
    confidence: float


@dataclass(frozen=True)
class Region:
    """One class of a medium's masks as stored, measured on the stored grid.

    Attributes:
        layer, value: where it stands in `seg.b2nd`.
        label: what it is.
        voxels: how many; 0 when the class was labelled and is not there.
        volume_ml: voxels times the volume of one.
        box: half-open voxel indices (z0, y0, x0, z1, y1, x1); six zeros when there is no voxel.
    """

    layer: int
    value: int
    label: Label
    voxels: int
    volume_ml: float
    box: tuple[int, int, int, int, int, int]


@dataclass(frozen=True, eq=False)
class Medium:
    """One image or volume.

    Attributes:
        key: `[a-z0-9_-]{1,64}`, unique in the build.
        unit, group: what it was read with, and the patient or article that never splits.
        origin: source, licence, digest.
        content: a `Volume` (3D) or a `Picture` (2D).
        seg: label volumes on the grid of `content`, one per layer; () without masks.
        labelled: names of the classes that were labelled at all in this unit (partial labels).
        modality: one of `MODALITIES`.
        body_part, plane: in our vocabulary ("chest"; "axial", "coronal", "sagittal"), "" when not known.
        text: the caption, or the scrubbed report.
        transforms: what was done to it, in order, with parameters ("resample(1.5,1.5,1.5)").
        measured: measured values by name; every medium of a layout has the same names.
        pixel_digest: sha256 of stored pixels in canonical orientation, by which exact duplicates are found.
        voxel_digest: sha256 of a volume's values as read, in canonical orientation and before any stage, by which the
            same scan is found in two sets that store it on other grids or in other types; "" for a picture.
        phash: perceptual hash of a picture, by which near-duplicates are found; "" for a volume.
        declared: panels that its caption declares, in order: letters, or words of place ("left"); () for none.
        panels: boxes of a compound figure's panels; () when it is one picture or was left whole.
        regions: the classes of `seg`, measured; () without masks, or before they were measured.
        face: whether a face might be told from it: "possible" for a scan of a head, "removed", "none", "" not judged.
        stated: of `STATED`, what its header says for the stages that guard identity, never stored: that names stand in
            its pixels, that it was drawn from other images, that recognizable features were removed.
    """

    key: str
    unit: str
    group: str
    origin: Origin
    content: Volume | Picture
    seg: tuple[Volume, ...] = ()
    labelled: tuple[str, ...] = ()
    modality: str = "OT"
    body_part: str = ""
    plane: str = ""
    text: str = ""
    transforms: tuple[str, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)
    pixel_digest: str = ""
    phash: str = ""
    declared: tuple[str, ...] = ()
    panels: tuple[PanelBox, ...] = ()
    regions: tuple[Region, ...] = ()
    voxel_digest: str = ""
    face: Face = ""
    stated: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        """Which tar it goes to."""
        if isinstance(self.content, Picture):
            return self.content.format
        return "volume-seg" if self.seg else "volume"


@dataclass(frozen=True)
class Member:
    """One file of a sample in a tar, and what the index says of it.

    Attributes:
        data: the bytes.
        shape, dtype, spacing_mm: of the array inside, (Z, Y, X) or (Y, X, C); (), "" and () for json.
        chunk_shape, block_shape: of a b2nd.
        chunk_offsets, chunk_sizes, chunk_crc32c: of a b2nd: where each compressed chunk starts in `data`, its bytes
            and their checksum, so that a region of it can be read and checked alone.
    """

    data: bytes
    shape: tuple[int, ...] = ()
    dtype: str = ""
    spacing_mm: tuple[float, ...] = ()
    chunk_shape: tuple[int, ...] = ()
    block_shape: tuple[int, ...] = ()
    chunk_offsets: tuple[int, ...] = ()
    chunk_sizes: tuple[int, ...] = ()
    chunk_crc32c: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A medium as stored: its members by field name, and the columns that the index repeats for filters."""

    key: str
    layout: Layout
    members: dict[str, Member]
    columns: dict[str, Any]


def json_facts(medium: Medium, split: str) -> dict[str, Any]:
    """Return what the `json` member says: one null-free key set per layout, so that any reader can use the tar alone.

    Lists are never empty and never mix types (Hugging Face takes a field's type from the first samples).
    """
    facts: dict[str, Any] = {
        "key": medium.key, "unit": medium.unit, "group": medium.group, "split": split, "layout": medium.layout,
        "modality": medium.modality, "body_part": medium.body_part, "plane": medium.plane, "text": medium.text,
        "source": medium.origin.source, "source_id": medium.origin.source_id, "licence": medium.origin.licence,
        "spdx": medium.origin.spdx, "licence_evidence": medium.origin.licence_evidence,
        "terms_id": medium.origin.terms_id, "attribution": medium.origin.attribution, "digest": medium.origin.digest,
        "fetched_object": medium.origin.fetched_object, "derived_from": medium.origin.derived_from,
        "key_id": medium.origin.key_id, "transforms": "; ".join(medium.transforms),
        "measured": {name: float(value) for name, value in sorted(medium.measured.items())},
        "pixel_digest": medium.pixel_digest,
    }  # fmt: skip
    if isinstance(medium.content, Picture):
        picture = medium.content
        facts |= {"height": picture.height, "width": picture.width, "channels": picture.channels}
        facts |= {"reencoded": picture.reencoded}
        return facts
    volume = medium.content
    facts |= {
        "shape": list(volume.shape), "dtype": volume.array.dtype.name, "units": volume.units,
        "spacing_mm": [float(s) for s in volume.spacing_mm], "orientation": volume.orientation,
        "affine": [[float(v) for v in row] for row in np.asarray(volume.affine)],
        "voxel_digest": medium.voxel_digest, "face": medium.face,
    }  # fmt: skip
    if medium.seg:
        facts |= {"labels": region_rows(medium), "labelled": ", ".join(medium.labelled)}
    return facts


def region_rows(medium: Medium) -> list[dict[str, Any]]:
    """Return the table of a medium's classes, as json and index hold it: layer, value, name, side, stated, voxels,
    volume_ml, box. Classes that were not measured have 0 voxels.
    """
    measured = {(region.layer, region.value): region for region in medium.regions}
    rows = []
    for layer, seg in enumerate(medium.seg):
        for value, label in sorted(seg.labels.items()):
            region = measured.get((layer, value)) or Region(layer, value, label, 0, 0.0, (0,) * 6)
            row = {"layer": layer, "value": int(value), "name": label.name, "side": label.side, "stated": label.stated}
            rows.append(row | {"voxels": region.voxels, "volume_ml": region.volume_ml, "box": list(region.box)})
    return rows
