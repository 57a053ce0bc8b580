"""Measured values equal numpy's and closed forms, whatever the type, orientation or encoding."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medloom.connectors.images import encode_png, read_picture
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish
from medloom.pipelines.stages.measure import (
    Measure,
    measure_picture,
    measure_regions,
    measure_volume,
    volume_digest,
    voxel_digest,
)
from medloom.quality.phash import picture_phash
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Medium, Region, Sample, region_rows
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Label, Volume, reorient

ORIGIN = Origin("scans", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)


def _medium(content) -> Medium:
    return Medium(key="k", unit="u", group="g", origin=ORIGIN, content=content, measured={"before": 1.0})


def _measured(content) -> Medium:
    (medium,) = Measure()(_medium(content))
    return medium


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32"])
def test_values_of_a_volume_equal_numpys(dtype):
    array = np.random.default_rng(1).normal(100, 30, (5, 40, 50)).clip(0, 255).astype(dtype)
    if dtype == "int16":
        array -= 1024
    measured = measure_volume(Volume(array, np.eye(4)))
    wide = array.astype(np.float64)
    assert measured == pytest.approx(
        {
            "min": wide.min(),
            "max": wide.max(),
            "mean": wide.mean(),
            "std": wide.std(),
            "p01": np.percentile(array, 1, method="inverted_cdf"),
            "p99": np.percentile(array, 99, method="inverted_cdf"),
            "foreground_fraction": (wide > wide.mean()).mean(),
            "n_distinct": len(np.unique(array)),
        },
        rel=1e-9,
    )


def test_a_constant_volume_has_no_spread_and_no_foreground():
    measured = measure_volume(Volume(np.full((2, 3, 4), -1024, np.int16), np.eye(4)))
    assert measured["std"] == measured["foreground_fraction"] == 0
    assert measured["min"] == measured["p01"] == measured["p99"] == measured["max"] == -1024
    assert measured["n_distinct"] == 1


def test_the_extremes_of_each_type_are_counted():
    for dtype in ("int16", "uint16", "uint8"):
        info = np.iinfo(dtype)
        measured = measure_volume(Volume(np.array([[[info.min, info.max]]], dtype), np.eye(4)))
        assert (measured["min"], measured["max"], measured["n_distinct"]) == (info.min, info.max, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_volume_with_values_that_are_no_numbers_is_refused(bad):
    array = np.ones((2, 3, 4), np.float32)
    array[1, 1, 1] = bad
    with pytest.raises(Refused, match=r"measure.not_finite: 1 voxels"):
        _measured(Volume(array, np.eye(4)))


def test_the_stage_keeps_what_was_measured_before():
    medium = _measured(Volume(np.zeros((2, 3, 4), np.int16), np.eye(4)))
    assert medium.measured["before"] == 1.0
    assert medium.measured["max"] == 0.0


def test_the_pixel_digest_is_the_same_for_any_orientation_of_the_same_scan():
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
    digests = {_measured(reorient(volume, o)).pixel_digest for o in ("LPS", "RAS", "SAL", "PIR")}
    assert len(digests) == 1


def test_the_pixel_digest_tells_values_shapes_and_types_apart():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    changed = array.copy()
    changed[1, 2, 3] += 1
    arrays = [array, changed, array.reshape(4, 3, 2), array.astype(np.uint16), array[:, ::-1]]
    assert len({volume_digest(Volume(a, np.eye(4))) for a in arrays}) == 5


def test_values_of_a_picture_equal_closed_forms():
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:, 30:] = 100
    medium = _measured(encode_png(pixels))
    assert medium.measured == {
        "before": 1.0,
        "mean": 50.0,
        "std": 50.0,
        "entropy_bits": 1.0,
        "longest_side_px": 60.0,
        "shortest_side_px": 40.0,
        "is_grey": 1.0,
    }


def test_entropy_of_all_levels_is_eight_bits_and_of_one_is_zero():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert measure_picture(levels)["entropy_bits"] == pytest.approx(8)
    assert measure_picture(np.full((16, 16, 1), 7, np.uint8))["entropy_bits"] == 0


def test_is_grey_sees_colour_and_forgives_the_rounding_of_jpeg():
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(file, format="JPEG", quality=60)
    assert _measured(read_picture(file.getvalue())).measured["is_grey"] == 1
    coloured = np.stack([grey] * 3, axis=2)
    coloured[3, 3] = (255, 0, 0)
    assert _measured(encode_png(coloured)).measured["is_grey"] == 0


def test_a_picture_has_the_same_digest_in_another_encoding_of_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    other = read_picture(file.getvalue())
    assert other.data != encode_png(pixels).data
    assert _measured(other).pixel_digest == _measured(encode_png(pixels)).pixel_digest


def test_a_picture_has_a_perceptual_hash_and_a_volume_or_a_blank_page_none():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert _measured(encode_png(pixels)).phash == picture_phash(pixels) != ""
    assert _measured(encode_png(np.full((40, 60), 255, np.uint8))).phash == ""
    assert _measured(Volume(np.zeros((2, 3, 4), np.int16), np.eye(4))).phash == ""


def test_clinical_pictures_leave_without_perceptual_hash_and_plain_digest():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    (plain,), (private,) = (_finished(encode_png(pixels), secret) for secret in (None, b"secret"))
    assert plain.columns["phash"] == picture_phash(pixels[:, :, np.newaxis])
    assert private.columns["phash"] == ""
    assert private.columns["pixel_digest"] not in ("", plain.columns["pixel_digest"])


def _finished(content, secret: bytes | None) -> list[Sample]:
    work, made = UnitWork("u", "scans", "g", "train", {}, {}, (), {}, (Measure(),), "none", secret), UnitMade("u")
    finish(work, made, replace(_medium(content), modality="XR"))
    assert not made.refused
    return made.samples


def test_floats_of_many_values_are_measured_exactly_without_sorting():
    array = np.random.default_rng(4).normal(0, 300, (7, 150, 160)).astype(np.float32)
    array[0, 0, :3] = (-0.0, 0.0, -1e30)
    measured = measure_volume(Volume(array[:, ::-1, ::2], np.eye(4)))
    wide = array[:, ::-1, ::2].astype(np.float64)
    for name, share in (("p01", 1), ("p99", 99)):
        assert measured[name] == np.percentile(array[:, ::-1, ::2], share, method="inverted_cdf")
    assert measured["mean"] == pytest.approx(wide.mean(), rel=1e-9)
    assert measured["std"] == pytest.approx(wide.std(), rel=1e-9)
    assert measured["foreground_fraction"] == (wide > wide.mean()).mean()
    assert measured["n_distinct"] == 65536


@pytest.mark.parametrize("n_distinct", [1, 2, 40_000, 65_535, 65_536, 65_537])
def test_distinct_floats_are_counted_up_to_the_limit(n_distinct):
    values = np.random.default_rng(0).permutation(np.arange(n_distinct, dtype=np.float32) - 7000) / 3
    array = np.concatenate([values, values])[np.newaxis, np.newaxis]
    expected = min(len(np.unique(array)), 65_536)
    assert measure_volume(Volume(array, np.eye(4)))["n_distinct"] == expected


def test_views_of_integers_are_measured_as_their_values_are():
    array = np.random.default_rng(0).integers(-2000, 3000, (9, 20, 31)).astype(np.int16)
    for view in (array[::-1, :, ::-1], array.transpose(2, 0, 1), array[1:8:3, 3:, ::2]):
        assert measure_volume(Volume(view, np.eye(4))) == measure_volume(Volume(view.copy(), np.eye(4)))


def test_a_region_is_measured_for_every_class_that_is_named_or_there():
    array = np.zeros((6, 8, 10), np.uint8)
    array[1:4, 2:6, 3:9] = 5
    array[2, 3, 4] = 0
    array[5, 7, 9] = 40
    affine = np.diag([0.5, 0.5, 4.0, 1.0]) @ np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    labels = {5: Label("kidney", "left", "kidney_left"), 7: Label("spleen")}
    other = np.zeros((6, 8, 10), np.uint16)
    other[0, 0, 0] = 1000
    layers = (
        Volume(array, affine, kind="label", labels=labels),
        Volume(other, affine, kind="label", labels={1000: Label("aorta")}),
    )
    content = Volume(np.zeros((6, 8, 10), np.int16), affine)
    assert measure_regions(content, layers) == (
        Region(0, 5, labels[5], 71, pytest.approx(0.071), (1, 2, 3, 4, 6, 9)),
        Region(0, 7, labels[7], 0, 0.0, (0, 0, 0, 0, 0, 0)),
        Region(0, 40, Label("value 40"), 1, pytest.approx(0.001), (5, 7, 9, 6, 8, 10)),
        Region(1, 1000, Label("aorta"), 1, pytest.approx(0.001), (0, 0, 0, 1, 1, 1)),
    )
    (medium,) = Measure()(replace(_medium(content), seg=layers))
    assert medium.regions == measure_regions(content, layers)
    assert medium.seg[0].labels[40] == Label("value 40")
    assert [row["voxels"] for row in region_rows(medium)] == [71, 0, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_regions_of_random_maps_are_numpys(seed):
    array = np.random.default_rng(seed).choice([0, 1, 2, 200], (5, 7, 9), p=[0.9, 0.04, 0.03, 0.03]).astype(np.uint8)
    volume = Volume(array.transpose(2, 0, 1)[::-1], np.eye(4), kind="label")
    for region in measure_regions(volume, (volume,)):
        places = np.argwhere(volume.array == region.value)
        assert region.voxels == len(places)
        assert region.box == (*places.min(axis=0), *(places.max(axis=0) + 1))


def test_the_voxel_digest_is_the_same_for_any_type_and_orientation_that_holds_the_values():
    array = np.random.default_rng(0).integers(0, 3000, (4, 20, 30)).astype(np.int16)
    volume = Volume(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    same = [replace(volume, array=array.astype(t)) for t in (np.uint16, np.float32)]
    same += [reorient(volume, o) for o in ("RAS", "SAL")]
    assert {voxel_digest(v) for v in same} == {voxel_digest(volume)}
    wide = array.astype(np.uint16) + 40000
    assert voxel_digest(replace(volume, array=wide)) == voxel_digest(replace(volume, array=wide.astype(np.float32)))
    assert voxel_digest(replace(volume, array=wide)) != voxel_digest(replace(volume, array=wide.astype(np.int16)))


def test_the_voxel_digest_tells_values_and_shapes_apart():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    changed = array.copy()
    changed[1, 2, 3] += 0.5
    arrays = [array, changed, array.reshape(4, 3, 2), array + 1, array[:, ::-1], array * 1e30]
    assert len({voxel_digest(Volume(a, np.eye(4))) for a in arrays}) == 6
    negative_zero = changed.copy()
    negative_zero[0, 0, 0] = -0.0
    assert voxel_digest(Volume(negative_zero, np.eye(4))) == voxel_digest(Volume(changed, np.eye(4)))
