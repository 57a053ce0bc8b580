"""How each peer reads what `stream_data` made, as its own manual does it: without shuffle, which is its fastest.

With workers it is the peer's (or torch's) loader with that many processes and batches of eight. Runs inside the peers'
own environment and imports nothing of ours but the clock.
"""

import gzip
import io
import itertools
import os
import sys
import tarfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import stream_clock as clock

BATCH = 8
FIELDS = {"b2nd": "ct.b2nd", "npy": "npy", "npy.zst": "npy.zst", "nii.gz": "nii.gz", "jpg": "jpg"}  # in the tars


def npy(data: bytes) -> np.ndarray:
    """An array over the member's own bytes, as a careful user decodes it."""
    file = io.BytesIO(data)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


def npy_zst(data: bytes) -> np.ndarray:
    """A .npy inside zstd."""
    import zstandard

    return npy(zstandard.ZstdDecompressor().decompress(data))


def nii_gz(data: bytes) -> np.ndarray:
    """A .nii.gz by gzip and nibabel, values as stored."""
    import nibabel

    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj)


def b2nd(data: bytes) -> np.ndarray:
    """A frame, on one thread."""
    import blosc2

    frame = blosc2.ndarray_from_cframe(data)
    frame.schunk.dparams = blosc2.DParams(nthreads=1)
    return frame[...]


def jpg(data: bytes) -> np.ndarray:
    """A picture by PIL."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


DECODE: dict[str, Callable[[bytes], np.ndarray]] = {
    "b2nd": b2nd, "npy": npy, "npy.zst": npy_zst, "nii.gz": nii_gz, "jpg": jpg
}  # fmt: skip


def tars(root: Path, form: str) -> list[str]:
    """The tars that hold a format; ours are plain, so everyone reads the same files."""
    folder = {"b2nd": "scans/build/media", "jpg": "pictures/build/media"}.get(form, form)
    return sorted(map(str, (root / folder).glob("*.tar")))


def members(root: Path, form: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member of a format."""
    for path in tars(root, form):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(f".{FIELDS[form]}") and ".thumb." not in member.name:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield member.name.partition(".")[0], file.read()


# webdataset -----------------------------------------------------------------------------------------------------------


def _pick(form: str) -> Callable[[dict[str, Any]], tuple[np.ndarray]]:
    field, decode = FIELDS[form], DECODE[form]
    return lambda sample: (decode(sample[field]),)


def webdataset(root: Path, form: str, workers: int) -> clock.Epoch:
    """The pipeline of its manual; "stock" formats use its own `.decode`."""
    import webdataset as wds

    kind = form.removesuffix(" stock")
    data = wds.WebDataset(tars(root, kind), shardshuffle=False, empty_check=False)
    if form.endswith("stock"):
        data = data.decode("rgb8").to_tuple(FIELDS[kind])
    else:
        data = data.map(_pick(kind))
    if not workers:
        return lambda: iter(data)
    loader = wds.WebLoader(
        data.batched(BATCH),
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    return lambda: iter(loader)


# mosaicml-streaming ---------------------------------------------------------------------------------------------------


def import_streaming() -> Any:
    """Import mosaicml-streaming; where torchvision cannot be, with stand-ins for two names that nothing here uses.

    torchvision's operators need the torch that they were built with, and a CPU build of it is on no registry.
    """
    import torch.utils.data

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        import transformers.feature_extraction_utils
        import transformers.tokenization_utils_base  # noqa: F401  both before the stand-in, which they would look into

        names: dict[str, dict[str, Any]] = {
            "torchvision": {}, "torchvision.transforms": {},
            "torchvision.datasets": {"VisionDataset": torch.utils.data.Dataset},
            "torchvision.transforms.functional": {"to_tensor": None},
        }  # fmt: skip
        for name, content in names.items():
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update({"__path__": [], **content})
        import streaming

        for name in names:
            del sys.modules[name]
    import streaming

    return streaming


def mosaic(root: Path, form: str, workers: int) -> clock.Epoch:
    """StreamingDataset over a local copy; `zstd` is unpacked beside its shards in the first epoch, as it does."""
    import torch.utils.data

    data = mosaic_data(root, form, workers)
    if not workers:
        return lambda: ((data_array(form, sample),) for sample in data)
    collate = torch.utils.data.default_collate
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, num_workers=workers, persistent_workers=True, multiprocessing_context="fork",
        collate_fn=lambda samples: collate([data_array(form, sample) for sample in samples]),
    )  # fmt: skip
    return lambda: ((batch,) for batch in loader)


