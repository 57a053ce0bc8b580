"""Imports of M3D's and RadFM's folders: ours come back whole, those of others by what the user states."""

import csv
import json
import os
import pickle
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy import sparse
from tests.pipelines.forms import files_of
from tests.pipelines.scan_builds import OBLIQUE, PLAIN, TASKS, layer, phantom, scan_medium, scan_release, small_media
from tests.pipelines.test_export_m3d import lps_xyz, media
from tests.pipelines.test_import import run
from tests.sources import picture_bytes

from medloom.connectors import volumes
from medloom.connectors.nrrd_writing import write_segmentation
from medloom.pipelines.export import export
from medloom.pipelines.import_ import import_
from medloom.pipelines.imports.scans_folder import Geometry, layered, stated_geometry
from medloom.pipelines.tasks.region_questions import RegionQuestions
from medloom.schemas.errors import ConfigError, GateError
from medloom.schemas.release import Release
from medloom.schemas.volume import Label, Volume, orientation_of

STATED = {"spacing_mm": "2,0.75,0.5", "orientation": "LPS"}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    return scan_release(tmp_path_factory.mktemp("scans"), media(), tasks=(*TASKS, RegionQuestions()))


@pytest.fixture(scope="module", params=["m3d", "radfm"])
def back(request, release, tmp_path_factory) -> tuple[str, Path]:
    """A form, and what came of exporting a release in it and importing that."""
    folder = tmp_path_factory.mktemp("back")
    export(request.param, release.url, str(folder / "there"))
    _, refused = run(request.param, folder / "there", folder / "back")
    assert refused == []
    return request.param, folder / "back"


def said_in(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "scans/SOURCES.json").read_bytes())


def masks_of(seg: tuple[Volume, ...] | list[Volume]) -> dict[str, np.ndarray]:
    """Where each class is, as (X, Y, Z) to the left, posterior and superior."""
    return {
        f"{label.side} {label.name}".strip(): lps_xyz(one) == value
        for one in seg
        for value, label in one.labels.items()
    }


def test_voxels_types_and_places_come_back(back):
    _, folder = back
    expected = [m for m in media() if m.key != "scan-p"]
    found = {path.parent.name: path for path in (folder / "scans").rglob("*.nii.gz")}
    assert set(found) == {m.key for m in expected}
    for medium in expected:
        (volume,) = volumes.read_volumes(found[medium.key], "nifti.gz")
        assert volume.array.dtype == medium.content.array.dtype
        assert np.array_equal(lps_xyz(volume), lps_xyz(medium.content))
        assert np.abs(volume.canonical().affine - medium.content.canonical().affine).max() < 1e-4


def test_masks_come_back_with_every_class_that_was_labelled(back):
    form, folder = back
    found = {path.parent.name: path for path in (folder / "scans").rglob("*.seg.nrrd")}
    assert set(found) == ({"scan-a", "scan-b", "scan-f"} if form == "m3d" else set())
    for key, path in found.items():
        medium = next(m for m in media() if m.key == key)
        layers = volumes.read_labels(path, "nrrd")
        assert len(layers) == len(medium.seg)
        ours, theirs = masks_of(layers), masks_of(medium.seg)
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_reports_terms_and_questions_come_back(back, release):
    form, folder = back
    said = said_in(folder)
    asked = {}
    for row in release.builds()[0].examples().to_pylist():
        question, answer = (turn["parts"][-1]["text"] for turn in row["turns"])
        asked.setdefault(row["media"][0], {}).setdefault(row["task"], set()).add((question, answer))
    for medium in media():
        (path,) = [path for path in said if path.startswith(medium.key) and not path.endswith(".nrrd")] or [""]
        if form == "m3d" and medium.key == "scan-p":
            assert path == ""
            continue
        path = path or next(path for path in said if "scan-p" in path)
        assert said[path]["text"] == medium.text
        assert (said[path]["terms_id"], said[path]["attribution"]) == ("cc-by", "Nobody & Co")
        questions = {(q["question"], q["answer"]) for q in said[path]["questions"]}
        if form == "m3d":
            lost = asked[medium.key].get("referring_segmentation", set()) - questions
            assert bool(lost) == (medium.key == "scan-b")
            assert all("liver tumor" in answer for _, answer in lost)  # which its liver covers
            assert questions >= asked[medium.key]["header_vqa"] | asked[medium.key].get("region_vqa", set())
            masks = {q["mask"]["name"] for q in said[path]["questions"] if "mask" in q}
            assert masks <= {label.name for seg in medium.seg for label in seg.labels.values()}
            assert bool(masks) == bool(medium.seg)
        else:
            assert questions >= asked[medium.key].get("region_vqa", set())


