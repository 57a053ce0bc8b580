"""M3D-RefSeg, read: NIfTI volumes with one mask each, and questions whose answers mean a value of it."""

import io
import os
import re
from typing import Any

from medloom.connectors import volumes
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.pipelines.imports.csv_rows import csv_rows
from medloom.pipelines.imports.m3d_cap import fields_of
from medloom.pipelines.imports.m3d_seg import found_at
from medloom.pipelines.imports.scans_folder import ScansFolder
from medloom.pipelines.sources.local import local_copy
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume

COLUMNS = ("Image", "Mask", "Mask_ID", "Question_Type", "Question", "Answer")
SEG_TOKEN = "[SEG]"
TYPES = {"0": "description", "1": "reasoning"}
GRID_TOLERANCE_MM = 1e-3


def read_referring(folder: ScansFolder, url: str) -> None:
    """Read the questions of M3D-RefSeg with their volumes and masks; an answer loses its `[SEG]`, and the question
    keeps which class it means.
    """
    ids: dict[str, dict[int, Label]] = {}
    with local_copy(folder.job.source, url) as local, open(local, "rb") as raw:
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
        for number, row in enumerate(csv_rows(folder.job, url, lines, COLUMNS), 2):
            try:
                _question(folder, url, fields_of(row, is_ours=folder.job.is_ours), ids)
            except Refused as refused:
                folder.job.refuse("question", f"{url}:{number}", refused)


def _question(folder: ScansFolder, url: str, said: dict[str, str], ids: dict[str, dict[int, Label]]) -> None:
    if said["Answer"].count(SEG_TOKEN) != 1:
        raise Refused("answer.mask", f"the answer has {said['Answer'].count(SEG_TOKEN)} {SEG_TOKEN}, and needs one")
    if not said["Mask_ID"].isdigit() or said["Question_Type"] not in TYPES:
        raise Refused("question.form", "the mask is no number, or the type is neither 0 nor 1")
    image = found_at(folder.job, said["Image"], url)
    name = folder.name_of(image)
    if name not in ids:
        ids[name] = _case(folder, name, image, found_at(folder.job, said["Mask"], url))
    label = ids[name].get(int(said["Mask_ID"]))
    if label is None:
        raise Refused("answer.mask", "the mask has no voxel of that number")
    answer = re.sub(rf"\s*{re.escape(SEG_TOKEN)}", "", said["Answer"]).strip()
    folder.ask(f"{name}/{name}.nii.gz", {
        "question": said["Question"], "answer": answer, "type": TYPES[said["Question_Type"]],
        "mask": {"name": label.name, "side": label.side},
    })  # fmt: skip


def _case(folder: ScansFolder, name: str, image: str, mask: str) -> dict[int, Label]:
    """Write a volume with its masks, unless a set of M3D-Seg had it; return what each value of the mask is."""
    ours: dict[str, Any] = folder.ours.get(image, {})
    known = {int(row["id"]): Label(row["name"], row["side"], row["stated"]) for row in ours.get("mask_ids", ())}
    (layer,) = _volumes(folder, mask, is_mask=True)
    found = sorted(set(layer.array.ravel().tolist()) - {0})
    labels = {value: known.get(value, Label(f"mask {value}")) for value in found}
    if folder.has(name):
        return labels
    (volume,) = _volumes(folder, image, is_mask=False)
    if layer.shape != volume.shape or abs(layer.affine - volume.affine).max() > GRID_TOLERANCE_MM:
        raise Refused("masks.grid", f"a mask of {layer.shape} is not on the grid of its volume {volume.shape}")
    folder.volume(name, volume, ours=ours)
    folder.masks(name, [Volume(layer.array, volume.affine, units="label", kind="label", labels=labels)])
    return labels


def _volumes(folder: ScansFolder, url: str, *, is_mask: bool) -> list[Volume]:
    """Return the one volume of a file.

    Raises:
        Refused("volume.format"), ("nifti.…"): it is none that says where its voxels are.
    """
    with local_copy(folder.job.source, url) as path:
        with open(path, "rb") as file:
            kind = sniff(file.read(HEAD_BYTES))
        if kind not in volumes.KINDS:
            raise Refused("volume.format", f"{os.path.splitext(url)[1]} is no format that says where its voxels are")
        found = volumes.read_labels(path, kind) if is_mask else volumes.read_volumes(path, kind)
    if len(found) != 1:
        raise Refused("volume.many", f"it holds {len(found)} volumes")
    return found
