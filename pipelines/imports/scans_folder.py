"""What an import of volumes writes: a folder of scans that the recipe `scans` builds, and what is said of each.

Every volume has a folder of its own, since what shares one never splits: `scans/NAME/NAME.nii.gz`, its masks beside it
as `NAME.seg.nrrd`, which names every class. Where voxels are is never guessed: the form says it, or the user does.
"""

import json
import math
import re
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medloom.connectors.nifti_writing import write_nifti
from medloom.connectors.nrrd_writing import write_segmentation
from medloom.pipelines.imports.job import Import
from medloom.pipelines.sources.local import local_copy
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import slug
from medloom.schemas.volume import DTYPES, MAX_VOXELS, Label, Volume

SCANS, SOURCES = "scans", "SOURCES.json"
MAX_INFLATED = 8 << 30  # bytes of a file of sparse masks, inflated
MAX_CLASSES = 1024
TERMS = ("terms_id", "licence", "attribution")
_AXES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Geometry:
    """Where voxels are, as a user states it for files that say nothing.

    Attributes:
        spacing_mm: (Z, Y, X) between voxel centres.
        orientation: directions in which x, y and z grow, such as "LPS".
    """

    spacing_mm: tuple[float, float, float]
    orientation: str

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) to LPS mm; the origin, which nobody knows, is the centre of the first voxel."""
        affine = np.eye(4)
        affine[:3, :3] = 0
        for column, (letter, mm) in enumerate(zip(self.orientation, self.spacing_mm[::-1], strict=True)):
            world, sign = _AXES[letter]
            affine[world, column] = sign * mm
        return affine


def stated_geometry(*, spacing_mm: tuple[float, ...] = (), orientation: str = "") -> Geometry | None:
    """Return the geometry of volumes whose files have none; None when nothing is stated.

    Args:
        spacing_mm: distances between slices, rows and columns (Z, Y, X) in mm, "5,0.8,0.8".
        orientation: directions of the patient in which x (columns), y (rows) and z (slices) grow, "LPS".
    """
    if not spacing_mm and not orientation:
        return None
    if len(spacing_mm) != 3 or not all(mm > 0 and math.isfinite(mm) for mm in spacing_mm):
        raise ConfigError("--set spacing_mm=Z,Y,X takes three positive distances in mm, such as 5,0.8,0.8")
    if sorted(_AXES.get(letter, (9, 0))[0] for letter in orientation) != [0, 1, 2]:
        raise ConfigError("--set orientation=… takes one letter of each of L/R, P/A and S/I, such as LPS")
    z, y, x = spacing_mm
    return Geometry((z, y, x), orientation)


@dataclass
class ScansFolder:
    """The folder that one import fills.

    Attributes:
        job: the import.
        told: by path in `scans/`, what is said of a volume or picture.
        names: of the volumes that are written.
    """

    job: Import
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    _ours: dict[str, dict[str, Any]] | None = None

    @property
    def ours(self) -> dict[str, dict[str, Any]]:
        """What an export of ours says of its media, by the path of each of their files; {} where the source is none."""
        if self._ours is None:
            rows = self.job.lines("media.jsonl") if self.job.is_ours else []
            self._ours = {
                str(file.get("name")): row
                for row in rows
                for file in (row.get("files") or {}).values()
                if isinstance(file, dict)
            }
        return self._ours

    def name_of(self, url: str) -> str:
        """Return what a volume is called: the key that an export of ours gave it, else its path in small letters."""
        row = self.ours.get(url)
        if row:
            return slug(str(row["key"]))
        stem = re.sub(r"(\.nii)?(\.gz)?$|\.npy$", "", url)
        return slug(re.sub(r"/(image|ct)$", "", stem))[-100:].strip("-")

    def has(self, name: str) -> bool:
        """Whether there is a volume of that name already."""
        return name in self.names

    def volume(self, name: str, volume: Volume, *, ours: dict[str, Any] | None = None) -> None:
        """Write a volume, once.

        Raises:
            Refused("volume.duplicate"): another one has the name.
        """
        if not name or name in self.names:
            raise Refused("volume.duplicate", "a volume of that name stands there already")
        path = f"{name}/{name}.nii.gz"
        with self.job.store.writing(f"{SCANS}/{path}") as file:
            write_nifti([volume], file)
        self.names.add(name)
        self.told[path] = {key: str(ours[key]) for key in TERMS if ours and ours.get(key)}
        self.job.made["volume"] += 1

    def masks(self, name: str, layers: list[Volume]) -> None:
        """Write the masks of a volume beside it."""
        with self.job.store.writing(f"{SCANS}/{name}/{name}.seg.nrrd") as file:
            write_segmentation(layers, file)
        terms = {key: value for key, value in self.told[f"{name}/{name}.nii.gz"].items() if key in TERMS}
        if terms:
            self.told[f"{name}/{name}.seg.nrrd"] = terms
        self.job.made["masks"] += 1

    def picture(self, url: str) -> str:
        """Copy a picture, once; return its path in `scans/`.

        Raises:
            Refused("image.…"): it is none, or not there.
        """
        name = slug(url.rpartition(".")[0])[-100:].strip("-") or "picture"
        ours = self.ours.get(url, {})
        path = self.job.picture(url, f"{SCANS}/{name}/{name}").removeprefix(f"{SCANS}/")
        if path not in self.told:
            self.told[path] = {key: str(ours[key]) for key in TERMS if ours.get(key)}
            self.job.made["image"] += 1
        return path

    def tell(self, path: str, **said: Any) -> None:
        """Add what is said of a volume or picture."""
        self.told[path] |= said

    def ask(self, path: str, question: dict[str, Any]) -> None:
        """Add a question about a volume or picture."""
        self.told[path].setdefault("questions", []).append(question)
        self.job.made["question"] += 1

    def finish(self) -> None:
        """Write what is said of everything."""
        data = json.dumps(dict(sorted(self.told.items())), ensure_ascii=False, indent=1) + "\n"
        self.job.store.write(f"{SCANS}/{SOURCES}", data.encode("utf-8", "replace"))

    def geometry(self, url: str) -> np.ndarray | None:
        """Return the affine of the (x, y, z) of an export of ours, None where the user states it."""
        row = self.ours.get(url, {})
        return np.array(row["npy_affine"], float) if "npy_affine" in row else None


def npy_array(job: Import, url: str, *, n_axes: int) -> np.ndarray:
    """Return the array of a .npy file of numbers; nothing is unpickled.

    Raises:
        Refused("npy.missing"), ("npy.corrupt"), ("npy.shape"), ("npy.dtype"), ("npy.size"): it is none that can be
            read.
    """
    if url not in job.files:
        raise Refused("npy.missing", "there is no such file")
    with local_copy(job.source, url) as path:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError, SyntaxError) as fault:
            raise Refused("npy.corrupt", f"it is no whole .npy file of numbers ({type(fault).__name__})") from fault
        if not isinstance(array, np.ndarray) or array.ndim != n_axes or 0 in array.shape:
            raise Refused("npy.shape", f"an array of {n_axes} axes is needed")
        if array.dtype.kind not in "iufb":
            raise Refused("npy.dtype", f"values are {array.dtype}, no numbers")
        if array.size > 3 * MAX_VOXELS:
            raise Refused("npy.size", f"{array.shape} holds more than {MAX_VOXELS} voxels")
        return np.array(array)


def placed(
    folder: ScansFolder, url: str, array_zyx: np.ndarray, *, dtype: str = "", units: str = "arbitrary"
) -> Volume:
    """Return a volume of the values of a .npy file, at the place that our export or the user states.

    Args:
        dtype: to which values go back, when each is of that type; else integers and floats become those we store.

    Raises:
        ConfigError: nobody says where its voxels are.
        Refused("npy.dtype"), ("npy.not_finite"): values fit none of our types.
    """
    affine = folder.geometry(url)
    if affine is None:
        if folder.job.geometry is None:
            raise ConfigError(
                f"{folder.job.form} keeps neither spacing nor orientation in its .npy files, and none is guessed: say "
                "them with --set spacing_mm=Z,Y,X --set orientation=LPS"
            )
        affine = folder.job.geometry.affine
    if not np.isfinite(array_zyx).all():
        raise Refused("npy.not_finite", "some values are NaN or infinite")
    names = (dtype,) if dtype in DTYPES else ()
    for name in (*names, array_zyx.dtype.name, "int16", "uint16", "float32"):
        if name in DTYPES:
            found = array_zyx.astype(name)
            if np.array_equal(found, array_zyx):
                return Volume(found, affine, units=units)
    raise Refused("npy.dtype", f"values of {array_zyx.dtype} fit none of {', '.join(DTYPES)}")


def sparse_classes(job: Import, url: str, shape_zyx: tuple[int, int, int]) -> list[np.ndarray]:
    """Return, of a file of sparse masks, the voxels of each class as places in C order of (X, Y, Z).

    Raises:
        Refused("masks.missing"), ("masks.corrupt"), ("masks.shape"), ("masks.size"): it is not such a file, or not of a
            volume of that shape.
    """
    from scipy import sparse

    if url not in job.files:
        raise Refused("masks.missing", "there is no such file")
    z, y, x = shape_zyx
    n = _classes_of_name(url, (x, y, z))
    with local_copy(job.source, url) as path:
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_INFLATED:
                    raise Refused("masks.size", f"it inflates to more than {MAX_INFLATED} bytes")
            matrix = sparse.load_npz(path).tocsr()
            matrix.check_format(full_check=True)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as fault:
            raise Refused("masks.corrupt", f"it is no sparse matrix ({type(fault).__name__})") from fault
    if matrix.shape != (n, x * y * z):
        raise Refused("masks.shape", f"a matrix of {matrix.shape} is not {n} classes of {x} x {y} x {z} voxels")
    rows = (matrix.getrow(i) for i in range(n))
    return [np.sort(row.indices[row.data != 0]) for row in rows]


def _classes_of_name(url: str, shape_xyz: tuple[int, int, int]) -> int:
    """Return C of "mask_(C, X, Y, Z).npz", whose X, Y and Z must be those of the image."""
    match = re.search(r"\((\d{1,5}), ?(\d{1,5}), ?(\d{1,5}), ?(\d{1,5})\)\.npz$", url)
    n, *sizes = map(int, match.groups()) if match else (0,)
    if tuple(sizes) != shape_xyz or not 0 < n <= MAX_CLASSES:
        raise Refused("masks.shape", f"its name is no mask_(C, {', '.join(map(str, shape_xyz))}).npz")
    return n


def layered(classes: list[np.ndarray], labels: list[Label], grid: Volume) -> list[Volume]:
    """Return classes as label maps on `grid`, class i as the value i + 1, in as few layers as keep all that overlap."""
    z, y, x = grid.shape
    dtype = np.uint16 if len(classes) > 255 else np.uint8
    layers: list[np.ndarray] = []
    tables: list[dict[int, Label]] = []
    for value, (places, label) in enumerate(zip(classes, labels, strict=True), 1):
        number = next((i for i, layer in enumerate(layers) if not layer[places].any()), len(layers))
        if number == len(layers):
            layers.append(np.zeros(x * y * z, dtype))
            tables.append({})
        layers[number][places] = value
        tables[number][value] = label
    return [
        Volume(layer.reshape(x, y, z).transpose(2, 1, 0), grid.affine, units="label", kind="label", labels=table)
        for layer, table in zip(layers, tables, strict=True)
    ]
