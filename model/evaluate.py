"""Evaluate a run's newest checkpoint on a held-out split: likelihood, closed questions with and without media, text."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from medloom.model import checkpoint
from medloom.model.collate import Encoded, TensorBatch, collate, encode
from medloom.model.config import RunConfig
from medloom.model.language import MedicalModel
from medloom.model.reader import Reader
from medloom.model.rows import live_rows
from medloom.model.run import RunFolder
from medloom.model.scores import Answered, answer_of, majority, options_of, summary, words_of
from medloom.model.streamed import StreamedExample
from medloom.model.train import settle
from medloom.schemas.errors import SourceError, WrongBytes
from medloom.schemas.keys import canonical_json
from medloom.schemas.release import Release
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION

MIN_BYTES = 2048  # read of each example at least, so that questions longer than in training keep their options


@dataclass(frozen=True)
class Limits:
    """How much is evaluated.

    Attributes:
        examples: per task, spread evenly over the split; 0 for all.
        texts: open questions per task that are answered greedily.
        text_bytes: of such an answer.
    """

    examples: int = 0
    texts: int = 64
    text_bytes: int = 128


def evaluate(
    run_url: str,
    *,
    data: str | None = None,
    split: str = "test",
    limits: Limits = Limits(),
    report: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Score a run and return what RUN/evaluate/<release>-<split>/scores.json says; rows.parquet holds each answer.

    `data` is the run's own by default; its newest release is meant. `report` is given how many examples are done.

    Raises:
        SourceError: the run has no checkpoint.
        ConfigError: the split has no live rows.
    """
    run = RunFolder(run_url)
    config, release = run.config(), Release(data or run.facts()["data"])
    newest = checkpoint.newest(run.path)
    if newest is None:
        raise SourceError(f"{run.path} has no checkpoint yet; train it first")
    device = settle(config)
    model = MedicalModel(config.model).to(device).eval()
    checkpoint.load_weights(newest, model=model, device=device)
    judge = Judge(model, replace(config, max_bytes=max(config.max_bytes, MIN_BYTES)), device, limits)
    rows = _chosen(release, live_rows(release, split=split), limits)
    reader, answered, unreadable = Reader(release), list[Answered](), list[str]()
    offered: dict[str, tuple[str, ...]] = {}
    for done, row in enumerate(rows, 1):
        try:
            streamed = reader.read(int(row))
        except WrongBytes as fault:
            unreadable.append(str(fault))
            continue
        answered.append(judge.answer(streamed))
        offered[streamed.example.example_id] = tuple(map(words_of, options_of(streamed.example)[0]))
        report(done, len(rows))
    answered = list(_with_majority(answered, offered))
    scores = {
        "format_version": FORMAT_VERSION, "step": checkpoint.read_state(newest)["step"],
        "release": {"number": release.number, "sha256": release.digest}, "split": split, "limits": asdict(limits),
        "examples": len(answered), "unreadable": unreadable, "tasks": _by_task(answered),
    }  # fmt: skip
    out = Store(str(run.path / "evaluate" / f"{release.name}-{split}"))
    out.write_table("rows.parquet", pa.Table.from_pylist([asdict(row) for row in answered], schema=ROWS))
    out.write("scores.json", (canonical_json(scores) + "\n").encode())
    return scores


ROWS = pa.schema([
    ("example_id", pa.string()), ("task", pa.string()), ("group", pa.string()), ("nll", pa.float64()),
    ("text_bytes", pa.int64()), ("options", pa.int32()), ("answer", pa.string()), ("correct", pa.bool_()),
    ("blind_correct", pa.bool_()), ("majority_correct", pa.bool_()), ("said", pa.string()), ("cut", pa.int64()),
])  # fmt: skip


