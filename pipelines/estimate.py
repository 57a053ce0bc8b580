"""Estimate: what a recipe over all of PMC would cost, from rates measured here and the limits of the service.

Each step is run on a sample in this process, on one core, for a few seconds; the rest is arithmetic that is printed.
Starting Spark and Ray, reading from a slow disk and waiting for a busy service come on top.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloom.connectors.images import read_picture
from medloom.connectors.jats import parse_article
from medloom.connectors.rates import PER_SECOND
from medloom.pipelines.examples import example_row
from medloom.pipelines.recipe import Recipe
from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.stages.encode import encode
from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.example import Example
from medloom.schemas.medium import Medium
from medloom.schemas.origin import Origin
from medloom.schemas.tables import EXAMPLE, LINK, TABLES

BUCKET = ".amazonaws.com"
MEASURED_S = 2.0  # for which each step is run
SAMPLE_MOST = 200  # articles read of a sample
REQUESTS_PER_ARTICLE = 2  # metadata and XML; each figure is one more
METADATA_BYTES = 3_000
PICTURE_SIZE_PX = (900, 1200)
DRIVER_BUDGET_BYTES = 2 << 30  # of the driver's memory for what it knows of one build's objects


@dataclass(frozen=True)
class Corpus:
    """What is to be built: the counts, and where they come from."""

    articles: int = 8_203_807
    article_bytes: int = 163_000
    figures: float = 4.0
    figure_bytes: int = 1_100_000
    known_from: str = (
        "articles: E-utilities, open-access subset of 2026-09-07; bytes of XML: mean of 151 articles; "
        "figures: BIOMEDICA, 24 M pairs in 27 TB of 6 M articles"
    )


@dataclass(frozen=True)
class Cost:
    """One line of the estimate: the work, its hours, and what limits it."""

    step: str
    work: str
    hours: float
    limited_by: str


@dataclass(frozen=True)
class Measured:
    """Seconds of one core and bytes written, measured on a sample.

    Attributes:
        sample: what it is.
        parse_s, examples_s: for each byte of an article's XML: what is not said in bytes differs less among articles.
        table_bytes, example_bytes: written for each byte of an article's XML.
        figure_s: for each figure.
        driver_bytes: held for each object of the source.
    """

    sample: str
    parse_s: float
    figure_s: float
    examples_s: float
    table_bytes: float
    example_bytes: float
    driver_bytes: float


def sample_articles(folder: Path) -> list[bytes]:
    """Return the articles of a folder by name, at most `SAMPLE_MOST`, those that can be read.

    Raises:
        ConfigError: it holds none.
    """
    found = []
    for path in sorted((*folder.rglob("*.xml"), *folder.rglob("*.nxml")))[:SAMPLE_MOST]:
        data = path.read_bytes()
        try:
            parse_article(data, source=path.name)
        except Refused:
            continue
        found.append(data)
    if not found:
        raise ConfigError(f"--sample {folder}: no article (*.xml, *.nxml) in it can be read")
    return found


def measure(recipe: Recipe, articles: list[bytes], *, sample: str) -> Measured:
    """Return what a byte of an article and a figure of this recipe cost here."""
    work = _Sample(recipe, articles)
    parse_s = _seconds(lambda i: parse_article(articles[i % len(articles)], source=f"{i}.xml"))
    figure_s = _seconds(work.figure)
    examples_s = _seconds(lambda i: work.examples(i % len(articles)))
    size = sum(map(len, articles))
    mean = size / len(articles)
    return Measured(
        sample, parse_s / mean, figure_s, examples_s / mean, work.table_bytes / size, work.example_bytes / size,
        _driver_bytes_per_object(),
    )  # fmt: skip


def estimate(corpus: Corpus, measured: Measured, *, cores: int) -> list[Cost]:
    """Return the cost of every step for `corpus`, on so many cores of this kind."""
    n, n_figures = corpus.articles, corpus.articles * corpus.figures
    xml_bytes = n * corpus.article_bytes
    requests = n * REQUESTS_PER_ARTICLE + n_figures
    fetched = n * (corpus.article_bytes + METADATA_BYTES) + n_figures * corpus.figure_bytes
    rate = PER_SECOND[BUCKET]
    objects = n + n_figures

    def on_cores(items: float, seconds: float) -> float:
        return items * seconds / cores / 3600

    tables, media = on_cores(xml_bytes, measured.parse_s), on_cores(n_figures, measured.figure_s)
    made = on_cores(xml_bytes, measured.examples_s)
    rows = xml_bytes * measured.table_bytes, xml_bytes * measured.example_bytes
    stored = fetched + n_figures * corpus.figure_bytes + sum(rows)
    driver = objects * measured.driver_bytes
    builds = max(1, int(np.ceil(driver / DRIVER_BUDGET_BYTES)))
    plural = "1 build of all holds" if builds == 1 else f"{builds:,} builds, one release of them, hold"
    return [
        Cost("fetch", f"{requests / 1e6:,.1f} M requests, {_bytes(fetched)}", requests / rate / 3600,
             f"{rate:g} requests/s of {BUCKET}; at 1 Gbit/s the bytes alone {fetched * 8 / 1e9 / 3600:,.0f} h"),
        Cost("tables", f"{n / 1e6:,.1f} M articles", tables, _per_core(measured.parse_s)),
        Cost("media", f"{n_figures / 1e6:,.1f} M figures", media, f"{1 / measured.figure_s:,.0f} figures/s/core"),
        Cost("examples", f"{n / 1e6:,.1f} M articles", made, _per_core(measured.examples_s)),
        Cost("disk", _bytes(stored), 0.0,
             f"raw zone {_bytes(fetched)}, tables {_bytes(rows[0])}, "
             f"media {_bytes(n_figures * corpus.figure_bytes)}, examples {_bytes(rows[1])}"),
        Cost("driver", f"{_bytes(driver)} of memory", 0.0, f"{plural} it below {_bytes(DRIVER_BUDGET_BYTES)}"),
    ]  # fmt: skip


def as_json(corpus: Corpus, measured: Measured, costs: list[Cost], *, cores: int) -> dict[str, Any]:
    """Return all of an estimate as plain values."""
    said = {"corpus": asdict(corpus), "measured": asdict(measured), "costs": [asdict(cost) for cost in costs]}
    return said | {"cores": cores}


class _Sample:
    """The articles of a sample as rows and views, as the steps see them."""

    def __init__(self, recipe: Recipe, articles: list[bytes]):
        self._tasks = [task for task in recipe.tasks if not task.asks]
        self._stages = recipe.stages
        self._parsed = [parse_article(data, source=f"{i}.xml") for i, data in enumerate(articles)]
        self._views = [_view(rows) for rows in self._parsed]

    def figure(self, number: int) -> None:
        """Read, stage and encode one figure file."""
        origin = Origin("sample", "", "", "", "", "cc-by", "", "")
        medium = Medium("sample", "u", "g", origin, read_picture(self._pictures[number % len(self._pictures)]))
        media = [medium]
        for stage in self._stages:
            media = [out for one in media for out in stage(one)]
        for one in media:
            encode(one, split="train")

    def examples(self, number: int) -> list[dict[str, Any]]:
        """Make the rows of every task that asks no model for one article."""
        view = self._views[number]
        made = (one for task in self._tasks for one in task.examples(view, "0" * 64, None))
        return [example_row(one) for one in made if isinstance(one, Example)]

    @property
    def table_bytes(self) -> int:
        """Bytes of the sample's tables as they are stored."""
        return sum(
            _stored([row for rows in self._parsed for row in rows[name]], TABLES[name]) for name in self._parsed[0]
        )

    @property
    def example_bytes(self) -> int:
        """Bytes of the sample's examples as they are stored."""
        return _stored([row for i in range(len(self._views)) for row in self.examples(i)], EXAMPLE)

    @cached_property
    def _pictures(self) -> list[bytes]:
        """Synthetic pictures of the size of a journal's figure: smooth shapes with a little noise, as JPEG."""
        from PIL import Image

        height, width = PICTURE_SIZE_PX
        y, x = np.mgrid[0:height, 0:width]
        made = []
        for seed in range(4):
            random = np.random.default_rng(seed)
            waves = (np.sin(x / (9 + seed * 5)) + np.cos(y / (13 + seed * 3)) + 2) * 55
            pixels = np.clip(waves[..., None] + random.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, format="JPEG", quality=90)
            made.append(file.getvalue())
        return made


