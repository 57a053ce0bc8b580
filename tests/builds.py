"""A small build with a release, written by the formats' own writers: what a reader needs and no pipeline makes."""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from medloom.schemas import manifest as manifests
from medloom.schemas.b2nd import encode_labels, encode_volume
from medloom.schemas.example import Example, Part, Turn
from medloom.schemas.keys import canonical_json, digest_of, example_id, fingerprint, sha256_hex
from medloom.schemas.medium import Medium, Member, Picture, Sample, json_facts
from medloom.schemas.origin import Origin
from medloom.schemas.release_indexing import write_release_index
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, FORMAT_VERSION, PLAN, RELEASE_ROW, STATE, TABLES, measured_cell
from medloom.schemas.volume import Label, Volume

PRINTS = {task: fingerprint("synthetic", task) for task in ("caption", "interleaved", "header_vqa")}
MEDIA_PRINT = fingerprint("synthetic media")
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}
MODALITIES = {"CT": "computed tomography (CT)", "MR": "magnetic resonance imaging (MRI)"}
UNITS_PER_SHARD = 8


def synthetic_release(folder: str | Path, n_units: int = 24) -> str:
    """Write `folder`/build with n_units units and release 1 of it; return the build's URL.

    Two of three units are papers (source "papers": two pictures, an example `caption` for each, one `interleaved` with
    both), every third is a scan (source "scans": a volume of CT or MR, one closed `header_vqa`). Neighbouring units
    share a group; of every twelve units, eight are train, two validation and two test. Pictures are PNG in even and
    JPEG in odd papers, scans have masks in odd units. What an answer says can be seen in its medium.
    """
    units = [_unit(number) for number in range(n_units)]
    return write_build(Store(f"{folder}/build"), units, parameters={"n_units": n_units})


def write_build(
    build: Store,
    units: list[dict[str, Any]],
    *,
    parameters: dict[str, Any],
    units_per_shard: int = UNITS_PER_SHARD,
    as_stored: Callable[[Medium, str], Sample] | None = None,
) -> str:
    """Write a build of `units` and release 1 of it; return the build's URL.

    Args:
        build: an empty folder.
        units: each {"unit", "group", "split", "source", "media": [Medium, …], "examples": [Example, …]}, examples of
            the tasks in `PRINTS`.
        parameters: of the recipe, as the manifest names them.
        units_per_shard: how many units a shard takes.
        as_stored: from a medium and its split to its sample; None stores volumes with a stand-in for a thumbnail.
    """
    rows, plan, counts = [], [], {"units": len(units), "media": 0, "examples": 0}
    known: dict[str, str] = {}
    for shard, members in _shards(units, units_per_shard).items():
        plan += [_plan_row(unit, shard, position) for position, unit in enumerate(members)]
        counts["media"] += sum(len(unit["media"]) for unit in members)
        known |= _write_shard(build, shard, members, as_stored or _sample)
        for task in PRINTS:
            found = [(unit, e) for unit in members for e in unit["examples"] if e.task == task]
            counts["examples"] += len(found)
            rows += _write_examples(build, shard, task, found)
    build.write_table("plan/part-00000.parquet", pa.Table.from_pylist(plan, schema=PLAN))
    group = [{**{k: u[k] for k in ("unit", "source", "group", "split")}, "split_by": "hash"} for u in units]
    build.write_table("tables/group/part-00000.parquet", pa.Table.from_pylist(group, schema=TABLES["group"]))
    recipe = {
        "name": "synthetic", "parameters": parameters, "fingerprints": {"media": MEDIA_PRINT}, "tasks": PRINTS
    }  # fmt: skip
    manifests.commit(build, recipe=recipe, counts=counts, known=known)
    write_release(build, rows)
    return build.url


def write_release(build: Store, rows: list[dict[str, Any]], *, number: int = 1, uri: str = "..") -> None:
    """Write release `number` of the newest state of `build` into its `releases`."""
    releases = Store(f"{build.url}/releases")
    manifest = manifests.read_newest(build)
    assert manifest
    name = f"{number:04d}"
    pinned = [{"uri": uri, "number": manifest["number"], "manifest": manifests.digest_of_manifest(manifest)}]
    table, index = write_release_index(releases, name, pa.Table.from_pylist(rows, schema=RELEASE_ROW), pinned)
    releases.write_table(f"{name}/rows.parquet", table)
    releases.write_table(f"{name}/states.parquet", STATE.empty_table())
    releases.local("overlay").mkdir(parents=True, exist_ok=True)
    facts = {
        "format_version": FORMAT_VERSION, "number": number, "parent": "", "policy": {},
        "counts": {"rows": len(rows), "live": count(rows, "split"), "tasks": count(rows, "task"), "withheld": {}},
        "builds": pinned, "index": index, "rows_sha256": sha256_hex(releases.read(f"{name}/rows.parquet")),
        "states_sha256": sha256_hex(releases.read(f"{name}/states.parquet")),
    }  # fmt: skip
    releases.write(f"{name}/release.json", (canonical_json(facts) + "\n").encode())


