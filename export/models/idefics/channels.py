"""Where IDEFICS' loud channels can be evened out."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import IdeficsConfig

from ..family import LoudChannels
from ..vision_channels import encoder_channels


def channels(config: IdeficsConfig) -> Iterator[LoudChannels]:
    """Of the encoder, of the layers that look at images and of the text model's, not of the perceiver.

    What the gated layers read of images are keys and values of another graph, which are left as they are.
    """
    yield from encoder_channels(config.vision_config.num_hidden_layers)
    for i in range(config.num_hidden_layers // config.cross_layer_interval):
        at = f"model.gated_cross_attn_layers.{i}"
        yield LoudChannels("decoder", [f"{at}.input_layernorm.weight"], [f"{at}.cross_attn.q_proj.weight"])
        yield from _feed(at)
    heads = config.num_attention_heads, 1, config.hidden_size // config.num_attention_heads
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}"
        attention = f"{at}.self_attn"
        yield LoudChannels("decoder", [f"{at}.input_layernorm.weight"], [f"{attention}.{part}_proj.weight" for part in "qkv"])
        yield LoudChannels("decoder", [f"{attention}.v_proj.weight"], [f"{attention}.o_proj.weight"], True, heads)
        yield from _feed(at)


def _feed(at: str) -> Iterator[LoudChannels]:
    mlp = f"{at}.mlp"
    yield LoudChannels(
        "decoder", [f"{at}.post_attention_layernorm.weight"], [f"{mlp}.{part}_proj.weight" for part in ("gate", "up")]
    )
    yield LoudChannels("decoder", [f"{mlp}.up_proj.weight"], [f"{mlp}.down_proj.weight"])
