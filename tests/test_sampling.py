"""Pure functions on logits against the reference's processors."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from idefics2_onnx.runtime.sampling import ban, greedy
from transformers.generation.logits_process import NoBadWordsLogitsProcessor

words = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=5)


@given(words, st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_ban_equals_the_reference(bad_words, history):
    logits = np.random.default_rng(0).standard_normal((1, 10)).astype(np.float32)
    processor = NoBadWordsLogitsProcessor(bad_words, eos_token_id=None)
    expected = processor(torch.tensor([history]), torch.from_numpy(logits.copy())).numpy()
    ban(logits, [history], bad_words)
    assert (logits == expected).all()


def test_greedy_takes_the_first_of_equals():
    assert greedy(np.array([[1, 3, 3], [0, -np.inf, 0]], np.float32)).tolist() == [1, 0]
