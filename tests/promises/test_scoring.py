"""Scores and logits against the reference's loss and logits, from ids or embeddings, pixels or features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from idefics2_onnx.runtime.errors import PromptError
from parity import photos, tensors

A, B, C = photos()
TEXTS = ["Two: <image><image>", "no picture", "<image>", "A rather long question about <image>, the longest of all?"]
IMAGES = [[A, B], [], [C], [A]]


def loss(theirs, inputs, labels):
    with torch.no_grad():
        return float(theirs.model(**tensors(inputs), labels=torch.from_numpy(labels)).loss)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", [("plain", "fp32", "fused"), ("odd_heads", "fp32", "standard")], ids="-".join)
def test_scores_equal_the_references_loss(side, case, model, reference):
    ours, theirs = model(*case), reference(case[0])
    theirs.processor.tokenizer.padding_side = side
    inputs = theirs.inputs(TEXTS, IMAGES, True)
    theirs.processor.tokenizer.padding_side = "left"
    ids, image = inputs["input_ids"], ours.engine.sizes.image_token_id
    default = np.where((inputs["attention_mask"] == 0) | (ids == image), -100, ids)
    default[np.arange(len(ids)), inputs["attention_mask"].argmax(1)] = -100  # on the left, padding would predict it
    some = np.where(np.arange(ids.shape[1]) % 3 == 0, default, -100)
    for labels, given in ((default, None), (default, default), (some, some)):
        scores = ours.score(**inputs, labels=given)
        tokens = [logprob for score in scores for logprob in score.logprobs]
        assert abs(-np.mean(tokens) - loss(theirs, inputs, labels)) < 1e-5
        for row, score in enumerate(scores):
            shifted = labels[row, 1:][inputs["attention_mask"][row, :-1] == 1]  # padding predicts nothing
            assert score.token_ids == shifted[shifted != -100].tolist()


def test_an_answers_score_is_the_references_loss_of_its_tokens(model, reference):
    ours, theirs = model("plain"), reference("plain")
    score = ours.score("What is it?", [A, B], "A cat")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    answered = [*messages, {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]}]
    prompt = ours.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = theirs.inputs([ours.processor.apply_chat_template(answered)], [[A, B]], True)
    start = theirs.inputs([prompt], [[A, B]], True)["input_ids"].shape[1]
    labels = inputs["input_ids"].copy()
    labels[:, :start] = -100
    labels[:, np.flatnonzero(labels[0] == 261)[-1] + 1 :] = -100  # the line break behind the end
    assert score.token_ids == labels[labels != -100].tolist()
    assert score.token_ids[-1] == 261
    assert abs(score.loss - loss(theirs, inputs, labels)) < 1e-5
    assert score.logprob == pytest.approx(-score.loss * len(score.token_ids))
    batch = ours.score(["What is it?", "Why?"], [[A, B], []], ["A cat", "Because"])
    assert batch[0].logprobs == pytest.approx(score.logprobs, abs=1e-5)
    assert batch[1].logprobs == pytest.approx(ours.score("Why?", answer="Because").logprobs, abs=1e-5)
    raw = ours.score("ab", answer="cd", raw=True)
    assert raw.token_ids == ours.processor.tokenizer.encode("abcd").ids[-2:]


def test_logits_of_long_prompts_are_read_in_pieces(model, reference, monkeypatch):
    ours, theirs = model("window"), reference("window")
    inputs = theirs.inputs(TEXTS, IMAGES, True)
    expected = theirs.logits(inputs)
    for size in (7, 64):
        monkeypatch.setattr("idefics2_onnx.runtime.engine.prefill.TOKENS_PER_CALL", size)
        found = ours.logits(inputs)
        mask = inputs["attention_mask"] == 1
        assert np.abs(found[mask] - expected[mask]).max() <= 1e-5
        assert ours.generate(**inputs, max_new_tokens=8).tolist() == theirs.generate(inputs, max_new_tokens=8).tolist()


def test_features_and_embeddings_stand_in(model, reference):
    ours, theirs = model("plain"), reference("plain")
    inputs = theirs.inputs(TEXTS, IMAGES, True)
    expected, answer = ours.logits(inputs), ours.generate(**inputs, max_new_tokens=8)
    features = ours.encode_images([A, B, C, A], do_image_splitting=True)
    assert [f.shape for f in features] == [(5, 4, 64)] * 4
    with torch.no_grad():
        pixels = {key: torch.from_numpy(value) for key, value in inputs.items() if key.startswith("pixel")}
        theirs_features = torch.cat(theirs.model.get_image_features(**pixels).pooler_output).numpy()
    assert np.abs(np.concatenate(features).reshape(theirs_features.shape) - theirs_features).max() < 1e-5
    text_only = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with_features = text_only | {"image_features": np.concatenate(features)}
    assert np.abs(ours.logits(with_features) - expected).max() < 1e-5
    assert ours.generate(**with_features, max_new_tokens=8).tolist() == answer.tolist()
    by_prompt = ours.generate(TEXTS, image_features=[features[:2], [], [features[2]], [features[3]]], raw=True, max_new_tokens=8)
    assert [row.token_ids for row in by_prompt] == [
        row.token_ids for row in ours.generate(TEXTS, IMAGES, raw=True, max_new_tokens=8)
    ]
    with torch.no_grad():
        ids = torch.from_numpy(inputs["input_ids"])
        embeds = theirs.model.model.inputs_merger(
            ids, theirs.model.get_input_embeddings()(ids), torch.from_numpy(theirs_features).flatten(0, -2).view(-1, 4, 64)
        )
    with_embeds = {"inputs_embeds": embeds.numpy(), "attention_mask": inputs["attention_mask"]}
    assert np.abs(ours.logits(with_embeds) - expected).max() < 1e-5
    assert ours.generate(**with_embeds, max_new_tokens=8).tolist() == answer[:, inputs["input_ids"].shape[1] :].tolist()
    assert ours.score(**with_embeds, labels=inputs["input_ids"])[1].loss == pytest.approx(
        ours.score(**inputs, labels=inputs["input_ids"])[1].loss, abs=1e-5
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.score("x"), "answer is None"),
        (lambda m: m.score("x", answer="y", temperature=1), "There is no 'temperature' to score"),
        (lambda m: m.score(images=[A], input_ids=np.array([[1]])), "Both a prompt and input_ids"),
        (lambda m: m.logits(None), "The inputs are None"),
        (lambda m: m.generate(input_ids=np.array([[1]]), logprobs=True), "logprobs is True, but only ids come back"),
        (lambda m: m.generate(input_ids=[[1, 2], [3]]), "rows of different lengths"),
        (lambda m: m.generate(input_ids=np.array([[1]]), attention_mask=[[1], [1, 2]]), "attention_mask has rows of different"),
        (lambda m: m.score(input_ids=np.array([[1, 2]]), labels=[[1], [1, 2]]), "labels has rows of different"),
        (lambda m: m.generate(input_ids=np.array([[1]]), pixel_values="abc"), "pixel_values has the dtype"),
        (lambda m: m.generate("x", image_features=["abc"]), "image_features have the shapes"),
        (lambda m: m.generate("x", image_features=[np.full((1, 4, 64), 1j)]), "image_features has the dtype complex128"),
        (lambda m: m.generate("x", image_features=[np.full((1, 4, 64), np.nan)]), "image_features has numbers that are not finite"),
        (lambda m: m.generate(inputs_embeds=np.full((1, 2, 64), np.nan)), "inputs_embeds has numbers that are not finite"),
        (lambda m: type(m).from_pretrained(prefix_cache="1GB"), "prefix_cache is '1GB'"),
        (lambda m: m.score(["x", "y"], None, ["a"]), "2 prompts and 1 answers"),
        (lambda m: m.score("x", answer="y", labels=np.zeros((1, 2), int)), "labels go with input_ids"),
        (lambda m: m.score(input_ids=np.array([[1, 2]]), labels=np.array([[1]])), r"labels has the dtype int64 and the shape \[1, 1\]"),
        (lambda m: m.score(input_ids=np.array([[1, 2]]), labels=np.array([[1, 999]])), "labels has 999"),
        (lambda m: m.score("x", input_ids=np.array([[1]]), answer="y"), "Both a prompt and input_ids"),
        (lambda m: m.score(inputs_embeds=np.zeros((1, 2, 64))), "no tokens to score"),
        (lambda m: m.generate(inputs_embeds=np.zeros((1, 2, 63)), max_new_tokens=1), "63 wide, the model 64"),
        (lambda m: m.generate(inputs_embeds=np.zeros((1, 2, 64)), input_ids=np.array([[1]])), "Both input_ids and inputs_embeds"),
        (lambda m: m.generate("x", A, image_features=[np.zeros((1, 4, 64))]), "Both images and image_features"),
        (lambda m: m.generate("x", image_features=[np.zeros((1, 4, 63))]), r"\[4, 63\]. This model's are \[4, 64\]"),
        (lambda m: m.generate("x", image_features=[np.zeros((2, 4, 64))]), r"shapes \[\[2, 4, 64\]\]"),
        (lambda m: m.generate(input_ids=np.array([[260] * 4]), image_features=np.zeros((2, 4, 64))), "stand for 1 tiles"),
    ],
)  # fmt: skip
def test_bad_calls_get_one_sentence(call, words, model):
    with pytest.raises(PromptError, match=words):
        call(model("plain"))
