"""Transcoded volumes and masks: read by nibabel, zstandard and numpy, each voxel where the build has it."""

import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
import zstandard
from tests.builds import synthetic_release

from medloom.pipelines import transcode as module
from medloom.pipelines.transcode import FORMATS, transcode
from medloom.schemas.b2nd import decode
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, RetryLater, SourceError
from medloom.schemas.release import Release, append_overlay
from medloom.schemas.store import Store

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> str:
    return synthetic_release(tmp_path_factory.mktemp("transcode"), 24)


def arrays(build: Build) -> dict[str, np.ndarray]:
    """The arrays of all volumes and masks, by the name of the file that they should have."""
    found = {}
    for shard, _ in build.ledgers():
        for row in build.index(shard).to_pylist():
            if row["field"] in ("ct.b2nd", "seg.b2nd"):
                name = row["key"] + ("_seg" if row["field"] == "seg.b2nd" else "")
                found[name] = decode(build.member(row, shard))
    return found


def rows(folder: Path) -> list[dict]:
    store = Store(str(folder))
    return [row for name in store.names("table") for row in store.read_table(f"table/{name}").to_pylist()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_voxel_of_a_nifti_is_the_stored_one_at_its_place(template, tmp_path):
    stored = arrays(Build(template))
    done = transcode(template, str(tmp_path / "out"), "nii.gz")
    assert done.written == len(stored) == len(list((tmp_path / "out/volumes").iterdir()))
    for name, array in stored.items():
        image = nibabel.load(tmp_path / f"out/volumes/{name}.nii.gz")
        zyx = np.asarray(image.dataobj).transpose()
        assert np.array_equal(zyx.reshape(array.shape), array)  # (Z, Y, X), of one layer also for a mask
        assert zyx.dtype == array.dtype
        assert np.allclose(image.affine, LPS_TO_RAS @ np.diag([0.8, 0.8, 2.5, 1.0]))


def test_a_zstd_npy_is_the_stored_array(template, tmp_path):
    stored = arrays(Build(template))
    transcode(template, str(tmp_path / "out"), "npy.zst")
    assert {p.name for p in (tmp_path / "out/volumes").iterdir()} == {f"{name}.npy.zst" for name in stored}
    for name, array in stored.items():
        with zstandard.open(tmp_path / f"out/volumes/{name}.npy.zst", "rb") as file:
            found = np.load(io.BytesIO(file.read()))
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert np.array_equal(found, array)


@pytest.mark.parametrize("form", FORMATS)
def test_the_table_says_what_each_file_is(template, tmp_path, form):
    transcode(template, str(tmp_path / "out"), form)
    stored = arrays(Build(template))
    table = {row["key"]: row for row in rows(tmp_path / "out")}
    assert set(table) == {name for name in stored if not name.endswith("_seg")}
    for key, row in table.items():
        assert row["shape"] == list(stored[key].shape)
        assert row["affine"] == np.diag([0.8, 0.8, 2.5, 1.0]).ravel().tolist()
        assert (row["terms_id"], row["attribution"], row["refused"]) == ("cc-by", "Nobody", "")
        assert (row["dtype"], row["units"] == "HU") == ("int16", row["modality"] == "CT")
        assert bool(row["mask"]) == (f"{key}_seg" in stored)
        assert [label["name"] for label in row["labels"] or ()] == ["body"] * bool(row["mask"])
        for what in ("volume", "mask"):
            if row[what]:
                assert (tmp_path / "out" / row[what]).stat().st_size == row[f"{what}_bytes"]


def test_run_again_it_writes_only_what_is_missing_and_ends_the_same(template, tmp_path):
    transcode(template, str(tmp_path / "whole"), "nii.gz")
    out, n = tmp_path / "out", len(arrays(Build(template)))
    transcode(template, str(out), "nii.gz", split="test")
    part = len(list((out / "volumes").iterdir()))
    assert 0 < part < n
    again = transcode(template, str(out), "nii.gz")
    assert (again.up_to_date, again.written) == (part, n - part)
    assert transcode(template, str(out), "nii.gz").written == 0
    first = sorted((out / "volumes").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-1])
    assert transcode(template, str(out), "nii.gz").written > 0
    (out / "volumes/left-over.nii.gz").write_bytes(b"of a run that was killed")
    transcode(template, str(out), "nii.gz")
    assert files(out) == files(tmp_path / "whole")


