"""The model as an app uses it: prompts in every form, streaming, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from idefics2_onnx import ImageError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.generation.answer import with_answers
from idefics2_onnx.runtime.inputs.idefics2_arrays import samples_of
from idefics2_onnx.runtime.model import Idefics2
from parity import photo, photos

CAT = "examples/cat.jpg"


@pytest.fixture
def ours(model) -> Idefics2:
    return model("plain")


def test_string_is_one_user_turn(ours):
    a, b, _ = photos()
    template = "User:<image><image>Compare<end_of_utterance>\nAssistant:"
    by_hand = ours.generate(template, [a, b], raw=True, max_new_tokens=8)
    assert ours.generate("Compare", [a, b], max_new_tokens=8).token_ids == by_hand.token_ids
    assert ours.generate("<image><image>Compare", [a, b], max_new_tokens=8).token_ids == by_hand.token_ids
    inside = ours.generate("See <image>and <image>", [a, b], max_new_tokens=8)
    raw = "User: See <image>and <image><end_of_utterance>\nAssistant:"
    assert inside.token_ids == ours.generate(raw, [a, b], raw=True, max_new_tokens=8).token_ids


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_come_in_any_width(dtype, ours):
    """Those of float16 go to graphs of float16 as they are: widening and narrowing an image takes longer than encoding it."""
    for model, same in ((Idefics2.from_pretrained(), True), (ours, dtype != np.float16)):
        inputs = model.processor(text="<image>What?", images=[photos()[0]])
        given = inputs | {"pixel_values": inputs["pixel_values"].astype(dtype)}
        tile = samples_of(given, model.engine.sizes)[0].tiles[0]
        assert tile.dtype == (np.float16 if dtype == np.float16 else np.float32)
        found, expected = (model.logits(each) for each in (given, inputs))
        assert np.allclose(found, expected, rtol=0, atol=0 if same else 0.01 * np.abs(expected).max())


def test_batches_in_every_nesting(ours):
    a, b, c = photos()
    alone = [ours.generate("X", [a, b], max_new_tokens=4), ours.generate("Y", [c], max_new_tokens=4)]
    nested = ours.generate(["X", "Y"], [[a, b], [c]], max_new_tokens=4)
    flat = ours.generate(["<image><image>X", "<image>Y"], [a, b, c], max_new_tokens=4)
    assert [r.token_ids for r in nested] == [r.token_ids for r in flat] == [r.token_ids for r in alone]
    assert ours.generate(["X"], [[a, b]], max_new_tokens=4)[0].token_ids == alone[0].token_ids


def test_image_sources_are_alike(ours, tmp_path):
    image = photo("chelsea")
    image.save(tmp_path / "cat.png")
    sources = [image, np.asarray(image), tmp_path / "cat.png", str(tmp_path / "cat.png"), (tmp_path / "cat.png").read_bytes()]
    with (tmp_path / "cat.png").open("rb") as file:
        answers = [ours.generate("What?", source, max_new_tokens=6).token_ids for source in [*sources, file]]
    assert all(answer == answers[0] for answer in answers)


def test_stream_joins_to_the_answer(ours):
    stream = ours.stream("What is this?", CAT, max_new_tokens=64)
    pieces = list(stream)
    whole = ours.generate("What is this?", CAT, max_new_tokens=64)
    assert "".join(pieces) == whole.text == stream.result.text
    assert stream.result.token_ids == whole.token_ids
    assert whole.finish_reason == stream.result.finish_reason == "length"
    assert whole.timings.steps == 63
    assert min(whole.timings.images, whole.timings.prefill, whole.timings.decode) > 0


def test_banned_and_special_tokens_never_appear(ours):
    """Image tokens are banned by generation_config.json; special tokens are generated but not shown."""
    free = ours.generate("Hi", CAT, max_new_tokens=100, eos_token_id=[], bad_words_ids=[])
    banned = [ours.processor.tokenizer.token_to_id(t) for t in ("<fake_token_around_image>", "<image>")]
    kept = ours.generate("Hi", CAT, max_new_tokens=100, eos_token_id=[])
    assert not set(banned) & set(kept.token_ids)
    assert "<" not in kept.text.replace("<", "", kept.token_ids.count(ours.processor.tokenizer.token_to_id("<")))
    for token in set(free.token_ids[:3]):
        assert token not in ours.generate("Hi", CAT, max_new_tokens=20, bad_words_ids=[[token]]).token_ids
    first, second = free.token_ids[:2]
    assert ours.generate("Hi", CAT, max_new_tokens=2, bad_words_ids=[[first, second]]).token_ids[0] == first
    assert ours.generate("Hi", CAT, max_new_tokens=2, bad_words_ids=[[first, second]]).token_ids[1] != second


def test_splitting_is_one_switch_for_pixels_and_prompt(ours):
    split, whole = (ours.generate("Hi", CAT, max_new_tokens=1, do_image_splitting=s).prompt_tokens for s in (True, False))
    assert split - whole == 4 * (ours.processor.image_seq_len + 1)  # four more tiles and their fake tokens


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda m: m.generate("<image>", [CAT, CAT]), PromptError, "has 1 <image> but 2 images were given"),
        (lambda m: m.generate("<image><image>", CAT), PromptError, "has 2 <image> but 1 image was given"),
        (lambda m: m.generate("<image>"), PromptError, "has 1 <image> but 0 images"),
        (lambda m: m.generate("Hi", CAT, raw=True), PromptError, "has 0 <image> but 1 image"),
        (lambda m: m.generate(["<image>", "<image>"], [CAT]), PromptError, "2 <image> together but 1 images"),
        (lambda m: m.generate(["Hi", "Ho"], [[CAT]]), PromptError, "2 prompts but 1 lists"),
        (lambda m: m.generate("Hi", [[CAT], CAT]), ImageError, "mixes"),
        (lambda m: m.generate(), PromptError, "neither"),
        (lambda m: m.generate([]), PromptError, "no prompts"),
        (lambda m: m.generate(3), PromptError, "neither"),
        (lambda m: m.generate("Hi", max_new_tokens=0), PromptError, "max_new_tokens is 0"),
        (lambda m: m.generate("Hi", max_new_tokens=5000), PromptError, "more than the model's 512"),
        (lambda m: m.stream("Hi", max_new_tokens=5000), PromptError, "more than the model's 512"),
        (lambda m: m.generate("Hi", max_tokens=5), PromptError, "no generation option 'max_tokens'"),
        (lambda m: m.generate("Hi", bad_words_ids=[[]]), PromptError, "empty sequence"),
        (lambda m: m.generate("Hi", bad_words_ids=[5]), PromptError, "bad_words_ids is \\[5\\]"),
        (lambda m: m.generate("Hi", max_new_tokens="3"), PromptError, "max_new_tokens is"),
        (lambda m: m.generate("Hi", max_new_tokens=2.5), PromptError, "max_new_tokens is"),
        (lambda m: m.generate("caf\udce9"), PromptError, "not valid Unicode at character"),
        (lambda m: m.generate([["a"]]), PromptError, "neither text, a list of messages, nor"),
        (lambda m: m.logits({}), PromptError, "no input_ids"),
        (lambda m: m.generate(input_ids=np.array([[1]]), pixel_values=np.ones((1, 1, 1, 28, 28))), PromptError, "pixel_values has the shape"),
        (lambda m: m.generate(input_ids=np.array([[1]]), pixel_values=np.ones((1, 1, 3, 28, 28)), pixel_attention_mask=np.ones((1, 28, 28))), PromptError, "pixel_attention_mask has"),
        (lambda m: m.stream(["Hi", "Ho"]), PromptError, "Use generate for a batch"),
        (lambda m: m.generate([{"role": "user"}]), PromptError, "A message is"),
        (lambda m: m.generate([{"role": "user", "content": [{"type": "image", "image": CAT}]}], CAT), PromptError, "both inside"),
        (lambda m: m.generate(input_ids=np.array([[1, 260]])), PromptError, "1 image tokens but 0 tiles"),
        (lambda m: m.generate(input_ids=np.array([[1, 999]])), PromptError, "token 999, but the model knows 262"),
        (lambda m: m.generate(input_ids=np.array([1, 2])), PromptError, r"shape \[2\]"),
        (lambda m: m.generate(input_ids=np.array([[1, 2]]), attention_mask=np.array([[1]])), PromptError, "attention_mask has"),
        (lambda m: m.generate(input_ids=np.array([[1, 2]]), attention_mask=np.array([[0, 0]])), PromptError, "0 tokens"),
        (lambda m: m.generate("Hi", input_ids=np.array([[1]])), PromptError, "Both a prompt and input_ids"),
        (lambda m: m.processor(text=["a", "bc"]), PromptError, "padding=True"),
        (lambda m: m.processor(text=["a"], return_tensors="pt"), PromptError, "'pt'"),
        (lambda m: m.processor(), PromptError, "Neither text nor images"),
        (lambda m: m.processor(text="<image>", images=CAT, do_splitting=True), PromptError, "'do_splitting'"),
        (lambda m: m.processor(images=[[]]), ImageError, "no image in any prompt"),
    ],
)  # fmt: skip
def test_bad_calls_get_one_sentence(call, error, match, ours):
    with pytest.raises(error, match=match) as caught:
        call(ours)
    assert "\n" not in str(caught.value)


def test_text_only_prompts_and_nested_empty_images(ours):
    assert ours.generate("Hello", max_new_tokens=3).token_ids == ours.generate("Hello", [], max_new_tokens=3).token_ids
    both = ours.generate(["Hello", "Look"], [[], [CAT]], max_new_tokens=3)
    assert both[0].token_ids == ours.generate("Hello", max_new_tokens=3).token_ids


def test_caller_s_objects_are_not_changed(ours):
    inputs = ours.processor(text=["<image>a", "longer text"], images=[[CAT], []], padding=True)
    before = {name: array.copy() for name, array in inputs.items()}
    ours.generate(**inputs, max_new_tokens=3)
    ours.logits(inputs)
    assert all((inputs[name] == array).all() for name, array in before.items())


def test_without_max_new_tokens_a_long_prompt_gets_what_fits(ours):
    text = "a" * 480
    assert ours.generate(text, raw=True, eos_token_id=[]).prompt_tokens == 481
    assert len(ours.generate(text, raw=True, eos_token_id=[]).token_ids) == 512 - 481
    assert len(ours.generate("a", raw=True, eos_token_id=[]).token_ids) == 256


def test_end_tokens_are_not_banned_and_pad_the_rest(model, reference):
    """The reference lets a bad word through that is an end token, and pads with the first end token if nothing else is said."""
    ours, theirs = model("plain"), reference("plain")
    inputs = theirs.inputs(["some text", "and other text"], [[], []], splitting=False)
    free = ours.generate(**inputs, max_new_tokens=12, eos_token_id=[], bad_words_ids=[])[:, inputs["input_ids"].shape[1] :]
    ends = [int(free[0, 4]), 2]
    options = {"max_new_tokens": 12, "eos_token_id": ends, "bad_words_ids": [[ends[0]], [int(free[1, 7])]]}
    assert ours.generate(**inputs, **options).tolist() == theirs.generate(inputs, **options).tolist()
    unset = type(ours.options)(eos_token_id=(7, 2))
    assert with_answers(np.array([[1], [1]]), [[5, 7], [5]], unset).tolist() == [[1, 5, 7], [1, 5, 7]]


def test_what_does_not_fit_is_refused_before_any_work(model, monkeypatch):
    ours = model("plain")
    monkeypatch.setattr(type(ours.engine), "encode_images", lambda *_: pytest.fail("work was done"))
    for call in (ours.generate, ours.stream, ours.chat().send):
        with pytest.raises(PromptError, match=r"The prompt's \d+ tokens and 480 new ones make \d+, more than the model's 512"):
            call("What is it?", photos()[0], max_new_tokens=480)
    with pytest.raises(PromptError, match="make 600, more than the model's 512"):
        ours.generate(input_ids=np.ones((1, 200), int), max_new_tokens=400, num_beams=2)
