"""Folders in transformers.js's layout: three sessions by its names that compute what this package's graphs do."""

from __future__ import annotations

import json
import re

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard
from idefics2_onnx.cli import main
from idefics2_onnx.export import export_model, transformers_js
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.quantisation.quantise import Quantisation
from idefics2_onnx.export.source.checkpoint import FileTensor
from idefics2_onnx.runtime.folder import MODEL_CARD

SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}


def opened(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("precision", SUFFIXES)
def test_its_sessions_compute_the_same(precision, checkpoint, exported, tmp_path):
    export_model(checkpoint("plain"), tmp_path / "js", precision, verify="never", layout="transformers.js")
    suffix, ours = SUFFIXES[precision], exported("plain", precision)
    names = [f"{name}{suffix}.onnx" for name in ("vision_encoder", "embed_tokens", "decoder_model_merged")]
    assert {path.name for path in (tmp_path / "js" / "onnx").iterdir()} == {*names, *(f"{name}_data" for name in names)}
    assert not list((tmp_path / "js").glob("*.onnx*"))
    assert json.loads((tmp_path / "js" / "config.json").read_text())["transformers.js_config"]["use_external_data_format"]
    vision, tokens, decoder = (opened(tmp_path / "js" / "onnx" / name) for name in names)
    random = np.random.default_rng(0)

    half = {"tensor(float16)": np.float16, "tensor(float)": np.float32}[vision.get_inputs()[0].type]
    pixels = {"pixel_values": random.standard_normal((2, 3, 56, 42)).astype(half)}
    assert [value.name for value in vision.get_inputs()] == ["pixel_values"]
    assert (vision.run(None, pixels)[0] == opened(ours / "vision.onnx").run(None, pixels)[0]).all()

    ids = random.integers(3, 250, (2, 5))
    assert [value.name for value in tokens.get_inputs()] == ["input_ids"]
    embeds = tokens.run(["inputs_embeds"], {"input_ids": ids})[0]
    merged = {"input_ids": ids, "feature_rows": ids * 0 - 1, "image_features": np.zeros((0, embeds.shape[2]), half)}
    assert (embeds == opened(ours / "embedding.onnx").run(None, merged)[0]).all()

    past = {v.name: np.zeros((2, v.shape[1], 0, v.shape[3]), half) for v in decoder.get_inputs() if v.name.startswith("past")}
    assert all(value.shape[0] == "batch_size" for value in decoder.get_inputs())
    feeds = {"inputs_embeds": embeds, "attention_mask": np.ones((2, 5), np.int64), **past}
    expected = opened(ours / "decoder.onnx").run(None, feeds | {"logit_positions": np.full((2, 1), 4)})
    assert all((a == b).all() for a, b in zip(decoder.run(None, feeds), expected, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", Quantisation("int4", target="cuda")], ids=str)
def test_its_card_names_its_files_and_opens_them(precision, checkpoint, tmp_path):
    export_model(checkpoint("plain"), tmp_path / "js", precision, verify="never", layout="transformers.js")
    card = ModelCard.load(tmp_path / "js" / MODEL_CARD)
    assert card.data.library_name == "transformers.js"
    graphs = {f"onnx/{path.name}" for path in (tmp_path / "js" / "onnx").glob("*.onnx")}
    assert set(re.findall(r"^\| (onnx/\S+) \|", card.text, re.M)) == graphs
    dtypes = re.findall(r"(\w+): '(\w+)'", re.search(r"dtype: \{(.*?)\}", card.text)[1])
    assert {f"onnx/{name}{'' if dtype == 'fp32' else f'_{dtype}'}.onnx" for name, dtype in dtypes} == graphs


def test_a_change_of_layout_that_was_stopped_goes_on(checkpoint, tmp_path, monkeypatch):
    def stopped(model):
        raise KeyboardInterrupt

    def export():
        export_model(checkpoint("plain"), tmp_path / "js", "fp32", verify="never", layout="transformers.js")

    with monkeypatch.context() as patch:
        patch.setattr(transformers_js, "_last_logits", stopped)
        with pytest.raises(KeyboardInterrupt):
            export()
    export()
    assert len(list((tmp_path / "js" / "onnx").iterdir())) == 6
    opened(tmp_path / "js" / "onnx" / "decoder_model_merged.onnx")


def test_idefics_is_refused_before_its_weights_are_read(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(FileTensor, "read", lambda *_: pytest.fail("a weight was read"))
    result = CliRunner().invoke(
        main, ["export", str(checkpoint("idefics")), "-o", str(tmp_path / "js"), "--layout", "transformers.js"]
    )
    assert result.exit_code == 1
    assert result.output == (
        "Error: transformers.js has three sessions, vision, embedding, decoder, and IDEFICS has vision, cross, embedding, decoder. "
        "Export without --layout.\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_has_no_such_form(checkpoint, tmp_path):
    for precision, words in (("bf16", "no bfloat16"), (Quantisation("int4", fast_prompts=True), "without --fast-prompts")):
        with pytest.raises(CheckpointError, match=words):
            export_model(checkpoint("plain"), tmp_path / "js", precision, verify="never", layout="transformers.js")
    assert not list(tmp_path.iterdir())
