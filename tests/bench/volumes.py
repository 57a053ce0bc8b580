"""Volumes: how fast and how right resampling is beside SimpleITK and MONAI, and what a scan costs from file to shard.

`python -m tests.bench.volumes [--json FILE] [--rounds N] [--only resample,error,memory,read,pipeline]` takes a CT of
512 x 512 x 120 at 0.7 x 0.7 x 2.5 mm (synthetic) to 1.5 mm isotropic (A) and to 256 x 256 x 32 (B). All methods run
interleaved, round by round, on one core and with one thread, measured in processor time. MONAI is pinned, installed
without its dependencies into a folder of its own, and run in a process of its own on our torch; where it cannot be had
the table says so. Error and leak are against phantoms whose continuous values are known.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medloom.pipelines.stages.resample import resample
from medloom.schemas.volume import Volume
from tests.bench import volume_phantoms as phantoms
from tests.bench.volume_phantoms import SHAPE, SPACING_MM, Grid

MONAI = "monai==1.6.1"
AFFINE = np.diag([*SPACING_MM[::-1], 1.0])
CASES: dict[str, dict[str, Any]] = {"A": {"spacing_mm": (1.5, 1.5, 1.5)}, "B": {"shape": (32, 256, 256)}}
OURS = ("cubic", "linear", "box", "lanczos3")
ITK = "SimpleITK linear"
PEERS = {"monai-spacing": "MONAI Spacing", "monai-resize": "MONAI Resize"}
# Tones beyond what the grid holds: case, axis, multiple of the new grid's Nyquist frequency.
LEAKS = (("A", 2, 1.3), ("A", 2, 1.9), ("B", 0, 1.5), ("B", 0, 3.0))
TARGETS = (
    ("A", "cubic", ITK, 4), ("A", "cubic", PEERS["monai-spacing"], 12), ("B", "cubic", ITK, 1),
    ("B", "cubic", PEERS["monai-spacing"], 4), ("B", "cubic", PEERS["monai-resize"], 4), ("A", "linear", ITK, 6),
    ("B", "linear", ITK, 4),
)  # fmt: skip


def ours(array: np.ndarray, case: str, kernel: Any) -> tuple[np.ndarray, Grid]:
    """Resample with our kernel."""
    made = resample(Volume(array, AFFINE, "HU"), **CASES[case], kernel=kernel)
    first = made.affine[:3, 3][::-1]
    return made.array, Grid(made.shape, tuple(first), made.spacing_mm)


def simpleitk(image: Any, case: str) -> tuple[np.ndarray, Grid]:
    """Resample a SimpleITK image to the same grid, int16 to int16."""
    import SimpleITK as sitk  # noqa: N813  its own manual's name

    spacing = CASES[case].get("spacing_mm")
    shape = CASES[case].get("shape") or tuple(
        round(n * s / t) for n, s, t in zip(SHAPE, SPACING_MM, spacing, strict=True)
    )
    spacing = spacing or tuple(n * s / m for n, s, m in zip(SHAPE, SPACING_MM, shape, strict=True))
    first = tuple((t - s) / 2 for s, t in zip(SPACING_MM, spacing, strict=True))
    made = sitk.Resample(
        image, [int(n) for n in shape[::-1]], sitk.Transform(), sitk.sitkLinear, first[::-1], spacing[::-1],
        [1, 0, 0, 0, 1, 0, 0, 0, 1], 0, sitk.sitkInt16,
    )  # fmt: skip
    return sitk.GetArrayViewFromImage(made), Grid(shape, first, spacing)


def sitk_image(array: np.ndarray) -> Any:
    """Return an array as SimpleITK holds it."""
    import SimpleITK as sitk  # noqa: N813  its own manual's name

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    return image


class Monai:
    """MONAI in a process of its own, as a context manager; `why` says why it cannot be had, "" when it can."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.why, place = "", None
        try:
            place = environment()
        except subprocess.CalledProcessError as error:
            self.why = f"pip cannot install {MONAI} (status {error.returncode})"
        path = os.pathsep.join(str(p) for p in (place, os.environ.get("PYTHONPATH", "")) if p)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("volumes_peers.py"))], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self._kept: list[np.ndarray] = []

    def __enter__(self) -> "Monai":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def ask(self, array: np.ndarray, transform: str, case: str, *, keep: bool = False) -> dict[str, Any]:
        """Return {"cpu": s, "peak_mb"} and, of what is kept, "array" and "grid"; {} when MONAI cannot be had."""
        if self.why:
            return {}
        if not any(array is kept for kept in self._kept):
            self._kept.append(array)
            np.save(self._path(len(self._kept) - 1), array)
        number = next(n for n, kept in enumerate(self._kept) if kept is array)
        output = str(Path(self._folder.name) / "made.npy") if keep else ""
        asked = {"input": str(self._path(number)), "transform": transform, "case": case, "output": output}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.why = "its process ended (is torch installed?)"
            return {}
        if keep:
            made = np.load(output)
            answer |= {"array": made, "grid": Grid(made.shape, tuple(answer["first_mm"]), tuple(answer["spacing_mm"]))}
        return answer

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number}.npy"


