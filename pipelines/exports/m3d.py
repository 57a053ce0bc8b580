"""M3D: volumes, sparse masks, reports, questions and referring segmentation in the files that M3D's code reads."""

import json
import re
from collections import Counter
from typing import Any

import numpy as np

from medloom.connectors.nifti_writing import write_nifti
from medloom.pipelines.exports.arrays import mask_name, sparse_masks, write_npy, xyz
from medloom.pipelines.exports.stored import StoredMedium
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import CHOOSE, LETTERS, PLANES
from medloom.pipelines.tasks.referring_segmentation import IS_REASONING, ReferringSegmentation
from medloom.schemas.keys import slug
from medloom.schemas.tables import measured_values
from medloom.schemas.volume import Label, Volume

CAP, REFSEG = "M3D_Cap", "M3D_RefSeg"
OF_SCANS = True  # they go back to whoever declared them public
ORIENTATION = "LPS"  # of every npy: what M3D drops is the same for all of them
SEG_TOKEN = "[SEG]"
NO_CHOICE = "NA"
_OPTION = re.compile(r"^([A-D])\. (.+)$", re.MULTILINE)


def export(to: Writing) -> None:
    """M3D: `image.npy` with `mask_(C, X, Y, Z).npz` per volume, M3D-Cap, M3D-VQA and M3D-RefSeg beside them.

    - `SET/KEY/image.npy`, 1 × X × Y × Z float32, and `SET/KEY/mask_(C, X, Y, Z).npz`, a scipy CSR matrix with a row per
      class, for volumes with masks; `SET/SET.json` lists them and the classes, row i being label i + 1. SET is the
      source, in all of its volumes with the same classes; one that was not labelled in a volume is empty there, and
      `media.jsonl` says which were.
    - `M3D_Cap/KEY.npy`, 1 × Z × Y × X float32, and `KEY.txt`, listed by split in `M3D_Cap.json`.
    - `M3D_VQA_SPLIT.csv`: questions about one volume; `Question Type` is M3D's (1 plane, 3 organ, 5 place), "" for what
      M3D does not ask; choices that there are not are "NA".
    - `M3D_RefSeg/KEY/ct.nii.gz`, `mask.nii.gz`, `text.json`; `M3D_RefSeg.csv` (`_SPLIT` but for train), answers with
      `[SEG]`.
    - `media.jsonl`: a line per medium with what M3D drops: affine, spacing, type, units, and what each row of its mask
      is.

    Voxels of every npy run to the patient's left, posterior and superior (LPS), values are those that are stored:
    neither windowed nor scaled. Pictures and papers have no place in it.
    """
    sets = _Sets(to)
    cap: dict[str, list[dict[str, str]]] = {}
    for medium in to.media():
        if not medium.is_picture:
            _write(to, medium, sets, cap)
    sets.finish()
    if cap:
        to.file(f"{CAP}.json", _json(dict(sorted(cap.items()))))


def _write(to: Writing, medium: StoredMedium, sets: "_Sets", cap: dict[str, list[dict[str, str]]]) -> None:
    files: dict[str, str] = {}
    told: dict[str, Any] = {}
    volume, masks = medium.volume(), medium.masks()
    canonical = volume.canonical()
    if masks:
        told["channels"] = sets.write(medium, canonical, masks, files)
    _cap_and_vqa(to, medium, canonical, files, cap)
    _refseg(to, medium, (volume, masks), files, told)
    if files:
        told["npy_affine"] = canonical.affine.tolist()
        to.stored(medium, files, **told)


