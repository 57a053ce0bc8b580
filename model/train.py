"""Train a model on a release: one page, one process; a run that was stopped anywhere goes on as if it had not been.

On a CPU two runs of one config give the same weights bit by bit; on CUDA as far as its kernels are deterministic.
"""

import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from medloom.model import checkpoint
from medloom.model.batches import Batch
from medloom.model.collate import TensorBatch, collate, encode
from medloom.model.config import RunConfig
from medloom.model.language import MedicalModel
from medloom.model.reader import Reader
from medloom.model.rows import live_rows
from medloom.model.run import RunFolder
from medloom.model.stream import ShardStream
from medloom.model.streamed import StreamedExample
from medloom.schemas.errors import ConfigError, FormatError, RetryLater, WrongBytes
from medloom.schemas.release import Release


@dataclass(frozen=True)
class Trained:
    """What a run came to.

    Attributes:
        step: the last one done; `finished` tells whether it is the config's last.
        loss_before, loss_after: held-out loss in nats per token; NaN while the run is not finished.
        wait_share: share of this process's training time that was spent waiting for data, 0 … 1.
        stall: one sentence on that, naming the slow stage when it is more than 1 %.
        truncated: examples cut to `max_bytes` or `max_media` in this process.
        quarantined: what did not read, and its substitutes.
    """

    step: int
    finished: bool
    loss_before: float
    loss_after: float
    wait_share: float
    stall: str
    truncated: int
    quarantined: tuple[dict[str, Any], ...]


