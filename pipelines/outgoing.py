"""Outgoing: what of a release may leave it: what is live and what its terms let go; one rule for publish and export."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.origin import TERMS
from medloom.schemas.release import Release, States, read_overlay
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import RELEASE_ROW, STATE

UNSTATED = "terms.unknown"  # the reason by which a policy withholds what states no licence
# Reasons by which a policy finds a medium unfit, or superfluous, to train on: its owner gets it back all the same.
UNFIT = ("affine.", "ct.", "duplicate.", "media.", "modality.", "near_duplicate.", "size.", "spacing.", "text.",
         "turns.", "values.")  # fmt: skip
PRIVATE = "private"  # the terms of scans for which nobody stated any


@dataclass(frozen=True)
class Outgoing:
    """What may leave of one build's release; what stays back is counted by reason.

    Attributes:
        release, build: of which it is; the build is still as the release pins it.
        split: the one split that is meant, "" for all.
        rows: rows of the release that may leave, with all their media.
        media: keys that may leave, by shard.
        rows_back, media_back: how many stay, by reason.
    """

    release: Release
    build: Build
    split: str
    rows: pa.Table
    media: dict[ShardName, set[str]]
    rows_back: Counter[str]
    media_back: Counter[str]

    @property
    def n_media(self) -> int:
        """How many media may leave."""
        return sum(map(len, self.media.values()))

    def withheld(self) -> dict[str, str]:
        """Return why the release's policy holds a medium back, by key; the first reason where there are several."""
        said = conform(self.release.store.read_table(f"{self.release.name}/states.parquet"), STATE).to_pylist()
        return {row["id"]: row["reason"] for row in reversed(said) if row["scope"] == "medium"}

    def why_nothing(self) -> str:
        """Say by reason what stays back."""
        return ", ".join(f"{n} {reason}" for reason, n in (self.media_back + self.rows_back).items()) or "it is empty"


def outgoing(
    release: Release, *, split: str = "", unbound: bool = False, as_declared: bool = False, unfit: bool = False
) -> Outgoing:
    """Return what may leave of a release, or of one split of it.

    A medium may when it is live, its terms permit it (as it is, where they forbid changes), and a live example refers
    to it, or none at all does; an example when it is live, its terms permit it and all its media may.

    Args:
        unbound: what leaves will hold neither text nor pixels, so that terms keep nothing back: what is withheld only
            because it states no licence counts as live.
        as_declared: what leaves is scans for their owner: those of "private" terms may when their source was declared
            public by deidentify=off; what was de-identified stays.
        unfit: what leaves is a conversion and no training data: what the policy found unfit to train on counts as live.

    Raises:
        ConfigError: the release has several builds, or no such split.
        FormatError: the build has moved on since the release.
    """
    builds = release.builds()
    if len(builds) != 1:
        raise ConfigError(
            f"release {release.number} is made of {len(builds)} builds; publish one build's release at a time"
        )
    lifted = (*((UNSTATED,) if unbound else ()), *(UNFIT if unfit else ()))
    build, states = _as_released(builds[0], release), _states_but(release, lifted) if lifted else release.states()
    rows = _of_split(release, split)
    live = pc.equal(states.of_rows(rows), "live")
    media_back, rows_back = Counter[str](), Counter[str]()
    bound = _Bound(unbound, as_declared, unfit)
    media = {
        shard: _media_out(build, shard, rows, live, states, media_back, bound)
        for shard, _ in build.ledgers()
        if split in ("", shard.split)
    }
    kept = {key for keys in media.values() for key in keys}
    rows = _rows_out(rows, states, kept, rows_back, bound)
    return Outgoing(release, build, split, rows, media, rows_back, media_back)


@dataclass(frozen=True)
class _Bound:
    """Whom terms bind; see `outgoing`."""

    unbound: bool
    as_declared: bool
    unfit: bool

    def frees(self, build: Build, shard: ShardName, row: dict[str, Any]) -> bool:
        """Whether the terms of a medium keep nothing back."""
        if self.unbound or not (self.as_declared and row["terms_id"] == PRIVATE):
            return self.unbound
        return bool(json.loads(build.member(row, shard))["key_id"] == "none")


def _as_released(build: Build, release: Release) -> Build:
    """Return the build if it still is in the state that the release pins: what came later passed no gate."""
    pinned, newest = release.facts["builds"][0], build.manifest()
    if manifests.digest_of_manifest(newest) != pinned["manifest"]:
        raise FormatError(
            f"release {release.number} is of manifest {pinned['number']} of {build.url}, which has manifest "
            f"{newest['number']} now; make a new release with `medloom release {build.url}`, then publish that"
        )
    return build


