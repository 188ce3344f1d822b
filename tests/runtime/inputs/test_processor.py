"""The processor against the reference: ids, batches, padding, truncation, chats."""

from __future__ import annotations

import base64
import io
import json
import pickle
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from idefics2_onnx import Idefics2Processor, ImageError
from idefics2_onnx.demo.checkpoint_files import CHAT_TEMPLATE
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.text.chat_template import ChatTemplate
from parity import photo
from prompts import PROMPTS
from transformers import AutoTokenizer
from transformers import Idefics2Processor as ReferenceProcessor
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

SMALL = {"size": {"shortest_edge": 8, "longest_edge": 16}}


@pytest.fixture(scope="module")
def mistral(tmp_path_factory) -> Path:
    """A folder with Mistral's real vocabulary of 32,000 pieces and Idefics2's three tokens, as transformers 5 saves it."""
    source, folder = tmp_path_factory.mktemp("sentencepiece"), tmp_path_factory.mktemp("mistral")
    shutil.copy(str(files("mistral_common") / "data" / "tokenizer.model.v1"), source / "tokenizer.model")
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "add_bos_token": True,
    }
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"additional_special_tokens": specials}))
    (source / "config.json").write_text('{"model_type": "idefics2"}')
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    Idefics2ImageProcessorPil(**SMALL).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "idefics2", "text_config": {"vocab_size": 32003}}')
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return folder


@pytest.fixture(scope="module", params=["mistral", "demo"])
def both(request, tmp_path_factory):
    """Our processor and the reference's, with the real vocabulary and with the demo's."""
    if request.param == "mistral":
        folder = request.getfixturevalue("mistral")
    else:
        folder = Path(shutil.copytree(DEMO, tmp_path_factory.mktemp("demo") / "model"))
        Idefics2ImageProcessorPil(**SMALL).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours, images = Idefics2Processor.from_pretrained(folder), Idefics2ImageProcessorPil.from_pretrained(folder)
    return ours, ReferenceProcessor(images, tokenizer, ours.image_seq_len, chat_template=CHAT_TEMPLATE)


def images_for(texts):
    image = photo("chelsea", 20, 30)
    return [[image] * text.count("<image>") for text in texts]


def same(found, expected) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.asarray(value).dtype, name
        assert np.array_equal(found[name], value), name


def test_the_table_is_long_enough():
    assert len(set(PROMPTS)) == len(PROMPTS) >= 60


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("text", PROMPTS, ids=range(len(PROMPTS)))
def test_ids_equal_the_reference(text, splitting, both):
    ours, reference = both
    if not text and reference.tokenizer.bos_token_id not in reference.tokenizer("").input_ids:
        pytest.skip("no tokens at all")
    reference.image_processor.do_image_splitting = splitting
    images = images_for([text]) if "<image>" in text else None
    for special in (True, False):
        expected = reference(text=text, images=images, return_tensors="np", add_special_tokens=special)
        found = ours(text=text, images=images, do_image_splitting=splitting, add_special_tokens=special)
        if found["input_ids"].size:
            same(found, expected)
    ids = expected["input_ids"][0].tolist()
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)
        assert ours.batch_decode([ids, ids[:3]], skip_special_tokens=skip) == reference.batch_decode(
            [ids, ids[:3]], skip_special_tokens=skip
        )


@pytest.mark.parametrize("side", ["left", "right", None])
@pytest.mark.parametrize("splitting", [False, True])
def test_batches_equal_the_reference(side, splitting, both):
    ours, reference = both
    reference.image_processor.do_image_splitting = splitting
    texts = [text for text in PROMPTS if text]
    for start in range(0, len(texts), 6):
        some = texts[start : start + 6]
        images = images_for(some)
        options = {"padding": True} | ({"padding_side": side} if side else {})
        expected = reference(text=some, images=images if any(images) else None, return_tensors="np", **options)
        same(ours(text=some, images=images, do_image_splitting=splitting, **options), expected)
        flat = [image for own in images for image in own]
        if flat and len(some) > 1:
            same(ours(text=some, images=flat, do_image_splitting=splitting, **options), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 90},
        {"padding": True, "pad_to_multiple_of": 64},
        {"padding": True, "truncation": True, "max_length": 9},
        {"padding": "max_length", "truncation": True, "max_length": 5},
        {"padding": True, "truncation": True, "max_length": 5, "add_special_tokens": False},
        {"padding": True, "truncation": "longest_first", "max_length": 5},
        {"padding": True, "truncation": "do_not_truncate", "max_length": 5},
        {"padding": True, "max_length": 5},
        {"max_length": 2},
    ],
)
def test_padding_and_truncation_equal_the_reference(options, both):
    ours, reference = both
    texts = ["short", "a rather longer text than the other one", "middling text"]
    same(ours(text=texts, **options), reference(text=texts, return_tensors="np", **options))


