"""Stored media as they may leave a release: pixels, voxels, masks and what is said of each, one medium at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medloom.pipelines.exports.papers import PICTURES, shard_of
from medloom.pipelines.outgoing import Outgoing
from medloom.schemas import b2nd
from medloom.schemas.build import Build, conform
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import EXAMPLE
from medloom.schemas.volume import Label, Volume


@dataclass(frozen=True)
class StoredMedium:
    """A medium that may leave.

    Attributes:
        build, shard: where it stands.
        members: its rows of the index by field.
        examples: rows that may leave and refer to it, as in `EXAMPLE`, tasks by name.
    """

    build: Build
    shard: ShardName
    members: dict[str, dict[str, Any]]
    examples: tuple[dict[str, Any], ...]

    @property
    def row(self) -> dict[str, Any]:
        """Of the index, of the member that says what it is."""
        return self.members["json"]

    @property
    def key(self) -> str:
        """Of the medium."""
        return str(self.row["key"])

    @property
    def is_picture(self) -> bool:
        """Whether it is a JPEG or PNG, and no volume."""
        return self.row["layout"] in PICTURES

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the tar says of it, its origin among it."""
        return dict(json.loads(self._bytes("json")))

    def picture(self) -> bytes:
        """The encoded bytes of a picture, as stored."""
        return self._bytes(self.row["layout"])

    def volume(self) -> Volume:
        """The voxels of a volume, as stored."""
        return Volume(b2nd.decode(self._bytes("ct.b2nd")), np.array(self.facts["affine"]), units=self.facts["units"])

    def masks(self) -> tuple[Volume, ...]:
        """The label maps of a volume, one per layer, on its grid; () when it has none."""
        if "seg.b2nd" not in self.members:
            return ()
        layers, affine = b2nd.decode(self._bytes("seg.b2nd")), np.array(self.facts["affine"])
        return tuple(
            Volume(array, affine, units="label", kind="label", labels=self._labels(layer))
            for layer, array in enumerate(layers)
        )

    @property
    def labels(self) -> list[dict[str, Any]]:
        """The table of its masks' classes: layer, value, name, side, stated, voxels, volume_ml, box."""
        return list(self.facts.get("labels") or ())

    def _labels(self, layer: int) -> dict[int, Label]:
        mine = [row for row in self.labels if row["layer"] == layer]
        return {row["value"]: Label(row["name"], row.get("side", ""), row.get("stated", "")) for row in mine}

    def _bytes(self, field: str) -> bytes:
        return self.build.member(self.members[field], self.shard)


def stored_media(out: Outgoing) -> Iterator[StoredMedium]:
    """Give the media of a release that may leave, shard by shard, keys sorted."""
    parts: dict[ShardName, dict[str, list[int]]] = {}
    for part, row in zip(out.rows["part"].to_pylist(), out.rows["row"].to_pylist(), strict=True):
        parts.setdefault(shard_of(part), {}).setdefault(part, []).append(row)
    for shard, allowed in sorted(out.media.items()):
        examples = _examples(out.build, parts.get(shard, {}))
        members: dict[str, dict[str, dict[str, Any]]] = {}
        for row in out.build.index(shard).to_pylist() if allowed else ():
            members.setdefault(row["key"], {})[row["field"]] = row
        for key in sorted(allowed):
            yield StoredMedium(out.build, shard, members[key], tuple(examples.get(key, ())))


def _examples(build: Build, places: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of examples that may leave, by each medium that they refer to."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part, rows in sorted(places.items()):
        table = conform(build.store.read_table(part), EXAMPLE)
        for row in table.take(sorted(rows)).to_pylist():
            for key in row["media"] or ():
                found.setdefault(key, []).append(row)
    return found
