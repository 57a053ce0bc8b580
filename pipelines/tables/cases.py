"""Tables of public segmentation sets: which files make which case, by their names alone, and the official splits."""

import csv
import io
import logging
from typing import Any

import pyarrow as pa

from medloom.connectors.segmentation_sets.cases import Case, Grouped, group, place_of
from medloom.connectors.segmentation_sets.spec import plain_path
from medloom.pipelines.sources.cases import Cases
from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.sources.members import read_object
from medloom.pipelines.tables.found import Found, refused_row
from medloom.pipelines.tables.scans import caption_of
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import Identity, is_key, sha256_hex, slug
from medloom.schemas.tables import LINK, TABLES

log = logging.getLogger(__name__)
FORMATS = {".nii.gz": "nifti.gz", ".nii": "nifti", ".nrrd": "nrrd", ".mhd": "mhd", ".mha": "mha"}


def read_cases(source: Cases, objects: pa.Table, *, identity: Identity, again: bool) -> Found:
    """Return what the objects of a public set came to; no file but the table of splits is opened.

    Args:
        objects: rows of `OBJECT`, all of the set's: a new mask changes the case that it belongs to.
        identity: makes the tokens of groups; without a secret, since the set is public.

    Raises:
        ConfigError: the set's table of splits cannot be read.
    """
    rows = {row["url"]: row for row in objects.to_pylist()}
    grouped = group(source.spec, rows, prefix=source.prefix, splits=_official(source, rows))
    said = count_told(source, grouped)
    if said:
        log.warning("%s", said)
    units = {case.name: unit_of(source, case) for case in grouped.cases}
    series = [_series(source, case, units[case.name], rows, identity) for case in grouped.cases]
    links = [link for case in grouped.cases for link in _links(source, case, units[case.name], rows)]
    refused = [
        refused_row(source.name, identity, rows[url], reason, f"{url}: {detail}")
        for url, (reason, detail) in sorted(grouped.refused.items())
    ]
    return Found(
        source.name, objects, objects, links, refused,
        {units[case.name]: identity.token("patient", patient_of(source, case)) for case in grouped.cases},
        lambda: iter([{"series": pa.Table.from_pylist(series, schema=TABLES["series"]).sort_by("unit")}]),
        again,
        splits={units[case.name]: case.split for case in grouped.cases if case.split},
    )  # fmt: skip


def unit_of(source: Cases, case: Case) -> str:
    """Return the key of a case: the source's name and the case's, or 12 hex digits where these are no key."""
    key = slug(f"{source.name}-{case.name}")
    return key if is_key(key) else f"{slug(source.name)[:51]}-{sha256_hex(case.name)[:12]}"


def patient_of(source: Cases, case: Case) -> str:
    """Return whom a case shows, the same in sets that number the same patients."""
    return f"{source.spec.patients or source.spec.name}/{case.patient}"


def count_told(source: Cases, grouped: Grouped) -> str:
    """Return a line when the cases with masks are not as many as the set is known to have, else ""."""
    have, known = sum(bool(case.masks) for case in grouped.cases), source.spec.n_cases
    if not known or have in known:
        return ""
    return (
        f"set.count: source {source.name} has {have} cases with masks, and the set is known to have "
        f"{' or '.join(map(str, known))}; it is built as it is"
    )


def _official(source: Cases, rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the official split by patient, as the set's table states it; {} where it has none."""
    table = source.spec.split_table
    if table is None:
        return {}
    found: dict[str, str] = {}
    for url in sorted(rows):
        place = place_of(source.spec, plain_path(source.prefix + url))
        if place is None or place.role != "split_table":
            continue
        try:
            text = read_object(source.root, url, etag=rows[url]["etag"]).decode("utf-8-sig")
            lines = list(csv.DictReader(io.StringIO(text), delimiter=table.separator))
            found |= {line[table.patient].strip(): line[table.split].strip() for line in lines}
        except (Refused, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as fault:
            raise ConfigError(
                f"cannot read the official split of set {source.spec.name}: its {table.path} needs columns "
                f"{table.patient!r} and {table.split!r} separated by {table.separator!r} ({type(fault).__name__})"
            ) from fault
    return found


def _series(
    source: Cases, case: Case, unit: str, rows: dict[str, dict[str, Any]], identity: Identity
) -> dict[str, Any]:
    spec, modality = source.spec, source.spec.parts[case.part].modality
    return {
        "unit": unit, "study": "", "source": source.name, "format": _format(case.images[0]), "modality": modality,
        "body_part": spec.body_part, "plane": "", "n_objects": len(case.images) + len(case.masks), "rows": 0,
        "columns": 0, "spacing_mm": [], "text": caption_of(modality, spec.body_part, ""), "terms_id": spec.terms_id,
        "licence": spec.licence, "attribution": spec.attribution, "key_id": identity.key_id,
        "source_bytes": sum(rows[url]["size"] for url in (*case.images, *case.masks)),
    }  # fmt: skip


def _format(url: str) -> str:
    """Return what an image's name says that it is; the reader goes by its bytes."""
    return next((kind for ending, kind in FORMATS.items() if url.lower().endswith(ending)), "dicom")


def _links(source: Cases, case: Case, unit: str, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    objects = [("", url) for url in case.images] + [("mask", url) for url in case.masks]
    made = [
        {
            "unit": unit, "key": key, "source": source.name, **{name: rows[url][name] for name in OBJECT.names},
            "order": order, "original_unit": case.name, "original_group": patient_of(source, case),
        }
        for order, (key, url) in enumerate(objects)
    ]  # fmt: skip
    assert not made or made[0].keys() == set(LINK.names)
    return made
