"""Every deterministic option against the reference's generate: the same token ids, image by image, batched and split."""

from __future__ import annotations

import numpy as np
import pytest
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.sampling.generation_options import GenerationOptions
from parity import photos, tensors
from small_models import SMALL_MODELS
from transformers import GenerationConfig

A, B, C = photos()
BATCHES = [  # 24 prompts: (texts, images, splitting)
    (["Two: <image><image>", "no picture", "<image>", "A rather long question about <image>, the longest of all?"], [[A, B], [], [C], [A]], True),
    (["What is <image>", "<image>?", "first <image>, then <image>", "<image> said the <image> to the <image>"], [[B], [C], [C, A], [A, B, C]], False),
    (["abcabcabcabcabc", "the cat and the cat and the cat and", "0101010101", "x"], [[]] * 4, False),
    (["<image>aaaa", "<image>bbbb bbbb bbbb", "<image>", "<image>1 2 3 1 2 3 1 2"], [[A], [B], [C], [A]], True),
    (["one", "two", "three", "four"], [[]] * 4, False),
    (["<image> one", "<image> two", "<image> three", "<image> four"], [[C], [C], [C], [B]], False),
]  # fmt: skip
OPTIONS = {
    "greedy": {},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": list(range(40, 200))},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "repetition_reward": {"repetition_penalty": 0.6},
    "no_repeat_ngram_1": {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_2": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_3": {"no_repeat_ngram_size": 3},
    "bad_words": {"bad_words_ids": [[i] for i in range(60, 120)] + [[7, 8], [200, 201, 202]]},
    "suppress_tokens": {"suppress_tokens": list(range(3, 150))},
    "several_ends": {"eos_token_id": list(range(100, 150))},
    "min_length": {"min_length": 40, "eos_token_id": list(range(40, 200))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(3, 150))},
    "sequence_bias": {"sequence_bias": [[[i], 2.0 - i / 40] for i in range(60, 160)] + [[[i, 9], 30.0] for i in range(0, 260, 3)]},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 2.5},
    "beams_renormalised": {"num_beams": 3, "renormalize_logits": True, "suppress_tokens": list(range(3, 150)), "eos_token_id": list(range(0, 260, 6))},
    "beams_looking_back": {"num_beams": 3, "min_length": 40, "encoder_repetition_penalty": 0.5, "sequence_bias": [[[7, 8], 5.0]], "eos_token_id": list(range(0, 260, 6))},
    "all_at_once": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress_tokens": [5, 6, 7], "min_new_tokens": 4, "eos_token_id": list(range(60))},
    "beams": {"num_beams": 3},
    "beams_ends": {"num_beams": 4, "eos_token_id": list(range(0, 260, 6))},
    "beams_early": {"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(0, 260, 6))},
    "beams_never": {"num_beams": 2, "early_stopping": "never", "eos_token_id": list(range(0, 260, 5)), "length_penalty": 0.1},
    "beams_short": {"num_beams": 4, "length_penalty": -1.0, "eos_token_id": list(range(0, 260, 6))},
    "beams_constrained": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "bad_words_ids": [[9], [11, 12]]},
    "beams_several": {"num_beams": 4, "num_return_sequences": 3, "eos_token_id": list(range(0, 260, 12))},
}  # fmt: skip
NEW_TOKENS = 14
SEES_PADDING = {"no_repeat_ngram_size", "min_length", "max_length", "encoder_repetition_penalty"}
"""Options for which the reference counts a batch's padding among the prompt's tokens."""


def answers(ids, width, ends):
    """The generated part of each row, up to its first end token."""
    rows = [row[width:] for row in ids.tolist()]
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))] for row in rows]


