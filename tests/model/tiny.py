"""A run config small enough for tests, and the text of a file that makes it."""

from medloom.model.config import RunConfig

FILE = """
from medloom.model.config import ModelConfig, RunConfig

config = RunConfig(
    steps=8, global_batch=4, checkpoint_every=3, held_out=3, max_bytes=256,
    model=ModelConfig(
        hidden=32, layers=1, heads=2, vision_hidden=32, vision_layers=1, vision_heads=2, latents=2,
        picture_grid=(32, 32), volume_grid=(8, 32, 32),
    ),
)
"""


def tiny(**changes) -> RunConfig:
    from dataclasses import replace

    made: dict = {}
    exec(FILE, made)
    return replace(made["config"], **changes)
