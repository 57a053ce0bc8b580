import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.model.tiny import tiny  # noqa: E402

from medloom.model.collate import ASSISTANT, MEDIUM, collate, encode  # noqa: E402
from medloom.model.language import MedicalModel  # noqa: E402
from medloom.model.streamed import MediaData, StreamedExample  # noqa: E402
from medloom.model.vision import VisionEncoder, position_code  # noqa: E402
from medloom.schemas.example import Example, Part, Turn  # noqa: E402

CONFIG = tiny().model


@pytest.fixture
def model() -> MedicalModel:
    torch.manual_seed(0)
    return MedicalModel(CONFIG).eval()


def streamed(*keys: str, text: str = "What?", answer: str = "This.") -> StreamedExample:
    random = np.random.default_rng(3)
    media = {
        "p": MediaData("png", random.integers(0, 256, (20, 30, 3)).astype(np.uint8)),
        "v": MediaData(
            "volume",
            random.integers(-200, 300, (9, 33, 31)).astype(np.int16),
            b'{"modality": "CT", "units": "HU"}',
        ),
    }
    parts = (*(Part(media=key) for key in keys), Part(text=text))
    turns = Turn("user", parts), Turn("assistant", (Part(text=answer),))
    return StreamedExample(Example("e", "u", "g", "train", "t", "en", "r", "s", "l", "cc-by", turns), media)


def batch(*examples: StreamedExample):
    encoded = [(encode(s.example, latents=CONFIG.latents, max_bytes=99, max_media=9), s) for s in examples]
    return collate(encoded, config=CONFIG, device="cpu")


def test_each_medium_stands_at_its_place_in_the_text(model):
    both = batch(streamed("v", "p"), streamed("p"))
    embedded = model.embed(both)
    picture, volume = model.vision(both.pictures_NCDHW[:1])[0], model.vision(both.volumes_NCDHW)[0]
    first, second = embedded[0][both.tokens_BL[0] == MEDIUM], embedded[1][both.tokens_BL[1] == MEDIUM]
    assert torch.allclose(first, torch.cat([volume, picture]), atol=1e-6)
    assert torch.allclose(second, picture, atol=1e-6)


def test_an_example_has_the_same_likelihood_alone_and_in_a_batch(model):
    alone = model(batch(streamed("v")))
    padded = model(batch(streamed("p", text="A much longer question than that"), streamed("v")))
    assert torch.allclose(alone[0], padded[1, : alone.shape[1]], atol=1e-5)
    assert padded[1, alone.shape[1] :].abs().max() == 0


def test_likelihood_is_that_of_the_softmax_over_what_comes_next(model):
    one = batch(streamed("p", answer="ab"))
    nll = model(one)[0]
    logits = model.language(inputs_embeds=model.embed(one)).logits[0]
    at = one.tokens_BL[0].tolist().index(ASSISTANT)
    by_hand = -torch.log_softmax(logits[at], 0)[ord("a")]
    assert nll[at].item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert nll[:at].abs().max() == 0


def test_nothing_of_the_future_is_seen(model):
    nll = [model(batch(streamed("p", answer=f"same beginning {end}")))[0] for end in "xy"]
    differs = (nll[0] - nll[1]).abs() > 1e-6
    assert differs.sum() >= 1
    assert differs.nonzero()[0] >= len(nll[0]) - 2


def test_gradients_reach_both_kinds_of_media(model):
    model(batch(streamed("p", "v"))).sum().backward()
    for part in (model.vision.patch_picture, model.vision.patch_volume, model.vision.latents_KE):
        weight = part if isinstance(part, torch.nn.Parameter) else part.weight
        assert weight.grad.abs().sum() > 0


def test_any_medium_becomes_as_many_latents():
    encoder = VisionEncoder(CONFIG, out=24)
    assert encoder(torch.rand(2, 3, 1, 32, 64)).shape == (2, CONFIG.latents, 24)
    assert encoder(torch.rand(1, 1, 8, 32, 32)).shape == (1, CONFIG.latents, 24)


def test_positions_are_coded_apart_and_by_place_not_by_count():
    code = position_code((8, 8, 8), device="cpu")
    assert code.shape == (512, 24)
    assert torch.cdist(code, code).add(torch.eye(512) * 9).min() > 0.1
    coarse = position_code((1, 1, 3), device="cpu")
    assert torch.allclose(coarse[1], position_code((1, 1, 5), device="cpu")[2], atol=1e-6)  # both in the middle


def test_greedy_answers_end_and_are_bytes(model):
    said = model.say(batch(streamed("p")), max_bytes=5)
    assert isinstance(said, bytes)
    assert len(said) <= 5
    assert model.say(batch(streamed("p")), max_bytes=5) == said
