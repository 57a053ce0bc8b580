"""Runs inside the peers' own environment: writes the peers' own forms, reads by them, resumes by them.

Imports nothing of ours but the clock.
"""

import contextlib
import gc
import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import stream_clock as clock
from tests.bench.stream_peer_loaders import (
    BATCH,
    PEERS,
    b2nd,
    data_array,
    energon_data,
    import_streaming,
    members,
    mosaic_data,
    npy,
    size_of,
    tars,
)  # fmt: skip

_kept: dict[tuple[str, str, int], clock.Epoch] = {}  # loaders by peer, format and workers, opened once


def ready(peer: str) -> dict[str, Any]:
    """Import a peer and what decodes for it, so that no measure holds it."""
    import blosc2  # noqa: F401
    import PIL.Image  # noqa: F401
    import torch

    torch.set_num_threads(1)
    if peer == "mosaic":
        import_streaming()
    else:
        __import__({"energon": "megatron.energon"}.get(peer, peer))
    return {"ready": peer}


def read(root: str, peer: str, form: str, epochs: int, workers: int) -> dict[str, Any]:
    """Time `epochs` passes of a peer over a format."""
    key = peer, form, workers
    if key not in _kept:
        _kept[key] = PEERS[peer](Path(root), form, workers)
    took = clock.timed(_kept[key], epochs=epochs)
    if workers:
        torch_data = sys.modules["torch.utils.data"]._utils  # type: ignore[attr-defined]
        torch_data.MP_STATUS_CHECK_INTERVAL = 0.2  # litdata's workers never end by themselves: wait that long, not 5 s
        del _kept[key]
        gc.collect()
        torch_data.MP_STATUS_CHECK_INTERVAL = 5.0
    return took


def mosaic_first_epoch(root: str) -> dict[str, Any]:
    """Time the epoch in which zstd shards are fetched and unpacked, into a folder that is thrown away."""
    streaming, local = import_streaming(), Path(root) / "mds-cold"
    shutil.rmtree(local, ignore_errors=True)
    data = streaming.StreamingDataset(
        remote=str(Path(root) / "mds-zstd"), local=str(local), shuffle=False, batch_size=BATCH, num_canonical_nodes=1
    )
    took = clock.timed(lambda: ((data_array("zstd", sample),) for sample in data), epochs=1, warm=False)
    shutil.rmtree(local)
    return took


def resume(root: str, peer: str) -> dict[str, Any]:
    """Time from nothing open to the first sample after half of the compressed volumes, imports and state apart."""
    half = size_of(Path(root), "b2nd") // 2
    seconds = RESUME[peer](Path(root), half)
    return {"wall": seconds}


def _first(open_: Callable[[], Iterator[Any]]) -> float:
    started = time.perf_counter()
    next(open_())
    return time.perf_counter() - started


def _skip_webdataset(root: Path, half: int) -> float:
    import webdataset as wds

    def skipped() -> Iterator[Any]:
        data = wds.WebDataset(tars(root, "b2nd"), shardshuffle=False, empty_check=False)
        return (b2nd(sample["ct.b2nd"]) for sample in itertools.islice(data, half, None))

    return _first(skipped)


def _resume_mosaic(root: Path, half: int) -> float:
    streaming, made = import_streaming(), list[Any]()

    def resumed(num_samples: int = half) -> Iterator[Any]:
        data = mosaic_data(root, "b2nd", -1)
        loader = streaming.StreamingDataLoader(
            data, batch_size=BATCH, collate_fn=lambda samples: [data_array("b2nd", sample) for sample in samples]
        )
        made.append(loader)
        if num_samples:
            loader.load_state_dict({
                "epoch": 0, "sample_in_epoch": num_samples, "num_canonical_nodes": 1, "shuffle_seed": 9176,
                "initial_physical_nodes": 1,
            })  # fmt: skip
        return iter(loader)

    return _first(resumed)


