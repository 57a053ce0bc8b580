"""Repair of an index: its rows are read again from the members of the tar, and stand only when they are the very bytes
that the ledger committed.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from typing import IO, Any

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloom.quality.phash import picture_phash
from medloom.quality.repair_tar import CannotRepair
from medloom.schemas import b2nd
from medloom.schemas.keys import sha256_hex
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store, parquet_bytes
from medloom.schemas.tables import FORMAT_VERSION, INDEX, measured_cell

FIRST_COLUMNS = 24  # of the first format; later ones only added columns at the end
_SAID = ("unit", "group", "split", "layout", "modality", "body_part", "plane", "source", "licence", "terms_id",
         "digest", "pixel_digest")  # fmt: skip
_ONLY_HERE = ("phash", "panels", "face", "labelled")  # columns that the json does not say, or not exactly


def rebuild_index(store: Store, shard: ShardName, layout: str, promised: dict[str, Any]) -> bytes:
    """Return the index of an intact tar as it was committed.

    Columns that the tar does not say are taken from the damaged index where they can still be read, tried with what
    the writer would have put, and proven by the sha256 of the whole.

    Args:
        promised: what the ledger says of the tar: sha256, index_sha256.

    Raises:
        CannotRepair: the rows made again are not those that were committed.
    """
    with store.fs.open(store.path(shard.tar(layout)), "rb") as file:
        rows = list(_rows(file))
    metadata = {"format_version": str(FORMAT_VERSION), "tar_sha256": promised["sha256"]}
    whole, guesses = pa.Table.from_pylist(rows, schema=INDEX), list(_guesses(store, shard.index(layout), rows))
    writers = _writers(store)
    for width in range(len(INDEX), FIRST_COLUMNS - 1, -1):
        for columns in guesses:
            data = parquet_bytes(_with(whole.select(range(width)), columns), metadata)
            for signed in _signed(data, writers):
                if sha256_hex(signed) == promised["index_sha256"]:
                    return signed
    raise CannotRepair(
        "its rows were read again from the tar, and are not the bytes that the ledger committed: facts that only the "
        "index held are lost, or another version of pyarrow wrote it"
    )


def _writers(store: Store) -> set[bytes]:
    """Return which versions of the Parquet library say that they wrote the indexes of a build."""
    found = set()
    for name in store.names("index"):
        try:
            with store.fs.open(store.path(f"index/{name}"), "rb") as file:
                found.add(pq.read_metadata(file).created_by.encode())
        except (OSError, ValueError):
            continue  # it is damaged, and one of those that are made again
    return found


def _signed(data: bytes, writers: set[bytes]) -> Iterator[bytes]:
    """Give a Parquet file as this version of the library wrote it, and as others would have signed it."""
    yield data
    ours = pq.read_metadata(io.BytesIO(data)).created_by.encode()
    at = data.rindex(ours)
    for theirs in sorted(writers):
        if theirs != ours and len(theirs) == len(ours):
            yield data[:at] + theirs + data[at + len(ours) :]


def _with(table: pa.Table, columns: dict[str, list[Any]]) -> pa.Table:
    for name, values in columns.items():
        if name in table.column_names:
            field = INDEX.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def _rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Give the rows of the members, in order, but for `_ONLY_HERE`."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        sample: list[tuple[str, str, int, bytes]] = []
        for member in tar:
            key, _, field = member.name.partition(".")
            if sample and sample[0][0] != key:
                yield from _of_sample(sample)
                sample = []
            content = tar.extractfile(member)
            sample.append((key, field, member.offset_data, content.read() if content else b""))
        if sample:
            yield from _of_sample(sample)


def _of_sample(sample: list[tuple[str, str, int, bytes]]) -> Iterator[dict[str, Any]]:
    try:
        facts = json.loads(next(data for _, field, _, data in sample if field == "json"))
        columns = {name: facts[name] for name in _SAID} | {
            "measured": measured_cell(facts["measured"]), "labels": facts.get("labels", []),
            "affine": [v for line in facts.get("affine", []) for v in line], "units": facts.get("units", ""),
            "voxel_digest": facts.get("voxel_digest", ""), "face": facts.get("face", ""), "panels": [],
            "labelled": facts["labelled"].split(", ") if facts.get("labelled") else [], "phash": _phash(facts, sample),
        }  # fmt: skip
        for key, field, offset, data in sample:
            place = {"key": key, "field": field, "offset": offset, "size": len(data), "crc32c": crc32c.crc32c(data)}
            yield place | _array(field, data, facts) | columns
    except (StopIteration, KeyError, ValueError, OSError, RuntimeError) as fault:
        raise CannotRepair(f"the sample {sample[0][0]} does not say what its index said: {fault!r}") from fault


def _phash(facts: dict[str, Any], sample: list[tuple[str, str, int, bytes]]) -> str:
    data = next((data for _, field, _, data in sample if field == facts["layout"]), None)
    return "" if data is None else picture_phash(_pixels(data))


def _pixels(data: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    pixels = np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _array(field: str, data: bytes, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the row of a member says of the array in it."""
    nothing: dict[str, Any] = {
        "shape": [], "dtype": "", "spacing_mm": [], "chunk_shape": [], "block_shape": [], "chunk_offsets": [],
        "chunk_sizes": [], "chunk_crc32c": [],
    }  # fmt: skip
    if field == "json":
        return nothing
    if field.endswith(".b2nd"):
        import blosc2

        frame, table = blosc2.ndarray_from_cframe(data), b2nd.chunk_table(data)
        return {
            "shape": list(frame.shape), "dtype": frame.dtype.name, "spacing_mm": facts["spacing_mm"],
            "chunk_shape": list(frame.chunks), "block_shape": list(frame.blocks), "chunk_offsets": list(table.offsets),
            "chunk_sizes": list(table.sizes), "chunk_crc32c": list(table.crc32c),
        }  # fmt: skip
    if field == facts["layout"]:
        return nothing | {"shape": [facts["height"], facts["width"], facts["channels"]], "dtype": "uint8"}
    return nothing | {"shape": list(_pixels(data).shape), "dtype": "uint8"}


def _guesses(store: Store, path: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, list[Any]]]:
    """Give what the columns that the tar does not say may have been, the likely first."""
    made = {name: [row[name] for row in rows] for name in _ONLY_HERE}
    choices: list[list[list[Any]]] = []
    for name in _ONLY_HERE:
        empty: Any = [] if name in ("panels", "labelled") else ""
        tried = [made[name], _salvaged(store, path, name, len(rows)), [empty] * len(rows)]
        choices.append([values for i, values in enumerate(tried) if values is not None and values not in tried[:i]])
    for picked in itertools.product(*choices):
        yield dict(zip(_ONLY_HERE, picked, strict=True))


def _salvaged(store: Store, path: str, name: str, rows: int) -> list[Any] | None:
    """Return a column of a damaged index where it can still be read."""
    try:
        values = store.read_table(path, [name])[name].to_pylist()
    except (OSError, ValueError, KeyError):
        return None
    return values if len(values) == rows else None
