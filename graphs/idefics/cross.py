"""cross.onnx: what IDEFICS' gated layers attend to, computed once for a prompt."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.idefics.modeling_idefics import IdeficsModel

from ..operators import Operators
from .head_norm import head_norm


class Cross(nn.Module):
    """image_features [batch, image_rows, vision width] → for each gated layer its key and value
    [batch, heads, image_rows, head_dim].

    Images have no places in the text, so nothing here depends on it: only images are read again where a prompt has others.
    """

    def __init__(self, model: IdeficsModel, operators: Operators) -> None:
        super().__init__()
        self.gated_cross_attn_layers, self.operators = model.gated_cross_attn_layers, operators
        self.heads: int = model.config.num_attention_heads

    def forward(self, image_features: Tensor) -> tuple[Tensor, ...]:
        found = []
        for layer in self.gated_cross_attn_layers:
            attention = layer.cross_attn
            k, v = attention.k_proj(image_features), attention.v_proj(image_features)
            if attention.qk_layer_norms:
                k = head_norm(self.operators, k, self.heads, attention.k_layer_norm)
            found += [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (k, v)]
        return tuple(found)
