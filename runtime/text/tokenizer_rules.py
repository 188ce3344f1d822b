"""What a tokenizer.json may say, looked at before the library reads it.

The library is fast and trusts its files: a pattern may backtrack for ever, a replacement or a prefix may make gigabytes of a
short text, and memory that runs out in it ends the process. So only known rules are handed over, whose time and memory stay in
proportion to the text's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...graphs.errors import ModelFolderError
from ..checks import is_whole
from .split_pattern import is_linear

LARGEST_FILE = 64 << 20
"""Bytes; the largest public ones have about 35 million."""
_ADDED, _ADDED_BYTES = 16_384, 1 << 19
_ENTRIES = 1 << 20
"""Most entries of a vocabulary, and most merges; the largest public ones have 262,144 and 500,000."""
_GROWTH = 32
"""Times that a text's bytes may grow; GPT-2's rules double them, those of Llama's kind make three of a space."""
_AROUND = 256
"""Tokens that a post-processor may put around a text, and characters that a rule may put around a word or text."""
_RULES, _NESTED = 64, 8
_UNIGRAM_BYTES, _UNIGRAM_PIECE = 2 << 20, 256
"""The library keeps Unigram's pieces in a tree with some hundred bytes per byte, and looks for each of them at each place."""
_WORD = 200
"""Characters of a word that WordPiece tries all parts of; 100 is usual."""
_KEPT = ("version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")