def train(
    data: str,
    *,
    to: str,
    config: RunConfig,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train until `config.steps`, going on from the newest checkpoint in the run folder `to` if there is one.

    `report` is given each row of metrics.jsonl; after each step `should_stop` is asked, and a yes writes a checkpoint.

    Raises:
        ConfigError: the folder holds a run of another config, or the device is not there.
        RetryLater: another process trains in that folder.
    """
    run = RunFolder(to)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.path / ".lock", timeout=0):
            return _train(data, run, config, report, should_stop)
    except Timeout as fault:
        raise RetryLater(f"another process trains in {run.path}; wait for it, or choose another folder") from fault


def _train(
    data: str,
    run: RunFolder,
    config: RunConfig,
    report: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
) -> Trained:
    run.begin(data, config)
    device = settle(config)
    stream = ShardStream(
        data, seed=config.seed, global_batch=config.global_batch, mix=config.mix, where=config.where,
        buckets=config.buckets, shuffle=config.shuffle, pack_tokens=config.pack_tokens or None,
        media_tokens=config.model.latents, workers=config.read_threads,
    )  # fmt: skip
    model = MedicalModel(config.model).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def note(row: dict[str, Any]) -> None:
        run.append(row)
        report(row)

    def save(step: int) -> None:
        run.meter(stream.meter)
        checkpoint.save(
            run.path, step, model=model, optimizer=optimizer, stream=stream.state_dict(), keep=config.keep_checkpoints
        )

    step, found = 0, checkpoint.newest(run.path)
    if found:
        step, state = checkpoint.load(found, model=model, optimizer=optimizer, device=device)
        stream.load_state_dict(state)
    else:
        save(0)  # pins the release, so that a run killed before its first checkpoint comes back to the same rows
    run.cut_metrics(step)
    held_out, split = held_out_examples(Release(data, number=stream.segments[-1].release), config)
    if not any("held_out_loss" in row for row in run.metrics()):
        note(_held_out_row(0, model, held_out, split, config, device))

    waited, worked, truncated = 0.0, 0.0, 0
    batches = endless(stream)
    while step < config.steps and not should_stop():
        began = time.perf_counter()
        batch = next(batches)
        came = time.perf_counter()
        tensors = to_tensors(batch.examples, config, device, packs=batch.packs)
        loss = step_once(model, optimizer, tensors, step, config)
        step += 1
        wait_s, step_s = came - began, time.perf_counter() - came
        waited, worked, truncated = waited + wait_s, worked + step_s, truncated + tensors.truncated
        note({
            "step": step, "loss": loss, "tokens": int(tensors.tokens_BL.numel()), "bytes": tensors.text_bytes,
            "truncated": tensors.truncated, "quarantined": len(stream.quarantined), "wait_s": wait_s, "step_s": step_s,
            "lane": batch.lane,
        })  # fmt: skip
        if step % config.checkpoint_every == 0 and step < config.steps:
            save(step)
    batches.close()
    finished = step >= config.steps
    if finished and not any(row["step"] == step and "held_out_loss" in row for row in run.metrics()):
        note(_held_out_row(step, model, held_out, split, config, device))
    save(step)
    run.draw()
    held = [row["held_out_loss"] for row in run.metrics() if "held_out_loss" in row]
    share = waited / (waited + worked) if waited + worked else 0.0
    after = held[-1] if finished else float("nan")
    told = stream.meter.verdict(None)
    return Trained(step, finished, held[0], after, share, told, truncated, tuple(stream.quarantined))


def settle(config: RunConfig) -> torch.device:
    """Fix seeds, threads and algorithms, and return the device.

    Raises:
        ConfigError: the device is not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('the device "cuda" is not there; use device="auto" or "cpu"')
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for to be repeatable
    torch.use_deterministic_algorithms(True, warn_only=cuda)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return torch.device("cuda" if cuda else "cpu")


def step_once(
    model: MedicalModel, optimizer: torch.optim.Optimizer, batch: TensorBatch, step: int, config: RunConfig
) -> float:
    """Make one step and return the loss before it, in nats per token that was to be learned."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss = _loss(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _loss(model: MedicalModel, batch: TensorBatch) -> torch.Tensor:
    return model(batch).sum() / (batch.targets_BL >= 0).sum().clamp(min=1)


def endless(stream: ShardStream) -> Generator[Batch]:
    """Give batches over all epochs, but those of which every example was withheld since the run began.

    Raises:
        FormatError: an epoch holds no other.
    """
    while True:
        found = False
        for batch in stream:
            if batch.examples:
                found = True
                yield batch
        if not found:
            raise FormatError(f"{stream.timeline.data.url}: every example of an epoch was withheld; begin a new run")


def to_tensors(
    examples: Sequence[StreamedExample],
    config: RunConfig,
    device: torch.device,
    *,
    packs: Sequence[Sequence[int]] = (),
) -> TensorBatch:
    """Return examples as the model of this config takes them, those of a pack in one row."""
    sizes = config.model
    encoded = [
        encode(streamed.example, latents=sizes.latents, max_bytes=config.max_bytes, max_media=config.max_media)
        for streamed in examples
    ]
    return collate(list(zip(encoded, examples, strict=True)), config=sizes, device=device, packs=packs)


def held_out_examples(release: Release, config: RunConfig) -> tuple[list[StreamedExample], str]:
    """Return up to `config.held_out` examples, spread evenly over the validation split (or train), and the split."""
    have = set(release.rows["split"].unique().to_pylist())
    for split in ("validation", "train"):
        rows = live_rows(release, split=split, where=config.where) if split in have else np.array([], np.int64)
        if len(rows):
            break
    reader, found = Reader(release), list[StreamedExample]()
    for row in rows[np.linspace(0, len(rows) - 1, min(config.held_out, len(rows))).astype(int)]:
        try:
            found.append(reader.read(int(row)))
        except WrongBytes:
            continue  # the row of metrics says how many examples were read
    return found, split


def _held_out_row(
    step: int, model: MedicalModel, examples: list[StreamedExample], split: str, config: RunConfig, device: torch.device
) -> dict[str, Any]:
    """Measure the mean loss per example without learning."""
    model.eval()
    with torch.no_grad():
        losses = [float(_loss(model, to_tensors([example], config, device))) for example in examples]
    return {"step": step, "held_out_loss": float(np.mean(losses)), "examples": len(losses), "split": split}