def _of_split(release: Release, split: str) -> pa.Table:
    known = sorted(set(pc.unique(release.rows["split"]).to_pylist()))
    if split and split not in known:
        raise ConfigError(f"release {release.number} has no split {split!r}; it has {', '.join(known) or 'none'}")
    rows = release.rows.filter(pc.equal(release.rows["split"], split)) if split else release.rows
    return rows.combine_chunks()  # positions in lists are counted by chunk


def _states_but(release: Release, lifted: tuple[str, ...]) -> States:
    """Return the release's states without those that its policy gives for a reason that starts with one of `lifted`."""
    said = conform(release.store.read_table(f"{release.name}/states.parquet"), STATE)
    counts = pa.array([not reason.startswith(lifted) for reason in said["reason"].to_pylist()], pa.bool_())
    return States.of(said.filter(counts), read_overlay(release.store))


def _media_out(
    build: Build,
    shard: ShardName,
    rows: pa.Table,
    live: pa.Array,
    states: States,
    back: Counter[str],
    bound: _Bound,
) -> set[str]:
    """Return the keys of a shard that may go out, and count the others by reason."""
    index = build.index(shard)
    media = index.filter(pc.equal(index["field"], "json"))
    named = pc.is_in(media["key"], value_set=pc.list_flatten(rows["media"]))
    spoken = pc.is_in(media["key"], value_set=pc.list_flatten(rows.filter(live)["media"]))
    of_media = states.of_rows(as_rows(media)).to_pylist()
    allowed = set()
    columns = zip(media.to_pylist(), of_media, named.to_pylist(), spoken.to_pylist(), strict=True)
    for row, state, is_named, is_spoken in columns:
        terms = TERMS.get(row["terms_id"], TERMS["unknown"])
        if state != "live":
            back[state] += 1
        elif not terms.redistribution and not bound.frees(build, shard, row):
            back[f"terms.{row['terms_id']}"] += 1
        elif not terms.derivatives and not bound.frees(build, shard, row) and _is_changed(build, shard, row):
            back[f"terms.{row['terms_id']}.changed"] += 1
        elif is_named and not is_spoken and not bound.unfit:
            back["no_live_example"] += 1
        else:
            allowed.add(row["key"])
    return allowed


def as_rows(media: pa.Table) -> pa.Table:
    """Return media as release rows of one medium each, so that states of groups and queries find them too."""
    own = {name: media[name] for name in ("source", "group", "split", "licence", "terms_id")}
    lists = {"media": "key", "layouts": "layout", "modalities": "modality"}
    own |= {name: pa.array([[value] for value in media[of].to_pylist()]) for name, of in lists.items()}
    columns = [own[f.name].cast(f.type) if f.name in own else pa.nulls(media.num_rows, f.type) for f in RELEASE_ROW]
    return pa.table(columns, schema=RELEASE_ROW)


def _is_changed(build: Build, shard: ShardName, row: dict[str, Any]) -> bool:
    """Whether a medium is no longer what its source gave: resampled, or encoded anew with loss."""
    facts = json.loads(build.member(row, shard))
    return bool(facts["transforms"] or facts.get("reencoded"))


def _rows_out(rows: pa.Table, states: States, kept: set[str], back: Counter[str], bound: _Bound) -> pa.Table:
    """Return the rows of the release that may go out: live, permitted, with all their media; count the others."""
    reason = np.full(rows.num_rows, "", object)
    missing = pc.invert(pc.is_in(pc.list_flatten(rows["media"]), value_set=pa.array(sorted(kept), pa.string())))
    parents = pc.list_parent_indices(rows["media"])
    reason[np.unique(np.asarray(parents)[np.asarray(missing)])] = "media_kept_back"
    for terms_id in pc.unique(rows["terms_id"]).to_pylist():
        if bound.as_declared and terms_id == PRIVATE:
            continue  # its media say whether it may
        terms = TERMS.get(terms_id, TERMS["unknown"])
        of_terms = np.asarray(pc.equal(rows["terms_id"], terms_id))
        if not terms.redistribution and not bound.unbound:
            reason[of_terms] = f"terms.{terms_id}"
        elif not terms.derivatives:
            by_model = np.asarray(pc.equal(rows["tier"], "model"))
            made = by_model if bound.unbound else np.asarray(pc.not_equal(rows["tier"], "source"))
            reason[of_terms & made] = f"terms.{terms_id}.changed"
    state = np.asarray(states.of_rows(rows).to_pylist(), object)
    reason[state != "live"] = state[state != "live"]
    back.update(sorted(reason[reason != ""]))
    return rows.filter(pa.array(reason == "", pa.bool_()))
