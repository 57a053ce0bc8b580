"""Tables of labelled images: what the tables of a public set say, joined with its image files by their names."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from medloom.connectors.label_tables.spec import Labelled as Said
from medloom.connectors.label_tables.spec import LabelSet, Tables
from medloom.pipelines.sources.labelled import Labelled
from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.sources.members import read_object
from medloom.pipelines.tables.found import Found, refused_row
from medloom.pipelines.tables.scans import caption_of
from medloom.schemas.errors import ConfigError, Refused, SourceError
from medloom.schemas.keys import Identity, is_key, sha256_hex, slug
from medloom.schemas.tables import TABLES

log = logging.getLogger(__name__)
NO_LABEL = Refused("labels.none", "no table of the set speaks of this image")
NO_IMAGE = Refused("labels.no_image", "a table speaks of an image whose file is not there")
NOT_OF_THE_SET = Refused("labels.other_file", "neither an image nor a table of the set")
TWICE = Refused("labels.twice", "another file of the same name comes before it")
PLANES = {"pa": "coronal", "ap": "coronal", "frontal": "coronal", "ll": "sagittal", "lateral": "sagittal",
          "l": "sagittal"}  # fmt: skip


def read_labelled(source: Labelled, objects: pa.Table, *, identity: Identity, again: bool) -> Found:
    """Return what the objects of a set came to; of the images nothing is opened.

    Raises:
        SourceError: the root holds no table of the set.
        ConfigError: a table cannot be read.
    """
    rows, spec = {row["url"]: row for row in objects.to_pylist()}, source.spec
    said, used = _said(source, rows)
    files, refused = _files(spec, rows, used)
    missing = sorted(said.keys() - files.keys())
    if missing:
        log.warning("labels.no_image: the tables of %s speak of %d images whose files are not there; %d are", spec.name,
                    len(missing), len(said) - len(missing))  # fmt: skip
    unlabelled = sorted(files.keys() - said.keys())
    refused |= {files[image]: NO_LABEL for image in unlabelled}
    units = {image: unit_of(source, image) for image in sorted(said.keys() & files.keys())}
    series = [_series(spec, source.name, units[i], said[i], rows[files[i]], identity) for i in units]
    findings = [row for image, unit in units.items() for row in _findings(unit, said[image])]
    patients = {image: f"{spec.name}/{said[image].patient}" for image in units}
    links = [_link(source.name, unit, i, patients[i], rows[files[i]]) for i, unit in units.items()]
    return Found(
        source.name, objects, objects, links,
        [refused_row(source.name, identity, rows[url], why.reason, f"{url}: {why.detail}")
         for url, why in sorted(refused.items())],
        {unit: identity.token("patient", patients[image]) for image, unit in units.items()},
        lambda: iter([{
            "series": pa.Table.from_pylist(series, schema=TABLES["series"]).sort_by("unit"),
            "finding": pa.Table.from_pylist(findings, schema=TABLES["finding"]),
        }]),
        again,
        splits={unit: said[image].split for image, unit in units.items() if said[image].split},
    )  # fmt: skip


def _said(source: Labelled, rows: dict[str, dict[str, Any]]) -> tuple[dict[str, Said], set[str]]:
    """Return what the tables say by image, and the paths of the tables."""
    spec = source.spec
    reads: dict[str, Callable[[], bytes]] = {
        url: partial(read_object, source.root, url, etag=row["etag"])
        for url, row in rows.items() if not spec.image_of(url)
    }  # fmt: skip
    tables = Tables(reads)
    lacking = [mark for mark in spec.marks if not tables.paths(mark)]
    if lacking:
        raise SourceError(
            f"cannot read {spec.title} in {source.root}: no file there is called like {lacking[0]}; give the folder "
            "that holds the set as it is published"
        )
    try:
        said = {one.image: one for one in spec.read(tables) if one.image}
    except Refused as refused:
        raise ConfigError(f"cannot read the tables of {spec.title} in {source.root}: {refused}") from refused
    except (ValueError, KeyError, IndexError, SyntaxError) as fault:
        raise ConfigError(
            f"cannot read the tables of {spec.title} in {source.root}: a cell of {tables.used[-1]} is not what it "
            f"should be ({type(fault).__name__})"
        ) from fault
    return said, {path for mark in spec.marks for path in tables.paths(mark)} | set(tables.used)


def _files(
    spec: LabelSet, rows: dict[str, dict[str, Any]], used: set[str]
) -> tuple[dict[str, str], dict[str, Refused]]:
    """Return the file of each image, and why the others are none."""
    files: dict[str, str] = {}
    refused: dict[str, Refused] = {}
    for url in sorted(rows):
        image = spec.image_of(url)
        if not image:
            if url not in used:
                refused[url] = NOT_OF_THE_SET
        elif image in files:
            refused[url] = TWICE
        else:
            files[image] = url
    return files, refused


def unit_of(source: Labelled, image: str) -> str:
    """Return the key of an image: the source's name and the image's, or 12 hex digits where these are no key."""
    key = slug(f"{source.name}-{image}")
    return key if is_key(key) else f"{slug(source.name)[:51]}-{sha256_hex(image)[:12]}"


def _series(
    spec: LabelSet, source: str, unit: str, said: Said, row: dict[str, Any], identity: Identity
) -> dict[str, Any]:
    study = f"{spec.name}/{said.study}" if said.study else ""
    plane = PLANES.get(said.view.lower(), "")
    return {
        "unit": unit, "study": identity.token("study", study) if study else "", "source": source, "format": "labelled",
        "modality": spec.modality, "body_part": spec.body_part, "plane": plane, "n_objects": 1, "rows": 0,
        "columns": 0, "spacing_mm": [], "text": said.text or caption_of(spec.modality, spec.body_part, ""),
        "terms_id": spec.terms_id, "licence": spec.licence, "attribution": spec.attribution,
        "key_id": identity.key_id, "source_bytes": row["size"],
    }  # fmt: skip


def _findings(unit: str, said: Said) -> list[dict[str, Any]]:
    return [
        {"unit": unit, "name": f.name, "side": "", "presence": f.presence, "stated": f.stated, "box": list(f.box),
         "by": f.by}
        for f in said.findings
    ]  # fmt: skip


def _link(source: str, unit: str, image: str, patient: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "unit": unit, "key": "", "source": source, **{name: row[name] for name in OBJECT.names}, "order": 0,
        "original_unit": image, "original_group": patient,
    }  # fmt: skip
