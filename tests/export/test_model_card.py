"""The card of a model folder, as the hub reads it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from idefics2_onnx.export.model_card import model_card, write_model_card
from idefics2_onnx.graphs.contract import MANIFEST, Manifest
from idefics2_onnx.runtime.folder import DEMO, MODEL_CARD


@pytest.fixture
def manifest():
    return Manifest.from_dict(json.loads((DEMO / MANIFEST).read_text()))


def written(tmp_path, manifest, card):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / MODEL_CARD).write_bytes(card)
    write_model_card(tmp_path, manifest, tmp_path / "checkpoint")
    return ModelCard.load(tmp_path / MODEL_CARD)


def test_a_card_of_a_hub_checkpoint(tmp_path, manifest):
    source = replace(manifest, source="HuggingFaceM4/idefics2-8b", revision="1" * 40)
    card = written(tmp_path, source, b"---\nlicense: apache-2.0\nlanguage: en\n---\nwords")
    assert card.data.to_dict() == {
        "library_name": "idefics2-onnx",
        "pipeline_tag": "image-text-to-text",
        "license": "apache-2.0",
        "base_model": "HuggingFaceM4/idefics2-8b",
        "base_model_relation": "quantized",
        "tags": ["onnx", "onnxruntime", "idefics2", "fp16"],
    }
    for words in (
        "# idefics2-8b for ONNX Runtime, fp16",
        f"at commit {'1' * 40}",
        "The licence is that of the checkpoint",
        "| vision.onnx | fp16 |",
    ):
        assert words in card.text


def test_a_licence_with_a_name_of_its_own(tmp_path, manifest):
    card = written(tmp_path, manifest, b"---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n")
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", "mine", "LICENSE")
    assert "base_model" not in card.data.to_dict()  # a folder is none on the hub


@pytest.mark.parametrize(
    "card",
    [b"", b"no front matter", b"---\n[\n---\n", b"---\nlicense: [a, b]\n---\n", b"---\nlicense: 5\n---\n", b"---\n- a\n---\n", b"\xff\xfe", b"---\nlicense: " + b"x" * (1 << 21)],
    ids=range(8),
)  # fmt: skip
def test_cards_that_name_no_licence(card, tmp_path, manifest):
    found = written(tmp_path, manifest, card)
    assert "license" not in found.data.to_dict()
    assert "names no licence" in found.text


def test_nothing_is_said_of_a_card_without_a_head(tmp_path, manifest, monkeypatch):
    said = []
    monkeypatch.setattr("huggingface_hub.repocard.logger.warning", said.append)
    written(tmp_path, manifest, b"no front matter")
    assert said == []


def test_names_are_no_markdown(manifest):
    text = model_card(replace(manifest, source="a`b <i> [c](d) *e*"), {})
    assert "\n# a\\`b \\<i\\> \\[c\\](d) \\*e\\* for ONNX Runtime, fp16\n" in text
    assert "exported from `a b <i> [c](d) *e*` by" in text


def test_names_cannot_leave_their_lines(tmp_path, manifest):
    card = written(tmp_path, replace(manifest, source="a\n---\nlicense: mit"), b'---\nlicense: "a\\nb: c"\n---\n')
    front = yaml.safe_load(card.content.split("---")[1])
    assert front["license"] == "a\\nb: c"
    assert "\nlicense: mit" not in model_card(replace(manifest, source="a\nlicense: mit"), {})
