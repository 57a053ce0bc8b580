"""The forms for training elsewhere, read back by webdataset, datasets, GNU tar and nibabel: one sample per example."""

import gzip
import io
import json
import subprocess
from collections import Counter
from pathlib import Path

import datasets
import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from tests.builds import synthetic_release
from tests.pipelines.forms import files_of

from medloom.connectors import nifti_writing
from medloom.pipelines.export import export
from medloom.pipelines.exports import hf
from medloom.pipelines.exports import webdataset as form
from medloom.pipelines.exports.stored import stored_media
from medloom.pipelines.exports.stored_examples import MediaFiles, StoredExample
from medloom.pipelines.outgoing import outgoing
from medloom.schemas.b2nd import decode
from medloom.schemas.build import Build
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release, append_overlay
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import TABLES

CONFIGS = {"jpg", "png", "jpg2", "png2", "volume", "volume-seg"}


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    """A release with an article that must be named."""
    url = synthetic_release(tmp_path_factory.mktemp("training"), 24)
    build = Build(url)
    article = dict.fromkeys(TABLES["article"].names) | {
        "article_key": "u00000", "pmcid": "PMC7000001", "version": 2, "attribution": "N Nobody. Journal. 2021.",
        "terms_id": "cc-by",
    }  # fmt: skip
    build.store.write_table(
        "tables/article/part-00000.parquet", pa.Table.from_pylist([article], schema=TABLES["article"])
    )
    return url


@pytest.fixture(scope="module")
def exported(url, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    for name in ("webdataset", "hf"):
        export(name, url, str(folder / name))
    return folder


@pytest.fixture(scope="module")
def stored(url) -> tuple[dict[str, dict], dict[str, dict]]:
    """Rows of examples by id, and by key of a medium the bytes of its members, its json parsed."""
    build = Build(url)
    media: dict[str, dict] = {}
    for shard, _ in build.ledgers():
        for row in build.index(shard).to_pylist():
            data = build.member(row, shard)
            media.setdefault(row["key"], {"layout": row["layout"]})[row["field"]] = data
    for members in media.values():
        members["json"] = json.loads(members["json"])
    return {row["example_id"]: row for row in build.examples().to_pylist()}, media


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("webdataset/*/*.tar"))


def test_each_example_is_one_sample_of_one_field_set_per_folder(exported, stored):
    examples, _ = stored
    seen: Counter[str] = Counter()
    for config in sorted(p.name for p in (exported / "webdataset").iterdir() if p.is_dir()):
        fields = set()
        for tar in sorted((exported / "webdataset" / config).glob("*.tar")):
            for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
                fields.add(tuple(sorted(name for name in sample if not name.startswith("__"))))
                seen[sample["__key__"]] += 1
                assert tar.name.startswith(examples[sample["__key__"]]["split"] + "-")
        assert len(fields) == 1, config
    assert {p.name for p in (exported / "webdataset").iterdir() if p.is_dir()} == CONFIGS
    assert seen == Counter(dict.fromkeys(examples, 1))


def test_samples_say_what_the_examples_say_and_hold_the_bytes_that_they_mean(exported, stored):
    examples, media = stored
    for tar in tars(exported):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
            row, facts = examples[sample["__key__"]], json.loads(sample["json"])
            by_field = {m["field"]: m for m in facts["media"]}
            assert sorted(m["key"] for m in facts["media"]) == sorted(row["media"])
            assert [turn["role"] for turn in facts["turns"]] == [turn["role"] for turn in row["turns"]]
            pairs = zip((p for t in facts["turns"] for p in t["parts"]), (p for t in row["turns"] for p in t["parts"]),
                        strict=True)  # fmt: skip
            for said, meant in pairs:
                assert said["text"] == meant["text"]
                assert (by_field[said["media"]]["key"] if said["media"] else "") == meant["media"]
                assert said["box"] == ",".join(map(str, meant["box"]))
                assert (meant["text"] or f"<{said['media']}>") in sample["txt"].decode()
            assert json.loads(facts["labels"]) == row["labels"]
            for field, medium in by_field.items():
                members = media[medium["key"]]
                assert medium["attribution"] == members["json"]["attribution"] == "Nobody"
                if field.endswith("nii.gz"):
                    assert np.array_equal(voxels(sample[field]), decode(members["ct.b2nd"]))
                    assert bool(medium["mask"]) == ("seg.b2nd" in members) == bool(medium["classes"])
                    if medium["mask"]:
                        assert np.array_equal(voxels(sample[medium["mask"]]), decode(members["seg.b2nd"])[0])
                        assert json.loads(medium["classes"]) == members["json"]["labels"]
                else:
                    assert sample[field] == members[members["layout"]]
            assert None not in facts.values()


def voxels(data: bytes) -> np.ndarray:
    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj).transpose()


