"""A stranger's tokenizer.json is the folder's fault wherever it fails, and what it costs is bounded by the text."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.text.split_pattern import is_linear
from idefics2_onnx.runtime.text.text_stream import TextStream
from idefics2_onnx.runtime.text.tokenizer import decode, encode, load_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama 3": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "qwen 2": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "gpt-4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}",
    "tekken": json.loads((files("mistral_common") / "data" / "tekken_240911.json").read_text())["config"]["pattern"],
    "deepseek 3": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + SPACES,
    "bloom": " ?[^(\\s|[.,!?…。，、।۔،])]+",
    "falcon": "[0-9][0-9][0-9]",
    "spaces": r"\s{2,}|[\n\r\t]",
}
SLOW = [
    "(a+)+b", "(a|a)*b", "a*a*b", ".*b", r"\s+b", r"(a)\1", "(?=a+)b", "(?<!a)b", "(?>a+)", r"(?<n>a\g<n>*)b", "(?~abc)", "a++", "a+?",
    "a{2}{3}", "a{0,100}b", "a?a?a?a?a?b", "a{65}b", "a|b+c", "a+(?!b)|a", r"\s*[\r\n]+", CONTRACTIONS + "+", "[a", "\\", "a" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_patterns_of_public_tokenizers_are_known(pattern):
    assert is_linear(pattern)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    assert "".join(piece for piece, _ in split.pre_tokenize_str("It's 12345 ÄÖ\n\n  x!? ")) == "It's 12345 ÄÖ\n\n  x!? "


@pytest.mark.parametrize("pattern", SLOW)
def test_patterns_that_may_take_for_ever_are_not(pattern):
    assert not is_linear(pattern)


def folder_with(tmp_path: Path, change: dict[str, object], config: dict[str, object] | None = None) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(DEMO / name, folder / name)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | change))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def replace(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def single(*pieces: dict[str, object], ids: int = 1) -> dict[str, object]:
    tokens = {"<s>": {"id": "<s>", "ids": [1] * ids, "tokens": ["<s>"] * ids}}
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": [], "special_tokens": tokens}


A, B, BOS = (
    {"Sequence": {"id": "A", "type_id": 0}},
    {"Sequence": {"id": "B", "type_id": 0}},
    {"SpecialToken": {"id": "<s>", "type_id": 0}},
)
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "éb": 3}, "merges": [["a", "b"]]}
UNIGRAM = {"type": "Unigram", "unk_id": 0, "byte_fallback": True}


def nested(depth: int) -> dict[str, object]:
    return {"type": "Sequence", "normalizers": [nested(depth - 1)] if depth else []}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "the normalizer 'Precompiled'"),
        ({"normalizer": {"prepend": "a"}}, "the normalizer None"),
        ({"pre_tokenizer": {"type": "NFC"}}, "the pre_tokenizer 'NFC'"),
        ({"normalizer": nested(20)}, "another form"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}}, "more than 64 rules"),
        ({"normalizer": replace({"String": "a"}, "a" * 1000)}, "4000 times as long|1000 times as long"),
        ({"normalizer": {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 20}}, "times as long"),
        ({"normalizer": replace({"Regex": "a*"}, "b" * 40)}, "times as long"),
        ({"normalizer": replace({"String": ""}, "b")}, "the pattern ''"),
        ({"normalizer": replace({"Regex": "(a+)+b"}, "b")}, "the pattern '.a"),
        ({"decoder": replace({"Regex": "(a+)+b"}, "b")}, "the pattern '.a"),
        ({"decoder": {"type": "Sequence", "decoders": [replace({"String": "a"}, "aa")] * 20}}, "times as long"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}}, "the pattern"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "the fixed length 0"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 1000}}, "prefix of more than 256"),
        ({"post_processor": single(B)}, "for the texts"),
        ({"post_processor": single(A, A)}, "for the texts"),
        ({"post_processor": single(A, {"SpecialToken": {"id": "zz", "type_id": 0}})}, "another form .KeyError"),
        ({"post_processor": single(*[BOS] * 200, A, ids=200)}, "adds 40200 tokens"),
        ({"model": None}, "no model"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}}, "up to 1000000000 characters"),
        ({"model": BPE | {"end_of_word_suffix": "a" * 1000}}, "end_of_word_suffix"),
        ({"model": BPE | {"continuing_subword_prefix": "é"}}, "is not a tokenizer .slice index"),
        ({"model": BPE | {"vocab": {"a": -1}}}, "is not a tokenizer"),
        ({"model": BPE | {"merges": {"a": "b"}}}, "vocabulary of another form"),
        ({"model": UNIGRAM | {"vocab": [["a" * 300, 0.0]]}}, "more than 256 bytes"),
        ({"model": UNIGRAM | {"vocab": [[f"{i:0255d}", 0.0] for i in range(9000)]}}, "bytes together"),
        ({"added_tokens": [{"id": i, "content": str(i)} for i in range(20_000)]}, "20000 added tokens"),
        ({"added_tokens": [{"id": i, "content": f"{i:01000d}"} for i in range(600)]}, "600000 bytes"),
        ({"version": "9.9"}, "is not a tokenizer"),
    ],
)  # fmt: skip
def test_rules_that_are_not_known_to_be_bounded_are_refused(change, match, tmp_path):
    with pytest.raises(ModelFolderError, match=match):
        load_tokenizer(folder_with(tmp_path, change))


def test_added_tokens_of_other_files_are_bounded(tmp_path):
    listed = {str(1000 + i): {"content": f"<{i}>"} for i in range(20_000)}
    with pytest.raises(ModelFolderError, match="20003 added tokens"):
        load_tokenizer(folder_with(tmp_path, {}, {"tokenizer_class": "X", "added_tokens_decoder": listed}))


def test_a_vocabulary_without_room_for_images(tmp_path):
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    (folder / "config.json").write_text('{"text_config": {"vocab_size": 1}}')
    content = json.loads((folder / "tokenizer.json").read_text()) | {"model": BPE | {"merges": []}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "X"}')
    processor = Idefics2Processor.from_pretrained(folder)
    assert processor.ids(["ab"], [[]], False, False)[0]
    with pytest.raises(ModelFolderError, match="tokenizer has no <image>"):
        processor.ids(["<image>ab"], [[None]], False)


def test_a_large_file_is_not_read(tmp_path):
    folder = folder_with(tmp_path, {})
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ModelFolderError, match="67,108,864 bytes"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]], "byte_fallback": False}},  # a bare Exception
        {"model": {"type": "WordLevel", "unk_token": "nope", "vocab": {"a": 0}}},
    ],
)
def test_a_text_that_the_rules_fail_on(change, tmp_path):
    tokenizer = load_tokenizer(folder_with(tmp_path, change))
    for limit in (None, 50):
        with pytest.raises(ModelFolderError, match="fail on this text"):
            encode(tokenizer, ["What is it?"], True, limit, "right")


def test_a_panic_of_the_decoder(tmp_path):
    """PanicException is a BaseException, which no handler of an app's catches."""
    tokenizer = load_tokenizer(folder_with(tmp_path, {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 2}}))
    a = tokenizer.token_to_id("a")
    assert a is not None
    with pytest.raises(ModelFolderError, match="fail on these tokens"):
        decode(tokenizer, [a], True)
    with pytest.raises(ModelFolderError, match="fail on these tokens"):
        TextStream(tokenizer).push(a)


def test_an_interruption_is_none_of_the_folders_faults():
    class Interrupted:
        def decode(self, *_: object, **__: object) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(Interrupted(), [1], True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gpt-2", "llama 3", "qwen 2", "tekken"])
def test_byte_level_tokenizers_keep_their_own_rules(name, tmp_path):
    vocab = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))} | {"Ġa": 256}
    expected = Tokenizer(models.BPE(vocab, [("Ġ", "a")]))
    expected.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    expected.enable_truncation(2)
    expected.enable_padding(length=50)
    tokenizer = load_tokenizer(folder_with(tmp_path, json.loads(expected.to_str()), {"tokenizer_class": "LlamaTokenizer"}))
    expected.no_truncation()
    expected.no_padding()
    text = "It's a cat, 12345 ÄÖ\n\n  x!? "
    assert encode(tokenizer, [text], True, None, "right")[0].ids == expected.encode(text).ids
