"""NIfTI exports of real tars, read back by nibabel and by SimpleITK."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pytest
import SimpleITK
from tests.pipelines.forms import files_of
from tests.pipelines.scan_builds import PLAIN, SHEARED, phantom, scan_medium, scan_release, small_media

from medloom.connectors import nifti
from medloom.connectors.nifti_writing import is_sheared, write_nifti
from medloom.pipelines.export import export
from medloom.pipelines.publish import publish
from medloom.pipelines.release import job
from medloom.schemas.errors import GateError, Refused
from medloom.schemas.keys import sha256_hex
from medloom.schemas.release import Release
from medloom.schemas.tables import STATE
from medloom.schemas.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    return scan_release(tmp_path_factory.mktemp("scans"), small_media())


@pytest.fixture(scope="module")
def exported(release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forms") / "nifti"
    export("nifti", release.url, str(folder))
    return folder


def index_of(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "index.csv").open(newline="")))


@pytest.mark.parametrize("number", range(4))
def test_voxels_type_and_affine_come_back(exported, number):
    medium = small_media()[number]
    image = nibabel.load(exported / f"volumes/{medium.key}.nii.gz")
    volume = medium.content
    values = np.asanyarray(image.dataobj)
    assert values.dtype == volume.array.dtype
    assert np.array_equal(values.transpose(2, 1, 0), volume.array)
    assert np.array_equal(image.affine, (LPS_TO_RAS @ volume.affine).astype(np.float32).astype(float))
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    assert codes == ((1, 0) if medium.key == "scan-c" else (1, 1))
    if codes[1]:
        assert np.allclose(image.header.get_qform(), LPS_TO_RAS @ volume.affine, atol=1e-5)
    assert image.header.get_zooms() == pytest.approx(volume.spacing_mm[::-1])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_another_library_sees_each_voxel_at_its_place(exported, number):
    medium = small_media()[number]
    image = SimpleITK.ReadImage(str(exported / f"volumes/{medium.key}.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), medium.content.array)
    z, y, x = medium.content.shape
    for at in ((0, 0, 0), (x - 1, 0, 0), (0, y - 1, 0), (0, 0, z - 1), (3, 2, 1)):
        place = (medium.content.affine @ [*at, 1])[:3]
        assert image.TransformIndexToPhysicalPoint(at) == pytest.approx(tuple(place), abs=1e-4)


def test_our_own_reader_gives_the_stored_volume(exported):
    for medium in small_media()[:4]:
        (volume,) = nifti.read_volumes(exported / f"volumes/{medium.key}.nii.gz")
        assert volume.array.dtype == medium.content.array.dtype
        assert np.array_equal(volume.array, medium.content.array)
        assert np.abs(volume.affine - medium.content.affine).max() < 1e-5


def test_masks_have_every_layer_and_a_table_of_their_classes(exported):
    one, two = (nibabel.load(exported / f"volumes/{key}_seg.nii.gz") for key in ("scan-a", "scan-b"))
    seg = small_media()[1].seg
    assert one.shape == (12, 14, 9)
    assert two.shape == (12, 14, 9, 2)
    for number, layer in enumerate(seg):
        assert np.array_equal(np.asanyarray(two.dataobj)[..., number].transpose(2, 1, 0), layer.array)
    table = json.loads((exported / "volumes/scan-b_seg.json").read_bytes())
    assert [(r["layer"], r["value"], r["name"], r["side"], r["stated"]) for r in table["labels"]] == [
        (0, 1, "liver", "", ""), (0, 2, "spleen", "", ""), (0, 3, "kidney", "left", "kidney_left"),
        (0, 4, "aorta", "", ""), (1, 1, "liver tumor", "", ""),
    ]  # fmt: skip
    assert table["labelled"] == ["liver", "spleen", "kidney", "aorta", "liver tumor"]
    values = np.asanyarray(one.dataobj)
    for row in json.loads((exported / "volumes/scan-a_seg.json").read_bytes())["labels"]:
        assert int((values == row["value"]).sum()) == row["voxels"]
    assert not (exported / "volumes/scan-c_seg.nii.gz").exists()


def test_the_index_maps_each_file_to_its_key_and_source(exported):
    rows = index_of(exported)
    assert list(rows[0]) == ["file", "kind", "key", "split", "source", "objects", "series", "withheld"]
    found = {row["file"]: (row["kind"], row["key"], row["source"], row["objects"], row["series"]) for row in rows}
    assert found["volumes/scan-a.nii.gz"] == ("volume", "scan-a", "scan-a.nii.gz", "1", "series of scan-a")
    assert found["volumes/scan-a_seg.nii.gz"] == ("mask", "scan-a", "scan-a_seg.nii.gz", "1", "series of scan-a")
    assert found["pictures/scan-p.png"] == ("picture", "scan-p", "scan-p.nii.gz", "1", "series of scan-p")
    assert found["volumes/scan-d.nii.gz"][2] == "'=odd/name.nii"  # no formula
    written = {name for name in files_of(exported) if name.startswith(("volumes/", "pictures/"))}
    assert {name for name in written if not name.endswith(".json")} == set(found)


def test_each_medium_says_its_licence_its_files_and_its_exact_affine(exported):
    told = {row["key"]: row for row in map(json.loads, (exported / "media.jsonl").read_text().splitlines())}
    assert list(told) == ["scan-a", "scan-b", "scan-c", "scan-d", "scan-p"]
    assert np.array_equal(told["scan-b"]["affine"], small_media()[1].content.affine)
    for row in told.values():
        assert (row["terms_id"], row["attribution"]) == ("cc-by", "Nobody & Co")
        for file in row["files"].values():
            data = (exported / file["name"]).read_bytes()
            assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    manifest = json.loads((exported / "manifest.json").read_bytes())
    assert manifest["licences"] == {"cc-by": 5}
    assert manifest["counts"]["media"] == {"in": 5, "written": 5, "kept_back": {}}
    counts = manifest["counts"]["examples"]
    assert counts["written"] == 0
    assert counts["in"] == counts["kept_back"]["form.no_place"] > 20
    assert list(manifest["noted"].values()) == [1]  # scan-c, whose grid is sheared
    assert "of every medium" in (exported / "README.md").read_text()


def test_a_picture_leaves_as_it_is_stored(exported):
    assert (exported / "pictures/scan-p.png").read_bytes() == small_media()[4].content.data


def test_a_de_identified_source_is_named_by_its_token_alone(tmp_path):
    media = [scan_medium("tok-1", phantom(5), key_id="12ab34cd", fetched_object="")]
    release = scan_release(tmp_path, media)
    export("nifti", release.url, str(tmp_path / "to"))
    assert index_of(tmp_path / "to") == [
        {"file": "volumes/tok-1.nii.gz", "kind": "volume", "key": "tok-1", "split": "train", "source": "tok-1",
         "objects": "", "series": "", "withheld": ""}
    ]  # fmt: skip
    written = b"".join(files_of(tmp_path / "to").values())
    assert b"series of" not in written


def test_what_terms_or_states_forbid_stays_back(tmp_path):
    media = small_media()
    media[0] = scan_medium("scan-a", phantom(1), terms_id="credentialed")
    release = scan_release(tmp_path, media)
    job.overlay(f"{release.url}", ["medium:scan-b"], state="withheld", reason="blurred", by="curator")
    manifest = export("nifti", str(tmp_path / "build"), str(tmp_path / "to"))
    assert manifest["counts"]["media"] == {
        "in": 5, "written": 3, "kept_back": {"terms.credentialed": 1, "withheld": 1},
    }  # fmt: skip
    told = b"\n".join(data + name.encode() for name, data in files_of(tmp_path / "to").items())
    assert b"scan-c" in told
    assert b"scan-a" not in told
    assert b"scan-b" not in told


@pytest.mark.parametrize("form", ["nifti", "m3d", "radfm"])
def test_private_scans_go_back_only_when_they_were_declared_public(form, tmp_path):
    changed = replace(scan_medium("scan-o", phantom(2), terms_id="private"), transforms=("resample(1,1,1)",))
    hidden = scan_medium("scan-h", phantom(1), terms_id="private", key_id="12ab34cd", fetched_object="")
    release = scan_release(tmp_path, [changed, hidden])
    manifest = export(form, release.url, str(tmp_path / "to"))
    assert manifest["counts"]["media"] == {"in": 2, "written": 1, "kept_back": {"terms.private": 1}}
    assert manifest["licences"] == {"private": 1}
    told = b"\n".join(data + name.encode() for name, data in files_of(tmp_path / "to").items())
    assert b"scan-o" in told
    assert b"scan-h" not in told
    with pytest.raises(GateError, match="terms"):
        publish(release, str(tmp_path / "published"))


def test_one_split_leaves_alone_and_nothing_at_all_is_a_failed_gate(tmp_path):
    release = scan_release(tmp_path, small_media(), splits=("train", "test"))
    manifest = export("nifti", release.url, str(tmp_path / "test"), split="test")
    assert {row["key"] for row in index_of(tmp_path / "test")} == {"scan-b", "scan-d"}
    assert manifest["counts"]["media"]["in"] == 2
    private = scan_release(tmp_path / "private", [scan_medium("scan-x", phantom(1), terms_id="unknown")])
    with pytest.raises(GateError, match="may leave as nifti"):
        export("nifti", private.url, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_the_same_release_gives_the_same_bytes(release, exported, tmp_path):
    export("nifti", release.url, str(tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(exported)


def test_a_grid_is_sheared_when_its_axes_are_not_at_right_angles():
    turn = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert not is_sheared(turn @ PLAIN)
    assert is_sheared(SHEARED)


def test_what_nifti_cannot_hold_is_refused(tmp_path):
    long = Volume(np.zeros((1, 1, 40_000), np.uint8), np.eye(4))
    with (tmp_path / "x").open("wb") as file, pytest.raises(Refused, match=r"nifti\.size"):
        write_nifti([long], file)
    with (tmp_path / "x").open("wb") as file, pytest.raises(ValueError, match="one shape"):
        write_nifti([phantom(1), phantom(2, "uint8")], file)


def test_what_a_policy_finds_unfit_to_train_on_goes_back_and_what_a_curator_withholds_stays(tmp_path):
    release = scan_release(tmp_path, small_media())
    states = [
        {"scope": "medium", "id": key, "state": "withheld", "reason": reason, "by": by}
        for key, reason, by in (("scan-a", "size.side", "rule"), ("scan-b", "wrong side", "curator"))
    ]
    release.store.write_table("0001/states.parquet", pa.Table.from_pylist(states, schema=STATE))
    pinned = {"states_sha256": sha256_hex(release.store.read("0001/states.parquet"))}
    release.store.write("0001/release.json", json.dumps(release.facts | pinned).encode())
    export("nifti", release.url, str(tmp_path / "to"))
    told = {row["key"]: row["withheld"] for row in index_of(tmp_path / "to")}
    assert told["scan-a"] == "size.side"
    assert "scan-b" not in told
    export("radfm", release.url, str(tmp_path / "other"))
    assert "scan-a" not in (tmp_path / "other" / "media.jsonl").read_text()
