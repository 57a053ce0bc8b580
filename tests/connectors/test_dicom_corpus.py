"""Every series of the corpus agrees with dcm2niix's NIfTI of it, is refused for a known reason, or differs for one.

Canonicalised as (Z, Y, X) in LPS: voxels equal (floats to 1e-6 of the range), affines to 1e-3 mm.
"""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array

from medloom.connectors.dicom import SeriesRead, Stack, read_series
from medloom.connectors.images import decode_picture
from medloom.schemas.medium import Picture
from medloom.schemas.volume import Volume

AFFINE_TOLERANCE_MM = 1e-3
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
JPEG_LEVELS = 4  # decoders of lossy JPEG may differ by this much

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
    "no_meta": ["dicom.not_dicom"],
    "MR_truncated": ["dicom.truncated"],
    "JPEGLSNearLossless_16": ["image.too_small"],
}
# Where dcm2niix is no reference, and what is asserted in its place (`_explained`).
DIFFERENT = {
    "ct_tilt_neg18_philips": "dcm2niix makes its slice axis 2.371 mm long, positions are 2.5 mm apart",
    "J2K_pixelrep_mismatch": "dcm2niix reads the signed codestream as unsigned",
}


def _corpus() -> Path:
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not folder:
        pytest.skip("needs MEDLOOM_TEST_CORPUS: it names no folder")
    return Path(folder, "imaging")


def _series(corpus: Path) -> dict[str, list[Path]]:
    folders = [d for d in sorted((corpus / "dicom").iterdir()) if d.is_dir() and d.name != "single"]
    series = {d.name: sorted(p for p in d.rglob("*") if p.is_file()) for d in folders}
    return series | {p.stem: [p] for p in sorted((corpus / "dicom/single").iterdir())}


def _references(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (X, Y, Z) array and affine of each volume that dcm2niix made, as stored (RAS, rows bottom up)."""
    found = []
    for path in sorted(folder.glob("*.nii.gz")):
        image = nib.load(path)
        array = np.asarray(image.dataobj)
        array = array.reshape(*array.shape[:3], -1)
        found += [(array[..., k], image.affine) for k in range(array.shape[3])]
    return found


def _distance(volume: Volume, reference: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return the largest difference of voxels (relative to the range for floats) and of affines in mm."""
    array, affine = reference
    if array.dtype.fields or sorted(array.shape) != sorted(volume.shape):
        return np.inf, np.inf
    other = Volume(np.ascontiguousarray(array.T).astype(np.float32), LPS @ affine).canonical()
    ours = volume.canonical()
    if other.shape != ours.shape:
        return np.inf, np.inf
    voxels = float(np.abs(other.array.astype(np.float64) - ours.array).max())
    if volume.array.dtype == np.float32:
        voxels = voxels / float(np.ptp(ours.array)) if voxels / float(np.ptp(ours.array)) > 1e-6 else 0.0
    return voxels, float(np.abs(other.affine - ours.affine).max())


def _picture_agrees(stack: Stack, references: list[tuple[np.ndarray, np.ndarray]], lossy: bool) -> bool:
    assert isinstance(stack.content, Picture)
    shown = decode_picture(stack.content)
    for array, _ in references:
        planes = np.moveaxis(array[:, ::-1], (0, 1, 2), (2, 1, 0))  # (Z, Y, X), rows top down
        for plane in planes:
            if plane.shape != shown.shape[:2]:
                continue
            if plane.dtype.fields:
                colours = np.stack([plane[c] for c in "RGB"], axis=-1).astype(int)
                if np.abs(colours - shown).max() <= (JPEG_LEVELS if lossy else 0):
                    return True
            elif _is_function(plane.ravel(), shown.reshape(-1, shown.shape[2])):
                return True
    return False


def _is_function(stored: np.ndarray, shown: np.ndarray) -> bool:
    """Whether equal stored values are shown equally, and, if grey, in their order (or all in the reverse order)."""
    order = np.argsort(stored, kind="stable")
    stored, shown = stored[order], shown[order].astype(int)
    steps, changes = np.diff(stored.astype(float)), np.diff(shown, axis=0)
    if (changes[steps == 0] != 0).any():
        return False
    return shown.shape[1] == 3 or bool((changes >= 0).all() or (changes <= 0).all())


def _judge(name: str, paths: list[Path], series: SeriesRead, references: list) -> str:
    reasons = [reason for _, reason, _ in series.refused]
    if reasons != REFUSED.get(name, []):
        return f"WRONG: refused {reasons}"
    if not series.stacks:
        return f"refused {', '.join(sorted(set(reasons)))}"
    if name in DIFFERENT:
        return f"different: {DIFFERENT[name]}" if _explained(name, paths, series) else "WRONG: not explained"
    if not references:
        return "read, no reference"
    worst_mm = 0.0
    for stack in series.stacks:
        if isinstance(stack.content, Volume):
            voxels, mm = min(_distance(stack.content, reference) for reference in references)
            worst_mm = max(worst_mm, mm)
            if voxels > 0 or mm > AFFINE_TOLERANCE_MM:
                return f"WRONG: voxels {voxels:g}, affine {mm:g} mm"
        elif not _picture_agrees(stack, references, lossy="jpeg" in name):
            return "WRONG: the picture is another"
    what = "volume" if isinstance(series.stacks[0].content, Volume) else "picture"
    return f"agree: {len(series.stacks)} {what}, affine {worst_mm:.1e} mm" + (f"; also {reasons}" if reasons else "")


def _explained(name: str, paths: list[Path], series: SeriesRead) -> bool:
    """Hold what differs from dcm2niix against the objects themselves."""
    volume = series.stacks[0].content
    assert isinstance(volume, Volume)
    datasets = sorted((pydicom.dcmread(p) for p in paths), key=lambda d: d.ImagePositionPatient[2])
    if name == "J2K_pixelrep_mismatch":
        decoded = [pixel_array(datasets[0], decoding_plugin=plugin) for plugin in ("gdcm", "pillow", "pylibjpeg")]
        return all(np.array_equal(volume.array[0], one) for one in decoded) and volume.array.min() < -1000
    origins = [volume.affine @ [0, 0, z, 1] for z in range(volume.shape[0])]
    stated = [[*map(float, d.ImagePositionPatient), 1] for d in datasets]
    return bool(np.allclose(origins, stated, atol=AFFINE_TOLERANCE_MM))


def test_the_corpus_agrees_with_dcm2niix(capsys):
    corpus = _corpus()
    verdicts = {}
    for name, paths in _series(corpus).items():
        verdicts[name] = _judge(name, paths, read_series(paths), _references(corpus / "ref" / name))
    with capsys.disabled():
        print()
        for name, verdict in verdicts.items():
            print(f"  {name:32} {verdict}")
        kinds = [verdict.split(":")[0].split()[0] for verdict in verdicts.values()]
        print("  " + ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds)))
    assert [name for name, verdict in verdicts.items() if verdict.startswith("WRONG")] == []
    assert len(verdicts) >= 60
