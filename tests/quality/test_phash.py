"""The same picture has a near hash whatever was done to it, and other pictures have not."""

import io

import numpy as np
import pytest
from PIL import Image

from medloom.quality import phash
from medloom.quality.phash import BITS, MAX_DISTANCE, band_keys, distances, picture_phash, to_bytes


def picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Blobs of many sizes: structure at all frequencies, as in a photograph, without a border."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    shown = np.full((height, width), 128.0)
    for _ in range(60):
        size = draw.uniform(3, 60)
        at = draw.uniform(0, height), draw.uniform(0, width)
        shown += draw.uniform(-90, 90) * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * size**2))
    shown += draw.normal(0, 6, shown.shape)
    return np.repeat(shown.clip(0, 255).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(distances(to_bytes([picture_phash(a)]), to_bytes([picture_phash(b)]))[0])


def share_a_band(a: np.ndarray, b: np.ndarray) -> bool:
    one, other = (band_keys(to_bytes([picture_phash(p)])) for p in (a, b))
    return bool((one == other).any())


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def framed(pixels: np.ndarray, level: int) -> np.ndarray:
    return np.pad(pixels, ((30, 8), (12, 40), (0, 0)), constant_values=level)


VARIANTS = {
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "turned by 90": lambda p: np.rot90(p),
    "turned by 180": lambda p: np.rot90(p, 2),
    "transposed": lambda p: p.swapaxes(0, 1),
    "inverted": lambda p: 255 - p,
    "inverted, turned and mirrored": lambda p: 255 - np.rot90(p)[:, ::-1],
}
CHANGES = {
    "JPEG at 30": lambda p: jpeg(p, 30),
    "smaller": lambda p: resized(p, 0.4),
    "larger": lambda p: resized(p, 1.5),
    "grey": lambda p: np.asarray(Image.fromarray(p).convert("L"))[:, :, np.newaxis],
    "darker": lambda p: (255 * (p / 255) ** 1.15).astype(np.uint8),
    "with a white margin": lambda p: framed(p, 255),
    "with a black margin": lambda p: framed(p, 0),
    "with two margins": lambda p: framed(framed(p, 255), 0),
    "cropped by a pixel": lambda p: p[1:-1, 1:-1],
    "on glass": lambda p: np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_as_near_as_rounding_allows(name):
    for seed in range(5):
        original, variant = picture(seed), np.ascontiguousarray(VARIANTS[name](picture(seed)))
        assert apart(original, variant) <= 6
        assert share_a_band(original, variant)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_near_and_shares_a_band(name):
    for seed in range(5):
        changed = np.ascontiguousarray(CHANGES[name](picture(seed)))
        assert apart(picture(seed), changed) <= MAX_DISTANCE
        assert share_a_band(picture(seed), changed)


def test_a_copy_that_was_mirrored_inverted_shrunk_and_compressed_is_still_near():
    for seed in range(5):
        changed = jpeg(resized(np.ascontiguousarray(255 - picture(seed)[:, ::-1]), 0.6), 60)
        assert apart(picture(seed), changed) <= MAX_DISTANCE
        assert share_a_band(picture(seed), changed)


def test_other_pictures_are_far_apart():
    hashes = to_bytes([picture_phash(picture(seed)) for seed in range(60)])
    one, other = np.triu_indices(60, 1)
    assert distances(hashes[one], hashes[other]).min() > 3 * MAX_DISTANCE


def test_distance_is_symmetric_zero_to_itself_and_the_same_for_every_variant():
    a, b = picture(1), picture(2)
    assert apart(a, b) == apart(b, a)
    assert apart(a, a) == 0
    hashes = {name: picture_phash(np.ascontiguousarray(change(a))) for name, change in VARIANTS.items()}
    assert len(set(hashes.values())) == len(VARIANTS)  # the hashes differ, and the distance sees through it
    for name, other in hashes.items():
        assert distances(to_bytes([other]), to_bytes([picture_phash(b)]))[0] == pytest.approx(apart(a, b), abs=12), name


def test_distance_equals_the_count_by_hand_over_all_sixteen_variants():
    """Against the definition: hash the sixteen pictures, count the signs that differ, take the least."""
    draw = np.random.default_rng(3)
    one, other = draw.normal(size=(2, phash.ORDER, phash.ORDER))
    one[0, 0] = other[0, 0] = 0
    odd = np.arange(phash.ORDER) % 2

    def signs(c):
        return (c > 0) & (c != 0)

    best = BITS
    for turned in (other, other.T):
        for mirrored in (0, 1):
            for flipped in (0, 1):
                for sign in (1, -1):
                    variant = sign * turned * np.where(mirrored * odd, -1, 1) * np.where(flipped * odd, -1, 1)[:, None]
                    best = min(best, int((signs(one) != signs(variant)).sum()))
    packed = [np.packbits(phash._by_class(signs(c)))[np.newaxis] for c in (one, other)]
    assert distances(*packed)[0] == best


@pytest.mark.parametrize(
    "blank",
    [
        np.full((200, 300, 3), 255, np.uint8),
        np.zeros((64, 64, 1), np.uint8),
        np.broadcast_to(np.linspace(0, 255, 300).astype(np.uint8)[np.newaxis, :, np.newaxis], (200, 300, 3)),
        np.repeat(np.arange(8, dtype=np.uint8) * 30, 40)[:, np.newaxis, np.newaxis] * np.ones((1, 200, 1), np.uint8),
        np.zeros((16, 16, 4), np.uint8),
    ],
    ids=["white", "black", "gradient", "colour bar", "glass"],
)
def test_a_picture_without_structure_has_no_hash(blank):
    assert picture_phash(blank) == ""


def test_one_line_on_a_blank_page_is_no_structure_or_is_found_where_it_is():
    page = np.full((400, 300, 1), 255, np.uint8)
    page[200, 50:250] = 0
    assert picture_phash(page) == ""


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 2000), (2000, 17), (63, 65), (3000, 2000)])
def test_any_size_has_a_hash(height, width):
    draw = np.random.default_rng(0)
    assert len(picture_phash(draw.integers(0, 256, (height, width, 1), dtype=np.uint8))) in (0, 2 * phash.HASH_BYTES)


def test_the_hash_of_a_fixed_picture_does_not_drift():
    """A change of the hash would part old builds from new ones without a word."""
    y, x = np.mgrid[0:128, 0:128]
    fixed = ((x * x + 3 * y * x + (y * y) // 7) % 251).astype(np.uint8)[:, :, np.newaxis]
    assert distances(to_bytes([picture_phash(fixed)]), to_bytes([FIXED]))[0] <= 2


FIXED = (
    "00940b48208da2da1723dacba5fba2aab2bf484084209a160f756775d56d5a957d095bf6"
    "845010016907d6a4bb5ad53255659774945151004a0425284afa8026429e6caa980bf92e"
)
