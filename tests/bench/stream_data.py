"""What the streaming bench reads: CT-like volumes and photograph-like pictures, in our shards and in the peers' tars.

All is synthetic and seeded. Volumes pack as real CT does (gzip 2.4 : 1, the published mean; ours 3.3 : 1), pictures
weigh about 57 KB at 512 x 512 and quality 90. Everything is made from nothing in a folder of the bench's own.
"""

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medloom.pipelines.stages.encode import encode
from medloom.schemas.example import Example, Part, Turn
from medloom.schemas.keys import example_id
from medloom.schemas.medium import Medium, Picture, Sample
from medloom.schemas.origin import Origin
from medloom.schemas.store import Store
from medloom.schemas.volume import Volume
from tests.builds import PRINTS, write_build

PER_SHARD = 8  # volumes
BIG = ("caption", "interleaved")  # tasks of the examples of the big volumes: the isotropic one, that of thick slices
QUESTIONS = 5  # of each shared volume
ORIGIN = Origin("bench", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)


@dataclass(frozen=True)
class Size:
    """How much of everything: the bench's own size, or `QUICK` to see that all of it works.

    Attributes:
        volumes, shape: of the throughput of volumes; the first `shared` of them have `QUESTIONS` examples each.
        pictures, side_px: JPEG.
        big_shape, patch, patches: of the two volumes that patches are cut from, and of those, a volume.
        members: of the tar that is walked.
        shards, per_shard: of the rows that the shuffle is judged by; no bytes of media are read for them.
    """

    volumes: int = 48
    shape: tuple[int, int, int] = (32, 256, 256)
    shared: int = 20
    pictures: int = 480
    side_px: int = 512
    big_shape: tuple[int, int, int] = (140, 512, 512)
    patch: tuple[int, int, int] = (96, 96, 96)
    patches: int = 24
    members: int = 60_000
    shards: int = 20
    per_shard: int = 256

    def to_json(self) -> dict[str, Any]:
        """Return it as the table names it."""
        return asdict(self)


QUICK = Size(
    volumes=8, shape=(8, 64, 64), shared=4, pictures=12, side_px=96, big_shape=(40, 128, 128), patch=(24, 24, 24),
    patches=4, members=600, shards=5, per_shard=16,
)  # fmt: skip


def ct(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A body with lungs and bones on a table in air, int16 HU, -1024 outside the field of view, noise of 14 HU."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if i == a else 1 for i in range(3)])
               for a, n in enumerate(shape))  # fmt: skip
    a, b = 0.62 + 0.1 * rng.random(), 0.42 + 0.1 * rng.random()
    wave = 20 * np.sin(9 * x + 3 * seed) * np.cos(7 * y + z)
    values = np.full(shape, -1000, np.float32)
    body = (x / a) ** 2 + (y / b) ** 2 < 1 - 0.1 * z**2
    values = np.where(body, 40 + wave, values)
    for side in (-1, 1):
        lung = ((x - 0.3 * side) / 0.2) ** 2 + ((y + 0.05) / 0.27) ** 2 < 1 - 0.6 * z**2
        values = np.where(lung, -850 + 2 * wave, values)
    values = np.where(x**2 / 0.008 + (y - 0.28) ** 2 / 0.006 < 1, 420 + 6 * wave, values)
    values = np.where((np.abs(y - 0.62) < 0.02) & (np.abs(x) < 0.7), -200, values)
    noise = rng.standard_normal(shape, np.float32)
    for axis, share in ((0, 0.6), (1, 0.35), (2, 0.35)):  # neighbours share noise, slices the most
        noise = np.sqrt(1 - share**2) * noise + share * np.roll(noise, 1, axis)
    values += 14 * noise * np.where(body, 1.0, 0.5)
    return np.where(x**2 + y**2 > 1, -1024, np.rint(values)).astype(np.int16)


def jpeg(side_px: int, seed: int) -> bytes:
    """A picture with the spectrum of photographs (1 / f) and some edges, quality 90."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side_px), np.fft.rfftfreq(side_px), indexing="ij"))
    planes = []
    for weight in (1.0, 0.3, 0.3):
        spectrum = np.fft.rfft2(rng.standard_normal((side_px, side_px))) / np.maximum(f, 1 / side_px) ** 1.55
        plane = np.fft.irfft2(spectrum, s=(side_px, side_px))
        planes.append(weight * plane / plane.std())
    light, red, blue = planes
    light = np.where(light > np.quantile(light, 0.8), light + 1.5, light)
    rgb = np.stack([light + red, light, light + blue], axis=-1) * 38 + 118
    file = io.BytesIO()
    Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def nii(array: np.ndarray) -> bytes:
    """A NIfTI of `array` (Z, Y, X), as nibabel writes it."""
    import nibabel

    return nibabel.Nifti1Image(array.T, np.diag([-0.7, -0.7, 2.5, 1.0])).to_bytes()


def npy(array: np.ndarray) -> bytes:
    """A .npy of `array`."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_zst(array: np.ndarray) -> bytes:
    """A .npy in zstd level 3."""
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(npy(array))


