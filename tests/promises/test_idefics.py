"""IDEFICS beside transformers: logits, answers, batches, beams, chats, prefixes, and the flow of its documentation."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from idefics2_onnx import Idefics, Idefics2, ImageError, ModelFolderError, PromptError, load
from idefics2_onnx.runtime.folder import DEMO
from idefics_parity import IdeficsReference, items_of, ragged
from parity import photos
from tokenizers import decoders

A, B, C = photos()
TOLERANCE = 1e-5
"""Largest difference of logits whose standard deviation is near 1, fp32."""
CASES = [("idefics", "fp32", "fused"), ("idefics_odd", "fp32", "standard")]
SWEPT = [
    ("idefics_no_perceiver", "fp32", "fused"), *(("idefics_base", "fp32", flavour) for flavour in ("fused", "standard")), ("idefics", "fp32", "standard"), ("idefics_four", "fp32", "fused"),
    ("idefics_one", "fp32", "fused"), ("idefics_hub", "fp32", "standard"), ("idefics_plain", "fp32", "standard"),
]  # fmt: skip
LONGER = {"max_new_tokens": 40, "min_new_tokens": 40, "do_sample": False, "eos_token_id": [2]}


NEVER = [[260], [259]]
"""What `idefics` never generates, by its folder; the checkpoint does not say so."""


@pytest.fixture
def theirs(checkpoint):
    return lambda name: IdeficsReference.load(checkpoint(name))


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.sweep) for case in SWEPT)], ids="-".join)
def test_logits_and_answers_equal_the_reference(case, model, theirs):
    """Ragged prompts with no, one and three images; each alone gives what it gives in the batch."""
    ours, reference, prompts = model(*case), theirs(case[0]), ragged()
    assert type(ours) is Idefics
    inputs, expected = ours.processor(text=prompts), reference.processor(text=prompts)
    for name, value in expected.items():
        assert np.array_equal(inputs[name], value.numpy()), name
    mask = inputs["attention_mask"] != 0
    wanted = reference.logits(inputs)[mask]
    assert 0.3 < wanted.std() < 3  # the tolerance means something
    assert np.abs(ours.logits(inputs)[mask] - wanted).max() <= TOLERANCE
    options = LONGER | {"bad_words_ids": [list(word) for word in ours.options.bad_words_ids]}
    found = ours.generate(**inputs, **options)
    assert found.tolist() == reference.generate(inputs, **options).tolist()
    width = inputs["input_ids"].shape[1]
    for row, prompt in enumerate(prompts):
        alone = ours.processor(text=[prompt])
        assert ours.generate(**alone, **options)[0, alone["input_ids"].shape[1] :].tolist() == found[row, width:].tolist()


@pytest.fixture
def ours(model):
    return model("idefics")


@pytest.mark.sweep
def test_fp16_answers_stay_near(model, theirs):
    ours, reference = model("idefics", "fp16"), theirs("idefics")
    inputs = ours.processor(text=ragged())
    mask = inputs["attention_mask"] != 0
    wanted, found = reference.logits(inputs)[mask], ours.logits(inputs)[mask]
    assert np.linalg.norm(found - wanted) <= 1e-2 * np.linalg.norm(wanted)
    assert ours.generate(**inputs, max_new_tokens=5).shape[1] == inputs["input_ids"].shape[1] + 5


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "suppress_tokens": [30, 31, 32]},
    ],
    ids=str,
)
def test_options_equal_the_reference(options, ours, theirs):
    inputs = ours.processor(text=ragged()[:4])
    given = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": [2, 40, 90, 150], "bad_words_ids": NEVER} | options
    assert ours.generate(**inputs, **given).tolist() == theirs("idefics").generate(inputs, **given).tolist()


def test_rows_leave_with_their_images(ours, theirs):
    """Answers of different lengths: what is left moves, its images with it."""
    inputs = ours.processor(text=[*ragged(), *ragged()[::-1]])
    options = {"max_new_tokens": 24, "eos_token_id": list(range(20, 250, 9)), "do_sample": False, "bad_words_ids": NEVER}
    assert ours.generate(**inputs, **options).tolist() == theirs("idefics").generate(inputs, **options).tolist()


def test_guesses_samples_and_streams_change_nothing(ours):
    question = "<image>What stands on <image>the table? the table the table"
    plain = ours.generate(question, [A, B], max_new_tokens=20)
    assert ours.generate(question, [A, B], max_new_tokens=20, prompt_lookup_num_tokens=4).token_ids == plain.token_ids
    assert "".join(ours.stream(question, [A, B], max_new_tokens=20)) == plain.text
    drawn = {"do_sample": True, "seed": 3, "max_new_tokens": 8}
    several = ours.generate(question, [A, B], num_return_sequences=3, **drawn)
    assert several[0].token_ids == ours.generate(question, [A, B], **drawn).token_ids
    batch = ours.generate(["x", question], [[], [A, B]], **drawn)
    assert batch[1].token_ids == several[0].token_ids
    assert ours.generate(question, [B, A], max_new_tokens=20).token_ids != plain.token_ids


def test_scores_are_those_of_the_logits(ours, theirs):
    inputs = ours.processor(text=ragged())
    logits = theirs("idefics").logits(inputs)
    for row, score in enumerate(ours.score(**inputs)):
        own = inputs["attention_mask"][row] != 0
        ids, rows = inputs["input_ids"][row][own], logits[row][own].astype(np.float64)
        logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        wanted = [logs[i, token] for i, token in enumerate(ids[1:]) if token != ours.engine.sizes.image_token_id]
        assert np.allclose(score.logprobs, wanted, atol=1e-4)
    assert ours.score("What?", A, "A cat").logprob < 0


def test_any_mask_is_taken(ours, theirs):
    """Tokens that see several images, and some of them."""
    prompt = ["a", A, "b", B, C, "and some more words"]
    inputs = dict(ours.processor(text=[prompt, ["c", A, "d"]]))
    mask = np.random.default_rng(0).integers(0, 2, inputs["image_attention_mask"].shape)
    mask[1, :, 1:] = 0
    for last in ([1, 1, 0], [1, 1, 1], [0, 0, 0]):
        mask[0, -1] = last
        inputs["image_attention_mask"] = mask
        own = inputs["attention_mask"] != 0
        reference = theirs("idefics")
        assert np.abs(ours.logits(inputs)[own] - reference.logits(inputs)[own]).max() <= TOLERANCE
        options = {"max_new_tokens": 10, "do_sample": False, "bad_words_ids": NEVER}
        assert ours.generate(**inputs, **options).tolist() == reference.generate(inputs, **options).tolist()
        beams = {"num_beams": 2} | options
        assert ours.generate(**inputs, **beams).tolist() == reference.generate(inputs, **beams).tolist()


def test_long_prompts_are_read_in_pieces(ours, monkeypatch):
    inputs = ours.processor(text=[ragged()[0], ragged()[2]])
    whole, answer = ours.logits(inputs), ours.generate(**inputs, max_new_tokens=8)
    monkeypatch.setattr("idefics2_onnx.runtime.engine.prefill.TOKENS_PER_CALL", 7)
    assert np.abs(ours.logits(inputs) - whole).max() <= TOLERANCE
    assert ours.generate(**inputs, max_new_tokens=8).tolist() == answer.tolist()


def test_features_in_place_of_images(ours):
    features = ours.encode_images([A, B])
    sizes = ours.engine.sizes
    assert [f.shape for f in features] == [(1, sizes.image_seq_len, sizes.vision_width)] * 2
    expected = ours.generate("<image>a<image>b", [A, B], max_new_tokens=6).token_ids
    assert ours.generate("<image>a<image>b", image_features=features, max_new_tokens=6).token_ids == expected
    inputs = dict(ours.processor(text=[["a", A, "b"], ["c"], [B, "d"]]))
    whole = ours.logits(inputs)
    del inputs["pixel_values"]
    inputs["image_features"] = np.concatenate(features)
    assert np.abs(ours.logits(inputs) - whole).max() <= TOLERANCE


def test_embeddings_in_place_of_ids(ours, theirs):
    inputs = dict(ours.processor(text=[["a", A, "b", B, "c"]]))
    table = theirs("idefics").model.get_input_embeddings()
    import torch

    with torch.no_grad():
        embeds = table(torch.from_numpy(inputs["input_ids"])).numpy()
    expected = ours.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    del inputs["input_ids"]
    assert ours.generate(**inputs, inputs_embeds=embeds, max_new_tokens=6).tolist() == expected.tolist()


def test_chats_equal_fresh_conversations(ours):
    """An image whose tokens are in the cache is still seen by later ones; others are not encoded, nor read again."""
    chat = ours.chat(max_new_tokens=6)
    turns = [("What?", [A]), ("And here", [B, C]), ("Why", []), ("</s>So", []), ("And <image>", [A])]
    reused = []
    for text, images in turns:
        answer = chat.send(text, images)
        assert answer.token_ids == ours.generate(chat.messages[:-1], max_new_tokens=6).token_ids
        reused.append(answer.timings.prompt_tokens_reused)
    assert reused[0] == 0
    assert min(reused[1:]) >= 17
    chat.undo()
    assert chat.send("And?").token_ids == ours.generate(chat.messages[:-1], max_new_tokens=6).token_ids
    ours.processor.image_processor.resample = 0
    try:
        assert chat.send("New?").token_ids == ours.generate(chat.messages[:-1], max_new_tokens=6).token_ids
    finally:
        ours.processor.image_processor.resample = 3


def test_answers_that_end_a_text_are_seen_differently_when_they_are_read_again(ours):
    """New tokens see an image for ever, but as a prompt's they do not behind </s>: such keys and values do not serve."""
    end = ours.options.eos_token_id[0]
    chat = ours.chat(max_new_tokens=12, eos_token_id=[40], sequence_bias=[[[end], 3.0]])
    for text, images in (("What is this?", [A]), ("Go on", []), ("And on", [])):
        answer = chat.send(text, images)
        fresh = ours.generate(chat.messages[:-1], max_new_tokens=12, eos_token_id=[40], sequence_bias=[[[end], 3.0]])
        assert answer.token_ids == fresh.token_ids


