"""The sets with masks of many files, of slices, or of several raters: each as its publishers lay it out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from tests.pipelines import set_skeletons as sk
from tests.pipelines.test_segmentation_sets import read, reasons, rows_of, sources, tables, voxels

from medloom.pipelines.sources.cases import Cases
from medloom.schemas.b2nd import decode

BLOCK = np.s_[2:5, 3:8, 4:11]  # 3 x 5 x 7 = 105 voxels
OTHER = np.s_[5:7, 3:8, 4:11]  # 70, apart from it


def drawn(*blocks) -> np.ndarray:
    made = np.zeros(sk.SHAPE, np.uint8)
    for block in blocks:
        made[block] = 1
    return made


def only(folder: Path, name: str) -> Cases:
    (source,) = sources(folder)
    assert source.name == name
    return source


def refused(found) -> dict[str, str]:
    return {row["url"].partition("/")[2]: row["reason"] for row in found.refused}


def chaos(root: Path) -> None:
    def series(folder: Path, case: int, modality: str, names: list[str]) -> None:
        for k, name in enumerate(names):
            sk.write_dicom(folder / name, sk.values(case)[k], sk.affine(case), k, series=f"1.2.9.{folder.name}.{case}"
                           if folder.name.isdigit() else f"1.2.9.{case}", modality=modality)  # fmt: skip

    for case, number in enumerate(("1", "2", "5")):
        ct = root / "CHAOS_Train_Sets/Train_Sets/CT" / number
        # The file order runs from the head down: slice 0 of the order is the highest.
        names = [f"i{7 - k:04d},0000b.dcm" for k in range(8)]
        series(ct / "DICOM_anon", case, "CT", names)
        for k in range(8) if case != 1 else ():
            plane = drawn(BLOCK)[7 - k] * 255
            sk.write_png(ct / f"Ground/liver_GT_{k:03d}.png", plane[:, :-2] if case == 2 else plane)
    mr = root / "CHAOS_Train_Sets/Train_Sets/MR/1"
    inside, outside = ([f"IMG-0004-{2 * k + i:05d}" for k in range(8)] for i in (2, 1))
    series(mr / "T1DUAL/DICOM_anon/InPhase", 3, "MR", [f"{n}.dcm" for n in inside])
    series(mr / "T1DUAL/DICOM_anon/OutPhase", 4, "MR", [f"{n}.dcm" for n in outside])
    series(mr / "T2SPIR/DICOM_anon", 5, "MR", [f"IMG-0002-{k + 1:05d}.dcm" for k in range(8)])
    values = np.zeros(sk.SHAPE, np.uint8)
    values[BLOCK], values[OTHER] = 126, 189
    values[0, 0, :3], values[1, 1, :2] = 63, 252
    for k in range(8):
        sk.write_png(mr / f"T1DUAL/Ground/{inside[k]}.png", values[k])
        sk.write_png(mr / f"T2SPIR/Ground/IMG-0002-{k + 1:05d}.png", values[k])
    sk.write_beside(root, "CHAOS_Train_Sets/readme.txt", "CHAOS_Train_Sets/Train_Sets/CT/1/Ground/liver_GT_000.png")


def test_chaos_pairs_slices_of_mr_by_name_and_of_ct_by_order(tmp_path):
    chaos(tmp_path / "CHAOS")
    source = only(tmp_path, "chaos")
    found = tables(source)
    mr = ["chaos-mr-1-t1-inphase", "chaos-mr-1-t1-outphase", "chaos-mr-1-t2"]
    assert sorted(found.groups) == ["chaos-ct-1", "chaos-ct-2", "chaos-ct-5", *mr]
    assert len({found.groups[unit] for unit in mr}) == 1
    assert len(set(found.groups.values())) == 4
    assert found.splits == {}
    assert refused(found) == {
        "CHAOS_Train_Sets/Train_Sets/CT/1/Ground/._liver_GT_000.png": "source.hidden_file",
        "CHAOS_Train_Sets/readme.txt": "set.extra_file",
    }
    assert {unit: row["modality"] for unit, row in rows_of(found).items()} == {
        unit: "CT" if "ct" in unit else "MR" for unit in found.groups
    }
    ct = read(source, found, "chaos-ct-1")
    assert not ct.refused
    np.testing.assert_array_equal(decode(ct.samples[0].members["seg.b2nd"].data)[0], drawn(BLOCK))
    np.testing.assert_array_equal(decode(ct.samples[0].members["ct.b2nd"].data), sk.values(0))
    assert voxels(ct.samples[0]) == {("liver", ""): 105}
    assert reasons(read(source, found, "chaos-ct-2")) == ["seg.missing"]
    assert reasons(read(source, found, "chaos-ct-5")) == ["seg.grid"]
    organs = {("kidney", "right"): 105, ("kidney", "left"): 70, ("liver", ""): 3, ("spleen", ""): 2}
    for case, unit in enumerate(mr, 3):
        made = read(source, found, unit)
        assert not made.refused
        assert voxels(made.samples[0]) == organs
        np.testing.assert_array_equal(decode(made.samples[0].members["ct.b2nd"].data), sk.values(case))


def han_seg(root: Path) -> None:
    for case, number in enumerate(("01", "02", "03")):
        folder, place = root / f"set_1/case_{number}", sk.affine(case)
        sk.write(folder / f"case_{number}_IMG_CT.nrrd", sk.values(case), place)
        if case == 0:
            sk.write(folder / f"case_{number}_IMG_MR_T1.nrrd", sk.values(9), sk.affine(9))
        for organ, block in (("A_Carotid_L", BLOCK), ("Glnd_Thyroid", OTHER)) if case != 1 else ():
            mask, at = drawn(block), place
            if organ == "A_Carotid_L":  # only the voxels around it
                mask, at = mask[1:6, 2:10, 3:13], place @ translation(3, 2, 1)
            if case == 2 and organ == "Glnd_Thyroid":  # twice as fine
                mask, at = (
                    np.repeat(np.repeat(np.repeat(mask, 2, 0), 2, 1), 2, 2),
                    place @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]),
                )
            sk.write(folder / f"case_{number}_OAR_{organ}.seg.nrrd", mask, at)
    sk.write_beside(root, "set_1/case_01/notes.txt", "set_1/case_01/case_01_OAR_Glnd_Thyroid.seg.nrrd")


def translation(x: float, y: float, z: float) -> np.ndarray:
    made = np.eye(4)
    made[:3, 3] = x, y, z
    return made


def test_han_seg_lays_organs_of_other_extents_on_the_ct(tmp_path):
    han_seg(tmp_path / "HaN-Seg")
    source = only(tmp_path, "han-seg")
    found = tables(source)
    assert sorted(found.groups) == ["han-seg-01-ct", "han-seg-01-mr", "han-seg-02-ct", "han-seg-03-ct"]
    assert found.groups["han-seg-01-ct"] == found.groups["han-seg-01-mr"]
    assert sorted(refused(found).values()) == ["set.extra_file", "source.hidden_file"]
    for unit in ("han-seg-01-ct", "han-seg-03-ct"):
        made = read(source, found, unit)
        assert not made.refused
        assert voxels(made.samples[0]) == {("carotid artery", "left"): 105, ("thyroid gland", ""): 70}
        layer = decode(made.samples[0].members["seg.b2nd"].data)[0]
        np.testing.assert_array_equal(layer != 0, drawn(BLOCK, OTHER) != 0)
    assert reasons(read(source, found, "han-seg-02-ct")) == ["seg.missing"]
    mr = read(source, found, "han-seg-01-mr")
    assert (mr.refused, mr.samples[0].layout, mr.samples[0].columns["modality"]) == ([], "volume", "MR")


def test_a_mask_of_han_seg_that_reaches_out_of_the_ct_is_refused(tmp_path):
    han_seg(tmp_path / "HaN-Seg")
    path = tmp_path / "HaN-Seg/set_1/case_01/case_01_OAR_Glnd_Thyroid.seg.nrrd"
    sk.write(path, drawn(OTHER), sk.affine(0) @ translation(8, 0, 0))
    source = only(tmp_path, "han-seg")
    made = read(source, tables(source), "han-seg-01-ct")
    assert reasons(made) == ["seg.grid"]
    assert voxels(made.samples[0]) == {("carotid artery", "left"): 105}


def test_the_masks_of_pancreas_ct_are_turned_as_their_recipe_says(tmp_path):
    root = tmp_path / "Pancreas-CT-set"
    for case, number in enumerate(("0001", "0002", "0003")):
        series = f"1.2.826.0.1.{case}"
        for k in range(8):
            folder = root / f"Pancreas-CT/PANCREAS_{number}/1.2.3/{series}"
            sk.write_dicom(folder / f"1-{k + 1:03d}.dcm", sk.values(case)[k], sk.affine(case), k, series=series)
        if case == 1:
            continue
        # dcm2niix stores rows from back to front; the label's rows are the other way round again: those of the DICOM.
        dcm2niix = sk.affine(case) @ np.array([[1, 0, 0, 0], [0, -1, 0, 11], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        label = drawn(BLOCK)[:6] if case == 2 else drawn(BLOCK)
        sk.write(root / f"TCIA_pancreas_labels-02-05-2017/label{number}.nii.gz", label, dcm2niix)
    sk.write_beside(root, "Pancreas-CT/a.txt", "TCIA_pancreas_labels-02-05-2017/label0001.nii.gz")
    source = only(tmp_path, "pancreas-ct")
    found = tables(source)
    assert sorted(found.groups) == ["pancreas-ct-0001", "pancreas-ct-0002", "pancreas-ct-0003"]
    assert sorted(refused(found).values()) == ["set.extra_file", "source.hidden_file"]
    made = read(source, found, "pancreas-ct-0001")
    assert not made.refused
    np.testing.assert_array_equal(decode(made.samples[0].members["ct.b2nd"].data), sk.values(0))
    np.testing.assert_array_equal(decode(made.samples[0].members["seg.b2nd"].data)[0], drawn(BLOCK))
    assert reasons(read(source, found, "pancreas-ct-0002")) == ["seg.missing"]
    assert reasons(read(source, found, "pancreas-ct-0003")) == ["seg.grid"]


def ircadb(root: Path) -> None:
    for case, number in enumerate((1, 2, 3)):
        folder = root / f"3Dircadb1/3Dircadb1.{number}"
        masks = {"liver": drawn(BLOCK, OTHER), "livertumor01": drawn(OTHER)}
        masks |= {"leftkidney": drawn(np.s_[0, 0, :5]), "leftsurrenaltumor": drawn(np.s_[1, 0, :2]),
                  "venacava": drawn(np.s_[0, 11, 2:4]), "liverkyst": drawn()}  # fmt: skip
        for k in range(8):
            name = f"image_{k + 4}"  # image_9 is before image_10
            series = f"1.2.5.{case}"
            plane = sk.values(case)[k]
            sk.write_dicom(folder / f"PATIENT_DICOM/{name}", plane, sk.affine(case), k, series=series)
            for organ, mask in masks.items() if case != 1 else ():
                plane = mask[k, :, :-1] if case == 2 and organ == "liver" else mask[k]
                path = folder / f"MASKS_DICOM/{organ}/{name}"
                sk.write_dicom(path, plane * np.uint8(255), sk.affine(8), k, series=f"1.2.6.{case}.{len(organ)}")
            sk.write_dicom(folder / f"LABELLED_DICOM/{name}", sk.values(case)[k], sk.affine(case), k, series="1.2.7")
    sk.write_beside(root, "3Dircadb1/readme.txt", "3Dircadb1/3Dircadb1.1/MASKS_DICOM/liver/image_4")


@pytest.mark.parametrize("kept", ["unpacked", "doubled", "zipped", "zipped twice"])
def test_ircadb_keeps_structures_that_overlap_and_its_own_words(tmp_path, kept):
    ircadb(tmp_path / "IRCADb")
    for part in ("PATIENT_DICOM", "MASKS_DICOM") if kept != "unpacked" else ():
        for number in (1, 2, 3):
            folder = tmp_path / f"IRCADb/3Dircadb1/3Dircadb1.{number}/{part}"
            if not folder.exists():
                continue
            if kept == "doubled":
                folder.rename(folder.with_name("moved"))
                folder.mkdir()
                folder.with_name("moved").rename(folder / part)
            else:
                shutil.make_archive(str(folder), "zip", folder.parent, part)
                shutil.rmtree(folder)
    if kept == "zipped twice":
        shutil.make_archive(str(tmp_path / "IRCADb/3Dircadb1"), "zip", tmp_path / "IRCADb", "3Dircadb1")
        shutil.rmtree(tmp_path / "IRCADb/3Dircadb1")
    source = only(tmp_path, "3d-ircadb-01")
    found = tables(source)
    assert sorted(found.groups) == ["3d-ircadb-01-1", "3d-ircadb-01-2", "3d-ircadb-01-3"]
    assert sorted(set(refused(found).values())) == ["set.extra_file", "set.unused", "source.hidden_file"]
    made = read(source, found, "3d-ircadb-01-1")
    assert not made.refused
    assert voxels(made.samples[0]) == {
        ("liver", ""): 175, ("liver tumor", ""): 70, ("kidney", "left"): 5, ("adrenal gland tumor", "left"): 2,
        ("inferior vena cava", ""): 2, ("liver cyst", ""): 0,
    }  # fmt: skip
    assert decode(made.samples[0].members["seg.b2nd"].data).shape == (2, *sk.SHAPE)
    np.testing.assert_array_equal(decode(made.samples[0].members["ct.b2nd"].data), sk.values(0))
    assert reasons(read(source, found, "3d-ircadb-01-2")) == ["seg.missing"]
    third = read(source, found, "3d-ircadb-01-3")
    assert reasons(third) == ["seg.grid"]
    assert ("liver", "") not in voxels(third.samples[0])
    assert voxels(third.samples[0])["liver tumor", ""] == 70


def test_totalsegmentator_has_a_file_a_class_and_a_table_of_splits(tmp_path):
    root = tmp_path / "Totalsegmentator_dataset"
    masks = {"kidney_left": drawn(BLOCK), "rib_right_12": drawn(OTHER), "heart": drawn(np.s_[0, 0, :4]),
             "vertebrae_L1": drawn()}  # fmt: skip
    for case, number in enumerate(("s0000", "s0001", "s0002")):
        sk.write(root / number / "ct.nii.gz", sk.values(case), sk.affine(case))
        for name, mask in masks.items() if case != 1 else ():
            place = sk.affine(case) @ translation(0.5, 0, 0) if case == 2 and name == "heart" else sk.affine(case)
            sk.write(root / number / f"segmentations/{name}.nii.gz", mask, place)
    rows = "image_id;age;split\ns0000;60;train\ns0001;61;val\ns0002;62;test\n"
    (root / "meta.csv").write_text(rows, encoding="utf-8-sig")
    sk.write_beside(root, "s0000/other.nii.gz", "s0000/segmentations/heart.nii.gz")
    source = only(tmp_path, "totalsegmentator")
    found = tables(source)
    units = [f"totalsegmentator-s000{n}" for n in range(3)]
    assert [found.splits[unit] for unit in units] == ["train", "validation", "test"]
    assert sorted(refused(found).values()) == ["set.extra_file", "set.split_table", "source.hidden_file"]
    made = read(source, found, units[0])
    assert not made.refused
    expected = {("kidney", "left"): 105, ("rib 12", "right"): 70, ("heart", ""): 4, ("vertebra L1", ""): 0}
    assert voxels(made.samples[0]) == expected
    assert decode(made.samples[0].members["seg.b2nd"].data).shape == (1, *sk.SHAPE)
    assert reasons(read(source, found, units[1])) == ["seg.missing"]
    last = read(source, found, units[2])
    assert reasons(last) == ["seg.grid"]
    assert voxels(last.samples[0]) == {name: n for name, n in expected.items() if name[0] != "heart"}


@pytest.mark.parametrize("raters", ["vote", "keep"])
def test_qubiq_votes_or_keeps_every_rater(tmp_path, raters):
    root = tmp_path / "training_data_v3_QC"
    places = ("kidney/Training/case1-1", "kidney/Training/case1-2", "pancreatic-lesion/Validation/case2")
    for case, place in enumerate(places):
        sk.write(root / place / "image.nii.gz", sk.values(case)[:1], sk.affine(case))
        for rater in (1, 2, 3) if case != 1 else ():
            mask = drawn(np.s_[0, 2, : 3 + rater])[:1]
            at = sk.affine(case) @ translation(0, 0.4, 0) if case == 2 and rater == 2 else sk.affine(case)
            sk.write(root / place / f"task01_seg{rater:02d}.nii.gz", mask, at)
    sk.write_beside(root, "kidney/a.csv", "kidney/Training/case1-1/task01_seg01.nii.gz")
    (root / "prostate/Training/case1").mkdir(parents=True)
    (root / "prostate/Training/case1/image.nii.gz").write_bytes(b"of another task")
    source = only(tmp_path, "qubiq")
    source = Cases(source.name, source.root, source.spec, raters=raters)
    found = tables(source)
    units = ["qubiq-kidney-training-1-1", "qubiq-kidney-training-1-2", "qubiq-pancreatic-lesion-validation-2"]
    assert sorted(found.groups) == units
    assert found.groups[units[0]] == found.groups[units[1]] != found.groups[units[2]]
    assert [found.splits.get(unit, "") for unit in units] == ["train", "train", "validation"]
    assert sorted(refused(found).values()) == ["set.extra_file", "set.unused", "source.hidden_file"]
    made = read(source, found, units[0])
    assert not made.refused
    assert voxels(made.samples[0]) == {("kidney", ""): 5 if raters == "vote" else 4 + 5 + 6}
    assert len(decode(made.samples[0].members["seg.b2nd"].data)) == (1 if raters == "vote" else 3)
    assert reasons(read(source, found, units[1])) == ["seg.missing"]
    assert reasons(read(source, found, units[2])) == ["seg.grid"]


def test_every_set_of_the_26_has_a_skeleton():
    special = {"0000", "0001", "0008", "0009", "0011", "0017"}
    assert {*sk.PLAIN, *special} == {f"{n:04d}" for n in range(26)}
    assert not special & set(sk.PLAIN)


def test_the_writer_of_skeletons_is_true(tmp_path):
    sk.write(tmp_path / "a.nrrd", sk.values(0), sk.affine(0))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetSize() == sk.SHAPE[::-1]
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((3, 2, 1)), (sk.affine(0) @ [3, 2, 1, 1])[:3])
