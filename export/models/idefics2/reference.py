"""transformers' Idefics2 as the exporter runs it, its weights read as they are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.idefics2.modeling_idefics2 import Idefics2RMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, MistralRotaryEmbedding

from ....graphs.contract import ModelSizes
from ....graphs.head import Head
from ....graphs.idefics2.vision import Projection
from .parameters import PROJECTION

NORMS = (MistralRMSNorm, Idefics2RMSNorm)


def prepare(model: Any, config: Any, packed: Collection[str], _: torch.dtype) -> None:
    """Make a model on the meta device ready: what is computed is real, and what stands for `packed` parameters is there."""
    model.model.text_model.rotary_emb = MistralRotaryEmbedding(config.text_config)
    with torch.device("meta"):
        if any(name.startswith(f"{PROJECTION}.blocks.") for name in packed):
            model.model.connector.modality_projection = Projection(model.model.connector.modality_projection)
        if any(name.startswith("lm_head.padded.") for name in packed):
            model.lm_head = Head(model.lm_head)


def rotations(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Modules that give the rotary tables, each with the name of what reads them."""
    yield "model.text_model", model.model.text_model.rotary_emb


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """What the connector makes of whole pictures [pictures, 3, height, width] → [pictures, latents, hidden]."""
    grid = patch_grid(model, pixels)
    seen = model.model.vision_model(pixel_values=pixels, patch_attention_mask=grid).last_hidden_state
    pairs = [slice(i, i + 2) for i in range(0, len(seen), 2)]  # the connector's projection is wide
    return torch.cat([model.model.connector(seen[i], attention_mask=grid[i].flatten(1)) for i in pairs])


def hidden_states(model: Any, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
    """The decoder's last states [seq, hidden] of a prompt, as `places` says what each token is."""
    text = model.model.text_model
    embeds = text.embed_tokens(ids)
    embeds[places >= 0] = features.flatten(0, 1)[places[places >= 0]].to(embeds.dtype)
    states: Tensor = text(inputs_embeds=embeds[None], use_cache=False).last_hidden_state
    return states[0]


def places(ids: Tensor, pictures: list[int], sizes: ModelSizes) -> Tensor:
    """For each token, the row of features.flatten(0, 1) that replaces it, or −1; `pictures` are shown one after another."""
    rows = torch.tensor(pictures, dtype=torch.int64)[:, None] * sizes.image_seq_len + torch.arange(sizes.image_seq_len)
    found, image = torch.full_like(ids, -1), ids == sizes.image_token_id
    found[image] = rows.flatten()[: int(image.sum())]
    return found


def patch_grid(model: Any, pixels: Tensor) -> Tensor:
    """The reference's mask of whole patches, all true, for each image."""
    patch = model.config.vision_config.patch_size
    return torch.ones(len(pixels), pixels.shape[2] // patch, pixels.shape[3] // patch, dtype=torch.bool)
