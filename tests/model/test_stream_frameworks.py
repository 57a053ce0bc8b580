"""The stream stands alone: under torch's DataLoader, Ray Train and Lightning, and with the base dependencies only."""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.model.streams import keys

from medloom.model.stream import Batch, ShardStream

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"seed": 21, "global_batch": 4, "mix": {"papers": 2, "scans": 1}, "buckets": None}


def interleaved(shares: list[list[str]]) -> tuple[str, ...]:
    """The global batch of which rank r has every world-th example."""
    found = [""] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        found[rank :: len(shares)] = share
    return tuple(found)


def lines_of(folder: Path, rank: int) -> dict[int, list[str]]:
    """Keys by step of what a rank wrote down."""
    rows = [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]
    return {row["step"]: row["keys"] for row in rows}


@pytest.mark.slow
def test_ray_train_gives_every_worker_its_share_and_keeps_the_state(shared_build, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    torch_trainer = pytest.importorskip("ray.train.torch").TorchTrainer
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

    def train(config):
        from ray import train as session

        from medloom import ShardStream

        context = session.get_context()
        rank, world_size = context.get_world_rank(), context.get_world_size()
        stream = ShardStream(config["data"], **config["settings"], rank=rank, world_size=world_size, workers=1)
        with open(f"{config['to']}/rank{rank}.jsonl", "w") as file:
            for batch, _ in zip(stream, range(3), strict=False):
                file.write(json.dumps({"step": batch.step, "keys": batch.keys}) + "\n")
                if batch.step == 2:
                    break
        state = json.dumps(stream.state_dict())
        Path(f"{config['to']}/state{rank}.json").write_text(state)
        session.report({"step": batch.step})

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        torch_trainer(
            train,
            train_loop_config={"data": shared_build, "settings": SETTINGS, "to": str(tmp_path)},
            scaling_config=ray.train.ScalingConfig(num_workers=2, use_gpu=False),
            run_config=ray.train.RunConfig(storage_path=str(tmp_path / "ray"), name="run"),
        ).fit()
    finally:
        ray.shutdown()
    alone = ShardStream(shared_build, **SETTINGS)
    whole = keys(alone, 5)
    shares = [lines_of(tmp_path, rank) for rank in (0, 1)]
    assert [interleaved([share[step] for share in shares]) for step in range(3)] == whole[:3]
    states = [(tmp_path / f"state{rank}.json").read_text() for rank in (0, 1)]
    assert states[0] == states[1]
    alone.load_state_dict(states[0])
    assert keys(alone, 2) == whole[3:]


def as_tensors(batch: Batch):
    """What a user's collation makes: tensors, and names as text."""
    import torch

    means = [sum(float(m.content.mean()) for m in e.media.values()) for e in batch.examples]
    return {"x": torch.tensor(means)[:, None], "step": batch.step, "keys": list(batch.keys)}


LIGHTNING = """
import json, sys
from pathlib import Path
import lightning, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from medloom import ShardStream
from tests.model.test_stream_frameworks import SETTINGS, as_tensors


class Data(lightning.LightningDataModule):
    def __init__(self, url):
        super().__init__()
        self.url, self.state = url, None

    def train_dataloader(self):
        trainer = self.trainer
        self.stream = ShardStream(
            self.url, **SETTINGS, rank=trainer.global_rank, world_size=trainer.world_size, workers=1,
            transform=as_tensors if trainer.world_size > 1 else None,
        )
        if self.state:
            self.stream.load_state_dict(self.state)
        return self.stream.dataloader()

    def state_dict(self):
        return self.stream.state_dict(after=self.trainer.lightning_module.taken)

    def load_state_dict(self, state):
        self.state = state


class Model(lightning.LightningModule):
    def __init__(self, to):
        super().__init__()
        self.layer, self.to_folder, self.taken = torch.nn.Linear(1, 1), to, None

    def training_step(self, batch, i):
        batch = batch if isinstance(batch, dict) else as_tensors(batch)  # alone it is a Batch, as it came
        self.taken = batch["step"]
        with open(f"{self.to_folder}/rank{self.global_rank}.jsonl", "a") as file:
            file.write(json.dumps({"step": batch["step"], "keys": batch["keys"]}) + "\\n")
        return self.layer(batch["x"] / 1e4).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(url, to, devices, steps, checkpoint):
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_spawn" if devices > 1 else "auto", max_steps=steps,
        logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=to,
        callbacks=[ModelCheckpoint(dirpath=to, filename="{step}", every_n_train_steps=3)],
        use_distributed_sampler=False,
    )
    trainer.fit(Model(to), datamodule=Data(url), ckpt_path=checkpoint)


if __name__ == "__main__":
    url, to = sys.argv[1:]
    fit(url, to, 2, 3, None)
    (Path(to) / "alone").mkdir()
    fit(url, f"{to}/alone", 1, 6, f"{to}/step=3.ckpt")
"""


@pytest.mark.slow
def test_lightning_stops_on_two_devices_and_goes_on_with_one(shared_build, tmp_path):
    pytest.importorskip("lightning")
    script = tmp_path / "fit.py"
    script.write_text(LIGHTNING)
    done = subprocess.run(
        [sys.executable, str(script), shared_build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        timeout=300, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    whole = keys(ShardStream(shared_build, **SETTINGS), 6)
    shares = [lines_of(tmp_path, rank) for rank in (0, 1)]
    assert [interleaved([share[step] for share in shares]) for step in range(3)] == whole[:3]
    alone = lines_of(tmp_path / "alone", 0)
    assert [tuple(alone[step]) for step in sorted(alone)] == whole[3:]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def base_modules() -> set[str]:
    """Top-level modules of the base dependencies and of what these need, no extra of ours among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo, seen = [Requirement(text) for text in project["dependencies"]], set()
    while todo:
        requirement = todo.pop()
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}
        )
        name = canonicalize_name(requirement.name)
        if name in seen or not wanted:
            continue
        seen.add(name)
        todo += [
            found
            for found in map(Requirement, metadata.requires(name) or ())
            if found.marker is None or any(found.marker.evaluate({"extra": e}) for e in {"", *requirement.extras})
        ]
    owners = metadata.packages_distributions()
    return {top for top, names in owners.items() if {canonicalize_name(name) for name in names} & seen}


BASE_ONLY = """
import importlib.abc, json, sys

ALLOWED = set(json.loads(sys.argv[1])) | set(sys.stdlib_module_names) | {"medloom"}


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Blocked())
from medloom import ShardStream

for heavy in ("torch", "ray", "pyspark", "great_expectations", "transformers", "pandas"):
    try:
        __import__(heavy)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{heavy} is there: this test proves nothing")

settings = json.loads(sys.argv[3])
stream = ShardStream(sys.argv[2], **settings, workers=2)
found = []
for batch in stream:
    media = [medium for example in batch.examples for medium in example.media.values()]
    found.append([list(batch.keys), [[str(medium.content.dtype), medium.content.shape] for medium in media]])
    if len(found) == 4:
        break
try:
    stream.dataloader(num_workers=1)
except Exception as fault:
    said = str(fault)
json.dump({"found": found, "state": stream.state_dict(), "said": said}, sys.stdout)
"""


def test_the_base_dependencies_are_enough(shared_build):
    """Nothing else can be imported: no torch, ray, spark, pandas; what needs more says what to install."""
    allowed = base_modules()
    assert {"numpy", "pyarrow", "blosc2", "fsspec"} <= allowed
    assert not {"torch", "ray", "pyspark", "pandas", "transformers", "pytest"} & allowed
    done = subprocess.run(
        [sys.executable, "-c", BASE_ONLY, json.dumps(sorted(allowed)), shared_build, json.dumps(SETTINGS)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    stream = ShardStream(shared_build, **SETTINGS)
    assert [tuple(names) for names, _ in told["found"]] == keys(stream, 4)
    assert told["state"] == json.loads(json.dumps(stream.state_dict()))
    assert any(dtype == "int16" for _, media in told["found"] for dtype, _ in media)
    assert re.search(r"needs torch.*pip install", told["said"])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_torchs_dataloader_gives_the_same_batches(shared_build, workers, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT))  # spawned workers find this module by its name
    stream = ShardStream(shared_build, **SETTINGS, transform=as_tensors)
    found = []
    for batch in stream.dataloader(num_workers=workers):
        found.append(tuple(batch["keys"]))
        if len(found) == 4:
            break
    assert found == keys(ShardStream(shared_build, **SETTINGS), 4)


def test_the_public_name_is_light():
    """`from medloom import ShardStream` loads no heavy library, and no pipeline."""
    code = textwrap.dedent("""
        import sys
        from medloom import ShardStream
        heavy = {"torch", "ray", "pyspark", "pandas", "transformers", "matplotlib", "great_expectations", "numba"}
        print(sorted(heavy & set(sys.modules)), sorted(m for m in sys.modules if m.startswith("medloom.pipelines")))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        env=environment(),
    )  # fmt: skip
    assert done.stdout.split() == ["[]", "[]"]
