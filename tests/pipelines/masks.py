"""Scans with masks as tasks see them, measured here from the list of their voxels."""

import numpy as np
from tests.pipelines.papers import medium, scan

from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas.medium import Region
from medloom.schemas.volume import Label

LPS = np.diag([0.8, 0.8, 2.5, 1.0])
NAMES = ("liver", "spleen", "pancreas", "stomach", "aorta", "trachea", "heart", "brain", "sacrum", "duodenum")


def masked(labels: dict[int, Label], array: np.ndarray, affine: np.ndarray = LPS, *, key: str = "ct-abc") -> MediumView:
    """The view of one volume whose only layer is `array`; every label counts as labelled."""
    return medium(
        key, layout="volume-seg", modality="CT", plane="axial", shape=array.shape, affine=tuple(affine.ravel()),
        regions=tuple(measured(array, value, label, affine) for value, label in labels.items()),
        labelled=tuple(dict.fromkeys(label.name for label in labels.values())),
    )  # fmt: skip


def measured(array: np.ndarray, value: int, label: Label, affine: np.ndarray) -> Region:
    voxels = np.argwhere(array == value).tolist()
    if not voxels:
        return Region(0, value, label, 0, 0.0, (0, 0, 0, 0, 0, 0))
    low = [min(v[i] for v in voxels) for i in range(3)]
    high = [max(v[i] for v in voxels) + 1 for i in range(3)]
    ml = len(voxels) * abs(np.linalg.det(affine[:3, :3])) / 1000
    return Region(0, value, label, len(voxels), float(ml), (low[0], low[1], low[2], high[0], high[1], high[2]))


def blocks(*boxes: tuple[int, ...], shape: tuple[int, int, int] = (16, 40, 40)) -> np.ndarray:
    """A label map in which box i holds the value i + 1, later ones over earlier ones."""
    array = np.zeros(shape, np.uint8)
    for value, (z0, y0, x0, z1, y1, x1) in enumerate(boxes, 1):
        array[z0:z1, y0:y1, x0:x1] = value
    return array


def abdomen(key: str = "ct-abc") -> UnitView:
    """Six structures of clear sizes and places, two kidneys among them; two more were labelled and are not there."""
    boxes = (
        (8, 8, 2, 14, 30, 18), (9, 20, 28, 13, 30, 36), (4, 22, 24, 9, 28, 30), (4, 22, 8, 8, 28, 13),
        (6, 18, 19, 8, 21, 24), (2, 30, 18, 15, 33, 21),
    )  # fmt: skip
    names = [Label("liver"), Label("spleen"), Label("kidney", "left"), Label("kidney", "right"), Label("pancreas"),
             Label("aorta"), Label("urinary bladder"), Label("prostate"), Label("duodenum")]  # fmt: skip
    return scan(masked(dict(enumerate(names, 1)), blocks(*boxes), key=key), unit=key)


def random_unit(seed: int) -> UnitView:
    """A scan of random boxes under random names of `NAMES`, one or two of them empty, one touching an edge at times."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(6):
        low = rng.integers((0, 0, 0), (10, 28, 28))
        boxes.append((*low.tolist(), *(low + rng.integers((1, 2, 2), (6, 12, 12))).tolist()))
    names = rng.permutation(NAMES)[:8].tolist()
    labels = {value: Label(name) for value, name in enumerate(names, 1)}
    affine = LPS * np.array([*rng.choice([-1, 1], 3).tolist(), 1])
    key = f"ct-{seed}"
    return scan(masked(labels, blocks(*boxes), affine, key=key), unit=key)
