"""Reading a NIfTI.gz of a CT's size: ours beside nibabel and SimpleITK, and beside the inflating alone (the limit).

`python -m tests.bench.nifti_read [--json FILE] [--rounds N]` writes a volume of 120 x 512 x 512 int16 whose noise packs
as a real CT's does (2.3 : 1), then reads it by each in turn, round by round, in processor time. The array of ours and
of both peers must be the same. Peak memory is what numpy and Python allocate, in volumes.
"""

import argparse
import gzip
import json
import platform
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medloom.connectors import volumes, voxels

SHAPE = (512, 512, 120)  # x, y, z
OURS, LIMIT = "volumes.read_volumes", "inflating alone"


def write_ct(path: Path) -> int:
    """Write a body of noisy tissue in air; return how many bytes its voxels take."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-1:1:512j, -1:1:512j, -1:1:120j]
    inside = x**2 / 0.7 + y**2 / 0.5 + z**2 / 4 < 1
    values = np.where(inside, 40 + 300 * ((x - 0.2) ** 2 + y**2 < 0.02), -1000) + rng.normal(0, 14, SHAPE) * (
        0.3 + inside
    )
    array = np.asfortranarray(np.rint(values).astype(np.int16))
    image = nib.Nifti1Image(array, np.diag([-0.7, -0.7, 2.5, 1]))
    path.write_bytes(gzip.compress(image.to_bytes(), 6))
    return array.nbytes


def readers(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Return what reads the file's voxels, by name."""
    import SimpleITK as sitk  # noqa: N813  its own manual's name

    def inflated() -> np.ndarray:
        with path.open("rb") as file:
            return np.array([len(block) for block in voxels.blocks(file, "gzip", what="nifti")])

    return {
        OURS: lambda: volumes.read_volumes(path, "nifti.gz")[0].array,
        "nibabel dataobj": lambda: np.asarray(nib.load(path).dataobj).T,
        "nibabel get_fdata": lambda: nib.load(path).get_fdata().T,
        "SimpleITK": lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
        LIMIT: inflated,
    }


def measured(by_name: dict[str, Callable[[], np.ndarray]], rounds: int, size: int) -> list[dict[str, Any]]:
    """Return a row per reader, its processor time in ms and its ratio to ours."""
    times: dict[str, list[float]] = {name: [] for name in by_name}
    truth = by_name[OURS]()
    for _ in range(rounds):
        for name, read in by_name.items():
            start = time.process_time()
            found = read()
            times[name].append((time.process_time() - start) * 1000)
            assert name == LIMIT or np.array_equal(found, truth), f"{name} reads other voxels"
    ours = statistics.median(times[OURS])
    rows = []
    for name, taken in times.items():
        tracemalloc.start()
        by_name[name]()
        peak = tracemalloc.get_traced_memory()[1] / size
        tracemalloc.stop()
        median = statistics.median(taken)
        rows.append({
            "name": name, "unit": "ms of processor time", "median": round(median, 1),
            "spread": [round(min(taken), 1), round(max(taken), 1)], "times of ours": round(median / ours, 2),
            "peak in volumes": round(peak, 2),
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table; keep it with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", default="")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii.gz"
        size = write_ct(path)
        packed = path.stat().st_size
        rows = measured(readers(path), asked.rounds, size)
    print(f"{size / 1e6:.1f} MB of int16 in {packed / 1e6:.1f} MB of gzip ({size / packed:.2f} : 1)")
    for row in rows:
        spread = "–".join(str(n) for n in row["spread"])
        print(f"{row['name']:22} {row['median']:8.1f} ms ({spread}) {row['times of ours']:6.2f} x ours   "
              f"peak {row['peak in volumes']:.2f} volumes")  # fmt: skip
    if asked.json:
        Path(asked.json).write_text(json.dumps({"machine": platform.platform(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
