"""The parity ladder: pixels → ids → vision → embedding → decoder prefill → decoder step → text, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from idefics2_onnx.runtime.images.padding import unpad_tiles
from idefics2_onnx.runtime.sample import Sample
from parity import assert_close, photos, tensors
from small_models import SMALL_MODELS

PROMPTS = {0: "No picture here, só?", 1: "What is <image>in it", 3: "<image><image> Compare them with <image>!"}
CASES = [
    ("plain", "fp32", "fused"), ("window", "fp32", "fused"), ("wide_heads", "fp32", "fused"), ("bf16_checkpoint", "fp32", "fused"),
    ("fp16_checkpoint", "fp32", "fused"), ("window", "fp32", "standard"), ("odd_heads", "fp32", "standard"),
    ("plain", "fp16", "fused"), ("window", "fp16", "fused"), ("window", "fp16", "standard"),
]  # fmt: skip
"""Each model, and each flavour and type with a window and without."""
EVERY = {
    *((name, "fp32", flavour) for name in SMALL_MODELS for flavour in ("fused", "standard")),
    *((name, "fp16", "fused") for name in SMALL_MODELS),
    ("plain", "fp16", "standard"),
    ("odd_heads", "fp16", "standard"),
} - {("odd_heads", "fp32", "fused"), ("odd_heads", "fp16", "fused")}
NEW_TOKENS = 24


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.sweep) for case in sorted(EVERY - {*CASES}))], ids="-".join
)
@pytest.mark.parametrize(
    ("num_images", "splitting"),
    [
        (0, False),
        (1, False),
        (3, True),
        *(pytest.param(*pair, marks=pytest.mark.sweep) for pair in ((0, True), (1, True), (3, False))),
    ],
)
def test_ladder(case, splitting, num_images, model, reference):
    name, precision, _ = case
    ours, theirs = model(*case), reference(name)
    texts, images = [PROMPTS[num_images]], [photos()[:num_images]]
    expected = theirs.inputs(texts, images, splitting)
    inputs = ours.processor(text=texts, images=images, padding=True, do_image_splitting=splitting)
    assert list(inputs) == list(expected)
    for key, value in expected.items():
        assert inputs[key].dtype == value.dtype, key
        assert_close("pixels" if key.startswith("pixel") else "ids", precision, inputs[key], value)

    engine = ours.engine
    tiles = unpad_tiles(inputs["pixel_values"], inputs["pixel_attention_mask"])[0] if num_images else []
    sample, features, merged = Sample(inputs["input_ids"][0].tolist(), tiles), [], None
    if num_images:
        features = engine.encode_images(tiles)
        arrays = tensors({"pixel_values": inputs["pixel_values"], "pixel_attention_mask": inputs["pixel_attention_mask"]})
        with torch.no_grad():
            merged = torch.cat(theirs.model.get_image_features(**arrays).pooler_output)
        assert_close("vision", precision, engine.gather(features).read().reshape(merged.shape), merged.numpy())
    embeds = engine.embed_prompts([sample], features, 0, sample.tokens)
    with torch.no_grad():
        ids = torch.from_numpy(inputs["input_ids"])
        wanted = theirs.model.get_input_embeddings()(ids)
        if merged is not None:
            wanted = theirs.model.model.inputs_merger(ids, wanted, merged)
    assert_close("embedding", precision, embeds.read()[0], wanted.numpy())

    length = np.array([len(sample.ids)])
    cache = engine.new_cache(1, len(sample.ids) + 1)
    positions = np.arange(len(sample.ids))[None]
    expected_logits = theirs.logits(expected)
    assert 0.3 < expected_logits.std() < 3  # the tolerances mean something
    assert_close("decoder prefill", precision, engine.decode(embeds, length, cache, positions), expected_logits)
    follow = np.array([[77]])
    step = engine.decode(engine.embed(follow), np.array([1]), cache, np.zeros((1, 1), np.int64))
    longer = expected | {key: np.concatenate([expected[key], new], 1) for key, new in (("input_ids", follow), ("attention_mask", follow * 0 + 1))}  # fmt: skip
    assert_close("decoder step", precision, step, theirs.logits(longer)[:, -1:])

    if precision == "fp32":
        options = {"max_new_tokens": NEW_TOKENS}
        answer = ours.generate(**inputs, **options)
        assert answer.tolist() == theirs.generate(expected, **options).tolist()
        assert_close("decoder prefill", precision, ours.logits(inputs), expected_logits)
