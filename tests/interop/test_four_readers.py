"""The same tars, ours and others', read by GNU tar, webdataset, Hugging Face datasets, megatron-energon and us."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path

import datasets
import pytest
import webdataset

from medloom.model.streamed import Wish
from medloom.model.tar_reader import TarReader
from medloom.pipelines.shard_extras import write_extras
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.tar_set import TarSet
from tests.builds import synthetic_release
from tests.foreign import samples, write_tar
from tests.interop.energon_env import energon, energon_python

Read = dict[str, dict[str, str]]  # of each key, fields with the sha256 of their bytes


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Folders of tars with one field set each: the layouts of a build, and foreign ones by three writers."""
    root = tmp_path_factory.mktemp("readers")
    build = Path(synthetic_release(root, 24))
    found = {layout: root / "tars" / layout for layout in LAYOUTS}
    for layout, folder in found.items():
        folder.mkdir(parents=True)
        for tar in sorted((build / "media").glob(f"*-{layout}-[0-9]*.tar")):
            shutil.copy(tar, folder)
    found["foreign"] = root / "tars" / "foreign"
    write_tar(found["foreign"] / "train-000000.tar", samples(0, 5), tarfile.PAX_FORMAT)
    with webdataset.TarWriter(str(found["foreign"] / "train-000001.tar")) as writer:
        for number in range(5, 9):
            sample = dict(samples(number, 1))
            writer.write({"__key__": f"s{number:04d}", **{n.partition(".")[2]: d for n, d in sample.items()}})
    loose = root / "loose"
    loose.mkdir()
    for name, data in samples(9, 4):
        (loose / name).write_bytes(data)
    command = ["tar", "cf", str(found["foreign"] / "train-000002.tar"), "--sort=name", "--format=gnu", "-C", str(loose)]
    subprocess.run([*command, *sorted(os.listdir(loose))], check=True)
    return found | {"build": build}


def tars(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tar"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def by_gnu_tar(folder: Path, to: Path) -> Read:
    found: Read = defaultdict(dict)
    for tar in tars(folder):
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
        done = subprocess.run(["tar", "xf", tar, "-C", str(to)], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        for path in to.iterdir():
            key, _, field = path.name.partition(".")
            found[key][field] = digest(path.read_bytes())
    return dict(found)


@pytest.fixture(scope="module")
def truth(folders, tmp_path_factory) -> dict[str, Read]:
    """What GNU tar extracts of each folder."""
    to = tmp_path_factory.mktemp("extracted")
    return {name: by_gnu_tar(folder, to / name) for name, folder in folders.items() if name != "build"}


NAMES = [*LAYOUTS, "foreign"]


@pytest.mark.parametrize("name", NAMES)
def test_the_walk_and_the_samples_agree_with_gnu_tar(folders, truth, name):
    tar_set = TarSet(str(folders[name]))
    found: Read = defaultdict(dict)
    for row in tar_set.members.to_pylist():
        with open(tar_set.tars[row["shard"]].url, "rb") as file:
            file.seek(row["offset"])
            found[row["key"]][row["field"]] = digest(file.read(row["size"]))
    assert found == truth[name]
    read = TarReader(tar_set).read_many([Wish(row) for row in range(tar_set.rows.num_rows)])
    assert sorted(one.example.example_id for one in read) == sorted(truth[name])
    assert all(one.media for one in read)


@pytest.mark.parametrize("name", NAMES)
def test_webdataset_reads_the_same(folders, truth, name):
    found = webdataset.WebDataset(tars(folders[name]), shardshuffle=False, empty_check=False)
    read = {s["__key__"]: {f: digest(data) for f, data in s.items() if not f.startswith("__")} for s in found}
    assert read == truth[name]


@pytest.mark.parametrize("name", NAMES)
def test_hugging_face_datasets_reads_the_same(folders, truth, name, tmp_path):
    found = datasets.load_dataset("webdataset", data_files=tars(folders[name]), split="train", cache_dir=str(tmp_path))
    binary = {f for sample in truth[name].values() for f in sample if not f.endswith(("json", "txt"))}
    for field in binary & {"jpg", "png", "thumb.jpg"}:
        found = found.cast_column(field, datasets.Image(decode=False))
    assert {row["__key__"] for row in found} == truth[name].keys()
    for row in found:
        for field in binary:
            data = row[field]["bytes"] if isinstance(row[field], dict) else row[field]
            assert digest(data) == truth[name][row["__key__"]][field]
        assert set(row) - {"__key__", "__url__"} == truth[name][row["__key__"]].keys()


ENERGON = {"train": "train", "validation": "val", "test": "test"}  # splits by its names


def splits(folders: dict[str, Path]) -> list[tuple[str, str]]:
    """Layout and split of the build's tars."""
    return sorted({(name, Path(tar).name.partition("-")[0]) for name in LAYOUTS for tar in tars(folders[name])})


@pytest.fixture(scope="module")
def by_energon(folders, pytestconfig) -> dict[str | tuple[str, str], Read]:
    """What energon reads of each folder that its own `prepare` indexed, and of the extras that we write for it."""
    python = energon_python(pytestconfig)
    write_extras(str(folders["build"]), wids=False, energon=True)
    reads = [[str(folders[name]), "train"] for name in NAMES]
    extras = [[str(folders["build"] / "energon" / name), ENERGON[split]] for name, split in splits(folders)]
    asked = {"prepare": [str(folders[name]) for name in NAMES], "read": reads + extras}
    answers = json.loads(energon(python, json.dumps(asked)))
    prepared = dict(zip(NAMES, answers, strict=False))
    return prepared | dict(zip(splits(folders), answers[len(NAMES) :], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_megatron_energon_reads_the_same(by_energon, truth, name):
    assert by_energon[name] == truth[name]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_megatron_energon_reads_what_we_prepare_for_it(by_energon, truth, layout, folders):
    found = {split: by_energon[layout, split] for name, split in splits(folders) if name == layout}
    for split, answer in found.items():
        stored = [tar for tar in tars(folders[layout]) if Path(tar).name.startswith(f"{split}-")]
        keys = {key for tar in stored for key in TarSet(tar).rows["example_id"].to_pylist()}
        assert answer.keys() == keys
        if layout.startswith("volume"):
            assert answer == {key: truth[layout][key] for key in keys}
        else:
            assert all(isinstance(caption, str) and caption for caption in answer.values())
    assert sum(map(len, found.values())) == len(truth[layout])
