"""Every DICOM SEG of the corpus, read by us and by dcmqi: the voxels of each segment, and whether they are the same.

`python -m tests.bench.seg_agreement [--json FILE]` over the folder that MEDLOOM_TEST_CORPUS names. The grid is that of
the image series that the SEG refers to, where the corpus has it and reads it as one volume, else that of dcmqi's own
image. Of fractions, pixels count from half of the full value on. Exit status 1 when one segment differs.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pydicom

from medloom.connectors.dicom import read_header, read_series
from medloom.connectors.dicom_headers import quiet
from medloom.connectors.dicom_reference import Reference, read_reference
from medloom.connectors.dicom_seg import read_seg
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Volume
from tests.connectors.dcmqi import NotRead, affine_of, images_by_dcmqi, voxels_by_dcmqi, voxels_of


@dataclass(frozen=True)
class Row:
    """One segment of one SEG.

    Attributes:
        file: below the corpus; grid: "image" or "own".
        segment: its number, 0 when the object as a whole was not read.
        dcmqi, ours: voxels, -1 when not read.
        is_same: whether they are the same voxels, not only as many.
        note: why something was not read.
    """

    file: str
    grid: str
    segment: int
    name: str
    dcmqi: int
    ours: int
    is_same: bool
    note: str = ""


def agreement(corpus: Path) -> list[Row]:
    """Return the rows of all SEGs below a folder."""
    segs: dict[Path, Reference] = {}
    series: dict[str, list[Path]] = {}
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        try:
            reference = read_reference(path)
        except Refused:
            try:
                series.setdefault(read_header(path).series_uid, []).append(path)
            except Refused:
                continue
        else:
            if reference.kind == "seg":
                segs[path] = reference
    return [
        row
        for path, reference in segs.items()
        for row in _rows(path, path.relative_to(corpus), _image(reference, series))
    ]


def _image(reference: Reference, series: dict[str, list[Path]]) -> Volume | None:
    """Return the volume that a SEG was drawn on, None when the corpus has not one."""
    paths = [path for uid in reference.series_uids for path in series.get(uid, [])]
    volumes = [stack.content for stack in read_series(paths).stacks if isinstance(stack.content, Volume)]
    return volumes[0] if len(volumes) == 1 and volumes[0].shape[0] > 1 else None


def _rows(path: Path, name: Path, image: Volume | None) -> list[Row]:
    grid, which = image, "image"
    theirs, note = {}, ""
    try:
        if grid is None:
            own = next(iter(images_by_dcmqi(path).values()))
            grid, which = Volume(np.zeros(own.GetSize()[::-1], np.uint8), affine_of(own)), "own"
        with quiet():
            full = int(pydicom.dcmread(path, stop_before_pixels=True).get("MaximumFractionalValue", 0))
        theirs = voxels_by_dcmqi(path, grid, above=full / 2)
    except NotRead as error:
        note = f"dcmqi does not read it: {error}"
    if grid is None:
        return [Row(str(name), "none", 0, "", -1, -1, False, note)]
    try:
        layers = read_seg(path, grid)
    except Refused as refused:
        return [Row(str(name), which, 0, "", -1, -1, False, f"refused: {refused.reason}")]
    ours, labels = voxels_of(layers), {value: label for layer in layers for value, label in layer.labels.items()}
    return [
        Row(
            str(name),
            which,
            number,
            labels[number].name if number in labels else "",
            len(theirs[number]) if number in theirs else -1,
            len(ours[number]) if number in ours else -1,
            theirs.get(number) == ours.get(number),
            note,
        )
        for number in sorted(set(theirs) | set(ours))
    ]


def main() -> None:
    """Print the table, and keep it with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if not os.environ.get("MEDLOOM_TEST_CORPUS"):
        sys.exit("needs MEDLOOM_TEST_CORPUS: it names no folder")
    rows = agreement(Path(os.environ["MEDLOOM_TEST_CORPUS"]))
    print(f"{'file':64} {'grid':6} {'segment':>7} {'dcmqi':>9} {'ours':>9}  same  name")
    for row in rows:
        same = "yes" if row.is_same else "NO"
        print(f"{row.file:64} {row.grid:6} {row.segment:7} {row.dcmqi:9} {row.ours:9}  {same:4}  {row.name} {row.note}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(0 if rows and all(row.is_same for row in rows) else 1)


if __name__ == "__main__":
    main()
