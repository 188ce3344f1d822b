"""IDEFICS' processor against the reference: ids, masks, pixels, padding, and what only one of them takes."""

from __future__ import annotations

import base64
import io
import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from idefics2_onnx import IdeficsProcessor, ImageError, PromptError
from idefics2_onnx.runtime.inputs.seen_images import one_hot, seen_images
from idefics_parity import items_of, table
from parity import photo
from PIL import Image
from transformers import AutoTokenizer
from transformers import IdeficsProcessor as ReferenceProcessor
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.idefics.processing_idefics import (
    image_attention_mask_for_packed_input_ids,
    incremental_to_binary_attention_mask,
)

TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
A, B, C = photo("chelsea", 20, 30), photo("astronaut", 31, 17), photo("coffee", 16, 16).convert("L")


@pytest.fixture(scope="module", params=[2, 3])
def both(request, tmp_path_factory):
    """Our processor and the reference's with a real vocabulary of 32,000 pieces and two or three tokens more."""
    source, folder = tmp_path_factory.mktemp("sentencepiece"), tmp_path_factory.mktemp("idefics")
    shutil.copy(str(files("mistral_common") / "data" / "tokenizer.model.v1"), source / "tokenizer.model")
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
    }
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"additional_special_tokens": TOKENS[: request.param]}))
    sizes = json.dumps({"model_type": "idefics", "vocab_size": 32000, "additional_vocab_size": request.param})
    (source / "config.json").write_text(sizes)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    (folder / "config.json").write_text(sizes)
    images = IdeficsImageProcessorPil(image_size=8)
    # As newer checkpoints have them: nowhere else.
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(images.to_json_string())}))
    return IdeficsProcessor.from_pretrained(folder), ReferenceProcessor(images, AutoTokenizer.from_pretrained(folder))


def same(found, expected) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.numpy().dtype, name
        assert np.array_equal(found[name], value.numpy()), name


def test_seen_images_equal_the_reference():
    class Tokenizer:
        eos_token_id = 2

        def convert_tokens_to_ids(self, _):
            return 9

    rng = np.random.default_rng(0)
    for _ in range(500):
        ids = rng.choice([0, 1, 2, 3, 4, 9], size=(2, rng.integers(1, 14)), p=[0.1, 0.1, 0.15, 0.2, 0.15, 0.3])
        count = int(rng.integers(1, 5))
        numbers, _ = image_attention_mask_for_packed_input_ids(torch.tensor(ids), Tokenizer(), "pt")
        expected = incremental_to_binary_attention_mask(numbers, "pt", num_classes=count).numpy()
        assert np.array_equal(one_hot(seen_images(ids, 9, 2), count), expected)


def test_the_table_is_long_enough():
    assert len(table([A, B, C])) >= 90


def test_ids_masks_and_pixels_equal_the_reference(both):
    ours, reference = both
    for prompt in table([A, B, C]):
        same(ours(text=[prompt]), reference(text=[prompt]))
        if prompt:
            same(ours(text=prompt), reference(text=prompt))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True, "padding_side": "right"},
        {"padding": "max_length", "max_length": 400},
        {"pad_to_multiple_of": 64},
        {"add_eos_token": True},
        {"add_end_of_utterance_token": True},
        {"add_end_of_utterance_token": False},
        {"add_special_tokens": True},
        {"image_mean": [0.5, 0.5, 0.5], "resample": 2},
    ],
    ids=str,
)
def test_batches_and_options_equal_the_reference(options, both):
    ours, reference = both
    if options.get("add_end_of_utterance_token") and ours.tokenizer.token_to_id("<end_of_utterance>") is None:
        with pytest.raises(PromptError, match="only instructed models know"):
            ours(text=["a", "b"], **options)
        return
    prompts = table([A, B, C])
    for start in range(0, len(prompts), 12):
        same(ours(text=prompts[start : start + 8], **options), reference(text=prompts[start : start + 8], **options))


def test_images_beside_texts_equal_the_reference(both):
    ours, reference = both
    for images, text in ((A, "one"), ([A], ["one"]), ([A, B], ["one", "two"]), ([[A, B], []], ["one", "two"]), ((A,), ("one",))):
        same(ours(images=images, text=text), reference(images=images, text=text))


