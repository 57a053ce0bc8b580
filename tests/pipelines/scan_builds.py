"""Small releases of scans whose volumes, masks and terms the test chooses, encoded as a build encodes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tests.builds import write_release
from tests.sources import picture_bytes

from medloom.connectors.images import read_picture
from medloom.pipelines.examples import example_row, unit_views
from medloom.pipelines.stages.encode import encode
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import HeaderQuestions
from medloom.pipelines.tasks.referring_segmentation import ReferringSegmentation
from medloom.pipelines.unit import Task
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.keys import canonical_json, fingerprint, sha256_hex
from medloom.schemas.medium import Medium, Region
from medloom.schemas.origin import TERMS, Origin
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, FORMAT_VERSION, LINK, PLAN, TABLES
from medloom.schemas.volume import Label, Volume

TASKS = (Captions(), HeaderQuestions(), ReferringSegmentation())
PRINT = fingerprint("scan builds")
OBLIQUE = np.array([[-0.7, 0.1, 0.0, 40.5], [0.1, 0.7, 0.0, -30.25], [0.0, 0.0, 3.0, 7.0], [0, 0, 0, 1.0]])
SHEARED = np.array([[0.8, 0.0, 0.0, -8.0], [0.0, 0.8, 0.9, -6.0], [0.0, 0.0, 2.5, 100.0], [0, 0, 0, 1.0]])
PLAIN = np.diag([0.5, 0.75, 2.0, 1.0])


def phantom(
    seed: int, dtype: str = "int16", affine: np.ndarray = PLAIN, shape: tuple[int, ...] = (9, 14, 12)
) -> Volume:
    """A volume of noise over the whole range that a type may hold here."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return Volume(rng.normal(0, 100, shape).astype(np.float32), affine)
    low, high = {"int16": (-1024, 3000), "uint16": (0, 60000), "uint8": (0, 255)}[dtype]
    units = "HU" if dtype == "int16" else "arbitrary"
    return Volume(rng.integers(low, high, shape).astype(dtype), affine, units=units)


def layer(volume: Volume, labels: dict[int, Label], *boxes: tuple[int, ...]) -> Volume:
    """A label map on the grid of `volume`: box i holds value i + 1."""
    array = np.zeros(volume.shape, np.uint8)
    for value, (z0, y0, x0, z1, y1, x1) in enumerate(boxes, 1):
        array[z0:z1, y0:y1, x0:x1] = value
    return Volume(array, volume.affine, units="label", kind="label", labels=labels)


def scan_medium(key: str, volume: Volume | bytes, *seg: Volume, **facts: Any) -> Medium:
    """A medium of a unit of its own; regions are measured here."""
    terms = facts.pop("terms_id", "cc-by")
    origin = Origin(
        facts.pop("source", "scans"), key, TERMS[terms].spdx, TERMS[terms].spdx, "declared", terms, "Nobody & Co",
        sha256_hex(key), fetched_object=facts.pop("fetched_object", f"{key}.nii.gz"),
        key_id=facts.pop("key_id", "none"),
    )  # fmt: skip
    content = read_picture(volume) if isinstance(volume, bytes) else volume
    regions = tuple(_region(i, value, one) for i, one in enumerate(seg) for value in sorted(one.labels))
    labelled = tuple(dict.fromkeys(label.name for one in seg for label in one.labels.values()))
    shown = {"modality": "CT", "plane": "axial", "text": f"CT of {key}, axial plane."} | facts
    return Medium(
        key=key, unit=key, group=f"g-{key}", origin=origin, content=content, seg=seg, regions=regions,
        labelled=labelled, measured={}, pixel_digest=sha256_hex(key), **shown,
    )  # fmt: skip


def _region(number: int, value: int, one: Volume) -> Region:
    at = np.argwhere(one.array == value)
    box = (*at.min(axis=0).tolist(), *(at.max(axis=0) + 1).tolist()) if len(at) else (0,) * 6
    ml = len(at) * abs(np.linalg.det(one.affine[:3, :3])) / 1000
    return Region(number, value, one.labels[value], len(at), float(ml), box)


def small_media() -> list[Medium]:
    """Volumes of every type and kind of affine, with one layer of masks, two that overlap, or none, and a picture."""
    organs = {1: Label("liver"), 2: Label("spleen"), 3: Label("kidney", "left", "kidney_left"), 4: Label("aorta")}
    boxes = ((1, 1, 1, 6, 9, 5), (2, 2, 7, 5, 6, 10), (2, 8, 8, 4, 12, 11))
    one, two, three = phantom(1), phantom(2, "float32", OBLIQUE), phantom(3, "uint16", SHEARED)
    tumor = {1: Label("liver tumor")}
    return [
        scan_medium("scan-a", one, layer(one, organs, *boxes)),
        scan_medium("scan-b", two, layer(two, organs, *boxes), layer(two, tumor, (2, 2, 2, 4, 4, 4)), modality="MR"),
        scan_medium("scan-c", three),
        scan_medium("scan-d", phantom(4, "uint8"), fetched_object="=odd/name.nii"),
        scan_medium("scan-p", picture_bytes(7, "png"), modality="DX", plane=""),
    ]