def test_prefixes_are_read_once_and_change_nothing(exported, ours):
    kept = load(exported("idefics"), prefix_cache=1 << 20)
    long = "You are a careful reader. " * 2
    reused = []
    for prompt in (
        [long, "one"], [long, "two"], [A, long, "one"], [A, long, "two"], [B, long, "two"], [A, long, "then", B, "three"],
        [A, long, "</s> four"], [A, long, "</s> five"],
    ):  # fmt: skip
        inputs = ours.processor(text=[prompt])
        assert kept.generate(**inputs, max_new_tokens=8).tolist() == ours.generate(**inputs, max_new_tokens=8).tolist()
        tagged = "".join(item if isinstance(item, str) else "<image>" for item in prompt)
        images = [item for item in prompt if not isinstance(item, str)]
        reused.append(kept.generate(tagged + "?", images, raw=True, max_new_tokens=2).timings.prompt_tokens_reused)
    assert min(reused) >= len(long) - 2
    assert 0 < kept.prefix_cache.nbytes <= 1 << 20


def test_a_gpus_memory_gives_the_same(gpu, exported, ours):
    """The path of a device, with the host's memory behind it: images' keys and values are copied between rows there."""
    there = load(exported("idefics"), "cuda")
    inputs = ours.processor(text=ragged())
    for options in (
        {"eos_token_id": list(range(20, 250, 9))},
        {"num_beams": 2},
        {"do_sample": True, "seed": 1, "num_return_sequences": 2},
    ):
        given = {"max_new_tokens": 8} | options
        assert there.generate(**inputs, **given).tolist() == ours.generate(**inputs, **given).tolist()
    chat, here = there.chat(max_new_tokens=4), ours.chat(max_new_tokens=4)
    for text, images in (("What?", [A]), ("And", [B, C]), ("Why", [])):
        assert chat.send(text, images).token_ids == here.send(text, images).token_ids


