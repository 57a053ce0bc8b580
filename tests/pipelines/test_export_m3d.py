"""Exports in M3D's and RadFM's forms, read as their own code reads them."""

import ast
import csv
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy import sparse
from tests.pipelines.forms import files_of
from tests.pipelines.scan_builds import PLAIN, TASKS, layer, phantom, scan_medium, scan_release, small_media
from tests.sources import picture_bytes

from medloom.pipelines.export import export
from medloom.pipelines.exports.arrays import sparse_masks, write_npy, xyz
from medloom.pipelines.exports.m3d import class_names, vqa_columns
from medloom.pipelines.tasks.region_questions import RegionQuestions
from medloom.schemas.medium import Medium
from medloom.schemas.release import Release
from medloom.schemas.volume import Label, Volume

SPLITS = ("train", "test")
FLIPPED = PLAIN * np.array([-1, -1, 1, 1])  # an LPI-like store: x to the right, y to the front


def media() -> list[Medium]:
    """Those of `small_media`, and one whose voxels run the other way, with a class that no other volume has."""
    volume = phantom(8, affine=FLIPPED)
    labels = {1: Label("spleen"), 2: Label("stomach"), 3: Label("pancreas")}
    seg = layer(volume, labels, (1, 2, 2, 4, 8, 6), (5, 3, 6, 8, 9, 11))
    return [*small_media(), scan_medium("scan-f", volume, seg)]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    tasks = (*TASKS, RegionQuestions())
    return scan_release(tmp_path_factory.mktemp("scans"), media(), tasks=tasks, splits=SPLITS)


@pytest.fixture(scope="module")
def m3d(release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forms") / "m3d"
    export("m3d", release.url, str(folder))
    return folder


@pytest.fixture(scope="module")
def radfm(release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forms") / "radfm"
    export("radfm", release.url, str(folder))
    return folder


def rows_of(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(newline="")))


def lps_xyz(volume: Volume) -> np.ndarray:
    """The voxels as (X, Y, Z) to the left, posterior and superior, by nibabel."""
    image = nibabel.Nifti1Image(volume.array.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]) @ volume.affine)
    return np.asanyarray(nibabel.as_closest_canonical(image).dataobj)[::-1, ::-1]


def m3d_masks(path: Path) -> np.ndarray:
    """What M3D's code makes of a file of masks: the shape stands in the name."""
    shape = ast.literal_eval(path.name.split(".")[-2].split("_")[-1])
    return sparse.load_npz(path).toarray().reshape(shape)


def test_masks_and_images_are_what_m3ds_reader_makes_of_them(m3d):
    listed = json.loads((m3d / "scans/scans.json").read_bytes())
    assert list(listed) == [
        "name", "description", "tensorImageSize", "modality", "labels", "numTrain", "numTest", "train", "test",
    ]  # fmt: skip
    assert listed["modality"] == {"0": "CT", "1": "MR"}
    assert (listed["numTrain"], listed["numTest"]) == (len(listed["train"]), len(listed["test"])) == (1, 2)
    assert listed["labels"]["0"] == "background"
    classes = [listed["labels"][str(i)] for i in range(1, len(listed["labels"]))]
    assert sorted(classes) == ["aorta", "left kidney", "liver", "liver tumor", "pancreas", "spleen", "stomach"]
    for case in (*listed["train"], *listed["test"]):
        medium = next(m for m in media() if m.key == case["image"].split("/")[1])
        image = np.load(m3d / case["image"])
        assert image.dtype == np.float32
        assert np.array_equal(image[0], lps_xyz(medium.content).astype(np.float32))
        masks = m3d_masks(m3d / case["label"])
        assert masks.shape == (len(classes), *image.shape[1:])
        expected = {f"{label.side} {label.name}".strip(): (seg, value)
                    for seg in medium.seg for value, label in seg.labels.items()}  # fmt: skip
        for channel, name in zip(masks, classes, strict=True):
            seg, value = expected.get(name, (None, 0))
            truth = lps_xyz(seg) == value if seg else np.zeros(channel.shape, bool)
            assert np.array_equal(channel, truth.astype(np.int32)), (medium.key, name)


def test_reports_are_listed_by_split_with_a_volume_of_slices(m3d):
    cap = json.loads((m3d / "M3D_Cap.json").read_bytes())
    assert {split: len(rows) for split, rows in cap.items()} == {"train": 2, "test": 3}
    for row in (*cap["train"], *cap["test"]):
        medium = next(m for m in media() if m.key == Path(row["image"]).stem)
        assert (m3d / row["text"]).read_text() == medium.text
        assert np.array_equal(np.load(m3d / row["image"])[0], lps_xyz(medium.content).transpose(2, 1, 0))


