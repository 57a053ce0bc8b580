"""dcm2niix as the judge of DICOM readers: what it makes of a series, and whether ours is the same.

Voxels and places are compared in canonical orientation, (Z, Y, X) in LPS: voxels equal (1e-5 of the range where slopes
are fractional), affines to 1e-3 mm. Its `_Tilt` and `_Eq` copies are kept apart: they are repaired, not read.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medloom.connectors.dicom import SeriesRead, Stack
from medloom.connectors.images import decode_picture
from medloom.schemas.medium import Picture
from medloom.schemas.volume import Volume

AFFINE_TOLERANCE_MM = 1e-3
VOXEL_TOLERANCE = 1e-5  # of the range, for floats
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
JPEG_LEVELS = 4  # decoders of lossy JPEG may differ by this much
REPAIRED = ("_Tilt", "_Eq")


@dataclass(frozen=True, eq=False)
class Reference:
    """One 3-D volume of dcm2niix's: its file's stem, array (X, Y, Z) as stored, affine (RAS), and of which run.

    There are two runs, since neither is right for all: "-p n" takes Philips' RescaleSlope as it stands, the default
    ("-p y") takes slopes that change from slice to slice.
    """

    name: str
    array: np.ndarray
    affine: np.ndarray
    run: str = ""

    @property
    def is_repaired(self) -> bool:
        """Whether it is a copy with made slices or shifted ones."""
        return any(mark in self.name for mark in REPAIRED)

    def volume(self) -> Volume:
        """The same as a volume of ours, in canonical orientation."""
        return Volume(np.ascontiguousarray(self.array.T).astype(np.float32), LPS @ self.affine).canonical()


def converted(paths: Sequence[Path]) -> list[Reference]:
    """Return what dcm2niix makes now of the files of one series, in both runs."""
    import dcm2niix

    found = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        for number, path in enumerate(paths):
            (source / f"{number:05d}.dcm").symlink_to(Path(path).resolve())
        options = ["-z", "n", "-b", "n", "-f", "%s", "-w", "2", "-i", "n", "-x", "n"]
        if len(paths) == 1:
            options += ["-s", "y"]
            source = source / "00000.dcm"
        for run in ("y", "n"):
            made = Path(folder, run)
            made.mkdir()
            command = [dcm2niix.bin, *options, "-p", run, "-o", made, source]
            subprocess.run(command, capture_output=True, timeout=120, check=False)
            found += read_references(made, run)
    return found


def read_references(folder: Path, run: str = "") -> list[Reference]:
    """Return the volumes of the NIfTI files in a folder, those of a 4-D file one by one."""
    found = []
    for path in sorted(folder.glob("*.nii*")):
        image = nib.load(path)
        array = np.asarray(image.dataobj)
        array = array.reshape(*array.shape[:3], -1)
        name = path.name.split(".nii")[0]
        found += [Reference(name, array[..., k], np.array(image.affine), run) for k in range(array.shape[3])]
    return found


def distance(volume: Volume, reference: Reference) -> tuple[float, float]:
    """Return the largest difference of voxels (0 within the tolerance of floats) and of affines in mm."""
    if reference.array.dtype.fields or sorted(reference.array.shape) != sorted(volume.shape):
        return np.inf, np.inf
    other, ours = reference.volume(), volume.canonical()
    if other.shape != ours.shape:
        return np.inf, np.inf
    voxels = float(np.abs(other.array.astype(np.float64) - ours.array).max())
    if volume.array.dtype == np.float32 and voxels <= VOXEL_TOLERANCE * float(np.ptp(ours.array)):
        voxels = 0.0
    return voxels, float(np.abs(other.affine - ours.affine).max())


def matches(stack: Stack, references: Sequence[Reference]) -> list[int]:
    """Return which references are the same as a stack; a picture's planes are shown by a function of their values."""
    if isinstance(stack.content, Picture):
        return [i for i, one in enumerate(references) if _is_shown(stack.content, one)]
    found = []
    for index, reference in enumerate(references):
        voxels, mm = distance(stack.content, reference)
        if voxels == 0 and mm <= AFFINE_TOLERANCE_MM:
            found.append(index)
    return found


def judge(series: SeriesRead, references: Sequence[Reference]) -> tuple[str, str]:
    """Return what became of a series and a word on it.

    "equal": every stack is one of dcm2niix's volumes, and every one of those is a stack or was refused;
    "refused": nothing was read; "alone": dcm2niix made nothing of it; "differ": anything else.
    """
    reasons = sorted({reason for _, reason, _ in series.refused})
    if not series.stacks:
        return "refused", ", ".join(reasons)
    plain = [reference for reference in references if not reference.is_repaired]
    if not plain:
        return "alone", "dcm2niix makes nothing of it"
    same = [matches(stack, plain) for stack in series.stacks]
    if not all(same):
        return "differ", f"{sum(not one for one in same)} of {len(same)} stacks are none of dcm2niix's"
    left = [one.run for index, one in enumerate(plain) if not any(index in found for found in same)]
    missed = min(left.count(run) for run in {one.run for one in plain})
    if missed > 0 and not reasons and isinstance(series.stacks[0].content, Volume):
        return "differ", f"{missed} of dcm2niix's volumes are no stack"
    kind = "volume" if isinstance(series.stacks[0].content, Volume) else "picture"
    return "equal", f"{len(same)} {kind}" + (f", also {', '.join(reasons)}" if reasons else "")


def _is_shown(picture: Picture, reference: Reference) -> bool:
    shown = decode_picture(picture)
    planes = np.moveaxis(reference.array[:, ::-1], (0, 1, 2), (2, 1, 0))  # (Z, Y, X), rows top down
    for plane in planes:
        if plane.shape != shown.shape[:2]:
            continue
        if plane.dtype.fields:
            colours = np.stack([plane[c] for c in "RGB"], axis=-1).astype(int)
            if shown.shape == colours.shape and np.abs(colours - shown).max() <= JPEG_LEVELS:
                return True
        elif _is_function(plane.ravel(), shown.reshape(-1, shown.shape[2])):
            return True
    return False


def _is_function(stored: np.ndarray, shown: np.ndarray) -> bool:
    """Whether equal stored values are shown equally, and, if grey, in their order (or all in the reverse order)."""
    order = np.argsort(stored, kind="stable")
    stored, shown = stored[order], shown[order].astype(int)
    steps, changes = np.diff(stored.astype(float)), np.diff(shown, axis=0)
    if (changes[steps == 0] != 0).any():
        return False
    return shown.shape[1] == 3 or bool((changes >= 0).all() or (changes <= 0).all())
