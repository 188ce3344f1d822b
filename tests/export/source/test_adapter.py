"""LoRA adapters: merged as PEFT loads and merges them, or refused by the name of what cannot be."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import Listener, export_model, verify_folder
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.runtime.model import Idefics2
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from small_models import SMALL_MODELS
from transformers import Idefics2ForConditionalGeneration

Q_PROJ = "base_model.model.model.text_model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(checkpoint):
    """A new copy of a checkpoint's model under transformers, opened once."""
    opened = {}

    def make(name):
        if name not in opened:
            opened[name] = Idefics2ForConditionalGeneration.from_pretrained(checkpoint(name), dtype=torch.float32)
        return copy.deepcopy(opened[name])

    return make


def tune(model, folder, dtype=torch.float32, save_embedding_layers="auto", **options):
    """Save an adapter whose every trainable number is another than at the start."""
    tuned = get_peft_model(model, LoraConfig(init_lora_weights=options.pop("init_lora_weights", False), **options))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
                parameter.data = parameter.data.to(dtype)
    tuned.save_pretrained(folder, save_embedding_layers=save_embedding_layers)


@pytest.fixture(autouse=True)
def seeded():
    """Adapters are random: the same ones in every run, whichever tests ran before."""
    torch.manual_seed(0)


def logits(model, name):
    config, picture = SMALL_MODELS[name].config, torch.randn(1, 1, 3, 42, 56, generator=torch.Generator().manual_seed(1))
    ids = [1, 40, 3, 7, 60, *[config.image_token_id] * config.perceiver_config.resampler_n_latents, 5, 9, 200]
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids]), pixel_values=picture).logits


