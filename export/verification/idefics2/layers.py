"""Idefics2's graphs piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from ....graphs.contract import GraphName, Manifest
from ....graphs.idefics2.vision import SHRINK
from ...models.idefics2.reference import patch_grid
from ..cut import Cut, whole_prompt
from ..difference import Difference
from ..example import Example
from ..graphs import load_graph, opened
from ..pieces import Pieces, encoder, swiglu
from ..reference import Reference
from .borders import LAST_VISION_NORM, TEXT_NORM, VISION_NORM


def of_inputs(folder: Path, manifest: Manifest, reference: Reference, example: Example) -> Iterator[Difference]:
    """Pieces of the vision graph, and the embedding graph."""
    image = example.images[1]
    yield from _vision(Pieces(Cut.open(folder, "vision"), reference, {"pixel_values": image[None]}), image[None])
    yield from _embedding(folder, manifest, reference, example.prompts[0])


def of_decoder(folder: Path, name: GraphName, manifest: Manifest, reference: Reference, example: Example) -> Iterator[Difference]:
    """Pieces of a decoder, given the embeddings of the example's varied tokens."""
    x = reference.truth.model.text_model.embed_tokens(example.varied)[None]
    yield from _decoder(Pieces(Cut.open(folder, name), reference, whole_prompt(manifest.model, x.float())), x)


def _vision(pieces: Pieces, pixels: Tensor) -> Iterator[Difference]:
    cut = pieces.cut
    borders = [*cut.borders(VISION_NORM), cut.input_of(LAST_VISION_NORM)]
    found, x = pieces.compare(
        "patches",
        {"pixel_values": pixels},
        borders[0],
        lambda model, pixels: model.model.vision_model.embeddings(pixels, patch_grid(model, pixels)),
    )
    yield found
    x = yield from encoder(pieces, x, borders)
    assert len(borders) == len(pieces.reference.truth.model.vision_model.encoder.layers) + 1
    yield from _connector(pieces, borders[-1], x)


def _connector(pieces: Pieces, border: str, x: Tensor) -> Iterator[Difference]:
    cut, at = pieces.cut, "connector.perceiver_resampler"

    def project(model: Any, x: Tensor) -> Tensor:
        projected: Tensor = model.model.connector.modality_projection(model.model.vision_model.post_layernorm(x))
        return projected

    context_value = cut.input_of(f"{at}.layers.0.input_context_norm.weight")
    found, context = pieces.compare("projection", {border: x}, context_value, project)
    yield found
    latents = pieces.reference.parameter(f"model.{at}.latents")[None]
    shrink = SHRINK if pieces.reference.arithmetic.dtype == "fp16" else 1
    for index, border in enumerate(borders := cut.borders(f"{at}.layers.{{}}.input_latents_norm.weight")):

        def layer(model: Any, index: int = index) -> Any:
            return model.model.connector.perceiver_resampler.layers[index]

        def attend(model: Any, latents: Tensor, context: Tensor, layer: Any = layer) -> Tensor:
            own = layer(model)
            attended = own.self_attn(latents=own.input_latents_norm(latents), context=own.input_context_norm(context))[0]
            return latents + attended

        middle = cut.input_of(f"{at}.layers.{index}.post_attention_layernorm.weight")
        given = {border: latents, context_value: context}
        found, x = pieces.compare(f"perceiver {index}, attention", given, middle, attend)
        yield found
        following = borders[index + 1] if index + 1 < len(borders) else cut.input_of(f"{at}.norm.weight")
        name, place = f"perceiver {index}", f"{at}.layers.{index}"
        differences, latents = swiglu(pieces, name, place, middle, x, following, layer, shrink=shrink)
        yield from differences

    def norm(model: Any, x: Tensor) -> Tensor:
        normed: Tensor = model.model.connector.perceiver_resampler.norm(x)
        return normed

    yield pieces.compare("image_features", {following: latents}, "image_features", norm)[0]


def _embedding(folder: Path, manifest: Manifest, reference: Reference, prompt: Tensor) -> Iterator[Difference]:
    sizes, part = manifest.model, load_graph(folder, "embedding")
    features = torch.zeros(0, sizes.hidden_size)
    inputs = {"input_ids": prompt[None], "image_features": features, "feature_rows": torch.full((1, len(prompt)), -1)}
    (found,) = opened(part).run(**inputs)
    truth, own = reference.both(lambda model: model.model.text_model.embed_tokens(prompt)[None])
    yield reference.compare(part, "tokens", found, truth, own)


def _decoder(pieces: Pieces, x: Tensor) -> Iterator[Difference]:
    cut, count = pieces.cut, x.shape[1]
    borders = cut.borders(TEXT_NORM)
    positions = torch.arange(count)[None]
    # The graph gathers the wanted positions before its last norm.
    gathered = cut.read_by(cut.input_of("text_model.norm.weight"))
    for index, border in enumerate(borders):

        def layer(model: Any, index: int = index) -> Any:
            return model.model.text_model.layers[index]

        def attend(model: Any, x: Tensor, layer: Any = layer) -> Tensor:
            text = model.model.text_model
            attended = layer(model).self_attn(
                hidden_states=layer(model).input_layernorm(x),
                position_embeddings=text.rotary_emb(x, position_ids=positions),
                attention_mask=_mask(text.config, x, positions),
            )[0]
            return x + attended

        middle = cut.input_of(f"text_model.layers.{index}.post_attention_layernorm.weight")
        found, x = pieces.compare(f"layer {index}, attention", {border: x}, middle, attend)
        yield found
        following = borders[index + 1] if index + 1 < len(borders) else gathered
        differences, x = swiglu(pieces, f"layer {index}", f"text_model.layers.{index}", middle, x, following, layer)
        yield from differences

    def head(model: Any, x: Tensor) -> Tensor:
        logits: Tensor = model.lm_head(model.model.text_model.norm(x))
        return logits

    yield pieces.compare("logits", {gathered: x}, "logits", head)[0]


def _mask(config: Any, x: Tensor, positions: Tensor) -> Tensor | None:
    """As the reference makes it."""
    make = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
    mask: Tensor | None = make(
        config=config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
    )  # fmt: skip
    return mask