def _view(rows: dict[str, list[dict[str, Any]]]) -> UnitView:
    """Return an article as tasks see it, every one of its figures kept."""
    article = rows["article"][0]
    media = {
        m["key"]: MediumView(m["key"], "jpg", "figure", "", "", (*PICTURE_SIZE_PX, 3), (), "cc-by", f["caption"])
        for f in rows["figure"] for m in f["media"]
    }  # fmt: skip
    return UnitView(
        article["article_key"], "sample", article["article_key"], "train", "CC BY", "cc-by", article,
        tuple(rows["section"]), tuple(rows["paragraph"]), tuple(rows["figure"]), tuple(rows["mention"]), media=media,
    )  # fmt: skip


def _seconds(do: Callable[[int], Any]) -> float:
    """Return the seconds of this core that one call takes, over `MEASURED_S` after a first call."""
    do(0)
    start, calls = time.process_time(), 0
    while time.process_time() - start < MEASURED_S:
        do(calls)
        calls += 1
    return (time.process_time() - start) / calls


def _stored(rows: list[dict[str, Any]], schema: pa.Schema) -> int:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")
    return file.tell()


def _driver_bytes_per_object() -> float:
    """Return what the driver holds for one object of a listing: its row, its link and the place of its unit."""
    n = 1000
    rows = list(_objects(n))
    listing, links = pa.Table.from_pylist(rows, schema=OBJECT), pa.Table.from_pylist(
        [{"unit": "pmc11370360-1", "key": "pmc11370360-1-f1", "source": "papers", "order": 1, "original_unit": "",
          "original_group": "", **row} for row in rows],
        schema=LINK,
    )  # fmt: skip
    return float(listing.nbytes + links.nbytes) / n


def _objects(n: int) -> Iterator[dict[str, Any]]:
    for i in range(n):
        url = f"PMC{11_000_000 + i}.1/NPR2-43-85-g{i % 9:03d}.jpg"
        yield {"url": url, "size": 1, "mtime_ns": 0, "etag": "sha256:" + "0" * 64}


def _per_core(seconds_per_byte: float) -> str:
    return f"{1e-6 / seconds_per_byte:,.1f} MB of articles/s/core"


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"
