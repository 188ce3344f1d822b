"""A batch equals its rows run one by one, and the reference's own batch."""

from __future__ import annotations

import numpy as np
import pytest
from parity import TOLERANCES, photos

TEXTS = ["Two: <image><image>", "no picture", "<image>", "A rather long question about <image>, the longest of all of them?"]
FLAVOURS = [
    ("plain", "fp32", "fused"),
    ("window", "fp32", "fused"),
    ("window", "fp32", "standard"),
    ("odd_heads", "fp32", "standard"),
]


def images() -> list[list]:
    a, b, c = photos()
    return [[a, b], [], [c], [a]]


@pytest.mark.parametrize("case", FLAVOURS, ids="-".join)
def test_ragged_batch_equals_single(case, model):
    ours = model(*case)
    together = ours.generate(TEXTS, images(), raw=True, max_new_tokens=24)
    for text, own, row in zip(TEXTS, images(), together, strict=True):
        alone = ours.generate(text, own, raw=True, max_new_tokens=24)
        assert row.token_ids == alone.token_ids
        assert (row.text, row.finish_reason, row.prompt_tokens) == (alone.text, alone.finish_reason, alone.prompt_tokens)


@pytest.mark.parametrize("case", FLAVOURS, ids="-".join)
@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_logits_equal_single(case, side, model):
    ours = model(*case)
    batch = ours.processor(text=TEXTS, images=images(), padding=True, padding_side=side)
    together = ours.logits(batch)
    assert together.dtype == np.float32
    for row, (text, own) in enumerate(zip(TEXTS, images(), strict=True)):
        single = ours.logits(ours.processor(text=text, images=[own] if own else None))[0]
        mask = batch["attention_mask"][row] == 1
        assert np.abs(together[row, mask] - single).max() <= TOLERANCES["decoder prefill"]["fp32"]
        assert not together[row, ~mask].any()


@pytest.mark.parametrize("case", FLAVOURS, ids="-".join)
def test_batch_equals_reference_batch(case, model, reference):
    ours, theirs = model(*case), reference(case[0])
    inputs = theirs.inputs(TEXTS, images(), splitting=True)
    expected = theirs.generate(inputs, max_new_tokens=24)
    assert ours.generate(**inputs, max_new_tokens=24).tolist() == expected.tolist()


def test_rows_stop_each_on_its_own_end_token(model, reference):
    """Every token a row produces is in turn made an end token; the reference pads what follows."""
    ours, theirs = model("plain"), reference("plain")
    inputs = theirs.inputs(TEXTS, images(), splitting=True)
    options = {"max_new_tokens": 12, "suppress_tokens": [2, 261]}  # the model's own ends
    free = ours.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    lengths = set()
    for end in np.unique(free)[:6]:
        ends = [int(end), 2]
        answer = ours.generate(**inputs, **options, eos_token_id=ends)
        assert answer.tolist() == theirs.generate(inputs, **options, eos_token_id=ends).tolist()
        lengths.add(answer.shape[1])
        result = ours.generate(TEXTS, images(), raw=True, **options, eos_token_id=ends)
        for row, own in zip(result, free.tolist(), strict=True):
            stop = own.index(end) + 1 if end in own else 12
            assert row.token_ids == own[:stop]
            assert row.finish_reason == ("stop" if end in own else "length")


def test_images_of_one_size_are_encoded_together_and_apart_alike(model, monkeypatch):
    ours = model("plain")
    tiles = [tile for own in ours.processor.image_processor.tiles(photos()) for tile in own]
    ours.engine.feature_cache.clear()
    together = ours.engine.encode_images(tiles)
    ours.engine.feature_cache.clear()
    monkeypatch.setattr("idefics2_onnx.runtime.engine.engine.PATCHES_PER_CALL", 1)
    apart = ours.engine.encode_images(tiles)
    for first, second in zip(together, apart, strict=True):
        assert np.abs(first.read() - second.read()).max() <= 1e-5


@pytest.mark.parametrize("rules", [{}, {"do_sample": True, "seed": 5}, {"eos_token_id": list(range(0, 260, 9))}], ids=str)
def test_eight_rows_equal_eight_single_runs(rules, model):
    """Greedy, seeded, and with rows that leave at different steps."""
    ours = model("plain")
    texts, own = [*TEXTS, *(text + " again" for text in TEXTS)], [*images(), *images()]
    options = {"raw": True, "max_new_tokens": 20} | rules
    together = ours.generate(texts, own, **options)
    alone = [ours.generate(text, pictures, **options) for text, pictures in zip(texts, own, strict=True)]
    assert [row.token_ids for row in together] == [row.token_ids for row in alone]
    assert "eos_token_id" not in rules or len({len(row.token_ids) for row in alone}) > 2
