"""What dcmqi reads from a DICOM SEG: the independent reference for ours, run live."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK

from medloom.connectors.dicom_headers import word
from medloom.schemas.volume import Volume

Voxels = set[tuple[int, int, int]]
PROGRAM = Path(sys.executable).with_name("segimage2itkimage")  # of the package dcmqi


class NotRead(Exception):
    """dcmqi does not read the object."""


def voxels_by_dcmqi(path: Path, grid: Volume | None = None, *, above: float = 0.0) -> dict[int, Voxels]:
    """Return the voxels (x, y, z) that each segment of a SEG holds, by its number.

    dcmqi writes a file for each segment, and one of all segments for a label map.

    Args:
        grid: whose voxels are meant; those of dcmqi's own image when not given.
        above: the stored value from which on a pixel counts (of fractions); 0: all but 0.
    """
    images = images_by_dcmqi(path)
    is_map = len(images) == 1 and word(pydicom.dcmread(path, stop_before_pixels=True), "SegmentationType") == "LABELMAP"
    found = {}
    for number, image in images.items():
        values = SimpleITK.GetArrayFromImage(image)
        to_grid = np.linalg.inv(affine_of(image) if grid is None else grid.affine) @ affine_of(image)
        for value in np.unique(values[values > 0]) if is_map else [number]:
            mask = values == value if is_map else values >= above if above else values != 0
            voxels = np.argwhere(mask)[:, ::-1]
            found[int(value)] = _whole((np.column_stack([voxels, np.ones(len(voxels))]) @ to_grid.T)[:, :3])
    return found


def images_by_dcmqi(path: Path) -> dict[int, SimpleITK.Image]:
    """Return the image of each segment as dcmqi writes it, by its number.

    Raises:
        NotRead
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [PROGRAM, "--inputDICOM", path, "--outputDirectory", folder, "--prefix", "s", "--outputType", "nrrd"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        files = sorted(Path(folder).glob("s-*.nrrd"))
        if done.returncode != 0 or not files:
            raise NotRead(f"exit status {done.returncode}")
        return {int(file.stem.removeprefix("s-")): SimpleITK.ReadImage(str(file)) for file in files}


def affine_of(image: SimpleITK.Image) -> np.ndarray:
    """Return the (4, 4) affine, voxel (x, y, z) to LPS mm, of an ITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def voxels_of(layers: Sequence[Volume]) -> dict[int, Voxels]:
    """Return the voxels (x, y, z) of each label of our layers, by its value."""
    return {
        value: _whole(np.argwhere(layer.array == value)[:, ::-1].astype(float))
        for layer in layers
        for value in layer.labels
    }


def _whole(indices: np.ndarray) -> Voxels:
    """Return indices as whole numbers; one that is not within 0.1 voxel of any is a fault of geometry."""
    near = np.rint(indices)
    if len(indices) and np.abs(indices - near).max() > 0.1:
        raise AssertionError(f"voxels are {np.abs(indices - near).max():.3f} off the grid")
    return {(int(x), int(y), int(z)) for x, y, z in near}