WITH_A_WINDOW = {"greedy", "beams_looking_back", "beams_several", "all_at_once"}
"""Options that are compared in a model with a window, too; in a sweep all are."""


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *((option, "plain") for option in OPTIONS),
        *(pytest.param(option, "window", marks=[pytest.mark.sweep] * (option not in WITH_A_WINDOW)) for option in OPTIONS),
    ],
)
def test_option_equals_the_reference(name, option, model, reference):
    ours, theirs = model(name), reference(name)
    options = {"max_new_tokens": NEW_TOKENS} | OPTIONS[option]
    ends = options.get("eos_token_id", ours.options.eos_token_id)
    lengths = set()
    for texts, images, splitting in BATCHES[: 1 if name != "plain" else 2 if options.keys() & SEES_PADDING else 4]:
        inputs = theirs.inputs(texts, images, splitting)
        width = inputs["input_ids"].shape[1]
        if options.keys() & SEES_PADDING:
            singles = [theirs.inputs([text], [own], splitting) for text, own in zip(texts, images, strict=True)]
            expected = [answers(theirs.generate(i, **options), i["input_ids"].shape[1], ends) for i in singles]
            expected = [answer for prompt in expected for answer in prompt]
        else:
            expected = answers(theirs.generate(inputs, **options), width, ends)
        assert answers(ours.generate(**inputs, **options), width, ends) == expected
        lengths |= set(map(len, expected))
    if "eos_token_id" in options and (name, option) != ("window", "beams_looking_back"):
        assert len(lengths) > 1  # rows did leave at different times


@pytest.mark.parametrize("name", ["wide_heads", "odd_heads", "bf16_checkpoint", "fp16_checkpoint"])
def test_beams_equal_the_reference_in_every_model(name, model, reference):
    ours = model(name, "fp32", "standard" if SMALL_MODELS[name].config.text_config.head_dim % 16 else "fused")
    theirs = reference(name)
    options = OPTIONS["beams_ends"] | {"max_new_tokens": NEW_TOKENS}
    for texts, images, splitting in BATCHES[:2]:
        inputs = theirs.inputs(texts, images, splitting)
        assert ours.generate(**inputs, **options).tolist() == theirs.generate(inputs, **options).tolist()


def test_stop_strings_end_where_the_reference_ends(model, reference):
    """A stop string is made of what the model says anyway: across token borders, and cut off the text."""
    ours, theirs = model("plain"), reference("plain")
    found = 0
    printable = [
        i
        for i in range(262)
        if not (token := theirs.processor.tokenizer.convert_ids_to_tokens(i)).isalnum() or len(token) > 1 or not token.isascii()
    ]
    for texts, images, splitting in BATCHES[::2]:
        for text, own in zip(texts, images, strict=True):
            inputs = theirs.inputs([text], [own], splitting)
            options = {"max_new_tokens": 12, "suppress_tokens": printable}
            free = ours.generate(text, own, raw=True, do_image_splitting=splitting, **options)
            stop = free.text[4:6]  # one that does not begin in the prompt, where the reference would find it too
            expected = theirs.generate(inputs, **options, stop_strings=[stop, "never said"], tokenizer=theirs.processor.tokenizer)
            answer = ours.generate(
                text, own, raw=True, do_image_splitting=splitting, **options, stop_strings=[stop, "never said"]
            )
            assert answer.token_ids == expected[0, inputs["input_ids"].shape[1] :].tolist()
            assert answer.text == free.text[: free.text.index(stop)]
            assert answer.finish_reason == "stop"
            found += 1
    assert found == 12


@pytest.mark.parametrize("way", [{}, {"do_sample": True, "top_k": 1, "seed": 1}, {"prompt_lookup_num_tokens": 4}], ids=str)
def test_openais_penalties_in_every_way_of_choosing(way, model):
    """Greedy, drawn from one, and looked up, beside a loop over the model's own logits."""
    ours = model("plain")
    rules = {"frequency_penalty": 0.7, "presence_penalty": -0.4, "logit_bias": {"70": 1.5, 90: -3.0, 9999: 5}}
    for text in ("abcabcabcabcabc", "the cat and the cat", "x"):
        ids = ours.processor(text=text)["input_ids"]
        answer = []
        while len(answer) < 12:
            logits = ours.logits({"input_ids": np.array([ids[0].tolist() + answer])})[0, -1].astype(np.float64)
            for token in {*answer}:
                logits[token] -= 0.7 * answer.count(token) - 0.4
            logits[70] += 1.5
            logits[90] -= 3
            answer.append(int(logits.argmax()))
        assert ours.generate(text, raw=True, max_new_tokens=12, eos_token_id=[999], **way, **rules).token_ids == answer