def scan_release(
    folder: Path, media: Sequence[Medium], *, tasks: Sequence[Task] = TASKS, splits: Sequence[str] = ("train",)
) -> Release:
    """Write `folder`/build with a shard per split, media dealt to the splits in turn, and release 1 of it."""
    build = Store(str(folder / "build"))
    by_split = {split: [m for i, m in enumerate(media) if splits[i % len(splits)] == split] for split in splits}
    plan, rows, known = [], [], {}
    for split, mine in by_split.items():
        plan += [
            {"unit": m.unit, "source": m.origin.source, "group": m.group, "split": split, "shard": 0, "position": i,
             "source_bytes": 9}
            for i, m in enumerate(mine)
        ]  # fmt: skip
        known |= _write_shard(build, ShardName(split, 0), mine)
    _write_tables(build, by_split)
    prints = {task.task: fingerprint(task.task) for task in tasks}
    build.write_table("plan/part-00000.parquet", pa.Table.from_pylist(plan, schema=PLAN))
    for split in by_split:
        rows += _write_examples(build, ShardName(split, 0), tasks, prints)
    recipe = {"name": "scans", "parameters": {}, "fingerprints": {"media": PRINT}, "tasks": prints}
    counts = {"units": len(media), "media": len(media), "examples": len(rows)}
    manifests.commit(build, recipe=recipe, counts=counts, known=known)
    write_release(build, rows)
    Store(f"{build.url}/releases").make_folder("overlay")
    return Release(build.url)


def _write_shard(build: Store, shard: ShardName, media: Sequence[Medium]) -> dict[str, str]:
    with ShardWriter(build, shard) as writer:
        for medium in media:
            writer.add(encode(medium, split=shard.split))
        tars = writer.close()
    units = [{"unit": m.unit, "digest": sha256_hex(m.key), "kept": [m.key]} for m in media]
    ledger = {
        "format_version": FORMAT_VERSION, "split": shard.split, "number": shard.number, "media_fingerprint": PRINT,
        "digest": sha256_hex(str(shard)), "units": units, "refused": [], "tars": tars,
        "counts": {"in": len(media), "made": 0, "out": len(media), "refused": 0},
    }  # fmt: skip
    build.write(shard.ledger, (canonical_json(ledger) + "\n").encode())
    return {shard.tar(layout): facts["sha256"] for layout, facts in tars.items()}


def _write_tables(build: Store, by_split: dict[str, list[Medium]]) -> None:
    series, group, links = [], [], []
    for split, media in by_split.items():
        for m in media:
            row = dict.fromkeys(TABLES["series"].names) | {"unit": m.unit, "source": m.origin.source, "text": m.text}
            series.append(row | {"terms_id": m.origin.terms_id, "licence": m.origin.licence, "modality": m.modality})
            group.append({"unit": m.unit, "source": "scans", "group": m.group, "split": split, "split_by": "hash"})
            link = {"unit": m.unit, "source": "scans", "size": 1, "mtime_ns": 1, "etag": "", "original_group": "P"}
            link |= {"original_unit": f"series of {m.key}", "order": 0}
            links.append({**link, "key": "", "url": m.origin.fetched_object})
            links += [{**link, "key": "mask", "url": f"{m.key}_seg.nii.gz", "order": 1}] * bool(m.seg)
    for name, found in (("series", series), ("group", group)):
        build.write_table(f"tables/{name}/part-00000.parquet", pa.Table.from_pylist(found, schema=TABLES[name]))
    build.write_table("private/links/part-00000.parquet", pa.Table.from_pylist(links, schema=LINK))


def _write_examples(
    build: Store, shard: ShardName, tasks: Sequence[Task], prints: dict[str, str]
) -> list[dict[str, Any]]:
    opened, found = Build(build.url), []
    units = tuple(opened.shards[shard])
    layouts = {row["key"]: row for row in opened.index(shard).to_pylist() if row["field"] == "json"}
    for task in tasks:
        made = [e for view in unit_views(opened, shard, units) for e in task.examples(view, prints[task.task], None)]
        part = f"examples/{task.task}/{prints[task.task][:12]}/part-{shard}.parquet"
        build.write_table(part, pa.Table.from_pylist([example_row(e) for e in made], schema=EXAMPLE))
        for number, e in enumerate(made):
            named = {k: getattr(e, k) for k in ("example_id", "source", "group", "split", "task", "language",
                                                "generator", "licence", "terms_id")}  # fmt: skip
            shown = {"layouts": [layouts[k]["layout"] for k in e.media], "media": list(e.media)}
            shown |= {"modalities": [layouts[k]["modality"] for k in e.media], "shapes": [""] * len(e.media)}
            found.append(named | shown | {"build": 0, "tier": "rule", "part": part, "row": number})
    return found
