import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medloom.model.collate import (  # noqa: E402
    ASSISTANT,
    BEGIN,
    DOCUMENT,
    END,
    MEDIUM,
    NO_TARGET,
    PAD,
    USER,
    collate,
    encode,
    picture_on_grid,
    volume_on_grid,
    window_of,
)  # fmt: skip
from medloom.model.config import ModelConfig  # noqa: E402
from medloom.model.streamed import MediaData, StreamedExample  # noqa: E402
from medloom.schemas.example import Example, Part, Turn  # noqa: E402

SIZES = {"latents": 3, "max_bytes": 1000, "max_media": 8}


def example(*turns: Turn) -> Example:
    return Example("e", "u", "g", "train", "t", "en", "r", "s", "l", "cc-by", turns)


def question(text: str, answer: str, *keys: str) -> Example:
    media = tuple(Part(media=key) for key in keys)
    return example(Turn("user", (*media, Part(text=text))), Turn("assistant", (Part(text=answer),)))


def volume(array: np.ndarray, **facts) -> MediaData:
    return MediaData("volume", array, json.dumps(facts).encode())


def picture(array: np.ndarray) -> MediaData:
    return MediaData("png", array)


def test_only_what_the_assistant_says_is_learned():
    encoded = encode(question("Où ?", "Là.", "m"), **SIZES)
    assert encoded.tokens == (BEGIN, USER, *[MEDIUM] * 3, *"Où ?".encode(), END, ASSISTANT, *"Là.".encode(), END)
    learned = [t for t in encoded.targets if t != NO_TARGET]
    assert learned == [*"Là.".encode(), END]
    assert encoded.targets[-5:] == (*"Là.".encode(), END)
    assert (encoded.text_bytes, encoded.cut, encoded.media) == (4, 0, (("m", ()),))


def test_the_text_of_a_document_is_learned_and_its_media_stand_in_place():
    parts = Part(text="ab"), Part(text="c"), Part(media="m", box=(0, 0, 2, 2)), Part(text="d")
    encoded = encode(example(Turn("document", parts)), **SIZES)
    assert encoded.tokens == (BEGIN, DOCUMENT, *b"ab\nc", *[MEDIUM] * 3, *b"d", END)
    assert [t for t in encoded.targets if t != NO_TARGET] == [*b"ab\ncd", END]
    assert encoded.media == (("m", (0, 0, 2, 2)),)


def test_what_does_not_fit_is_cut_and_counted():
    whole = question("12345", "67890", "m")
    fits = encode(whole, latents=3, max_bytes=10, max_media=1)
    assert fits.cut == 0
    short = encode(whole, latents=3, max_bytes=8, max_media=1)
    assert short.cut == 2
    assert short.tokens == fits.tokens[:-3]  # two bytes and the end of the turn, which was not reached
    assert encode(whole, latents=3, max_bytes=10, max_media=0 + 1).media
    many = encode(question("?", "!", "a", "b", "c"), latents=1, max_bytes=10, max_media=2)
    assert [key for key, _ in many.media] == ["a", "b"]
    assert many.cut == 1
    behind = example(Turn("document", (Part(text="12345"), Part(media="m"))))
    assert encode(behind, latents=1, max_bytes=5, max_media=2).media == ()
    assert encode(behind, latents=1, max_bytes=5, max_media=2).cut == 1


def test_a_blind_example_has_the_same_text_and_no_media():
    seen, blind = (encode(question("Q", "A", "m"), **SIZES, blind=b) for b in (False, True))
    assert blind.tokens == tuple(t for t in seen.tokens if t != MEDIUM)
    assert blind.media == ()
    assert blind.cut == 0


def test_another_answer_takes_the_place_of_the_last():
    encoded = encode(question("Q", "A"), **SIZES, answer="B!")
    assert encoded.tokens == encode(question("Q", "B!"), **SIZES).tokens
    assert encode(question("Q", "A"), **SIZES, answer="").tokens[-2:] == (ASSISTANT, END)