class Judge:
    """Puts examples to a model, one by one."""

    def __init__(self, model: MedicalModel, config: RunConfig, device: torch.device, limits: Limits):
        self.model, self.config, self.device, self.limits = model, config, device, limits
        self._texts: dict[str, int] = {}

    def answer(self, streamed: StreamedExample) -> Answered:
        """Return what the model does with an example."""
        example = streamed.example
        whole = self._encode(streamed)
        nll = self._nll(self._tensors(streamed, [whole]), bytes_only=True)[0]
        answered = Answered(
            example.example_id, example.task, example.group, nll, whole.text_bytes,
            answer=answer_of(example), cut=whole.cut,
        )  # fmt: skip
        options, right = options_of(example)
        if options:
            correct, blind_correct = (self.choose(streamed, options, blind=blind) == right for blind in (False, True))
            return replace(answered, options=len(options), correct=correct, blind_correct=blind_correct)
        if answered.answer and self._texts.get(example.task, 0) < self.limits.texts:
            self._texts[example.task] = self._texts.get(example.task, 0) + 1
            return replace(answered, said=self._say(streamed))
        return answered

    def choose(self, streamed: StreamedExample, options: tuple[str, ...], *, blind: bool) -> int:
        """Return the likeliest option: by the whole of its text and its end, so that short ones have no advantage."""
        encoded = [self._encode(streamed, blind=blind, answer=option) for option in options]
        return int(np.argmin(self._nll(self._tensors(streamed, encoded), bytes_only=False)))

    def _say(self, streamed: StreamedExample) -> str:
        prompt = self._encode(streamed, answer="")
        if not prompt.cut:  # without the end of the turn, which the empty answer has
            prompt = replace(prompt, tokens=prompt.tokens[:-1], targets=prompt.targets[:-1])
        said = self.model.say(self._tensors(streamed, [prompt]), max_bytes=self.limits.text_bytes)
        return said.decode(errors="replace").strip()

    def _encode(self, streamed: StreamedExample, *, blind: bool = False, answer: str | None = None) -> Encoded:
        return encode(
            streamed.example,
            latents=self.config.model.latents,
            max_bytes=self.config.max_bytes,
            max_media=self.config.max_media,
            blind=blind,
            answer=answer,
        )

    def _tensors(self, streamed: StreamedExample, encoded: list[Encoded]) -> TensorBatch:
        return collate([(e, streamed) for e in encoded], config=self.config.model, device=self.device)

    @torch.no_grad()
    def _nll(self, batch: TensorBatch, *, bytes_only: bool) -> list[float]:
        nll_BL: Tensor = self.model(batch)
        if bytes_only:
            nll_BL = nll_BL * (batch.targets_BL[:, 1:] < 256)
        return nll_BL.double().sum(1).tolist()


def _chosen(release: Release, rows: np.ndarray, limits: Limits) -> list[int]:
    """Rows that are evaluated, in stored order."""
    if not limits.examples:
        return rows.tolist()
    tasks = np.array(release.rows["task"].take(pa.array(rows)).to_pylist())
    chosen: list[int] = []
    for task in sorted(set(tasks.tolist())):
        mine = rows[tasks == task]
        chosen += mine[np.linspace(0, len(mine) - 1, min(limits.examples, len(mine))).astype(int)].tolist()
    return sorted(chosen)


def _with_majority(answered: list[Answered], offered: dict[str, tuple[str, ...]]) -> Iterator[Answered]:
    for task in dict.fromkeys(row.task for row in answered):
        mine = [row for row in answered if row.task == task]
        closed = [row for row in mine if row.options]
        right = majority([words_of(row.answer) for row in closed], [offered[row.example_id] for row in closed])
        known = {row.example_id: often for row, often in zip(closed, right, strict=True)}
        yield from (replace(row, majority_correct=known.get(row.example_id, False)) for row in mine)


def _by_task(answered: list[Answered]) -> dict[str, Any]:
    tasks = sorted({row.task for row in answered})
    return {task: summary([row for row in answered if row.task == task]) for task in tasks}