def test_openais_penalties_in_beams(model):
    """Of every beam by what it has itself: the best of all answers of three tokens, with as many beams as make it exhaustive."""
    ours = model("plain")
    left = [70, 90, 100, 110]
    rules = {"frequency_penalty": 1.5, "presence_penalty": 1.0, "logit_bias": {70: 0.5}}
    options = {"suppress_tokens": [i for i in range(262) if i not in left], "eos_token_id": [999], "max_new_tokens": 3}
    ids = ours.processor(text="abc")["input_ids"][0].tolist()
    best, found = -np.inf, None
    for answer in np.ndindex(4, 4, 4):
        tokens, score = [left[i] for i in answer], 0.0
        for place, token in enumerate(tokens):
            logits = ours.logits({"input_ids": np.array([ids + tokens[:place]])})[0, -1].astype(np.float64)
            logs = logits - np.log(np.exp(logits).sum())
            score += logs[token] - 1.5 * tokens[:place].count(token) - (token in tokens[:place]) + 0.5 * (token == 70)
        if score > best:
            best, found = score, tokens
    assert ours.generate("abc", raw=True, num_beams=16, **options, **rules).token_ids == found


def test_every_option_of_a_sampled_answer_is_the_same_alone_and_in_a_batch(model):
    """Same seed, same text, on every batch size, also as the second of several sequences."""
    ours = model("plain")
    texts, images, splitting = BATCHES[0]
    options = {
        "raw": True,
        "do_image_splitting": splitting,
        "max_new_tokens": 12,
        "do_sample": True,
        "eos_token_id": list(range(100, 130)),
    }
    rules = [
        {},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_k": 0, "top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.6},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ]
    seen = set()
    for seed, rule in enumerate(rules):
        together = ours.generate(texts, images, seed=seed, num_return_sequences=2, **options, **rule)
        for i, (text, own) in enumerate(zip(texts, images, strict=True)):
            alone = ours.generate(text, own, seed=seed, **options, **rule)
            several = ours.generate(text, own, seed=seed, num_return_sequences=3, **options, **rule)
            assert alone.token_ids == together[2 * i].token_ids == several[0].token_ids
            assert together[2 * i + 1].token_ids == several[1].token_ids
            seen.add(tuple(alone.token_ids))
        assert together[0].token_ids != together[1].token_ids
    assert len(seen) > 20
    free = options | {"eos_token_id": [0]}  # 12 tokens of 50 kinds each
    assert ours.generate("x", seed=None, **free).token_ids != ours.generate("x", seed=None, **free).token_ids


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 1}, "no generation option 'temprature'"),
        ({"temperature": 0.5}, "temperature is 0.5, but do_sample is False"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0. Give a number from 1e-05"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5. Give a number from 0 to 1"),
        ({"top_k": 2.0, "do_sample": True}, "top_k is 2.0. Give a whole number from 0"),
        ({"length_penalty": 2.0}, "length_penalty is 2.0, but num_beams is 1"),
        ({"early_stopping": True}, "early_stopping is True, but num_beams is 1"),
        ({"early_stopping": "soon", "num_beams": 2}, "early_stopping is 'soon'"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2, but greedy"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences is 3, more than num_beams, 2"),
        ({"num_beams": 2, "do_sample": True}, "num_beams is 2 and do_sample True"),
        ({"num_beams": 2, "prompt_lookup_num_tokens": 4}, "num_beams is 2 and prompt_lookup_num_tokens 4"),
        ({"num_beams": 2, "logprobs": True}, "num_beams is 2 and logprobs True"),
        ({"top_logprobs": 2}, "top_logprobs is 2, but logprobs is False"),
        ({"min_new_tokens": 9, "max_new_tokens": 4}, "min_new_tokens is 9, more than max_new_tokens, 4"),
        ({"stop_strings": [""]}, "stop_strings is"),
        ({"suppress_tokens": "abc"}, "suppress_tokens has 'abc'"),
        ({"frequency_penalty": 2.5}, "frequency_penalty is 2.5. Give a number from -2 to 2"),
        ({"presence_penalty": "much"}, "presence_penalty is 'much'"),
        ({"logit_bias": [[7, 1.0]]}, r"logit_bias is \[\[7, 1.0\]\]. Give numbers from -100 to 100 by token id"),
        ({"logit_bias": {7: 101}}, "logit_bias has 7: 101. Give token ids from 0"),
        ({"logit_bias": {"cat": 1}}, "logit_bias has 'cat': 1"),
        ({"logit_bias": {-1: 1}}, "logit_bias has -1: 1"),
        ({"logit_bias": {7: float("nan")}}, "logit_bias has 7: nan"),
        ({"do_sample": 1}, "do_sample is 1. Give True or False"),
        ({"seed": -1}, "seed is -1"),
        ({"suppress_tokens": list(range(262))}, "forbid every token"),
        ({"suppress_tokens": list(range(262)), "num_beams": 2}, "forbid every token"),
        ({"temperature": 1e-39, "do_sample": True}, "temperature is 1e-39"),
        ({"temperature": 10**400, "do_sample": True}, "temperature is 1000"),
        ({"temperature": float("nan"), "do_sample": True}, "temperature is nan"),
        ({"length_penalty": -200, "num_beams": 2}, "length_penalty is -200. Give a number from -9 to 9"),
        ({"pad_token_id": 1 << 63}, "pad_token_id is 9223372036854775808"),
        ({"eos_token_id": 1 << 40}, r"eos_token_id has \[1099511627776\]"),
        ({"early_stopping": np.array([True]), "num_beams": 2}, "early_stopping is"),
        ({"suppress_tokens": list(range(262)), "do_sample": True}, "forbid every token"),
        ({"use_cache": np.ones(2)}, "use_cache is array"),
        ({"use_cache": np.array([])}, "use_cache is array"),
        ({"seed": np.zeros((9, 9))}, "seed is array"),
    ],
)  # fmt: skip
def test_wrong_options_raise_with_their_names(options, words, model):
    with pytest.raises(PromptError, match=words) as caught:
        model("plain").generate("x", raw=True, **options)
    assert str(caught.value).isprintable()