def test_truncation_never_cuts_an_image(both):
    ours, reference = both
    reference.image_processor.do_image_splitting = False
    text, images = "<image>What is it, and why, and since when?", [photo("chelsea", 20, 30)]
    needed = ours.image_seq_len
    for limit in (10, needed + 1):
        with pytest.raises(ValueError, match="Mismatch"):
            reference(text=text, images=images, truncation=True, max_length=limit)
        with pytest.raises(PromptError, match=f"images need {needed} tokens, and {limit - 2} would be left of them in {limit}"):
            ours(text=text, images=images, truncation=True, max_length=limit)
    expected = reference(text=text, images=images, truncation=True, max_length=70, return_tensors="np")
    same(ours(text=text, images=images, truncation=True, max_length=70), expected)


CHATS = [
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
    [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": " and tell."}],
        }
    ],
    [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Compare."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Two cats."}]},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}, {"type": "image"}]},
    ],
]


@pytest.mark.parametrize("prompt", [True, False])
def test_chats_equal_the_reference(prompt, both, tmp_path):
    ours, reference = both
    reference.image_processor.do_image_splitting = False
    for chat in [*CHATS, CHATS]:
        assert ours.apply_chat_template(chat, add_generation_prompt=prompt) == reference.apply_chat_template(
            chat, add_generation_prompt=prompt
        )
    path = tmp_path / "cat.png"
    photo("chelsea", 20, 30).save(path)
    encoded = base64.b64encode(path.read_bytes()).decode()
    sources = iter(
        [
            ("image", photo("chelsea", 20, 30)),
            ("path", str(path)),
            ("base64", encoded),
            ("url", f"data:image/png;base64,{encoded}"),
        ]
        * 3
    )
    chats = json.loads(json.dumps(CHATS))
    for chat in chats:
        for message in chat:
            for item in message["content"]:
                if item["type"] == "image":
                    key, value = next(sources)
                    item[key] = value
    before = repr(chats)
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": prompt}
    for chat in chats:
        same(ours.apply_chat_template(chat, **options), reference.apply_chat_template(chat, return_tensors="np", **options))
    expected = reference.apply_chat_template(chats, return_tensors="np", processor_kwargs={"padding": True}, **options)
    same(ours.apply_chat_template(chats, padding=True, **options), expected)
    assert repr(chats) == before
    ids = ours.apply_chat_template(chats[0], tokenize=True)
    assert np.array_equal(ids, reference.apply_chat_template(chats[0], tokenize=True, return_tensors="np"))


def test_openai_s_image_items(both):
    ours, reference = both
    buffer = io.BytesIO()
    photo("chelsea", 20, 30).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Hm?"}]}]
    reference.image_processor.do_image_splitting = False
    options = {"tokenize": True, "return_dict": True}
    expected = reference.apply_chat_template(json.loads(json.dumps(chat)), return_tensors="np", **options)
    same(ours.apply_chat_template(chat, **options), expected)


