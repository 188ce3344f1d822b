"""How finely IDEFICS' matrices are stored in quantised folders."""

from __future__ import annotations

from ....graphs.contract import ModelSizes
from ..family import Worth


def worth(weight: str, sizes: ModelSizes) -> Worth:
    """As Idefics2's, and the first gated layer as the first of the text model: no trained IDEFICS was measured."""
    if weight.startswith("perceiver_resampler."):
        return Worth(costly=".fc." not in weight and ".c_proj." not in weight)
    first = ("layers.0.", f"layers.{sizes.num_layers - 1}.", "gated_cross_attn_layers.0.")
    outer, head = weight.startswith(first), weight.startswith("lm_head.")
    return Worth(
        always=head or weight.startswith("vision_model."),
        costly=outer or ".v_proj." in weight,
        delicate=head or outer,
        fine=".qkv_proj." in weight,
    )