def mosaic_data(root: Path, form: str, workers: int) -> Any:
    """A dataset of its own folder: it refuses one that is open, and hangs when the count of workers changes."""
    streaming = import_streaming()
    local = root / f"mds-{form}-{os.getpid()}-{workers}"
    if not local.exists():
        local.symlink_to(root / f"mds-{form}")
    return streaming.StreamingDataset(local=str(local), shuffle=False, batch_size=BATCH, num_canonical_nodes=1)


def data_array(form: str, sample: dict[str, Any]) -> np.ndarray:
    """The array of a sample of MDS or litdata: stored as one, or as the bytes of a frame or a picture."""
    value = sample["x"]
    return DECODE[form](value) if isinstance(value, bytes) else np.asarray(value)


# litdata --------------------------------------------------------------------------------------------------------------


def litdata(root: Path, form: str, workers: int) -> clock.Epoch:
    """StreamingDataset, and its own StreamingDataLoader with workers."""
    import torch.utils.data
    from litdata import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(str(root / f"litdata-{form}"), shuffle=False)
    if not workers:
        return lambda: ((data_array(form, sample),) for sample in data)
    collate = torch.utils.data.default_collate
    loader = StreamingDataLoader(
        data, batch_size=BATCH, num_workers=workers, persistent_workers=True, multiprocessing_context="fork",
        collate_fn=lambda samples: collate([data_array(form, sample) for sample in samples]),
    )  # fmt: skip
    return lambda: ((batch,) for batch in loader)


# megatron-energon -----------------------------------------------------------------------------------------------------


def energon(root: Path, form: str, workers: int) -> clock.Epoch:
    """CrudeWebdataset with a cooker that decodes; its train data are endless, so an epoch is a count of samples."""
    from megatron.energon import get_loader

    loader = get_loader(energon_data(root, form, workers), watchdog_timeout_seconds=None)
    batches, n = iter(loader), -(-size_of(root, form) // BATCH)
    return lambda: ((value for value in batch) for batch in itertools.islice(batches, n))


def energon_data(root: Path, form: str, workers: int) -> Any:
    """Its endless train data, in batches, without shuffle."""
    from megatron.energon import WorkerConfig, get_train_dataset

    return get_train_dataset(
        root / f"energon-{form}", worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=BATCH, shuffle_buffer_size=None, max_samples_per_sequence=None,
        task_encoder=_energon_encoder(form),
    )  # fmt: skip


def _energon_encoder(form: str) -> Any:
    from dataclasses import dataclass

    import torch
    from megatron.energon import Cooker, CrudeSample, DefaultTaskEncoder, Sample, basic_sample_keys, stateless

    decode, field = DECODE[form], FIELDS[form]

    @dataclass
    class Array(Sample):
        array: Any

    @stateless
    def cook(sample: CrudeSample) -> Array:
        return Array(**basic_sample_keys(sample), array=decode(sample[field]))

    class Encoder(DefaultTaskEncoder):
        cookers = [Cooker(cook)]  # noqa: RUF012  its own manual's form
        decoder = None

        @stateless
        def batch(self, samples: list[Array]) -> Any:
            return torch.stack([torch.from_numpy(sample.array) for sample in samples])

        def encode_batch(self, batch: Any) -> Any:
            return [batch]

    return Encoder()


_sizes: dict[tuple[str, str], int] = {}


def size_of(root: Path, form: str) -> int:
    """How many samples a format holds, counted once."""
    key = str(root), form
    if key not in _sizes:
        _sizes[key] = sum(1 for _ in members(root, form))
    return _sizes[key]


# Hugging Face datasets ------------------------------------------------------------------------------------------------


def hugging_face(root: Path, form: str, workers: int) -> clock.Epoch:
    """`load_dataset("webdataset", streaming=True)`; npy and jpg by its own decoders."""
    import datasets
    import torch.utils.data

    datasets.disable_progress_bars()
    data = datasets.load_dataset("webdataset", data_files=tars(root, form), split="train", streaming=True)
    field, decode = FIELDS[form], DECODE[form]

    def array(sample: dict[str, Any]) -> np.ndarray:
        value = sample[field]
        return decode(value) if isinstance(value, bytes) else np.asarray(value)

    if not workers:
        return lambda: ((array(sample),) for sample in data)
    collate = torch.utils.data.default_collate
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, num_workers=workers, persistent_workers=True, multiprocessing_context="fork",
        collate_fn=lambda samples: collate([array(sample) for sample in samples]),
    )  # fmt: skip
    return lambda: ((batch,) for batch in loader)


PEERS: dict[str, Callable[[Path, str, int], clock.Epoch]] = {
    "webdataset": webdataset, "mosaic": mosaic, "litdata": litdata, "energon": energon, "datasets": hugging_face,
}  # fmt: skip
