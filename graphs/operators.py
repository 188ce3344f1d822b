"""The operators that the three graphs share, in two flavours of one meaning.

fused      ONNX Runtime's own operators (domain com.microsoft), written into the graph as they are: no pattern matcher has to
           find them again. GroupQueryAttention rotates, caches and attends in one kernel, SkipSimplifiedLayerNormalization
           adds and norms in one.
standard   ai.onnx operators of opset 24 only, for TensorRT and other runtimes.

Shapes: queries, keys and values are [batch, seq, heads × head_dim]; the cache is [batch, kv_heads, past, head_dim].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.onnx.ops import symbolic, symbolic_multi_out

FUSED_OPSET = 22
"""com.microsoft operators take any; 22 is the oldest with all that fused graphs use besides: Conv takes bfloat16 since then."""
STANDARD_OPSET = 24
"""First opset with TensorScatter (the cache) besides Attention, RotaryEmbedding and RMSNormalization (23)."""
FUSED_HEAD_MULTIPLE = 16
"""GroupQueryAttention rotates heads whose size is a multiple of this (ONNX Runtime 1.31 fails at run, not at load)."""


@dataclass(frozen=True)
class CachedAttention:
    """Sizes of one causal attention over a cache."""

    num_heads: int
    num_key_value_heads: int
    head_dim: int
    sliding_window: int | None


@dataclass(frozen=True)
class DecoderCall:
    """What all layers of one decoder call share."""

    attention_mask: Tensor
    """int64 [batch, total_seq], ones from the left: a row's tokens, the new ones included."""
    seq: int
    """New tokens per row."""
    cache: Tensor
    """Any layer's past keys, for their length."""
    cos: Tensor
    """Rotary table [max_positions, head_dim / 2]."""
    sin: Tensor

    @property
    def tokens(self) -> Tensor:
        """Tokens per row, int64 [batch]."""
        return self.attention_mask.sum(1)

    @property
    def total(self) -> Tensor:
        """Width of the mask, int64 []; known to the host, which GroupQueryAttention reads it on, without asking a device."""
        width = symbolic("Shape", (self.attention_mask,), {"start": 1, "end": 2}, dtype=torch.int64, shape=(1,), version=21)
        return width.squeeze(0)


AttendWithCache = Callable[[Tensor, Tensor | None, Tensor | None, tuple[Tensor, Tensor]], tuple[Tensor, Tensor, Tensor]]
"""q, k, v and the layer's past keys and values → output, present keys, present values: rotates q and k, writes k and v after
each row's tokens, and attends causally. Without k and v, the first holds all three of each token, one after another, where the
flavour `joins`."""


