"""Where loud channels of an encoder of images can be evened out; CLIP's and SigLIP's layers have the same names."""

from __future__ import annotations

from collections.abc import Iterator

from .family import LoudChannels


def encoder_channels(layers: int) -> Iterator[LoudChannels]:
    for i in range(layers):
        at = f"model.vision_model.encoder.layers.{i}"
        attention = f"{at}.self_attn"
        norms = [[f"{at}.layer_norm{n}.{part}" for part in ("weight", "bias")] for n in (1, 2)]
        yield LoudChannels("vision", norms[0], [f"{attention}.{part}_proj.weight" for part in "qkv"])
        yield LoudChannels(
            "vision", [f"{attention}.v_proj.{part}" for part in ("weight", "bias")], [f"{attention}.out_proj.weight"]
        )
        yield LoudChannels("vision", norms[1], [f"{at}.mlp.fc1.weight"])
