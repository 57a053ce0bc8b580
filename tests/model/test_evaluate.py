import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sacrebleu")

from tests.model.streams import withhold  # noqa: E402
from tests.model.test_stream_faults import damage  # noqa: E402
from tests.model.tiny import tiny  # noqa: E402

from medloom.model import checkpoint  # noqa: E402
from medloom.model.collate import collate, encode  # noqa: E402
from medloom.model.evaluate import Judge, Limits, evaluate  # noqa: E402
from medloom.model.language import MedicalModel  # noqa: E402
from medloom.model.reader import Reader  # noqa: E402
from medloom.model.scores import options_of  # noqa: E402
from medloom.model.train import train  # noqa: E402
from medloom.schemas.errors import ConfigError, SourceError  # noqa: E402
from medloom.schemas.release import Release  # noqa: E402

FEW = Limits(texts=2, text_bytes=6)


@pytest.fixture(scope="module")
def run(shared_build, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("run"))
    train(shared_build, to=folder, config=tiny(steps=4))
    return folder


def test_every_live_example_of_the_split_is_scored(shared_build, run):
    seen = []
    scores = evaluate(run, split="test", limits=FEW, report=lambda done, of: seen.append((done, of)))
    live = Release(shared_build).live_rows("test").to_pylist()
    rows = pq.read_table(f"{run}/evaluate/0001-test/rows.parquet").to_pylist()
    assert {r["example_id"] for r in rows} == {r["example_id"] for r in live}
    assert json.loads(Path(f"{run}/evaluate/0001-test/scores.json").read_text()) == scores
    assert seen[-1] == (len(live), len(live))
    assert {t: s["examples"] for t, s in scores["tasks"].items()} == {
        t: sum(r["task"] == t for r in live) for t in ("caption", "header_vqa", "interleaved")
    }
    assert (scores["step"], scores["release"]["number"], scores["unreadable"]) == (4, 1, [])
    captions, questions = scores["tasks"]["caption"], scores["tasks"]["header_vqa"]
    assert captions["open"]["answers"] == 2
    assert "closed" not in captions
    assert "open" not in questions
    assert questions["closed"]["chance"] == 0.5
    assert set(scores["tasks"]["interleaved"]) == {"examples", "groups", "truncated", "nll_per_byte"}


def test_likelihoods_are_those_of_the_model(shared_build, run):
    """One closed question by hand: sum of log-probabilities of the answer's bytes, and the likelier option."""
    evaluate(run, split="test", limits=FEW)
    stored = {r["example_id"]: r for r in pq.read_table(f"{run}/evaluate/0001-test/rows.parquet").to_pylist()}
    release, config = Release(shared_build), tiny().model
    number = next(
        i for i, r in enumerate(release.rows.to_pylist()) if r["split"] == "test" and r["task"] == "header_vqa"
    )
    streamed = Reader(release).read(number)
    model = MedicalModel(config).eval()
    checkpoint.load_weights(checkpoint.newest(Path(run)), model=model, device=torch.device("cpu"))

    def log_probability(answer: str, blind: bool, ended: bool) -> float:
        encoded = encode(streamed.example, latents=2, max_bytes=2048, max_media=8, answer=answer, blind=blind)
        batch = collate([(encoded, streamed)], config=config, device="cpu")
        with torch.no_grad():
            logs = model.language(inputs_embeds=model.embed(batch)).logits[0].log_softmax(-1)
        tokens = [*answer.encode(), 261] if ended else list(answer.encode())
        first = len(encoded.tokens) - len(answer.encode()) - 2  # the role of the turn, whose next is the first byte
        return sum(float(logs[first + i, token]) for i, token in enumerate(tokens))

    options, right = options_of(streamed.example)
    row = stored[streamed.example.example_id]
    assert row["nll"] == pytest.approx(-log_probability(options[right], False, False), rel=1e-4)
    assert row["text_bytes"] == len(options[right])
    for column, blind in (("correct", False), ("blind_correct", True)):
        likely = max(options, key=lambda option: log_probability(option, blind, True))
        assert row[column] == (likely == options[right])


def test_blind_answers_do_not_depend_on_the_media(shared_build):
    """The same questions over other pixels have the same blind likelihoods, hence the same blind answers."""
    config = tiny()
    release = Release(shared_build)
    numbers = [i for i, r in enumerate(release.rows.to_pylist()) if r["task"] == "header_vqa"][:2]
    one, other = (Reader(release).read(i) for i in numbers)
    swapped = type(one)(
        one.example, {key: other_medium for key, other_medium in zip(one.media, other.media.values(), strict=True)}
    )
    model = MedicalModel(config.model).eval()

    def nll(streamed, blind):
        encoded = encode(streamed.example, latents=2, max_bytes=999, max_media=8, blind=blind)
        return model(collate([(encoded, streamed)], config=config.model, device="cpu")).sum().item()

    assert nll(one, True) == nll(swapped, True)
    assert nll(one, False) != nll(swapped, False)


class Peeks(torch.nn.Module):
    """A model by which the last option is likeliest when there are media and the first when there are none."""

    def forward(self, batch):
        nll_BL = torch.zeros(batch.tokens_BL.shape[0], batch.tokens_BL.shape[1] - 1)
        nll_BL[:, 0] = torch.arange(len(nll_BL)) * (-1 if len(batch.places_N) else 1)
        return nll_BL


def test_correct_is_with_media_and_blind_correct_without(shared_build):
    release, config = Release(shared_build), tiny()
    judge = Judge(Peeks(), config, torch.device("cpu"), FEW)
    numbers = [i for i, r in enumerate(release.rows.to_pylist()) if r["task"] == "header_vqa"]
    seen = set()
    for streamed in map(Reader(release).read, numbers):
        answered, (options, right) = judge.answer(streamed), options_of(streamed.example)
        seen.add(right)
        assert (answered.correct, answered.blind_correct) == (right == len(options) - 1, right == 0)
    assert seen == {0, 1}


def test_evaluation_is_repeatable(run):
    assert evaluate(run, split="validation", limits=FEW) == evaluate(run, split="validation", limits=FEW)


def test_a_limit_takes_as_many_of_each_task(run):
    scores = evaluate(run, split="test", limits=Limits(examples=2, texts=0))
    assert {s["examples"] for s in scores["tasks"].values()} == {2}
    assert "open" not in scores["tasks"]["caption"]


def test_withheld_examples_are_not_scored_and_damaged_ones_are_told(build, run):
    rows = Release(build).live_rows("test").to_pylist()
    captions = [r for r in rows if r["task"] == "caption"]
    withhold(build, "example", captions[0]["example_id"])
    damage(build, captions[-1]["media"][0], captions[-1]["layouts"][0])
    scores = evaluate(run, data=build, split="test", limits=FEW)
    gone = [r for r in rows if captions[-1]["media"][0] in r["media"]]
    assert len(scores["unreadable"]) == len(gone) >= 1
    assert scores["examples"] == len(rows) - 1 - len(gone)


def test_a_split_that_is_not_there_is_named(run):
    with pytest.raises(ConfigError, match=r"'exam'.*test"):
        evaluate(run, split="exam")


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(SourceError, match="is not a run"):
        evaluate(str(tmp_path))
