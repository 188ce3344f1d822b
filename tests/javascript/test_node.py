"""The JavaScript host in Node: pixels, ids and answers equal Python's."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from idefics2_onnx.demo.checkpoint_files import CHAT_TEMPLATE
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.images.idefics2_image_processor import Idefics2ImageProcessor
from idefics2_onnx.runtime.images.source import open_image
from idefics2_onnx.runtime.inputs.idefics2_processor import Idefics2Processor
from idefics2_onnx.runtime.text.chat_template import ChatTemplate
from idefics2_onnx.runtime.text.prompt import user_turn
from idefics2_onnx.runtime.text.text_stream import TextStream
from idefics2_onnx.runtime.text.tokenizer import load_tokenizer
from in_node import in_node
from PIL import Image
from prompts import PROMPTS

pytestmark = pytest.mark.javascript
HOST = Path("examples/javascript")
FOLDERS = ("fp16", "fp32", "int8", "int4", "standard")
SIZES = [(1, 1), (1, 9), (9, 2), (37, 999), (333, 250), (980, 735), (1601, 1199), (112, 112), (3, 2500), (981, 979)]
BYTES = {*range(3, 259)}
"""The demo's tokens of single bytes."""
OPTIONS = {
    "demo's": {"size": {"longest_edge": 112, "shortest_edge": 42}},
    "real": {"size": {"longest_edge": 980, "shortest_edge": 378}},
    "other values": {
        "size": {"longest_edge": 133, "shortest_edge": 7},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "rescale_factor": 0.017,
    },
}


def on_the_command_line(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", HOST / "node.mjs", *map(str, arguments)], capture_output=True, text=True)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_host_is_short_and_knows_no_environment():
    lines = (HOST / "host.mjs").read_text().splitlines()
    assert len(lines) < 150
    assert [line for line in lines if line.startswith("import")] == ["import { Tokenizer } from '@huggingface/tokenizers';"]
    assert not any(word in line for line in lines for word in ("process.", "window", "document", "fetch(", "require("))
    assert all(len(line) <= 130 for path in [*HOST.glob("*.mjs"), *HOST.glob("*.html")] for line in path.read_text().splitlines())


def test_pictures(pictures):
    found = in_node("pictures", files=[str(path) for path in pictures])
    for path, own in zip(pictures, found, strict=True):
        wanted = np.asarray(open_image(path))
        assert own == {"width": wanted.shape[1], "height": wanted.shape[0], "digest": digest(wanted)}, path.name


@pytest.mark.parametrize(
    ("options", "dtype"), [("demo's", "fp16"), ("real", "fp32"), ("other values", "fp16"), ("other values", "fp32")]
)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_tiles(options, split, dtype, tmp_path):
    random, chosen = np.random.default_rng(0), OPTIONS[options] | {"do_image_splitting": split}
    sizes = [size for size in SIZES if not split or size[1] > 1]
    images = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    files = []
    for number, (width, height) in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(images[number].tobytes())
        files.append({"file": str(tmp_path / str(number)), "width": width, "height": height})
    changes = {"preprocessor_config.json": chosen, "idefics2_onnx.json": {"dtype": dtype}}
    found = in_node("tiles", folder=str(DEMO), changes=changes, pictures=files)
    processor = Idefics2ImageProcessor(**chosen)
    for size, image, own in zip(sizes, images, found, strict=True):
        (wanted,) = processor.tiles([Image.fromarray(image)], dtype={"fp16": np.float16, "fp32": np.float32}[dtype])
        assert own == [{"shape": list(tile.shape), "digest": digest(tile)} for tile in wanted], size


@pytest.fixture(scope="module")
def mistral(tmp_path_factory) -> Path:
    """The demo's folder with the vocabulary of a 32,000-piece Mistral tokenizer in its place, as an export writes it."""
    from transformers import AutoTokenizer

    source, saved = tmp_path_factory.mktemp("sentencepiece"), tmp_path_factory.mktemp("saved")
    shutil.copy(str(files("mistral_common") / "data" / "tokenizer.model.v1"), source / "tokenizer.model")
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **specials}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "config.json").write_text('{"model_type": "idefics2"}')
    AutoTokenizer.from_pretrained(source).save_pretrained(saved)
    folder = Path(shutil.copytree(DEMO, tmp_path_factory.mktemp("mistral") / "model"))
    (folder / "tokenizer.json").write_text(load_tokenizer(saved).to_str(), "utf-8")
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["vocab_size"] = 32003
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("vocabulary", ["demo", "mistral"])
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_prompts(vocabulary, split, request):
    folder = DEMO if vocabulary == "demo" else request.getfixturevalue("mistral")
    processor, template = Idefics2Processor.from_pretrained(folder), ChatTemplate(CHAT_TEMPLATE, {})
    prompts = ["", "What is this?", *PROMPTS]
    found = in_node(
        "prompts", folder=str(folder), prompts=prompts, changes={"preprocessor_config.json": {"do_image_splitting": split}}
    )
    for prompt, own in zip(prompts, found, strict=True):
        count = prompt.count("<image>")
        text = template.render(user_turn(prompt, count), add_generation_prompt=True)
        images = [[Image.new("RGB", (8, 8))] * count] if count else None
        wanted = processor(text=[text], images=images, do_image_splitting=split)["input_ids"][0].tolist()
        if vocabulary == "demo" and BYTES & {*wanted}:
            continue  # the library knows no bytes in a Unigram vocabulary, which the demo's is and Mistral's is not
        assert own == wanted, prompt


