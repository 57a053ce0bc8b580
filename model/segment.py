"""Segment: a stretch of a run in which nothing changes that decides the order; all of a checkpoint but where it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medloom.model.lanes import BUCKETS
from medloom.model.order import ORDER_VERSION, whole_weights
from medloom.model.packing import MOST_PACKS, read_lengths
from medloom.model.selection import live, plain_where, selected
from medloom.schemas.errors import ConfigError, FormatError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.release import Release
from medloom.schemas.tar_set import TarSet

WINDOW = "window:"


@dataclass(frozen=True)
class Segment:
    """A stretch of a run.

    Attributes:
        t0: its first step in the run, times `global_batch`.
        release, sha256: number and digest of the release.
        overlay: how many parts the overlay had: rows withheld in them are not drawn, later ones are substituted.
        split, where: which rows.
        mix: whole weights by source, {} for all rows in equal parts.
        seed: of the run.
        global_batch: examples of a step; with packing, packs.
        buckets: which rows may share a step: None, "dimension" or "shape".
        shuffle: "global" or "window:N".
        pack: {"tokens", "tokenizer", "media_tokens", "sha256"} of the packs' budget and the rows' lengths, or None.
        order_version: of `medloom.model.order`.
    """

    t0: int
    release: int
    sha256: str
    overlay: int
    split: str
    where: dict[str, Any]
    mix: dict[str, int]
    seed: int
    global_batch: int
    buckets: str | None = "dimension"
    shuffle: str = "global"
    pack: dict[str, Any] | None = None
    order_version: int = ORDER_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        pin = {"number": self.release, "sha256": self.sha256, "overlay": self.overlay}
        return {
            "t0": self.t0, "release": pin, "split": self.split, "where": self.where, "mix": self.mix,
            "seed": self.seed, "global_batch": self.global_batch, "buckets": self.buckets, "shuffle": self.shuffle,
            "pack": self.pack, "order_version": self.order_version,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Segment":
        """Undo `to_json`.

        Raises:
            FormatError: it lacks something, or its order is of another version than this code's.
        """
        try:
            version = int(value["order_version"])
            if version != ORDER_VERSION:
                raise FormatError(
                    f"cannot resume: the checkpoint's order_version is {version} and this MedLoom draws by "
                    f"{ORDER_VERSION}; install the version that began the run, or begin a new run"
                )
            pin = value["release"]
            segment = cls(
                t0=int(value["t0"]), release=int(pin["number"]), sha256=str(pin["sha256"]),
                overlay=int(pin["overlay"]), split=str(value["split"]), where=dict(value["where"]),
                mix={str(k): int(v) for k, v in value["mix"].items()}, seed=int(value["seed"]),
                global_batch=int(value["global_batch"]), buckets=value["buckets"], shuffle=str(value["shuffle"]),
                pack=_pack_of(value["pack"]),
            )  # fmt: skip
            check_choice(segment.global_batch, segment.buckets, segment.shuffle)
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as fault:
            raise FormatError(f"cannot resume: {value!r} is not a segment of a stream ({fault!r})") from fault
        return segment

    def continues(self, earlier: "Segment") -> bool:
        """Whether it draws from the same rows in the same order as `earlier`, so that epochs of its sources go on."""
        return bool(self.mix) == bool(earlier.mix) and all(
            getattr(self, name) == getattr(earlier, name)
            for name in ("release", "sha256", "overlay", "split", "where", "seed", "buckets", "shuffle")
        )

    @property
    def window(self) -> int:
        """Shards of a window of the shuffle, 0 for a global one."""
        return window_of(self.shuffle)


def begin(
    source: Release | TarSet, *, t0: int, split: str, where: Mapping[str, Any], mix: Mapping[str, float], seed: int,
    global_batch: int, buckets: str | None, shuffle: str, pack_tokens: int | None, tokenizer: str, media_tokens: int,
    overlay: int | None = None,
) -> Segment:  # fmt: skip
    """Return the segment that begins now with the newest state of `source`; see `Segment` for the arguments.

    Args:
        overlay: parts of the overlay that decide which rows are drawn, None for all that there are.

    Raises:
        ConfigError: `where` names an unknown column, `mix` a bad weight, `buckets` or `shuffle` what is not there, or
            the token counts that packing needs were not made.
    """
    check_choice(global_batch, buckets, shuffle)
    plain = plain_where(where)
    overlay = source.overlay_parts() if overlay is None else overlay
    pack = None
    if pack_tokens is not None:
        if not 0 < pack_tokens < 2**31 - 1 or media_tokens < 0 or global_batch > MOST_PACKS:
            raise ConfigError(
                f"pack_tokens={pack_tokens}, media_tokens={media_tokens}, global_batch={global_batch}: a pack holds "
                f"1 token to 2^31 - 2, a medium takes none or more, and a step has at most {MOST_PACKS} packs"
            )
        chosen = live(source.rows, source.states(parts=overlay), selected(source, split, plain))
        lengths = read_lengths(source, np.flatnonzero(chosen), tokenizer=tokenizer, media_tokens=media_tokens)
        pack = {
            "tokens": pack_tokens, "tokenizer": tokenizer, "media_tokens": media_tokens,
            "sha256": digest_of_lengths(lengths),
        }  # fmt: skip
    return Segment(
        t0=t0, release=source.number, sha256=source.digest, overlay=overlay, split=split, where=plain,
        mix=whole_weights(mix) if mix else {}, seed=seed, global_batch=global_batch, buckets=buckets, shuffle=shuffle,
        pack=pack,
    )  # fmt: skip


def check_choice(global_batch: int, buckets: str | None, shuffle: str) -> None:
    """Check what a user chose.

    Raises:
        ConfigError: it is not one of the choices.
    """
    if global_batch < 1:
        raise ConfigError(f"global_batch={global_batch}: a step holds an example or more")
    if buckets not in BUCKETS:
        raise ConfigError(f"buckets={buckets!r}: choose {', '.join(map(repr, BUCKETS))}")
    window_of(shuffle)


def window_of(shuffle: str) -> int:
    """Return N of "window:N", 0 of "global".

    Raises:
        ConfigError: it is neither.
    """
    number = shuffle.removeprefix(WINDOW)
    if shuffle == "global":
        return 0
    if not shuffle.startswith(WINDOW) or not number.isdecimal() or int(number) < 1:
        raise ConfigError(f'shuffle={shuffle!r}: choose "global" or "window:N" with N shards or more than one')
    return int(number)


def digest_of_lengths(lengths: np.ndarray) -> str:
    """Return the sha256 by which a segment pins the lengths of its rows."""
    return sha256_hex(lengths.astype("<i4").tobytes())


def _pack_of(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "tokens": int(value["tokens"]), "tokenizer": str(value["tokenizer"]),
        "media_tokens": int(value["media_tokens"]), "sha256": str(value["sha256"]),
    }  # fmt: skip
