"""A small synthetic build and release, written by the formats' own writers, and ways to damage copies of it."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from medloom.quality.phash import picture_phash
from medloom.schemas import b2nd
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.keys import canonical_json, digest_of, example_id, fingerprint, sha256_hex
from medloom.schemas.manifest import digest_of_manifest
from medloom.schemas.medium import Medium, Member, Picture, Sample, json_facts, region_rows
from medloom.schemas.origin import Origin
from medloom.schemas.release import Release, append_overlay
from medloom.schemas.release_indexing import write_release_index
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, FORMAT_VERSION, PLAN, RELEASE_ROW, STATE, TABLES
from medloom.schemas.token_counts import BYTES, count, tokens_part, utf8_lengths
from medloom.schemas.volume import Label, Volume

TASKS = {"caption": fingerprint("caption"), "vqa": fingerprint("vqa")}
PARTS = ("chest", "head", "abdomen", "knee", "pelvis", "")
CITING = "He was admitted in May. A 3 cm mass in the right lower lobe is shown in Figure 1. It was resected."


def phantom(height: int, width: int, seed: int) -> np.ndarray:
    """Nested ellipses with a little noise, (Y, X) float in 0..1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = np.where((x / 0.85) ** 2 + (y / 0.95) ** 2 < 1, 0.35, 0.0)
    for _ in range(5):
        cx, cy, a, b = *rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.1, 0.35, 2)
        image = np.where(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1, rng.uniform(0.2, 1), image)
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1)


def encoded(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, format={"jpg": "JPEG", "png": "PNG"}[kind])
    return file.getvalue()


def a_sample(medium: Medium, split: str, image: np.ndarray) -> Sample:
    medium = replace(medium, pixel_digest=sha256_hex(image.tobytes()))
    if isinstance(medium.content, Picture):
        pixels = np.asarray(Image.open(io.BytesIO(medium.content.data)))[..., None]
        medium = replace(medium, phash=picture_phash(pixels))
    facts = Member(data=(canonical_json(json_facts(medium, split)) + "\n").encode())
    if isinstance(medium.content, Picture):
        content = {medium.layout: Member(medium.content.data, (*image.shape, 1), "uint8")}
    else:
        volume = medium.content
        spacing = volume.spacing_mm
        content = {"ct.b2nd": b2nd.encode_volume(volume.array, isotropic=False)}
        if medium.seg:
            content["seg.b2nd"] = b2nd.encode_labels(np.stack([layer.array for layer in medium.seg]))
        content = {f: Member(**{**vars(m), "spacing_mm": spacing}) for f, m in content.items()}
        montage = np.concatenate([image, image, image], axis=1)
        content["thumb.jpg"] = Member(encoded(montage, "jpg"), (*montage.shape, 1), "uint8")
    columns = {
        "unit": medium.unit, "group": medium.group, "split": split, "layout": medium.layout,
        "modality": medium.modality, "body_part": medium.body_part, "plane": medium.plane,
        "source": medium.origin.source, "licence": medium.origin.licence, "terms_id": medium.origin.terms_id,
        "digest": medium.origin.digest, "pixel_digest": medium.pixel_digest, "measured": medium.measured, "panels": [],
        "phash": medium.phash, "labels": region_rows(medium),
        "labelled": list(medium.labelled), "affine": [], "units": "", "face": "", "voxel_digest": "",
    }  # fmt: skip
    if isinstance(medium.content, Volume):
        columns |= {"affine": medium.content.affine.ravel().tolist(), "units": medium.content.units}
    return Sample(medium.key, medium.layout, {"json": facts, **content}, columns)