def test_options_come_from_the_folder_and_are_overridden():
    folder = {"do_sample": True, "temperature": 0.3, "eos_token_id": 7, "max_new_tokens": 5, "guidance_scale": 1.0, "min_p": None}
    options = GenerationOptions.from_configs(folder, {})
    assert (options.do_sample, options.temperature, options.eos_token_id, options.max_new_tokens) == (True, 0.3, (7,), 5)
    assert options.replace(do_sample=False, top_k=None).top_k == 50  # the folder's temperature waits for sampling
    assert GenerationOptions.from_configs({}, {"text_config": {"eos_token_id": [3, 4]}}).eos_token_id == (3, 4)
    with pytest.raises(ModelFolderError, match="generation_config.json cannot be used: temperature is 'hot'"):
        GenerationOptions.from_configs({"temperature": "hot", "do_sample": True}, {})
    assert GenerationOptions.from_configs({"temperature": 0.0}, {}).temperature == 1.0  # read by nobody without sampling
    numpy = options.replace(
        eos_token_id=np.array(4), suppress_tokens=np.array([1, 2]), seed=np.int64(3), early_stopping=np.bool_(False)
    )
    assert (numpy.eos_token_id, numpy.suppress_tokens, numpy.seed) == ((4,), (1, 2), 3)