def test_questions_have_their_choices_in_columns(m3d):
    rows = [row for split in SPLITS for row in rows_of(m3d / f"M3D_VQA_{split}.csv")]
    assert list(rows[0]) == ["Image Path", "Text", "Question Type", "Question", "Choice A", "Choice B", "Choice C",
                             "Choice D", "Answer", "Answer Choice"]  # fmt: skip
    closed = [row for row in rows if row["Answer Choice"] != "NA"]
    assert 10 < len(closed) < len(rows)
    for row in rows:
        assert (m3d / row["Image Path"]).exists()
        assert row["Text"].startswith("CT of scan-")
        assert "\n" not in row["Question"]
        assert row["Question Type"] in ("", "1", "3", "5")
        if row in closed:
            assert row[f"Choice {row['Answer Choice']}"] == row["Answer"]
    assert {row["Answer"] for row in closed if row["Question Type"] == "1"} <= {"axial", "coronal", "sagittal"}
    assert {row["Answer"] for row in closed if row["Question Type"] == "5"} <= {"left", "right"}


def test_referring_segmentation_points_at_the_mask_that_it_means(m3d):
    rows = rows_of(m3d / "M3D_RefSeg.csv") + rows_of(m3d / "M3D_RefSeg_test.csv")
    assert list(rows[0]) == ["Image", "Mask", "Mask_ID", "Question_Type", "Question", "Answer"]
    assert {row["Question_Type"] for row in rows} == {"0", "1"}
    for row in rows:
        medium = next(m for m in media() if m.key == row["Image"].split("/")[1])
        assert row["Answer"].count("[SEG]") == 1
        named = re.search(r"\b(left kidney|liver tumor|liver|spleen|aorta|stomach|pancreas)\b", row["Answer"])[1]
        (where,) = [
            seg.array == value
            for seg in medium.seg
            for value, label in seg.labels.items()
            if f"{label.side} {label.name}".strip() == named
        ]
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(m3d / row["Mask"])))
        assert np.array_equal(mask == int(row["Mask_ID"]), where)
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(m3d / row["Image"])))
        assert np.array_equal(image, medium.content.array)
        assert row["Mask_ID"] in json.loads((m3d / row["Mask"]).with_name("text.json").read_bytes())


def test_what_a_class_hides_behind_another_is_kept_back(m3d):
    counts = json.loads((m3d / "manifest.json").read_bytes())["counts"]["examples"]
    assert counts["kept_back"]["masks.overlap"] > 0  # the tumor of scan-b lies within its liver
    assert counts["in"] == counts["written"] + sum(counts["kept_back"].values())


def test_what_m3d_drops_stands_beside_it(m3d):
    told = {row["key"]: row for row in map(json.loads, (m3d / "media.jsonl").read_text().splitlines())}
    assert "scan-p" not in told
    for medium in media():
        if medium.key in told:
            row = told[medium.key]
            assert np.array_equal(row["affine"], medium.content.affine)
            assert row["dtype"] == medium.content.array.dtype.name
            at = lps_xyz(medium.content).shape
            corner = np.array(row["npy_affine"]) @ [0, 0, 0, 1]
            assert np.array(row["npy_affine"])[0, 0] > 0  # to the left
            assert np.allclose(sorted(corner[:1]), [min(
                (medium.content.affine @ [x, 0, 0, 1])[0] for x in (0, at[0] - 1))], atol=1)  # fmt: skip
    noted = json.loads((m3d / "manifest.json").read_bytes())["noted"]
    # scan-a has not tumor, stomach, pancreas; scan-b stomach, pancreas; scan-f liver, kidney, aorta, tumor
    assert noted == {"classes that were not labelled in their volume, empty in its mask": 9}