def documented_flow(processor, model, tensors):
    """The example in transformers' IdeficsForVisionText2Text.forward, with other pictures."""
    prompts = [
        [
            "User:",
            A,
            "Describe this image.\nAssistant: An image of two dogs.\n",
            "User:",
            B,
            "Describe this image.\nAssistant:",
        ]
    ]
    inputs = processor(text=prompts, return_tensors=tensors)
    generate_ids = model.generate(**inputs, max_new_tokens=6)
    return generate_ids, processor.batch_decode(generate_ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["idefics", "idefics_odd"])
def test_documented_flow(name, model, theirs):
    ours, reference = model(name, "fp32", "fused" if name == "idefics" else "standard"), theirs(name)
    reference.model.generation_config.bad_words_ids = [list(word) for word in ours.options.bad_words_ids]
    try:
        expected_ids, expected = documented_flow(reference.processor, reference.model, "pt")
        found_ids, found = documented_flow(ours.processor, ours, "np")
    finally:
        reference.model.generation_config.bad_words_ids = None
    assert found_ids.tolist() == expected_ids.tolist()
    assert found == expected


def test_prompts_people_type(ours):
    """A model with a template answers turns, stops at their end and writes no images."""
    end = ours.processor.tokenizer.token_to_id("<end_of_utterance>")
    assert end in ours.options.eos_token_id
    assert ours.processor.prompt_text("What is this?", 1) == "User:<image>What is this?<end_of_utterance>\nAssistant:"
    words = {ours.processor.tokenizer.token_to_id(token) for token in ("<image>", "<fake_token_around_image>")}
    answer = ours.generate("What is this?", A, max_new_tokens=30, sequence_bias=[[[token], 50.0] for token in words])
    assert not words & set(answer.token_ids)
    turn = ["User:", A, "What is this?<end_of_utterance>\nAssistant:"]
    inputs = ours.processor(text=[turn])
    width = inputs["input_ids"].shape[1]
    assert (
        ours.generate(**inputs, max_new_tokens=9)[0, width:].tolist()
        == ours.generate("What is this?", A, max_new_tokens=9).token_ids
    )


