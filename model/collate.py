"""From streamed examples to tensors: bytes as tokens, media on small fixed grids, and what was cut off counted.

Shape letters: B batch, L tokens, N media, C channel, D depth (slices), H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medloom.model.config import ModelConfig
from medloom.model.streamed import MediaData, StreamedExample
from medloom.schemas.example import Box, Example, Part

# The vocabulary: the 256 bytes of UTF-8, and what they are not.
PAD, BEGIN, USER, ASSISTANT, DOCUMENT, END, MEDIUM = range(256, 263)
VOCABULARY = 264  # a multiple of 8
ROLES = {"user": USER, "assistant": ASSISTANT, "document": DOCUMENT}
NO_TARGET = -100  # cross_entropy's ignore_index

CT_WINDOW_HU = (-160.0, 240.0)  # soft tissue: level 40, width 400


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        tokens, targets: same length; targets[i] is the token to be said at i, or `NO_TARGET`.
        media: (key, box) of each medium whose `latents` places are among the tokens, in order.
        text_bytes: targets that are bytes of text.
        cut: bytes and media that did not fit.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    media: tuple[tuple[str, Box], ...]
    text_bytes: int
    cut: int


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """Examples as the model takes them.

    Attributes:
        tokens_BL: int64, padded at the end with `PAD`.
        targets_BL: int64, `NO_TARGET` where nothing is to be learned: questions, media, padding.
        examples_BL: int64, which example of its row each token belongs to, -1 for padding; None when every row holds
            one, so that causal attention alone keeps examples apart.
        pictures_NCDHW: float32 in 0 … 1, C 3 and D 1.
        volumes_NCDHW: float32 in 0 … 1, C 1.
        places_N: for pictures and then volumes, which medium of the batch (in order of its tokens) each is.
        text_bytes: bytes of text among the targets.
        truncated: examples of which something was cut off.
    """

    tokens_BL: Tensor  # noqa: N815
    targets_BL: Tensor  # noqa: N815
    pictures_NCDHW: Tensor  # noqa: N815
    volumes_NCDHW: Tensor  # noqa: N815
    places_N: Tensor  # noqa: N815
    text_bytes: int
    truncated: int
    examples_BL: Tensor | None = None  # noqa: N815


def encode(
    example: Example, *, latents: int, max_bytes: int, max_media: int, blind: bool = False, answer: str | None = None
) -> Encoded:
    """Return an example as tokens: what assistants and documents say is to be learned, and the end of it.

    Args:
        latents: places per medium.
        max_bytes, max_media: what is kept, from the beginning; media behind the last byte kept go too.
        blind: leave media out.
        answer: said by the last turn instead of its text.
    """
    tokens, targets, media, text_bytes, room, cut = [BEGIN], [NO_TARGET], list[tuple[str, Box]](), 0, max_bytes, 0
    for i, turn in enumerate(example.turns):
        parts: tuple[Part, ...] = turn.parts
        if answer is not None and i == len(example.turns) - 1:
            parts = (Part(text=answer),) if answer else ()
        learned = turn.role != "user"
        tokens.append(ROLES[turn.role])
        targets.append(NO_TARGET)
        for before, part in zip((None, *parts), parts, strict=False):
            if part.media:
                fits = not blind and room > 0 and len(media) < max_media
                cut += not fits and not blind
                if fits:
                    media.append((part.media, part.box))
                    tokens += [MEDIUM] * latents
                    targets += [NO_TARGET] * latents
                continue
            data = (b"\n" if before and before.text else b"") + part.text.encode()
            cut += max(len(data) - room, 0)
            data = data[: max(room, 0)]
            room -= len(data)
            tokens += data
            targets += data if learned else [NO_TARGET] * len(data)
            text_bytes += len(data) if learned else 0
        if not cut:
            tokens.append(END)
            targets.append(END if learned else NO_TARGET)
    return Encoded(tuple(tokens), tuple(targets), tuple(media), text_bytes, cut)


def collate(
    examples: Sequence[tuple[Encoded, StreamedExample]],
    *,
    config: ModelConfig,
    device: torch.device | str,
    packs: Sequence[Sequence[int]] = (),
) -> TensorBatch:
    """Return examples as one batch on `device`; media are resized there.

    Args:
        packs: places in `examples` that share a row, in order; () for a row per example. A pack of none is left out.
    """
    rows = [pack for pack in packs if pack] or [(i,) for i in range(len(examples))]
    length = max(sum(len(examples[i][0].tokens) for i in pack) for pack in rows)
    tokens = np.full((len(rows), length), PAD, np.int64)
    targets = np.full((len(rows), length), NO_TARGET, np.int64)
    owners = np.full((len(rows), length), -1, np.int64)
    for row, pack in enumerate(rows):
        at = 0
        for nth, i in enumerate(pack):
            encoded = examples[i][0]
            end = at + len(encoded.tokens)
            tokens[row, at:end], targets[row, at:end], owners[row, at:end] = encoded.tokens, encoded.targets, nth
            at = end
    in_order = [examples[i] for pack in rows for i in pack]
    pictures, volumes, places = _media_on_grids(in_order, config=config, device=device)
    empty_picture = torch.zeros((0, 3, 1, *config.picture_grid), device=device)
    empty_volume = torch.zeros((0, 1, *config.volume_grid), device=device)
    return TensorBatch(
        tokens_BL=torch.from_numpy(tokens).to(device),
        targets_BL=torch.from_numpy(targets).to(device),
        pictures_NCDHW=torch.stack(pictures) if pictures else empty_picture,
        volumes_NCDHW=torch.stack(volumes) if volumes else empty_volume,
        places_N=torch.tensor(places, dtype=torch.int64, device=device),
        text_bytes=sum(encoded.text_bytes for encoded, _ in examples),
        truncated=sum(encoded.cut > 0 for encoded, _ in examples),
        examples_BL=torch.from_numpy(owners).to(device) if any(len(pack) > 1 for pack in rows) else None,
    )


def _media_on_grids(
    examples: Sequence[tuple[Encoded, StreamedExample]], *, config: ModelConfig, device: torch.device | str
) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Return pictures, volumes, and for pictures and then volumes which medium of the batch each is."""
    pictures, volumes = list[Tensor](), list[Tensor]()
    places: tuple[list[int], list[int]] = [], []
    made: dict[tuple[int, Box], Tensor] = {}  # one example with several answers has its media made once
    for encoded, streamed in examples:
        for key, box in encoded.media:
            medium = streamed.media[key]
            is_volume = medium.layout.startswith("volume")
            places[is_volume].append(len(places[0]) + len(places[1]))
            if (id(medium), box) not in made and is_volume:
                made[id(medium), box] = volume_on_grid(medium, box, grid=config.volume_grid, device=device)
            elif (id(medium), box) not in made:
                made[id(medium), box] = picture_on_grid(medium, box, grid=config.picture_grid, device=device)
            (volumes if is_volume else pictures).append(made[id(medium), box])
    return pictures, volumes, places[0] + places[1]


