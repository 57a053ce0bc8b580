"""Examples that share a row learn what they learn alone."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.model.tiny import tiny  # noqa: E402

from medloom.model.collate import collate, encode  # noqa: E402
from medloom.model.language import MedicalModel  # noqa: E402
from medloom.model.streamed import MediaData, StreamedExample  # noqa: E402
from medloom.schemas.example import Example, Part, Turn  # noqa: E402

CONFIG = tiny().model


def streamed(text: str, answer: str, layout: str = "") -> StreamedExample:
    random = np.random.default_rng(len(text))
    media = {
        "png": MediaData("png", random.integers(0, 256, (20, 30, 3)).astype(np.uint8)),
        "volume": MediaData(
            "volume",
            random.integers(-200, 300, (9, 33, 31)).astype(np.int16),
            json.dumps({"modality": "CT", "units": "HU"}).encode(),
        ),
    }
    parts = (*([Part(media=layout)] if layout else []), Part(text=text))
    turns = Turn("user", parts), Turn("assistant", (Part(text=answer),))
    return StreamedExample(Example("e", "u", "g", "train", "t", "en", "r", "s", "l", "cc-by", turns), media)


EXAMPLES = [
    streamed("What is it?", "A cat."),
    streamed("And here, in a longer question?", "A dog, no doubt.", "volume"),
    streamed("Why", "So", "png"),
    streamed("Last", "one."),
]


def batch(packs: list[tuple[int, ...]]):
    encoded = [(encode(s.example, latents=CONFIG.latents, max_bytes=99, max_media=9), s) for s in EXAMPLES]
    return collate(encoded, config=CONFIG, device="cpu", packs=packs)


@torch.no_grad()
def test_packed_examples_have_the_likelihood_they_have_alone():
    torch.manual_seed(0)
    model = MedicalModel(CONFIG).eval()
    alone = [model(batch([(i,)]))[0] for i in range(4)]
    packed = batch([(2, 0, 3), (1,)])
    assert packed.tokens_BL.shape[0] == 2
    found = model(packed)
    lengths = [len(a) + 1 for a in alone]
    at = 0
    for i in (2, 0, 3):
        torch.testing.assert_close(found[0, at : at + lengths[i] - 1], alone[i], atol=1e-5, rtol=1e-4)
        at += lengths[i]
    torch.testing.assert_close(found[1, : lengths[1] - 1], alone[1], atol=1e-5, rtol=1e-4)
    assert found.sum() == pytest.approx(float(sum(a.sum() for a in alone)), rel=1e-4)


@torch.no_grad()
def test_without_the_mask_they_would_not():
    torch.manual_seed(0)
    model = MedicalModel(CONFIG).eval()
    packed = batch([(2, 0, 3), (1,)])
    bare = type(packed)(**{**vars(packed), "examples_BL": None})
    assert not torch.allclose(model(packed), model(bare), atol=1e-3)


def test_an_empty_pack_takes_no_row():
    assert batch([(0, 1), (), (2, 3)]).tokens_BL.shape[0] == 2