def test_legacy_tokenizer_files_are_used_as_transformers_5_uses_them(mistral, tmp_path):
    """A tokenizer.json of 2024, with a normaliser in place of Metaspace, as the real checkpoint has."""
    folder = Path(shutil.copytree(mistral, tmp_path / "legacy"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
    }
    content["pre_tokenizer"] = None
    content["model"]["unk_token"] = "<unk>"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for legacy in (None, True, False):
        config = json.loads((folder / "tokenizer_config.json").read_text()) | ({} if legacy is None else {"legacy": legacy})
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer, ours = AutoTokenizer.from_pretrained(folder), Idefics2Processor.from_pretrained(folder)
        for text in PROMPTS:
            assert ours.tokenizer.encode(text).ids == tokenizer(text).input_ids, text


def test_folder_without_a_template_takes_text_and_refuses_messages(tmp_path):
    folder = Path(shutil.copytree(DEMO, tmp_path / "base"))
    manifest = json.loads((folder / "idefics2_onnx.json").read_text())
    del manifest["files"]["chat_template.json"]
    (folder / "idefics2_onnx.json").write_text(json.dumps(manifest))
    (folder / "chat_template.json").unlink()
    model = Idefics2.from_pretrained(folder)
    image = photo("chelsea", 40, 40)
    answer = model.generate("What?", image, max_new_tokens=2)
    assert answer.token_ids == model.generate("<image>What?", image, raw=True, max_new_tokens=2).token_ids
    with pytest.raises(PromptError, match="no chat template"):
        model.generate(CHATS[0], image)


def test_no_token_past_the_vocabulary_is_added(tmp_path):
    """-base has 32,002 rows and no <end_of_utterance>; the reference would add it as row 32,002."""
    folder = Path(shutil.copytree(DEMO, tmp_path / "base"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<end_of_utterance>"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    last = config["text_config"]["vocab_size"] - 1
    for vocab_size, expected in ((last, None), (last + 1, last)):
        config["text_config"]["vocab_size"] = vocab_size
        (folder / "config.json").write_text(json.dumps(config))
        assert Idefics2Processor.from_pretrained(folder).tokenizer.token_to_id("<end_of_utterance>") == expected


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: p(text="x", truncation=True), "without a max_length"),
        (lambda p: p(text="x", truncation=True, max_length=1), "max_length is 1"),
        (lambda p: p(text="x", max_length="5"), "max_length is '5'"),
        (lambda p: p(text="x", truncation="middle"), "truncation is 'middle'"),
        (lambda p: p(text=5), "not a string"),
        (lambda p: p(images=photo("chelsea", 9, 9), nonsense=1), "'nonsense'"),
        (lambda p: p.apply_chat_template(None), "messages is None"),
        (lambda p: p.decode([-100]), "from -100"),
        (lambda p: p(text="x", padding="max_length"), "without a max_length"),
        (lambda p: p(text="x", padding="widest"), "'widest'"),
        (lambda p: p(text=["x", "long text"], padding="max_length", max_length=2), "2 to .* tokens, more than max_length 2"),
        (lambda p: p(text=[]), "not a string"),
        (lambda p: p(text=[1]), "not a string"),
        (lambda p: p.apply_chat_template([{"role": "user", "content": "plain text"}]), "leaves out the text 'plain text'"),
        (lambda p: p.apply_chat_template([{"role": "user", "content": []}]), "refuses these messages"),
        (lambda p: p.apply_chat_template(["hello"]), "A message is 'hello'"),
        (lambda p: p.apply_chat_template(CHATS[0], padding=True), "'padding' is no option here"),
        (lambda p: p.apply_chat_template(CHATS[0], tokenize=True), "has 1 <image> but 0 images"),
        (lambda p: p(text="x", padding=np.ones(2)), "padding is array"),
        (lambda p: p(text="x", padding_side=np.array(["left", "left"])), "padding_side is array"),
        (lambda p: p(text="x", truncation=np.ones(2)), "truncation is array"),
        (lambda p: p(text="x", truncation=True, max_length=np.ones(2)), "max_length is array"),
        (lambda p: p(text="x", return_tensors=np.ones(2)), "return_tensors is array"),
        (lambda p: p(images=photo("chelsea", 9, 9), return_tensors=np.ones(2)), "return_tensors is array"),
        (lambda p: p(text="x", text_kwargs=np.ones(2)), "text_kwargs is the reference's group"),
        (lambda p: p(text="x", add_special_tokens="no"), "add_special_tokens is 'no'"),
        (lambda p: p(text="x", pad_to_multiple_of="8"), "pad_to_multiple_of is '8'"),
        (lambda p: p(text="x", padding=True, pad_to_multiple_of=10**9), "padded to 1,000,000,000 tokens"),
        (lambda p: p(text="x", padding="max_length", max_length=10**12), "padded to 1,000,000,000,000 tokens"),
        (lambda p: p.decode(5), "The ids are 5"),
        (lambda p: p.decode([None]), "The ids are"),
        (lambda p: p.decode([float("inf")]), "The ids are"),
        (lambda p: p.decode([5], skip_special_tokens="no"), "skip_special_tokens is 'no'"),
        (lambda p: p.batch_decode(5), "The sequences are 5"),
        (lambda p: p.batch_decode([5]), "The ids are 5"),
    ],
)  # fmt: skip
def test_calls_that_are_refused(call, match, both):
    with pytest.raises(PromptError, match=match) as caught:
        call(both[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"text_kwargs": {"padding": True}}, "text_kwargs is the reference's group of options"),
        ({"images_kwargs": {"do_pad": False}}, "images_kwargs is the reference's group"),
        ({"common_kwargs": {"return_tensors": "np"}}, "common_kwargs is the reference's group"),
        ({"return_token_type_ids": True}, "return_token_type_ids is True, an option of the reference's tokenizer"),
        ({"return_attention_mask": False}, "return_attention_mask is False, an option of the reference's tokenizer"),
        ({"is_split_into_words": True}, "is_split_into_words is True, an option of the reference's tokenizer"),
        ({"stride": 2}, "stride is 2, an option of the reference's tokenizer"),
        ({"text_pair": "y"}, "text_pair is 'y', an option of the reference's tokenizer"),
        ({"continue_final_message": True}, "an option of the reference's chat template"),
        ({"videos": ["a.mp4"]}, "an option of the reference's processor"),
        ({"temperature": 2}, "no image option 'temperature'"),
    ],
)
def test_options_are_called_what_they_are(options, match, both):
    for call in ({"text": "x"}, {"images": photo("chelsea", 9, 9)}):
        with pytest.raises(PromptError, match=match):
            both[0](**call, **options)
    if "temperature" not in options:
        with pytest.raises(PromptError, match=match):
            both[0].apply_chat_template(CHATS[0], **options)