@pytest.mark.parametrize(
    "config",
    [
        {"pad_token_id": -1}, {"eos_token_id": [-1, 100]}, {"suppress_tokens": [-1]}, {"begin_suppress_tokens": [162, 999]},
        {"max_length": 12}, {"max_length": 12.0}, {"max_length": 12, "max_new_tokens": 3}, {"min_length": -1},
        {"min_length": 30, "max_length": 9, "eos_token_id": list(range(40, 200))}, {"min_new_tokens": 30, "max_new_tokens": 4},
        {"min_length": 9, "min_new_tokens": 0, "eos_token_id": list(range(40, 200))}, {"guidance_scale": 1},
        {"sequence_bias": [[[40], -10.0], [[40], 9.0]]}, {"encoder_repetition_penalty": 3.0}, {"renormalize_logits": True},
        {"temperature": "hot", "top_p": 7, "top_k": -1, "epsilon_cutoff": 5.0, "eta_cutoff": "x", "top_h": 3.0},
        {"early_stopping": 1, "num_beams": 2}, {"num_beams": 2, "prompt_lookup_num_tokens": 3, "penalty_alpha": 0.6},
        {"diversity_penalty": 0.5, "penalty_alpha": 0.6, "top_k": 1}, {"no_repeat_ngram_size": -1}, {"do_sample": 0},
    ],
    ids=str,
)  # fmt: skip
def test_generation_configs_mean_what_they_mean_to_the_reference(config, model, reference, monkeypatch):
    """Odd values included; with max_new_tokens=10 where the config says nothing about length."""
    ours, theirs = model("plain"), reference("plain")
    monkeypatch.setattr(ours, "options", GenerationOptions.from_configs(theirs.model.generation_config.to_dict() | config, {}))
    monkeypatch.setattr(theirs.model, "generation_config", GenerationConfig(**theirs.model.generation_config.to_dict() | config))
    inputs = theirs.inputs(["abcabc"], [[]], False)
    length = {} if config.keys() & {"max_length", "max_new_tokens"} else {"max_new_tokens": 10}
    expected = theirs.model.generate(**tensors(inputs), **length).numpy()
    assert np.array_equal(ours.generate(**inputs, **length), expected)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"guidance_scale": 2.0}, "it sets guidance_scale to 2.0, which this package does not offer"),
        ({"forced_eos_token_id": 0}, "forced_eos_token_id"),
        ({"encoder_no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ({"num_beams": 2, "do_sample": True}, "num_beams is 2 and do_sample True"),
        ({"num_return_sequences": 2}, "greedy answers would all be equal"),
        ({"max_length": "12"}, "max_length is '12'"),
        ({"do_sample": "false"}, "do_sample is 'false'. Give True or False"),
        ({"sequence_bias": {"40": 1.0}}, "sequence_bias is"),
        ({"sequence_bias": [[[40], "x"]]}, "sequence_bias is"),
        ({"sequence_bias": [[40, 1.0]]}, "sequence_bias is"),
        ({"epsilon_cutoff": "x", "do_sample": True}, "epsilon_cutoff is 'x'"),
    ],
)
def test_generation_configs_that_no_answer_could_follow(config, words):
    with pytest.raises(ModelFolderError, match=f"generation_config.json cannot be used: .*{words}.* and export again"):
        GenerationOptions.from_configs(config, {})


def test_max_length_counts_the_prompt(model):
    ours = model("plain")
    assert len(ours.generate("abc", raw=True, max_length=9, eos_token_id=[999]).token_ids) == 5
    assert len(ours.generate("abc", raw=True, max_length=10**6, eos_token_id=[999]).token_ids) == 508  # the model's positions
    embeds = np.ones((1, 6, 64), np.float32)
    assert ours.generate(inputs_embeds=embeds, max_length=9, min_length=9, eos_token_id=list(range(261))).shape == (1, 3)
    with pytest.raises(PromptError, match="has 4 tokens, and max_length, 4, counts prompt and answer"):
        ours.generate("abc", raw=True, max_length=4)