TEXTS = ["This is", "", " spaced  ", "<image>first, and <image> then", "one\ntwo </s> three", "<s>twice", "é … 日"]


@pytest.fixture
def base(model):
    return model("idefics_base")


def test_a_base_model_completes_the_text(base, theirs):
    """What is typed, a turn and the raw prompt are the same tokens as the reference's of text and images."""
    options = {"max_new_tokens": 5}
    for text in TEXTS:
        images = [A, B][: text.count("<image>") or 1]
        tagged = text if "<image>" in text else f"<image>{text}"
        assert base.processor.prompt_text(text, len(images)) == tagged
        ids = base.processor.prompt_ids([text], [images], False)
        if "<s>" not in text:  # which the reference would write twice
            inputs = theirs("idefics_base").processor(text=[items_of(tagged, images)])
            assert ids == inputs["input_ids"].tolist()
            never = [list(word) for word in base.options.bad_words_ids]
            found = theirs("idefics_base").generate(inputs, **options, bad_words_ids=never)[0, len(ids[0]) :].tolist()
            assert base.generate(tagged, images, raw=True, **options).token_ids == found
            assert base.generate(text, images, **options).token_ids == found
        own = iter(images)
        items = [
            {"type": "text", "text": item} if isinstance(item, str) else {"type": "image", "image": next(own)}
            for item in items_of(tagged, images)
        ]
        turn = [{"role": "user", "content": items}]
        assert base.generate(turn, **options).token_ids == base.generate(text, images, **options).token_ids


