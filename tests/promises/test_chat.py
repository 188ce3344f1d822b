"""A chat equals generating afresh from its whole conversation, and reads only what is new."""

from __future__ import annotations

import json

import numpy as np
import pytest
from idefics2_onnx import ImageError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.generation.answer import Generation
from idefics2_onnx.runtime.memory.buffer import Buffer
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.text.chat_template import ChatTemplate
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
        known = [token for token, _ in chat._cached]
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

    from idefics2_onnx.runtime.engine.decode_step import DecodeStep

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
        (lambda: chat.send("x", num_beams=2), PromptError, "num_beams is 2, but one answer"),
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
    for name, content in {
        "tag": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "text", "text": "a tag <image>"}]}],
        "item": [{"role": "user", "content": ["image"]}],
        "place": [{"role": "user", "content": [{"type": "image"}]}],
        "text": [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        "half": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}],
        "roles": [{"content": []}],
        "words": ["hello"],
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(PromptError):
            chat.load(tmp_path / f"{name}.json")
        assert chat.messages == before
    (tmp_path / "deep.json").write_text("[" * 200_000)
    for path in (tmp_path / "deep.json", None, "a\0b"):
        with pytest.raises(PromptError, match="cannot be read as a chat"):
            chat.load(path)
    (tmp_path / "kept.json").write_text("kept")
    for path in (tmp_path / "no" / "folder.json", "a\0b", tmp_path):
        with pytest.raises(PromptError, match="cannot be written"):
            chat.save(path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    with pytest.raises(PromptError, match="echo is True"):
        model("plain").chat(echo=True)
    assert chat.send("second").token_ids == model("plain").generate(chat.messages[:-1], **letters).token_ids


def test_what_the_caller_holds_is_the_callers(model, letters):
    ours = model("plain")
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
    ]
    chat = ours.chat(messages, **letters)
    messages[0]["content"][0]["text"] = chat.messages[1]["content"][0]["text"] = "changed"
    assert [message["content"][0]["text"] for message in chat.messages] == ["one", "two"]


def test_a_tag_that_the_model_writes_is_no_image(model, letters, monkeypatch):
    from idefics2_onnx.runtime.generation.answer import Answer

    chat = model("plain").chat(**letters)
    monkeypatch.setattr(Answer, "result", lambda self, *_: Generation("an <image>", [5], "stop", 1))
    chat.send("first")
    monkeypatch.undo()
    assert chat.messages[-1]["content"][0]["text"] == "an < image>"
    assert chat.send("second").token_ids


@pytest.mark.parametrize("change", [{"do_image_splitting": False}, {"size": {"longest_edge": 56, "shortest_edge": 28}}], ids=str)
def test_image_options_that_change_are_heeded(change, exported, letters):
    ours = Idefics2.from_pretrained(exported("plain"))
    chat, processor = ours.chat(**letters), ours.processor.image_processor
    chat.send("first", photos()[0])
    processor.options = processor.options.replace(**change)
    assert chat.send("second").token_ids == ours.generate(chat.messages[:-1], **letters).token_ids


def test_undo_takes_back_what_is_still_open(model, letters):
    chat = model("plain").chat(**letters)
    chat.send("one")
    chat_stream = chat.stream("two")
    chat.undo()
    assert len(chat.messages) == 2
    assert list(chat_stream) == []
    chat_stream = chat.stream("two")
    next(chat_stream)
    chat.undo()
    assert len(chat.messages) == 2
    for _ in chat.stream("three"):
        break
    assert [message["content"][0]["text"] for message in chat.messages[::2]] == ["one", "three"]  # dropped, so ended


@pytest.mark.parametrize(
    "messages", [[[{"role": "user", "content": "Hi"}]], "Hi", ["Hi"], [5], {"role": "user"}, np.ones(2)], ids=str
)
def test_what_is_no_conversation(messages, model):
    with pytest.raises(PromptError, match="messages is"):
        model("plain").chat(messages)


@pytest.mark.parametrize(
    "prompt",
    [
        [[[{"role": "user", "content": "Hi"}]]],
        [[{"role": "user", "content": "Hi"}, 5]],
        [["Hi"]],
        [5],
        {"role": "user"},
        np.ones(2),
    ],
    ids=str,
)
def test_what_is_no_prompt(prompt, model):
    with pytest.raises(PromptError, match="The prompt is neither text"):
        model("plain").generate(prompt, max_new_tokens=1)


def test_a_file_that_no_memory_holds_is_not_read(model, tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PromptError, match=r"cannot be read as a chat \(1,099,511,627,776 bytes, more than 1,073,741,824\)"):
        model("plain").chat().load(tmp_path / "huge.json")


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interruption_while_the_cache_grows_loses_no_turn(after, model, letters, monkeypatch):
    ours = model("window")
    monkeypatch.setattr("idefics2_onnx.runtime.memory.key_value_cache.GROWTH", 50)
    chat, copy, calls = ours.chat(**letters), Buffer.copy, []
    chat.send("first")
    messages = chat.messages

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == after:
            raise KeyboardInterrupt
        return copy(self, *arguments)

    monkeypatch.setattr(Buffer, "copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat.send("x" * 150)
    assert chat.messages == messages
    monkeypatch.setattr(Buffer, "copy", copy)
    for text in ("second", "y" * 150):
        assert chat.send(text).token_ids == ours.generate(chat.messages[:-1], **letters).token_ids


@pytest.mark.parametrize("after", range(1, 12, 2))
def test_an_interruption_of_prompt_lookup_leaves_no_others_keys(after, model, letters, monkeypatch):
    from idefics2_onnx.runtime.generation.answer import Answer

    ours, push, calls = model("plain"), Answer.push, []
    options = letters | {"max_new_tokens": 12, "repetition_penalty": 0.5}
    chat = ours.chat(**options, prompt_lookup_num_tokens=6)

    def interrupted(self, *arguments):
        push(self, *arguments)
        calls.append(arguments)
        if len(calls) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Answer, "push", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat.send("abcabcabc abcabcabc")
    monkeypatch.undo()
    assert chat.send("go on").token_ids == ours.generate(chat.messages[:-1], **options).token_ids
