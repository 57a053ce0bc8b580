"""Runs under energon's own Python: prepare folders of tars as its users do, and print what its loader reads of them.

energon_reads.py '{"prepare": [FOLDER, …], "read": [[FOLDER, SPLIT], …]}' prints a JSON list, for each reading a
dictionary of samples by key: fields with the sha256 of their bytes, or the caption where energon decodes the sample.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from megatron.energon import (
    Cooker,
    CrudeSample,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    get_loader,
    get_val_dataset,
    stateless,
)  # fmt: skip
from megatron.energon.tools.prepare import command as prepare_command


@dataclass
class Told(Sample):
    """Stands for a sample: what is said of its fields."""

    said: Any


@stateless
def cook(sample: CrudeSample) -> Told:
    fields = {name: hashlib.sha256(data).hexdigest() for name, data in sample.items() if isinstance(data, bytes)}
    return Told(**basic_sample_keys(sample), said=fields)


class Crude(DefaultTaskEncoder):
    """Keeps bytes as they are."""

    cookers = [Cooker(cook)]  # noqa: RUF012 - its own manual's form
    decoder = None


def prepare(folder: str) -> None:
    """Do what `energon prepare` does for data that are all training data."""
    arguments = [
        "--non-interactive",
        "--num-workers=1",
        "--split-parts=train:.*\\.tar",
        "--sample-type=CrudeWebdataset",
    ]
    done = CliRunner().invoke(prepare_command, [folder, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def read(folder: str, split: str) -> dict[str, Any]:
    """Read every sample of a split once."""
    crude = "CrudeWebdataset" in Path(folder, ".nv-meta", "dataset.yaml").read_text()
    data = get_val_dataset(
        folder, split_part=split, batch_size=None, worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=Crude() if crude else DefaultTaskEncoder(),
    )  # fmt: skip
    samples: dict[str, Any] = {}
    for sample in get_loader(data, watchdog_timeout_seconds=None):
        key = sample.__key__.rpartition("/")[2]
        assert key not in samples
        samples[key] = sample.said if crude else sample.caption
    return samples


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    for folder in asked["prepare"]:
        prepare(folder)
    print(json.dumps([read(*one) for one in asked["read"]]))
