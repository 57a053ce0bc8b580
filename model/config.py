"""RunConfig: all that decides a run, as one frozen value; a run config file is Python that makes one."""

import math
import runpy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from medloom.schemas.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; the defaults train in about a minute on two cores and are for demonstration.

    Attributes:
        hidden, layers, heads: of the language model.
        vision_hidden, vision_layers, vision_heads: of the image encoder.
        latents: embeddings that stand for one medium in the text.
        picture_grid: (H, W) to which pictures are resized; a multiple of 16.
        volume_grid: (D, H, W) to which volumes are resized; a multiple of (4, 16, 16).
    """

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    vision_hidden: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    latents: int = 8
    picture_grid: tuple[int, int] = (128, 128)
    volume_grid: tuple[int, int, int] = (32, 64, 64)

    def __post_init__(self) -> None:
        _at_least(self, 1, "hidden", "layers", "heads", "vision_hidden", "vision_layers", "vision_heads", "latents")
        for width, heads in (("hidden", "heads"), ("vision_hidden", "vision_heads")):
            if getattr(self, width) % (2 * getattr(self, heads)):
                raise ConfigError(f"{width}={getattr(self, width)} is not an even multiple of {heads}")
        for name, patch in (("picture_grid", PICTURE_PATCH[1:]), ("volume_grid", VOLUME_PATCH)):
            grid = tuple(getattr(self, name))
            if len(grid) != len(patch) or any(g < p or g % p for g, p in zip(grid, patch, strict=True)):
                raise ConfigError(f"{name}={grid} is not a multiple of {patch}")
            object.__setattr__(self, name, grid)


PICTURE_PATCH, VOLUME_PATCH = (1, 16, 16), (4, 16, 16)  # (D, H, W)


@dataclass(frozen=True)
class RunConfig:
    """All that decides a run.

    Attributes:
        steps: optimiser steps in all.
        global_batch: examples per step.
        seed: of the weights and of the order of examples.
        learning_rate: after `warmup_steps` of rising, constant, so that a run can be lengthened.
        weight_decay, clip_norm: of AdamW, and the largest norm of a step's gradient.
        max_bytes: of text per example; what is longer is cut, and counted.
        max_media: per example; what is more is left out, and counted.
        held_out: examples of the validation split (of train, where there is none) by which loss is measured before and
            after.
        checkpoint_every: steps; a checkpoint is written at the end in any case.
        keep_checkpoints: how many of the newest are kept.
        threads: that compute (one, since two on busy cores wait for each other); `read_threads`: that read ahead.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        mix, where, buckets, shuffle: which examples are drawn and how, see `medloom.ShardStream`.
        pack_tokens: longest row of examples put together, in bytes of text and latents of media, 0 for a row per
            example; `global_batch` counts rows then, and `medloom tokens DATA` must have been run.
        model: sizes.
    """

    steps: int = 60
    global_batch: int = 8
    seed: int = 0
    learning_rate: float = 1e-3
    warmup_steps: int = 5
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    max_bytes: int = 512
    max_media: int = 8
    held_out: int = 16
    checkpoint_every: int = 20
    keep_checkpoints: int = 2
    threads: int = 1
    read_threads: int = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mix: Mapping[str, float] | None = None
    where: Mapping[str, Any] | None = None
    buckets: str | None = "dimension"
    shuffle: str = "global"
    pack_tokens: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "global_batch", "max_bytes", "max_media", "held_out", "checkpoint_every")
        _at_least(self, 1, "keep_checkpoints", "threads")
        _at_least(self, 0, "seed", "warmup_steps", "read_threads", "pack_tokens")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay={self.weight_decay!r} is not a number from 0 on")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f'device={self.device!r} is not "auto", "cpu" or "cuda"')

    def to_json(self) -> dict[str, Any]:
        """Return what RUN/config.json keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RunConfig":
        """Undo `to_json`; lists become tuples again."""
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in value["model"].items()}
        return cls(**{**_known(cls, value), "model": ModelConfig(**_known(ModelConfig, sizes))})


# What a resumed run may change: none of these decides what a step computes (threads and device by rounding at most).
FREE = ("steps", "checkpoint_every", "keep_checkpoints", "threads", "read_threads", "device")


def load_config(path: str | None, **changes: Any) -> RunConfig:
    """Return the `config` that the Python file `path` makes (the default one for None), with `changes` not None.

    Raises:
        ConfigError: there is no such file, it makes no `config`, fails, or gives a name that RunConfig has not.
    """
    config = RunConfig() if path is None else _run_file(Path(path))
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(config, **_known(RunConfig, given))


def _run_file(path: Path) -> RunConfig:
    if not path.is_file():
        raise ConfigError(f"run config {path} is not a file")
    try:
        made = runpy.run_path(str(path)).get("config")
    except (TypeError, NameError, AttributeError, ImportError, SyntaxError, ValueError) as fault:
        raise ConfigError(
            f"run config {path}: {fault}; RunConfig takes {_names(RunConfig)}; ModelConfig takes {_names(ModelConfig)}"
        ) from fault
    if not isinstance(made, RunConfig):
        raise ConfigError(
            f"run config {path} makes no `config = RunConfig(…)` (from medloom.model.config import RunConfig)"
        )
    return made


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise ConfigError(f"{cls.__name__} has no {', '.join(unknown)}; it takes {_names(cls)}")
    return dict(values)


def _names(cls: type) -> str:
    return ", ".join(f.name for f in fields(cls))


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}={value!r} is not a whole number from {least} on")
