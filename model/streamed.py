"""What a stream gives: an example with its media as arrays, and what is asked of a reader for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from medloom.schemas.example import Box, Example


@dataclass(frozen=True)
class Wish:
    """One example to be read.

    Attributes:
        row: of the release (or of the set of tars).
        t: the draw that it answers, which decides where a region is cut; -1 outside a stream.
    """

    row: int
    t: int = -1


@dataclass(frozen=True, eq=False)
class MediaData:
    """One medium as read.

    Attributes:
        layout: of its tar ("jpg", "png", "volume", "volume-seg"); of foreign tars the field that holds the content.
        content: (Z, Y, X) of the stored dtype for a volume; (Y, X, C) uint8 with C 1, 3 or 4 for a picture. With a
            region, that part of it.
        text: its `json` member as stored, b"" for none.
        masks: (layer, Z, Y, X) of the same extent as `content`, when masks were asked for and there are some.
        box: half-open indices of the stored array that `content` holds, () for all of it.
    """

    layout: str
    content: np.ndarray
    text: bytes = b""
    masks: np.ndarray | None = None
    box: Box = ()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What its `json` member says; {} where there is none."""
        return dict(json.loads(self.text)) if self.text else {}


@dataclass(frozen=True, eq=False)
class StreamedExample:
    """One example with its media by key, and the draw `t` that it answers (-1 outside a stream)."""

    example: Example
    media: Mapping[str, MediaData] = field(default_factory=dict)
    t: int = -1
