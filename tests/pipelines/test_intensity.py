"""Transforms of intensity give closed forms, and what they record leads back."""

import numpy as np
import pytest

from medloom.connectors.images import encode_png
from medloom.pipelines.stages.intensity import (
    WINDOWS_HU,
    CtWindow,
    Fixed,
    ForegroundZScore,
    MinMax,
    Scale,
    ZScore,
    counted,
    grey_of_equal_channels,
    percentile,
    ultrasound_sector,
    undone,
    xray_view,
)
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Medium
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Volume

ORIGIN = Origin("scans", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)
STAGES = (CtWindow("lung"), Fixed("ct-rate", -1000, 1000, 0, 1000), ForegroundZScore(), ZScore(), MinMax())


def _medium(content) -> Medium:
    return Medium(key="k", unit="u", group="g", origin=ORIGIN, content=content, transforms=("before",))


def _ct(dtype="int16") -> Volume:
    array = np.random.default_rng(0).normal(0, 400, (6, 30, 40)).clip(-1024, 3071).astype(dtype)
    return Volume(array, np.eye(4), units="HU")


@pytest.mark.parametrize(
    ("name", "low", "high"), [("lung", -1350, 150), ("soft", -160, 240), ("bone", -500, 1300), ("wide", -1000, 1000)]
)
def test_windows_are_those_of_their_level_and_width(name, low, high):
    array = np.array([[[-2000, low, (low + high) // 2, high, 3000]]], np.int16)
    (made,) = CtWindow(name)(_medium(Volume(array, np.eye(4), units="HU")))
    assert made.content.array.ravel().tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert made.content.array.dtype == np.float32
    assert WINDOWS_HU[name] == ((low + high) / 2, high - low)


def test_a_window_needs_hounsfield_units():
    with pytest.raises(Refused, match=r"intensity\.units"):
        list(CtWindow("lung")(_medium(Volume(np.zeros((2, 2, 2), np.int16), np.eye(4)))))


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_what_is_recorded_leads_back_to_what_was_not_clipped(stage, dtype):
    volume = _ct(dtype)
    (made,) = stage(_medium(volume))
    back = undone(made.content, made.transforms)
    assert back.units == "HU"
    clipped = made.transforms[1].split(";")[1].split(",")
    expected = np.clip(volume.array, float(clipped[0]), float(clipped[1]))
    assert np.abs(back.array - expected).max() < 1e-3
    assert made.transforms[0] == "before"


def test_two_transforms_are_undone_in_reverse_order():
    (first,) = ForegroundZScore(0, 100)(_medium(_ct()))
    (second,) = MinMax()(first)
    assert (second.content.array.min(), second.content.array.max()) == (0, 1)
    back = undone(second.content, second.transforms)
    expected = np.maximum(_ct().array, _ct().array[_ct().array > _ct().array.mean()].min())
    assert np.abs(back.array - expected).max() < 1e-2


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32"])
def test_the_foreground_has_mean_0_and_deviation_1(dtype):
    array = (_ct().array.clip(0, 255)).astype(dtype)
    foreground = array[array > array.mean()].astype(np.float64)
    scale = ForegroundZScore(0.05, 99.95).scale_of(array)
    assert (scale.shift, scale.scale) == pytest.approx((foreground.mean(), foreground.std()))
    assert (scale.low, scale.high) == pytest.approx(tuple(np.percentile(foreground, (0.05, 99.95))))
    made = scale.apply(array)[array > array.mean()].astype(np.float64)
    assert abs(made.mean()) < 0.01


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
def test_a_table_of_values_gives_what_arithmetic_gives(dtype):
    info = np.iinfo(dtype)
    array = np.arange(info.min, info.max + 1).astype(dtype).reshape(2, -1, 8)[:, ::-1]
    scale = Scale(-1000.5, 30000.25, 17.5, 3.25)
    expected = (np.clip(array.astype(np.float64), -1000.5, 30000.25) - 17.5) / 3.25
    assert np.array_equal(scale.apply(array), expected.astype(np.float32))


def test_percentiles_of_counts_are_numpys():
    array = np.random.default_rng(3).integers(-5, 40, (2, 7, 11)).astype(np.int16)
    values, counts = counted(array)
    for percent in (0, 0.05, 0.5, 17, 50, 99.5, 99.95, 100):
        assert percentile(values, counts, percent) == pytest.approx(np.percentile(array, percent))


@pytest.mark.parametrize("stage", [MinMax(), ForegroundZScore()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_constant_volume_is_refused(stage, dtype):
    with pytest.raises(Refused, match=r"intensity\.constant"):
        list(stage(_medium(Volume(np.full((2, 3, 4), 7, dtype), np.eye(4)))))


def test_pictures_pass_untouched():
    medium = _medium(encode_png(np.zeros((20, 20), np.uint8)))
    assert all(list(stage(medium)) == [medium] for stage in STAGES)


def test_equal_channels_become_grey_and_colour_stays():
    grey = np.random.default_rng(0).integers(0, 256, (9, 9, 1), dtype=np.uint8)
    assert np.array_equal(grey_of_equal_channels(grey.repeat(3, 2)), grey)
    doppler = grey.repeat(3, 2)
    doppler[4, 4] = (200, 0, 0)
    assert grey_of_equal_channels(doppler) is doppler
    assert grey_of_equal_channels(grey) is grey


def test_an_x_ray_has_bone_bright_whichever_way_it_is_stored():
    values = np.tile(np.arange(4096, dtype=np.uint16), (4, 1))
    direct, scale = xray_view(values, inverted=False, window=(2048, 4096))
    turned, _ = xray_view(4095 - values, inverted=True, window=(2047, 4096))
    assert (direct[0, 0], direct[0, 4095], scale.low, scale.high) == (0, 255, 0, 4096)
    assert np.abs(direct.astype(int) - turned).max() <= 1
    by_percentiles, scale = xray_view(values, inverted=False)
    assert (scale.low, scale.high) == tuple(np.percentile(values, (0.5, 99.5)))
    assert (by_percentiles[0, :15] == 0).all()


def test_the_sector_of_an_ultrasound_leaves_its_texts_outside():
    y, x = np.mgrid[:240, :320]
    radius, angle = np.hypot(y - 10, x - 160), np.abs(np.arctan2(x - 160, y - 10))
    sector = (radius < 200) & (radius > 20) & (angle < 0.6)
    pixels = np.where(sector, 90, 0).astype(np.uint8)
    pixels[5:15, 5:80] = 255
    pixels[40:200:10, 300:310] = 200
    mask = ultrasound_sector(pixels)
    assert mask[sector].mean() > 0.98
    assert not mask[5:15, 5:80].any()
    assert not mask[:, 300:310].any()
    assert mask.sum() < 1.2 * sector.sum()
