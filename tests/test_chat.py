"""A chat equals generating afresh from its whole conversation, and reads only what is new."""

from __future__ import annotations

import json

import numpy as np
import pytest
from idefics2_onnx import Idefics2, ImageError, PromptError
from idefics2_onnx.runtime.chat_template import ChatTemplate
from parity import photos
from PIL import Image

LETTERS = {"max_new_tokens": 7}
TURNS = [
    ("What is this?", 1),
    ("And now, compared?", 2),
    ("No picture this time.", 0),
    ("Look at <image> again", 1),
    ("Thank you", 0),
    ("One more word", 0),
]


@pytest.fixture(scope="module")
def letters(model):
    """Options under which a random model says only letters: any other byte would not survive the way into text and back."""
    tokenizer = model("plain").processor.tokenizer
    others = [i for i in range(300) if not ((token := tokenizer.id_to_token(i) or "").isascii() and token.isalpha())]
    return {"max_new_tokens": 7, "suppress_tokens": others}


@pytest.fixture
def unspaced(exported):
    """Opens a model whose template puts an answer where the model does: real models say the space behind "Assistant:" themselves."""

    def make(*case):
        opened = Idefics2.from_pretrained(exported(*case))
        opened.processor.chat_template = ChatTemplate(
            "{% for m in messages %}{{ m.role.capitalize() }}:{% for item in m.content %}"
            "{{ '<image>' if item.type == 'image' else item.text }}{% endfor %}<end_of_utterance>\n{% endfor %}"
            "{% if add_generation_prompt %}Assistant:{% endif %}",
            {},
        )
        return opened

    return make


def pictures(count, start):
    every = [*photos(), Image.fromarray(np.full((60, 70, 3), 90, np.uint8))]
    return every[start : start + count]


@pytest.mark.parametrize(
    "case", [("plain", "fp32", "fused"), ("window", "fp32", "fused"), ("odd_heads", "fp32", "standard")], ids="-".join
)
def test_six_turns_with_four_images_equal_fresh_generation(case, unspaced, letters):
    ours = unspaced(*case)
    chat = ours.chat(**letters)
    given = known = 0
    for text, count in TURNS:
        answer = chat.send(text, pictures(count, given))
        given += count
        fresh = ours.generate(chat.messages[:-1], **letters)
        assert answer.token_ids == fresh.token_ids
        assert (answer.text, answer.finish_reason, answer.prompt_tokens) == (fresh.text, fresh.finish_reason, fresh.prompt_tokens)
        assert answer.timings.prompt_tokens == answer.prompt_tokens - known
        assert answer.timings.prompt_tokens_reused == known
        assert answer.timings.images_encoded + answer.timings.images_reused == 5 * count
        known = answer.prompt_tokens + len(answer.token_ids) - 1  # the last token was never read
    assert given == 4
    assert len(chat.messages) == 12


def test_an_answer_that_reads_otherwise_as_text_is_read_again(model, letters):
    """The folder's template writes a space in front of the answer that this model did not say."""
    ours = model("plain")
    chat = ours.chat(**letters)
    for text, count in TURNS:
        known = chat._cached_ids
        answer = chat.send(text, pictures(min(count, 1), 0))
        assert answer.token_ids == ours.generate(chat.messages[:-1], **letters).token_ids
        assert answer.timings.prompt_tokens_reused == max(0, len(known) - 6)