def test_options_that_change_nothing_are_taken(both):
    ours, reference = both
    options = {
        "return_token_type_ids": False,
        "return_attention_mask": True,
        "return_length": False,
        "is_split_into_words": False,
    }
    same(ours(text="x", text_kwargs={}, verbose=True, stride=0, **options), reference(text="x", return_tensors="np", **options))


def test_image_errors_come_through(both):
    with pytest.raises(ImageError, match="There is no image file"):
        both[0](text="<image>", images="nowhere.jpg")
    with pytest.raises(ImageError, match="downloads are off"):
        both[0].apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "url": "https://example.org/a.png"}]}], tokenize=True
        )


@pytest.mark.parametrize(
    "options",
    [
        {"do_rescale": False, "do_normalize": False},
        {"size": {"height": 20, "width": 30}},
        {"do_convert_rgb": True, "resample": 0},
    ],
)
def test_image_options_reach_the_pixels(options, both):
    ours, reference = both
    reference.image_processor.do_image_splitting = False
    images = [photo("chelsea", 20, 30), photo("coffee", 25, 25).convert("RGBA")]
    same(
        ours(images, ["<image>", "<image>x"], padding=True, **options),
        reference(images, ["<image>", "<image>x"], padding=True, return_tensors="np", **options),
    )
    same(ours(images=images, **options), reference(images=images, return_tensors="np", **options))


def test_template_that_writes_the_bos_token(both):
    ours, reference = both
    source = "{{ bos_token }}{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    chat = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    with_bos = Idefics2Processor(
        ours.image_processor, ours.tokenizer, chat_template=ChatTemplate(source, {"bos_token": "<s>"}), bos_token="<s>"
    )
    expected = reference.apply_chat_template(chat, chat_template=source, tokenize=True, return_tensors="np")
    assert np.array_equal(with_bos.apply_chat_template(chat, tokenize=True), expected)
    assert expected[0].tolist().count(1) == 1


def test_added_special_tokens_of_the_config(mistral, tmp_path):
    folder = Path(shutil.copytree(mistral, tmp_path / "more"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = ["<foo>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "idefics2", "text_config": {"vocab_size": 32004}}')
    tokenizer, ours = AutoTokenizer.from_pretrained(folder), Idefics2Processor.from_pretrained(folder)
    assert ours.tokenizer.encode("a<foo>b").ids == tokenizer("a<foo>b").input_ids


def test_sides_are_those_that_were_set_on_the_tokenizer(tmp_path):
    """The reference's flow; and a copy for a spawned worker has them, too."""
    processor = Idefics2Processor.from_pretrained(DEMO)
    texts = ["Hi", "What is in the picture?"]
    processor.tokenizer.padding_side = "right"
    assert processor(text=texts, padding=True).attention_mask[0].tolist()[:2] == [1, 1]
    copy = pickle.loads(pickle.dumps(processor))
    for ours in (processor, copy):
        assert ours(text=texts, padding=True).attention_mask[0, -1] == 0
        assert ours(text=texts, padding=True, padding_side="left").attention_mask[0, -1] == 1
    turn = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert copy.apply_chat_template(turn) == processor.apply_chat_template(turn)
    processor.tokenizer.truncation_side = "left"
    cut = processor(text=texts[1], truncation=True, max_length=4).input_ids[0].tolist()
    assert cut[-3:] == processor(text=texts[1]).input_ids[0, -3:].tolist()
    processor.tokenizer.padding_side = "top"
    with pytest.raises(PromptError, match="padding_side is 'top'"):
        processor(text=texts, padding=True)
