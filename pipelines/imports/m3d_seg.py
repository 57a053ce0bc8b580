"""M3D-Seg, read: cases of an image and its sparse masks, listed in one JSON file per set."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from medloom.connectors import anatomy
from medloom.pipelines.imports.job import Import
from medloom.pipelines.imports.scans_folder import ScansFolder, layered, npy_array, placed, sparse_classes
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume

SPLITS = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}


def read_set(folder: ScansFolder, url: str, listed: dict[str, Any]) -> None:
    """Read the cases that a set's JSON file lists; class i of a file of masks is label i + 1 of the list."""
    names = class_names(listed["labels"])
    for part, case in cases_of(listed):
        try:
            if not isinstance(case, dict) or not names:
                raise Refused("case.form", "it is no image with a label, or the list names no classes")
            _case(folder, url, (part, names), (str(case.get("image")), str(case.get("label"))))
        except Refused as refused:
            name = str(case.get("image") if isinstance(case, dict) else case)
            folder.job.refuse("volume", name, refused)


def cases_of(listed: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the cases of a list with their split."""
    for part, rows in listed.items():
        if isinstance(rows, list) and part != "labels":
            yield from ((SPLITS.get(part, part), row) for row in rows)


def class_names(labels: Any) -> list[str]:
    """Return the names of classes from label 1 on, of {"0": "background", "1": "liver"} or of a list of names."""
    named = {str(i): name for i, name in enumerate(labels, 1)} if isinstance(labels, list) else labels
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        return []
    numbers = sorted(int(text) for text in named if text.isdigit() and text != "0")
    return [named[str(n)] for n in numbers] if numbers == list(range(1, len(numbers) + 1)) else []


def found_at(job: Import, stated: str, beside: str) -> str:
    """Return the path in the source that a list's path means: as it is, beside the list, or by its end.

    M3D's lists hold paths of the machine that wrote them.

    Raises:
        Refused("path.missing"), ("path.ambiguous"): no file has it, or several.
    """
    wanted = stated.replace("\\", "/").lstrip("./")
    near = f"{beside.rpartition('/')[0]}/{wanted}".lstrip("/")
    for path in (wanted, near):
        if path in job.files:
            return path
    parts = [part for part in wanted.split("/") if part]
    ends = job.by_end.get("/".join(parts[-2:]), []) if len(parts) > 1 else []
    for n in range(len(parts), 1, -1):
        found = [path for path in ends if f"/{path}".endswith("/" + "/".join(parts[-n:]))]
        if len(found) == 1:
            return found[0]
        if found:
            raise Refused("path.ambiguous", "several files have such a path")
    raise Refused("path.missing", "no file of the source has such a path")


def _case(folder: ScansFolder, url: str, of: tuple[str, list[str]], paths: tuple[str, str]) -> None:
    job, (split, names) = folder.job, of
    image = found_at(job, paths[0], url)
    ours, name = folder.ours.get(image), folder.name_of(image)
    array = npy_array(job, image, n_axes=4)
    if array.shape[0] != 1:
        raise Refused("npy.shape", f"an image of {array.shape[0]} channels is not read")
    said = {"dtype": str(ours["dtype"]), "units": str(ours["units"])} if ours else {}
    volume = placed(folder, image, array[0].transpose(2, 1, 0), **said)
    try:
        label = found_at(job, paths[1], url)
        classes = sparse_classes(job, label, volume.shape)
        if len(classes) != len(names):
            raise Refused("masks.classes", f"{len(classes)} classes have {len(names)} names")
        layers = _layers(classes, names, volume, ours)
    except Refused as refused:
        job.refuse("masks", paths[1], refused)
        layers = []
    folder.volume(name, volume, ours=ours)
    folder.tell(f"{name}/{name}.nii.gz", split=split)
    if layers:
        folder.masks(name, layers)


def _layers(classes: list[np.ndarray], names: list[str], volume: Volume, ours: dict[str, Any] | None) -> list[Volume]:
    """Return the masks as layers: of an export of ours as they were, else as few as keep what overlaps."""
    if not ours or "channels" not in ours:
        return layered(classes, [anatomy.label(name) for name in names], volume)
    rows = ours["channels"]
    dtype = np.uint16 if max(int(row["value"]) for row in rows) > 255 else np.uint8
    z, y, x = volume.shape
    layers = []
    for number in range(1 + max(int(row["layer"]) for row in rows)):
        flat = np.zeros(x * y * z, dtype)
        table = {}
        for row in (row for row in rows if row["layer"] == number):
            flat[classes[row["channel"]]] = row["value"]
            table[int(row["value"])] = Label(row["name"], row["side"], row["stated"])
        array = flat.reshape(x, y, z).transpose(2, 1, 0)
        layers.append(Volume(array, volume.affine, units="label", kind="label", labels=table))
    return layers