def test_logprobs_are_the_models_own(model):
    ours = model("plain")
    texts, images, splitting = BATCHES[0]
    options = {"max_new_tokens": 6, "logprobs": True, "top_logprobs": 3, "repetition_penalty": 1.5, "echo": True}
    rows = ours.generate(texts, images, raw=True, do_image_splitting=splitting, **options)
    for row, text, own in zip(rows, texts, images, strict=True):
        ids = np.array([row.token_ids])
        assert len(row.logprobs) == len(row.top_logprobs) == ids.size
        assert row.logprobs[0] is None
        assert row.text == ours.processor.decode(row.token_ids, True)
        inputs = ours.processor(text=text, images=own or None, do_image_splitting=splitting)
        whole = {key: value for key, value in inputs.items() if key.startswith("pixel")} | {"input_ids": ids}
        logits = ours.logits(whole)[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = logs[np.arange(ids.size - 1), ids[0, 1:]]
        assert np.abs(np.array(row.logprobs[1:]) - expected).max() < 1e-5
        assert all(not top for top in row.top_logprobs[: row.prompt_tokens])
        for place, top in enumerate(row.top_logprobs[row.prompt_tokens :], row.prompt_tokens - 1):
            assert list(top) == np.argsort(-logs[place])[:3].tolist()


def test_echo_streams_what_generate_returns(model):
    ours = model("plain")
    options = {"raw": True, "echo": True, "max_new_tokens": 9}
    answer = ours.generate("What is <image>", A, **options)
    stream = ours.stream("What is <image>", A, **options)
    assert "".join(stream) == answer.text == stream.result.text
    assert answer.text.startswith("What is ")


def test_a_special_token_is_a_stop_string_too(model, reference):
    ours, theirs = model("plain"), reference("plain")
    options = {"stop_strings": ["<end_of_utterance>"], "eos_token_id": [2], "max_new_tokens": 9, "min_new_tokens": 0}
    options["suppress_tokens"] = [i for i in range(262) if i not in (70, 90, 261)]
    ends = 0
    for text in ("one", "two", "three", "four", "five", "six"):
        inputs = theirs.inputs([text], [[]], False)
        expected = theirs.generate(inputs, **options, tokenizer=theirs.processor.tokenizer)[
            0, inputs["input_ids"].shape[1] :
        ].tolist()
        answer = ours.generate(text, raw=True, **options)
        assert answer.token_ids == expected
        assert "".join(ours.stream(text, raw=True, **options)) == answer.text
        ends += expected[-1] == 261
    assert ends


@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 3}, {"num_beams": 1}], ids=str)
def test_padding_behind_answers_is_the_references(options, model, reference):
    """Its beam search takes a padding token of 0 for none and pads with the first end token."""
    ours, theirs = model("plain"), reference("plain")
    inputs = theirs.inputs(["one", "two two", "three", "<image>"], [[], [], [], [A]], False)
    options = options | {"max_new_tokens": 10, "eos_token_id": list(range(3, 260, 5))}
    assert ours.generate(**inputs, **options).tolist() == theirs.generate(inputs, **options).tolist()


def test_streams_end_as_generate_does(model):
    """Without any text in front of a stop string, the echo still comes; results are snapshots; inputs are copied."""
    ours = model("plain")
    first = ours.generate("x", raw=True, max_new_tokens=1, suppress_tokens=list(range(100, 262))).text
    options = {"raw": True, "echo": True, "stop_strings": [first], "suppress_tokens": list(range(100, 262))}
    assert "".join(ours.stream("x", **options)) == ours.generate("x", **options).text == "x"
    stream = ours.stream("x", raw=True, logprobs=True, max_new_tokens=6, suppress_tokens=list(range(100, 262)))
    next(stream)
    result = stream.result
    list(stream)
    assert len(result.token_ids) == len(result.logprobs) == 1
    features = ours.encode_images([A])
    expected = ours.generate("<image>", A, raw=True, max_new_tokens=5).token_ids
    stream = ours.stream("<image>", image_features=features, raw=True, max_new_tokens=5)
    features[0][:] = 0
    list(stream)
    assert stream.result.token_ids == expected


def test_dropped_streams_are_freed_at_once(model):
    import gc
    import weakref

    from idefics2_onnx.runtime.memory.key_value_cache import KeyValueCache

    gc.collect()
    gc.disable()
    try:
        before = sum(type(thing) is KeyValueCache for thing in gc.get_objects())
        for _ in range(3):
            for _ in model("plain").stream("x", raw=True, max_new_tokens=9):
                break
        assert sum(type(thing) is KeyValueCache for thing in gc.get_objects()) == before
        stream = model("plain").stream("<image>", A, raw=True)
        tile = weakref.ref(stream._generator._samples[0].tiles[0])
        stream.close()
        assert tile() is None
        assert list(stream) == []
    finally:
        gc.enable()
