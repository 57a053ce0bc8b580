"""The fixture of format_version 1: its files are never written again, and every later code reads them."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import blosc2
import numpy as np
import pytest
from PIL import Image

from medloom.model.stream import ShardStream
from medloom.quality.lint import lint
from medloom.schemas.b2nd import ZEROS, decode
from medloom.schemas.build import Build
from medloom.schemas.release import Release
from medloom.schemas.shard import shard_name
from medloom.schemas.tables import FORMAT_VERSION, INDEX, measured_values

FIXTURE = Path(__file__).parent / "fixtures" / "format1"
MANIFEST = "4fe4102248cb3b2e96a7eb562f79c2e3a0a328314a08a21357ead5cb459e56f8"
SCAN = "scan-aaaaaaaaaaaaaaaa"


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    return str(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("format1") / "out"))


def test_its_files_are_those_that_were_frozen():
    manifest = json.loads((FIXTURE / "manifest.json").read_text())
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == MANIFEST
    assert manifest["format_version"] == 1 <= FORMAT_VERSION
    for path, promised in manifest["files"].items():
        assert hashlib.sha256((FIXTURE / path).read_bytes()).hexdigest() == promised["sha256"], path


def test_a_build_of_format_1_is_read(url):
    build = Build(url)
    assert build.manifest()["number"] == 2
    shards = {str(shard): [unit["unit"] for unit in units] for shard, units in build.shards.items()}
    assert shards == {"test-000000": [SCAN], "train-000000": ["pmc1-1", "pmc2-1"]}
    assert [row["reason"] for row in build.refusals()] == ["media.unavailable"]
    assert build.table("article")["title"].to_pylist() == ["On pmc1-1", "On pmc2-1"]
    assert build.table("paragraph")["text"][0].as_py().startswith("A mass is seen in the left lung")
    index = build.index()
    assert index.schema == INDEX
    assert sorted(set(index["key"].to_pylist())) == ["pmc1-1-f1", "pmc2-1-f1", SCAN]
    assert lint(build, release=Release(url)) == []


def test_its_picture_and_its_volume_hold_the_values_that_were_put_in(url):
    build = Build(url)
    rows = {(r["key"], r["field"]): r for r in build.index().to_pylist()}
    train, test = shard_name("train-000000"), shard_name("test-000000")
    picture = np.asarray(Image.open(io.BytesIO(build.member(rows["pmc1-1-f1", "png"], train))))
    assert np.array_equal(picture, np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    facts = json.loads(build.member(rows["pmc1-1-f1", "json"], train))
    assert (facts["text"], facts["terms_id"], facts["group"]) == ("A mass.", "cc-by", "pmc1-1")
    wanted = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8) - 100
    row = rows[SCAN, "ct.b2nd"]
    assert np.array_equal(decode(build.member(row, test)), wanted)
    assert (row["shape"], row["spacing_mm"]) == ([4, 6, 8], [2.0, 0.5, 0.5])
    (offset,) = row["chunk_offsets"]
    assert offset != ZEROS
    chunk = blosc2.decompress2(build.member(row, test)[offset:])
    assert np.array_equal(np.frombuffer(chunk, np.int16).reshape(4, 6, 8), wanted)
    assert np.array_equal(decode(build.member(rows[SCAN, "seg.b2nd"], test)), (wanted > 0)[None])
    facts = json.loads(build.member(rows[SCAN, "json"], test))
    assert facts["affine"] == [[0.5, 0, 0, -10], [0, 0.5, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]]
    assert facts["labels"] == [{"layer": 0, "value": 1, "name": "lesion"}]
    assert measured_values(row["measured"]) == {"std": pytest.approx(wanted.std())}


def test_its_examples_and_its_release_are_read(url):
    release = Release(url)
    assert (release.number, release.facts["format_version"]) == (1, 1)
    assert [build.url for build in release.builds()] == [url]
    found = {r["media"][0]: (r["layouts"], r["shapes"], r["tier"], r["row"]) for r in release.rows.to_pylist()}
    assert found == {"pmc1-1-f1": (["png"], ["8x8x3"], "rule", 0), "pmc2-1-f1": (["png"], ["8x8x3"], "source", 1)}
    assert release.live_rows()["media"].to_pylist() == [["pmc1-1-f1"]]  # the overlay withdrew the other
    (example,) = [e for e in Build(url).examples().to_pylist() if e["unit"] == "pmc1-1"]
    assert example["turns"][1] == {"role": "assistant", "parts": [{"text": "A mass.", "media": "", "box": []}]}
    assert example["evidence"] == [{"where": "paragraph:pmc1-1-p1", "start": 2, "end": 6, "text": "mass"}]
    assert example["labels"] == ["mass"]


def test_it_is_streamed(url):
    (batch,) = ShardStream(url, seed=0, global_batch=1)
    (streamed,) = batch.examples
    assert list(streamed.media) == ["pmc1-1-f1"]
