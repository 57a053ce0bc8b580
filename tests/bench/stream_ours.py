"""Runs in a process of its own: reads what `stream_data` made by ShardStream, and times the limits beside it.

The limits know all places and shapes beforehand and check nothing: `preadv` into one buffer that is used again, and the
codecs' own decoders over bytes that lie in memory.
"""

import gzip
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import stream_clock as clock

BATCH = 8  # volumes a step
PICTURES = 32  # pictures a step
BUFFER = 64 << 20  # that the limit reads into, again and again: what a loader with a few batches in flight has too
BUILDS = {"b2nd": "scans/build", "jpg": "pictures/build", "rows": "rows/build"}
_kept: dict[tuple[str, int], clock.Epoch] = {}


def _stream(root: Path, form: str, **options: Any) -> Any:
    from medloom import ShardStream

    if form in BUILDS:
        where, batch = {"task": options.pop("task", "caption")}, PICTURES if form == "jpg" else BATCH
        return ShardStream(str(root / BUILDS[form]), **{"seed": 1, "global_batch": batch, "where": where} | options)
    tars = sorted(map(str, (root / form).glob("*.tar")))
    return ShardStream(tars, **{"seed": 1, "global_batch": BATCH} | options)


def _arrays(batch: Any) -> list[np.ndarray]:
    return [medium.content for example in batch.examples for medium in example.media.values()]


def ready(peer: str) -> dict[str, Any]:
    """Import what everything here needs, so that no measure holds it."""
    import blosc2  # noqa: F401
    import simplejpeg  # noqa: F401

    import medloom.model.reader
    import medloom.model.stream
    import medloom.model.tar_reader
    import medloom.pipelines.stages.encode  # noqa: F401

    return {"ready": peer}


def read(root: str, form: str, epochs: int, workers: int) -> dict[str, Any]:
    """Time `epochs` passes of ShardStream; `workers` are threads. Always shuffled over all shards."""
    key = form, workers
    if key not in _kept:
        stream = _stream(Path(root), form, workers=workers)
        _kept[key] = lambda: (_arrays(batch) for batch in stream)
    return clock.timed(_kept[key], epochs=epochs)


# limits ---------------------------------------------------------------------------------------------------------------


def limit(root: str, epochs: int) -> dict[str, Any]:
    """Time `preadv` of every .npy member into one reused buffer, and `frombuffer` over it."""
    from numpy.lib import format as npy

    places = []
    for path in sorted((Path(root) / "npy").glob("*.tar")):
        file = os.open(path, os.O_RDONLY)
        with tarfile.open(path) as tar:
            for member in tar:
                inside = tar.extractfile(member)
                assert inside is not None
                npy.read_magic(inside)
                shape, _, dtype = npy.read_array_header_1_0(inside)
                places.append((file, member.offset_data, member.size, inside.tell(), shape, dtype))
    buffer, at = memoryview(bytearray(BUFFER)), 0

    def arrays() -> Iterator[list[np.ndarray]]:
        nonlocal at
        for file, offset, size, header, shape, dtype in places:
            at = at if at + size <= BUFFER else 0
            os.preadv(file, [buffer[at : at + size]], offset)
            yield [np.frombuffer(buffer[at + header : at + size], dtype).reshape(shape)]
            at += size

    try:
        return clock.timed(arrays, epochs=epochs)
    finally:
        for file in {file for file, *_ in places}:
            os.close(file)


def codec(root: str, form: str, epochs: int) -> dict[str, Any]:
    """Time a codec's own decoder, one thread, over members that lie in memory."""
    import blosc2
    import simplejpeg

    def frame(data: bytes) -> np.ndarray:
        opened = blosc2.ndarray_from_cframe(data)
        opened.schunk.dparams = blosc2.DParams(nthreads=1)
        return opened[...]

    decode: Callable[[bytes], np.ndarray] = frame if form == "b2nd" else simplejpeg.decode_jpeg
    field = {"b2nd": ".ct.b2nd", "jpg": ".jpg"}[form]
    key = f"codec {form}", 0
    if key not in _kept:
        held = []
        for path in sorted((Path(root) / BUILDS[form] / "media").glob("*.tar")):
            with tarfile.open(path) as tar:
                held += [tar.extractfile(m).read() for m in tar if m.name.endswith(field)]  # type: ignore[union-attr]
        _kept[key] = lambda: ([decode(data)] for data in held)
    return clock.timed(_kept[key], epochs=epochs)


