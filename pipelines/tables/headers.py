"""Headers: what the objects of a folder of scans are, each read by itself in a guarded child, pixels unread."""

import math
import os
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pyarrow as pa

from medloom.connectors import dicom, volumes
from medloom.connectors.dicom_reference import read_reference
from medloom.connectors.guard import Guard, GuardBug
from medloom.connectors.images import sniff
from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.members import read_object
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.tables.found import reading_bug
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity

HEADER_TIMEOUT_S = 60.0
SCANS = ("dicom", *volumes.KINDS, "jpg", "png", "tiff", "gif")
BESIDE = (".raw", ".zraw", ".raw.gz")  # files that hold the voxels of a header beside them

# What one object is. `role` is the `key` of its link: "" for what makes a unit, "mask", "seg", "rtstruct", "data";
# `object` and `names` are SOPInstanceUIDs: its own, and that of an image that a SEG is about when it names no series.
HEADER = pa.schema([
    *OBJECT,
    ("format", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("role", pa.string()),
    ("series", pa.string()), ("study", pa.string()), ("patient", pa.string()), ("object", pa.string()),
    ("names", pa.string()), ("modality", pa.string()), ("body_part", pa.string()), ("plane", pa.string()),
    ("rows", pa.int32()), ("columns", pa.int32()), ("spacing_mm", pa.list_(pa.float64())),
])  # fmt: skip


def read_headers(batches: Iterator[pa.RecordBatch], source: Scans, identity: Identity) -> Iterator[pa.RecordBatch]:
    """Give rows of `HEADER` for rows of `OBJECT`, for Spark.

    Raises:
        BugError: a reader failed in a way that is no refusal.
    """
    with Guard() as guard:
        for batch in batches:
            named = sorted(batch.to_pylist(), key=itemgetter("url"))  # so that each archive is opened once
            rows = [_header(guard, source, identity, row) for row in named]
            yield from pa.Table.from_pylist(rows, schema=HEADER).to_batches()


def _header(guard: Guard, source: Scans, identity: Identity, row: dict[str, Any]) -> dict[str, Any]:
    """Return one object's header facts, or the reason why it is none."""
    url = row["url"]
    facts: dict[str, Any] = {
        **row, "format": "", "reason": "", "detail": "", "role": "", "series": url, "study": "", "patient": "",
        "object": "", "names": "", "modality": source.modality, "body_part": source.body_part, "plane": "", "rows": 0,
        "columns": 0, "spacing_mm": [],
    }  # fmt: skip
    try:
        if url == source.sources_file:
            raise Refused("source.terms_file", "the file of terms is read, not built")
        if os.path.basename(url).startswith("."):
            raise Refused("source.hidden_file", "a file whose name starts with a dot; delete it or rename it")
        facts["format"] = kind = sniff(read_object(source.root, url, etag=row["etag"], limit_bytes=4096))
        if kind not in SCANS and not (kind == "unknown" and url.lower().endswith(BESIDE)):
            raise Refused("source.format", f"{kind} is no DICOM, NIfTI, NRRD, MetaImage, MGH or image file")
        if kind == "unknown":
            facts |= {"role": "data", "series": _stem(url, source)[0]}
        elif kind == "dicom":
            facts |= _dicom_facts(guard, source, url, row["etag"])
        elif kind in volumes.KINDS:
            facts |= _volume_facts(guard, source, url, row["etag"], kind)
    except Refused as refused:
        facts |= {"series": url, "reason": refused.reason, "detail": refused.detail}
    except GuardBug as fault:
        raise reading_bug(fault, identity, url) from None
    return facts


def _dicom_facts(guard: Guard, source: Scans, url: str, etag: str) -> dict[str, Any]:
    with local_copy(source.root, url, etag=etag) as path:
        try:
            header = guard.call(dicom.read_header, path, timeout_s=HEADER_TIMEOUT_S)
        except Refused as refused:
            if refused.reason != "dicom.not_an_image":
                raise
            return _reference_facts(guard, path, url, refused)
    return {
        "series": header.series_in(os.path.dirname(url)) or url,
        "study": header.study_uid,
        "patient": _patient(header.issuer, header.patient_id),
        "object": header.sop_uid,
        "modality": header.modality,
        "body_part": header.body_part,
        "plane": _plane(header.orientation),
        "rows": header.rows,
        "columns": header.columns,
        "spacing_mm": list(header.pixel_spacing or ()),
    }


def _reference_facts(guard: Guard, path: str, url: str, refused: Refused) -> dict[str, Any]:
    """Return the facts of a SEG or RTSTRUCT, which belongs to the series it is about, or of a parametric map."""
    try:
        about = guard.call(read_reference, path, timeout_s=HEADER_TIMEOUT_S)
    except Refused as fault:
        raise refused if fault.reason == "reference.kind" else fault from None
    facts = {"study": about.study_uid, "patient": _patient(about.issuer, about.patient_id)}
    if about.kind == "parametric":
        return facts | {"format": "parametric"}
    named = about.series_uids[0] if about.series_uids else ""
    return facts | {"role": about.kind, "series": named, "names": about.sop_uids[0] if about.sop_uids else ""}


def _patient(issuer: str, patient_id: str) -> str:
    return f"{issuer}\x00{patient_id}" if patient_id else ""


def _volume_facts(guard: Guard, source: Scans, url: str, etag: str, kind: str) -> dict[str, Any]:
    with local_copy(source.root, url, etag=etag) as path:
        header = guard.call(volumes.read_header, path, kind, timeout_s=HEADER_TIMEOUT_S)
    series, is_mask = _stem(url, source)
    return {
        "series": series.removesuffix(".seg") if header.is_segmentation else series,
        "role": "mask" if is_mask or header.is_segmentation else "",
        "rows": header.shape[1],
        "columns": header.shape[2],
        "spacing_mm": list(header.spacing_mm),
    }


def _stem(url: str, source: Scans) -> tuple[str, bool]:
    """Return the path of the series that a file belongs to by its name, and whether the name says that it is a mask."""
    folder, name = os.path.split(url)
    stem = name
    for ending in (".gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".raw", ".zraw"):
        stem = stem.removesuffix(ending)
    is_mask = bool(source.mask_suffix) and stem.endswith(source.mask_suffix)
    return os.path.join(folder, stem.removesuffix(source.mask_suffix) if is_mask else stem), is_mask


def _plane(orientation: tuple[float, ...] | None) -> str:
    """Return the plane whose normal is the largest component of row x column cosines, "" without orientation."""
    if not orientation:
        return ""
    r, c = orientation[:3], orientation[3:]
    normal = (r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0])
    largest = max(range(3), key=lambda i: abs(normal[i]))
    return ("sagittal", "coronal", "axial")[largest] if math.hypot(*normal) > 0.5 else ""
