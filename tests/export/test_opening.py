"""What would not open is not exported, and what was exported has been opened."""

from __future__ import annotations

import json

import pytest
from checkpoint_edits import edit_json, refused
from idefics2_onnx.export import Listener, export_model, opening, pipeline
from idefics2_onnx.export.bundle import write_manifest
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.verification.difference import Verification
from idefics2_onnx.runtime.model import Idefics2


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        (
            "generation_config.json",
            {"guidance_scale": 1.5},
            "generation_config.json cannot be used: it sets guidance_scale to 1.5",
        ),
        (
            "generation_config.json",
            {"max_length": "12"},
            "max_length is '12'.* Change that in the checkpoint's file and export again",
        ),
        ("generation_config.json", {"num_beams": 2, "do_sample": True}, "generation_config.json cannot be used"),
        (
            "preprocessor_config.json",
            {"do_image_splitting": 1},
            "preprocessor_config.json cannot be used: do_image_splitting is 1",
        ),
        ("preprocessor_config.json", {"do_pad": "false"}, "preprocessor_config.json cannot be used: do_pad is 'false'"),
        ("chat_template.json", {"chat_template": "{% if %}"}, "chat template that is not valid Jinja"),
    ],
)
def test_files_that_would_not_open_are_found_before_weights_are_written(file, change, match, copy, tmp_path, monkeypatch):
    content = json.loads((copy / file).read_text()) if (copy / file).exists() else {}
    (copy / file).write_text(json.dumps(content | change))
    monkeypatch.setattr(pipeline, "write_graph", lambda *_: pytest.fail("a weight was written"))
    refused(copy, tmp_path / "out", match)


def test_odd_configs_export_and_open(copy, tmp_path):
    edit_json(copy / "generation_config.json", pad_token_id=-1, min_length=5, max_length=30, begin_suppress_tokens=[40])
    folder = export_model(copy, tmp_path / "out", "fp32", verify="never").folder
    options = Idefics2.from_pretrained(folder).options
    assert (options.pad_token_id, options.min_length, options.max_length) == (-1, 5, 30)


class Lines(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def uncompared(monkeypatch):
    monkeypatch.setattr(pipeline, "verify_in_subprocess", lambda *_: Verification())


@pytest.mark.usefixtures("uncompared")
def test_an_export_that_cannot_be_used_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def write(folder, manifest):
        write_manifest(folder, manifest)
        (folder / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(pipeline, "write_manifest", write)
    with pytest.raises(CheckpointError, match="The exported folder cannot be used: .*tokenizer.json has 2 bytes"):
        export_model(checkpoint("plain"), tmp_path / "out", "fp32")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_open_is_to_blame(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be used on cpu: .* has no idefics2_onnx.json"):
        opening._problem(tmp_path, "cpu")


@pytest.mark.usefixtures("uncompared")
def test_what_was_not_opened_is_said(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "_devices", lambda: ["cpu", "cuda"])
    lines = Lines()
    export_model(checkpoint("plain"), tmp_path / "fp32", "fp32", listener=lines)
    assert [line.partition(":")[0] for line in lines.said] == ["Not opened on cuda"]
    lines = Lines()
    export_model(checkpoint("window"), tmp_path / "bf16", "bf16", listener=lines)
    assert lines.said[0] == "Not opened on cpu: bf16 graphs run on CUDA only."
    monkeypatch.setattr(opening, "_ACTIVATIONS", 1 << 60)
    lines = Lines()
    export_model(checkpoint("plain"), tmp_path / "short", "fp32", listener=lines)
    assert lines.said[0].startswith("Not opened on cpu: that takes 1152921504.")
