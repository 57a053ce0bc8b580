"""Spark over scans: read each object's header once, group files into series, and turn what identifies into tokens."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medloom.connectors import dicom, nifti
from medloom.connectors.guard import Guard
from medloom.connectors.images import sniff
from medloom.pipelines.sources.listing import OBJECT, read_object
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.scans import Scans
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import Identity
from medloom.schemas.tables import LINK, TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

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
    ("unit", pa.string()), ("group", pa.string()), ("source_bytes", pa.int64()),
    ("series", pa.struct(list(TABLES["series"]))), ("links", pa.list_(pa.struct(list(LINK)))),
])  # fmt: skip
MODALITY_NAMES = {
    "CT": "CT", "MR": "MR", "PT": "PET", "US": "Ultrasound", "CR": "Radiograph", "DX": "Radiograph",
    "MG": "Mammogram", "XA": "Angiogram", "NM": "Scintigram",
}  # fmt: skip


def scan_tables(
    spark: "SparkSession", source: Scans, objects: pa.Table, *, identity: Identity, partitions: int
) -> dict[str, "DataFrame"]:
    """Return the rows of "series", "quarantine", "links" and "unit" (unit, source, group, source_bytes).

    Args:
        objects: rows of `OBJECT`, all of the source: a new slice changes the series that it belongs to.
        identity: makes the tokens; nothing that identifies leaves this function but in "links".
        partitions: tasks that share the reading.
    """
    from pyspark.sql import functions as sf
    from pyspark.sql.pandas.types import from_arrow_schema

    terms = _terms(source)
    headers = (
        spark.createDataFrame(objects)
        .repartition(partitions, "url")
        .mapInArrow(lambda batches: _read_headers(batches, source), from_arrow_schema(_HEADER))
        .persist()
    )
    units = (
        headers.where("reason = ''")
        .groupBy("series")
        .applyInArrow(lambda table: _unit_of(table, source, identity, terms), from_arrow_schema(_UNIT))
        .persist()
    )
    token = sf.udf(lambda kind, value: identity.token(kind, value), "string")
    detail = sf.col("detail") if source.deidentify == "on" else sf.concat_ws(": ", "url", "detail")
    refused = headers.where("reason <> ''").select(
        token(sf.lit("object"), "url").alias("unit"), sf.lit("").alias("key"), sf.lit(source.name).alias("source"),
        sf.lit("tables").alias("stage"), "reason", detail.alias("detail"), sf.col("size").alias("source_bytes"), "url",
    )  # fmt: skip
    return {
        "series": units.select("series.*"),
        "links": units.select(sf.explode("links").alias("x")).select("x.*"),
        "quarantine": refused,
        "unit": units.select("unit", sf.lit(source.name).alias("source"), "group", "source_bytes"),
    }


def _terms(source: Scans) -> dict[str, dict[str, str]]:
    """Return {path: {terms_id, licence, attribution}} of the source's file of terms."""
    if not source.sources_file:
        return {}
    try:
        return dict(json.loads(read_object(source.root, source.sources_file)))
    except (OSError, ValueError) as fault:
        raise ConfigError(f"cannot read the terms in {source.root}/{source.sources_file}: {fault}") from fault


def _read_headers(batches: Iterator[pa.RecordBatch], source: Scans) -> Iterator[pa.RecordBatch]:
    with Guard() as guard:
        for batch in batches:
            rows = [_header(guard, source, row) for row in batch.to_pylist()]
            yield from pa.Table.from_pylist(rows, schema=_HEADER).to_batches()


def _header(guard: Guard, source: Scans, row: dict[str, Any]) -> dict[str, Any]:
    """Return one object's header facts, or the reason why it is none."""
    url = row["url"]
    facts: dict[str, Any] = {
        **row, "format": "", "reason": "", "detail": "", "series": url, "study": "", "patient": "", "is_mask": False,
        "modality": "OT", "body_part": "", "plane": "", "rows": 0, "columns": 0, "spacing_mm": [],
    }  # fmt: skip
    try:
        if url == source.sources_file:
            raise Refused("source.terms_file", "the file of terms is read, not built")
        if os.path.basename(url).startswith("."):
            raise Refused("source.hidden_file", "a file whose name starts with a dot; delete it or rename it")
        if row["size"] == 0:
            raise Refused("source.empty_file", "the file holds no byte")
        facts["format"] = kind = sniff(read_object(source.root, url, limit_bytes=4096))
        if kind not in SCANS:
            raise Refused("source.format", f"{kind} is no DICOM, NIfTI, JPEG, PNG, TIFF or GIF file")
        if kind == "dicom":
            facts |= _dicom_facts(guard, source, url)
        elif kind.startswith("nifti"):
            facts |= _nifti_facts(guard, source, url)
    except Refused as refused:
        facts |= {"reason": refused.reason, "detail": refused.detail}
    return facts


def _dicom_facts(guard: Guard, source: Scans, url: str) -> dict[str, Any]:
    with local_copy(source.root, url) as path:
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


def _nifti_facts(guard: Guard, source: Scans, url: str) -> dict[str, Any]:
    with local_copy(source.root, url) as path:
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
    """Return the unit of the headers that share a series, its row of "series" and its links."""
    headers = sorted(table.to_pylist(), key=lambda h: (h["is_mask"], h["url"]))
    first = headers[0]
    unit = identity.token("series", f"{source.name}\x00{first['series']}")
    patient = first["patient"] or (str(Path(first["url"]).parent) if source.group == "folder" else first["series"])
    stated = terms.get(first["url"], {})
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
    row = {
        "unit": unit,
        "group": identity.token("patient", patient),
        "source_bytes": series["source_bytes"],
        "series": series,
        "links": links,
    }
    return pa.Table.from_pylist([row], schema=_UNIT)


def caption_of(modality: str, body_part: str, plane: str) -> str:
    """Return what coded headers say in words ("CT of the chest, axial plane"), "" when they say nothing."""
    if modality not in MODALITY_NAMES:
        return ""
    text = MODALITY_NAMES[modality] + (f" of the {body_part}" if body_part else "")
    return f"{text}, {plane} plane" if plane else text