# patches --------------------------------------------------------------------------------------------------------------


def patches(root: str, task: str, size: list[int], epochs: int) -> dict[str, Any]:
    """Time patches of one big volume, one a step, each at a place of its own, and count the bytes read for them."""
    from medloom import ShardStream

    stream = ShardStream(
        str(Path(root) / "big" / "build"), seed=1, global_batch=1, where={"task": task}, roi=tuple(size)
    )
    clock.count(_arrays(batch) for batch in stream)
    before = _fetched(stream)
    took = clock.timed(lambda: (_arrays(batch) for batch in stream), epochs=epochs, warm=False)
    return took | {"fetched": _fetched(stream) - before}


def _fetched(stream: Any) -> float:
    told = stream.meter.snapshot()
    return float(told["bytes_per_s"] * told["step_s"] * told["steps"])


def patches_nii_gz(root: str, number: int, size: list[int], many: int, how: str) -> dict[str, Any]:
    """Time patches of the same volume as .nii.gz: by nibabel's own slicing, or out of the whole, inflated at once."""
    import nibabel

    path = Path(root) / "big" / f"{number}.nii.gz"
    shape = nibabel.load(path).shape
    rng = np.random.default_rng(0)

    def one() -> Iterator[list[np.ndarray]]:
        for _ in range(many):
            first = [int(rng.integers(0, n - p + 1)) for n, p in zip(shape, size[::-1], strict=True)]
            box = tuple(slice(f, f + p) for f, p in zip(first, size[::-1], strict=True))
            if how == "nibabel":
                yield [np.asarray(nibabel.load(path).dataobj[box])]
            else:
                whole = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
                yield [np.asarray(whole.dataobj)[box]]

    return clock.timed(one, epochs=1, warm=False) | {"fetched": many * path.stat().st_size}


# sharing, resume, order -----------------------------------------------------------------------------------------------


def shared(root: str, task: str, batch: int, epochs: int) -> dict[str, Any]:
    """Time steps that hold a whole epoch of a task: all its examples, whose media may be the same."""
    stream = _stream(Path(root), "b2nd", task=task, global_batch=batch)
    return clock.timed(lambda: (_unlike(_arrays(batch)) for batch in stream), epochs=epochs)