def test_ids_become_the_texts_of_the_reference(both):
    ours, reference = both
    ids = ours(text=[["User:", A, "What?<end_of_utterance>\nAssistant:"], ["x"]])["input_ids"]
    for skip in (True, False):
        assert ours.batch_decode(ids, skip_special_tokens=skip) == reference.batch_decode(
            torch.tensor(ids), skip_special_tokens=skip
        )


def test_what_the_reference_gets_wrong(both, tmp_path):
    """Its documentation's meaning, or one clear error."""
    ours, reference = both
    expected = reference(text=[["What is this", A]])
    same(ours([["What is this", A]]), expected)  # as its documentation calls it: UnboundLocalError there
    same(ours(text="What is this"), reference(text=["What is this"]))  # there a prompt of characters
    picture = tmp_path / "a picture.png"
    A.save(picture)
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    for image in (picture, url, f" {url} ", picture.read_bytes(), io.BytesIO(picture.read_bytes()), np.asarray(A)):
        same(ours(text=[["What is this", image]]), expected)
    same(ours(images=[str(picture)], text=["What?"]), reference(images=[A], text=["What?"]))  # there two texts
    assert ours(text=[[A], ["x"]], size={"height": 4, "width": 4})["pixel_values"].shape == (2, 1, 3, 4, 4)
    assert ours(text=[[A]], image_size=4)["pixel_values"].shape == (1, 1, 3, 4, 4)
    for wrong, words in (
        ({"text": [["a <image> b", A]]}, "has <image> in it"),
        ({"text": [["https://example.org/a.png"]]}, "allow_urls"),
        ({"text": [["ftp://example.org/a.png"]]}, "is no http"),
        ({"text": [["a"], "b"]}, "One list|one list"),
        ({"text": [["a"]], "return_tensors": "pt"}, "arrays are NumPy's"),
        ({"text": [["a", A, "b c d"]], "truncation": True, "max_length": 3}, "would be left"),
        ({"text": [["a"], ["b c d e"]], "padding": False}, "different lengths"),
        ({"text": [["a", A]], "do_image_splitting": True}, "sees each image whole"),
        ({"text": [["a", A]], "transform": len}, "for training"),
        ({"text": [["a", A]], "colour": 1}, "no image option 'colour'"),
        ({"text": ["a"], "images": [A, B]}, "1 texts beside 2 images"),
        ({}, "Neither text nor images"),
    ):
        with pytest.raises((PromptError, ImageError), match=words):
            ours(**wrong)
    assert ours(text=[["a", A]], do_image_splitting=False, videos=None)["pixel_values"].shape == (1, 1, 3, 8, 8)


def test_tagged_texts_are_read_as_their_parts(both):
    """What `generate`, chats and templates take: the same tokens as a list of texts and images has."""
    ours, _ = both
    for text in ("<image>What is this?", "What <image> is <image><image>this", "<image>", "plain"):
        images = [A, B, C][: text.count("<image>")]
        expected = ours(text=[items_of(text, images)])["input_ids"][0].tolist()
        assert ours.ids([text], [images], False) == [expected]
    words = ours.tokenizer.encode("<s>https://example.org/a", add_special_tokens=False).ids
    assert ours.ids(["https://example.org/a"], [[]], False) == [
        words
    ]  # a text: what is typed is fetched as an image argument only
    with pytest.raises(PromptError, match="sees each image whole"):
        ours.ids(["<image>"], [[A]], True)


def test_turned_and_transparent_pictures(both, tmp_path):
    """As in the reference: objects stay as they are, what is fetched comes upright and opaque."""
    ours, reference = both
    exif = Image.Exif()
    exif[0x0112] = 6
    A.save(tmp_path / "turned.jpg", exif=exif)
    clear = Image.merge("RGBA", (*A.split(), Image.linear_gradient("L").resize(A.size)))
    clear.save(tmp_path / "clear.png")
    for path in (tmp_path / "turned.jpg", tmp_path / "clear.png"):
        same(ours(text=["x", Image.open(path)]), reference(text=["x", Image.open(path)]))
        fetched = reference.image_processor.fetch_images(str(path))
        same(ours(text=["x", Path(path)]), reference(text=["x", fetched]))
        assert np.array_equal(np.asarray(ours.image_processor.fetch_images([path])[0]), np.asarray(fetched))
