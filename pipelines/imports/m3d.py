"""M3D, read: sets of volumes with sparse masks, reports, questions, and referring segmentation."""

import json
from typing import Any

from medloom.pipelines.imports.job import Import
from medloom.pipelines.imports.m3d_cap import read_questions, read_reports
from medloom.pipelines.imports.m3d_refseg import read_referring
from medloom.pipelines.imports.m3d_seg import read_set
from medloom.pipelines.imports.scans_folder import ScansFolder, stated_geometry
from medloom.schemas.errors import Refused

settings = stated_geometry  # what --set fills


def read(job: Import) -> None:
    """M3D: volumes with sparse masks by `SET/SET.json`, `M3D_Cap.json`, `M3D_VQA*.csv` and `M3D_RefSeg*.csv`.

    Writes `scans/`, which `medloom build scans --set source=DIR/scans --set deidentify=off --set
    sources_file=SOURCES.json` builds: every volume as NIfTI in a folder of its own, its masks as `.seg.nrrd` with the
    names of all classes, those that are empty too; `scans/SOURCES.json` says of each volume its terms, split, report
    and questions.

    M3D keeps neither spacing nor orientation: `--set spacing_mm=Z,Y,X --set orientation=LPS` say them for all .npy
    files, and without them nothing is read, unless the folder is an export of ours, whose `media.jsonl` has the affine,
    the type and the terms of each. A list whose paths are those of another machine is read by their ends.
    """
    folder = ScansFolder(job)
    lists, tables = _lists(job), sorted(url for url in job.files if url.lower().endswith(".csv"))
    for url, value in lists:
        if "labels" in value:
            read_set(folder, url, value)
    for url, value in lists:
        if "labels" not in value:
            read_reports(folder, url, value)
    for url in tables:
        if "refseg" in url.rpartition("/")[2].lower():
            read_referring(folder, url)
        else:
            read_questions(folder, url)
    folder.finish()


def _lists(job: Import) -> list[tuple[str, dict[str, Any]]]:
    """Return the JSON files that are lists of cases; a RefSeg case's sentences are not."""
    found = []
    for url in sorted(job.files):
        name = url.rpartition("/")[2]
        if not url.lower().endswith(".json") or name in ("text.json", "manifest.json"):
            continue
        try:
            value = json.loads(job.read(url).decode("utf-8-sig"))
            if not isinstance(value, dict) or not any(isinstance(part, list) for part in value.values()):
                raise Refused("list.form", "it holds no lists of cases by split")
        except (ValueError, RecursionError) as fault:
            job.refuse("file", url, Refused("list.form", f"it is no JSON ({type(fault).__name__})"))
            continue
        except Refused as refused:
            job.refuse("file", url, refused)
            continue
        found.append((url, value))
    return found
