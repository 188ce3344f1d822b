"""What the reference's processor makes special is special in an exported folder and on a checkpoint, however its files hold it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoint_edits import edit_json
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.export.processor_files import write_processor_files
from idefics2_onnx.export.source.checkpoint import Checkpoint
from small_models import SMALL_MODELS
from transformers import AutoProcessor

OWN = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
TEXTS = ["A cat.<end_of_utterance>", "x <image> y<fake_token_around_image> z", "<mine> a <new> b <pad>", "<s>Hi</s><unk>"]


def token(content: str, **flags: object) -> dict[str, object]:
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False} | flags


def listed(content: str, index: int, special: bool) -> dict[str, object]:
    return {"added_tokens_decoder": {str(index): token(content, special=special)}}


MINE = token("<mine>", id=262, special=False)
LAYOUTS = {  # tokenizer_config.json, other files, tokens that tokenizer.json has besides
    "ordinary": ({}, {}, []),
    "strings": ({"additional_special_tokens": [*OWN, "<new>"]}, {}, [MINE]),
    "objects": ({"additional_special_tokens": [token("<mine>", __type="AddedToken"), token("<new>", __type="AddedToken", special=True)]}, {}, [MINE]),
    "listed as special": (listed("<mine>", 262, True), {}, [MINE]),
    "listed as ordinary": (listed("<mine>", 262, False), {}, [MINE | {"special": True}]),
    "listed only": (listed("<new>", 262, True), {}, []),
    "listed with other flags": ({"added_tokens_decoder": {"260": token("<image>", lstrip=True, special=True)}}, {}, []),
    "a dict": ({"extra_special_tokens": {"mine_token": "<mine>"}}, {}, [MINE]),
    "a dict with a new one": ({"extra_special_tokens": {"mine_token": "<new>"}}, {}, []),
    "named": ({"pad_token": token("<pad>", __type="AddedToken")}, {}, [MINE | {"content": "<pad>"}]),
    "an older map": ({}, {"special_tokens_map.json": {"pad_token": "<pad>", "additional_special_tokens": ["<mine>"]}}, [MINE]),
    "an older list": ({}, {"added_tokens.json": {"<mine>": 262}}, []),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_are_without_the_references_special_tokens(layout, checkpoint, tmp_path):
    options, others, more = LAYOUTS[layout]
    config = SMALL_MODELS["plain"].config
    config.text_config.vocab_size = 270
    source = Path(shutil.copytree(checkpoint("plain"), tmp_path / "source"))
    content = json.loads((source / "tokenizer.json").read_text())
    content["added_tokens"] = [t | {"special": t["content"] not in OWN} for t in content["added_tokens"]] + more
    (source / "tokenizer.json").write_text(json.dumps(content))
    own = json.loads((source / "tokenizer_config.json").read_text())
    del own["additional_special_tokens"]
    (source / "tokenizer_config.json").write_text(json.dumps(own | options))
    edit_json(source / "config.json", text_config__vocab_size=270)
    for name, written in others.items():
        (source / name).write_text(json.dumps(written))
    (tmp_path / "out").mkdir()
    write_processor_files(Checkpoint.open(source), config, tmp_path / "out")
    reference = AutoProcessor.from_pretrained(source)
    for ours in (Idefics2Processor.from_pretrained(tmp_path / "out"), Idefics2Processor.from_pretrained(source)):
        for text in TEXTS:
            ids = reference.tokenizer(text).input_ids
            assert ours.tokenizer.encode(text).ids == ids
            for skip in (True, False):
                expected = reference.batch_decode([ids], skip_special_tokens=skip)
                assert ours.batch_decode([ids], skip_special_tokens=skip) == expected
