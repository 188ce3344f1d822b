"""transformers' model without its weights: each module reads its own from the checkpoint when it runs, and drops them again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Idefics2ForConditionalGeneration
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

from .checkpoint import Stored
from .source_model import SourceModel

_NUMBERS = 1 << 22
"""Read at once."""


def streamed_reference(source: SourceModel, rounded: bool = False) -> Idefics2ForConditionalGeneration:
    """The reference in fp32; `rounded` rounds weights to bf16 first. Holds the weights of one module at a time."""
    with torch.device("meta"):
        model = Idefics2ForConditionalGeneration._from_config(source.config, attn_implementation="sdpa", dtype=torch.float32)
    model.eval().requires_grad_(False)
    model.model.text_model.rotary_emb = MistralRotaryEmbedding(source.config.text_config)
    for path, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if not own:
            continue
        stored = {name: source.stored(f"{path}.{name}") for name in own}
        if isinstance(module, nn.Embedding):
            setattr(module, "forward", _Lookup(stored["weight"], rounded))  # noqa: B010  mypy forbids the plain way
        else:
            weights = _Weights(stored, rounded)
            module.register_forward_pre_hook(weights.load)
            module.register_forward_hook(weights.drop, always_call=True)
    return model


def image_features(reference: Idefics2ForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What the connector makes of whole pictures [pictures, 3, height, width] → [pictures, latents, hidden]."""
    patch = reference.config.vision_config.patch_size
    grid = torch.ones(len(pixels), *(side // patch for side in pixels.shape[2:]), dtype=torch.bool)
    seen = reference.model.vision_model(pixel_values=pixels, patch_attention_mask=grid).last_hidden_state
    pairs = [slice(i, i + 2) for i in range(0, len(seen), 2)]  # the connector's projection is wide
    return torch.cat([reference.model.connector(seen[i], attention_mask=grid[i].flatten(1)) for i in pairs])


def hidden_states(reference: Idefics2ForConditionalGeneration, ids: Tensor, features: Tensor, rows: Tensor) -> Tensor:
    """The decoder's last states [seq, hidden] of a prompt.

    `ids` [seq]; `rows` [seq], of the pictures' latents, all behind one another, the one in each token's place, or −1.
    """
    text = reference.model.text_model
    embeds = text.embed_tokens(ids)
    embeds[rows >= 0] = features.flatten(0, 1)[rows[rows >= 0]]
    states: Tensor = text(inputs_embeds=embeds[None], use_cache=False).last_hidden_state
    return states[0]


class _Weights:
    """Of one module."""

    def __init__(self, stored: dict[str, Stored], rounded: bool) -> None:
        self._stored, self._rounded = stored, rounded

    def load(self, module: nn.Module, _: Any) -> None:
        for name, stored in self._stored.items():
            rows = stored.shape[0] if stored.shape else 1
            tensor = torch.empty(stored.shape)
            filled, step = tensor.view(rows, -1), max(1, _NUMBERS * rows // max(1, tensor.numel()))
            for start in range(0, rows, step):
                part = stored.read(start, min(start + step, rows))
                filled[start : start + step] = _number(part, self._rounded).reshape(len(part), -1)
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))

    def drop(self, module: nn.Module, *_: Any) -> None:
        for name, stored in self._stored.items():
            setattr(module, name, nn.Parameter(torch.empty(stored.shape, device="meta"), requires_grad=False))


class _Lookup:
    """An embedding that reads only the rows that are asked for."""

    def __init__(self, stored: Stored, rounded: bool) -> None:
        self._stored, self._rounded = stored, rounded

    def __call__(self, ids: Tensor) -> Tensor:
        wanted, places = ids.unique(return_inverse=True)
        rows = torch.cat([self._stored.read(int(i), int(i) + 1) for i in wanted])
        return _number(rows, self._rounded)[places]


def _number(tensor: Tensor, rounded: bool) -> Tensor:
    return tensor.bfloat16().float() if rounded else tensor.float()
