"""A head is told from a trunk on synthetic phantoms, and doubt says that a face is possible."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medloom.connectors.images import encode_png
from medloom.pipelines.stages.faces import FaceStatus, face_status
from medloom.schemas.medium import Medium
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Volume, reorient

ORIGIN = Origin("s", "u", "", "", "declared", "private", "", "d")
AIR, TISSUE, BONE = -1000, 40, 900
CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS", "")


def ellipses(n: int, step_mm: float, field_mm: float, *shapes: tuple[float, float, int]) -> Volume:
    """A synthetic stack of `n` axial slices: ellipses (half axes along Y and X in mm, HU) drawn over each other."""
    size = 128
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * field_mm / size
    plane = np.full((size, size), AIR, np.int16)
    for half_y, half_x, value in shapes:
        plane[(y / half_y) ** 2 + (x / half_x) ** 2 < 1] = value
    affine = np.diag([field_mm / size, field_mm / size, step_mm, 1.0])
    return Volume(np.repeat(plane[np.newaxis], n, axis=0), affine, units="HU")


def head(n: int = 20, field_mm: float = 260) -> Volume:
    return ellipses(n, 5, field_mm, (100, 80, TISSUE), (95, 75, BONE), (88, 68, TISSUE))


def trunk(n: int = 20) -> Volume:
    return ellipses(n, 5, 420, (120, 175, TISSUE), (20, 20, BONE))


def knee() -> Volume:
    return ellipses(20, 5, 260, (60, 60, TISSUE), (25, 25, BONE), (20, 20, TISSUE))


def joined(*volumes: Volume) -> Volume:
    return replace(volumes[0], array=np.concatenate([volume.array for volume in volumes]))


def as_mr(volume: Volume) -> Volume:
    """Values above 0 in noise, as a magnitude image has them."""
    noise = np.random.default_rng(1).integers(0, 30, volume.shape)
    return replace(volume, array=(np.where(volume.array > -500, 400, 0) + noise).astype(np.int16), units="arbitrary")


def noise() -> Volume:
    """A phase image: noise wherever there is no signal."""
    return replace(head(), array=np.random.default_rng(2).integers(0, 4096, (20, 200, 200)).astype(np.int16), units="")


@pytest.mark.parametrize(
    ("volume", "modality", "body_part", "face"),
    [
        (head(), "CT", "head", "possible"),
        (head(), "CT", "", "possible"),
        (head(), "CT", "abdomen", "possible"),  # the header is wrong
        (head(), "CT", "knee", "possible"),
        (trunk(), "CT", "abdomen", "none"),
        (trunk(), "CT", "", "none"),
        (trunk(), "CT", "head", "possible"),
        (joined(trunk(), head(6, 420)), "CT", "", "possible"),  # from the pelvis to the vertex
        (joined(trunk(), head(6, 420)), "CT", "chest", "possible"),
        (knee(), "CT", "", "possible"),  # as round as a neck
        (knee(), "CT", "knee", "none"),
        (ellipses(20, 5, 300, (70, 70, TISSUE)), "CT", "abdomen", "possible"),  # a child, or a neck
        (ellipses(20, 5, 180, (300, 300, TISSUE)), "CT", "", "none"),  # no skin in sight
        (as_mr(head()), "MR", "", "possible"),
        (as_mr(trunk()), "MR", "", "none"),
        (as_mr(trunk()), "MR", "abdomen", "none"),
        (as_mr(ellipses(20, 5, 300, (999, 999, TISSUE))), "MR", "", "possible"),  # so is a phase image of a head
        (as_mr(ellipses(20, 5, 180, (999, 999, TISSUE))), "MR", "heart", "possible"),  # without air to tell it from
        (as_mr(head()), "MR", "knee", "none"),
        (as_mr(trunk()), "PT", "", "none"),
        (noise(), "MR", "", "possible"),
        (as_mr(head()), "PT", "whole-body", "possible"),
        (replace(trunk(2), array=np.full((2, 128, 128), AIR, np.int16)), "CT", "", "possible"),  # nothing to see
    ],
)
def test_a_face_is_ruled_out_only_by_what_is_seen_and_stated(volume, modality, body_part, face):
    assert face_status(volume, modality=modality, body_part=body_part) == face


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL"])
def test_a_head_is_one_in_every_orientation(orientation):
    assert face_status(reorient(head(), orientation), modality="CT", body_part="") == "possible"
    assert face_status(reorient(trunk(), orientation), modality="CT", body_part="") == "none"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 300), (300, 1, 2)])
def test_slivers_are_judged_too(shape):
    for fill in (AIR, BONE):
        assert face_status(Volume(np.full(shape, fill, np.int16), np.eye(4), units="HU"), modality="CT", body_part="")


def test_values_that_are_not_finite_do_not_hide_a_head():
    array = as_mr(head()).array.astype(np.float32)
    array[0] = np.nan
    volume = Volume(array, head().affine)
    assert face_status(volume, modality="MR", body_part="") == "possible"


def medium(content: object, **changed: object) -> Medium:
    return replace(Medium("k", "u", "g", ORIGIN, content, modality="CT"), **changed)


def test_the_stage_says_what_was_removed_and_judges_scans_alone():
    def face(given: Medium) -> str:
        (made,) = FaceStatus()(given)
        assert made.content is given.content
        return made.face

    assert face(medium(head())) == "possible"
    assert face(medium(head(), stated=("features_removed",))) == "removed"
    assert face(medium(trunk(), stated=("features_removed",))) == "none"
    assert face(medium(head(), modality="NM")) == ""
    assert face(medium(encode_png(np.zeros((20, 20), np.uint8)))) == ""


@pytest.mark.skipif(not CORPUS, reason="MEDLOOM_TEST_CORPUS is not set")
def test_real_heads_and_trunks_are_told_apart():
    from medloom.connectors import dicom, nifti

    folder = Path(CORPUS) / "imaging"

    def of_series(name: str) -> Volume:
        return dicom.read_series(sorted((folder / "dicom" / name).iterdir())).stacks[0].content

    def of_file(name: str) -> Volume:
        return nifti.read_volumes(str(folder / "nifti" / name))[0]

    for name in ("ct_head_axial_philips", "ct_tilt_neg18_philips", "mr_frag_jpegll", "mr_enh_philips_fmri"):
        assert face_status(of_series(name), modality=name[:2].upper(), body_part="") == "possible", name
    assert face_status(of_series("ct_j2k_totalseg"), modality="CT", body_part="") == "none"
    assert face_status(of_file("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"), modality="MR", body_part="") == (
        "possible"
    )
    assert face_status(of_file("example_mr_sm.nii.gz"), modality="MR", body_part="") == "none"
    trunk_ct = replace(of_file("example_ct.nii.gz"), units="HU")
    assert face_status(trunk_ct, modality="CT", body_part="") == "none"
