"""Plain ustar tars with an index row per member: written in one pass, the same bytes for the same samples."""

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import IO, Any

import crc32c
import pyarrow as pa

from medloom.schemas.errors import FormatError, Refused
from medloom.schemas.keys import is_key
from medloom.schemas.medium import LAYOUTS, Member, Sample
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, INDEX, measured_cell

BLOCK = 512


@dataclass(frozen=True, order=True)
class ShardName:
    """A shard is a list of units of one split; its task writes one tar per layout that occurs, same number."""

    split: str
    number: int

    def __str__(self) -> str:
        return f"{self.split}-{self.number:06d}"

    def tar(self, layout: str) -> str:
        """Path of the tar of `layout` inside a build."""
        return f"media/{self.split}-{layout}-{self.number:06d}.tar"

    def index(self, layout: str) -> str:
        """Path of the index of that tar."""
        return f"index/{self.split}-{layout}-{self.number:06d}.parquet"

    @property
    def ledger(self) -> str:
        """Path of the file that commits the shard."""
        return f"ledger/{self}.json"


def shard_name(text: str) -> ShardName:
    """Return the shard of "train-000012".

    Raises:
        FormatError: `text` is not a split and six digits.
    """
    split, _, number = text.rpartition("-")
    if not split or len(number) != 6 or not number.isdigit():
        raise FormatError(f"{text!r} is not the name of a shard, such as train-000000")
    return ShardName(split, int(number))


@dataclass(frozen=True)
class _Spooled:
    """A member whose bytes wait in the spool."""

    member: Member
    at: int
    size: int
    crc32c: int


class ShardWriter:
    """Collects samples in any order and writes, on `close`, a tar and an index for each layout that occurred.

    Members of a sample are adjacent in the order of `LAYOUTS`, keys sorted, owners, times and modes constant. Samples
    wait in a spool file, so that memory holds one of them.
    """

    def __init__(self, store: Store, name: ShardName, *, spool_folder: str | None = None):
        self.store, self.name = store, name
        self._spool: IO[bytes] = tempfile.TemporaryFile(dir=spool_folder)  # noqa: SIM115
        self._samples: dict[str, tuple[Sample, dict[str, _Spooled]]] = {}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def add(self, sample: Sample) -> None:
        """Take one sample.

        Raises:
            Refused("key.…"): its key is not a key, or is taken in this shard.
            ValueError: its members are not those of its layout.
        """
        if not is_key(sample.key):
            raise Refused("key.form", f"{sample.key!r} is not 1 to 64 of a-z, 0-9, _ and -")
        if sample.key in self._samples:
            raise Refused("key.duplicate", f"{sample.key} is the key of two media")
        if tuple(sample.members) != LAYOUTS[sample.layout]:
            raise ValueError(f"{sample.key}: members {tuple(sample.members)} are not those of {sample.layout}")
        spooled = {}
        for field, member in sample.members.items():
            at = self._spool.tell()
            self._spool.write(member.data)
            spooled[field] = _Spooled(replace(member, data=b""), at, len(member.data), crc32c.crc32c(member.data))
        self._samples[sample.key] = (replace(sample, members={}), spooled)

    def close(self) -> dict[str, dict[str, Any]]:
        """Write tars and indexes; return for each layout {"samples", "size", "sha256", "index_sha256"}."""
        written: dict[str, dict[str, Any]] = {}
        for layout in sorted({sample.layout for sample, _ in self._samples.values()}):
            keys = sorted(key for key, (sample, _) in self._samples.items() if sample.layout == layout)
            digest = hashlib.sha256()
            with self.store.writing(self.name.tar(layout)) as file:
                rows = list(self._write_tar(file, keys, digest))
                size = file.tell()
            self.store.write_table(
                self.name.index(layout),
                pa.Table.from_pylist(rows, schema=INDEX),
                {"format_version": str(FORMAT_VERSION), "tar_sha256": digest.hexdigest()},
            )
            written[layout] = {
                "samples": len(keys),
                "size": size,
                "sha256": digest.hexdigest(),
                "index_sha256": hashlib.sha256(self.store.read(self.name.index(layout))).hexdigest(),
            }
        return written

    def _write_tar(self, file: IO[bytes], keys: list[str], digest: Any) -> Iterator[dict[str, Any]]:
        offset = 0

        def put(data: bytes) -> None:
            nonlocal offset
            file.write(data)
            digest.update(data)
            offset += len(data)

        for key in keys:
            sample, members = self._samples[key]
            for field, spooled in members.items():
                put(_header(f"{key}.{field}", spooled.size))
                at = offset
                self._spool.seek(spooled.at)
                put(self._spool.read(spooled.size))
                put(b"\0" * (-spooled.size % BLOCK))
                yield _index_row(sample, field, spooled, at)
        put(b"\0" * (2 * BLOCK))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(format=tarfile.USTAR_FORMAT)


def _index_row(sample: Sample, field: str, spooled: _Spooled, offset: int) -> dict[str, Any]:
    member = spooled.member
    return {
        "key": sample.key,
        "field": field,
        "offset": offset,
        "size": spooled.size,
        "crc32c": spooled.crc32c,
        "shape": list(member.shape),
        "dtype": member.dtype,
        "spacing_mm": list(member.spacing_mm),
        "chunk_shape": list(member.chunk_shape),
        "block_shape": list(member.block_shape),
        "chunk_offsets": list(member.chunk_offsets),
        **{**sample.columns, "measured": measured_cell(sample.columns["measured"])},
    }


def read_member(store: Store, tar: str, row: dict[str, Any]) -> bytes:
    """Return the bytes of the member that an index row speaks of, checked against its crc32c.

    Raises:
        FormatError: they are not what the index says.
    """
    data = store.read(tar, row["offset"], row["offset"] + row["size"])
    if len(data) != row["size"] or crc32c.crc32c(data) != row["crc32c"]:
        raise FormatError(
            f"{store.path(tar)}: {row['key']}.{row['field']} is not the bytes that its index row promises; "
            "run `medloom lint` on the build"
        )
    return data