def _resume_litdata(root: Path, half: int) -> float:
    from litdata import StreamingDataLoader, StreamingDataset

    def loader() -> Any:
        data = StreamingDataset(str(root / "litdata-b2nd"), shuffle=False)
        return StreamingDataLoader(data, batch_size=BATCH, collate_fn=lambda s: [data_array("b2nd", x) for x in s])

    run = loader()
    for _ in itertools.islice(run, half // BATCH):
        pass
    state = run.state_dict()

    def resumed() -> Iterator[Any]:
        again = loader()
        again.load_state_dict(state)
        return iter(again)

    return _first(resumed)


def _resume_energon(root: Path, half: int) -> float:
    from megatron.energon import get_savable_loader

    def loader() -> Any:
        return get_savable_loader(energon_data(root, "b2nd", 0), watchdog_timeout_seconds=None)

    run = loader()
    for _ in itertools.islice(run, half // BATCH):
        pass
    state = run.save_state_rank()

    def resumed() -> Iterator[Any]:
        again = loader()
        again.restore_state_rank(state)
        return iter(again)

    return _first(resumed)


def _resume_datasets(root: Path, half: int) -> float:
    import datasets

    datasets.disable_progress_bars()

    def opened() -> Any:
        return datasets.load_dataset("webdataset", data_files=tars(root, "b2nd"), split="train", streaming=True)

    run = opened()
    for _ in itertools.islice(run, half):
        pass
    state = run.state_dict()

    def resumed() -> Iterator[Any]:
        again = opened()
        again.load_state_dict(state)
        return (b2nd(sample["ct.b2nd"]) for sample in again)

    return _first(resumed)


RESUME = {
    "webdataset": _skip_webdataset, "mosaic": _resume_mosaic, "litdata": _resume_litdata, "energon": _resume_energon,
    "datasets": _resume_datasets,
}  # fmt: skip


def make(root: str) -> dict[str, Any]:
    """Write the peers' own forms from the tars; return {"PEER FORMAT": {"cpu", "samples", "bytes"}}."""
    return _make_mosaic(Path(root)) | _make_litdata(Path(root)) | _make_energon(Path(root))


def _written(root: Path, form: str) -> list[Any]:
    """What goes into MDS and litdata: arrays as arrays, frames and pictures as bytes."""
    kind = {"raw": "npy", "zstd": "npy"}.get(form, form)
    return [npy(data) if kind == "npy" else data for _, data in members(root, kind)]


def _make_mosaic(root: Path) -> dict[str, Any]:
    streaming, made = import_streaming(), {}
    for form in ("raw", "zstd", "b2nd", "jpg"):
        values = _written(root, form)
        column = "bytes" if isinstance(values[0], bytes) else "ndarray:" + ":".join(
            [values[0].dtype.name, ",".join(map(str, values[0].shape))]
        )  # fmt: skip
        started = time.process_time()
        with streaming.MDSWriter(
            out=str(root / f"mds-{form}"), columns={"x": column}, compression="zstd:3" if form == "zstd" else None
        ) as writer:
            for value in values:
                writer.write({"x": value})
        made[f"mosaic {form}"] = _made(started, values, root / f"mds-{form}")
    return made


def _make_litdata(root: Path) -> dict[str, Any]:
    from litdata.streaming.writer import BinaryWriter

    made = {}
    for form in ("raw", "zstd", "b2nd", "jpg"):
        values, folder = _written(root, form), root / f"litdata-{form}"
        folder.mkdir()
        started = time.process_time()
        writer = BinaryWriter(str(folder), chunk_bytes=64 << 20, compression="zstd" if form == "zstd" else None)
        for number, value in enumerate(values):
            writer[number] = {"x": value}
        writer.done()
        writer.merge()
        made[f"litdata {form}"] = _made(started, values, folder)
    return made


def _make_energon(root: Path) -> dict[str, Any]:
    from megatron.energon.flavors import BaseWebdatasetFactory

    made = {}
    for form in ("npy", "b2nd", "jpg"):
        folder = root / f"energon-{form}"
        folder.mkdir()
        for path in map(Path, tars(root, form)):
            (folder / path.name).hardlink_to(path)
        started = time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            BaseWebdatasetFactory.prepare_dataset(
                folder, [path.name for path in sorted(folder.glob("*.tar"))], split_parts_ratio=[("train", 1.0)],
                shuffle_seed=None, workers=1,
            )  # fmt: skip
        (folder / ".nv-meta" / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
        made[f"energon {form}"] = {"cpu": time.process_time() - started}
    return made


def _made(started: float, values: list[Any], folder: Path) -> dict[str, Any]:
    size = sum(value.nbytes if isinstance(value, np.ndarray) else len(value) for value in values)
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"cpu": time.process_time() - started, "samples": len(values), "bytes": size, "stored": stored}


def versions() -> dict[str, str]:
    """Version of each peer, or why it cannot be imported."""
    import importlib.metadata as metadata

    names = (
        "webdataset",
        "mosaicml-streaming",
        "litdata",
        "megatron-energon",
        "datasets",
        "blosc2",
        "nibabel",
        "torch",
    )
    return {name: metadata.version(name) for name in names}


if __name__ == "__main__":
    clock.serve({
        "ready": ready, "read": read, "mosaic_first_epoch": mosaic_first_epoch, "resume": resume, "make": make,
        "versions": versions,
    })  # fmt: skip