def count(rows: list[dict[str, Any]], column: str) -> dict[str, int]:
    """How many rows have each value of a column."""
    return dict(sorted(Counter(row[column] for row in rows).items()))


def _unit(number: int) -> dict[str, Any]:
    split = {8: "validation", 9: "validation", 10: "test", 11: "test"}.get(number % 12, "train")
    is_scan = number % 3 == 2
    unit = {
        "unit": f"u{number:05d}", "group": f"g{number // 2:05d}", "split": split,
        "source": "scans" if is_scan else "papers",
    }  # fmt: skip
    media = [_scan(unit, number)] if is_scan else [_figure(unit, number, i) for i in range(2)]
    return {**unit, "media": media, "examples": _examples(unit, media, number)}


def _origin(source: str, number: int) -> Origin:
    return Origin(source, f"{number}", "CC BY 4.0", "CC-BY-4.0", "declared", "cc-by", "Nobody", sha256_hex(f"{number}"))


def _figure(unit: dict[str, Any], number: int, i: int) -> Medium:
    height, width = 40 + number % 5, 56
    name = list(COLOURS)[(number + i) % 3]
    pixels = np.full((height, width, 3), 245, np.uint8)
    pixels[8:30, 4 + 24 * i : 28 + 24 * i] = COLOURS[name]
    pixels[0, 0] = number % 256, i, 7  # no two pictures alike
    file, format_ = io.BytesIO(), "png" if number % 2 == 0 else "jpg"
    Image.fromarray(pixels).save(file, "PNG" if format_ == "png" else "JPEG", quality=95)
    content = Picture(file.getvalue(), format_, height, width, 3)
    return Medium(
        key=f"{unit['unit']}-f{i}", unit=unit["unit"], group=unit["group"], origin=_origin("papers", number),
        content=content, modality="figure", text=_caption(name), measured={"mean": float(pixels.mean())},
        pixel_digest=sha256_hex(pixels.tobytes()),
    )  # fmt: skip


def _caption(name: str) -> str:
    return f"A {name} rectangle on white ground."


def _scan(unit: dict[str, Any], number: int) -> Medium:
    modality = "CT" if (number // 12 + number // 3) % 2 else "MR"
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (12 + number % 4, 40, 48)), indexing="ij")
    body = (y**2 + x**2 < 0.7).astype(np.int16)
    array = body * (1040 if modality == "CT" else 300) + (z * 40).astype(np.int16) - (1000 if modality == "CT" else -50)
    array = (array + np.random.default_rng(number).integers(-9, 9, array.shape)).astype(np.int16)
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    volume = Volume(array, affine, units="HU" if modality == "CT" else "arbitrary")
    labels = {1: Label("body")}
    seg = (
        (replace(volume, array=body.astype(np.uint8), units="label", kind="label", labels=labels),)
        if number % 2
        else ()
    )
    measured = {"p01": float(np.percentile(array, 1)), "p99": float(np.percentile(array, 99))}
    return Medium(
        key=f"{unit['unit']}-s0", unit=unit["unit"], group=unit["group"], origin=_origin("scans", number),
        content=volume, seg=seg, labelled=("body",) if seg else (), modality=modality, body_part="chest", plane="axial",
        text="A scan.", measured=measured, pixel_digest=sha256_hex(array.tobytes()),
    )  # fmt: skip


def _examples(unit: dict[str, Any], media: list[Medium], number: int) -> list[Example]:
    def example(task: str, ordinal: str, *turns: Turn, labels: tuple[str, ...] = ()) -> Example:
        name = example_id(task, PRINTS[task], unit["unit"], ordinal)
        return Example(
            example_id=name, **unit, task=task, language="en", generator="synthetic:1", licence="CC BY 4.0",
            terms_id="cc-by", turns=turns, labels=labels, measured={"number": float(number)},
        )  # fmt: skip

    def ask(medium: Medium, question: str) -> Turn:
        return Turn("user", (Part(media=medium.key), Part(text=question)))

    if unit["source"] == "scans":
        modality = media[0].modality
        options = list(MODALITIES) if number % 5 < 2 else list(MODALITIES)[::-1]
        listed = "\n".join(f"{letter}. {MODALITIES[o]}" for letter, o in zip("AB", options, strict=True))
        said = Turn("assistant", (Part(text=f"{'AB'[options.index(modality)]}. {MODALITIES[modality]}"),))
        return [
            example(
                "header_vqa", "modality", ask(media[0], f"Which modality is this?\n{listed}"), said, labels=(modality,)
            )
        ]
    captions = [
        example("caption", m.key, ask(m, "Describe the figure."), Turn("assistant", (Part(text=m.text),)))
        for m in media
    ]
    text = Part(text="Two rectangles were drawn. The first is shown here:")
    box = (8, 4, 30, 28)
    parts = (
        text,
        Part(media=media[0].key),
        Part(text=media[0].text),
        Part(media=media[1].key, box=box),
        Part(text="End."),
    )
    return [*captions, example("interleaved", "all", Turn("document", parts))]


