"""embedding.onnx: IDEFICS' token embeddings."""

from __future__ import annotations

from torch import Tensor, nn


class Embedding(nn.Module):
    """input_ids [batch, seq] → inputs_embeds [batch, seq, hidden].

    The table has the base words and, after them, the additional ones, which the reference keeps apart.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.embed_tokens(input_ids)
        return embeds
