"""LoRA adapters: merged as PEFT merges them, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from idefics2_onnx import Idefics2
from idefics2_onnx.export import export_model
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.source_model import SourceModel
from idefics2_onnx.graphs.contract import MANIFEST
from safetensors.torch import save_file


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]}, None),
        ({"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear"}, None),
        ({"r": 4, "target_modules": ["embed_tokens", "lm_head", "k_proj"]}, None),
        ({"r": 2, "target_modules": ["v_proj"], "alpha_pattern": {r"layers.\d+.self_attn.v_proj": 9}, "modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)  # fmt: skip
def test_adapters_are_merged_as_peft_does(options, saved, checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import Idefics2ForConditionalGeneration

    base = Idefics2ForConditionalGeneration.from_pretrained(checkpoint("plain"), dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(init_lora_weights=False, **options))
    if saved:
        with torch.no_grad():
            adapted.get_submodule(f"base_model.model.{saved}.modules_to_save.default").weight.mul_(1.5)
    adapted.save_pretrained(tmp_path / "adapter")
    folder = export_model(checkpoint("plain"), tmp_path / "merged", "fp32", verify="always", adapter=tmp_path / "adapter").folder
    merged = adapted.merge_and_unload().eval()
    ours = Idefics2.from_pretrained(folder)
    ids = np.array([[1, 40, 50, 60, 70]])
    with torch.no_grad():
        expected = merged(input_ids=torch.from_numpy(ids)).logits.numpy()
    assert np.abs(ours.logits({"input_ids": ids}) - expected).max() < 2e-5
    assert json.loads((folder / MANIFEST).read_text())["source"].endswith("+adapter")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter"),
        ({"use_dora": True}, "trained with use_dora"),
        ({"init_lora_weights": "pissa_niter_4"}, "starts from pissa_niter_4, which changes the base model"),
        ({"lora_alpha": "many"}, "alpha that is no number"),
        ({"alpha_pattern": ["x"]}, "alpha that is no number"),
    ],
)
def test_adapters_that_are_not_plain(changes, match, checkpoint, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    stem = "base_model.model.model.text_model.layers.0.self_attn.q_proj"
    tensors = {f"{stem}.lora_A.weight": torch.ones(2, 64), f"{stem}.lora_B.weight": torch.ones(64, 2)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | changes))
    with pytest.raises(CheckpointError, match=match):
        export_model(checkpoint("plain"), tmp_path / "out", verify="never", adapter=adapter)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (
            {"q_proj.lora_A.weight": (2, 63), "q_proj.lora_B.weight": (64, 2)},
            r"shape \[2, 63\], but the model makes it \[2, 64\]",
        ),
        ({"q_proj.lora_A.weight": (2, 64)}, "is not whole"),
        ({"x_proj.lora_A.weight": (2, 64)}, "which plain does not have"),
        ({"q_proj.lora_A.weight": (0, 64), "q_proj.lora_B.weight": (64, 0)}, "is not whole"),
    ],
)
def test_adapters_that_do_not_fit(tensors, match, checkpoint, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    stem = "base_model.model.model.text_model.layers.0.self_attn."
    save_file({stem + name: torch.ones(shape) for name, shape in tensors.items()}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match=match):
        export_model(checkpoint("plain"), tmp_path / "out", verify="never", adapter=adapter)


def test_an_adapter_of_one_tied_matrix_leaves_the_other(checkpoint, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    random = torch.Generator().manual_seed(0)
    pair = {"A": torch.randn(2, 128, generator=random), "B": torch.randn(300, 2, generator=random)}
    save_file({f"base_model.model.lm_head.lora_{k}.weight": v for k, v in pair.items()}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 2}')
    model = SourceModel.open(checkpoint("window"), adapter=adapter)
    base = SourceModel.open(checkpoint("window")).stored("lm_head.weight").read(0, 300)
    assert torch.equal(model.stored("model.text_model.embed_tokens.weight").read(0, 300), base)
    assert torch.allclose(model.stored("lm_head.weight").read(0, 300), base + pair["B"] @ pair["A"], atol=1e-5)