def _shards(units: list[dict[str, Any]], size: int) -> dict[ShardName, list[dict[str, Any]]]:
    shards: dict[ShardName, list[dict[str, Any]]] = {}
    for split in ("train", "validation", "test"):
        mine = [unit for unit in units if unit["split"] == split]
        for number in range(0, len(mine), size):
            shards[ShardName(split, number // size)] = mine[number : number + size]
    return shards


def _plan_row(unit: dict[str, Any], shard: ShardName, position: int) -> dict[str, Any]:
    named = {k: unit[k] for k in ("unit", "source", "group", "split")}
    return {**named, "shard": shard.number, "position": position, "source_bytes": 1000}


def _write_shard(
    build: Store, shard: ShardName, units: list[dict[str, Any]], as_stored: Callable[[Medium, str], Sample]
) -> dict[str, str]:
    with ShardWriter(build, shard) as writer:
        for unit in units:
            for medium in unit["media"]:
                writer.add(as_stored(medium, shard.split))
        tars = writer.close()
    kept = [{"unit": u["unit"], "digest": sha256_hex(u["unit"]), "kept": [m.key for m in u["media"]]} for u in units]
    out = sum(len(u["kept"]) for u in kept)
    ledger = {
        "counts": {"in": out, "made": 0, "out": out, "refused": 0},
        "format_version": FORMAT_VERSION, "split": shard.split, "number": shard.number,
        "media_fingerprint": MEDIA_PRINT,
        "digest": digest_of([MEDIA_PRINT, *(u["digest"] for u in kept)]), "units": kept, "refused": [], "tars": tars,
    }  # fmt: skip
    build.write(shard.ledger, (canonical_json(ledger) + "\n").encode())
    return {shard.tar(layout): facts["sha256"] for layout, facts in tars.items()}


def _sample(medium: Medium, split: str) -> Sample:
    text = json.dumps(json_facts(medium, split), sort_keys=True).encode()
    members = {"json": Member(text)}
    if isinstance(medium.content, Picture):
        picture = medium.content
        shape = (picture.height, picture.width, picture.channels)
        members[picture.format] = Member(picture.data, shape, "uint8")
    else:
        spacing = medium.content.spacing_mm
        members["ct.b2nd"] = replace(encode_volume(medium.content.array, isotropic=False), spacing_mm=spacing)
        if medium.seg:
            layers = np.stack([seg.array for seg in medium.seg])
            members["seg.b2nd"] = replace(encode_labels(layers), spacing_mm=spacing)
        members["thumb.jpg"] = Member(_thumb(), (8, 24, 1), "uint8")
    columns = {
        "unit": medium.unit, "group": medium.group, "split": split, "layout": medium.layout,
        "modality": medium.modality, "body_part": medium.body_part, "plane": medium.plane,
        "source": medium.origin.source, "licence": medium.origin.licence, "terms_id": medium.origin.terms_id,
        "digest": medium.origin.digest, "pixel_digest": medium.pixel_digest, "measured": medium.measured,
    }  # fmt: skip
    return Sample(medium.key, medium.layout, members, columns)


def _thumb() -> bytes:
    file = io.BytesIO()
    Image.new("L", (24, 8), 90).save(file, "JPEG")
    return file.getvalue()


def _write_examples(
    build: Store, shard: ShardName, task: str, found: list[tuple[dict[str, Any], Example]]
) -> list[dict[str, Any]]:
    if not found:
        return []
    part = f"examples/{task}/{PRINTS[task][:12]}/part-{shard}.parquet"
    build.write_table(part, pa.Table.from_pylist([_example_row(e) for _, e in found], schema=EXAMPLE))
    return [_release_row(unit, example, part, row) for row, (unit, example) in enumerate(found)]


def _example_row(example: Example) -> dict[str, Any]:
    row = {name: getattr(example, name) for name in EXAMPLE.names}
    parts = [[{"text": p.text, "media": p.media, "box": list(p.box)} for p in t.parts] for t in example.turns]
    turns = [{"role": t.role, "parts": p} for t, p in zip(example.turns, parts, strict=True)]
    return {**row, "turns": turns, "regions": [], "evidence": [], "measured": measured_cell(example.measured)}


def _release_row(unit: dict[str, Any], example: Example, part: str, row: int) -> dict[str, Any]:
    media = [m for m in unit["media"] if m.key in example.media]
    shapes = ["x".join(map(str, m.content.shape)) if isinstance(m.content, Volume) else "" for m in media]
    named = {k: getattr(example, k) for k in RELEASE_ROW.names if hasattr(example, k)}
    return {
        **named, "build": 0, "tier": "", "layouts": [m.layout for m in media],
        "modalities": [m.modality for m in media], "shapes": shapes, "media": [m.key for m in media],
        "part": part, "row": row,
    }  # fmt: skip