def an_article(number: int) -> tuple[list[tuple[Medium, np.ndarray]], dict[str, list[dict[str, Any]]]]:
    """Media and table rows of one synthetic paper with two figures."""
    unit, terms = f"pmc910{number:04d}-1", "cc-by" if number % 3 else "cc-by-nc"
    origin = Origin("pmc", unit, f"Creative Commons {terms}", "CC", "license_ref", terms, "Doe & Roe", sha256_hex(unit))
    media, rows = [], {name: [] for name in ("article", "figure", "paragraph", "mention", "series")}
    for f in (1, 2):
        kind, image = ("jpg", "png")[(number + f) % 2], phantom(96 + 8 * f, 128, number * 10 + f)
        caption = f"Axial CT shows a 3 cm mass <b>&</b> effusion in patient {number}, panel {f}."
        content = Picture(encoded(image, kind), kind, *image.shape, 1)
        measured = {"mean": 0.3, "std": float(image.std())}
        key = f"{unit}-f{f}"
        medium = Medium(key, unit, unit, origin, content, modality="figure", text=caption, measured=measured,
                        body_part=PARTS[number % len(PARTS)])  # fmt: skip
        media.append((medium, image))
        rows["figure"].append({
            "article_key": unit, "fig_key": key, "xml_id": f"f{f}", "scope_id": "", "order": f, "label": f"Figure {f}",
            "numbers": [str(f)], "group_id": "", "parent_fig": "", "caption_title": "", "caption_paras": [caption],
            "caption": caption, "panels": [], "media": [{"href": "x", "key": key, "md5": "", "role": "figure"}],
            "licence_override": "", "terms_id": terms, "kind": "figure",
        })  # fmt: skip
    start = CITING.index("Figure 1")
    rows["paragraph"].append({
        "article_key": unit, "par_id": f"{unit}-p1", "sec_id": "s1", "scope_id": "", "where": "body", "order": 1,
        "text": CITING,
    })  # fmt: skip
    rows["mention"].append({
        "article_key": unit, "par_id": f"{unit}-p1", "start": start, "end": start + 8, "text": "Figure 1",
        "sent_start": CITING.index("A 3 cm"), "sent_end": CITING.index(" It was"), "fig_keys": [f"{unit}-f1"],
        "panels": [], "qualifier": "", "method": "text", "confidence": 1.0, "where": "body", "status": "linked",
    })  # fmt: skip
    article = dict.fromkeys(TABLES["article"].names, "")
    article |= {
        "article_key": unit, "title": f"A <i>mass</i> in patient {number}", "version": 1, "licence_conflict": False,
        "is_retracted": False, "is_case_report": True, "case_rules": [], "n_figs": 2, "source": "pmc",
        "source_digest": sha256_hex(unit), "source_bytes": 1000, "terms_id": terms, "licence_code": terms,
    }  # fmt: skip
    rows["article"].append(article)
    return media, rows


def a_scan(number: int) -> tuple[list[tuple[Medium, np.ndarray]], dict[str, list[dict[str, Any]]]]:
    """Media and table rows of one synthetic series; every third has a mask."""
    unit, is_ct = f"scan-{number:04d}", number % 2 == 0
    origin = Origin("scans", unit, "", "LicenseRef-private", "declared", "private", "", sha256_hex(unit))
    image = phantom(80, 72, 100 + number)
    array = np.rint(np.stack([image] * 6) * 2000 - (1000 if is_ct else 0)).astype(np.int16)
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    mask = Volume((array > 200).astype(np.uint8), affine, "label", "label", {1: Label("mass")})
    seg = (mask,) if number % 3 == 0 else ()
    measured = {"min": float(array.min()), "max": float(array.max()), "std": float(array.std())}
    medium = Medium(
        unit, unit, f"patient-{number // 2}", origin, Volume(array, affine, "HU" if is_ct else "arbitrary"), seg=seg,
        labelled=("mass",) if seg else (), modality="CT" if is_ct else "MR", body_part=PARTS[number % len(PARTS)],
        plane="axial", text=f"Report {number}: no acute finding.", measured=measured,
    )  # fmt: skip
    row = {
        "unit": unit, "study": f"study-{number}", "source": "scans", "format": "dicom", "modality": medium.modality,
        "body_part": medium.body_part, "plane": "axial", "n_objects": 6, "rows": 80, "columns": 72,
        "spacing_mm": [2.5, 0.8, 0.8], "text": medium.text, "terms_id": "private", "licence": "", "attribution": "",
        "key_id": "abcd1234", "source_bytes": 5000,
    }  # fmt: skip
    return [(medium, image)], {"series": [row]}


