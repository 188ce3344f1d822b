"""Pure functions on scores against the reference's processors, and the sampler against its distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from idefics2_onnx.runtime.sampling import scores as sampling
from idefics2_onnx.runtime.sampling.generation_options import GenerationOptions
from idefics2_onnx.runtime.sampling.token_chooser import History, TokenChooser
from transformers.generation import logits_process as reference

VOCAB = 400
words = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=5)
RULES = [
    {"temperature": 0.4},
    {"top_k": 7},
    {"top_k": 1000},
    {"top_k": 0},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"top_h": 0.3},
    {"top_h": 0.9, "top_k": 0},
    {"epsilon_cutoff": 0.02},
    {"eta_cutoff": 0.3},
    {"top_k": 0, "top_h": 0.8, "top_p": 0.95, "epsilon_cutoff": 0.003, "eta_cutoff": 0.01},
    {"temperature": 1.7, "top_k": 60, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.7},
    {"top_k": 0, "top_p": 0.9, "typical_p": 0.5},
]


def warpers(rule):
    """The reference's, in its order."""
    made = []
    if rule.get("temperature", 1.0) != 1.0:
        made.append(reference.TemperatureLogitsWarper(rule["temperature"]))
    if rule.get("top_h") is not None:
        made.append(reference.TopHLogitsWarper(rule["top_h"]))
    if rule.get("top_k", 50):
        made.append(reference.TopKLogitsWarper(rule.get("top_k", 50)))
    if rule.get("top_p", 1.0) < 1.0:
        made.append(reference.TopPLogitsWarper(rule["top_p"]))
    if rule.get("min_p") is not None:
        made.append(reference.MinPLogitsWarper(rule["min_p"]))
    if rule.get("typical_p", 1.0) < 1.0:
        made.append(reference.TypicalLogitsWarper(rule["typical_p"]))
    if rule.get("epsilon_cutoff"):
        made.append(reference.EpsilonLogitsWarper(rule["epsilon_cutoff"]))
    if rule.get("eta_cutoff"):
        made.append(reference.EtaLogitsWarper(rule["eta_cutoff"]))
    return made


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 30.0])
def test_filtered_distribution_equals_the_reference(rule, spread):
    random = np.random.default_rng(0)
    chooser = TokenChooser(GenerationOptions().replace(do_sample=True, **rule), VOCAB)
    for _ in range(20):
        scores = (random.standard_normal(VOCAB) * spread).astype(np.float32)
        scores[random.integers(0, VOCAB, 30)] = -np.inf  # what other options ruled out
        expected = torch.from_numpy(scores.copy())[None]
        for warper in warpers(rule):
            expected = warper(None, expected)
        expected = expected.softmax(-1)[0].numpy()
        tokens, left = chooser.filter(scores)
        found = np.zeros(VOCAB, np.float32)
        found[tokens] = sampling.softmax(left)
        assert np.abs(found - expected).max() <= 1e-6
        assert ((found > 0) == (expected > 0)).all() or spread == 30.0  # beyond float32's exponent both are 0


@given(words, st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_bad_words_equal_the_reference(bad_words, history):
    scores = np.random.default_rng(0).standard_normal((1, 10)).astype(np.float32)
    processor = reference.NoBadWordsLogitsProcessor(bad_words, eos_token_id=None)
    expected = processor(torch.tensor([history]), torch.from_numpy(scores.copy())).numpy()
    TokenChooser(GenerationOptions().replace(bad_words_ids=bad_words), 10).constrain(scores, [History(history)])
    assert (scores == expected).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(1, 4), st.integers(0, 13))
def test_repetition_equals_the_reference_however_it_was_read(ids, size, split):
    scores = np.random.default_rng(1).standard_normal((1, 10)).astype(np.float32)
    expected = torch.from_numpy(scores.copy())
    for processor in (reference.RepetitionPenaltyLogitsProcessor(1.5), reference.NoRepeatNGramLogitsProcessor(size)):
        expected = processor(torch.tensor([ids]), expected)
    chooser = TokenChooser(GenerationOptions().replace(repetition_penalty=1.5, no_repeat_ngram_size=size), 10)
    history = History(ids[: min(split, len(ids))])
    for token in ids[len(history.ids) :]:
        chooser.constrain(scores.copy(), [history])
        history.append(token)
    chooser.constrain(scores, [history])
    assert (scores == expected.numpy()).all()


@given(
    st.lists(st.integers(0, 9), max_size=14),
    st.integers(0, 14),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 19), st.floats(-100, 100), max_size=5),
)
def test_penalties_and_biases_mean_what_openai_says(ids, prompt, frequency, presence, biases):
    """Written out token by token; the prompt does not count, and tokens that the model lacks have no score."""
    scores = np.random.default_rng(2).standard_normal((1, 10)).astype(np.float32)
    expected = scores[0].astype(np.float64)
    answer = ids[prompt:]
    for token in range(10):
        count = answer.count(token)
        expected[token] += biases.get(token, 0) - count * frequency - (count > 0) * presence
    options = GenerationOptions().replace(frequency_penalty=frequency, presence_penalty=presence, logit_bias=biases)
    chooser = TokenChooser(options, 10)
    assert chooser.takes_likeliest == (not (frequency or presence or any(token < 10 for token in biases)))
    chooser.constrain(scores, [History(ids, len(answer))])
    assert np.abs(scores[0] - expected).max() < 1e-4


def test_min_new_tokens_equals_the_reference():
    options = GenerationOptions().replace(min_new_tokens=3, eos_token_id=[2, 5])
    for new in range(5):
        scores = np.random.default_rng(new).standard_normal((1, 10)).astype(np.float32)
        ids = torch.arange(4 + new)[None]
        expected = reference.MinNewTokensLengthLogitsProcessor(4, 3, [2, 5])(ids, torch.from_numpy(scores.copy())).numpy()
        TokenChooser(options, 10).constrain(scores, [History(list(range(4 + new)), new)])
        assert (scores == expected).all()


def test_greedy_takes_the_first_of_equals():
    chooser = TokenChooser(GenerationOptions(), 3)
    rows = [(History([1]), np.random.default_rng(0))] * 2
    assert chooser.choose(np.array([[1, 3, 3], [0, -np.inf, 0]], np.float32), rows) == [1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_draws_follow_the_distribution(seed):
    """Chi-square of 40,000 draws over 12 tokens: 31.3 is exceeded once in 1,000 with 11 degrees of freedom."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal(12).astype(np.float32)
    expected = sampling.softmax(scores).astype(np.float64) * 40_000
    counts = np.bincount([sampling.draw(scores, random) for _ in range(40_000)], minlength=12)
    assert ((counts - expected) ** 2 / expected).sum() < 31.3


def test_draws_never_take_what_has_no_probability():
    class Edge:
        def __init__(self, number):
            self.number = number

        def random(self):
            return self.number

    scores = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert sampling.draw(scores, Edge(0.0)) == 1
    assert sampling.draw(scores, Edge(np.nextafter(1.0, 0))) == 3