def test_a_base_models_chat_is_one_text_that_goes_on(base):
    chat = base.chat(max_new_tokens=6)
    assert chat.completes
    said, images = "", []
    for text, own in (("This is", [A]), (" and", []), ("\nThen <image> comes", [B]), (".", [])):
        answer = chat.send(text, own)
        said, images = said + (text if "<image>" in text else "<image>" * len(own) + text), images + own
        assert answer.token_ids == base.generate(said, images, max_new_tokens=6, raw=True).token_ids
        assert answer.token_ids == base.generate(chat.messages[:-1], max_new_tokens=6).token_ids
        said += answer.text
    assert answer.timings.prompt_tokens_reused
    chat.undo()
    assert chat.send(".").token_ids == answer.token_ids


def test_the_space_before_an_answer_is_part_of_a_text_that_goes_on(exported, ours):
    """Llama's rules drop it where the answer is decoded alone; turns of a conversation write their own."""
    space = ours.processor.tokenizer.encode(" ", add_special_tokens=False).ids[0]
    for name, completes in (("idefics_base", True), ("idefics", False)):
        model = load(exported(name))
        model.processor.tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        others = [i for i in range(model.engine.sizes.vocab_size) if i != space]
        chat = model.chat(max_new_tokens=3, begin_suppress_tokens=others)
        answer = chat.send("This is", A)
        (item,) = chat.messages[-1]["content"]
        assert chat.completes == completes
        assert answer.token_ids[0] == space
        assert item["text"] == " " * completes + answer.text


def test_each_folder_is_opened_by_its_own_class(ours, exported, tmp_path):
    assert type(load()) is Idefics2
    for wrong, folder in ((Idefics2, exported("idefics")), (Idefics, DEMO)):
        with pytest.raises(ModelFolderError, match=r"holds an idefics2? model.*Use load"):
            wrong.from_pretrained(folder)
    manifest = json.loads((exported("idefics") / "idefics2_onnx.json").read_text())
    shutil.copytree(exported("idefics"), tmp_path / "model")
    for name, value, words in (
        ("tokens_per_image", 2, "gives an image 1 tokens, the model 2"),
        ("num_cross_layers", 10**9, "model.num_cross_layers is 1000000000"),
        ("num_cross_layers", manifest["model"]["num_cross_layers"] + 1, "has no output cross"),
        ("positions_per_side", 5, "position_embedding.weight of the shape"),
    ):
        changed = manifest | {"model": manifest["model"] | {name: value}}
        (tmp_path / "model" / "idefics2_onnx.json").write_text(json.dumps(changed))
        with pytest.raises(ModelFolderError, match=words):
            load(tmp_path / "model")


def test_what_does_not_fit_is_refused(ours):
    inputs = dict(ours.processor(text=[["a", A, "b", B], ["c"]]))
    pixels, mask = inputs["pixel_values"], inputs["image_attention_mask"]
    for change, words in (
        ({"image_attention_mask": None}, "without an image_attention_mask"),
        ({"image_attention_mask": mask[:, 1:]}, "image_attention_mask has the shape"),
        ({"image_attention_mask": mask[:, :, :1]}, "of 2 prompts and 1 images"),
        ({"pixel_values": None}, "see image 1, but it has 0"),
        ({"pixel_values": pixels[:, :, :, 1:]}, "28 a side"),
        ({"pixel_values": pixels[:, 0]}, r"Give \[batch, num_images"),
        ({"pixel_attention_mask": mask}, "does not take"),
        ({"image_features": np.zeros((1, 5, 48), np.float32)}, "Both pixel_values and image_features"),
        ({"pixel_values": None, "image_features": np.zeros((1, 5, 48), np.float32)}, "the prompts have 2 image tokens"),
    ):
        with pytest.raises(PromptError, match=words):
            ours.logits(inputs | change)
    with pytest.raises(PromptError, match="sees each image whole"):
        ours.generate("What?", A, do_image_splitting=True)
    assert ours.generate("What?", A, do_image_splitting=False, max_new_tokens=1).token_ids
    with pytest.raises(PromptError, match="1 image was given"):
        ours.generate("<image><image>", A)
    with pytest.raises(ImageError):
        ours.generate("What?", "nowhere.png")
