"""No work is done twice: features of known images, prefixes of known prompts, drafts from known text."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.sampling.prompt_lookup import draft
from parity import photos

A, B, C = photos()
LONG = "You are a careful reader. " * 3


def test_images_are_encoded_once(exported):
    ours = Idefics2.from_pretrained(exported("plain"))
    options = {"raw": True, "max_new_tokens": 5, "do_image_splitting": True}
    first = ours.generate("<image> and <image>", [A, B], **options)
    assert (first.timings.images_encoded, first.timings.images_reused) == (10, 0)
    second = ours.generate(["<image>", "<image> and <image>"], [[B], [A.copy(), C]], **options)
    assert (second[0].timings.images_encoded, second[0].timings.images_reused) == (5, 10)
    whole = ours.generate("<image>", A, raw=True, max_new_tokens=5, do_image_splitting=False)
    assert (whole.timings.images_encoded, whole.timings.images_reused) == (0, 1)  # the whole is the fifth tile
    smaller = Idefics2.from_pretrained(exported("plain"), image_cache=0)
    assert smaller.generate("<image> and <image>", [A, A], **options).timings.images_encoded == 10
    assert ours.generate("<image> and <image>", [A, B], **options).token_ids == first.token_ids
    assert smaller.generate("<image> and <image>", [A, B], **options).token_ids == first.token_ids


def test_features_stay_within_their_bytes_and_the_oldest_go(exported):
    ours = Idefics2.from_pretrained(exported("plain"))
    tile = ours.encode_images([A], do_image_splitting=False)[0].nbytes
    ours = Idefics2.from_pretrained(exported("plain"), image_cache=2 * tile)
    options = {"raw": True, "max_new_tokens": 1, "do_image_splitting": False}
    hits = [ours.generate("<image>", image, **options).timings.images_reused for image in (A, B, A, C, A, B)]
    assert hits == [0, 0, 1, 0, 1, 0]
    assert ours.engine.feature_cache.nbytes == 2 * tile


def test_prefixes_are_read_once_and_change_nothing(exported):
    plain = Idefics2.from_pretrained(exported("window"))
    ours = Idefics2.from_pretrained(exported("window"), prefix_cache=8 << 20)
    options = {"raw": True, "max_new_tokens": 8}
    reused = []
    for text, images in [
        (LONG + "one", []),
        (LONG + "two", []),
        ("<image>" + LONG + "one", [A]),
        ("<image>" + LONG + "two", [A]),
        ("<image>" + LONG + "two", [B]),
        ("<image>" + LONG + "two", [B]),
        ("<image><image> which", [B, C]),
    ]:
        answer = ours.generate(text, images, **options)
        assert answer.token_ids == plain.generate(text, images, **options).token_ids
        assert answer.timings.prompt_tokens + answer.timings.prompt_tokens_reused == answer.prompt_tokens
        reused.append(answer.timings.prompt_tokens_reused)
    length = len(ours.processor.tokenizer.encode(LONG).ids)
    assert reused[0] == 0
    assert length - 1 <= reused[1] <= length + 2  # "t" and "o" may share nothing more
    assert reused[2] <= 2
    assert reused[3] > length
    assert reused[4] <= 2  # another image
    assert reused[5] == answer_length(ours, LONG + "two", B) - 1
    assert 0 < reused[6] < 5 * 9 + 12  # the first image, not the second one
    batch = ours.generate([LONG + "three", "<image>" + LONG + "two", "new"], [[], [A], []], **options)
    alone = plain.generate([LONG + "three", "<image>" + LONG + "two", "new"], [[], [A], []], **options)
    assert [row.token_ids for row in batch] == [row.token_ids for row in alone]
    assert batch[0].timings.prompt_tokens_reused > 2 * length - 3


def answer_length(ours, text, image):
    return ours.generate("<image>" + text, image, raw=True, max_new_tokens=1).prompt_tokens


def test_prefixes_stay_within_their_bytes(exported):
    ours = Idefics2.from_pretrained(exported("plain"), prefix_cache=60_000)
    for i in range(12):
        ours.generate(f"{i} {LONG}", raw=True, max_new_tokens=1)
        assert ours.prefix_cache.nbytes <= 60_000
    assert ours.prefix_cache.nbytes > 30_000
    assert Idefics2.from_pretrained(exported("plain"), prefix_cache=100).generate(LONG, raw=True, max_new_tokens=1)


def test_drafts_follow_the_longest_and_latest_match():
    assert draft([1, 2, 3, 9, 9, 1, 2, 3], 4) == [9, 9, 1, 2]
    assert draft([1, 2, 3, 4, 7, 2, 3, 5, 1, 2, 3], 2) == [4, 7]
    assert draft([2, 3, 4, 2, 3, 5, 2, 3], 1) == [5]
    assert draft([5, 5, 5], 3) == [5]
    assert draft([1, 2, 3], 3) == []
    assert draft([1, 2, 1, 2], 0) == []


@pytest.mark.parametrize(
    ("case", "rules"),
    [
        (("plain", "fp32", "fused"), {}),
        (("plain", "fp32", "fused"), {"do_sample": True, "seed": 3, "top_k": 2}),
        (("plain", "fp32", "fused"), {"repetition_penalty": 0.3}),
        (("plain", "fp32", "fused"), {"stop_strings": ["q"], "logprobs": True}),
        (("window", "fp32", "fused"), {}),
        (("window", "fp32", "standard"), {"do_sample": True, "seed": 3, "top_k": 2}),
    ],
    ids=str,
)
def test_prompt_lookup_changes_nothing(case, rules, model):
    """Also for sampling, which draws one number per token in order; in batches; with ends inside a draft."""
    ours = model(*case)
    texts = ["abcabcabcabcabc", "<image> 0101010101", "one two one two", "<image>" + "xy" * 20, "z"]
    images = [[], [A], [], [B], []]
    options = {"raw": True, "max_new_tokens": 40, "suppress_tokens": list(range(80, 255))} | rules
    plain = ours.generate(texts, images, **options)
    for tokens in (1, 3, 10):
        looked = ours.generate(texts, images, prompt_lookup_num_tokens=tokens, **options)
        assert [row.token_ids for row in looked] == [row.token_ids for row in plain]
        assert [(row.text, row.finish_reason) for row in looked] == [(row.text, row.finish_reason) for row in plain]
        if "logprobs" in rules:
            for a, b in zip(plain, looked, strict=True):
                assert np.abs(np.array(a.logprobs) - b.logprobs).max() < 1e-4
        alone = ours.generate(texts[3], images[3], prompt_lookup_num_tokens=tokens, **options)
        assert alone.token_ids == plain[3].token_ids


def test_prompt_lookup_on_a_copying_answer_takes_half_the_calls(model):
    """A reward for what was seen makes a random model repeat itself, as a reader of documents repeats the document."""
    ours = model("plain")
    options = {"raw": True, "max_new_tokens": 120, "repetition_penalty": 0.2}
    plain = ours.generate("abcdefgh abcdefgh abcdefgh", **options)
    looked = ours.generate("abcdefgh abcdefgh abcdefgh", prompt_lookup_num_tokens=8, **options)
    assert looked.token_ids == plain.token_ids
    assert plain.timings.steps == 119
    assert looked.timings.steps <= plain.timings.steps / 2
    assert looked.timings.acceptance_rate == looked.timings.accepted / looked.timings.drafted > 0.5
    assert plain.timings.acceptance_rate is None


def test_one_model_in_several_threads(exported):
    ours = Idefics2.from_pretrained(exported("plain"), prefix_cache=1 << 20)
    jobs = [(LONG + str(i), [A, B, C][i % 3]) for i in range(6)]
    options = {"max_new_tokens": 12, "do_sample": True}
    expected = [
        Idefics2.from_pretrained(exported("plain")).generate(text, image, seed=i, **options).token_ids
        for i, (text, image) in enumerate(jobs)
    ]
    found: dict[int, list[list[int]]] = {i: [] for i in range(len(jobs))}

    def work(i):
        for _ in range(3):
            found[i].append(ours.generate(*jobs[i], seed=i, **options).token_ids)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [ids] * 3 for i, ids in enumerate(expected)}
