"""Tars of other people's making, and what libraries that know nothing of MedLoom find in them."""

import io
import json
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import zstandard
from PIL import Image

from medloom.schemas.b2nd import encode_labels, encode_volume


def write_tar(path: str | Path, entries: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> str:
    """Write members in this order and return the path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def picture(number: int, form: str = "JPEG", size: tuple[int, int] = (24, 32)) -> bytes:
    """A smooth picture of (height, width) that differs by number."""
    y, x = np.mgrid[: size[0], : size[1]]
    array = np.stack([y * 4 + number, x * 3, (x + y) * 2 + number], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


def volume(number: int, shape: tuple[int, ...] = (9, 20, 24)) -> np.ndarray:
    """An int16 array that differs by number."""
    return (np.random.default_rng(number).integers(-1000, 1000, shape)).astype(np.int16)


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def as_npy_zst(array: np.ndarray) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(as_npy(array))


def as_nifti(array: np.ndarray, *, slope: float | None = None, inter: float | None = None, two: bool = False) -> bytes:
    """A .nii of a (Z, Y, X) array, whose axes NIfTI stores as (X, Y, Z)."""
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    image = kind(array.T, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    return image.to_bytes()


def as_b2nd(array: np.ndarray) -> bytes:
    return (encode_labels(array) if array.ndim == 4 else encode_volume(array, isotropic=False)).data


def samples(first: int, count: int, fields: tuple[str, ...] = ("jpg", "json", "txt")) -> list[tuple[str, bytes]]:
    """Members of samples with a picture, facts and a caption each."""
    made = {
        "jpg": picture,
        "json": lambda n: json.dumps({"number": n}).encode(),
        "txt": lambda n: f"Picture {n}.".encode(),
        "npy": lambda n: as_npy(volume(n)),
    }
    return [(f"s{n:04d}.{field}", made[field](n)) for n in range(first, first + count) for field in fields]
