"""Croissant: a data set's metadata as JSON-LD for search engines and loaders (MLCommons Croissant 1.0)."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from medloom.quality.facts import Facts
from medloom.schemas.build import Build
from medloom.schemas.manifest import digest_of_manifest
from medloom.schemas.origin import TERMS
from medloom.schemas.release import Release
from medloom.schemas.tables import EXAMPLE

FORMATS = {"tar": "application/x-tar", "parquet": "application/x-parquet"}
TYPES = {"string": "sc:Text", "int32": "sc:Integer", "double": "sc:Float"}
CREATIVE_COMMONS = "https://creativecommons.org/"
LICENCES = {
    "CC0-1.0": f"{CREATIVE_COMMONS}publicdomain/zero/1.0/",
    **{f"CC-{kind}-4.0": f"{CREATIVE_COMMONS}licenses/{kind.lower()}/4.0/"
       for kind in ("BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND")},
}  # fmt: skip
TERMS_OF_CROISSANT = (
    *("citeAs", "column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "separator", "source", "subField", "transform"),
)


def croissant(build: Build, release: Release | None, *, root: str) -> dict[str, Any]:
    """Return the Croissant metadata of a build: its files with their sha256, and a record set per task.

    Args:
        build: the build, or a published folder, which is one too.
        release: gives the version its number; without one it is the manifest's.
        root: the way from the metadata's folder to the build, "" at the root of what is published.
    """
    facts = Facts(build)
    manifest = facts.manifest
    terms = sorted({TERMS[row["terms_id"]].spdx for row in facts.terms() if row["terms"]})
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest["recipe"]["name"],
        "description": (
            f"{facts.media.num_rows} medical images and volumes in plain tars and {facts.examples.num_rows} training "
            "examples that refer to them, built by MedLoom."
        ),
        "license": [LICENCES.get(spdx, f"https://spdx.org/licenses/{spdx}") for spdx in terms],
        "version": f"{release.number if release else manifest['number']}.0.0",
        "identifier": f"sha256:{digest_of_manifest(manifest)}",
        "isLiveDataset": False,
        "distribution": [*_files(manifest["files"], root), *_file_sets(facts, root)],
        "recordSet": [_record_set(task) for task in _tasks(facts)],
    }


def _context() -> dict[str, Any]:
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        **{name: f"cr:{name}" for name in TERMS_OF_CROISSANT},
    }


def _tasks(facts: Facts) -> Iterator[str]:
    for task, print_ in sorted(facts.manifest["recipe"]["tasks"].items()):
        if facts.build.example_parts(task, print_[:12]):
            yield task


def _files(files: dict[str, dict[str, Any]], root: str) -> Iterator[dict[str, Any]]:
    """Give every tar, index and part of examples that the manifest lists; tables and ledgers are a build's own."""
    for path, facts in sorted(files.items()):
        ending = path.rsplit(".", 1)[-1]
        if path.split("/")[0] in ("media", "index", "examples") and ending in FORMATS:
            yield {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "contentUrl": f"{root}{path}",
                "contentSize": f"{facts['size']} B",
                "encodingFormat": FORMATS[ending],
                "sha256": facts["sha256"],
            }


def _file_sets(facts: Facts, root: str) -> Iterator[dict[str, Any]]:
    current = facts.manifest["recipe"]["tasks"]
    for task in _tasks(facts):
        yield {
            "@type": "cr:FileSet",
            "@id": f"{task}-parts",
            "name": f"{task}-parts",
            "encodingFormat": FORMATS["parquet"],
            "includes": f"{root}examples/{task}/{current[task][:12]}/part-*.parquet",
        }


def _record_set(task: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": task,
        "name": task,
        "key": {"@id": f"{task}/example_id"},
        "field": [_field(task, field) for field in EXAMPLE if _type_of(field.type)],
    }


def _field(task: str, field: pa.Field) -> dict[str, Any]:
    made = {
        "@type": "cr:Field",
        "@id": f"{task}/{field.name}",
        "name": field.name,
        "dataType": _type_of(field.type),
        "source": {"fileSet": {"@id": f"{task}-parts"}, "extract": {"column": field.name}},
    }
    return {**made, "repeated": True} if pa.types.is_list(field.type) else made


def _type_of(kind: pa.DataType) -> str:
    """Return the Croissant type of a column of values or of lists of values, "" for nested ones (turns, regions)."""
    return TYPES.get(str(kind.value_type if pa.types.is_list(kind) else kind), "")
