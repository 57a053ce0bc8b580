"""Public sets' rules over real scans: a case of TotalSegmentator, and a real series with a mask as NIH gives it out.

Runs where MEDLOOM_TEST_CORPUS names the folder that holds `imaging`.
"""

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.pipelines.test_segmentation_sets import read, sources, tables, voxels

from medloom.schemas.b2nd import decode

CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS", "")
IMAGING = Path(CORPUS) / "imaging"
pytestmark = pytest.mark.skipif(not CORPUS, reason="MEDLOOM_TEST_CORPUS is not set")


def test_a_real_case_of_117_files_has_their_voxels_and_its_left_on_the_left(tmp_path):
    folder = tmp_path / "Totalsegmentator_dataset/s0001"
    shutil.copytree(IMAGING / "nifti/totalseg_case/segmentations", folder / "segmentations")
    (ct,) = (path for path in (IMAGING / "nifti").glob("example_ct_sm.nii.gz"))
    shutil.copy(ct, folder / "ct.nii.gz")
    (source,) = sources(tmp_path)
    made = read(source, tables(source), "totalsegmentator-s0001")
    assert not made.refused
    (sample,) = made.samples
    facts = json.loads(sample.members["json"].data)
    layers = decode(sample.members["seg.b2nd"].data)
    affine = np.array(facts["affine"])
    assert len(facts["labels"]) == 117
    middle: dict[tuple[str, str], float] = {}
    for row in facts["labels"]:
        stored = nibabel.load(folder / f"segmentations/{row['stated']}.nii.gz")
        mask = layers[row["layer"]] == row["value"]
        assert mask.sum() == np.count_nonzero(np.asarray(stored.dataobj)), row["stated"]
        assert row["side"] == next((s for s in ("left", "right") if s in row["stated"]), "")
        if mask.any():
            middle[row["name"], row["side"]] = float((affine @ [*np.argwhere(mask).mean(axis=0)[::-1], 1])[0])
    paired = [name for name, side in middle if side == "left" and (name, "right") in middle]
    assert len(paired) >= 10
    assert all(middle[name, "left"] > middle[name, "right"] for name in paired)  # LPS: x grows to the left


def test_the_rule_for_pancreas_ct_lays_a_real_mask_where_its_own_geometry_does(tmp_path):
    mask = nibabel.load(IMAGING / "nifti/example_seg_dicom.nii.gz")
    assert "".join(nibabel.aff2axcodes(mask.affine)) == "LAS"  # as dcm2niix writes it
    array = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    series = tmp_path / "nih/Pancreas-CT/PANCREAS_0001/1.2/1.3"
    series.mkdir(parents=True)
    for number, path in enumerate(sorted((IMAGING / "dicom/ct_j2k_totalseg").iterdir())):
        shutil.copy(path, series / f"1-{number:03d}.dcm")
    labels = tmp_path / "nih/TCIA_pancreas_labels-02-05-2017"
    labels.mkdir()
    turned = np.flip(array, axis=1)  # NIH's rows lie the other way round than dcm2niix writes them
    nibabel.Nifti1Image(turned, np.diag([1.0, 1.0, 1.0, 1.0])).to_filename(labels / "label0001.nii.gz")
    (source,) = sources(tmp_path)
    made = read(source, tables(source), "pancreas-ct-0001")
    assert not made.refused
    facts = json.loads(made.samples[0].members["json"].data)
    found = decode(made.samples[0].members["seg.b2nd"].data)[0]
    assert voxels(made.samples[0]) == {("pancreas", ""): int(array.sum())}
    # Every marked voxel of the mask, by its own affine, is a marked voxel of the image, by the image's.
    places = nibabel.affines.apply_affine(np.diag([-1, -1, 1, 1]) @ mask.affine, np.argwhere(array)[::997])
    at = nibabel.affines.apply_affine(np.linalg.inv(np.array(facts["affine"])), places)
    np.testing.assert_allclose(at, np.rint(at), atol=0.01)
    x, y, z = np.rint(at).astype(int).T
    assert found[z, y, x].all()
