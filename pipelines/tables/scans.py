"""Spark over scans: read each object's header once, group files into series, and turn what identifies into tokens."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.connectors import dicom, nifti
from medloom.connectors.guard import Guard, GuardBug
from medloom.connectors.images import sniff
from medloom.pipelines.sources.listing import OBJECT, read_object
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.tables.found import REFUSED_OBJECT, Found, reading_bug, refused_row
from medloom.schemas.build import conform
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import Identity
from medloom.schemas.origin import TERMS
from medloom.schemas.tables import LINK, TABLES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEADER_TIMEOUT_S = 60.0
SCANS = ("dicom", "nifti", "nifti.gz", "jpg", "png", "tiff", "gif")

_HEADER = pa.schema([
    *OBJECT,
    ("format", pa.string()), ("reason", pa.string()), ("detail", pa.string()),
    ("series", pa.string()), ("study", pa.string()), ("patient", pa.string()), ("is_mask", pa.bool_()),
    ("modality", pa.string()), ("body_part", pa.string()), ("plane", pa.string()),
    ("rows", pa.int32()), ("columns", pa.int32()), ("spacing_mm", pa.list_(pa.float64())),
])  # fmt: skip
_UNIT = pa.schema([
    ("unit", pa.string()), ("group", pa.string()), ("series", pa.list_(pa.struct(list(TABLES["series"])))),
    ("links", pa.list_(pa.struct(list(LINK)))), ("refused", pa.list_(pa.struct(list(REFUSED_OBJECT)))),
])  # fmt: skip
MODALITY_NAMES = {
    "CT": "CT", "MR": "MR", "PT": "PET", "US": "Ultrasound", "CR": "Radiograph", "DX": "Radiograph",
    "MG": "Mammogram", "XA": "Angiogram", "NM": "Scintigram",
}  # fmt: skip


def read_scans(
    spark: "SparkSession", source: Scans, objects: pa.Table, *, identity: Identity, partitions: int, again: bool
) -> Found:
    """Return what the objects of a source came to.

    Args:
        objects: rows of `OBJECT`, all of the source: a new slice changes the series that it belongs to.
        identity: makes the tokens; nothing that identifies leaves this function but in "links".
        partitions: tasks that share the reading.
        again: whether the terms of the source's objects changed.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    terms = _terms(source)
    units = (
        spark.createDataFrame(objects)
        .repartition(partitions, "url")
        .mapInArrow(lambda batches: _read_headers(batches, source, identity), from_arrow_schema(_HEADER))
        .groupBy("series", "patient")
        .applyInArrow(lambda table: _unit_of(table, source, identity, terms), from_arrow_schema(_UNIT))
        .toArrow()
    )

    def flat(name: str) -> pa.Table:
        return pa.Table.from_struct_array(pc.list_flatten(units[name].combine_chunks()))

    series = conform(flat("series"), TABLES["series"]).sort_by("unit")
    groups = {row["unit"]: row["group"] for row in units.select(["unit", "group"]).to_pylist() if row["unit"]}
    links, refused = flat("links").to_pylist(), flat("refused").to_pylist()
    return Found(source.name, objects, objects, links, refused, groups, lambda: iter([{"series": series}]), again)


def _terms(source: Scans) -> dict[str, dict[str, str]]:
    """Return {path: {terms_id, licence, attribution}} of the source's file of terms."""
    if not source.sources_file:
        return {}
    try:
        terms = dict(json.loads(read_object(source.root, source.sources_file)))
        unknown = {t for stated in terms.values() if (t := stated.get("terms_id", source.terms_id)) not in TERMS}
    except (Refused, ValueError, AttributeError, TypeError) as fault:
        raise ConfigError(f"cannot read the terms in {source.root}/{source.sources_file}: {fault}") from fault
    if unknown:
        raise ConfigError(
            f"{source.root}/{source.sources_file}: {', '.join(map(repr, sorted(unknown)))} are no terms_id"
        )
    return terms


def _read_headers(batches: Iterator[pa.RecordBatch], source: Scans, identity: Identity) -> Iterator[pa.RecordBatch]:
    with Guard() as guard:
        for batch in batches:
            rows = [_header(guard, source, identity, row) for row in batch.to_pylist()]
            yield from pa.Table.from_pylist(rows, schema=_HEADER).to_batches()


def _header(guard: Guard, source: Scans, identity: Identity, row: dict[str, Any]) -> dict[str, Any]:
    """Return one object's header facts, or the reason why it is none."""
    url = row["url"]
    facts: dict[str, Any] = {
        **row, "format": "", "reason": "", "detail": "", "series": url, "study": "", "patient": "", "is_mask": False,
        "modality": source.modality, "body_part": source.body_part, "plane": "", "rows": 0, "columns": 0,
        "spacing_mm": [],
    }  # fmt: skip
    try:
        if url == source.sources_file:
            raise Refused("source.terms_file", "the file of terms is read, not built")
        if os.path.basename(url).startswith("."):
            raise Refused("source.hidden_file", "a file whose name starts with a dot; delete it or rename it")
        facts["format"] = kind = sniff(read_object(source.root, url, etag=row["etag"], limit_bytes=4096))
        if kind not in SCANS:
            raise Refused("source.format", f"{kind} is no DICOM, NIfTI, JPEG, PNG, TIFF or GIF file")
        if kind == "dicom":
            facts |= _dicom_facts(guard, source, url, row["etag"])
        elif kind.startswith("nifti"):
            facts |= _nifti_facts(guard, source, url, row["etag"])
    except Refused as refused:
        facts |= {"series": url, "reason": refused.reason, "detail": refused.detail}
    except GuardBug as fault:
        raise reading_bug(fault, identity, url) from None
    return facts