def checked_rules(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The parts of a tokenizer.json that are used: padding and truncation are the caller's.

    Raises:
        ModelFolderError: it has rules that are not known, or whose work is not bounded by the text's length.
    """
    try:
        _check_model(content["model"])
        _check_growth([*_parts(content, "normalizer"), *_parts(content, "pre_tokenizer")])
        _check_growth(list(_parts(content, "decoder")))
        _check_around(list(_parts(content, "post_processor")))
    except _UnknownError as error:
        raise ModelFolderError(f"{path} has {error}, which is not opened. Export or download the model again.") from error
    check_added([token.get("content") for token in content.get("added_tokens") or [] if isinstance(token, dict)])
    return {name: content[name] for name in _KEPT if name in content}


def check_added(contents: Sequence[Any]) -> None:
    """Raise ModelFolderError for more text in added tokens than any tokenizer has: the library makes an automaton of it."""
    size = sum(len(content.encode("utf-8", "replace")) for content in contents if isinstance(content, str))
    if len(contents) > _ADDED or size > _ADDED_BYTES:
        raise ModelFolderError(
            f"The tokenizer's files have {len(contents)} added tokens of {size} bytes together, more than {_ADDED} or "
            f"{_ADDED_BYTES}. Export or download the model again."
        )


class _UnknownError(Exception):
    """What a file has that is not opened."""


def _check(good: Any, what: str) -> None:
    if not good:
        raise _UnknownError(what)


def _parts(content: dict[str, Any], stage: str) -> Iterator[dict[str, Any]]:
    """The rules of a stage in order, out of the sequences that hold them."""
    kinds, inside = _STAGES[stage]
    waiting = [(content.get(stage), 0)]
    for _ in range(_RULES):
        if not waiting:
            return
        rule, depth = waiting.pop(0)
        if rule is None:
            continue
        kind = rule.get("type") if isinstance(rule, dict) else rule
        _check(isinstance(rule, dict) and isinstance(kind, str) and kind in kinds, f"the {stage} {kind!r:.60}")
        if kind != "Sequence":
            yield rule
            continue
        _check(isinstance(rule.get(inside), list) and depth < _NESTED, f"a {stage} of another form")
        waiting = [(part, depth + 1) for part in rule[inside][: _RULES + 1]] + waiting
    _check(not waiting, f"more than {_RULES} rules in its {stage}")


def _check_growth(rules: list[dict[str, Any]]) -> None:
    growth = 1.0
    for rule in rules:
        factor = _FACTORS.get(rule["type"])
        growth *= 1 if factor is None else factor(rule)
    _check(growth <= _GROWTH, f"rules that make a text {growth:.0f} times as long")


def _replaced(rule: dict[str, Any]) -> float:
    """Bytes that a replacement makes of one; a pattern may match a single one, or none."""
    pattern, content = rule.get("pattern"), rule.get("content")
    if not isinstance(pattern, dict) or len(pattern) != 1 or not isinstance(content, str):
        raise _UnknownError("a replacement of another form")
    _check_pattern(pattern)
    size = len(content.encode("utf-8", "replace"))
    return max(1, size / len(pattern["String"].encode("utf-8", "replace"))) if "String" in pattern else 1 + size


def _split(rule: dict[str, Any]) -> float:
    _check(isinstance(rule.get("pattern"), dict), "a split of another form")
    _check_pattern(rule["pattern"])
    return 1


def _check_pattern(pattern: dict[str, Any]) -> None:
    for kind, text in pattern.items():
        _check(kind in ("String", "Regex") and isinstance(text, str) and text, f"the pattern {text!r:.60}")
        _check(kind == "String" or is_linear(text), f"the pattern {text!r:.200}")


def _metaspace(rule: dict[str, Any]) -> float:
    return 1 + len(str(rule.get("replacement", "▁")).encode("utf-8", "replace"))


def _prepended(rule: dict[str, Any]) -> float:
    _check(len(str(rule.get("prepend", ""))) <= _AROUND, f"a prefix of more than {_AROUND} characters")
    return 1


def _fixed_length(rule: dict[str, Any]) -> float:
    length: Any = rule.get("length")
    _check(is_whole(length) and 1 <= length < 1 << 31, f"words of the fixed length {length!r:.40}")
    return 1


def _check_around(rules: list[dict[str, Any]]) -> None:
    """Each rule's own special tokens are known, and together they are few; one text is put in once."""
    added = 0
    for rule in rules:
        if rule["type"] != "TemplateProcessing":
            added += 2
            continue
        try:
            tokens: dict[str, Any] = {name: token["ids"] for name, token in rule["special_tokens"].items()}
            named = [piece["SpecialToken"]["id"] for piece in rule["single"] if "SpecialToken" in piece]
            texts = [piece["Sequence"]["id"] for piece in rule["single"] if "Sequence" in piece]
            ids = [tokens[name] for name in named]
            _check(texts == ["A"], f"a post_processor for the texts {texts!r:.60} in place of one")
            added += sum(map(len, ids)) + max((len(ids) for ids in tokens.values()), default=0)
        except (KeyError, TypeError, AttributeError) as error:
            raise _UnknownError(f"a post_processor of another form ({error!r:.60})") from error
    _check(added <= _AROUND, f"a post_processor that adds {added} tokens")


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise _UnknownError("no model")
    kind, vocab, merges = model.get("type", "BPE"), model.get("vocab"), model.get("merges") or []
    _check(kind in ("BPE", "Unigram", "WordLevel", "WordPiece"), f"the model {kind!r:.60}")
    if not isinstance(vocab, dict | list) or not isinstance(merges, list):
        raise _UnknownError("a vocabulary of another form")
    _check(max(len(vocab), len(merges)) <= _ENTRIES, f"a vocabulary of more than {_ENTRIES} entries")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check(len(model.get(name) or "") <= _AROUND // 16, f"a {name} of more than {_AROUND // 16} characters")
    word = model.get("max_input_chars_per_word")
    _check(word is None or (is_whole(word) and 0 <= word <= _WORD), f"words of up to {word!r:.40} characters")
    if isinstance(vocab, list):
        pieces = [piece[0] for piece in vocab if isinstance(piece, list) and piece]
        sizes = [len(piece.encode("utf-8", "replace")) for piece in pieces if isinstance(piece, str)]
        _check(max(sizes, default=0) <= _UNIGRAM_PIECE, f"a piece of more than {_UNIGRAM_PIECE} bytes")
        _check(sum(sizes) <= _UNIGRAM_BYTES, f"pieces of more than {_UNIGRAM_BYTES} bytes together")


_FACTORS: Mapping[str, Callable[[dict[str, Any]], float]] = {
    "BertNormalizer": lambda _: 3,
    "ByteLevel": lambda _: 2,
    "FixedLength": _fixed_length,
    "Metaspace": _metaspace,
    "Prepend": _prepended,
    "Replace": _replaced,
    "Split": _split,
}
"""By type: how many bytes a rule makes of one at most, where that is more than one or has to be checked."""
_STAGES = {
    "normalizer": (
        ("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Prepend", "Replace", "Sequence",
         "Strip", "StripAccents"),
        "normalizers",
    ),
    "pre_tokenizer": (
        ("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation", "Sequence",
         "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
        "pretokenizers",
    ),
    "post_processor": (("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"), "processors"),
    "decoder": (
        ("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Sequence", "Strip", "WordPiece"),
        "decoders",
    ),
}  # fmt: skip
"""The types that are known, and where a sequence holds its rules. Not Precompiled: its table may make any text of any other."""