class _Sets:
    """The sets of volumes with masks, one per source, each with one list of classes."""

    def __init__(self, to: Writing):
        self._to = to
        self._classes: dict[str, dict[str, None]] = {}
        self._cases: dict[str, dict[str, list[dict[str, str]]]] = {}
        self._modalities: dict[str, dict[str, None]] = {}
        for shard, _ in to.out.build.ledgers():  # of all splits: each has the same classes
            for row in to.out.build.index(shard, ["field", "source", "labels"]).to_pylist():
                if row["field"] == "json" and row["labels"]:
                    self._classes.setdefault(row["source"], {}).update(dict.fromkeys(class_names(row["labels"])))

    def write(
        self, medium: StoredMedium, canonical: Volume, masks: tuple[Volume, ...], files: dict[str, str]
    ) -> list[dict[str, Any]]:
        """Write the image and the masks of a volume; return what each row of the masks is."""
        source = medium.row["source"]
        classes = list(self._classes[source])
        rows = {name: classes.index(name) for name in class_names(medium.labels)}
        placed = dict(zip(rows.values(), medium.labels, strict=True))
        folder = f"{slug(source)}/{medium.key}"
        files["image"], files["masks"] = f"{folder}/image.npy", f"{folder}/{mask_name(len(classes), canonical.shape)}"
        with self._to.writing(files["image"]) as file:
            write_npy(file, xyz(canonical.array), lead=(1,))
        channels = {(row["layer"], row["value"]): channel for channel, row in placed.items()}
        self._to.file(files["masks"], sparse_masks([m.canonical() for m in masks], channels, len(classes)))
        case = {"image": files["image"], "label": files["masks"]}
        self._cases.setdefault(source, {}).setdefault(medium.shard.split, []).append(case)
        self._modalities.setdefault(source, {})[medium.row["modality"]] = None
        self._to.noted["classes that were not labelled in their volume, empty in its mask"] += sum(
            not _is_labelled(name, placed.get(i), medium) for i, name in enumerate(classes)
        )
        return [{"channel": channel, **row} for channel, row in sorted(placed.items())]

    def finish(self) -> None:
        """Write the list of each set."""
        for source, cases in sorted(self._cases.items()):
            names = dict(enumerate(["background", *self._classes[source]]))
            parts = {"train": [], "test": [], **cases}
            told = {
                "name": source, "description": f"volumes of {source} with masks, in {ORIENTATION}",
                "tensorImageSize": "3D", "modality": dict(enumerate(sorted(self._modalities[source]))), "labels": names,
                "numTrain": len(parts["train"]), "numTest": len(parts["test"]), **parts,
            }  # fmt: skip
            self._to.file(f"{slug(source)}/{slug(source)}.json", _json(told))


def class_names(labels: list[dict[str, Any]]) -> list[str]:
    """Return the classes of a table of labels as they are said; what is called the same is numbered from 2 on."""
    seen: Counter[str] = Counter()
    names = []
    for row in labels:
        name = f"{row['side']} {row['name']}".strip() or f"class {row['value']}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def _is_labelled(name: str, row: dict[str, Any] | None, medium: StoredMedium) -> bool:
    """Whether a class was labelled in a volume: it is there, or its name is among those that were."""
    labelled = medium.row["labelled"] or []
    return name in labelled if row is None else bool(row["voxels"]) or row["name"] in labelled


def _cap_and_vqa(
    to: Writing, medium: StoredMedium, canonical: Volume, files: dict[str, str], cap: dict[str, list[dict[str, str]]]
) -> None:
    """Write the report of a volume and the questions about it, and for either the volume."""
    mine = [row for row in medium.examples if row["media"] == [medium.key]]
    captions = [row for row in mine if row["task"] == Captions.task]
    questions = [row for row in mine if row["task"].endswith("vqa")]
    if not captions and not questions:
        return
    files["npy"] = f"{CAP}/{medium.key}.npy"
    with to.writing(files["npy"]) as file:
        write_npy(file, canonical.array, lead=(1,))
    text = said_of(captions[0])[1] if captions else ""
    if captions:
        files["text"] = f"{CAP}/{medium.key}.txt"
        to.file(files["text"], text.encode("utf-8", "replace"))
        cap.setdefault(medium.shard.split, []).append({"image": files["npy"], "text": files["text"]})
        to.example(captions[0])
    for row in questions:
        to.row(f"M3D_VQA_{medium.shard.split}.csv", vqa_columns(row, files["npy"], text))
        to.example(row)


def said_of(row: dict[str, Any]) -> tuple[str, str]:
    """Return what the user and what the assistant says in an example, without media."""
    said = {role: "" for role in ("user", "assistant")}
    for turn in row["turns"]:
        said[turn["role"]] = said.get(turn["role"], "") + "".join(p["text"] or "" for p in turn["parts"])
    return said["user"], said["assistant"]