def picture_on_grid(medium: MediaData, box: Box, *, grid: tuple[int, int], device: torch.device | str) -> Tensor:
    """Return (3, 1, H, W) in 0 … 1 on `device`: the box of a picture, grey as three channels, alpha on white."""
    content_YXC = medium.content
    if box:
        y0, x0, y1, x1 = box
        content_YXC = content_YXC[y0:y1, x0:x1]
    picture_CHW = torch.from_numpy(content_YXC.copy()).to(device).permute(2, 0, 1).float() / 255
    if len(picture_CHW) == 4:
        picture_CHW = picture_CHW[:3] * picture_CHW[3:] + (1 - picture_CHW[3:])
    resized_CHW = functional.interpolate(picture_CHW[None], size=grid, mode="area")[0]
    return resized_CHW.expand(3, -1, -1)[:, None]


def volume_on_grid(medium: MediaData, box: Box, *, grid: tuple[int, int, int], device: torch.device | str) -> Tensor:
    """Return (1, D, H, W) in 0 … 1 on `device`: windowed, then averaged over the cells of the grid.

    Slabs of slices go one by one, so that a large volume is never on the device as floats; the result is that of
    adaptive average pooling over the whole.
    """
    content_ZYX = medium.content
    if box:
        z0, y0, x0, z1, y1, x1 = box
        content_ZYX = content_ZYX[z0:z1, y0:y1, x0:x1]
    low, high = window_of(medium)
    depth, slices = grid[0], len(content_ZYX)
    planes = []
    for d in range(depth):
        slab_ZYX = content_ZYX[d * slices // depth : -(-(d + 1) * slices // depth)]
        if slab_ZYX.dtype == np.uint16:  # torch computes little with it
            slab_ZYX = slab_ZYX.astype(np.int32)
        slab = torch.from_numpy(np.ascontiguousarray(slab_ZYX)).to(device).float()
        plane_HW = ((slab - low) / (high - low)).clamp(0, 1).mean(0)
        planes.append(functional.interpolate(plane_HW[None, None], size=grid[1:], mode="area")[0, 0])
    return torch.stack(planes)[None]


def window_of(medium: MediaData) -> tuple[float, float]:
    """Return the stored values that become 0 and 1: a soft-tissue window for CT, else percentiles 1 and 99."""
    if medium.facts.get("modality") == "CT" and medium.facts.get("units") == "HU":
        return CT_WINDOW_HU
    measured = medium.facts.get("measured", {})
    if "p01" in measured and "p99" in measured:
        low, high = measured["p01"], measured["p99"]
    else:
        low, high = (float(v) for v in np.percentile(medium.content[:, ::2, ::2], (1, 99)))
    return low, max(high, low + 1e-6)
