"""embedding.onnx: IDEFICS' token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.idefics.modeling_idefics import IdeficsModel


class Table(nn.Module):
    """The base words' rows and, after them, those of the additional ones, which the reference keeps apart."""

    def __init__(self, vocab_size: int, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.joined = nn.Embedding(vocab_size, hidden_size, dtype=dtype)

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.joined(input_ids)
        return embeds


class Embedding(nn.Module):
    """input_ids [batch, seq] → inputs_embeds [batch, seq, hidden]. The model's embed_tokens is a `Table`."""

    def __init__(self, model: IdeficsModel) -> None:
        super().__init__()
        self.embed_tokens = model.embed_tokens

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.embed_tokens(input_ids)
        return embeds
