"""Scans built as public ones and exported as NIfTI: voxels and places are those of the source's own files."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests import sources
from tests.pipelines.forms import released

from medloom.__main__ import main


def canonical(image: nibabel.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    closest = nibabel.as_closest_canonical(image)
    return np.asanyarray(closest.dataobj), closest.affine


@pytest.mark.slow
def test_a_build_of_public_scans_goes_back_to_the_voxels_it_was_made_of(tmp_path, capsys):
    source = tmp_path / "in"
    sources.write_ct(source / "a/ct", patient="A", series=1, n=6)
    sources.write_nifti(source / "brain/brain_seg.nii.gz", seed=3, is_mask=True)
    sources.write_nifti(source / "brain/brain.nii.gz", seed=3)
    turned = np.array([[-1.5, 0.2, 0, 10], [0.2, 1.5, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1.0]])
    values = np.random.default_rng(1).integers(0, 60000, (9, 8, 7)).astype(np.uint16)
    (source / "odd").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, turned), source / "odd/turned.nii")
    released(tmp_path / "out", source, "scans", deidentify="off", mask_suffix="_seg")
    to = tmp_path / "nifti"
    assert main(["export", str(tmp_path / "out"), "--to", "nifti", str(to)]) == 0
    assert "media: 3 in, 3 written, kept back: none" in capsys.readouterr().out

    rows = {(row["kind"], row["source"]): row for row in csv.DictReader((to / "index.csv").open(newline=""))}
    assert set(rows) == {
        ("volume", "a/ct/slice00.dcm"), ("volume", "brain/brain.nii.gz"), ("mask", "brain/brain_seg.nii.gz"),
        ("volume", "odd/turned.nii"),
    }  # fmt: skip
    assert rows["volume", "a/ct/slice00.dcm"]["objects"] == "6"
    for (_, name), row in rows.items():
        image = nibabel.load(to / row["file"])
        if name.endswith(".dcm"):
            expected, affine = ct_of_patient_a()
        else:
            expected, affine = canonical(nibabel.load(source / name))
        found, place = canonical(image)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
        assert np.abs(place - affine).max() < 1e-3


def ct_of_patient_a() -> tuple[np.ndarray, np.ndarray]:
    """The six slices of `sources.write_ct` in HU, (X, Y, Z) to the right, anterior and superior."""
    stack = np.stack([sources.ct_slice(1, k).astype(np.int16) - 1024 for k in range(6)])  # z, rows, columns
    lps = np.array([[1.0, 0, 0, -20], [0, 1, 0, -16], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(stack.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]) @ lps)
    return canonical(image)


def test_both_ways_of_saying_an_export_are_understood(tmp_path, capsys):
    for words in (("nifti", str(tmp_path), "--to", "x"), (str(tmp_path), "--to", "nifti", "x")):
        assert main(["export", *words]) == 2
        assert f"{tmp_path} holds no release" in capsys.readouterr().err
    assert not Path("x").exists()
