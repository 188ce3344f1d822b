"""A folder's tokenizer as transformers 5 uses it, truncation, and padding of ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from ...graphs.contract import MANIFEST
from ...graphs.errors import ModelFolderError
from ..checks import is_whole
from ..errors import Idefics2OnnxError, PromptError, first_line
from ..folder import find_file, find_json, read_json_object
from .added_tokens import AddedTokens
from .tokenizer_rules import LARGEST_FILE, checked_rules

Side = Literal["left", "right"]
Truncation = bool | Literal["longest_first", "do_not_truncate"] | None
_OLDER_FILES = ("special_tokens_map", "added_tokens")
"""Where transformers 4 kept what later stands in tokenizer_config.json."""
Padding = bool | Literal["longest", "max_length", "do_not_pad"]


def load_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.json of a model folder or a checkpoint.

    transformers 5 takes only vocabulary and merges from a Llama tokenizer's file and gives it rules of its own, and its processor
    makes Idefics2's tokens special, and adds them where they are missing. Both are repeated here; the exporter has already done
    so in model folders. A token past the model's vocabulary is not added.
    """
    path = find_file(folder, "tokenizer.json")
    if path is None:
        raise ModelFolderError(f"{folder} has no tokenizer.json. Give a model folder made by `idefics2-onnx export`.")
    if path.stat().st_size > LARGEST_FILE:
        raise ModelFolderError(f"{path} has more than {LARGEST_FILE:,} bytes, which no tokenizer needs. Download it again.")
    content, config = read_json_object(path), find_json(folder, "tokenizer_config.json")
    with _FolderFault(f"{path} is not a tokenizer"):
        if is_llama(config):
            content = _with_llama_rules(content, config)
        content = checked_rules(content, path)
        tokenizer = Tokenizer.from_str(json.dumps(content))
        # A model folder says everything in the two files that every folder has, and its manifest vouches for no others.
        older = {} if find_file(folder, MANIFEST) else {name: find_json(folder, f"{name}.json") for name in _OLDER_FILES}
        vocab_size = _vocab_size(find_json(folder, "config.json"))
        AddedTokens(content, config, *(older.get(name, {}) for name in _OLDER_FILES)).add_to(tokenizer, vocab_size)
    return tokenizer


def _vocab_size(config: dict[str, Any]) -> Any:
    """Rows of the embedding table, by a config.json: Idefics2's has a text_config, IDEFICS' additional rows behind the base."""
    text_config = config.get("text_config")
    sizes = text_config if isinstance(text_config, dict) else config
    base: Any = sizes.get("vocab_size")
    additional: Any = sizes.get("additional_vocab_size")
    return base + (additional if is_whole(additional) else 0) if is_whole(base) else None


class _FolderFault:
    """Around the library: what goes wrong in it is a fault of the folder's rules.

    It raises a bare Exception, and where its code panics a BaseException that passes through what catches an Exception.
    """

    def __init__(self, fact: str) -> None:
        self._fact = fact

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if error is not None and not isinstance(error, Idefics2OnnxError | KeyboardInterrupt | SystemExit | GeneratorExit):
            raise ModelFolderError(f"{self._fact} ({first_line(error)}). Download it again.") from error


_ENCODING = _FolderFault("The rules of the folder's tokenizer.json fail on this text")
_DECODING = _FolderFault("The rules of the folder's tokenizer.json fail on these tokens")


def is_llama(config: dict[str, Any]) -> bool:
    """Whether transformers takes a tokenizer_config.json of an Idefics2 for a LlamaTokenizer's."""
    return str(config.get("tokenizer_class") or "LlamaTokenizer").removesuffix("Fast") == "LlamaTokenizer"


def truncation_length(truncation: Truncation, max_length: int | None, padding: Padding) -> int | None:
    """How many tokens a prompt may keep, None for all, by the reference's options."""
    if max_length is not None and (not isinstance(max_length, int) or max_length < 1):
        raise PromptError(f"max_length is {max_length!r:.60}. Give a number of tokens, 1 or more.")
    if truncation in (True, "longest_first"):
        if max_length is None:
            raise PromptError("truncation is on without a max_length. Give one.")
        return max_length
    if truncation in (False, "do_not_truncate"):
        return None
    if truncation is not None:
        raise PromptError(f"truncation is {truncation!r:.60}. Give True or False.")
    return max_length if padding in (False, "do_not_pad") else None


def check_side(side: Any, name: str = "padding_side") -> Side:
    """ "left" or "right"; PromptError for anything else."""
    if side == "left":
        return "left"
    if side == "right":
        return "right"
    raise PromptError(f"{name} is {side!r:.60}. Give 'left' or 'right'.")


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], add_special_tokens: bool, max_length: int | None, side: Side
) -> list[Encoding]:
    """Tokenize; with a `max_length`, drop tokens on `side` until special tokens and text fit."""
    with _ENCODING:
        if max_length is None:
            return tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        room = max_length - (tokenizer.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0)
        if room < 1:
            raise PromptError(f"max_length is {max_length}, which leaves no room for text. Give a larger one.")
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for encoding in encodings:
            encoding.truncate(room, direction=side)
        return [tokenizer.post_process(encoding, add_special_tokens=add_special_tokens) for encoding in encodings]


def decode(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool) -> str:
    """Text of ids."""
    with _DECODING:
        return tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def pad_ids(rows: Sequence[Sequence[int]], pad_token_id: int, side: Side, width: int | None = None) -> dict[str, NDArray[Any]]:
    """Token ids of different lengths → input_ids and attention_mask, int64 [batch, width]; None is the longest row's width."""
    width = max(map(len, rows)) if width is None else width
    ids, mask = np.full((len(rows), width), pad_token_id, np.int64), np.zeros((len(rows), width), np.int64)
    for row, own in enumerate(rows):
        place = slice(0, len(own)) if side == "right" else slice(width - len(own), None)
        ids[row, place], mask[row, place] = own, 1
    return {"input_ids": ids, "attention_mask": mask}


def padded_width(lengths: Sequence[int], padding: Padding, max_length: int | None, multiple: int | None) -> int | None:
    """Width to pad rows to, by the reference's options; PromptError where the rows make no array."""
    longest = max(lengths)
    if padding in (False, "do_not_pad"):
        if min(lengths) != longest:
            raise PromptError(f"The prompts have different lengths, {min(lengths)} to {longest} tokens. Set padding=True.")
        return longest
    if padding == "max_length":
        if max_length is None:
            raise PromptError("padding is 'max_length' without a max_length. Give one, or set padding=True.")
        if min(lengths) != longest > max_length:
            raise PromptError(
                f"The prompts have {min(lengths)} to {longest} tokens, more than max_length {max_length}. Set truncation=True."
            )
        longest = max(longest, max_length)
    elif padding not in (True, "longest"):
        raise PromptError(f"padding is {padding!r:.60}. Give True, False, 'longest' or 'max_length'.")
    return -(-longest // multiple) * multiple if multiple else longest


def _with_llama_rules(content: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json with the rules of transformers 5's LlamaTokenizer; byte-level files keep their own, as there."""
    if '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")]):
        return content
    prefix = config.get("add_prefix_space") is not False
    scheme = ("always" if config.get("legacy", False) else "first") if prefix else "never"
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    rules = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": content["model"] | {"unk_token": None, "fuse_unk": True, "byte_fallback": True, "dropout": None},
    }
    return content | rules