def test_the_same_folder_gives_the_same_bytes(back, release, tmp_path):
    form, folder = back
    export(form, release.url, str(tmp_path / "there"))
    import_(form, str(tmp_path / "there"), str(tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(folder)


def foreign_set(folder: Path, **more: Any) -> np.ndarray:
    """Write a set as M3D's own code does; return its image, (X, Y, Z), and keep masks that overlap."""
    image = np.random.default_rng(5).normal(0, 1, (6, 7, 5)).astype(np.float32)
    masks = np.zeros((3, 6, 7, 5), np.int32)
    masks[0, 1:5, 1:5, 1:4] = masks[1, 2:4, 2:4, 2:3] = 1  # class 2 within class 1, class 3 empty
    case = folder / "0003/case1"
    case.mkdir(parents=True)
    np.save(case / "image.npy", image[None])
    sparse.save_npz(case / f"mask_{masks.shape}.npz", sparse.csr_matrix(masks.reshape(3, -1)))
    listed = {
        "name": "x", "labels": {"0": "background", "1": "Kidney_L", "2": "tumour", "3": "gall_bladder"},
        "train": [{"image": "/home/they/M3D_Seg/0003/case1/image.npy",
                   "label": f"/home/they/M3D_Seg/0003/case1/mask_{masks.shape}.npz"}], "test": [], **more,
    }  # fmt: skip
    (folder / "0003/0003.json").write_text(json.dumps(listed))
    return image


def test_a_set_of_others_is_read_by_what_the_user_states(tmp_path):
    image = foreign_set(tmp_path / "in")
    done = import_("m3d", str(tmp_path / "in"), str(tmp_path / "to"), settings=STATED)
    assert done["counts"] == {
        "masks": {"in": 1, "made": 1, "refused": {}}, "volume": {"in": 1, "made": 1, "refused": {}},
    }  # fmt: skip
    (path,) = (tmp_path / "to/scans").rglob("*.nii.gz")
    read = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(read), image.transpose(2, 1, 0))
    assert read.GetSpacing() == pytest.approx((0.5, 0.75, 2.0))
    assert read.GetDirection() == pytest.approx(np.eye(3).ravel())
    layers = volumes.read_labels(path.with_name(path.name.replace(".nii.gz", ".seg.nrrd")), "nrrd")
    assert len(layers) == 2  # two classes overlap
    found = {(label.name, label.side): int((one.array == value).sum())
             for one in layers for value, label in one.labels.items()}  # fmt: skip
    assert found == {("kidney", "left"): 48, ("tumor", ""): 4, ("gallbladder", ""): 0}
    assert said_in(tmp_path / "to")[f"{path.parent.name}/{path.name}"] == {"split": "train"}


@pytest.mark.parametrize("form", ["m3d", "radfm"])
def test_nothing_is_read_where_nobody_says_left_from_right(form, tmp_path):
    foreign_set(tmp_path / "in")
    np.save(tmp_path / "in/stack.npy", np.zeros((1, 3, 4, 5, 6), np.float32))
    (tmp_path / "in/radiology_vqa.csv").write_text("image_path,question,answer\nstack.npy,What?,That.\n")
    if form == "radfm":
        (tmp_path / "in/0003/0003.json").unlink()
    with pytest.raises(ConfigError, match="--set spacing_mm=Z,Y,X --set orientation=LPS"):
        import_(form, str(tmp_path / "in"), str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"orientation": "LPS"}, "three positive distances"), ({"spacing_mm": "1,1,1"}, "one letter of each"),
        ({"spacing_mm": "1,1,0", "orientation": "LPS"}, "three positive"),
        ({"spacing_mm": "1,1,1", "orientation": "LLS"}, "one letter of each"),
        ({"spacing_mm": "1,1,x", "orientation": "LPS"}, "is not tuple"), ({"window": "1"}, "has no parameter 'window'"),
    ],
)  # fmt: skip
def test_half_a_geometry_is_none(settings, says, tmp_path):
    foreign_set(tmp_path / "in")
    with pytest.raises(ConfigError, match=says):
        import_("m3d", str(tmp_path / "in"), str(tmp_path / "to"), settings=settings)
    with pytest.raises(ConfigError, match="nothing that --set could fill"):
        import_("pmc_oa", str(tmp_path / "in"), str(tmp_path / "to"), settings=settings)