def examples_of(media: list[Medium], split: str) -> list[dict[str, Any]]:
    """A caption per medium, and a question with its evidence for the first figure of a paper."""
    rows = []
    for medium in media:
        base = {
            "unit": medium.unit, "group": medium.group, "split": split, "language": "en",
            "source": medium.origin.source, "licence": medium.origin.licence, "terms_id": medium.origin.terms_id,
            "regions": [], "labels": [], "evidence": [], "measured": [{"name": "words", "value": 7.0}], 
            "media": [medium.key],
        }  # fmt: skip
        image, said = {"text": "", "media": medium.key, "box": []}, {"media": "", "box": []}
        rows.append({
            **base, "example_id": example_id("caption", TASKS["caption"], medium.unit, medium.key), "task": "caption",
            "generator": "rule:caption@1",
            "turns": [{"role": "user", "parts": [image]},
                      {"role": "assistant", "parts": [{"text": medium.text, **said}]}],
        })  # fmt: skip
        if not medium.key.endswith("-f1"):
            continue
        start = CITING.index("right lower lobe")
        rows.append({
            **base, "example_id": example_id("vqa", TASKS["vqa"], medium.unit, medium.key), "task": "vqa",
            "generator": "rule:location@1 model:smol@0f0f",
            "turns": [{"role": "user", "parts": [image, {"text": "Where is the mass?", **said}]},
                      {"role": "assistant", "parts": [{"text": "Right lower lobe", **said}]}],
            "evidence": [{"where": f"paragraph:{medium.unit}-p1", "start": start, "end": start + 16,
                          "text": "right lower lobe"}],
        })  # fmt: skip
    return rows


def write_build(folder: Path, articles: int = 6, scans: int = 8) -> Build:
    """Write a whole build: plan, tables, two shards of tars, examples, refusals, manifest."""
    store = Store(str(folder))
    made = [an_article(n) for n in range(articles)] + [a_scan(n) for n in range(scans)]
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    shards: dict[ShardName, list[list[tuple[Medium, np.ndarray]]]] = {}
    for media, rows in made:
        for name, part in rows.items():
            tables[name] += part
        first = media[0][0]
        split = "test" if sha256_hex(first.group) < "4" else "train"
        shards.setdefault(ShardName(split, 0), []).append(media)
        tables["group"].append({
            "unit": first.unit, "source": first.origin.source, "group": first.group, "split": split, "split_by": "hash",
        })  # fmt: skip
    bad = {"unit": "scan-bad", "key": "", "source": "scans", "stage": "tables", "reason": "dicom.unreadable",
           "detail": "it ends in the middle of a tag", "source_bytes": 10}  # fmt: skip
    tables["quarantine"].append(bad)
    for name, rows in tables.items():
        if rows:
            table = pa.Table.from_pylist(rows, schema=TABLES[name])
            store.write_table(f"tables/{name}/part-00000.parquet", table)
    plan = [
        {"unit": media[0][0].unit, "source": media[0][0].origin.source, "group": media[0][0].group,
         "split": shard.split, "shard": shard.number, "position": i, "source_bytes": 1000}
        for shard, units in shards.items() for i, media in enumerate(units)
    ]  # fmt: skip
    store.write_table("plan/part-00000.parquet", pa.Table.from_pylist(plan, schema=PLAN))
    for shard, units in shards.items():
        write_shard(store, shard, units)
    facts = {"name": "synthetic", "parameters": {"source": "nowhere"}, "tasks": TASKS,
             "fingerprints": {"media": fingerprint("media")}}  # fmt: skip
    manifests.commit(store, recipe=facts, counts={"units": len(plan)}, known={})
    return Build(str(folder))


def write_shard(store: Store, shard: ShardName, units: list[list[tuple[Medium, np.ndarray]]]) -> None:
    with ShardWriter(store, shard) as writer:
        for media in units:
            for medium, image in media:
                writer.add(a_sample(medium, shard.split, image))
        tars = writer.close()
    refused = [
        {"unit": units[0][0][0].unit, "key": f"{units[0][0][0].unit}-f{n}", "source": "pmc", "stage": "read",
         "reason": "media.unavailable", "detail": "its bytes cannot be had offline", "source_bytes": 0}
        for n in range(3, 11)
    ]  # fmt: skip
    kept = sum(map(len, units))
    ledger = {
        "format_version": FORMAT_VERSION, "split": shard.split, "number": shard.number,
        "media_fingerprint": fingerprint("media"), "digest": digest_of([str(shard)]), "refused": refused, "tars": tars,
        "counts": {"in": kept + len(refused), "made": 0, "out": kept, "refused": len(refused)},
        "units": [{"unit": m[0][0].unit, "digest": m[0][0].origin.digest, "kept": sorted(x.key for x, _ in m)}
                  for m in units],
    }  # fmt: skip
    store.write(shard.ledger, (canonical_json(ledger) + "\n").encode())
    rows = examples_of([medium for media in units for medium, _ in media], shard.split)
    for task, print_ in TASKS.items():
        part = sorted((r for r in rows if r["task"] == task), key=lambda r: r["example_id"])
        path = f"examples/{task}/{print_[:12]}/part-{shard}.parquet"
        store.write_table(path, pa.Table.from_pylist(part, schema=EXAMPLE), {"format_version": str(FORMAT_VERSION)})


