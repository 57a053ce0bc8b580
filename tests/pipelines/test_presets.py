"""Presets give what the original systems' operations give, written here with the libraries that those use."""

import numpy as np
import pytest

from medloom.pipelines.stages.presets import Fit, Slices, preset
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Label, Volume

ORIGIN = Origin("scans", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)


def _case(shape=(23, 70, 61), dtype="int16") -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    z, y, x = np.indices(shape)
    body = ((y - shape[1] / 2) / 25) ** 2 + ((x - shape[2] / 2) / 20) ** 2 < 1
    array = np.where(body, generator.normal(60, 90, shape), -1000).clip(-1024, 1500).astype(dtype)
    mask = (body & (z > 8) & (x > 30)).astype(np.uint8) + (body & (z > 15) & (x < 20)) * np.uint8(2)
    return array, mask


def _run(stages, array: np.ndarray, mask: np.ndarray | None = None, units: str = "HU") -> Medium:
    affine = np.diag([0.8, 0.7, 2.5, 1.0])
    seg = () if mask is None else (Volume(mask, affine, "label", "label", {1: Label("liver"), 2: Label("spleen")}),)
    media = [Medium(key="k", unit="u", group="g", origin=ORIGIN, content=Volume(array, affine, units), seg=seg)]
    for stage in stages:
        media = [made for medium in media for made in stage(medium)]
    (medium,) = media
    return medium


