"""Finding: something on disk that is not as promised, and what mends it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from medloom.schemas.store import Store

PIECE = 4 << 20
NAMED = 5  # keys in one finding
MEDIA_AGAIN = "delete the shard's ledger and run `medloom media` again, which writes the same bytes"
EXAMPLES_AGAIN = "delete it and run `medloom examples` again"
BUILD_AGAIN = "run the build again, which commits its present state, or restore the file"
RELEASE_AGAIN = "make a new release, or restore the file"
REPAIR = "`medloom lint --repair` writes it again"
REPAIR_MEDIA = f"run `medloom lint --repair`; where that cannot, {MEDIA_AGAIN}"


@dataclass(frozen=True)
class Finding:
    """Something on disk that is not as promised.

    Attributes:
        path: of the file, relative to the build, or with the folder of the releases before it.
        what: short.fixed.name of the promise.
        found: what is there instead, naming keys at most.
        mend: what to do about it.
    """

    path: str
    what: str
    found: str
    mend: str


def few(names: Sequence[object]) -> str:
    """Return the first names, and how many there are more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def sha256_of(store: Store, path: str) -> str:
    """Return the sha256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with store.fs.open(store.path(path), "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