def write_release(build: Build) -> Release:
    """Write release 1 of a build: two examples withheld by policy, a group withdrawn by the overlay."""
    store = Store(f"{build.url}/releases")
    rows: list[dict[str, Any]] = []
    for task, print_ in build.tasks():
        for part in build.example_parts(task, print_):
            for number, row in enumerate(build.store.read_table(part).to_pylist()):
                kept = {name: row[name] for name in RELEASE_ROW.names if name in row}
                rows.append({
                    **kept, "build": 0, "tier": "", "layouts": [], "modalities": [], "shapes": [], "part": part,
                    "row": number,
                })  # fmt: skip
    manifest = build.manifest()
    pinned = [{"uri": "..", "number": manifest["number"], "manifest": digest_of_manifest(manifest)}]
    table, index = write_release_index(store, "0001", pa.Table.from_pylist(rows, schema=RELEASE_ROW), pinned)
    store.write_table("0001/rows.parquet", table)
    held = [
        {"scope": "example", "id": rows[0]["example_id"], "state": "withheld", "reason": "text.short", "by": "policy"},
        {"scope": "example", "id": rows[1]["example_id"], "state": "withheld", "reason": "duplicate.exact",
         "by": "policy"},
    ]  # fmt: skip
    store.write_table("0001/states.parquet", pa.Table.from_pylist(held, schema=STATE))
    facts = {
        "format_version": FORMAT_VERSION, "number": 1, "parent": "", "policy": {"name": "default"}, "builds": pinned,
        "index": index, "counts": {"rows": len(rows)}, "rows_sha256": sha256_hex(store.read("0001/rows.parquet")),
    }  # fmt: skip
    store.write("0001/release.json", (canonical_json(facts) + "\n").encode())
    group = rows[-1]["group"]
    append_overlay(
        store, [{"scope": "group", "id": group, "state": "withdrawn", "reason": "asked by its source", "by": "curator"}]
    )
    return Release(build.url)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "out"
    write_release(write_build(folder))
    return folder


@pytest.fixture
def build(template: Path, tmp_path: Path) -> Build:
    """A copy of the synthetic build that a test may damage."""
    shutil.copytree(template, tmp_path / "out")
    return Build(str(tmp_path / "out"))


@pytest.fixture
def release(build: Build) -> Release:
    return Release(build.url)


@pytest.fixture
def change() -> Callable[..., None]:
    """Rewrite a Parquet file of a build: `change(build, path, lambda row: {...})` merges the returned columns."""

    def apply(build: Build, path: str, of: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        table = build.store.read_table(path)
        rows = [{**row, **made} for row in table.to_pylist() if (made := of(row)) is not None]
        build.store.write_table(path, pa.Table.from_pylist(rows, schema=table.schema))

    return apply


@pytest.fixture
def make_build() -> Callable[..., Build]:
    return write_build


@pytest.fixture(scope="session")
def counted(template, tmp_path_factory) -> Path:
    """The synthetic build with its tokens counted, so that lint has everything to look at."""
    folder = shutil.copytree(template, tmp_path_factory.mktemp("counted") / "out")
    build = Build(str(folder))
    files = build.manifest()["files"]
    for task, print_ in build.tasks():
        for part in build.example_parts(task, print_):
            facts = {"format_version": "1", "tokenizer": BYTES, "tokenizer_digest": BYTES,
                     "examples_sha256": files[part]["sha256"]}  # fmt: skip
            table = count(build.store.read_table(part, ["example_id", "turns"]), utf8_lengths)
            build.store.write_table(tokens_part(BYTES, part), table, facts)
    return folder


@pytest.fixture
def whole(counted, tmp_path) -> Build:
    return Build(str(shutil.copytree(counted, tmp_path / "whole")))