def test_a_run_that_was_killed_between_files_is_gone_on_with(template, tmp_path, monkeypatch):
    transcode(template, str(tmp_path / "whole"), "npy.zst")
    seen = []

    def dies(volumes, file):
        seen.append(file)
        if len(seen) == 3:
            raise KeyboardInterrupt
        whole(volumes, file)

    whole = module.write_npy_zst
    monkeypatch.setattr(module, "write_npy_zst", dies)
    with pytest.raises(KeyboardInterrupt):
        transcode(template, str(tmp_path / "out"), "npy.zst")
    monkeypatch.undo()
    transcode(template, str(tmp_path / "out"), "npy.zst")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_damaged_table_is_written_anew_or_said(template, tmp_path):
    out = tmp_path / "out"
    transcode(template, str(out), "npy.zst")
    before = files(out)
    damaged = sorted((out / "table").glob("part-train-*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(FormatError, match="without --split"):
        transcode(template, str(out), "npy.zst", split="test")
    transcode(template, str(out), "npy.zst")
    assert files(out) == before


def test_what_is_withdrawn_is_deleted(tmp_path):
    url = synthetic_release(tmp_path, 24)
    release, out = Release(url), tmp_path / "out"
    transcode(url, str(out), "nii.gz")
    all_rows = rows(out)
    index = [row for row in Build(url).index().to_pylist() if row["field"] == "ct.b2nd"]
    one, other = index[0], index[-1]
    by = {"state": "withdrawn", "reason": "asked", "by": "curator"}
    said = [{"scope": "medium", "id": one["key"], **by}, {"scope": "query", "id": f"group={other['group']}", **by}]
    append_overlay(release.store, said)
    transcode(url, str(out), "nii.gz")
    left = {row["key"] for row in rows(out)}
    assert left == {row["key"] for row in all_rows} - {one["key"], other["key"]}
    assert {p.name.partition(".")[0].removesuffix("_seg") for p in (out / "volumes").iterdir()} == left


def test_a_volume_that_the_format_cannot_hold_is_refused_in_its_row(template, tmp_path, monkeypatch):
    from medloom.connectors import nifti_writing

    monkeypatch.setattr(nifti_writing, "MAX_SIDE", 14)  # of 32767: slices are 12 to 15, rows 40
    done = transcode(template, str(tmp_path / "out"), "nii.gz")
    assert (done.written, done.refused, done.size_bytes) == (0, len(rows(tmp_path / "out")), 0)
    assert all("nifti.size" in row["refused"] and not row["volume"] for row in rows(tmp_path / "out"))
    assert not (tmp_path / "out/volumes").exists() or not list((tmp_path / "out/volumes").iterdir())


def test_wrong_folders_forms_and_bytes_are_said(template, tmp_path):
    transcode(template, str(tmp_path / "out"), "nii.gz", split="test")
    with pytest.raises(ConfigError, match=r"holds files of form nii\.gz"):
        transcode(template, str(tmp_path / "out"), "npy.zst")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    for to, form, split, said in (("full", "nii.gz", "", "not empty"), ("new", "dicom", "", "known are nii.gz"),
                                  ("new", "nii.gz", "trian", "no split 'trian'")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            transcode(template, str(tmp_path / to), form, split=split)
    assert not (tmp_path / "new").exists()
    with pytest.raises(SourceError, match="not a build"):
        transcode(str(tmp_path / "full"), str(tmp_path / "new"), "nii.gz")


@pytest.mark.parametrize("key", ["../../escaped", "/escaped", ""])
def test_a_key_that_is_none_writes_no_file(tmp_path, key):
    build = Build(synthetic_release(tmp_path, 12))
    shard = next(shard for shard, ledger in build.ledgers() if "volume" in ledger["tars"])
    index = build.store.read_table(shard.index("volume"))
    keys = [key if row == index["key"][0].as_py() else row for row in index["key"].to_pylist()]
    build.store.write_table(shard.index("volume"), index.set_column(0, index.schema.field("key"), [keys]))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(FormatError, match="which is no key"):
        transcode(build.url, str(tmp_path / "out"), "npy.zst", split=shard.split)
    assert {p.name for p in set(tmp_path.rglob("*")) - before} <= {"out", "transcode.json", ".lock", "table", "volumes"}


def test_two_runs_into_one_folder_do_not_delete_each_others_files(template, tmp_path, monkeypatch):
    write, said = module._write, []

    def writing(*args):
        if not said:
            said.append(args)
            with pytest.raises(RetryLater, match="another run is writing"):
                transcode(template, str(tmp_path / "out"), "npy.zst", split="test")
        return write(*args)

    monkeypatch.setattr(module, "_write", writing)
    transcode(template, str(tmp_path / "out"), "npy.zst", split="train")
    transcode(template, str(tmp_path / "out"), "npy.zst", split="test")
    assert said
    assert all((tmp_path / "out" / row["volume"]).exists() for row in rows(tmp_path / "out"))
    assert {row["split"] for row in rows(tmp_path / "out")} == {"train", "test"}


def test_a_flipped_bit_of_a_stored_volume_writes_nothing_wrong(tmp_path):
    build = Build(synthetic_release(tmp_path, 12))
    shard = next(shard for shard, ledger in build.ledgers() if "volume" in ledger["tars"])
    row = next(r for r in build.index(shard).to_pylist() if r["field"] == "ct.b2nd" and r["layout"] == "volume")
    with build.store.local(shard.tar("volume")).open("r+b") as file:
        file.seek(row["offset"] + row["size"] - 9)
        file.write(b"!")
    with pytest.raises(FormatError, match=row["key"]):
        transcode(build.url, str(tmp_path / "out"), "nii.gz")
    assert not (tmp_path / f"out/volumes/{row['key']}.nii.gz").exists()
