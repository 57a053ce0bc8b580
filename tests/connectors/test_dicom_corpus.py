"""Every series of the corpus is dcm2niix's, is refused for a known reason, or differs for one that is shown here.

dcm2niix runs now, on every series; the volumes of it that are stored with the corpus are held against ours too.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array

from medloom.connectors.dicom import Policy, SeriesRead, read_series
from medloom.schemas.volume import Volume
from tests.bench.dicom_agreement import Verdict, series_of, verdict_of
from tests.connectors.dcm2niix import converted, distance, judge, read_references

# What is refused, and must be. Everything else of the corpus must be read.
REFUSED = {
    "ct_23x38x3_seg": ["dicom.not_an_image"],
    "seg_ct_3slice": ["dicom.not_an_image"] * 2,
    "liver": ["dicom.not_an_image"],
    "seg_image_ct_binary": ["dicom.not_an_image"],
    "seg_image_ct_true_fractional": ["dicom.not_an_image"],
    "rtdose": ["dicom.not_an_image"],
    "rtstruct": ["dicom.not_an_image"],
    "ct_rtstruct_phantom": ["dicom.not_an_image"] * 3,  # and its two CT slices are read
    "ct_missing_slice": ["dicom.gap"],
    "ct_dicomdir_77654033": ["dicom.gap"],
    # The header that states the number of slices and their direction was taken out: dcm2niix guesses 64, 50 are there.
    "mr_mosaic_siemens_fmri": ["dicom.mosaic"],
    "examples_ybr_color": ["dicom.cine"],
    # Enhanced MR objects whose functional groups were taken out: dcm2niix assumes a step, nothing states one.
    "emri_small": ["dicom.cine"],
    "emri_small_RLE": ["dicom.cine"],
    "emri_small_big_endian": ["dicom.cine"],
    "emri_small_jpeg_2k_lossless": ["dicom.cine"],
    "emri_small_jpeg_ls_lossless": ["dicom.cine"],
    "chrJapMulti": ["dicom.no_pixels"],
    "chrKoreanMulti": ["dicom.no_pixels"],
    "no_meta": ["dicom.not_dicom"],  # a byte stands before its data set: dcm2niix and pydicom read nothing either
    "MR_truncated": ["dicom.truncated"],
    "JPEGLSNearLossless_16": ["image.too_small"],
}
EXPLAINED = ("ct_tilt_neg18_philips", "J2K_pixelrep_mismatch")


def _corpus() -> Path:
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not folder:
        pytest.skip("needs MEDLOOM_TEST_CORPUS: it names no folder")
    return Path(folder, "imaging")


@cache
def _read() -> dict[str, tuple[list[Path], SeriesRead]]:
    return {name: (paths, read_series(paths)) for name, paths in series_of(_corpus() / "dicom").items()}


def test_what_is_refused_is_refused_for_its_reason():
    found = {name: [reason for _, reason, _ in series.refused] for name, (_, series) in _read().items()}
    assert {name: reasons for name, reasons in found.items() if reasons} == REFUSED
    assert len(found) >= 60


def test_everything_else_is_what_dcm2niix_makes_of_it_now():
    verdicts: list[Verdict] = []
    for name, (paths, series) in _read().items():
        if series.stacks:
            verdicts.append(verdict_of(name, paths, series, converted(paths)))
    wrong = [one for one in verdicts if one.outcome != ("explained" if one.name in EXPLAINED else "equal")]
    assert wrong == []
    assert len(verdicts) >= 41


def test_the_stored_volumes_of_dcm2niix_are_the_same():
    different = []
    for name, (_, series) in _read().items():
        references = read_references(_corpus() / "ref" / name)
        if series.stacks and references and name not in EXPLAINED:
            outcome, word = judge(series, references)
            if outcome != "equal" and "no stack" not in word:  # "_pn" copies lie beside the default ones
                different.append((name, word))
    assert different == []


def test_a_tilted_stack_is_where_its_headers_say_and_unshears_as_dcm2niix_does():
    paths, series = _read()["ct_tilt_neg18_philips"]
    volume = series.stacks[0].content
    assert isinstance(volume, Volume)
    datasets = sorted((pydicom.dcmread(p) for p in paths), key=lambda d: d.ImagePositionPatient[2])
    for z, dataset in enumerate(datasets):
        assert np.allclose((volume.affine @ [0, 0, z, 1])[:3], [*map(float, dataset.ImagePositionPatient)], atol=1e-3)
        assert np.array_equal(volume.array[z], dataset.pixel_array.astype(int) - 1024)
    (tilted,) = {one.name: one for one in converted(paths) if "_Tilt" in one.name}.values()
    (stack,) = read_series(paths, policy=Policy(tilt="unshear")).stacks
    assert isinstance(stack.content, Volume)
    assert stack.transforms == ("unshear(18.5)",)
    ours, theirs = stack.content.canonical(), tilted.volume()
    assert ours.shape == theirs.shape
    assert np.abs(ours.affine - theirs.affine).max() < 1e-3
    inner = ours.array[:, 8:-8] - theirs.array[:, 8:-8]
    assert np.abs(inner).max() <= 1


def test_a_signed_codestream_is_read_as_three_decoders_read_it():
    paths, series = _read()["J2K_pixelrep_mismatch"]
    volume = series.stacks[0].content
    assert isinstance(volume, Volume)
    dataset = pydicom.dcmread(paths[0])
    for plugin in ("gdcm", "pillow", "pylibjpeg"):
        assert np.array_equal(volume.array[0], pixel_array(dataset, decoding_plugin=plugin))
    assert volume.array.min() < -1000


def test_a_missing_slice_is_made_or_splits_the_stack():
    paths, _ = _read()["ct_missing_slice"]
    (base,) = {one.name: one for one in converted(paths) if not one.is_repaired}.values()
    stored = base.volume().array
    (made,) = read_series(paths, policy=Policy(gaps="regularise")).stacks
    assert made.transforms == ("regularise(gap,1)",)
    volume = made.content
    assert isinstance(volume, Volume)
    assert volume.spacing_mm[0] == pytest.approx(5)
    array = volume.canonical().array
    assert np.array_equal(array[[0, 1, 2, 4]], stored)
    assert np.abs(array[3] - (stored[2] + stored[3]) / 2).max() <= 0.5
    parts = read_series(paths, policy=Policy(gaps="split")).stacks
    assert [part.content.shape[0] for part in parts] == [3, 1]  # type: ignore[union-attr]
    assert all(distance(part.content, base)[0] == np.inf for part in parts)  # type: ignore[arg-type]