def test_undo_reset_and_a_loaded_chat_go_on_alike(model, letters, tmp_path):
    ours = model("plain")
    chat, (a, b, c) = ours.chat(**letters), photos()
    chat.send("first", a)
    chat.send("second", [np.asarray(b), c])
    chat.save(tmp_path / "chat.json")
    third = chat.send("third")
    chat.undo()
    assert len(chat.messages) == 4
    again = chat.send("third")
    assert again.token_ids == third.token_ids
    assert again.timings.prompt_tokens < 40  # the images before it were not read again
    other = ours.chat(**letters)
    other.load(tmp_path / "chat.json")
    assert other.send("third").token_ids == third.token_ids
    assert ours.chat(json.loads((tmp_path / "chat.json").read_text()), **letters).send("third").token_ids == third.token_ids
    chat.undo()
    chat.undo()
    replaced = chat.send("second", [c, b])
    assert replaced.token_ids == ours.generate(chat.messages[:-1], **letters).token_ids
    chat.reset()
    assert chat.messages == []
    assert chat.send("first", a).token_ids == ours.generate("first", a, **letters).token_ids
    chat.reset()
    with pytest.raises(PromptError, match="no turn to undo"):
        chat.undo()


def test_other_images_at_the_same_place_are_read(model, letters):
    chat, (a, b, _) = model("plain").chat(**letters), photos()
    first = chat.send("same words", a)
    chat.undo()
    second = chat.send("same words", b)
    assert second.token_ids == model("plain").generate("same words", b, **letters).token_ids
    assert second.token_ids != first.token_ids


def test_streams_and_early_ends(model, letters):
    ours = model("plain")
    chat = ours.chat(**letters)
    whole = ours.generate("count", **letters)
    assert "".join(chat.stream("count")) == whole.text
    chat.reset()
    stream = chat.stream("count")
    first = next(stream)
    stream.close()
    assert chat.messages[1]["content"][0]["text"] == first
    assert chat.send("go on").token_ids == ours.generate(chat.messages[:-1], **letters).token_ids
    chat.reset()
    chat.stream("never begun")
    abandoned = chat.stream("begun")
    next(abandoned)
    assert chat.send("third").token_ids == ours.generate(chat.messages[:-1], **letters).token_ids
    assert [m["content"][0]["text"] for m in chat.messages if m["role"] == "user"] == ["begun", "third"]


def test_an_interruption_keeps_the_chat(model, letters, monkeypatch):
    ours = model("plain")
    chat = ours.chat(**letters)
    chat.send("first", photos()[0])
    messages, calls = chat.messages, []

    def interrupted(self, tokens):
        calls.append(tokens)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, tokens)

    from idefics2_onnx.runtime.decode_step import DecodeStep

    step = DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat.send("second", photos()[1])
    assert len(chat.messages[-1]["content"][0]["text"]) == 3
    assert chat.messages[:2] == messages
    monkeypatch.undo()
    assert chat.send("third").token_ids == ours.generate(chat.messages[:-1], **letters).token_ids


def test_mistakes_leave_the_chat_as_it_was(model, letters, tmp_path, exported):
    chat = model("plain").chat(**letters)
    chat.send("first", photos()[0])
    before = chat.messages
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "path.json").write_text('[{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]')
    (tmp_path / "url.json").write_text('[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]')
    for call, error, words in [
        (lambda: chat.send("x", "missing.png"), ImageError, "no image file missing.png"),
        (lambda: chat.send("<image><image>", photos()[0]), PromptError, "has 2 <image> but 1 image"),
        (lambda: chat.send("x", max_new_tokens=5000), PromptError, "more than the model's 512"),
        (lambda: chat.send("x", num_beams=2), PromptError, "num_beams is 2, but a chat"),
        (lambda: chat.send("x", echo=True), PromptError, "echo is True"),
        (lambda: chat.send(3), PromptError, "The turn is 3"),
        (lambda: chat.load(tmp_path / "none.json"), PromptError, "cannot be read as a chat"),
        (lambda: chat.load(tmp_path / "no.json"), PromptError, "cannot be read as a chat"),
        (lambda: chat.load(tmp_path / "path.json"), PromptError, "names the image '/etc/passwd'"),
        (lambda: chat.load(tmp_path / "url.json"), PromptError, "names the image 'http://x'"),
    ]:
        with pytest.raises(error, match=words):
            call()
        assert chat.messages == before
    assert chat.send("second").token_ids == model("plain").generate(chat.messages[:-1], **letters).token_ids
