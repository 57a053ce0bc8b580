"""Every tar and card of a build is read by tools that know nothing of MedLoom, and they find what MedLoom finds."""

import io
import json
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from medloom.pipelines import report
from medloom.pipelines.publish import publish
from medloom.pipelines.release.job import make_release
from medloom.pipelines.release.states import Policy
from medloom.schemas.b2nd import decode
from medloom.schemas.build import Build
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release
from tests import sources


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    """A build of real files with its release and its report."""
    folder = tmp_path_factory.mktemp("interop")
    source, recipe = sources.write_both(folder / "source"), sources.write_recipe(folder / "both.py")
    out = str(folder / "out")
    sources.build(out, recipe, source)
    make_release([out], f"{out}/releases", policy=Policy(checks=False), master="local[2]")
    report.write(out)
    return out


def tars(out: str) -> list[tuple[str, list[dict]]]:
    """Path and index rows of every tar."""
    build = Build(out)
    found = []
    for shard, ledger in build.ledgers():
        rows = build.index(shard).to_pylist()
        found += [
            (f"{out}/{shard.tar(layout)}", [r for r in rows if r["layout"] == layout]) for layout in ledger["tars"]
        ]
    return found


def test_the_build_has_every_layout(out):
    assert {row["layout"] for _, rows in tars(out) for row in rows} == set(LAYOUTS)


def test_gnu_tar_extracts_every_member(out, tmp_path):
    for number, (path, rows) in enumerate(tars(out)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(["tar", "xf", path, "-C", str(folder)], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        data = Path(path).read_bytes()
        assert sorted(p.name for p in folder.iterdir()) == sorted(f"{r['key']}.{r['field']}" for r in rows)
        for row in rows:
            stored = data[row["offset"] : row["offset"] + row["size"]]
            assert (folder / f"{row['key']}.{row['field']}").read_bytes() == stored


def test_webdataset_decodes_every_sample(out):
    for path, rows in tars(out):
        samples = list(webdataset.WebDataset(path, shardshuffle=False, empty_check=False).decode("rgb8"))
        layout = rows[0]["layout"]
        assert [s["__key__"] for s in samples] == sorted({row["key"] for row in rows})
        shapes = {row["key"]: row["shape"] for row in rows if row["field"] == LAYOUTS[layout][1]}
        for sample in samples:
            assert {name for name in sample if not name.startswith("__")} == set(LAYOUTS[layout])
            assert sample["json"]["key"] == sample["__key__"]
            if layout in ("jpg", "png"):
                assert list(sample[layout].shape[:2]) == shapes[sample["__key__"]][:2]
            else:
                assert list(decode(sample["ct.b2nd"]).shape) == shapes[sample["__key__"]]
                assert sample["thumb.jpg"].ndim == 3


@pytest.fixture(scope="module")
def public(out, tmp_path_factory) -> str:
    """The build as it is published: what its terms allow."""
    folder = str(tmp_path_factory.mktemp("public") / "data")
    done = publish(Release(out), folder)
    assert done.media
    assert done.examples
    return folder


def configs(folder: str, cache: Path) -> list[str]:
    return datasets.get_dataset_config_names(folder, download_config=datasets.DownloadConfig(cache_dir=cache))


@pytest.mark.parametrize("where", ["report", "public"])
def test_hugging_face_reads_the_media_through_the_card(out, public, where, tmp_path):
    folder = f"{out}/report" if where == "report" else public
    build = Build(out if where == "report" else public)
    index = build.index().to_pylist()
    assert configs(folder, tmp_path) == [layout for layout in LAYOUTS if layout in {r["layout"] for r in index}]
    for layout in configs(folder, tmp_path):
        found = datasets.load_dataset(folder, layout, cache_dir=str(tmp_path))
        wanted = {(r["split"], r["key"]): r["shape"] for r in index if r["field"] == LAYOUTS[layout][1]
                  and r["layout"] == layout}  # fmt: skip
        assert {(split, row["__key__"].rsplit("/")[-1]) for split, rows in found.items() for row in rows} == set(wanted)
        for split, rows in found.items():
            for row in rows:
                shape = wanted[split, row["json"]["key"]]
                if layout in ("jpg", "png"):
                    assert [row[layout].height, row[layout].width] == shape[:2]
                else:
                    assert list(decode(row["ct.b2nd"]).shape) == shape
                    assert len(row["json"]["affine"]) == 4


@pytest.mark.parametrize("where", ["report", "public"])
def test_hugging_face_reads_the_examples_through_their_card(out, public, where, tmp_path):
    folder = f"{out}/report/examples" if where == "report" else f"{public}/examples"
    build = Build(out if where == "report" else public)
    tasks = {task for task, _ in build.tasks()}
    assert set(configs(folder, tmp_path)) == tasks
    for task in sorted(tasks):
        found = datasets.load_dataset(folder, task, cache_dir=str(tmp_path))
        rows = {row["example_id"]: row for split in found.values() for row in split}
        stored = {row["example_id"]: row for row in build.examples(task).to_pylist()}
        assert rows.keys() == stored.keys()
        for name, row in rows.items():
            for column in ("unit", "split", "task", "turns", "labels", "evidence", "media", "terms_id"):
                assert row[column] == stored[name][column], column


def test_pictures_are_whole_files_of_their_format(out):
    for path, rows in tars(out):
        data = Path(path).read_bytes()
        for row in rows:
            member = data[row["offset"] : row["offset"] + row["size"]]
            if row["field"] in ("jpg", "png", "thumb.jpg"):
                picture = Image.open(io.BytesIO(member))
                picture.load()
                assert list(np.asarray(picture).shape[:2]) == row["shape"][:2]
            elif row["field"] == "json":
                assert None not in json.loads(member).values()
