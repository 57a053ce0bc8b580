"""Agreement with dcm2niix, now: every series of a corpus is equal, refused for a reason, or differs for a known one.

`MEDLOOM_TEST_CORPUS=FOLDER python -m tests.bench.dicom_agreement [--json FILE]` takes each folder under
FOLDER/imaging/dicom as a series and each file of its `single` as one; another folder of series may be given instead.
A series that has gaps, or is a film, is read again with a policy, and the table says what became of it.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from medloom.connectors.dicom import Policy, SeriesRead, Stack, read_series
from medloom.schemas.volume import Volume
from tests.connectors.dcm2niix import AFFINE_TOLERANCE_MM, Reference, converted, distance, judge

OTHERWISE = Policy(gaps="regularise", films="key_frames")
# Where dcm2niix is known to be wrong, and the test that shows it is another's (`tests/connectors`).
KNOWN = {"J2K_pixelrep_mismatch": "dcm2niix reads the signed codestream as unsigned"}


@dataclass(frozen=True)
class Verdict:
    """What became of a series: "equal", "refused", "alone", "explained" or "differ", and a word on it."""

    name: str
    outcome: str
    word: str
    otherwise: str = ""


def series_of(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each series: a folder each, a file each of a folder named "single"."""
    found = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and child.name != "single":
            found[child.name] = sorted(path for path in child.rglob("*") if path.is_file())
    singles = folder / "single"
    return found | {path.stem: [path] for path in sorted(singles.iterdir())} if singles.is_dir() else found


def verdict_of(name: str, paths: list[Path], series: SeriesRead, references: list[Reference]) -> Verdict:
    """Return the verdict on a series that was read, beside what dcm2niix makes of it."""
    outcome, word = judge(series, references)
    if outcome == "differ":
        reasons = [_explained(stack, name, paths, references) for stack in series.stacks]
        if all(reasons):
            return Verdict(name, "explained", "; ".join(sorted(set(reasons))))
    otherwise = ""
    if {reason for _, reason, _ in series.refused} & {"dicom.gap", "dicom.spacing", "dicom.cine"}:
        again = read_series(paths, policy=OTHERWISE)
        done = [word for stack in again.stacks for word in stack.transforms]
        otherwise = ", ".join(dict.fromkeys(done)) or "refused all the same"
    return Verdict(name, outcome, word, otherwise)


def _explained(stack: Stack, name: str, paths: list[Path], references: list[Reference]) -> str:
    """Return why a stack may differ from dcm2niix's volume of it: the same voxels, and the places its headers state."""
    if name in KNOWN:
        return KNOWN[name]
    if not isinstance(stack.content, Volume):
        return ""
    volume = stack.content
    same = any(distance(volume, reference)[0] == 0 for reference in references)
    stated = sorted(map(_position, paths), key=lambda place: tuple(place[::-1]))
    places = sorted(
        ((volume.affine @ [0, 0, z, 1])[:3] for z in range(volume.shape[0])), key=lambda place: tuple(place[::-1])
    )
    if same and len(stated) == len(places) and np.allclose(stated, places, atol=AFFINE_TOLERANCE_MM):
        return "the same voxels, at the places of the headers: dcm2niix makes a leaning step shorter"
    return ""


def _position(path: Path) -> np.ndarray:
    stated = pydicom.dcmread(path, stop_before_pixels=True, force=True).get("ImagePositionPatient")
    return np.array([float(value) for value in stated]) if stated else np.full(3, np.nan)


def verdicts(folder: Path) -> list[Verdict]:
    """Return the verdict on every series of a folder."""
    found = []
    for name, paths in series_of(folder).items():
        found.append(verdict_of(name, paths, read_series(paths), converted(paths)))
    return found


def main() -> None:
    """Print the table, and keep it with `--json FILE`; exit with 1 when a series differs and nothing explains it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    corpus = os.environ.get("MEDLOOM_TEST_CORPUS", "")
    if options.folder is None and not corpus:
        parser.error("MEDLOOM_TEST_CORPUS names no folder, and none is given")
    found = verdicts(options.folder or Path(corpus, "imaging", "dicom"))
    for one in found:
        otherwise = f"; with {OTHERWISE.gaps}, {OTHERWISE.films}: {one.otherwise}" if one.otherwise else ""
        print(f"{one.name:32} {one.outcome:10} {one.word}{otherwise}")
    counts = [(kind, sum(one.outcome == kind for one in found)) for kind in ("equal", "refused", "explained", "alone")]
    print(", ".join(f"{kind} {count}" for kind, count in counts), f"of {len(found)}")
    silent = [one for one in found if one.outcome == "differ"]
    print(f"silently different: {len(silent)}")
    if options.json:
        options.json.write_text(json.dumps([vars(one) for one in found], indent=1) + "\n")
    raise SystemExit(1 if silent else 0)


if __name__ == "__main__":
    main()
