"""Contexts longer than the attention's window."""

from __future__ import annotations

import numpy as np
import pytest
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.model import Idefics2
from parity import Reference
from small_models import SmallModel


@pytest.mark.parametrize("attention", ["fused", pytest.param("standard", marks=pytest.mark.sweep)])
def test_the_window_beyond_4096_tokens_equals_the_reference(attention, tmp_path):
    """Prompts longer than the real window, read in pieces, and tokens behind them."""
    text = {
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    write_checkpoint(tmp_path / "checkpoint", SmallModel(text=text).config)  # whose second layer sees past the first one's window
    theirs = Reference.load(tmp_path / "checkpoint")
    ids = np.random.default_rng(0).integers(3, 259, (1, 4200))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    options = {"max_new_tokens": 12, "suppress_tokens": [2, 261]}
    expected, answer = theirs.logits(inputs), theirs.generate(inputs, **options)
    other = theirs.logits({"input_ids": ids[:, 100:], "attention_mask": np.ones_like(ids[:, 100:])})
    assert np.abs(other[:, -1] - expected[:, -1]).max() > 1e-3  # the window and the positions do tell
    folder = export_model(tmp_path / "checkpoint", tmp_path / attention, "fp32", attention=attention, verify="never").folder
    ours = Idefics2.from_pretrained(folder)
    assert np.abs(ours.logits(inputs) - expected).max() <= 1e-5
    assert ours.generate(**inputs, **options).tolist() == answer.tolist()
