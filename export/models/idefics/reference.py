"""transformers' IDEFICS as the exporter runs it, its weights read as they are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.idefics.modeling_idefics import IdeficsRMSNorm, IdeficsRotaryEmbedding

from ....graphs.contract import ModelSizes
from ....graphs.head import Head
from ....graphs.idefics.embedding import Table

NORMS = (IdeficsRMSNorm,)


def prepare(model: Any, config: Any, _: Collection[str], dtype: torch.dtype) -> None:
    """Make a model on the meta device ready: what is computed is real, and base and additional tokens have one table and one
    head, of which a few rows at a time are read. The reference takes its type, `dtype`, from the table.
    """
    vocab_size, hidden = config.vocab_size + config.additional_vocab_size, config.hidden_size
    for attention in (*(layer.self_attn for layer in model.model.layers), *map(_cross, model.model.gated_cross_attn_layers)):
        attention.rotary_emb = IdeficsRotaryEmbedding(config)
    embeddings = model.model.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    with torch.device("meta"):
        model.model.embed_tokens = Table(vocab_size, hidden, dtype)
        model.lm_head = Head(nn.Linear(hidden, vocab_size, bias=False))


def rotations(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Modules that give the rotary tables, each with the name of what reads them."""
    for index, layer in enumerate(model.model.layers):
        yield f"model.layers.{index}", layer.self_attn.rotary_emb


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Pictures [pictures, 3, side, side] → [pictures, image_seq_len, vision width]."""
    seen: Tensor = model.model.vision_model(pixel_values=pixels).last_hidden_state
    if model.config.use_resampler:
        seen = model.model.perceiver_resampler(seen)
    return seen


def hidden_states(model: Any, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
    """The decoder's last states [seq, hidden] of a prompt, as `places` says what each token sees."""
    return decoded(model, model.model.embed_tokens(ids)[None], features[None], seen_pictures(places, len(features))[None])[0]


def decoded(model: Any, embeds: Tensor, features: Tensor, image_mask: Tensor) -> Tensor:
    """Embeddings [batch, seq, hidden], features [1, pictures, rows, width] and the mask [1, seq, pictures] of the whole batch
    → last states [batch, seq, hidden].
    """
    features, image_mask = (torch.cat([x] * len(embeds)) for x in (features.to(embeds.dtype), image_mask))
    given = "perceiver_embeddings" if model.config.use_resampler else "image_encoder_embeddings"
    states: Tensor = model.model(
        inputs_embeds=embeds, image_attention_mask=image_mask, use_cache=False, **{given: features}
    ).last_hidden_state
    return states


def places(ids: Tensor, pictures: list[int], sizes: ModelSizes) -> Tensor:
    """For each token, the picture that it sees, or −1: the last at or before it, of `pictures` shown one after another."""
    shown = torch.tensor([-1, *pictures], dtype=torch.int64)
    return shown[(ids == sizes.image_token_id).cumsum(0)]


def seen_pictures(places: Tensor, count: int) -> Tensor:
    """The reference's mask int64 [seq, pictures]."""
    return (places[:, None] == torch.arange(count)).long()


def _cross(layer: Any) -> Any:
    return layer.cross_attn
