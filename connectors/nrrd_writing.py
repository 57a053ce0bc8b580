"""NRRD, written: label maps as one .seg.nrrd, whose header says what each value is, as 3D Slicer reads it.

The affine stands in it as decimal text, exactly; the same label maps give the same bytes.
"""

from collections.abc import Sequence
from typing import IO

import numpy as np

from medloom.schemas.volume import Volume

_LEVEL = 2  # of igzip
_TYPES = {"uint8": "uint8", "uint16": "uint16"}


def write_segmentation(layers: Sequence[Volume], file: IO[bytes]) -> None:
    """Write label maps on one grid with the name of every label; one that has no voxel keeps its name.

    Raises:
        ValueError: the layers differ in shape or place, or hold no uint8 or uint16.
    """
    from isal import igzip

    first = layers[0]
    if any(one.shape != first.shape or not np.array_equal(one.affine, first.affine) for one in layers):
        raise ValueError("the layers of a segmentation need one shape and affine")
    dtype = "uint16" if any(one.array.dtype == np.uint16 for one in layers) else "uint8"
    if any(one.array.dtype.name not in _TYPES for one in layers):
        raise ValueError("a layer of a segmentation holds uint8 or uint16")
    file.write(_header(layers, dtype).encode())
    with igzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as squeezed:
        for planes in zip(*(one.array for one in layers), strict=True):  # the layer is the fastest axis
            squeezed.write(np.stack(planes, axis=-1).astype(f"<{np.dtype(dtype).str[1:]}").tobytes())


def _header(layers: Sequence[Volume], dtype: str) -> str:
    first, many = layers[0], len(layers) > 1
    z, y, x = first.shape
    directions = " ".join(_vector(column) for column in first.affine[:3, :3].T)
    lines = [
        "NRRD0005", f"type: {_TYPES[dtype]}", f"dimension: {3 + many}", "space: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' * many}{x} {y} {z}", f"space directions: {'none ' * many}{directions}",
        f"kinds: {'list ' * many}domain domain domain", "endian: little", "encoding: gzip",
        f"space origin: {_vector(first.affine[:3, 3])}",
    ]  # fmt: skip
    segments = [(n, value, label) for n, layer in enumerate(layers) for value, label in sorted(layer.labels.items())]
    for number, (layer_number, value, label) in enumerate(segments):
        name = " ".join(f"{label.side} {label.name}".split())
        lines += [
            f"Segment{number}_ID:=Segment_{number}", f"Segment{number}_Name:={name}",
            f"Segment{number}_LabelValue:={value}", f"Segment{number}_Layer:={layer_number}",
        ]  # fmt: skip
    return "\n".join([*lines, "", ""])


def _vector(numbers: np.ndarray) -> str:
    return f"({','.join(repr(float(number)) for number in numbers)})"