def test_fields_are_those_of_their_folder_whatever_the_order_in_the_text(url, stored):
    release = Release(url)
    by_layout = {medium.row["layout"]: medium for medium in stored_media(outgoing(release))}
    row = next(row for row in stored[0].values() if row["task"] == "interleaved")
    names = set()
    for order in (("volume-seg", "png", "jpg"), ("jpg", "volume-seg", "png")):
        media = tuple(by_layout[layout] for layout in order)
        parts = [{"text": None, "media": medium.key, "box": None} for medium in media]
        mixed = {**row, "turns": [{"role": "document", "parts": parts}], "media": [medium.key for medium in media]}
        with MediaFiles() as files:
            made = [files.of(medium) for medium in media]
        config, members, _ = form._sample(StoredExample(ShardName("train", 0), mixed, media, None, ""), made)
        names.add((config, tuple(members)))
        facts = json.loads(members["json"])
        said = {m["field"]: m["key"] for m in facts["media"]}
        assert [said[part["media"]] for part in facts["turns"][0]["parts"]] == mixed["media"]
        assert members["0.jpg"] == by_layout["jpg"].picture()
    assert names == {("jpg_png_volume-seg", ("json", "txt", "0.jpg", "1.png", "2.nii.gz", "2.seg.nii.gz"))}


def test_an_example_without_media_is_text(stored):
    row = next(row for row in stored[0].values() if row["task"] == "interleaved")
    turns = [{"role": "user", "parts": [{"text": "Why?", "media": None, "box": None}]}]
    bare = {**row, "turns": turns, "media": [], "regions": None, "labels": None, "licence": None}
    config, members, _ = form._sample(StoredExample(ShardName("train", 0), bare, (), None, ""), [])
    assert (config, list(members), members["txt"]) == ("text", ["json", "txt"], b"user: Why?\n")
    facts = json.loads(members["json"])
    assert (facts["media"], facts["labels"], facts["licence"]) == ([], "[]", "")
    assert facts["turns"] == [{"role": "user", "parts": [{"text": "Why?", "media": "", "box": ""}]}]


def test_gnu_tar_and_the_stock_decoder_read_them(exported):
    for tar in tars(exported):
        listed = subprocess.run(["tar", "tvf", str(tar)], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False).decode("rgb8"):
            assert sample["json"]["example_id"] == sample["__key__"]
            assert isinstance(sample["txt"], str)
            for field in (m["field"] for m in sample["json"]["media"]):
                if field.endswith(("jpg", "png")):
                    assert sample[field].dtype == np.uint8


def test_hugging_face_reads_every_configuration_of_the_tars(exported, stored, tmp_path):
    examples, media = stored
    folder = str(exported / "webdataset")
    found = {}
    assert set(datasets.get_dataset_config_names(folder)) == CONFIGS
    for config in sorted(CONFIGS):
        for split, rows in datasets.load_dataset(folder, config, cache_dir=str(tmp_path)).items():
            found |= {row["__key__"].rsplit("/")[-1]: (split, row) for row in rows}
    assert {name: split for name, (split, _) in found.items()} == {n: row["split"] for n, row in examples.items()}
    for name, (_, row) in found.items():
        assert row["json"]["example_id"] == name
        for medium in row["json"]["media"]:
            if not medium["field"].endswith("nii.gz"):
                members = media[medium["key"]]
                expected = Image.open(io.BytesIO(members[members["layout"]]))
                assert np.array_equal(np.asarray(row[medium["field"]]), np.asarray(expected))


def test_hugging_face_decodes_pictures_and_volumes_of_the_rows(exported, stored, tmp_path):
    examples, media = stored
    folder, found = str(exported / "hf"), {}
    tasks = {row["task"] for row in examples.values()}
    assert set(datasets.get_dataset_config_names(folder)) == tasks
    for task in sorted(tasks):
        for split, rows in datasets.load_dataset(folder, task, cache_dir=str(tmp_path)).items():
            assert rows.features["images"] == datasets.List(datasets.Image())
            assert rows.features["volumes"] == datasets.List(datasets.Nifti())
            found |= {row["example_id"]: (split, row) for row in rows}
    assert {name: split for name, (split, _) in found.items()} == {n: row["split"] for n, row in examples.items()}
    for name, (_, row) in found.items():
        for column in ("turns", "regions", "labels", "evidence", "measured", "unit", "terms_id", "task"):
            assert row[column] == examples[name][column], column
        assert sorted(row["images_media"] + row["volumes_media"]) == sorted(examples[name]["media"])
        for key, picture in zip(row["images_media"], row["images"], strict=True):
            expected = Image.open(io.BytesIO(media[key][media[key]["layout"]]))
            assert np.array_equal(np.asarray(picture), np.asarray(expected))
        for column, field in (("volumes", "ct.b2nd"), ("masks", "seg.b2nd")):
            for key, volume in zip(row[f"{column}_media"], row[column], strict=True):
                array = decode(media[key][field])
                assert np.array_equal(np.asarray(volume.dataobj).transpose(), array.reshape(array.shape[-3:]))
        assert row["masks_media"] == [key for key in row["volumes_media"] if "seg.b2nd" in media[key]]


