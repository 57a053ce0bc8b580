"""Speed of reading one DICOM series into an array, beside dcm2niix, SimpleITK and pydicom, interleaved in one run.

`python -m tests.bench.dicom_series [FOLDER] [--slices N] [--json FILE]` writes a synthetic CT series of N slices of
512 x 512 with headers of a hospital's length, unless a folder with one series is given, and prints processor time and
peak memory. Ours and the libraries end with an array in memory, dcm2niix (`-z n`) with a file in a temporary folder.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid

REPEATS = 7
WORDS = 90  # elements beside those that matter: a real CT header has 100 to 250
ALLOWED_MB = 64  # beyond twice the volume


def write_series(folder: Path, *, slices: int = 130) -> list[Path]:
    """Write a CT series of `slices` slices, 0.7 x 0.7 x 2.5 mm, noise and a body, and return its files."""
    from tests.connectors.dicom_objects import image_object

    draw, y, x = np.random.default_rng(0), *np.mgrid[-256:256, -256:256]
    body = np.where(np.hypot(y / 1.2, x) < 180, 1040, 24).astype(np.uint16)
    paths, series, study = [], generate_uid(), generate_uid()
    for k in range(slices):
        pixels = body + draw.integers(0, 60, body.shape, dtype=np.uint16)
        dataset = image_object(
            pixels, ImagePositionPatient=[-180, -180, 2.5 * k], PixelSpacing=[0.7, 0.7], InstanceNumber=k + 1,
            RescaleIntercept=-1024, BitsStored=12, HighBit=11, SeriesInstanceUID=series, SeriesNumber=1,
            StudyInstanceUID=study, SliceThickness=2.5, SpacingBetweenSlices=2.5,
        )  # fmt: skip
        block = dataset.private_block(0x0099, "SYNTHETIC", create=True)
        for number in range(WORDS):
            block.add_new(number, "LO", f"a word of a header {number}")
        paths.append(folder / f"{k:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def read_ours(paths: list[Path]) -> np.ndarray:
    """Return the volume of our reader."""
    from medloom.connectors.dicom import read_series

    (stack,) = read_series(paths).stacks
    return stack.content.array  # type: ignore[union-attr]


def read_simpleitk(paths: list[Path]) -> np.ndarray:
    """Return the volume of SimpleITK's series reader, its search for the files' order included."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    return sitk.GetArrayViewFromImage(reader.Execute())


def read_pydicom(paths: list[Path]) -> np.ndarray:
    """Return the volume that most scripts read: every file with pydicom, sorted along z, rescaled, stacked."""
    import pydicom

    datasets = sorted((pydicom.dcmread(path) for path in paths), key=lambda d: float(d.ImagePositionPatient[2]))
    return np.stack([d.pixel_array.astype(np.int16) + np.int16(d.RescaleIntercept) for d in datasets])


def _children_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (used.ru_utime + used.ru_stime)


def _dcm2niix_ms(paths: list[Path]) -> float:
    import dcm2niix

    with tempfile.TemporaryDirectory() as folder:
        before = _children_ms()
        command = [dcm2niix.bin, "-z", "n", "-b", "n", "-o", folder, str(paths[0].parent)]
        subprocess.run(command, check=True, capture_output=True)
        assert list(Path(folder).glob("*.nii"))
        return _children_ms() - before


def _ms(read: Callable[[list[Path]], np.ndarray], paths: list[Path]) -> float:
    started = time.process_time()
    read(paths)
    return 1000 * (time.process_time() - started)


READERS = {"SimpleITK series reader": read_simpleitk, "pydicom, file by file": read_pydicom}
OURS, JUDGE = "medloom read_series", "dcm2niix -z n"


def bench_dicom(folder: Path) -> list[dict[str, Any]]:
    """Return a row per reader of the one series in `folder`: processor time, ratio to dcm2niix, peak memory."""
    paths = sorted(folder.iterdir())
    times: dict[str, list[float]] = {name: [] for name in (OURS, JUDGE, *READERS)}
    for _ in range(REPEATS):
        times[OURS].append(_ms(read_ours, paths))
        times[JUDGE].append(_dcm2niix_ms(paths))
        for name, read in READERS.items():
            times[name].append(_ms(read, paths))
    medians = {name: statistics.median(found) for name, found in times.items()}
    volume_mb = read_ours(paths).nbytes / 2**20
    rows = []
    for name, median in medians.items():
        spread = max(times[name]) - min(times[name])
        rows.append({"name": name, "unit": "ms", "median": round(median, 1), "spread": round(spread, 1),
                     "ratio_to_dcm2niix": round(median / medians[JUDGE], 2)})  # fmt: skip
    rows.append({"name": "peak memory of ours above the imports", "unit": "MB", "median": round(_peak_mb(folder), 1),
                 "limit": round(2 * volume_mb + ALLOWED_MB, 1)})  # fmt: skip
    return rows


# VmHWM, since the peak of `getrusage` is handed down by the process that started this one.
_PEAK = """
import sys
from pathlib import Path
from tests.bench.dicom_series import read_ours

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

paths = sorted(Path(sys.argv[1]).iterdir())
read_ours(paths[:2])
before = status("VmRSS")
kept = read_ours(paths)
print((status("VmHWM") - before) / 1024)
"""


def _peak_mb(folder: Path) -> float:
    """Return by how much reading the series raises the peak memory of a process that has read two slices."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(folder)], check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    return float(done.stdout)


def main() -> None:
    """Print the table, and keep it with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=None)
    parser.add_argument("--slices", type=int, default=130)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if options.folder is None:
            write_series(Path(made), slices=options.slices)
        rows = bench_dicom(options.folder or Path(made))
    for row in rows:
        ratio = f"{row['ratio_to_dcm2niix']:>8.2f} x dcm2niix" if "ratio_to_dcm2niix" in row else ""
        limit = f"   (limit {row['limit']} MB)" if "limit" in row else ""
        print(f"{row['name']:40} {row['median']:>9} {row['unit']}{ratio}{limit}")
    if options.json:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