class Operators(Protocol):
    """What the graph modules need of a flavour."""

    opset: int
    joins: bool
    """Whether cached attention takes queries, keys and values as one tensor."""

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor: ...

    def add_rms_norm(self, x: Tensor, added: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The sum of two of one shape, and the norm of it."""
        ...

    def attention(self, q: Tensor, k: Tensor, v: Tensor, num_heads: int, num_key_value_heads: int, scale: float) -> Tensor:
        """Every query sees every key."""
        ...

    def seen_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
        """Attention to keys and values [batch, heads, rows, head_dim], with a bias [batch, 1, seq, rows] on its scores."""
        ...

    def cached_attention(self, sizes: CachedAttention, call: DecoderCall) -> AttendWithCache:
        """What every layer of one decoder call does; computed once per call is what the layers share."""
        ...


class Fused:
    """ONNX Runtime's own operators."""

    opset = FUSED_OPSET
    joins = True

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        attributes: dict[str, Any] = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
        return symbolic("SimplifiedLayerNormalization", (x, weight), attributes, dtype=x.dtype, shape=x.shape, version=1)

    def add_rms_norm(self, x: Tensor, added: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        if x.dtype == torch.float32:  # for CPUs, whose kernel of the two in one is no faster and less exact
            return (total := x + added), self.rms_norm(total, weight, epsilon)
        rows = (*x.shape[:-1], 1)
        normed, _, _, total = symbolic_multi_out(
            "com.microsoft::SkipSimplifiedLayerNormalization",
            (added, x, weight),
            {"epsilon": epsilon},
            dtypes=(x.dtype, torch.float32, torch.float32, x.dtype),
            shapes=(x.shape, rows, rows, x.shape),
            version=1,
        )
        return total, normed

    def attention(self, q: Tensor, k: Tensor, v: Tensor, num_heads: int, num_key_value_heads: int, scale: float) -> Tensor:
        if num_heads != num_key_value_heads:  # MultiHeadAttention wants one key head per query head
            k, v = (_repeat_heads(t, num_heads, num_key_value_heads) for t in (k, v))
        attributes: dict[str, Any] = {"num_heads": num_heads, "scale": scale}
        return symbolic("com.microsoft::MultiHeadAttention", (q, k, v), attributes, dtype=q.dtype, shape=q.shape, version=1)

    def seen_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
        attributes: dict[str, Any] = {"num_heads": num_heads, "scale": scale}
        inputs = (q, k, v, None, None, bias)
        return symbolic("com.microsoft::MultiHeadAttention", inputs, attributes, dtype=q.dtype, shape=q.shape, version=1)

    def cached_attention(self, sizes: CachedAttention, call: DecoderCall) -> AttendWithCache:
        last, total = (call.tokens - 1).to(torch.int32), call.total.to(torch.int32)
        attributes = {
            "num_heads": sizes.num_heads,
            "kv_num_heads": sizes.num_key_value_heads,
            "do_rotary": 1,
            "scale": sizes.head_dim**-0.5,
            "local_window_size": sizes.sliding_window or -1,
        }

        def attend(q: Tensor, k: Tensor | None, v: Tensor | None, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            attended = (*q.shape[:2], sizes.num_heads * sizes.head_dim)
            output, key, value = symbolic_multi_out(
                "com.microsoft::GroupQueryAttention",
                (q, k, v, *past, last, total, call.cos, call.sin),
                attributes,
                dtypes=(q.dtype,) * 3,
                shapes=(attended, past[0].shape, past[1].shape),
                version=1,
            )
            return output, key, value

        return attend


class Standard:
    """ai.onnx operators only."""

    opset = STANDARD_OPSET
    joins = False

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        attributes: dict[str, Any] = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
        return symbolic("RMSNormalization", (x, weight), attributes, dtype=x.dtype, shape=x.shape, version=23)

    def add_rms_norm(self, x: Tensor, added: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        total = x + added
        return total, self.rms_norm(total, weight, epsilon)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, num_heads: int, num_key_value_heads: int, scale: float) -> Tensor:
        q = _heads_first(q, num_heads)
        k, v = (_heads_first(t, num_key_value_heads) for t in (k, v))
        output = symbolic("Attention", (q, k, v), {"scale": scale}, dtype=q.dtype, shape=q.shape, version=24)
        return output.transpose(1, 2).flatten(2)

    def seen_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
        q = _heads_first(q, num_heads)
        output = symbolic("Attention", (q, k, v, bias), {"scale": scale}, dtype=q.dtype, shape=q.shape, version=24)
        return output.transpose(1, 2).flatten(2)

    def cached_attention(self, sizes: CachedAttention, call: DecoderCall) -> AttendWithCache:
        # TensorRT clips floats only, so bounds are minima and maxima.
        start = torch.maximum(call.tokens - call.seq, torch.tensor(0))  # a right-padded prompt starts at 0
        positions = start[:, None] + torch.arange(call.seq)
        # Padding may lie past the table's end; nothing looks at it.
        in_table = torch.minimum(positions, torch.tensor(call.cos.shape[0] - 1))
        past_length = symbolic("Shape", (call.cache,), {"start": 2, "end": 3}, dtype=torch.int64, shape=(1,), version=21)
        missing = torch.maximum(call.total - past_length, torch.tensor(0))
        rows = symbolic("Shape", (call.cache,), {"start": 0, "end": 1}, dtype=torch.int64, shape=(1,), version=21)
        growth = torch.cat([rows, torch.tensor([sizes.num_key_value_heads]), missing, torch.tensor([sizes.head_dim])])
        # Not Pad, which ONNX Runtime has no kernel of bfloat16 for.
        nothing, cache = call.cache.new_zeros(1), call.cache
        more = symbolic("Expand", (nothing, growth), dtype=cache.dtype, shape=cache.shape, version=13)
        zero = torch.zeros(1, dtype=torch.int64)
        slots = torch.arange(call.cache.shape[2] + call.attention_mask.shape[1])
        slots = symbolic("Slice", (slots, zero, past_length + missing, zero), dtype=torch.int64, shape=slots.shape, version=13)
        visible = slots <= positions[:, :, None]
        if sizes.sliding_window is not None:
            visible = visible & (slots > positions[:, :, None] - sizes.sliding_window)
        visible = visible[:, None]

        def rotate(x: Tensor, num_heads: int) -> Tensor:
            inputs = (x, call.cos, call.sin, in_table)
            return symbolic("RotaryEmbedding", inputs, {"num_heads": num_heads}, dtype=x.dtype, shape=x.shape, version=23)

        def append(cache: Tensor, new: Tensor) -> Tensor:
            roomy = symbolic("Concat", (cache, more), {"axis": 2}, dtype=cache.dtype, shape=cache.shape, version=13)
            inputs = (roomy, _heads_first(new, sizes.num_key_value_heads), start)
            return symbolic("TensorScatter", inputs, {"axis": -2}, dtype=cache.dtype, shape=cache.shape, version=24)

        def attend(q: Tensor, k: Tensor | None, v: Tensor | None, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            assert k is not None
            assert v is not None
            q = _heads_first(rotate(q, sizes.num_heads), sizes.num_heads)
            key, value = append(past[0], rotate(k, sizes.num_key_value_heads)), append(past[1], v)
            attributes: dict[str, Any] = {"scale": sizes.head_dim**-0.5}
            output = symbolic("Attention", (q, key, value, visible), attributes, dtype=q.dtype, shape=q.shape, version=24)
            return output.transpose(1, 2).flatten(2), key, value

        return attend


def _repeat_heads(x: Tensor, num_heads: int, num_key_value_heads: int) -> Tensor:
    """[…, kv_heads × dim] → […, heads × dim], each head repeated for the query heads that share it."""
    heads = x.unflatten(-1, (num_key_value_heads, 1, -1))
    return heads.expand(-1, -1, -1, num_heads // num_key_value_heads, -1).flatten(2)


def _heads_first(x: Tensor, num_heads: int) -> Tensor:
    """[batch, seq, heads × dim] → [batch, heads, seq, dim]: TensorRT takes attention in this form only."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