def merged(checkpoint, adapter):
    """transformers' model with the tensors that an export reads."""
    source = SourceModel.open(checkpoint, adapter=adapter)
    model = Idefics2ForConditionalGeneration._from_config(source.config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.checkpoint.read_all(source.names[name]))
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear", "dtype": torch.bfloat16}),
        ("plain", {"r": 2, "target_modules": ["v_proj", "fc1"], "rank_pattern": {"fc1": 5}, "alpha_pattern": {r"layers.\d+.self_attn.v_proj": 9}}),
        ("plain", {"r": 2, "target_modules": ["q_proj", "fc2"], "bias": "lora_only"}),
        ("plain", {"r": 2, "target_modules": ["fc1", "patch_embedding"], "bias": "all", "lora_bias": True}),
        ("plain", {"r": 2, "target_modules": ["embed_tokens", "lm_head", "position_embedding", "patch_embedding"], "dtype": torch.float16}),
        ("plain", {"r": 2, "use_dora": True, "target_modules": ["k_proj", "fc2", "embed_tokens", "position_embedding", "patch_embedding"]}),
        ("plain", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["perceiver_resampler", "lm_head"], "save_embedding_layers": True}),
        ("plain", {"r": 2, "target_modules": ["down_proj"], "target_parameters": ["perceiver_resampler.latents", "embed_tokens.weight"]}),
        ("plain", {"r": 2, "target_modules": r".*text_model.*(q|v)_proj|.*\.fc1", "trainable_token_indices": [3, 7, 200], "fan_in_fan_out": True}),
        ("window", {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [3, 7], "save_embedding_layers": True}),
        ("window", {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [3, 7]}}),
        ("window", {"r": 2, "target_modules": ["q_proj", "lm_head"], "trainable_token_indices": {"embed_tokens": [3, 7]}}),
        ("window", {"r": 2, "lora_alpha": 1, "target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
        ("window", {"r": 2, "target_modules": ["q_proj", "embed_tokens"], "init_lora_weights": "mica"}),
        ("bf16_checkpoint", {"r": 2, "target_modules": ["o_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True, "layers_to_transform": [0]}),
    ],
)  # fmt: skip
def test_adapters_are_merged_as_peft_does(name, options, base, checkpoint, tmp_path):
    tune(base(name), tmp_path / "adapter", **options)
    tuned = PeftModel.from_pretrained(base(name), tmp_path / "adapter")
    # Merged, peft changes both of two tied tables, and unmerged it cannot run the module that holds the latents.
    expected = logits(tuned.merge_and_unload() if "target_parameters" in options else tuned, name)
    assert (logits(base(name), name) - expected).abs().max() > 1e-2
    difference = (logits(merged(checkpoint(name), tmp_path / "adapter"), name) - expected).abs().max()
    assert difference / max(1, expected.std()) < 2e-5


@pytest.mark.usefixtures("compared_here")
def test_exports_are_what_peft_merges(base, checkpoint, tmp_path):
    """Here of a model with tied tables, of which an adapter of one makes two."""
    name = "window"
    tune(base(name), tmp_path / "adapter", target_modules=["q_proj", "fc1", "lm_head"], use_dora=True, bias="all")
    folder = export_model(checkpoint(name), tmp_path / "merged", "fp32", verify="always", adapter=tmp_path / "adapter").folder
    expected = PeftModel.from_pretrained(base(name), tmp_path / "adapter").eval()
    ids = np.array([[1, 40, 50, 60, 70]])
    with torch.no_grad():
        found = (
            Idefics2.from_pretrained(folder).logits({"input_ids": ids}) - expected(input_ids=torch.from_numpy(ids)).logits.numpy()
        )
    assert np.abs(found).max() < 2e-5
    assert json.loads((folder / MANIFEST).read_text())["source"] == f"{name}+adapter"


def test_a_pair_of_any_age_and_a_table_that_replaces_the_base(checkpoint, tmp_path):
    """Names with the adapter's own in them, without a prefix, with ".weight"; base tensors that the adapter brings count."""
    random, adapter = torch.Generator().manual_seed(0), tmp_path / "adapter"
    table, down, up = (torch.randn(shape, generator=random) for shape in ((262, 64), (2, 262), (64, 2)))
    write(
        adapter,
        {
            "model.text_model.embed_tokens.base_layer.weight": table,
            "base_model.model.model.text_model.embed_tokens.lora_embedding_A.default": down,
            "base_model.model.model.text_model.embed_tokens.lora_embedding_B.default": up,
            "base_model.model.lm_head.modules_to_save.default.weight": 2 * table,
        },
        modules_to_save=["lm_head"],
    )
    model = SourceModel.open(checkpoint("plain"), adapter=adapter)
    assert torch.allclose(model.stored("model.text_model.embed_tokens.weight").read(0, 262), table + 2 * (up @ down).T, atol=1e-5)
    assert torch.equal(model.stored("lm_head.weight").read(0, 262), 2 * table)


def write(folder, tensors, **options):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | options))


def pair(module=Q_PROJ, rank=2, inputs=64, outputs=64):
    return {f"{module}.lora_A.weight": torch.ones(rank, inputs), f"{module}.lora_B.weight": torch.ones(outputs, rank)}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        *(({"peft_type": kind}, f"is a {kind} adapter") for kind in ("IA3", "PROMPT_TUNING", "ADALORA", "VERA", "OFT")),
        ({"peft_type": None}, "has no peft_type"),
        *(({"init_lora_weights": start}, f"starts from {start}, which changes the base model")
          for start in ("pissa_niter_4", "olora", "corda", "loftq", "lora_ga")),
        *(({option: {"x": 1}}, f"trained with {option}, which is not plain LoRA")
          for option in ("kasa_config", "use_bdlora", "layer_replication", "alora_invocation_tokens", "arrow_config")),
        ({"use_dora": True}, "is not whole: .* lacks lora_magnitude_vector"),
        ({"lora_bias": True}, "is not whole: .* lacks lora_B.bias"),
        ({"modules_to_save": ["lm_head"]}, "lacks lm_head.weight"),
        ({"modules_to_save": "lm_head"}, "has the modules_to_save 'lm_head'"),
        ({"lora_alpha": "many"}, "has the alpha of .*q_proj 'many'"),
        ({"lora_alpha": 1e308}, "has the alpha of .*q_proj 1e\\+308"),
        ({"lora_alpha": 10**400}, "has the alpha of .*q_proj 1000"),
        ({"lora_alpha": float("nan")}, "has the alpha of .*q_proj nan"),
        ({"r": 10**400, "use_rslora": True}, "has the rank of .*q_proj 1000"),
        ({"r": 4}, r"shape \[2, 64\], but the model and the adapter's options make it \[4, 64\]"),
        ({"rank_pattern": {"q_proj": 0}}, "has the rank of .*q_proj 0"),
        ({"alpha_pattern": ["x"]}, r"has the alpha_pattern \['x'\]"),
        ({"alpha_pattern": {"(q_proj": 3}}, "alpha_pattern that cannot be matched .*unterminated"),
        ({"rank_pattern": {"([a-z_.0-9]+)+!": 3}}, "rank_pattern that cannot be matched .takes more than"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options, match, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("idefics2_onnx.export.source.adapter_patterns._SECONDS", 1 if "+!" in str(options) else 60)
    write(tmp_path / "adapter", pair(), **options)
    with pytest.raises(CheckpointError, match=match):
        SourceModel.open(checkpoint("plain"), adapter=tmp_path / "adapter")


FC1 = "base_model.model.model.vision_model.encoder.layers.0.mlp.fc1"


@pytest.mark.parametrize(
    ("tensors", "options", "match"),
    [
        (pair(inputs=63), {}, r"q_proj.lora_A.weight has shape \[2, 63\], but .* make it \[2, 64\]"),
        (pair(rank=0), {}, r"shape \[0, 64\]"),
        ({f"{Q_PROJ}.lora_A.weight": torch.ones(2, 64)}, {}, "is not whole: .*q_proj lacks lora_B"),
        ({f"{Q_PROJ}.lora_embedding_A": torch.ones(2, 64)}, {}, "is not whole: .*q_proj lacks lora_embedding_B"),
        (pair("base_model.model.model.text_model.x_proj"), {}, "changes model.text_model.x_proj.weight .* plain does not have"),
        (pair("base_model.model.model.text_model.norm"), {}, "norm.weight is not a matrix"),
        (pair() | {f"{Q_PROJ}.lora_magnitude_vector": torch.ones(64)}, {}, "holds .*magnitude_vector, which the options"),
        (pair() | {f"{Q_PROJ}.lora_B.bias": torch.ones(64)}, {"lora_bias": True}, "q_proj has no bias to add it to"),
        (pair() | {f"{Q_PROJ}.lora_diag": torch.ones(2)}, {}, "changes .*q_proj.lora_diag"),
        (pair() | {f"{Q_PROJ}.lora_A.other.weight": torch.ones(2, 64)}, {}, "changes .*lora_A.other.weight"),
        (pair() | {f"{Q_PROJ}.lora_A.default.weight": torch.zeros(2, 64)}, {}, "should be the same"),
        (pair() | {f"{FC1}.bias": torch.ones(79)}, {}, r"fc1.bias has shape \[79\], but .* \[80\]"),
        (pair() | {f"{FC1}.bias": torch.full((80,), torch.nan)}, {}, "fc1.bias holds numbers that are not finite"),
        (pair() | {f"{FC1}.bias": torch.ones(80, dtype=torch.int32)}, {}, "fc1.bias is not fp64, fp32, fp16 or bf16"),
        (pair() | {f"{FC1}.original_module.bias": torch.ones(80)}, {}, "but not what became of it"),
        (pair() | {"lm_head.weight": torch.ones(270, 64)}, {}, "262 rows in .*embed_tokens.weight and 270 rows in lm_head.weight"),
        ({"lm_head.token_adapter.trainable_tokens_delta": torch.ones(1, 64)}, {"trainable_token_indices": [262]}, "which has 262 rows"),
        ({"lm_head.token_adapter.trainable_tokens_delta": torch.ones(2, 64)}, {"trainable_token_indices": [1]}, r"\[2, 64\], but .* \[1, 64\]"),
        ({}, {}, "holds no tensors"),
    ],
)  # fmt: skip
def test_tensors_that_are_refused(tensors, options, match, checkpoint, tmp_path):
    write(tmp_path / "adapter", tensors, **options)
    with pytest.raises(CheckpointError, match=match):
        SourceModel.open(checkpoint("plain"), adapter=tmp_path / "adapter")


class Heard(Listener):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("named", ["beside", "here"])
def test_a_base_model_is_found_from_the_adapter_and_from_here(named, checkpoint, tmp_path, monkeypatch):
    shutil.copytree(checkpoint("plain"), tmp_path / "base")
    write(tmp_path / "tuned", pair(), base_model_name_or_path="../base" if named == "beside" else "base")
    if named == "here":
        monkeypatch.chdir(tmp_path)
    model = SourceModel.open(tmp_path / "tuned")
    assert model.checkpoint.source == "base+tuned"
    assert "tuned is an adapter: merging it into its base model, base" in str(model.remark)


@pytest.mark.usefixtures("compared_here")
def test_a_processor_beside_an_adapter_is_used(checkpoint, tmp_path):
    adapter = tmp_path / "tuned"
    write(adapter, pair(), base_model_name_or_path=str(checkpoint("plain")))
    for name in ("preprocessor_config.json", "processor_config.json"):
        (adapter / name).write_text((checkpoint("plain") / name).read_text().replace("84", "70"))
    (adapter / "chat_template.jinja").write_text("tuned on this")
    heard = Heard()
    folder = export_model(adapter, tmp_path / "out", "fp32", verify="never", listener=heard).folder
    assert "tuned is an adapter" in heard.lines[0]
    assert "Using the processor, chat template beside the adapter" in heard.lines[1]
    processor = Idefics2Processor.from_pretrained(folder)
    assert processor.apply_chat_template([{"role": "user", "content": []}]) == "tuned on this"
    assert processor.image_processor.size["longest_edge"] == 70
    verify_folder(folder, adapter, whole=False).raise_past_floor()


def test_what_an_adapters_folder_lacks(checkpoint, tmp_path):
    adapter = tmp_path / "adapter"
    write(adapter, pair())
    with pytest.raises(CheckpointError, match="names no base model. Name its base model: export BASE --adapter"):
        SourceModel.open(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/no/such/place"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="whose base model cannot be opened: .* export BASE --adapter"):
        SourceModel.open(adapter)
    assert SourceModel.open(checkpoint("plain"), adapter=adapter).adapter == adapter
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    for source, named in ((adapter, None), (checkpoint("plain"), adapter)):
        with pytest.raises(CheckpointError, match=r"adapter_model.bin is a pickle.*safe_serialization=True"):
            SourceModel.open(source, adapter=named)


def test_an_adapter_inside_a_whole_checkpoint_is_merged_as_transformers_does(copy, tmp_path):
    write(tmp_path / "adapter", pair())
    for path in (tmp_path / "adapter").iterdir():
        shutil.copy(path, copy)
    model = SourceModel.open(copy)
    assert model.adapter == copy
    assert "that lies in" in str(model.remark)
    with pytest.raises(CheckpointError, match="holds an adapter itself"):
        SourceModel.open(copy, adapter=tmp_path / "adapter")


def test_tokens_that_were_added_in_tuning(tmp_path):
    """In a table that grows to what another test's model has, whose graphs are traced already."""
    from transformers import AutoProcessor

    window = SMALL_MODELS["window"]
    small, adapter, source = (
        replace(window, text=window.text | {"vocab_size": 298}, tied=False),
        tmp_path / "adapter",
        tmp_path / "base",
    )
    write_checkpoint(source, small.config, image_options=small.image_options)
    model, larger = (Idefics2ForConditionalGeneration.from_pretrained(source, dtype=torch.float32) for _ in range(2))
    for one in (model, larger):
        one.resize_token_embeddings(300)
    processor = AutoProcessor.from_pretrained(source)
    processor.tokenizer.add_tokens([*(f"<{number}>" for number in range(262, 298)), "<total>", "<date>"])
    tune(model, adapter, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    processor.save_pretrained(adapter)
    ours = Idefics2.from_pretrained(export_model(source, tmp_path / "out", "fp32", verify="never", adapter=adapter).folder)
    expected, inputs = PeftModel.from_pretrained(larger, adapter).eval(), ours.processor(text="The <total> is")
    assert 298 in inputs["input_ids"]
    with torch.no_grad():
        difference = ours.logits(inputs) - expected(input_ids=torch.from_numpy(inputs["input_ids"])).logits.numpy()
    assert np.abs(difference).max() < 2e-5


def test_tokens_that_were_added_without_rows_for_them(base, checkpoint, tmp_path):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint("plain"))
    processor.tokenizer.add_tokens(["<total>", "<date>"])
    tune(base("plain"), tmp_path / "adapter", target_modules=["q_proj"])
    processor.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="2 tokens beyond the model's vocabulary of 262, such as '<date>'"):
        export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="never", adapter=tmp_path / "adapter")


def test_an_adapter_of_one_tied_matrix_leaves_the_other(checkpoint, tmp_path):
    write(tmp_path / "adapter", pair("base_model.model.lm_head", inputs=128, outputs=300))
    model = SourceModel.open(checkpoint("window"), adapter=tmp_path / "adapter")
    before = load_file(checkpoint("window") / "model.safetensors")["model.text_model.embed_tokens.weight"]
    assert torch.equal(model.stored("model.text_model.embed_tokens.weight").read(0, 300), before)
    assert torch.allclose(model.stored("lm_head.weight").read(0, 300), before + 4, atol=1e-5)