def test_every_orientation_is_the_one_that_is_stated():
    for axes in permutations(("LR", "PA", "SI")):
        for letters in product(*axes):
            affine = Geometry((3.0, 2.0, 1.0), "".join(letters)).affine
            assert orientation_of(affine) == "".join(letters)
            assert Volume(np.zeros((1, 1, 1), np.uint8), affine).spacing_mm == (3.0, 2.0, 1.0)
    assert stated_geometry() is None


def test_what_is_wrong_with_one_case_costs_that_case(tmp_path):
    image = foreign_set(tmp_path / "in")
    folder = tmp_path / "in/0003"
    good = json.loads((folder / "0003.json").read_text())["train"][0]
    cases = [good, "nonsense", {"image": "gone/image.npy", "label": "x"}]
    for name, array in {
        "pickled": np.array([{"a": 1}], object), "flat": image, "two": np.stack([image, image]),
        "nan": np.full((1, 2, 2, 2), np.nan, np.float32),
    }.items():  # fmt: skip
        (folder / name).mkdir()
        np.save(folder / name / "image.npy", array, allow_pickle=True)
        cases.append({"image": f"0003/{name}/image.npy", "label": good["label"]})
    (folder / "evil").mkdir()
    (folder / "evil/image.npy").write_bytes(pickle.dumps(_Evil(str(tmp_path / "ran"))))
    cases.append({"image": "0003/evil/image.npy", "label": good["label"]})
    (folder / "cut").mkdir()
    (folder / "cut/image.npy").write_bytes((folder / "case1/image.npy").read_bytes()[:300])
    cases.append({"image": "0003/cut/image.npy", "label": good["label"]})
    (folder / "0003.json").write_text(json.dumps({"labels": ["a", "b", "c"], "train": cases}))
    done = import_("m3d", str(tmp_path / "in"), str(tmp_path / "to"), settings=STATED)
    assert done["counts"]["volume"] == {"in": 9, "made": 1, "refused": {
        "case.form": 1, "npy.corrupt": 3, "npy.not_finite": 1, "npy.shape": 2, "path.missing": 1}}  # fmt: skip
    assert len(list((tmp_path / "to/scans").rglob("*.nii.gz"))) == 1
    assert not (tmp_path / "ran").exists()