def test_a_batch_is_padded_and_counts_what_was_cut():
    config = ModelConfig(latents=2, picture_grid=(16, 16), volume_grid=(4, 16, 16))
    media = {"p": picture(np.zeros((9, 9, 1), np.uint8)), "v": volume(np.zeros((4, 9, 9), np.int16), modality="MR")}
    long, short = question("a longer question", "A", "v", "p"), question("Q", "B", "p")
    encoded = [
        (encode(e, latents=2, max_bytes=n, max_media=8), StreamedExample(e, media)) for e, n in ((long, 17), (short, 9))
    ]
    batch = collate(encoded, config=config, device="cpu")
    assert batch.tokens_BL.shape == (2, len(encoded[0][0].tokens))
    assert (batch.tokens_BL[1, len(encoded[1][0].tokens) :] == PAD).all()
    assert (batch.targets_BL[1, len(encoded[1][0].tokens) :] == NO_TARGET).all()
    assert batch.pictures_NCDHW.shape == (2, 3, 1, 16, 16)
    assert batch.volumes_NCDHW.shape == (1, 1, 4, 16, 16)
    assert batch.places_N.tolist() == [1, 2, 0]  # pictures second and third in the text, the volume first
    assert (batch.truncated, batch.text_bytes) == (1, 1)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_ct_is_windowed_to_soft_tissue(dtype):
    array = np.zeros((4, 16, 16), dtype)
    array[0], array[1], array[2], array[3] = -1000, -160, 40, 3000
    medium = volume(array, modality="CT", units="HU", measured={"p01": 0.0, "p99": 1.0})
    grid = volume_on_grid(medium, (), grid=(4, 16, 16), device="cpu")
    assert grid.shape == (1, 4, 16, 16)
    assert grid[0, :, 3, 5].tolist() == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_other_modalities_are_windowed_by_their_percentiles(dtype):
    array = np.random.default_rng(0).integers(0, 200, (12, 40, 40)).astype(dtype)
    measured = {"p01": 10.0, "p99": 110.0}
    assert window_of(volume(array, modality="MR", measured=measured)) == (10.0, 110.0)
    low, high = window_of(volume(array, modality="MR", measured={}))
    assert abs(low - np.percentile(array, 1)) < 3
    assert abs(high - np.percentile(array, 99)) < 3
    grid = volume_on_grid(volume(array, modality="MR", measured=measured), (), grid=(12, 40, 40), device="cpu")
    expected = np.clip((array.astype(np.float64) - 10) / 100, 0, 1)
    assert np.allclose(grid[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(37, 70, 91), (5, 20, 20), (32, 64, 64), (1, 3, 200)])
def test_resizing_by_slabs_is_average_pooling_over_the_whole(shape):
    array = np.random.default_rng(1).integers(-300, 400, shape).astype(np.int16)
    grid = volume_on_grid(volume(array, modality="CT", units="HU"), (), grid=(8, 32, 32), device="cpu")
    windowed = ((torch.from_numpy(array).float() + 160) / 400).clamp(0, 1)
    expected = torch.nn.functional.adaptive_avg_pool3d(windowed[None], (8, 32, 32))
    assert torch.allclose(grid, expected, atol=1e-5)


def test_boxes_are_half_open_indices_of_the_stored_array():
    array = np.zeros((8, 20, 30), np.int16)
    array[2:4, 5:10, 7:9] = 240
    medium = volume(array, modality="CT", units="HU")
    assert volume_on_grid(medium, (2, 5, 7, 4, 10, 9), grid=(4, 16, 16), device="cpu").min() == 1
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5:10, 7:9] = 255
    assert picture_on_grid(picture(pixels), (5, 7, 10, 9), grid=(16, 16), device="cpu").min() == 1
    assert picture_on_grid(picture(pixels), (), grid=(16, 16), device="cpu").max() < 1


def test_grey_and_transparent_pictures_become_three_channels():
    grey = picture_on_grid(picture(np.full((4, 4, 1), 51, np.uint8)), (), grid=(16, 16), device="cpu")
    assert grey.shape == (3, 1, 16, 16)
    assert torch.allclose(grey, torch.tensor(0.2))
    clear = np.zeros((4, 4, 4), np.uint8)
    assert picture_on_grid(picture(clear), (), grid=(16, 16), device="cpu").min() == 1
