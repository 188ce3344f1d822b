"""Where IDEFICS' graphs are cut: what the norms at the borders between layers read."""

from __future__ import annotations

from ....graphs.contract import ModelSizes
from ..cut import Cut

VISION_NORM = "vision_model.encoder.layers.{}.layer_norm1.weight"
_BLOCK = "perceiver_resampler.blocks.{}"
CONTEXT_NORM, LATENTS_NORM = f"{_BLOCK}.0.context_layer_norm.weight", f"{_BLOCK}.0.latents_layer_norm.weight"
FEED_NORM, LAST_NORM = f"{_BLOCK}.1.ln.weight", "perceiver_resampler.layer_norm.weight"
LAYER, GATED = "layers.{}", "gated_cross_attn_layers.{}"


def encoder_end(graph: Cut) -> str:
    """What comes out of the encoder: the perceiver's context, or the features themselves."""
    return graph.input_of(CONTEXT_NORM.format(0)) if graph.has(CONTEXT_NORM.format(0)) else "image_features"


def decoder_layers(layers: int, gated: int) -> list[str]:
    """The decoder's layers in order, gated ones among them, by the graph's names."""
    interval, found = layers // gated, []
    for index in range(layers):
        found += [GATED.format(index // interval)] if index % interval == 0 else []
        found.append(LAYER.format(index))
    return found


def decoder_borders(graph: Cut, sizes: ModelSizes) -> list[str]:
    """What enters each of them."""
    layers = decoder_layers(sizes.num_layers, sizes.num_cross_layers)
    return [graph.input_of(f"{layer}.input_layernorm.weight") for layer in layers]
