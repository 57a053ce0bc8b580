"""Small builds in which each medium, label, licence and split is chosen by the test, by the formats' own writers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from medloom.quality.phash import picture_phash
from medloom.schemas import manifest as manifests
from medloom.schemas.keys import canonical_json, digest_of, example_id, fingerprint, sha256_hex
from medloom.schemas.medium import Medium, Member, Picture, Sample, json_facts
from medloom.schemas.origin import TERMS, Origin
from medloom.schemas.shard import ShardName, ShardWriter
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, FORMAT_VERSION, LINK, PLAN, TABLES

MEDIA_PRINT = fingerprint("small")
SENTENCE = "A mass is seen in the left lung (Fig. 1). It was removed."


@dataclass(frozen=True)
class Paper:
    """One article: `pixels` are seeds of its figures' random images, so that equal seeds are equal pixels."""

    unit: str
    split: str = "train"
    group: str = ""
    pixels: Sequence[int] = (0,)
    side: int = 72
    terms_id: str = "cc-by"
    labels: Sequence[str] = ()
    is_retracted: bool = False
    retracts: Sequence[str] = ()
    shard: int = 0
    text: str = "A mass."
    refused: Sequence[str] = ()
    reencoded: bool = False
    pictures: Sequence[np.ndarray] = ()  # instead of random images: shown as they are, with their perceptual hash
    body: str = SENTENCE
    pmcid: str = "PMC1"
    version: int | None = None
    voxels: str = ""  # digest of a volume as read
    drawn: Sequence[tuple[str, str, int]] = ()  # name, side and voxels of the classes of its masks

    @property
    def of(self) -> str:
        return self.group or self.unit

    @property
    def keys(self) -> list[str]:
        return [f"{self.unit}-f{i + 1}" for i in range(len(self.shown))]

    @property
    def shown(self) -> list[np.ndarray]:
        return list(self.pictures) or [image(seed, self.side) for seed in self.pixels]


@dataclass(frozen=True)
class Made:
    """Where a small build is, and the fingerprint of its one task."""

    url: str
    task_print: str

    def caption(self, key: str) -> str:
        """example_id of the caption of a figure."""
        return example_id("caption", self.task_print, key.rpartition("-")[0], key)


def small_build(
    folder: str | Path, *papers: Paper, generator: str = "captions:1", withdrawn: dict[str, str] | None = None
) -> Made:
    """Write papers as a whole build without a release; `withdrawn` are reasons by unit."""
    store, task_print = Store(str(folder)), fingerprint("caption", generator)
    shards: dict[ShardName, list[Paper]] = {}
    for paper in papers:
        shards.setdefault(ShardName(paper.split, paper.shard), []).append(paper)
    known: dict[str, str] = {}
    plan: list[dict[str, Any]] = []
    for shard, members in sorted(shards.items()):
        known |= _shard(store, shard, members)
        rows = [_example(paper, key, task_print, generator) for paper in members for key in paper.keys]
        part = f"examples/caption/{task_print[:12]}/part-{shard}.parquet"
        store.write_table(part, pa.Table.from_pylist(rows, schema=EXAMPLE))
        for position, paper in enumerate(members):
            named = {"unit": paper.unit, "source": "papers", "group": paper.of, "split": paper.split}
            plan.append({**named, "shard": shard.number, "position": position, "source_bytes": 100})
    store.write_table("plan/part-00000.parquet", pa.Table.from_pylist(plan, schema=PLAN))
    _tables(store, papers)
    if withdrawn:
        gone = [{"unit": unit, "source": "papers", "reason": why, "detail": ""} for unit, why in withdrawn.items()]
        store.write_table("tables/withdrawal/part-00000.parquet", pa.Table.from_pylist(gone, TABLES["withdrawal"]))
    recipe = {
        "name": "small",
        "parameters": {},
        "fingerprints": {"media": MEDIA_PRINT},
        "tasks": {"caption": task_print},
    }
    figures = sum(len(p.keys) for p in papers)
    counts = {
        "units": len(papers), "articles": len(papers), "series": 0, "flow": {}, "refused": {},
        "media": {"png": figures}, "examples": {"caption": figures},
    }  # fmt: skip
    manifests.commit(store, recipe=recipe, counts=counts, known=known)
    return Made(store.url, task_print)