def test_whom_to_name_stands_in_samples_rows_and_lists(exported, stored):
    examples, media = stored
    mine = [name for name, row in examples.items() if row["unit"] == "u00000"]
    for folder in (exported / "webdataset", exported / "hf"):
        (article,) = [json.loads(line) for line in (folder / "articles.jsonl").read_text().splitlines()]
        assert (article["name"], article["attribution"]) == ("PMC7000001.2", "N Nobody. Journal. 2021.")
        told = [json.loads(line) for line in (folder / "media.jsonl").read_text().splitlines()]
        assert Counter(row["key"] for row in told) == Counter(dict.fromkeys(media, 1))
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert manifest["licences"] == {"cc-by": len(examples) + len(media)}
        assert "| terms | examples and media | SPDX |" in (folder / "README.md").read_text()
    rows = [row for path in (exported / "hf").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {row["example_id"] for row in rows if row["attribution"] == "N Nobody. Journal. 2021."} == set(mine)


@pytest.mark.parametrize("name", ["webdataset", "hf"])
def test_what_is_given_is_written_or_kept_back_and_the_same_bytes_come_again(url, exported, stored, tmp_path, name):
    examples, media = stored
    done = export(name, url, str(tmp_path / "again"))
    assert done["counts"]["examples"] == {"in": len(examples), "written": len(examples), "kept_back": {}}
    assert done["counts"]["media"] == {"in": len(media), "written": len(media), "kept_back": {}}
    uses = sum(len(row["media"]) for row in examples.values())
    (copies,) = done["noted"].values()
    assert copies == uses - len(media) > 0
    assert files_of(tmp_path / "again") == files_of(exported / name)


@pytest.mark.parametrize("name", ["webdataset", "hf"])
def test_what_is_withdrawn_or_of_another_split_stays_back(tmp_path, name):
    url = synthetic_release(tmp_path, 12)
    said = {"scope": "group", "id": "g00000", "state": "withdrawn", "reason": "asked", "by": "curator"}
    append_overlay(Release(url).store, [said])
    export(name, url, str(tmp_path / "out"), split="train")
    written = b"".join(files_of(tmp_path / "out").values())
    assert b"u00002-s0" in written
    assert b"u00000-f" not in written  # its group
    assert b"u00009-f" not in written  # validation


@pytest.mark.parametrize("name", ["webdataset", "hf"])
def test_a_volume_that_nifti_cannot_hold_keeps_its_examples_back(tmp_path, monkeypatch, name):
    url = synthetic_release(tmp_path, 12)
    monkeypatch.setattr(nifti_writing, "MAX_SIDE", 14)
    counts = export(name, url, str(tmp_path / "out"))["counts"]
    assert counts["examples"]["kept_back"] == {"nifti.size": 4}
    assert counts["media"]["kept_back"] == {"form.no_place": 4}


def test_files_are_ended_at_their_size_and_every_tar_is_whole(url, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(form, "TAR_BYTES", 20_000)
    monkeypatch.setattr(hf, "FILE_BYTES", 20_000)
    monkeypatch.setattr(hf, "GROUP_BYTES", 5_000)
    export("webdataset", url, str(tmp_path / "webdataset"))
    export("hf", url, str(tmp_path / "hf"))
    keys: Counter[str] = Counter()
    for tar in tars(tmp_path):
        listed = subprocess.run(["tar", "tf", str(tar)], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        keys.update({name.split(".")[0] for name in listed.stdout.split()})
        assert tar.read_bytes().endswith(bytes(1024))
    assert keys == Counter(dict.fromkeys(stored[0], 1))
    assert len(tars(tmp_path)) > 12
    files = list((tmp_path / "hf").rglob("*.parquet"))
    assert len(files) > len({p.parent for p in files}) * 3
    assert max(pq.ParquetFile(p).num_row_groups for p in files) > 1
    assert sum(pq.ParquetFile(p).metadata.num_rows for p in files) == len(stored[0])


@pytest.mark.parametrize("name", ["webdataset", "hf"])
def test_a_run_that_fails_leaves_no_folder(tmp_path, name):
    build = Build(synthetic_release(tmp_path, 12))
    shard, ledger = list(build.ledgers())[-1]
    layout = sorted(ledger["tars"])[-1]
    row = next(
        row for row in build.index(shard).to_pylist() if row["field"] == LAYOUTS[layout][1] and row["layout"] == layout
    )
    with build.store.local(shard.tar(layout)).open("r+b") as file:
        file.seek(row["offset"])
        file.write(b"\xff\xff\xff")
    with pytest.raises(Exception, match=r"medloom lint"):
        export(name, build.url, str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["build"]