FOREIGN: dict[str, Callable[[np.ndarray], bytes]] = {
    "npy": npy, "npy.zst": npy_zst, "nii.gz": lambda array: gzip.compress(nii(array), 6)
}  # fmt: skip


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a plain tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def medium(name: str, content: Volume | Picture) -> Medium:
    """A medium of a unit of its own name."""
    modality = "CT" if isinstance(content, Volume) else "figure"
    return Medium(key=name, unit=name, group=name, origin=ORIGIN, content=content, modality=modality, text="A text.")


def volume(array: np.ndarray, *, spacing_mm: float = 2.5) -> Volume:
    """A volume with slices `spacing_mm` apart and pixels of 0.7 mm."""
    return Volume(array, np.diag([0.7, 0.7, spacing_mm, 1.0]), units="HU")


def unit(media: list[Medium], *, tasks: dict[str, int]) -> dict[str, Any]:
    """A unit of media; `tasks` says how many examples of each task every one of them has."""
    name = media[0].key
    named = {"unit": name, "group": name, "split": "train", "source": "bench"}
    examples = [
        Example(
            example_id=example_id(task, PRINTS[task], name, f"{one.key} {number}"), **named, task=task, language="en",
            generator="bench:1", licence="CC0-1.0", terms_id="cc0-1.0",
            turns=(Turn("user", (Part(media=one.key), Part(text=f"Question {number}?"))),
                   Turn("assistant", (Part(text="An answer of some words."),))),
        )
        for one in media
        for task, many in tasks.items()
        for number in range(many)
    ]  # fmt: skip
    return {**named, "media": media, "examples": examples}


def stored(one: Medium, split: str) -> Sample:
    """A medium as the pipeline stores it."""
    return encode(one, split=split)


def make(root: Path, size: Size) -> dict[str, float]:
    """Write everything into `root`; return MB of each format."""
    arrays = _side_by_side(lambda seed: ct(size.shape, seed), range(size.volumes))
    units = []
    for number, array in enumerate(arrays):
        tasks = {"caption": 1} | ({"interleaved": 1, "header_vqa": QUESTIONS} if number < size.shared else {})
        units.append(unit([medium(f"v{number:04d}", volume(array))], tasks=tasks))
    _build(root / "scans", units, PER_SHARD)
    for form, as_bytes in FOREIGN.items():
        data = _side_by_side(as_bytes, arrays)
        for first in range(0, len(data), PER_SHARD):
            members = [(f"v{first + n:04d}.{form}", one) for n, one in enumerate(data[first : first + PER_SHARD])]
            write_tar(root / form / f"train-{first // PER_SHARD:06d}.tar", members)
    _pictures(root, size)
    _big(root, size)
    _rows(root, size)
    write_tar(
        root / "many.tar", ((f"{n // 2:08d}.{'json' if n % 2 else 'txt'}", b"x" * 40) for n in range(size.members))
    )
    folders = {"b2nd": "scans/build/media", "jpg": "pictures/build/media", **{form: form for form in FOREIGN}}
    return {form: sum(p.stat().st_size for p in (root / f).glob("*.tar")) / 1e6 for form, f in folders.items()}


def _side_by_side(function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
    """Results on all cores: numpy, zlib and zstd let go of the interpreter."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, values))


def _build(folder: Path, units: list[dict[str, Any]], per_shard: int) -> None:
    write_build(Store(f"{folder}/build"), units, parameters={}, units_per_shard=per_shard, as_stored=stored)


def _pictures(root: Path, size: Size) -> None:
    many = max(2, size.pictures // 6)  # in a unit, which is a shard here
    pictures = _side_by_side(lambda seed: jpeg(size.side_px, seed), range(size.pictures))
    units = []
    for first in range(0, size.pictures, many):
        media = [
            medium(f"p{first + n:05d}", Picture(data, "jpg", size.side_px, size.side_px, 3))
            for n, data in enumerate(pictures[first : first + many])
        ]
        units.append(unit(media, tasks={"caption": 1}))
    _build(root / "pictures", units, 1)


def _big(root: Path, size: Size) -> None:
    units = []
    (root / "big").mkdir()
    arrays = _side_by_side(lambda seed: ct(size.big_shape, seed), (1000, 1001))
    packed = _side_by_side(FOREIGN["nii.gz"], arrays)
    for number, (task, spacing_mm) in enumerate(zip(BIG, (0.7, 2.5), strict=True)):
        (root / "big" / f"{number}.nii.gz").write_bytes(packed[number])
        one = medium(f"b{number}", volume(arrays[number], spacing_mm=spacing_mm))
        units.append(unit([one], tasks={task: size.patches}))
    _build(root / "big", units, 1)


def _rows(root: Path, size: Size) -> None:
    """Many rows over many shards, media of a few pixels: what an order is judged by."""
    pixel = jpeg(16, 0)
    units = [
        unit([medium(f"r{n:06d}", Picture(pixel, "jpg", 16, 16, 3))], tasks={"caption": 1})
        for n in range(size.shards * size.per_shard)
    ]
    _build(root / "rows", units, size.per_shard)