def vqa_columns(row: dict[str, Any], image: str, text: str) -> dict[str, str]:
    """Return an example as a row of M3D-VQA; one with choices gives them in columns of their own."""
    question, answer = said_of(row)
    options = dict(_OPTION.findall(question)) if CHOOSE in question else {}
    letter = ""
    if options:
        question = question.partition(f" {CHOOSE}")[0]
        letter, _, answer = answer.partition(". ")
    choices = {f"Choice {x}": options.get(x, NO_CHOICE) for x in LETTERS}
    return {
        "Image Path": image, "Text": text, "Question Type": _question_type(row), "Question": question, **choices,
        "Answer": answer, "Answer Choice": letter or NO_CHOICE,
    }  # fmt: skip


def _question_type(row: dict[str, Any]) -> str:
    label = (row["labels"] or [""])[0]
    if row["task"] == "header_vqa":
        return "1" if label in PLANES else ""
    if row["task"] == "region_vqa" and not label.endswith(" mL"):
        return "5" if label in ("left", "right") else "3"
    return ""


def _refseg(
    to: Writing,
    medium: StoredMedium,
    voxels: tuple[Volume, tuple[Volume, ...]],
    files: dict[str, str],
    told: dict[str, Any],
) -> None:
    """Write a volume, one mask of the classes that are asked for, and the questions; tell what its values are."""
    volume, masks = voxels
    rows = [r for r in medium.examples if r["task"] == ReferringSegmentation.task and r["media"] == [medium.key]]
    ids, merged = _merged(masks, {(r["layer"], r["value"]) for row in rows for r in row["regions"]})
    kept = [row for row in rows if all((r["layer"], r["value"]) in ids for r in row["regions"])]
    to.back("examples", "masks.overlap", len(rows) - len(kept))
    if not kept or merged is None:
        return
    told["mask_ids"] = [
        {"id": value, "name": label.name, "side": label.side, "stated": label.stated}
        for value, label in sorted(merged.labels.items())
    ]
    folder = f"{REFSEG}/{medium.key}"
    files["ct"], files["mask"] = f"{folder}/ct.nii.gz", f"{folder}/mask.nii.gz"
    for name, content in (("ct", volume), ("mask", merged)):
        with to.writing(files[name]) as file:
            write_nifti([content], file)
    texts: dict[str, str] = {}
    split = medium.shard.split
    for row in kept:
        (region,) = row["regions"]
        number = str(ids[region["layer"], region["value"]])
        is_reasoning = bool(measured_values(row["measured"]).get(IS_REASONING))
        question, answer = said_of(row)
        if not is_reasoning:
            texts.setdefault(number, answer)
        to.row(f"{REFSEG}.csv" if split == "train" else f"{REFSEG}_{split}.csv", {
            "Image": files["ct"], "Mask": files["mask"], "Mask_ID": number, "Question_Type": str(int(is_reasoning)),
            "Question": question, "Answer": f"{answer} {SEG_TOKEN}",
        })  # fmt: skip
        to.example(row)
    files["sentences"] = f"{folder}/text.json"
    to.file(files["sentences"], _json(texts))


def _merged(
    masks: tuple[Volume, ...], wanted: set[tuple[int, int]]
) -> tuple[dict[tuple[int, int], int], Volume | None]:
    """Return one label map of the classes that are wanted, with the number of each; one that another covers in part is
    left out.
    """
    ids: dict[tuple[int, int], int] = {}
    labels: dict[int, Label] = {}
    if not masks:
        return ids, None
    array = np.zeros(masks[0].shape, np.uint16 if len(wanted) > 255 else np.uint8)
    for layer, value in sorted(wanted):
        where = masks[layer].array == value
        if not array[where].any():
            ids[layer, value] = number = len(ids) + 1
            array[where] = number
            labels[number] = masks[layer].labels[value]
    return ids, Volume(array, masks[0].affine, units="label", kind="label", labels=labels)


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
