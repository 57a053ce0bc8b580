"""What tests of streams share."""

import hashlib
from itertools import islice
from pathlib import Path

from medloom.model.reader import Reader, ReadOptions
from medloom.model.streamed import StreamedExample, Wish
from medloom.schemas.release import Release, append_overlay
from medloom.schemas.store import Store


def keys(stream, steps: int) -> list[tuple[str, ...]]:
    """Example ids of the next batches, across epochs."""
    found: list[tuple[str, ...]] = []
    while len(found) < steps:
        found += [batch.keys for batch in islice(stream, steps - len(found))]
    return found


def withhold(build: str, scope: str, subject: str, state: str = "withheld") -> None:
    row = {"scope": scope, "id": subject, "state": state, "reason": "test", "by": "curator:test"}
    append_overlay(Store(f"{build}/releases"), [row])


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file, in place."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def fingerprint(streamed: StreamedExample) -> str:
    """Digest of an example with all that its media hold."""
    told = hashlib.sha256(repr(streamed.example).encode())
    for key, data in sorted(streamed.media.items()):
        told.update(f"{key} {data.layout} {data.content.shape} {data.content.dtype} {data.box}".encode())
        told.update(data.content.tobytes() + data.text + (b"" if data.masks is None else data.masks.tobytes()))
    return told.hexdigest()


def truth(build: str, *, masks: bool = False) -> dict[str, str]:
    """Fingerprint of every example of a release, by its id."""
    release = Release(build)
    reader = Reader(release, ReadOptions(masks=masks))
    found = [reader.read_many([Wish(row)])[0] for row in range(release.rows.num_rows)]
    return {streamed.example.example_id: fingerprint(streamed) for streamed in found}