def _dicom_facts(guard: Guard, source: Scans, url: str, etag: str) -> dict[str, Any]:
    with local_copy(source.root, url, etag=etag) as path:
        header = guard.call(dicom.read_header, path, timeout_s=HEADER_TIMEOUT_S)
    patient = f"{header.issuer}\x00{header.patient_id}" if header.patient_id else ""
    return {
        "series": header.series_uid or url,
        "study": header.study_uid,
        "patient": patient,
        "modality": header.modality,
        "body_part": header.body_part,
        "plane": _plane(header.orientation),
        "rows": header.rows,
        "columns": header.columns,
        "spacing_mm": list(header.pixel_spacing or ()),
    }


def _nifti_facts(guard: Guard, source: Scans, url: str, etag: str) -> dict[str, Any]:
    with local_copy(source.root, url, etag=etag) as path:
        header = guard.call(nifti.read_header, path, timeout_s=HEADER_TIMEOUT_S)
    folder, name = os.path.split(url)
    stem = name.removesuffix(".gz").removesuffix(".nii")
    is_mask = bool(source.mask_suffix) and stem.endswith(source.mask_suffix)
    return {
        "series": os.path.join(folder, stem.removesuffix(source.mask_suffix) if is_mask else stem),
        "is_mask": is_mask,
        "rows": header.shape[1],
        "columns": header.shape[2],
        "spacing_mm": list(header.spacing_mm),
    }


def _plane(orientation: tuple[float, ...] | None) -> str:
    """Return the plane whose normal is the largest component of row x column cosines, "" without orientation."""
    if not orientation:
        return ""
    r, c = orientation[:3], orientation[3:]
    normal = (r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0])
    largest = max(range(3), key=lambda i: abs(normal[i]))
    return ("sagittal", "coronal", "axial")[largest] if math.hypot(*normal) > 0.5 else ""


def _unit_of(table: pa.Table, source: Scans, identity: Identity, terms: dict[str, dict[str, str]]) -> pa.Table:
    """Return the unit of the headers that share a series, its row of "series" and its links, and what was refused."""
    rows = sorted(table.to_pylist(), key=lambda h: (h["is_mask"], h["url"]))
    shown = "{detail}" if source.deidentify == "on" else "{url}: {detail}"
    refused = [refused_row(source.name, identity, h, h["reason"], shown.format(**h)) for h in rows if h["reason"]]
    headers = [h for h in rows if not h["reason"]]
    made = _series_of(headers, source, identity, terms) if headers else _NO_UNIT
    return pa.Table.from_pylist([{**made, "refused": refused}], schema=_UNIT)


_NO_UNIT: dict[str, Any] = {"unit": "", "group": "", "series": [], "links": []}


def _series_of(
    headers: list[dict[str, Any]], source: Scans, identity: Identity, terms: dict[str, dict[str, str]]
) -> dict[str, Any]:
    first = headers[0]
    unit = identity.token("series", "\x00".join((source.name, first["series"], first["patient"])))
    patient = first["patient"] or (str(Path(first["url"]).parent) if source.group == "folder" else first["series"])
    stated = min((terms.get(h["url"], {}) for h in headers), key=lambda s: _freedom(s.get("terms_id", source.terms_id)))
    series = {
        "unit": unit,
        "study": identity.token("study", first["study"]) if first["study"] else "",
        "source": source.name,
        "format": first["format"],
        "modality": first["modality"],
        "body_part": first["body_part"],
        "plane": first["plane"],
        "n_objects": len(headers),
        "rows": first["rows"],
        "columns": first["columns"],
        "spacing_mm": first["spacing_mm"],
        "text": caption_of(first["modality"], first["body_part"], first["plane"]),
        "terms_id": stated.get("terms_id", source.terms_id),
        "licence": stated.get("licence", source.licence),
        "attribution": stated.get("attribution", source.attribution),
        "key_id": identity.key_id,
        "source_bytes": sum(h["size"] for h in headers),
    }
    links = [
        {
            "unit": unit, "key": "mask" if h["is_mask"] else "", "source": source.name,
            **{name: h[name] for name in OBJECT.names},
            "order": i, "original_unit": first["series"], "original_group": patient.replace("\x00", "/"),
        }
        for i, h in enumerate(headers)
    ]  # fmt: skip
    return {"unit": unit, "group": identity.token("patient", patient), "series": [series], "links": links}


def _freedom(terms_id: str) -> tuple[int, ...]:
    """Return what terms permit, so that of the objects of a series the strictest terms hold for all."""
    terms = TERMS[terms_id]
    return terms.redistribution, terms.derivatives, terms.commercial, ("none", "local", "any").index(terms.llm_egress)


def caption_of(modality: str, body_part: str, plane: str) -> str:
    """Return what coded headers say in words ("CT of the chest, axial plane"), "" when they say nothing."""
    if modality not in MODALITY_NAMES:
        return ""
    text = MODALITY_NAMES[modality] + (f" of the {body_part}" if body_part else "")
    return f"{text}, {plane} plane" if plane else text
