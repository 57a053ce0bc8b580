"""MedicalModel: a byte-level language model that sees media at the places where a text has them.

Shape letters: B batch, L tokens, N media, K latents, E embedding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medloom.model.collate import BEGIN, END, MEDIUM, NO_TARGET, PAD, VOCABULARY, TensorBatch
from medloom.model.config import ModelConfig
from medloom.model.vision import VisionEncoder

MAX_POSITIONS = 65_536


class MedicalModel(nn.Module):
    """A Llama-style decoder of random weights (`transformers`, nothing is downloaded) and a `VisionEncoder`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.config = config
        self.vision = VisionEncoder(config, out=config.hidden)
        self.language: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=config.hidden,
                intermediate_size=3 * config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                max_position_embeddings=MAX_POSITIONS,
                pad_token_id=PAD,
                bos_token_id=BEGIN,
                eos_token_id=END,
                tie_word_embeddings=True,
            )
        )

    def embed(self, batch: TensorBatch) -> Tensor:
        """Return (B, L, E): tokens' embeddings, with media's latents at the places of `MEDIUM`."""
        embedded_BLE = self.language.get_input_embeddings()(batch.tokens_BL)
        if not len(batch.places_N):
            return embedded_BLE
        latents_NKE = [self.vision(x) for x in (batch.pictures_NCDHW, batch.volumes_NCDHW) if len(x)]
        in_order_NKE = torch.cat(latents_NKE)[batch.places_N.argsort()]
        places_BL1 = (batch.tokens_BL == MEDIUM)[..., None]
        return embedded_BLE.masked_scatter(places_BL1, in_order_NKE.to(embedded_BLE.dtype))

    def forward(self, batch: TensorBatch) -> Tensor:
        """Return (B, L-1): negative log-likelihood in nats of each target from the second token on, 0 without one."""
        # No mask for the padding: it stands at the end, where causal attention never looks from what comes before.
        packed = {} if batch.examples_BL is None else apart(batch.examples_BL, self.language.dtype)
        logits_BLV = self.language(inputs_embeds=self.embed(batch), use_cache=False, **packed).logits
        return functional.cross_entropy(
            logits_BLV[:, :-1].transpose(1, 2).float(),
            batch.targets_BL[:, 1:],
            ignore_index=NO_TARGET,
            reduction="none",
        )

    @torch.no_grad()
    def say(self, prompt: TensorBatch, *, max_bytes: int) -> bytes:
        """Return what the model says greedily after a prompt of one example, up to `max_bytes` or its end."""
        said = self.language.generate(
            inputs_embeds=self.embed(prompt),
            attention_mask=torch.ones_like(prompt.tokens_BL),
            max_new_tokens=max_bytes,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=END,
        )[0].tolist()
        return bytes(token for token in said if token < 256)


def apart(examples_BL: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what keeps examples of one row from seeing each other: an additive mask (B, 1, L, L), and positions (B, L)
    that begin anew with each example. Padding sees itself alone, since a row of a softmax cannot be empty.
    """
    length = examples_BL.shape[1]
    same_BLL = (examples_BL[:, :, None] == examples_BL[:, None, :]) & (examples_BL[:, :, None] >= 0)
    causal_LL = torch.ones((length, length), dtype=torch.bool, device=examples_BL.device).tril()
    itself_LL = torch.eye(length, dtype=torch.bool, device=examples_BL.device)
    seen_BLL = (same_BLL & causal_LL) | itself_LL
    mask_B1LL = torch.zeros_like(seen_BLL, dtype=dtype).masked_fill(~seen_BLL, torch.finfo(dtype).min)[:, None]
    place_L = torch.arange(length, device=examples_BL.device)
    begins_BL = torch.ones_like(examples_BL, dtype=torch.bool)
    begins_BL[:, 1:] = examples_BL[:, 1:] != examples_BL[:, :-1]
    first_BL = torch.where(begins_BL, place_L, 0).cummax(dim=1).values
    return {"attention_mask": mask_B1LL, "position_ids": place_L - first_BL}