@pytest.mark.parametrize("vocabulary", ["demo", "mistral"])
def test_text_comes_in_whole_characters(vocabulary, request):
    folder = DEMO if vocabulary == "demo" else request.getfixturevalue("mistral")
    tokenizer = load_tokenizer(folder)
    texts = [prompt for prompt in PROMPTS if prompt.strip()] + [
        "Grüße, 日本語 und 👩‍🚀!",
        "é" * 9,
        "  two  spaces ",
        "don't , stop .",
    ]
    answers = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    changes = {"generation_config.json": {"eos_token_id": [], "bad_words_ids": []}}  # so that all tokens are said
    found = in_node("pieces", folder=str(folder), answers=answers, changes=changes)
    for text, ids, pieces in zip(texts, answers, found, strict=True):
        stream = TextStream(tokenizer)
        wanted = [stream.push(token) for token in ids]
        wanted[-1] += stream.close()
        if "\ufffd" not in "".join(wanted):  # of broken characters the library makes other replacements
            assert pieces == wanted, text


def test_bad_words_are_not_said():
    changes = {"generation_config.json": {"bad_words_ids": [[5], [1, 6], [9, 9, 9, 7], [2]], "eos_token_id": 2}}
    logits = [0.0, 1.0, 5.0, 2.0, 2.0, 9.0, 8.0, 7.0]
    histories = {(3,): 6, (1,): 7, (9, 9, 9): 6, (): 6, (1, 6): 6}
    rows = [{"logits": logits, "history": list(history)} for history in histories] + [{"logits": logits[:5], "history": []}]
    assert in_node("likeliest", folder=str(DEMO), changes=changes, rows=rows) == [*histories.values(), 2]  # an end is let through


@pytest.mark.parametrize("name", FOLDERS)
def test_answers(name, folder_of, asked, expected):
    questions = [{"images": [str(path) for path in one.images], "question": one.question} for one in asked]
    found, wanted = in_node("answers", folder=str(folder_of(name)), questions=questions, maxNewTokens=96), expected(name)
    same = sum(own == other for own, other in zip(found, wanted, strict=True))
    print(f"Node, {name}: {same} of {len(wanted)} answers equal Python's")
    assert found == wanted


def test_answers_about_whole_pictures(folder_of, asked, expected, tmp_path):
    folder = Path(shutil.copytree(folder_of("fp16"), tmp_path / "whole"))
    options = json.loads((folder / "preprocessor_config.json").read_text()) | {"do_image_splitting": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    questions = [{"images": [str(path) for path in one.images], "question": one.question} for one in asked]
    assert in_node("answers", folder=str(folder), questions=questions, maxNewTokens=96) == expected(
        "fp16", do_image_splitting=False
    )


def test_command_line():
    done = on_the_command_line(DEMO, "examples/before.png", "examples/after.png", "What changed?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The purple triangle is gone.\n", "")
    assert on_the_command_line(DEMO, "Hello").returncode == 0


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"format_version": 2}, "The folder has format 2; this host reads 3. Export it again."),
        ({"architecture": "idefics"}, "The folder holds the model idefics; this host runs idefics2 only."),
        ({"dtype": "bf16"}, "The folder computes in bf16; this host has no such numbers. Export with --fp16."),
    ],
    ids=["format", "architecture", "dtype"],
)
def test_folders_that_are_refused(manifest, says, tmp_path):
    content = json.loads((DEMO / "idefics2_onnx.json").read_text()) | manifest
    (tmp_path / "idefics2_onnx.json").write_text(json.dumps(content))
    done = on_the_command_line(tmp_path, "examples/sign.png", "What does it say?")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{says}\n")


def test_what_cannot_be_answered_is_said_in_a_sentence(tmp_path):
    Image.new("RGB", (9, 1)).save(tmp_path / "flat.png")
    (tmp_path / "text.png").write_text("no picture")
    picture = "examples/sign.png"
    for arguments, start in (
        ([], "Usage: "),
        ([tmp_path, picture, "?"], f"{tmp_path}/idefics2_onnx.json cannot be read"),
        ([DEMO, "missing.png", "?"], "There is no picture missing.png"),
        ([DEMO, tmp_path / "text.png", "?"], f"{tmp_path}/text.png is no picture"),
        ([DEMO, tmp_path / "flat.png", "?"], "The image is 9×1 pixels, too small to split"),
        ([DEMO, picture, "<image><image>?"], "There are 1 images. Put one <image> for each."),
        ([DEMO, *[picture] * 40, "?"], "The prompt has 3408 tokens"),
    ):
        done = on_the_command_line(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), start
        assert done.stderr.startswith(start)
        assert done.stderr.count("\n") == 1