def image(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def _shard(store: Store, shard: ShardName, papers: list[Paper]) -> dict[str, str]:
    with ShardWriter(store, shard) as writer:
        for paper in papers:
            for key, pixels in zip(paper.keys, paper.shown, strict=True):
                writer.add(_sample(paper, key, pixels))
        tars = writer.close()
    units = [{"unit": p.unit, "digest": sha256_hex(p.unit), "kept": p.keys} for p in papers]
    refused = [
        {"unit": p.unit, "key": key, "source": "papers", "stage": "read", "reason": "media.unavailable",
         "detail": f"no file for {key}", "source_bytes": 0}
        for p in papers for key in p.refused
    ]  # fmt: skip
    kept = sum(len(p.keys) for p in papers)
    ledger = {
        "format_version": FORMAT_VERSION, "split": shard.split, "number": shard.number,
        "media_fingerprint": MEDIA_PRINT, "digest": digest_of([MEDIA_PRINT, *(u["digest"] for u in units)]),
        "units": units, "refused": refused, "tars": tars,
        "counts": {"in": kept + len(refused), "made": 0, "out": kept, "refused": len(refused)},
    }  # fmt: skip
    store.write(shard.ledger, (canonical_json(ledger) + "\n").encode())
    return {shard.tar(layout): facts["sha256"] for layout, facts in tars.items()}


def _sample(paper: Paper, key: str, pixels: np.ndarray) -> Sample:
    file = io.BytesIO()
    height, width = pixels.shape[:2]
    Image.fromarray(pixels).save(file, "PNG")
    origin = Origin("papers", paper.unit, paper.terms_id, TERMS[paper.terms_id].spdx, "declared", paper.terms_id,
                    "A. Author", sha256_hex(file.getvalue()), f"{key}.png")  # fmt: skip
    medium = Medium(
        key=key, unit=paper.unit, group=paper.of, origin=origin, modality="figure", text=paper.text,
        content=Picture(file.getvalue(), "png", height, width, 3, paper.reencoded),
        measured={"std": float(pixels.std())}, pixel_digest=sha256_hex(pixels.tobytes()),
        phash=picture_phash(pixels) if paper.pictures else "",
    )  # fmt: skip
    facts = Member(canonical_json(json_facts(medium, paper.split)).encode())
    shown = Member(medium.content.data, (height, width, 3), "uint8")
    columns = {
        "unit": paper.unit, "group": paper.of, "split": paper.split, "layout": "png", "modality": "figure",
        "body_part": "", "plane": "", "source": "papers", "licence": paper.terms_id, "terms_id": paper.terms_id,
        "digest": origin.digest, "pixel_digest": medium.pixel_digest, "measured": medium.measured,
        "phash": medium.phash, "voxel_digest": paper.voxels,
        "labels": [
            {"layer": 0, "value": i, "name": name, "side": side, "stated": "", "voxels": n, "volume_ml": 0.0, "box": []}
            for i, (name, side, n) in enumerate(paper.drawn, 1)
        ],
    }  # fmt: skip
    return Sample(key, "png", {"json": facts, "png": shown}, columns)


def _example(paper: Paper, key: str, task_print: str, generator: str) -> dict[str, Any]:
    ask = [{"text": "", "media": key, "box": []}, {"text": "What is seen?", "media": "", "box": []}]
    turns = [
        {"role": "user", "parts": ask},
        {"role": "assistant", "parts": [{"text": paper.text, "media": "", "box": []}]},
    ]
    start = SENTENCE.index("mass")
    evidence = [{"where": f"paragraph:{paper.unit}-p1", "start": start, "end": start + 4, "text": "mass"}]
    return {
        "example_id": example_id("caption", task_print, paper.unit, key), "unit": paper.unit, "group": paper.of,
        "split": paper.split, "task": "caption", "language": "en", "generator": generator, "source": "papers",
        "licence": paper.terms_id, "terms_id": paper.terms_id, "turns": turns, "regions": [],
        "labels": list(paper.labels), "evidence": evidence, "measured": [], "media": [key],
    }  # fmt: skip


def _tables(store: Store, papers: Sequence[Paper]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"article": [], "group": [], "figure": [], "paragraph": [], "mention": []}
    links = []
    for paper in papers:
        blank = {f.name: "" if f.type == pa.string() else None for f in TABLES["article"]}
        rows["article"].append(blank | {
            "article_key": paper.unit, "pmcid": paper.pmcid, "version": paper.version,
            "title": f"On {paper.unit}", "licence_code": paper.terms_id,
            "terms_id": paper.terms_id, "attribution": "A. Author", "is_retracted": paper.is_retracted,
            "retracts": list(paper.retracts),
            "licence_conflict": False, "is_case_report": False, "source": "papers",
            "source_digest": sha256_hex(paper.unit), "n_figs": len(paper.keys),
        })  # fmt: skip
        named = {"unit": paper.unit, "source": "papers", "group": paper.of, "split": paper.split, "split_by": "hash"}
        rows["group"].append(named)
        rows["paragraph"].append({
            "article_key": paper.unit, "par_id": f"{paper.unit}-p1", "sec_id": "s", "scope_id": "", "where": "body",
            "order": 1, "text": paper.body,
        })  # fmt: skip
        for i, key in enumerate((*paper.keys, *paper.refused)):
            rows["figure"].append({
                "article_key": paper.unit, "fig_key": key, "xml_id": f"f{i}", "scope_id": "", "order": i,
                "label": f"Fig. {i + 1}", "numbers": [str(i + 1)], "group_id": "", "parent_fig": "",
                "caption_title": "", "caption_paras": [paper.text], "caption": paper.text, "panels": [],
                "media": [{"href": key, "key": key, "md5": "", "role": "figure"}], "licence_override": "",
                "terms_id": "", "kind": "fig",
            })  # fmt: skip
        start, end = SENTENCE.index("Fig. 1"), SENTENCE.index(" It was")
        rows["mention"].append({
            "article_key": paper.unit, "par_id": f"{paper.unit}-p1", "start": start, "end": start + 6,
            "text": "Fig. 1", "sent_start": 0, "sent_end": end, "fig_keys": paper.keys[:1], "panels": [],
            "qualifier": "", "method": "text", "confidence": 1.0, "where": "body", "status": "resolved",
        })  # fmt: skip
        link = {"source": "papers", "size": 1, "mtime_ns": 1, "etag": "", "order": 0}
        link |= {"original_unit": "PMC1", "original_group": "PMC1", "unit": paper.unit}
        links.append({**link, "key": "", "url": f"{paper.unit}.xml"})
        links += [{**link, "key": key, "url": f"{key}.png"} for key in paper.keys]
    for name, found in rows.items():
        store.write_table(f"tables/{name}/part-00000.parquet", pa.Table.from_pylist(found, schema=TABLES[name]))
    store.write_table("private/links/part-00000.parquet", pa.Table.from_pylist(links, schema=LINK))