@pytest.mark.parametrize("form", ["m3d", "radfm"])
def test_the_same_release_gives_the_same_bytes(release, m3d, radfm, form, tmp_path):
    export(form, release.url, str(tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(m3d if form == "m3d" else radfm)


def test_one_split_has_the_classes_of_all(release, tmp_path):
    export("m3d", release.url, str(tmp_path / "train"), split="train")
    listed = json.loads((tmp_path / "train/scans/scans.json").read_bytes())
    assert len(listed["labels"]) == 8
    assert [len(listed[part]) for part in ("train", "test")] == [1, 0]


def test_radfm_has_the_columns_that_its_classes_read(radfm):
    columns = {
        "radiology_vqa": ["image_path", "question", "answer"], "radio_modality": ["image_path", "answer"],
        "MedPix_single": ["name", "type", "context"], "vqa": ["img_root_dir", "Figure_path", "Question", "Answer"],
    }  # fmt: skip
    for name, expected in columns.items():
        found = [rows_of(path) for split in SPLITS if (path := radfm / f"{name}_{split}.csv").exists()]
        assert found
        assert all(list(row) == expected for rows in found for row in rows)
    for row in rows_of(radfm / "radio_modality_train.csv"):
        key = Path(row["image_path"]).name.removesuffix(".nii.gz")
        medium = next(m for m in media() if m.key == key)
        image = SimpleITK.ReadImage(str(radfm / row["image_path"]))
        assert np.array_equal(SimpleITK.GetArrayFromImage(image), medium.content.array)
        assert {"CT": "computed tomography (CT)", "MR": "magnetic resonance imaging (MRI)"}[medium.modality] == (
            row["answer"]
        )
    picture = rows_of(radfm / "MedPix_single_train.csv")
    assert {(row["type"], row["context"]) for row in picture} == {
        ("caption", "CT of scan-p, axial plane."), ("modality", "radiography (X-ray)"),
    }  # fmt: skip
    for row in rows_of(radfm / "vqa_train.csv"):
        assert (radfm / row["img_root_dir"] / row["Figure_path"]).read_bytes() == picture_bytes(7, "png")


def test_a_sheared_grid_which_itk_refuses_is_kept_out_of_radfms_modalities(radfm):
    rows = rows_of(radfm / "radio_modality_train.csv") + rows_of(radfm / "radio_modality_test.csv")
    assert {Path(row["image_path"]).name for row in rows} == {f"scan-{x}.nii.gz" for x in "abdf"}
    counts = json.loads((radfm / "manifest.json").read_bytes())["counts"]["examples"]
    assert counts["kept_back"]["grid.sheared"] == 1
    assert counts["in"] == counts["written"] + sum(counts["kept_back"].values())


def test_radfm_stacks_three_channels_of_rows_columns_and_slices(radfm):
    (report,) = [r for r in json.loads((radfm / "radiology_article_npy_test.json").read_bytes())
                 if "scan-f" in r["npy_path"]]  # fmt: skip
    assert list(report) == ["pre", "pat", "npy_path", "finding", "impression"]
    assert report["finding"] == "CT of scan-f, axial plane."
    stack = np.load(radfm / report["npy_path"])
    truth = lps_xyz(media()[-1].content).transpose(1, 0, 2)  # rows to posterior, columns to the left, slices up
    assert stack.shape == (1, 3, *truth.shape)
    assert all(np.array_equal(channel, truth) for channel in stack[0])


def test_a_stack_is_written_in_slabs_like_numpy_writes_it(tmp_path):
    array = np.random.default_rng(0).integers(-5, 900, (3, 2000, 800), np.int16)
    with (tmp_path / "a.npy").open("wb") as file:
        write_npy(file, xyz(array), lead=(1, 2))
    expected = np.broadcast_to(xyz(array), (1, 2, 800, 2000, 3)).astype(np.float32)
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected)


def test_a_sparse_row_holds_the_voxels_of_its_value_alone(tmp_path):
    rng = np.random.default_rng(3)
    layers = [Volume(rng.integers(0, 5, (4, 5, 6)).astype(dtype), np.eye(4), kind="label") for dtype in "BH"]
    channels = {(0, 1): 2, (0, 4): 0, (1, 3): 3}
    path = tmp_path / "mask_(5, 6, 5, 4).npz"
    path.write_bytes(sparse_masks(layers, channels, 5))
    masks = m3d_masks(path)
    for channel in range(5):
        of = [place for place, at in channels.items() if at == channel]
        truth = layers[of[0][0]].array.transpose(2, 1, 0) == of[0][1] if of else np.zeros((6, 5, 4))
        assert np.array_equal(masks[channel], truth)


def test_classes_that_are_called_the_same_are_numbered():
    rows = [{"side": side, "name": name, "value": i} for i, (side, name) in enumerate(
        [("left", "kidney"), ("", "tumor"), ("", "tumor"), ("", "")])]  # fmt: skip
    assert class_names(rows) == ["left kidney", "tumor", "tumor 2", "class 3"]


def test_a_question_with_two_choices_fills_the_rest_with_na():
    turns = [
        {"role": "user", "parts": [{"text": "", "media": "k"},
                                   {"text": "Which? Choose one and give its letter.\nA. left\nB. right"}]},
        {"role": "assistant", "parts": [{"text": "B. right"}]},
    ]  # fmt: skip
    row = vqa_columns({"task": "region_vqa", "turns": turns, "labels": ["right"]}, "i", "t")
    assert list(row.values()) == ["i", "t", "5", "Which?", "left", "right", "NA", "NA", "right", "B"]
