"""embedding.onnx: token embeddings with the image features merged in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.idefics2.modeling_idefics2 import Idefics2Model


class Embedding(nn.Module):
    """input_ids, feature_rows [batch, seq], image_features [num_rows, hidden] → inputs_embeds [batch, seq, hidden].

    feature_rows names the row of image_features that stands at a position, −1 where the token's own embedding does: features
    may be encoded in any order, by groups or taken from a cache, without being moved.
    """

    def __init__(self, model: Idefics2Model) -> None:
        super().__init__()
        self.embed_tokens = model.text_model.embed_tokens

    def forward(self, input_ids: Tensor, image_features: Tensor, feature_rows: Tensor) -> Tensor:
        # A prompt without images has no rows, and Gather refuses an empty table: −1 reads this row of zeros instead. It comes
        # first, where its number does not depend on how many follow: shapes are known on the host, indices are on the device.
        rows = torch.cat([image_features.new_zeros(1, image_features.shape[1]), image_features])
        merged = nn.functional.embedding(feature_rows + 1, rows)
        return torch.where((feature_rows < 0)[..., None], self.embed_tokens(input_ids), merged)
