"""Hugging Face: Parquet with images and volumes in it, which `load_dataset` gives decoded."""

import json
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from medloom.pipelines.exports.stored_examples import MASK, NIFTI, StoredExample, examples_with_files
from medloom.pipelines.exports.writing import Writing
from medloom.schemas.tables import EXAMPLE

OF_SCANS = True  # they go back to whoever declared them public
FILE_BYTES, GROUP_BYTES = 512 << 20, 64 << 20  # of media, from which on a file and a row group are ended
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FILES = {"images": "Image", "volumes": "Nifti", "masks": "Nifti"}  # columns of files, and what they hold
ROW = pa.schema([
    *(field for field in EXAMPLE if field.name not in ("split", "media")), ("attribution", pa.string()),
    *((name, pa.list_(_FILE)) for name in _FILES),
    *((f"{name}_media", pa.list_(pa.string())) for name in _FILES),
])  # fmt: skip


def export(to: Writing) -> None:
    """Hugging Face: a row per example in Parquet, its pictures and volumes in it, for `load_dataset(FOLDER, TASK)`.

    - `TASK/SPLIT-00000.parquet`: rows with `turns` (`parts` have `text`, or `media` with `box`), `regions`, `labels`,
      `evidence`, `measured`, terms and whom to name.
    - `images`: pictures as stored, decoded by the reader; `images_media` the key of each, by which parts and regions
      name it. `volumes` and `volumes_media`: NIfTI with voxels as stored and their affine; `masks` and `masks_media`:
      label maps of those volumes that have one, 4-D when they have several layers.
    - `media.jsonl`, `articles.jsonl`: a line per medium and per article with licence and whom to name.

    Rows stand in no order of meaning. A medium is copied into the row of every example that refers to it.
    """
    to.licensed = "examples and media"
    with _Tables(to) as tables:
        for example, made in examples_with_files(to):
            tables.add(example.row["task"], example.shard.split, _row(example, made), sum(map(_size, made)))
            to.noted["copies of media beyond the first, each in the row of an example"] += sum(
                to.knows(medium) for medium in example.media
            )
    to.configs = tables.configs()


def _row(example: StoredExample, made: list[dict[str, bytes]]) -> dict[str, Any]:
    row: dict[str, Any] = {name: example.row.get(name) for name in ROW.names}
    row["attribution"] = example.attribution
    for column in _FILES:
        row |= {column: [], f"{column}_media": []}
    for medium, files in zip(example.media, made, strict=True):
        for ending, data in files.items():
            column = {NIFTI: "volumes", MASK: "masks"}.get(ending, "images")
            row[column].append({"bytes": data, "path": f"{medium.key}.{ending}"})
            row[f"{column}_media"].append(medium.key)
    return row


def _size(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


class _Table:
    """One Parquet file that is being written."""

    def __init__(self, to: Writing, path: str):
        self._open = ExitStack()
        file: IO[bytes] = self._open.enter_context(to.writing(path))
        self._writer = pq.ParquetWriter(file, ROW.with_metadata(features()), compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._waiting = 0
        self.size = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        """Take a row whose files are of `size` bytes."""
        self._rows.append(row)
        self._waiting, self.size = self._waiting + size, self.size + size
        if self._waiting >= GROUP_BYTES or len(self._rows) >= 10_000:
            self._write()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=ROW))
        self._rows, self._waiting = [], 0

    def close(self) -> None:
        """Write what waits, and the end."""
        self._write()
        self._writer.close()
        self._open.close()

    def drop(self, value: BaseException | None) -> None:
        """Leave no file."""
        try:
            self._writer.close()  # else it would write its end into the closed file when it is forgotten
        finally:
            self._open.__exit__(type(value) if value else None, value, None)


class _Tables:
    """The files that are being written, one per task and split, each ended at `FILE_BYTES`."""

    def __init__(self, to: Writing):
        self._to = to
        self._open: dict[tuple[str, str], _Table] = {}
        self._written: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, table in sorted(self._open.items(), key=lambda item: item[0]):
            if kind is None:
                table.close()
            else:
                table.drop(value)

    def add(self, task: str, split: str, row: dict[str, Any], size: int) -> None:
        """Write a row."""
        of = (task, split)
        if of not in self._open:
            number = self._written.get(of, 0)
            self._open[of] = _Table(self._to, f"{task}/{split}-{number:05d}.parquet")
            self._written[of] = number + 1
        self._open[of].add(row, size)
        if self._open[of].size >= FILE_BYTES:
            self._open.pop(of).close()

    def configs(self) -> dict[str, dict[str, str]]:
        """Return the pattern of the files of each task and split."""
        found: dict[str, dict[str, str]] = {}
        for task, split in sorted(self._written):
            found.setdefault(task, {})[split] = f"{task}/{split}-[0-9]*.parquet"
        return found


def features() -> dict[str, str]:
    """Return the metadata by which `datasets` knows the types of columns."""
    types = {field.name: _feature(field.type) for field in ROW}
    types |= {name: {"_type": "List", "feature": {"_type": kind}} for name, kind in _FILES.items()}
    return {"huggingface": json.dumps({"info": {"features": types}})}


def _feature(type_: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(type_):
        return {"_type": "List", "feature": _feature(type_.value_type)}
    if pa.types.is_struct(type_):
        return {field.name: _feature(field.type) for field in type_.fields}
    return {"_type": "Value", "dtype": {"double": "float64"}.get(str(type_), str(type_))}
