"""Where Idefics2's loud channels can be evened out."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import Idefics2Config

from ..family import LoudChannels
from ..vision_channels import encoder_channels


def channels(config: Idefics2Config) -> Iterator[LoudChannels]:
    """Of the encoder and of the text model, not of the connector."""
    yield from encoder_channels(config.vision_config.num_hidden_layers)
    text = config.text_config
    heads = text.num_key_value_heads, text.num_attention_heads // text.num_key_value_heads, text.head_dim
    for i in range(text.num_hidden_layers):
        at = f"model.text_model.layers.{i}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        yield LoudChannels("decoder", [f"{at}.input_layernorm.weight"], [f"{attention}.{part}_proj.weight" for part in "qkv"])
        yield LoudChannels("decoder", [f"{attention}.v_proj.weight"], [f"{attention}.o_proj.weight"], True, heads)
        norm = f"{at}.post_attention_layernorm.weight"
        yield LoudChannels("decoder", [norm], [f"{mlp}.{part}_proj.weight" for part in ("gate", "up")])
        yield LoudChannels("decoder", [f"{mlp}.up_proj.weight"], [f"{mlp}.down_proj.weight"])
