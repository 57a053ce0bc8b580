"""Where a frame of one DICOM object stands in the grid of another: exactly on its voxels, or not at all.

Nothing is resampled: a mask that would have to be moved by a part of a voxel is refused.
"""

from dataclasses import dataclass

import numpy as np

from medloom.connectors.dicom_geometry import SAME_PLACE_MM, STEP_TOLERANCE
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Volume


@dataclass(frozen=True)
class Placement:
    """How pixel (row, column) of a frame becomes voxel (x, y, z): `first + row * down + column * right`.

    Attributes:
        first: voxel of pixel (0, 0); it may be outside of the grid.
        right, down: (axis of x, y, z; step of -1 or 1) of the next column and of the next row.
    """

    first: tuple[int, int, int]
    right: tuple[int, int]
    down: tuple[int, int]

    @property
    def slice_axis(self) -> int:
        """The axis (0 is x) that the frame does not span."""
        return 3 - self.right[0] - self.down[0]

    @property
    def slice_index(self) -> int:
        """Where the frame stands on `slice_axis`."""
        return self.first[self.slice_axis]

    def target(self, array: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[slice, slice]] | None:
        """Return the part of `array` (Z, Y, X) that a frame of `shape` covers, as a view in the frame's own rows and
        columns, and which of them these are; None when it covers none.
        """
        if not 0 <= self.slice_index < array.shape[2 - self.slice_axis]:
            return None
        plane = np.moveaxis(array, (2 - self.down[0], 2 - self.right[0]), (0, 1))[:, :, self.slice_index]
        covered = []
        for number, ((axis, step), length) in enumerate(zip((self.down, self.right), shape, strict=True)):
            start, size = self.first[axis], plane.shape[number]
            if step < 0:
                plane, start = np.flip(plane, number), size - 1 - start
            begin, end = max(0, -start), min(length, size - start)
            if begin >= end:
                return None
            covered.append(slice(begin, end))
            plane = plane[start + begin : start + end] if number == 0 else plane[:, start + begin : start + end]
        return plane, (covered[0], covered[1])


class Grid:
    """The voxels of an image, in which frames are placed."""

    def __init__(self, image: Volume):
        self._to_voxels = np.linalg.inv(image.affine)
        self._voxel_mm = np.linalg.norm(image.affine[:3, :3], axis=0)
        # As far as `dicom_geometry` lets an image's own slices be off their even places.
        self._tolerance_mm = np.maximum(SAME_PLACE_MM, STEP_TOLERANCE * self._voxel_mm)

    def place(
        self,
        position: tuple[float, ...],
        *,
        orientation: tuple[float, ...],
        spacing: tuple[float, ...],
        shape: tuple[int, int],
    ) -> Placement:
        """Return where a frame stands, all of its pixels within 0.01 mm, or 1 % of a voxel, of a voxel's centre.

        Args:
            position, orientation, spacing: as DICOM states them (PS3.3 C.7.6.2.1.1), in mm, LPS.
            shape: (rows, columns).

        Raises:
            Refused("seg.grid"): its pixels are not voxels of the grid, continued over its edges if need be.
        """
        row, column = np.reshape(orientation, (2, 3))
        first = (self._to_voxels @ (*position, 1.0))[:3]
        steps = [self._to_voxels[:3, :3] @ row * spacing[1], self._to_voxels[:3, :3] @ column * spacing[0]]
        axes = [int(np.argmax(np.abs(step))) for step in steps]
        whole = [np.eye(3)[axis] * np.copysign(1, step[axis]) for axis, step in zip(axes, steps, strict=True)]
        off_first = first - np.rint(first)
        corners = [(right, down) for right in (0, shape[1] - 1) for down in (0, shape[0] - 1)]
        off = [off_first + right * (steps[0] - whole[0]) + down * (steps[1] - whole[1]) for right, down in corners]
        off_mm = np.abs(off).max(axis=0) * self._voxel_mm
        if axes[0] == axes[1] or not (off_mm <= self._tolerance_mm).all():
            x, y, z = off_mm
            raise Refused(
                "seg.grid",
                f"a frame is not on the voxels of the image: it is up to {x:.3g}, {y:.3g} and {z:.3g} mm off along x, "
                "y and z; resample the mask to the image's grid first",
            )
        x, y, z = (int(value) for value in np.rint(first))
        (right, down), (right_step, down_step) = axes, (int(w[a]) for w, a in zip(whole, axes, strict=True))
        return Placement((x, y, z), (right, right_step), (down, down_step))
