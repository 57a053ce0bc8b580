"""Places in the synthetic build, and ways to damage what stands there."""

import hashlib
import random
from pathlib import Path

from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.keys import canonical_json
from medloom.schemas.release import Release
from medloom.schemas.shard import ShardName
from medloom.schemas.token_counts import BYTES, tokens_part

TRAIN = ShardName("train", 0)
TAR, INDEX_PATH = TRAIN.tar("volume-seg"), TRAIN.index("volume-seg")
MANIFEST = "manifests/0001.json"
ARROW = "releases/0001/index/train-volume-seg.arrow"
BATCHES = "releases/0001/index/batches.parquet"


def release_of(build: Build) -> Release:
    return Release(build.url)


def files(build: Build) -> dict[str, bytes]:
    root = Path(build.url)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def flip(path: Path, at: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(bytes(data))


def row_of(build: Build, field: str) -> dict:
    return next(row for row in build.store.read_table(INDEX_PATH).to_pylist() if row["field"] == field)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(3).randbytes(path.stat().st_size))


def first_part(build: Build) -> str:
    task, print_ = build.tasks()[0]
    return build.example_parts(task, print_)[0]


def token_part(build: Build) -> str:
    return tokens_part(BYTES, first_part(build))


def recommit(build: Build, layout: str, index: bytes) -> None:
    """Commit another index of a tar, as if it had been written so."""
    build.store.write(TRAIN.index(layout), index)
    ledger = build.ledger(TRAIN)
    ledger["tars"][layout]["index_sha256"] = hashlib.sha256(index).hexdigest()
    build.store.write(TRAIN.ledger, (canonical_json(ledger) + "\n").encode())
    newest = build.manifest()
    manifests.commit(build.store, recipe=newest["recipe"], counts=newest["counts"], known={})
