"""Adoption: what the user says of finished shards that were built with another fingerprint, and its record."""

import json
from dataclasses import dataclass
from typing import Any

from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import canonical_json
from medloom.schemas.store import Store

ADOPTED = "plan/adopted.jsonl"


@dataclass(frozen=True)
class Rebuild:
    """What the user says of finished shards that were built with another fingerprint.

    Attributes:
        all: build them again.
        adopt: accept those of this fingerprint (or a prefix of 12 digits) as they are …
        excepted: … but for these shards ("train-000003"), which are built again.
        because: why; it is kept in the plan.
    """

    all: bool = False
    adopt: str = ""
    excepted: tuple[str, ...] = ()
    because: str = ""


def check(rebuild: Rebuild, build: Build) -> None:
    """Check that what the user says fits together and names shards that there are.

    Raises:
        ConfigError: it does not.
    """
    if rebuild.all and rebuild.adopt:
        raise ConfigError("--rebuild builds shards again and --adopt keeps them: give one of the two")
    if (rebuild.excepted or rebuild.because) and not rebuild.adopt:
        raise ConfigError("--except and --because belong to --adopt FINGERPRINT")
    unknown = sorted(set(rebuild.excepted) - {str(shard) for shard in build.shards})
    if unknown:
        raise ConfigError(f"--except {unknown[0]}: {build.url} has no such shard; they are named like train-000000")


def adopt(store: Store, rebuild: Rebuild, wanted: str) -> None:
    """Record that shards of an older fingerprint stand for the present one."""
    found = {ledger["media_fingerprint"] for _, ledger in Build(store.url).ledgers()}
    matching = sorted(f for f in found if f.startswith(rebuild.adopt) and len(rebuild.adopt) >= 12)
    if len(matching) != 1:
        raise ConfigError(
            f"no one fingerprint of this build's shards starts with {rebuild.adopt!r}; they have "
            + ", ".join(sorted(f[:12] for f in found))
        )
    if not rebuild.because:
        raise ConfigError("adopting shards needs the reason: --because TEXT")
    line = {"adopted": matching[0], "for": wanted, "except": sorted(rebuild.excepted), "because": rebuild.because}
    lines = store.read(ADOPTED).decode() if store.exists(ADOPTED) else ""
    if canonical_json(line) not in lines.splitlines():
        store.write(ADOPTED, (lines + canonical_json(line) + "\n").encode())


def adoptions(store: Store) -> list[dict[str, Any]]:
    """Return the adoptions recorded so far."""
    return [json.loads(line) for line in store.read(ADOPTED).decode().splitlines()] if store.exists(ADOPTED) else []