def _m3d(array: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M3D-Seg as its scripts do: z-score of the foreground, min-max, crop to above 0, torch's interpolate."""
    torch = pytest.importorskip("torch")
    image = array.astype(np.float32)
    foreground = image[image > np.mean(image)]
    low, high = np.percentile(foreground, 0.05), np.percentile(foreground, 99.95)
    image = (np.clip(image, low, high) - np.mean(foreground)) / max(np.std(foreground), 1e-8)
    image = image - image.min()
    image = image / max(image.max(), 1e-8)
    kept = np.argwhere(image > 0)
    part = tuple(slice(a, b + 1) for a, b in zip(kept.min(axis=0), kept.max(axis=0), strict=True))
    grey = torch.from_numpy(image[part].astype(np.float32))[None, None]
    made = torch.nn.functional.interpolate(grey, size=(32, 256, 256), mode="trilinear", align_corners=False)
    layers = torch.from_numpy(np.stack([mask[part] == 1, mask[part] == 2]).astype(np.float32))[None]
    masks = torch.nn.functional.interpolate(layers, size=(32, 256, 256), mode="nearest")
    return made[0, 0].numpy(), masks[0].numpy()


def test_m3d_gives_what_m3d_gives():
    array, mask = _case()
    image, masks = _m3d(array, mask)
    medium = _run(preset("m3d"), array, mask)
    assert medium.content.array.dtype == np.float32
    assert np.abs(medium.content.array - image).max() < 2e-5
    assert np.array_equal(np.stack([medium.seg[0].array == 1, medium.seg[0].array == 2]), masks.astype(bool))


def test_m3d_knows_where_its_voxels_are():
    array, mask = _case()
    medium = _run(preset("m3d"), array, mask)
    above = array > -1000
    first, last = np.argwhere(above).min(axis=0), np.argwhere(above).max(axis=0) + 1
    corner = medium.content.affine @ [-0.5, -0.5, -0.5, 1]
    opposite = medium.content.affine @ [255.5, 255.5, 31.5, 1]
    spacing = np.array([0.8, 0.7, 2.5])
    assert corner[:3] == pytest.approx((first[::-1] - 0.5) * spacing)
    assert opposite[:3] == pytest.approx((last[::-1] - 0.5) * spacing)


def _radfm(array: np.ndarray) -> np.ndarray:
    """RadFM as its loader and its collation do, on (Y, X, Z): cv2 in plane, scipy along z, min-max, torch's nearest."""
    cv2, ndimage, torch = (pytest.importorskip(name) for name in ("cv2", "scipy.ndimage", "torch"))
    image = cv2.resize(np.ascontiguousarray(array.transpose(1, 2, 0)), (512, 512), interpolation=cv2.INTER_LINEAR)
    image = np.stack([image] * 3)
    if image.shape[3] > 64:
        image = ndimage.zoom(image, (1, 1, 1, 64 / image.shape[3]), order=0)
    image = (image - image.min()) / (image.max() - image.min())
    depths = list(range(4, 65, 4))
    depth = max(4, image.shape[3])
    wanted = 4
    for each in depths:
        wanted = each if abs(each - depth) < abs(wanted - depth) else wanted
    tensor = torch.from_numpy(image).float()[None]
    return torch.nn.functional.interpolate(tensor, size=(512, 512, wanted))[0].numpy()


@pytest.mark.parametrize("depth", [3, 10, 37, 64, 90])
def test_radfm_gives_what_radfm_gives(depth):
    array, _ = _case((depth, 70, 61))
    image = _radfm(array.astype(np.float32))
    medium = _run(preset("radfm"), array.astype(np.float32))
    made = np.repeat(medium.content.array.transpose(1, 2, 0)[np.newaxis], 3, axis=0)
    assert made.shape == image.shape
    assert made.dtype == np.float32
    assert np.abs(made - image).max() < 1e-5


def test_radfm_of_integers_is_within_a_level_of_the_original():
    array, _ = _case((20, 70, 61))
    step = 1 / (float(array.max()) - float(array.min()))
    made = _run(preset("radfm"), array).content.array.transpose(1, 2, 0)
    assert (
        np.abs(made - _radfm(array)[0]).max() <= 1.1 * step
    )  # cv2 rounds its weights, and the maximum by which both divide


def test_radfm_takes_slices_and_says_where_they_are():
    array = np.arange(130, dtype=np.int16)[:, np.newaxis, np.newaxis] * np.ones((1, 4, 4), np.int16)
    medium = _run((Slices("at-most-64"),), array)
    assert medium.content.array[[0, 63], 0, 0].tolist() == [0, 129]
    assert medium.content.spacing_mm[0] == pytest.approx(2.5 * 129 / 63)
    assert medium.transforms == ("slices(at-most-64,64)",)
    assert _run((Slices("multiple-of-4"),), array[:6]).content.shape[0] == 4  # 4 and 8 are as near: the lower
    assert _run((Slices("multiple-of-4"),), array[:7]).content.shape[0] == 8


def test_m3d_aa_keeps_small_classes_and_the_same_grid():
    array, mask = _case()
    mask[3, 35, 30] = 9
    medium = _run(preset("m3d_aa"), array, mask)
    assert medium.content.shape == (32, 256, 256)
    assert 9 in medium.seg[0].array
    assert 0 <= medium.content.array.min() < medium.content.array.max() <= 1
    reference = _run(preset("m3d"), array, mask)
    assert np.array_equal(medium.content.affine, reference.content.affine)
    assert np.corrcoef(medium.content.array.ravel(), reference.content.array.ravel())[0, 1] > 0.95


def test_ct_rate_has_its_grid_values_and_padding():
    array, _ = _case()
    medium = _run(preset("ct_rate"), array)
    made = medium.content.array
    assert made.shape == (240, 480, 480)
    assert medium.content.spacing_mm == pytest.approx((1.5, 0.75, 0.75))
    assert (made.min(), made[0, 0, 0]) == (-1, -1)
    inside = np.argwhere(made > -0.9)
    centre_mm = medium.content.affine[:3, :3] @ inside.mean(axis=0)[::-1] + medium.content.affine[:3, 3]
    before = np.argwhere(array > -900)
    assert centre_mm == pytest.approx(before.mean(axis=0)[::-1] * [0.8, 0.7, 2.5], abs=0.4)


def test_fit_crops_and_pads_around_the_centre():
    array = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
    medium = _run((Fit((3, 4, 7), -9),), array, np.ones((5, 4, 3), np.uint8))
    assert np.array_equal(medium.content.array[:, :, 2:5], array[1:4])
    assert (medium.content.array[:, :, [0, 1, 5, 6]] == -9).all()
    assert (medium.seg[0].array[:, :, [0, 1, 5, 6]] == 0).all()
    assert medium.content.affine[:3, 3].tolist() == pytest.approx([-1.6, 0, 2.5])


def test_nnunet_normalises_by_the_data_set_or_by_the_scan():
    array, _ = _case()
    by_set = _run(preset("nnunet", spacing_mm=(2.5, 1.0, 1.0), foreground=(-100, 200, 50, 80)), array).content
    assert by_set.spacing_mm == pytest.approx((2.5, 1.0, 1.0))
    assert by_set.array.min() == pytest.approx(-150 / 80)
    assert by_set.array.max() <= 150 / 80 + 1e-6
    by_scan = _run(preset("nnunet", spacing_mm=(2.5, 0.7, 0.8)), array).content.array
    assert (by_scan.mean(), by_scan.std()) == pytest.approx((0, 1), abs=1e-4)


def test_presets_refuse_what_they_cannot_use():
    with pytest.raises(ConfigError, match="nnunet's"):
        preset("m3d", spacing_mm=(1, 1, 1))
    with pytest.raises(ConfigError, match="spacing"):
        preset("nnunet")
    with pytest.raises(ConfigError, match="there is no preset"):
        preset("m4d")
    with pytest.raises(Refused, match=r"intensity\.constant"):
        _run(preset("m3d"), np.zeros((4, 5, 6), np.int16))
