"""Damage: real files of every format of scans, cut and bit-flipped, must give a result or a refusal, and in time.

`python -m tests.bench.damage --minutes N [--seed S] [--json FILE]` goes round the files made here and those below
MEDLOOM_TEST_CORPUS/imaging until the time is up, each time with other damage, and prints a row per format: how often it
was read, refused, and why. A broken rule is printed with the file and the damage that make it again, and ends in exit
status 1. `tests/connectors/test_damaged_scans.py` runs a fixed sample. The rules:

- a reader ends within `LIMIT_S` in a result or `Refused`, without more memory than the guard grants;
- a file cut anywhere is refused, unless nothing that is read was cut (`TAILS`: what may follow the pixels);
- a flipped bit under a checksum is refused, or changes nothing that is read (`CHECKED`); other bits may be pixels.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import random
import re
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  its own manual's name
from PIL import Image

from medloom.connectors import dicom, images, volumes
from medloom.connectors.dicom_rtstruct import read_rtstruct
from medloom.connectors.dicom_seg import read_seg
from medloom.connectors.guard import Guard, GuardBug
from medloom.pipelines.sources import members
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Picture
from medloom.schemas.volume import Volume
from tests.connectors import dicom_made

LIMIT_S = 20.0
LARGEST_BYTES = 40 << 20  # of a file that is damaged over and over
CHECKED = ("nifti.gz", "nrrd gzip", "mha zlib", "mgz", "png", "zip")
TAILS = ("dicom", "seg", "rtstruct", "jpg", "mgh")  # elements after the pixels, a marker of the end, a footer
UNTIMELY = ("guard.timeout", "guard.memory")


@dataclass(frozen=True)
class Subject:
    """A whole file and how it is read.

    Attributes:
        name: of the file, for the report.
        format: by which results are counted, and the rules that hold for it.
        data: its bytes.
        read: calls a guard with the path of a file; gives what is hashed.
        checked_from: first byte under a checksum; what stands before it may change what is read.
    """

    name: str
    format: str
    data: bytes = field(repr=False)
    read: Callable[[Guard, str], Any] = field(repr=False)
    checked_from: int = 0


@dataclass(frozen=True)
class Damage:
    """What is done to a file: cut after so many bytes, or bits flipped at (byte, bit)."""

    cut: int = -1
    flips: tuple[tuple[int, int], ...] = ()

    def of(self, data: bytes) -> bytes:
        """Return the damaged bytes."""
        if self.cut >= 0:
            return data[: self.cut]
        damaged = bytearray(data)
        for place, bit in self.flips:
            damaged[place] ^= 1 << bit
        return bytes(damaged)


def damage_of(numbers: tuple[int, ...], subject: Subject) -> Damage:
    """Return the damage that five numbers from 0 to 65535 stand for; half of the flips fall on the file's start."""
    kind, first, second, bits, many = numbers
    size = len(subject.data)
    if kind % 3 == 0:
        return Damage(cut=first * size // 65536)
    span = min(size, 1024) if kind % 3 == 1 else size
    places = [(first + i * second) * span // 65536 % span for i in range(1 + many % 4)]
    return Damage(flips=tuple((place, (bits >> 3 * i) % 8) for i, place in enumerate(dict.fromkeys(places))))


class Examiner:
    """Reads damaged files in one guarded child and holds what comes against the rules."""

    def __init__(self, guard: Guard, folder: Path):
        self.guard = guard
        self.folder = folder
        self.counts: dict[str, Counter[str]] = {}
        self._whole: dict[str, str] = {}

    def whole(self, subject: Subject) -> str:
        """Return what the undamaged file gives: a digest, or "refused ..."."""
        key = f"{subject.format} {subject.name}"
        if key not in self._whole:
            self._whole[key] = self._outcome(subject, subject.data)[0]
        return self._whole[key]

    def broken_rule(self, subject: Subject, damage: Damage) -> str:
        """Return which rule the reader breaks over this damage, "" for none."""
        whole = self.whole(subject)
        outcome, took_s = self._outcome(subject, damage.of(subject.data))
        counts = self.counts.setdefault(subject.format, Counter())
        how = "cut" if damage.cut >= 0 else "flipped"
        counts[outcome if outcome.startswith(("refused", "bug")) else f"read {how}"] += 1
        if outcome.startswith("bug"):
            return outcome
        if took_s > 2 * LIMIT_S or outcome.removeprefix("refused ") in UNTIMELY:
            return f"{outcome} after {took_s:.1f} s"
        if outcome.startswith("refused") or damage.of(subject.data) == subject.data:
            return ""
        if damage.cut >= 0 and not (subject.format in TAILS and outcome == whole):
            return f"a file cut to {damage.cut} of {len(subject.data)} bytes is read"
        is_checked = subject.format in CHECKED and all(place >= subject.checked_from for place, _ in damage.flips)
        if damage.flips and is_checked and outcome != whole:
            return "bits flipped under a checksum are read"
        return ""

    def _outcome(self, subject: Subject, data: bytes) -> tuple[str, float]:
        path = self.folder / "damaged"
        path.write_bytes(data)
        start = time.monotonic()
        try:
            outcome = digest_of(subject.read(self.guard, str(path)))
        except Refused as refused:
            outcome = f"refused {refused.reason}"
        except GuardBug as bug:
            outcome = "bug " + " | ".join(line.strip() for line in str(bug).strip().splitlines()[-3:])
        return outcome, time.monotonic() - start


def digest_of(found: Any) -> str:
    """Return the sha256 of all pixels and places that were read."""
    digest = hashlib.sha256()
    for one in found:
        if isinstance(one, Volume):
            digest.update(repr((one.array.dtype.str, one.array.shape, one.affine.tolist(), one.labels)).encode())
            digest.update(np.ascontiguousarray(one.array).tobytes())
        elif isinstance(one, Picture):
            digest.update(images.decode_picture(one).tobytes())
        else:
            digest.update(one)
    return digest.hexdigest()


def _read_series(guard: Guard, path: str) -> list[Any]:
    read = guard.call(dicom.read_series, [path], timeout_s=LIMIT_S)
    if not read.stacks:
        raise Refused(*read.refused[0][1:]) if read.refused else Refused("series.empty", "nothing is in it")
    return [stack.content for stack in read.stacks]


def _read_masks(reader: Callable[..., Any], grid: Volume) -> Callable[[Guard, str], Any]:
    return lambda guard, path: guard.call(reader, path, grid, timeout_s=LIMIT_S)


def _read_volumes(guard: Guard, path: str) -> list[Volume]:
    with open(path, "rb") as file:
        kind = images.sniff(file.read(images.HEAD_BYTES))
    return guard.call(volumes.read_volumes, path, kind, timeout_s=LIMIT_S)


def _read_picture(guard: Guard, path: str) -> list[Picture]:
    return [guard.call(images.read_picture, Path(path).read_bytes(), timeout_s=LIMIT_S)]


def _read_zip(guard: Guard, path: str) -> list[bytes]:
    """Return the members as a source of scans reads them."""
    root = Path(f"{path}.root")
    root.mkdir(exist_ok=True)
    os.replace(path, root / "x.zip")
    urls = guard.call(members.list_objects, str(root), timeout_s=LIMIT_S)["url"].to_pylist()
    return [guard.call(members.read_object, str(root), url, timeout_s=LIMIT_S) for url in urls]


def subject_of(name: str, data: bytes, *, grid: Volume | None = None, kind: str = "") -> Subject | None:
    """Return a file as a subject, None when its format is none of those that are read."""
    sniffed = images.sniff(data[: images.HEAD_BYTES])
    if sniffed == "dicom":
        if grid is not None:
            return Subject(name, kind, data, _read_masks(read_rtstruct if kind == "rtstruct" else read_seg, grid))
        return Subject(name, "dicom", data, _read_series)
    if sniffed in ("jpg", "png"):
        return Subject(name, sniffed, data, _read_picture)
    if sniffed == "zip":
        return Subject(name, "zip", data, _read_zip)
    if sniffed not in volumes.KINDS or sniffed == "mhd":
        return None
    packed, start = "", 0
    if sniffed == "nrrd" and (found := re.search(rb"\nencoding: (gz|gzip|raw)\n(?:[^\n]+\n)*\n", data)):
        packed, start = (" gzip", found.end()) if found[1] != b"raw" else (" raw", 0)
    if sniffed == "mha":
        is_packed = b"CompressedData = True" in data
        packed, start = (" zlib" if is_packed else " raw"), data.index(b"ElementDataFile = LOCAL\n") + 24
    return Subject(name, sniffed + packed, data, _read_volumes, start)


def made(folder: Path) -> list[Subject]:
    """Return a small file of each format, written here by the usual libraries."""
    import pydicom.data

    paths = dicom_made.ct_series(folder / "ct")
    grid = dicom_made.grid_of(paths)
    mask = np.zeros(grid.shape, bool)
    mask[1:4, 4:12, 5:15] = True
    square = np.array([[4.0, 4.0], [14.0, 4.0], [14.0, 12.0], [4.0, 12.0]])
    seg = dicom_made.seg_of(paths, mask[..., np.newaxis], [dicom_made.segment(1, "liver")], path=folder / "seg.dcm")
    rt = dicom_made.rtstruct_of(paths, {"liver": [(1.0, square), (2.0, square)]}, path=folder / "rt.dcm")
    dicom_made.enhanced_of(paths, folder / "enhanced.dcm")
    files = [paths[0], folder / "enhanced.dcm"]
    for name in (
        "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_dcmtk.dcm", "MR_small_implicit.dcm",
    ):  # fmt: skip
        files.append(Path(str(pydicom.data.get_testdata_file(name, download=False))))
    array = np.random.default_rng(0).integers(0, 3000, (12, 20, 24)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    for name, is_packed in (("raw.nrrd", False), ("gz.nrrd", True), ("raw.mha", False), ("zlib.mha", True)):
        sitk.WriteImage(image, folder / name, is_packed)
        files.append(folder / name)
    for name in ("x.nii", "x.nii.gz", "x.mgz", "x.mgh"):
        kind = nib.MGHImage if ".mg" in name else nib.Nifti1Image
        nib.save(kind(array.T, np.diag([-0.7, -0.9, 2.5, 1.0])), folder / name)
        files.append(folder / name)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    for name in ("x.png", "x.jpg"):
        Image.fromarray(pixels).save(folder / name)
        files.append(folder / name)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(paths[0], "a/one.dcm")
        archive.writestr("b.nii", gzip.decompress((folder / "x.nii.gz").read_bytes()))
    (folder / "x.zip").write_bytes(packed.getvalue())
    found = [subject_of(path.name, path.read_bytes()) for path in [*files, folder / "x.zip"]]
    found += [subject_of(seg.name, seg.read_bytes(), grid=grid, kind="seg")]
    found += [subject_of(rt.name, rt.read_bytes(), grid=grid, kind="rtstruct")]
    assert None not in found
    return [subject for subject in found if subject is not None]


def corpus() -> Iterator[Subject]:
    """Give the files of the corpus that are not too large."""
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    for path in sorted(Path(folder, "imaging").rglob("*")) if folder else []:
        if path.is_file() and 0 < path.stat().st_size <= LARGEST_BYTES:
            subject = subject_of(str(path.relative_to(str(folder))), path.read_bytes())
            if subject:
                yield subject


def main() -> None:
    """Damage files until the time is up; print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="")
    asked = parser.parse_args()
    end, rng = time.monotonic() + 60 * asked.minutes, random.Random(asked.seed)
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Guard() as guard:
        (Path(folder) / "made").mkdir()
        (Path(folder) / "work").mkdir()
        examiner = Examiner(guard, Path(folder) / "work")
        subjects = [*made(Path(folder) / "made"), *corpus()]
        while time.monotonic() < end:
            subject = rng.choice(subjects)
            if examiner.whole(subject).startswith("refused"):
                subjects.remove(subject)  # it is refused as it is: nothing to learn
                continue
            damage = damage_of(tuple(rng.randrange(65536) for _ in range(5)), subject)
            if fault := examiner.broken_rule(subject, damage):
                broken.append(f"{subject.name} ({subject.format}), {damage}: {fault}")
                print(broken[-1], flush=True)
        counts = examiner.counts
    for name, found in sorted(counts.items()):
        print(f"{name:12} {found.total():6}  " + ", ".join(f"{what} {n}" for what, n in found.most_common()))
    total = sum(found.total() for found in counts.values())
    print(f"{total} damaged files out of {len(subjects)}, {len(broken)} broken rules, seed {asked.seed}")
    if asked.json:
        rows = [{"name": name, "unit": "files", **found} for name, found in sorted(counts.items())]
        report = {"machine": platform.platform(), "seed": asked.seed, "rows": rows, "broken": broken}
        Path(asked.json).write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