def _unlike(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Each array once, whoever shares it."""
    return list({array.__array_interface__["data"][0]: array for array in arrays}.values())


def resume(root: str, t: int) -> dict[str, Any]:
    """Time from nothing open to the first batch behind draw `t` of a run, imports apart."""
    state = _stream(Path(root), "b2nd").state_dict(after=t // BATCH - 1)
    started, cpu = time.perf_counter(), time.process_time()
    stream = _stream(Path(root), "b2nd")
    stream.load_state_dict(state)
    batch = next(iter(stream))
    took = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    assert batch.step == t // BATCH
    return took | {"state_bytes": len(json.dumps(state))}


def order(n: int, at: int, count: int) -> dict[str, Any]:
    """Time which of `n` rows a step of `count` draws takes, far into a run, the first time that it is asked."""
    from medloom.model.order import Shuffled, key_of

    started = time.perf_counter()
    members = Shuffled(n, key_of(1, "bench")).members(np.arange(at, at + count, dtype=np.uint64))
    return {"wall": time.perf_counter() - started, "unlike": len(np.unique(members)), "largest": int(members.max())}


def shuffle(root: str, how: str, epochs: int, span: int, wide: int) -> dict[str, Any]:
    """Count how many shards `span` draws in a row come from, and `wide` draws; no bytes of media are read."""
    stream = _stream(Path(root), "rows", shuffle=how, global_batch=span)
    parts = stream.timeline.newest.source.rows["part"].combine_chunks().dictionary_encode().indices.to_numpy()
    drawn = np.concatenate([stream.timeline.step(n).plan.rows for n in range(epochs * len(stream))])
    shards = parts[drawn]
    return {
        "span": _unlike_in(shards, span), "wide": _unlike_in(shards, wide),
        "uniform": _uniform(np.bincount(parts), span), "drawn": len(drawn), "shards": int(parts.max()) + 1,
    }  # fmt: skip


def _unlike_in(shards: np.ndarray, span: int) -> float:
    return float(np.mean([len(np.unique(shards[i : i + span])) for i in range(0, len(shards) - span + 1, span)]))


def _uniform(sizes: np.ndarray, span: int) -> float:
    """Expected number of shards among `span` rows that are drawn at random, none twice."""
    total, left_out = int(sizes.sum()), np.ones(len(sizes))
    for i in range(span):
        left_out *= (total - sizes - i) / (total - i)
    return float(np.sum(1 - left_out))


# writing and walking --------------------------------------------------------------------------------------------------


def write(how: str, shape: list[int], many: int) -> dict[str, Any]:
    """Time arrays in memory to a tar on disk with its index, in processor time; one array goes before, untimed."""
    from tests.bench import stream_data as data

    for seed in range(len(_made), many):
        _made.append(data.ct((shape[0], shape[1], shape[2]), seed))
    _written(how, _made[:1])
    started = time.process_time()
    stored = _written(how, _made[:many])
    cpu = time.process_time() - started
    return {"cpu": cpu, "samples": many, "bytes": sum(a.nbytes for a in _made[:many]), "stored": stored}


_made: list[np.ndarray] = []


def _written(how: str, arrays: list[np.ndarray]) -> int:
    """Write `arrays` to a folder that is thrown away; return how many bytes they took."""
    from tests.bench import stream_data as data

    with tempfile.TemporaryDirectory() as folder:
        if how == "ours":
            media = [data.medium(f"w{n}", data.volume(array)) for n, array in enumerate(arrays)]
            _write_shard(Path(folder), media)
        else:
            as_bytes = data.FOREIGN[how]
            data.write_tar(Path(folder) / "0.tar", ((f"w{n}.{how}", as_bytes(a)) for n, a in enumerate(arrays)))
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _write_shard(folder: Path, media: list[Any]) -> None:
    from medloom.pipelines.stages.encode import encode
    from medloom.schemas.shard import ShardName, ShardWriter
    from medloom.schemas.store import Store

    with ShardWriter(Store(str(folder)), ShardName("train", 0)) as writer:
        for medium in media:
            writer.add(encode(medium, split="train"))
        writer.close()


def walk(root: str, how: str) -> dict[str, Any]:
    """Time finding every member of a tar: by our header walk, or by tarfile."""
    from medloom.schemas.tar_walk import walk as headers

    path = Path(root) / "many.tar"
    started = time.process_time()
    if how == "ours":
        file = os.open(path, os.O_RDONLY)
        try:
            found = headers(lambda a, b: os.pread(file, b - a, a), size=path.stat().st_size, where=str(path))
        finally:
            os.close(file)
        many, last = len(found.names), int(found.offsets[-1])
    else:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        many, last = len(members), members[-1].offset_data
    return {"cpu": time.process_time() - started, "samples": many, "last": last}


if __name__ == "__main__":
    clock.serve({
        "ready": ready, "read": read, "limit": limit, "codec": codec, "patches": patches,
        "patches_nii_gz": patches_nii_gz, "shared": shared, "resume": resume, "order": order, "shuffle": shuffle,
        "write": write, "walk": walk,
    })  # fmt: skip
