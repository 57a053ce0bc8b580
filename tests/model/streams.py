"""What tests of streams share."""

from itertools import islice

from medloom.schemas.release import append_overlay
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