class _Evil:
    """What makes a folder when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("mask_(3, 6, 7, 5).npz", lambda: sparse.csr_matrix((3, 209), dtype=np.int32), "masks.shape"),
        ("mask_(3, 6, 5, 7).npz", lambda: sparse.csr_matrix((3, 210), dtype=np.int32), "masks.shape"),
        ("mask_3.npz", lambda: sparse.csr_matrix((3, 210), dtype=np.int32), "masks.shape"),
        ("mask_(2, 6, 7, 5).npz", lambda: sparse.csr_matrix((2, 210), dtype=np.int32), "masks.classes"),
        ("mask_(3, 6, 7, 5).npz", lambda: b"no zip", "masks.corrupt"),
        ("mask_(3, 6, 7, 5).npz", lambda: pickle.dumps("x"), "masks.corrupt"),
        ("mask_(3, 6, 7, 5).npz", lambda: None, "path.missing"),
    ],
)
def test_a_wrong_mask_costs_the_mask_and_not_the_volume(tmp_path, name, make, reason):
    foreign_set(tmp_path / "in", train=[{"image": "case1/image.npy", "label": f"other/{name}"}])
    value, path = make(), tmp_path / "in/0003/other" / name
    path.parent.mkdir()
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif value is not None:
        sparse.save_npz(path, value)
    done = import_("m3d", str(tmp_path / "in"), str(tmp_path / "to"), settings=STATED)
    assert done["counts"]["masks"] == {"in": 1, "made": 0, "refused": {reason: 1}}
    assert done["counts"]["volume"]["made"] == 1
    assert not list((tmp_path / "to").rglob("*.seg.nrrd"))


def write_csv(path: Path, *rows: dict[str, str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_referring_segmentation_of_others_keeps_which_mask_is_meant(tmp_path):
    case = tmp_path / "in/s0001"
    case.mkdir(parents=True)
    array, mask = np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.zeros((3, 4, 5), np.uint8)
    mask[0, 1, 2], mask[2, 3] = 1, 4
    affine = np.diag([1.5, 2, 3, 1.0])
    nibabel.save(nibabel.Nifti1Image(array, affine), case / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, affine), case / "mask.nii.gz")
    row = {"Image": "s0001/ct.nii.gz", "Mask": "s0001/mask.nii.gz", "Mask_ID": "4", "Question_Type": "1",
           "Question": "Which is thick?", "Answer": "It is [SEG], it is thick."}  # fmt: skip
    wrong = [row | {"Answer": "No mask."}, row | {"Answer": "[SEG] [SEG]"}, row | {"Mask_ID": "2"},
             row | {"Question_Type": "2"}, row | {"Image": "s0002/ct.nii.gz"}]  # fmt: skip
    write_csv(tmp_path / "in/M3D_RefSeg.csv", row, row | {"Question_Type": "0", "Mask_ID": "1"}, *wrong)
    counts, refused = run("m3d", tmp_path / "in", tmp_path / "to")
    assert counts["volume"]["made"] == counts["masks"]["made"] == 1
    assert [reason for _, _, reason in refused] == [
        "answer.mask", "answer.mask", "answer.mask", "question.form", "path.missing",
    ]  # fmt: skip
    ((path, said),) = said_in(tmp_path / "to").items()
    assert said["questions"] == [
        {"question": "Which is thick?", "answer": "It is, it is thick.", "type": "reasoning",
         "mask": {"name": "mask 4", "side": ""}},
        {"question": "Which is thick?", "answer": "It is, it is thick.", "type": "description",
         "mask": {"name": "mask 1", "side": ""}},
    ]  # fmt: skip
    (layer_,) = volumes.read_labels(tmp_path / "to/scans" / path.replace(".nii.gz", ".seg.nrrd"), "nrrd")
    assert np.array_equal(layer_.array, mask.transpose(2, 1, 0))


def test_manifests_of_radfm_are_told_apart_by_their_columns(tmp_path):
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    (folder / "images/x.png").write_bytes(picture_bytes(3, "png"))
    stack = np.random.default_rng(1).integers(-5, 90, (2, 1, 4, 5, 6)).repeat(3, axis=1).astype(np.float32)
    np.save(folder / "images/case.npy", stack)
    odd = stack.copy()
    odd[0, 1, 0, 0, 0] += 1
    np.save(folder / "images/odd.npy", odd)
    write_csv(folder / "a.csv", {"image_path": "/gpfs/images/x.png", "question": "What?", "answer": "A lung."},
              {"image_path": "/gpfs/images/case.npy", "question": "Which series?", "answer": "Both."},
              {"image_path": "images/odd.npy", "question": "What?", "answer": "x"})  # fmt: skip
    write_csv(folder / "b.csv", {"image_path": "images/x.png", "disease": "edema", "label": "0"},
              {"image_path": "images/x.png", "disease": "mass", "label": "maybe"})  # fmt: skip
    write_csv(folder / "c.csv", {"image_path": "images/x.png", "label": "mass, nodule"})
    write_csv(folder / "d.csv", {"name": "images/x.png", "type": "plane", "context": "axial"})
    write_csv(folder / "e.csv", {"img_root_dir": "images", "Figure_path": "x.png", "Question": "Who?", "Answer": "It."})
    write_csv(folder / "f.csv", {"path": "images/x.png", "what": "?"})
    (folder / "g.json").write_text(json.dumps([{"npy_path": "images/case.npy", "finding": "F.", "impression": "I."},
                                               {"npy_path": "images/case.npy"}, 7]))  # fmt: skip
    done = import_("radfm", str(folder), str(tmp_path / "to"), settings=STATED)
    said = said_in(tmp_path / "to")
    assert said["images-x/images-x.png"] == {
        "questions": [{"question": "What?", "answer": "A lung."},
                      {"question": "Does this image show edema?", "answer": "No."},
                      {"question": "Who?", "answer": "It."}],
        "findings": ["mass", "nodule"], "plane": "axial",
    }  # fmt: skip
    for number in (1, 2):
        path = f"images-case-series-{number}/images-case-series-{number}.nii.gz"
        assert said[path] == {"text": "F.\nI."}
        image = SimpleITK.ReadImage(str(tmp_path / "to/scans" / path))
        assert np.array_equal(SimpleITK.GetArrayFromImage(image), stack[number - 1, 0].transpose(2, 0, 1))
        assert image.GetSpacing() == pytest.approx((0.5, 0.75, 2.0))
    assert done["counts"]["row"]["refused"] == {
        "npy.channels": 1, "question.many": 1, "row.columns": 1, "row.label": 1,
    }  # fmt: skip
    assert done["counts"]["text"]["refused"] == {"report.empty": 1, "report.form": 1}
    assert (tmp_path / "to/scans/images-x/images-x.png").read_bytes() == picture_bytes(3, "png")


def test_a_folder_without_the_form_leaves_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.json").write_text("[1]")
    for form in ("m3d", "radfm"):
        with pytest.raises(GateError, match="could be read as"):
            import_(form, str(tmp_path / "in"), str(tmp_path / "to"))
        assert not (tmp_path / "to").exists()


def test_classes_share_a_layer_until_they_overlap():
    grid = Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    classes = [np.array(places, int) for places in ([0, 1], [2], [1, 3], [], [3])]
    layers = layered(classes, [Label(x) for x in "abcde"], grid)
    assert [sorted(one.labels) for one in layers] == [[1, 2, 4, 5], [3]]
    flat = [one.array.transpose(2, 1, 0).ravel().tolist() for one in layers]
    assert flat == [[1, 1, 2, 5, 0, 0, 0, 0], [0, 3, 0, 3, 0, 0, 0, 0]]


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE])
def test_a_segmentation_is_read_by_another_library_at_its_place(tmp_path, affine):
    volume = phantom(1, affine=affine)
    one = layer(volume, {1: Label("liver"), 2: Label("kidney", "left")}, (1, 1, 1, 6, 9, 5), (2, 2, 7, 5, 6, 10))
    two = layer(volume, {1: Label("liver tumor")}, (2, 2, 2, 4, 4, 4))
    for name, layers in (("one", [one]), ("two", [one, two])):
        with (tmp_path / f"{name}.seg.nrrd").open("wb") as file:
            write_segmentation(layers, file)
        image = SimpleITK.ReadImage(str(tmp_path / f"{name}.seg.nrrd"))
        array = SimpleITK.GetArrayFromImage(image)
        expected = one.array if name == "one" else np.stack([one.array, two.array], axis=-1)
        assert np.array_equal(array, expected)
        place = image.TransformIndexToPhysicalPoint((3, 2, 1))
        assert place == pytest.approx(tuple((affine @ [3, 2, 1, 1])[:3]), abs=1e-9)
        assert image.GetMetaData("Segment1_Name") == "left kidney"
        ours = volumes.read_labels(tmp_path / f"{name}.seg.nrrd", "nrrd")
        assert [np.array_equal(a.array, b.array) for a, b in zip(ours, layers, strict=True)] == [True] * len(layers)
        assert np.array_equal(ours[0].affine, affine)
    with (tmp_path / "x").open("wb") as file, pytest.raises(ValueError, match="one shape"):
        write_segmentation([one, layer(phantom(1, shape=(3, 4, 5)), {1: Label("x")})], file)


def test_the_terms_of_a_medium_go_with_it(tmp_path):
    release = scan_release(tmp_path, [scan_medium("scan-z", phantom(1), terms_id="cc-by-nc")])
    export("m3d", release.url, str(tmp_path / "there"))
    import_("m3d", str(tmp_path / "there"), str(tmp_path / "back"))
    (said,) = said_in(tmp_path / "back").values()
    assert (said["terms_id"], said["licence"]) == ("cc-by-nc", "CC-BY-NC-4.0")


def test_the_fixtures_hold_what_they_claim():
    assert {m.key for m in media()} - {m.key for m in small_media()} == {"scan-f"}


def test_an_answer_that_is_not_the_choice_of_its_letter_is_refused(tmp_path):
    foreign_set(tmp_path / "in")
    np.save(tmp_path / "in/cap.npy", np.zeros((1, 3, 4, 5), np.float32))
    row = {"Image Path": "cap.npy", "Text": "", "Question Type": "1", "Question": "Which plane?", "Choice A": "axial",
           "Choice B": "coronal", "Choice C": "NA", "Choice D": "",
           "Answer": "coronal", "Answer Choice": "B"}  # fmt: skip
    write_csv(tmp_path / "in/M3D_VQA_train.csv", row, row | {"Answer Choice": "A"}, row | {"Question": " "})
    done = import_("m3d", str(tmp_path / "in"), str(tmp_path / "to"), settings=STATED)
    assert said_in(tmp_path / "to")["cap/cap.nii.gz"]["questions"] == [
        {"question": "Which plane? Choose one and give its letter.\nA. axial\nB. coronal", "answer": "B. coronal",
         "type": "1"}
    ]  # fmt: skip
    assert done["counts"]["question"] == {"in": 3, "made": 1, "refused": {"question.choice": 1, "question.empty": 1}}