def environment() -> Path:
    """Return the folder that holds MONAI alone, made at the first run in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medloom-bench"
    folder = cache / MONAI.replace("==", "-")
    if not (folder / "monai").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), MONAI], check=True, capture_output=True)
    return folder


def resample_rows(rounds: int, monai: Monai) -> list[dict[str, Any]]:
    """Return a row per case and method: ms of processor time, and how many times ours (cubic) it takes."""
    array = phantoms.body()
    image = sitk_image(array)
    jobs: dict[str, Callable[[str], Any]] = {
        **{kernel: lambda case, kernel=kernel: ours(array, case, kernel) for kernel in OURS},
        ITK: lambda case: simpleitk(image, case),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):  # the first warms up
        for case in CASES:
            took = {}
            for name, job in jobs.items():
                started = time.process_time()
                job(case)
                took[name] = time.process_time() - started
            for transform, name in PEERS.items():
                answer = monai.ask(array, transform, case)
                took |= {name: answer["cpu"]} if answer else {}
            for name, seconds in took.items() if number else ():
                times.setdefault((case, name), []).append(1000 * seconds)
    rows = []
    for (case, name), ms in times.items():
        row = {"name": f"{case} {name}", "unit": "ms", "median": round(statistics.median(ms), 1)}
        row["spread"] = [round(min(ms), 1), round(max(ms), 1)]
        for mine in ("cubic", "linear"):
            row[f"ours_{mine}_is_faster"] = _ratio(ms, times[case, mine])
        rows.append(row)
    return rows


def _ratio(ms: list[float], others: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ms, others, strict=True)), 2)


def error_rows(monai: Monai) -> list[dict[str, Any]]:
    """Return a row per case and method: error on the smooth phantom, and leak of tones beyond the new grid."""
    rows = []
    for case in CASES:
        methods: dict[str, phantoms.Resampler] = {
            **{kernel: partial(ours, case=case, kernel=kernel) for kernel in OURS},
            ITK: lambda array, case=case: simpleitk(sitk_image(array), case),
        }
        if not monai.why:
            for transform, name in PEERS.items():
                methods[name] = partial(_monai, monai, transform, case)
        for name, method in methods.items():
            leaks = {}
            for _, axis, multiple in (leak for leak in LEAKS if leak[0] == case):
                step = 1.5 if case == "A" else SHAPE[axis] * SPACING_MM[axis] / CASES["B"]["shape"][axis]
                leaks[f"{'zyx'[axis]} {multiple} x Nyquist"] = round(
                    phantoms.leak_of(method, axis, multiple / (2 * step)), 3
                )
            error = round(phantoms.error_of(method), 2)
            rows.append({"name": f"{case} {name}", "unit": "RMSE", "median": error, "leak": leaks})
    return rows


def _monai(monai: Monai, transform: str, case: str, array: np.ndarray) -> tuple[np.ndarray, Grid]:
    answer = monai.ask(array, transform, case, keep=True)
    return answer["array"], answer["grid"]


_PEAK = """
import sys
from pathlib import Path
import numpy as np
from tests.bench import volumes

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

