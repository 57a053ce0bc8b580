"""What de-identifying leaves of a canary that fills the whole table, and what it costs, beside a peer and the limit.

`python -m tests.bench.deid [--json FILE] [--objects 40]`: attributes of PS3.15 Table E.1-1 whose value is unchanged, at
top level and inside sequences, by profile and for the peer (dicom-anonymizer, which works on the top level only); and
milliseconds per small CT: changed, written and verified, beside the peer's change, and the limit, which is reading and
writing the same file with pydicom.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from medloom.connectors.deid_engine import deidentify
from medloom.connectors.deid_file import Task, convert, survey
from medloom.connectors.deid_known import Known
from medloom.connectors.deid_rules import profile
from medloom.schemas.keys import Identity
from tests.connectors.deid_measures import unchanged
from tests.connectors.deid_objects import canary, ct, save

IDENTITY = Identity(b"k" * 32)
PROFILES = ("basic", "research")


def canary_row(name: str, output: Dataset, original: Dataset, *, keeps_times: bool = False) -> dict[str, Any]:
    """Counts of what a tool left unchanged; times of day aside where its option keeps them."""
    top, n_top, nested, n_nested = unchanged(original, output)
    times = 0
    if keeps_times:
        times = sum(dictionary_VR(tag) == "TM" for tag in top)
        top, nested = ([tag for tag in tags if dictionary_VR(tag) != "TM"] for tags in (top, nested))
    return {
        "name": f"canary {name}", "unit": "attributes unchanged", "top": len(top), "of_top": n_top,
        "nested": len(nested), "of_nested": n_nested, "times_kept_by_the_option": times,
    }  # fmt: skip


def canaries(folder: Path) -> list[dict[str, Any]]:
    """A row for each profile and for the peer."""
    path = save(canary(), folder / "canary.dcm")
    rows = []
    for name in PROFILES:
        written = convert(Task(str(path), str(folder / name), IDENTITY, profile(name), Known()))
        output = pydicom.dcmread(folder / name / written.file)
        rows.append(canary_row(name, output, pydicom.dcmread(path), keeps_times=name != "basic"))
    theirs = pydicom.dcmread(path)
    peer(theirs)
    rows.append(canary_row("dicom-anonymizer", theirs, pydicom.dcmread(path)))
    return rows


def peer(dataset: Dataset) -> None:
    """Anonymize with dicom-anonymizer's own engine and default table."""
    from dicomanonymizer import anonymize_dataset

    anonymize_dataset(dataset)


def copied(path: Path, folder: Path) -> None:
    """Read a file and write it again."""
    pydicom.dcmread(path).save_as(folder / "copy.dcm", enforce_file_format=True)


def changed(path: Path) -> None:
    """Read a file and de-identify the data set, without writing or verifying."""
    deidentify(pydicom.dcmread(path), identity=IDENTITY, profile=profile("research"))


def whole(path: Path, folder: Path) -> None:
    """All that the command does with an object in its child: survey, change, write, verify, score."""
    known = survey(str(path)).known
    written = convert(Task(str(path), str(folder), IDENTITY, profile("research"), known))
    (folder / written.file).unlink()


def times(folder: Path, n_objects: int) -> list[dict[str, Any]]:
    """Milliseconds per object of each way, interleaved."""
    path = save(ct(), folder / "ct.dcm")
    ways: dict[str, Callable[[], None]] = {
        "read and written by pydicom (limit)": lambda: copied(path, folder),
        "changed": lambda: changed(path),
        "surveyed, changed, written, verified": lambda: whole(path, folder / "out"),
        "changed by dicom-anonymizer": lambda: peer(pydicom.dcmread(path)),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(n_objects + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            spent[name].append(1000 * (time.process_time() - started))
    medians = {name: statistics.median(all_ms[1:]) for name, all_ms in spent.items()}
    limit = next(iter(medians.values()))
    return [
        {"name": name, "unit": "ms/object", "median": round(ms, 2), "ratio_to_limit": round(ms / limit, 1)}
        for name, ms in medians.items()
    ]


def main() -> None:
    """Print the tables, and keep them with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--objects", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
        rows = canaries(Path(folder))
        for row in rows:
            print(
                f"{row['name']:26} top unchanged {row['top']:5} of {row['of_top']}, "
                f"nested unchanged {row['nested']:5} of {row['of_nested']} "
                f"(times of day that the option keeps, aside: {row['times_kept_by_the_option']} at top level)"
            )
        timed = times(Path(folder), options.objects)
    for row in timed:
        print(f"{row['name']:38} {row['median']:7.2f} ms/object = {row['ratio_to_limit']} x the limit")
    if options.json:
        machine = {
            "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
            "pydicom": pydicom.__version__,
        }  # fmt: skip
        options.json.write_text(json.dumps({"machine": machine, "rows": rows + timed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
