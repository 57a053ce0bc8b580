"""What other loaders are told of tars is what stands in them, and no tar's folder holds anything but tars."""

import json
import os
import posixpath
import shutil
import struct
import tarfile
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import typer
from tests.builds import synthetic_release, write_release
from typer.testing import CliRunner

from medloom.pipelines import cli_shards
from medloom.pipelines.release import job
from medloom.pipelines.shard_extras import drop_extras, write_extras
from medloom.quality.lint import lint
from medloom.schemas.b2nd import decode
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.manifest import list_files
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName, tally
from medloom.schemas.store import Store
from medloom.schemas.tables import STATE

LAYOUTS = ("jpg", "png", "volume", "volume-seg")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
    return synthetic_release(tmp_path_factory.mktemp("extras"), 24)


@pytest.fixture
def url(made, tmp_path) -> str:
    return str(shutil.copytree(made, tmp_path / "build"))


def samples_of(tar: Path) -> tuple[list[int], int]:
    """Where the first header of each sample starts, and where the last member ends, as Python's tarfile finds them."""
    starts, seen, end = [], None, 0
    with tarfile.open(tar) as file:
        for member in file:
            key = member.name.partition(".")[0]
            if key != seen:
                starts.append(member.offset)
            seen, end = key, member.offset_data + -(-member.size // 512) * 512
    return starts, end


def test_energon_finds_every_sample_of_every_tar(url):
    write_extras(url, wids=False, energon=True)
    tars = sorted(Path(url, "media").iterdir())
    linked = sorted(Path(url, "energon").glob("*/*.tar"))
    assert [path.resolve() for path in sorted(linked, key=lambda p: p.name)] == tars
    for link in linked:
        assert not os.readlink(link).startswith("/")
        starts, end = samples_of(link)
        offsets = Path(f"{link}.idx").read_bytes()
        assert list(struct.unpack(f"<{len(offsets) // 8}Q", offsets)) == [*starts, end]


def keys_of(tar: Path) -> set[str]:
    with tarfile.open(tar) as file:
        return {name.partition(".")[0] for name in file.getnames()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_energon_is_told_counts_and_splits(url, layout):
    write_extras(url, wids=False, energon=True)
    folder = Path(url, "energon", layout)
    counts = json.loads((folder / ".nv-meta" / ".info.json").read_text())["shard_counts"]
    assert counts == {path.name: len(samples_of(path)[0]) for path in folder.glob("*.tar")}
    parts = json.loads((folder / ".nv-meta" / "split.yaml").read_text())["split_parts"]
    splits = {"train": "train", "val": "validation", "test": "test"}
    assert parts == {part: sorted(n for n in counts if n.startswith(f"{s}-")) for part, s in splits.items()}
    said = json.loads((folder / ".nv-meta" / "dataset.yaml").read_text())
    assert ("field_map" in said) == (layout in ("jpg", "png"))


def test_wids_lists_every_tar_relative_to_itself(url):
    write_extras(url, wids=True, energon=False)
    found = set()
    for path in Path(url, "wids").iterdir():
        said = json.loads(path.read_text())
        assert said["wids_version"] == 1
        for shard in said["shardlist"]:
            tar = (path.parent / shard["url"]).resolve()
            assert tar.name.startswith(f"{path.stem}-0")
            assert shard["nsamples"] == len(samples_of(tar)[0])
            assert shard["filesize"] == tar.stat().st_size
            found.add(tar)
    assert found == set(Path(url, "media").iterdir())


def test_a_release_lists_only_tars_that_its_rows_use(url):
    rows = [row for row in Release(url).rows.to_pylist() if row["source"] == "scans" and row["split"] == "train"]
    write_release(Store(url), rows, number=2)
    done = write_extras(f"{url}/releases", wids=True, energon=True)
    folder = Path(url, "releases", "0002")
    used = {key for row in rows for key in row["media"]}
    assert {p.name for p in (folder / "wids").iterdir()} == {"train-volume.json", "train-volume-seg.json"}
    listed = set()
    for path in (folder / "wids").iterdir():
        tars = [(path.parent / shard["url"]).resolve() for shard in json.loads(path.read_text())["shardlist"]]
        keys = {key for tar in tars for key in keys_of(tar)}
        assert used & keys
        listed |= keys
    assert used <= listed
    linked = list((folder / "energon").glob("*/*.tar"))
    assert len(linked) == done.tars
    assert all(path.resolve().is_file() for path in linked)


def test_a_release_of_two_builds_keeps_their_tars_apart(url, tmp_path):
    other = str(shutil.copytree(url, tmp_path / "other"))
    release = Release(url)
    both = [{**row, "build": n} for row in release.rows.slice(0, 40).to_pylist() for n in (0, 1)]
    pinned = [{**release.facts["builds"][0], "uri": u} for u in (url, other)]
    table = pa.Table.from_pylist(both, schema=release.rows.schema)
    store = Store(str(tmp_path / "releases"))
    job.write_release(store, table, STATE.empty_table(), {"builds": pinned, "policy": {}})
    write_extras(store.url, wids=True, energon=True)
    linked = list(Path(store.url, "0001", "energon").glob("*/build*/*.tar"))
    assert {path.parent.name for path in linked} == {"build0", "build1"}
    assert {path.resolve().parent.parent.name for path in linked} == {"build", "other"}


def test_a_tar_that_was_rewritten_after_the_release_is_refused(url):
    ledger = Path(url, ShardName("train", 0).ledger)
    said = json.loads(ledger.read_text())
    said["tars"]["jpg"]["sha256"] = "0" * 64
    ledger.write_text(json.dumps(said))
    with pytest.raises(FormatError, match=r"train-jpg-000000\.tar was rewritten"):
        write_extras(f"{url}/releases", wids=True, energon=False)


def test_the_build_is_as_clean_as_before_and_hugging_face_reads_its_tars(url, tmp_path):
    before = list_files(Build(url).store)
    write_extras(url, wids=True, energon=True)
    assert list_files(Build(url).store) == before
    assert lint(Build(url)) == []
    assert {path.suffix for path in Path(url, "media").iterdir()} == {".tar"}
    files = {"train": f"{url}/media/train-jpg-*"}
    found = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    index = Build(url).index(columns=["key", "split", "layout"])
    wanted = index.filter(pc.and_(pc.equal(index["split"], "train"), pc.equal(index["layout"], "jpg")))
    assert {row["json"]["key"] for row in found} == set(wanted["key"].to_pylist())


def test_running_again_writes_nothing_and_mends_what_is_wrong(url):
    first = write_extras(url, wids=True, energon=True)
    assert first.written > len(first.files)
    assert write_extras(url, wids=True, energon=True).written == 0
    link = next(Path(url, "energon", "jpg").glob("*.tar"))
    link.unlink()
    link.symlink_to("elsewhere.tar")
    Path(f"{link}.idx").write_bytes(b"")
    assert write_extras(url, wids=True, energon=True).written == 1
    assert link.resolve().parent.name == "media"
    assert samples_of(link)[0]


def test_extras_go_when_a_shard_is_about_to_be_written(url):
    write_extras(url, wids=True, energon=True)
    tars = sorted(Path(url, "media").iterdir())
    drop_extras(Store(url), [ShardName("train", 0)])
    assert not Path(url, "wids").exists()
    assert not Path(url, "energon").exists()
    assert sorted(Path(url, "media").iterdir()) == tars  # the links went, not what they meant


def test_on_an_object_store_the_offsets_lie_beside_the_tars(made):
    remote = fsspec.filesystem("memory")
    remote.put(made, "/extras/build", recursive=True)
    try:
        store = Store("memory:///extras/build")
        before = list_files(store)
        write_extras(store.url, wids=True, energon=True)
        assert list_files(store) == before
        starts, end = samples_of(Path(made, "media", "train-jpg-000000.tar"))
        offsets = store.read("media/train-jpg-000000.tar.idx")
        assert list(struct.unpack(f"<{len(offsets) // 8}Q", offsets)) == [*starts, end]
        counts = json.loads(store.read("energon/jpg/.nv-meta/.info.json"))["shard_counts"]
        assert all(store.exists(posixpath.normpath(f"energon/jpg/{name}")) for name in counts)
        drop_extras(store, [shard for shard, _ in Build(store.url).ledgers()])
        assert not [name for name in store.names("media") if name.endswith(".idx")]
        assert not store.exists("energon")
    finally:
        remote.rm("/extras", recursive=True)


def test_what_cannot_be_done_is_one_sentence(url, tmp_path):
    with pytest.raises(ConfigError, match="--wids, --energon or both"):
        write_extras(url, wids=False, energon=False)
    with pytest.raises(SourceError):
        write_extras(str(tmp_path), wids=True, energon=False)


def test_the_command_says_what_it_wrote(url):
    app = typer.Typer()
    cli_shards.register(app)
    done = CliRunner().invoke(app, ["extras", url, "--wids", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["written"] == len(list(Path(url, "wids").iterdir()))


def test_a_ledger_tells_media_bytes_and_ratio_by_modality(made):
    build = Build(made)
    seen = 0
    for shard, ledger in build.ledgers():
        rows = build.index(shard).to_pylist()
        for layout, facts in ledger["tars"].items():
            mine = [row for row in rows if row["layout"] == layout]
            assert facts["modalities"] == tally(mine)
            assert sum(kind["media"] for kind in facts["modalities"].values()) == facts["samples"]
            for modality, kind in facts["modalities"].items():
                contents = [r for r in mine if r["modality"] == modality and r["field"] in ("jpg", "png", "ct.b2nd")]
                assert kind["stored_bytes"] == sum(row["size"] for row in contents)
                if layout.startswith("volume"):
                    arrays = [len(_array(build, row, shard)) for row in contents]
                    assert kind["array_bytes"] == sum(arrays)
                    assert kind["ratio"] == round(sum(arrays) / kind["stored_bytes"], 3) > 1
                    seen += 1
    assert seen


def _array(build: Build, row: dict, shard: ShardName) -> bytes:
    return decode(build.member(row, shard)).tobytes()
