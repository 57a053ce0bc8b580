"""VisionEncoder: one small encoder for pictures and volumes, ending in a fixed number of latents per medium.

Shape letters: N media, C channel, D depth (slices), H rows, W columns, T tokens (patches), K latents, E embedding.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medloom.model.config import PICTURE_PATCH, VOLUME_PATCH, ModelConfig

FREQUENCIES = 4  # of the position code: periods of 2, 1, 1/2 and 1/4 of a side, about a patch at the finest


class Block(nn.Module):
    """Pre-norm attention from queries to a context (itself, when none is given) and a feed-forward layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_queries, self.norm_context, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.to_queries = nn.Linear(width, width)
        self.to_keys_values = nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries_NTE: Tensor, context_NTE: Tensor | None = None) -> Tensor:
        """Return queries of the same shape."""
        normed = self.norm_queries(queries_NTE)
        context = normed if context_NTE is None else self.norm_context(context_NTE)
        keys, values = self.to_keys_values(context).chunk(2, dim=-1)
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_queries(normed), keys, values)]
        mixed = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        queries_NTE = queries_NTE + self.to_out(mixed)
        return queries_NTE + self.feed(self.norm_feed(queries_NTE))


class VisionEncoder(nn.Module):
    """Patches of pictures (D = 1) and of volumes, each by its own kernel, then the same blocks and resampler.

    Positions are coded by coordinates in -1 … 1 along each axis, so that any grid will do. The resampler is that of
    Perceiver (Jaegle et al. 2021): learned latents that attend to the patches.
    """

    def __init__(self, config: ModelConfig, *, out: int):
        super().__init__()
        width = config.vision_hidden
        self.patch_picture = nn.Conv3d(3, width, PICTURE_PATCH, stride=PICTURE_PATCH)
        self.patch_volume = nn.Conv3d(1, width, VOLUME_PATCH, stride=VOLUME_PATCH)
        self.position = nn.Linear(3 * 2 * FREQUENCIES, width)
        self.blocks = nn.ModuleList(Block(width, config.vision_heads) for _ in range(config.vision_layers))
        self.latents_KE = nn.Parameter(torch.randn(config.latents, width) * 0.02)
        self.resample = Block(width, config.vision_heads)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))

    def forward(self, media_NCDHW: Tensor) -> Tensor:
        """Return (N, K, `out`) for pictures (C 3, D 1) or volumes (C 1), values in 0 … 1."""
        patch = self.patch_picture if media_NCDHW.shape[1] == 3 else self.patch_volume
        grid_NEDHW = patch(media_NCDHW - 0.5)
        tokens_NTE = grid_NEDHW.flatten(2).transpose(1, 2)
        tokens_NTE = tokens_NTE + self.position(position_code(grid_NEDHW.shape[2:], device=media_NCDHW.device))
        for block in self.blocks:
            tokens_NTE = block(tokens_NTE)
        latents_NKE = self.latents_KE.expand(len(tokens_NTE), -1, -1)
        return self.out(self.resample(latents_NKE, tokens_NTE))


def position_code(shape: torch.Size | tuple[int, ...], *, device: torch.device | str) -> Tensor:
    """Return (T, 3 * 2 * FREQUENCIES): sines and cosines of each patch centre's z, y and x in -1 … 1, in C order."""
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n * 2 - 1 for n in shape]
    centres_T3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    angles = (centres_T3[..., None] * math.pi * 2.0 ** torch.arange(FREQUENCIES, device=device)).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
