"""Spark over scans: read each object's header once, group files into series, and turn what identifies into tokens."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.sources.listing import OBJECT, read_object
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.tables.found import REFUSED_OBJECT, Found, refused_row
from medloom.pipelines.tables.headers import HEADER, read_headers
from medloom.pipelines.tables.stated_words import StatedWords, stated_words
from medloom.schemas.build import conform
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import Identity
from medloom.schemas.origin import TERMS
from medloom.schemas.tables import LINK, TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_UNIT = pa.schema([
    ("unit", pa.string()), ("group", pa.string()), ("series", pa.list_(pa.struct(list(TABLES["series"])))),
    ("links", pa.list_(pa.struct(list(LINK)))), ("refused", pa.list_(pa.struct(list(REFUSED_OBJECT)))),
    ("paragraphs", pa.list_(pa.struct(list(TABLES["paragraph"])))),
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
    headers = (
        spark.createDataFrame(objects)
        .repartition(partitions, "url")
        .mapInArrow(lambda batches: read_headers(batches, source, identity), from_arrow_schema(HEADER))
        .persist()
    )
    units = (
        _joined(headers)
        .groupBy("series", "patient")
        .applyInArrow(lambda table: _unit_of(table, source, identity, terms), from_arrow_schema(_UNIT))
        .toArrow()
    )
    headers.unpersist()

    def flat(name: str) -> pa.Table:
        return pa.Table.from_struct_array(pc.list_flatten(units[name].combine_chunks()))

    tables = {"series": conform(flat("series"), TABLES["series"]).sort_by("unit")}
    asked = conform(flat("paragraphs"), TABLES["paragraph"])
    if asked.num_rows:
        tables["paragraph"] = asked.sort_by([("article_key", "ascending"), ("order", "ascending")])
    groups = {row["unit"]: row["group"] for row in units.select(["unit", "group"]).to_pylist() if row["unit"]}
    links, refused = flat("links").to_pylist(), flat("refused").to_pylist()
    return Found(source.name, objects, objects, links, refused, groups, lambda: iter([tables]), again)


def _joined(headers: "DataFrame") -> "DataFrame":
    """Return the headers, those of a SEG or RTSTRUCT that names images and no series with the series of the first."""
    from pyspark.sql import functions as sf

    loose = (sf.col("role") != "") & (sf.col("series") == "")
    if headers.where(loose).isEmpty():
        return headers
    named = headers.where("role = '' AND object <> ''").selectExpr("object AS names", "series AS found")
    images = named.groupBy("names").agg(sf.min("found").alias("found"))
    series = sf.when(loose, sf.coalesce("found", "url")).otherwise(sf.col("series"))
    return headers.join(images, "names", "left").withColumn("series", series).drop("found").select(*HEADER.names)


def _terms(source: Scans) -> dict[str, dict[str, Any]]:
    """Return {path: {terms_id, licence, attribution, text, questions}} of the source's file of terms."""
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


def _unit_of(table: pa.Table, source: Scans, identity: Identity, terms: dict[str, dict[str, Any]]) -> pa.Table:
    """Return the unit of the headers that share a series, its row of "series" and its links, and what was refused."""
    rows = sorted(table.to_pylist(), key=lambda h: (h["role"], h["url"]))
    shown = "{detail}" if source.deidentify == "on" else "{url}: {detail}"
    refused = [refused_row(source.name, identity, h, h["reason"], shown.format(**h)) for h in rows if h["reason"]]
    headers = [h for h in rows if not h["reason"]]
    alone = [h for h in headers if h["role"] == "data"] if all(h["role"] == "data" for h in headers) else []
    refused += [refused_row(source.name, identity, h, *_NO_HEADER) for h in alone]
    made = _series_of(headers, source, identity, terms) if headers and not alone else _NO_UNIT
    return pa.Table.from_pylist([{**made, "refused": refused}], schema=_UNIT)


_NO_HEADER = ("source.format", "a file of bare voxels without a header beside it")
_NO_UNIT: dict[str, Any] = {"unit": "", "group": "", "series": [], "links": [], "paragraphs": []}


def _series_of(
    headers: list[dict[str, Any]], source: Scans, identity: Identity, terms: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    first = headers[0]
    unit = identity.token("series", "\x00".join((source.name, first["series"], first["patient"])))
    patient = first["patient"] or (str(Path(first["url"]).parent) if source.group == "folder" else first["series"])
    stated = min((terms.get(h["url"], {}) for h in headers), key=lambda s: _freedom(s.get("terms_id", source.terms_id)))
    told = stated_words(terms.get(first["url"], {})) if source.deidentify == "off" else StatedWords()
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
        "text": told.text or caption_of(first["modality"], first["body_part"], first["plane"]),
        "terms_id": stated.get("terms_id", source.terms_id),
        "licence": stated.get("licence", source.licence),
        "attribution": stated.get("attribution", source.attribution),
        "key_id": identity.key_id,
        "source_bytes": sum(h["size"] for h in headers),
    }
    links = [
        {
            "unit": unit, "key": h["role"], "source": source.name,
            **{name: h[name] for name in OBJECT.names},
            "order": i, "original_unit": first["series"], "original_group": patient.replace("\x00", "/"),
        }
        for i, h in enumerate(headers)
    ]  # fmt: skip
    made = {"unit": unit, "group": identity.token("patient", patient), "series": [series], "links": links}
    return made | {"paragraphs": told.paragraphs(unit)}


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