method, case = sys.argv[1:]
job = volumes.simpleitk if method == volumes.ITK else lambda array, case: volumes.ours(array, case, method)
make = volumes.sitk_image if method == volumes.ITK else np.asarray
job(make(np.zeros((120, 512, 512), np.int16)), case)
array = make(np.ones((120, 512, 512), np.int16))
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
made = job(array, case)
print((status("VmHWM") - before) / 1024)
"""


def memory_rows(monai: Monai) -> list[dict[str, Any]]:
    """Return a row per case and method: MB above the input that resampling needs, its result included."""
    rows = []
    for case in CASES:
        for name in ("cubic", "linear", ITK):
            command = [sys.executable, "-c", _PEAK, name, case]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment())
            rows.append(
                {"name": f"{case} {name}", "unit": "MB above the input", "median": round(float(done.stdout), 1)}
            )
        for transform, name in PEERS.items():
            answer = monai.ask(np.ones(SHAPE, np.int16), transform, case)
            if answer:
                rows.append(
                    {"name": f"{case} {name}", "unit": "MB above the input", "median": round(answer["peak_mb"], 1)}
                )
    return rows


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def read_rows(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of reading a DICOM series and a NIfTI.gz of the same size, beside their peers."""
    from tests.bench import nifti_read
    from tests.bench.dicom_series import bench_dicom

    rows = bench_dicom(folder)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "ct.nii.gz"
        size = nifti_read.write_ct(path)
        rows += [
            {**row, "name": f"NIfTI.gz {row['name']}"}
            for row in nifti_read.measured(nifti_read.readers(path), rounds, size)
        ]
    return rows


def told(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of the tables, and of what was aimed at."""
    lines = []
    for title, table in rows.items():
        lines += ["", title]
        for row in table:
            rest = "  ".join(f"{key} {value}" for key, value in row.items() if key not in ("name", "unit", "median"))
            lines.append(f"  {row['name']:38} {row['median']:9} {row['unit']:20} {rest}")
    times = {row["name"]: row for row in rows.get("resample", [])}
    lines += ["", "aims"] if times else []
    for case, mine, peer, aim in TARGETS:
        if f"{case} {peer}" in times:
            found = times[f"{case} {peer}"][f"ours_{mine}_is_faster"]
            lines.append(
                f"  {case} {mine:8} {found:6.2f} x as fast as {peer}, aim {aim}: {'met' if found >= aim else 'MISSED'}"
            )
    return lines


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that decide the numbers."""
    import numba
    import SimpleITK as sitk  # noqa: N813  its own manual's name

    return {
        "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
        "numpy": np.__version__, "numba": numba.__version__, "SimpleITK": sitk.Version_VersionString(),
        "monai": MONAI, "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Print the tables, and keep them with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="resample,error,memory,read,pipeline")
    options = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    wanted, rows = options.only.split(","), {}
    with Monai() as monai, tempfile.TemporaryDirectory() as place:
        if "resample" in wanted:
            rows["resample"] = resample_rows(options.rounds, monai)
        if "error" in wanted:
            rows["error"] = error_rows(monai)
        if "memory" in wanted:
            rows["memory"] = memory_rows(monai)
        if {"read", "pipeline"} & set(wanted):
            from tests.bench.dicom_series import write_series

            write_series(Path(place), slices=SHAPE[0])
        if "read" in wanted:
            rows["read"] = read_rows(options.rounds, Path(place))
        if "pipeline" in wanted:
            from tests.bench.volumes_pipeline import bench_pipeline

            rows["pipeline"] = bench_pipeline(Path(place))
        print(f"MONAI cannot be had: {monai.why}" if monai.why else f"MONAI: {MONAI}")
    print("\n".join(told(rows)))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
