"""Encode: a medium becomes the members that stand side by side in a tar, the same bytes for the same medium."""

import io
from dataclasses import asdict
from typing import Any

import numpy as np

from medloom.schemas import b2nd
from medloom.schemas.errors import Refused
from medloom.schemas.keys import canonical_json
from medloom.schemas.medium import LAYOUTS, Medium, Member, Picture, Sample, json_facts, region_rows
from medloom.schemas.volume import Volume

THUMB_HEIGHT_PX, THUMB_WIDTH_PX = 192, 384  # of each of the three planes
THUMB_QUALITY = 85
CT_WINDOW_HU = (-160.0, 240.0)  # level 40, width 400: soft tissue
ISOTROPIC_RATIO = 1.5  # largest over smallest spacing up to which cubes are the better chunks
GRID_TOLERANCE_MM = 1e-3


def encode(medium: Medium, *, split: str, codec: b2nd.Codec = b2nd.DEFAULT_CODEC) -> Sample:
    """Return `medium` as stored, members in the order of its layout; `codec` is that of volumes, not of masks.

    Raises:
        Refused("seg.grid"): a mask has another shape or place than the volume.
        Refused("seg.dtype"): a mask is neither uint8 nor uint16.
    """
    made = {"json": Member(data=(canonical_json(json_facts(medium, split)) + "\n").encode())}
    if isinstance(medium.content, Picture):
        picture = medium.content
        shape = (picture.height, picture.width, picture.channels)
        made[picture.format] = Member(data=picture.data, shape=shape, dtype="uint8")
    else:
        made["ct.b2nd"] = _volume_member(medium.content, codec)
        made["thumb.jpg"] = _thumb_member(medium.content, is_ct=medium.modality == "CT")
        if medium.seg:
            made["seg.b2nd"] = _seg_member(medium.content, medium.seg)
    members = {field: made[field] for field in LAYOUTS[medium.layout]}
    return Sample(key=medium.key, layout=medium.layout, members=members, columns=_columns(medium, split))


def _columns(medium: Medium, split: str) -> dict[str, Any]:
    return {
        "unit": medium.unit,
        "group": medium.group,
        "split": split,
        "layout": medium.layout,
        "modality": medium.modality,
        "body_part": medium.body_part,
        "plane": medium.plane,
        "source": medium.origin.source,
        "licence": medium.origin.licence,
        "terms_id": medium.origin.terms_id,
        "digest": medium.origin.digest,
        "pixel_digest": medium.pixel_digest,
        "measured": {name: float(value) for name, value in sorted(medium.measured.items())},
        "phash": medium.phash,
        "panels": [asdict(panel) for panel in medium.panels],
        "labels": region_rows(medium) if medium.seg else [],
        "labelled": list(medium.labelled) if medium.seg else [],
        "affine": medium.content.affine.ravel().tolist() if isinstance(medium.content, Volume) else [],
        "units": medium.content.units if isinstance(medium.content, Volume) else "",
        "face": medium.face,
        "voxel_digest": medium.voxel_digest,
    }


def _volume_member(volume: Volume, codec: b2nd.Codec) -> Member:
    isotropic = max(volume.spacing_mm) <= ISOTROPIC_RATIO * min(volume.spacing_mm)
    return _placed(b2nd.encode_volume(volume.array, isotropic=isotropic, codec=codec), volume)


def _seg_member(volume: Volume, layers: tuple[Volume, ...]) -> Member:
    for number, layer in enumerate(layers):
        if layer.array.dtype not in (np.uint8, np.uint16):
            raise Refused("seg.dtype", f"layer {number} holds {layer.array.dtype}, not uint8 or uint16 classes")
        if layer.shape != volume.shape or np.abs(layer.affine - volume.affine).max() > GRID_TOLERANCE_MM:
            raise Refused("seg.grid", f"layer {number} of shape {layer.shape} is not on the grid of {volume.shape}")
    wide = any(layer.array.dtype == np.uint16 for layer in layers)
    stacked = np.stack([layer.array for layer in layers]).astype(np.uint16 if wide else np.uint8, copy=False)
    return _placed(b2nd.encode_labels(stacked), volume)


def _placed(member: Member, volume: Volume) -> Member:
    return Member(**{**vars(member), "spacing_mm": volume.spacing_mm})


def _thumb_member(volume: Volume, *, is_ct: bool) -> Member:
    from PIL import Image

    montage = _montage(volume, CT_WINDOW_HU if is_ct and volume.units == "HU" else None)
    file = io.BytesIO()
    Image.fromarray(montage).save(file, format="JPEG", quality=THUMB_QUALITY, subsampling=0, optimize=False)
    return Member(data=file.getvalue(), shape=(*montage.shape, 1), dtype="uint8")


def _montage(volume: Volume, window: tuple[float, float] | None) -> np.ndarray:
    """Return the middle axial, coronal and sagittal planes side by side as uint8 (Y, X), black where there is nothing.

    As a radiologist sees them: the patient's right on the left, anterior up or left, superior up; one scale for all.
    """
    from PIL import Image

    canonical = volume.canonical()
    array, (z_mm, y_mm, x_mm) = canonical.array, canonical.spacing_mm
    z, y, x = (n // 2 for n in array.shape)
    planes = [
        (array[z], y_mm, x_mm),
        (array[::-1, y, :], z_mm, x_mm),
        (array[::-1, :, x], z_mm, y_mm),
    ]
    low, high = window or _spread(np.concatenate([plane.ravel() for plane, _, _ in planes]))
    sizes_mm = [(plane.shape[0] * row_mm, plane.shape[1] * column_mm) for plane, row_mm, column_mm in planes]
    scale = min(THUMB_HEIGHT_PX / max(h for h, _ in sizes_mm), THUMB_WIDTH_PX / max(w for _, w in sizes_mm))
    tiles = []
    for (plane, _, _), (height_mm, width_mm) in zip(planes, sizes_mm, strict=True):
        shown = plane.astype(np.float64)  # in place: fresh memory for each step would cost more than the step
        shown -= low
        shown *= 255 / (high - low)
        np.rint(np.clip(shown, 0, 255, out=shown), out=shown)
        size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
        image = Image.fromarray(shown.astype(np.uint8))
        tiles.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR)))
    tallest = max(tile.shape[0] for tile in tiles)
    return np.concatenate([_centred(tile, tallest) for tile in tiles], axis=1)


def _spread(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    return (low, high) if high > low else (low, low + 1)


def _centred(tile: np.ndarray, height: int) -> np.ndarray:
    above = (height - tile.shape[0]) // 2
    return np.pad(tile, ((above, height - tile.shape[0] - above), (0, 0)))
