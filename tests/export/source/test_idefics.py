"""IDEFICS checkpoints: what is refused and by which words, what is written beside the graphs, adapters, interrupted exports."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from checkpoint_edits import edit_json, refused
from idefics2_onnx import load
from idefics2_onnx.demo.random_idefics import write_checkpoint
from idefics2_onnx.export import Listener, export_model
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.runtime.folder import read_manifest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_idefics import SMALL_IDEFICS
from transformers import IdeficsForVisionText2Text
from transformers.utils.chat_template_utils import render_jinja_template


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint("idefics"), tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cross_layer_interval": 3}, "divide text layers by cross_layer_interval: 2 by 3"),
        ({"cross_layer_interval": 0}, "cross_layer_interval 0"),
        ({"hidden_act": "wobble"}, "text model has the activation 'wobble'"),
        ({"vision_config__hidden_act": "wobble"}, "vision model has the activation 'wobble'"),
        ({"alpha_type": "matrix"}, "alpha_type 'matrix'"),
        ({"alpha_initializer": "wobble"}, "cannot build this config.*wobble"),
        ({"vision_embed_dim": 48, "vision_config": {}}, "has the vision_embed_dim 48 outside of vision_config.*takes 768. Move it there, as embed_dim"),
        ({"resampler_depth": 1, "perceiver_config": {}}, "has the resampler_depth 1 outside of perceiver_config"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised .bitsandbytes"),
        ({"quantization_config": {"quant_method": "awq"}}, "is quantised .awq"),
        ({"vision_config__image_size": [28, 28]}, r"image_size \[28, 28\]. Only one"),
        ({"vision_config__num_channels": 4}, "4 channels"),
        ({"vision_config__num_attention_heads": 5}, "48 by 5"),
        ({"num_attention_heads": 5}, "text width by heads: 64 by 5"),
        ({"vision_config": 5}, "vision_config 5"),
        ({"num_hidden_layers": 4}, r"lacks the tensor .*layers.* and \d+ more"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, not from 1 to"),
        ({"perceiver_config__resampler_depth": 0}, "resampler_depth 0"),
        ({"perceiver_config__resampler_n_latents": 6}, r"latents has shape \[5, 48\], but config.json makes it \[6, 48\]"),
        ({"additional_vocab_size": 1}, "has at 260 <image>, and its model knows 260 tokens"),
        ({"additional_vocab_size": -1}, "additional_vocab_size -1"),
        ({"additional_vocab_size": 2}, "additional_embedding.weight has shape"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings 1000000000000"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(changes, match, copy, tmp_path):
    edit_json(copy / "config.json", **changes)
    refused(copy, tmp_path / "out", match)


def test_other_files_that_are_refused(copy, tmp_path):
    edit_json(copy / "preprocessor_config.json", image_size=30)
    refused(copy, tmp_path / "out", "makes images of 30 × 30 pixels, but its model takes 28 × 28. Set image_size")
    (copy / "preprocessor_config.json").unlink()
    refused(copy, tmp_path / "out", "has no preprocessor_config.json")
    (copy / "tokenizer.json").unlink()
    refused(copy, tmp_path / "out", "has no tokenizer.json")


def test_what_older_checkpoints_hold_besides_is_left(copy, exported, tmp_path):
    tensors = load_file(copy / "model.safetensors")
    more = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.vision_model.embeddings.position_ids": torch.ones(17),
    }
    save_file(tensors | more, copy / "model.safetensors", metadata={"format": "pt"})
    folder = export_model(copy, tmp_path / "out", "fp32", verify="never").folder
    for graph in ("vision", "cross", "embedding", "decoder"):
        assert (folder / f"{graph}.onnx.data").read_bytes() == (exported("idefics") / f"{graph}.onnx.data").read_bytes()
    edit_json(copy / "config.json", vision_embed_dim=48, resampler_depth=1, freeze_text_layers=False)  # numbers that count, too
    assert SourceModel.open(copy).sizes == read_manifest(folder).model


def generation(folder) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


def test_instruct_checkpoints_get_turns_and_the_ends_of_them(exported):
    folder = exported("idefics")
    options, template = generation(folder), json.loads((folder / "chat_template.json").read_text())["chat_template"]
    assert (options["eos_token_id"], options["bad_words_ids"]) == ([2, 261], [[260], [259]])
    assert (options["bos_token_id"], options["pad_token_id"]) == (1, 0)
    picture, question, answer = {"type": "image"}, {"type": "text", "text": "What?"}, {"type": "text", "text": "A cat."}
    messages = [
        {"role": "user", "content": [question, picture]},
        {"role": "assistant", "content": [answer]},
        {"role": "user", "content": [picture, question]},
    ]
    (text,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
    assert text == (
        "User: What?<image><end_of_utterance>\nAssistant: A cat.<end_of_utterance>\nUser:<image>What?<end_of_utterance>\nAssistant:"
    )


def test_base_checkpoints_get_no_turns_but_one_text_that_goes_on(exported):
    folder = exported("idefics_base")
    options = generation(folder)
    assert (options["eos_token_id"], options["bad_words_ids"]) == ([2], [[260], [259]])
    assert "chat_template.json" in read_manifest(folder).files
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "This is "}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
        {"role": "user", "content": [{"type": "text", "text": "\nand this"}, {"type": "image"}]},
    ]
    for prompt in (True, False):
        assert render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt)[0] == [
            "<image>This is a cat\nand this<image>"
        ]
    added = {token["content"]: token["id"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    assert "<end_of_utterance>" not in added
    assert max(added.values()) == 260


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_base_checkpoints_own_template_is_kept(name, checkpoint, tmp_path):
    copy, own = shutil.copytree(checkpoint("idefics_base"), tmp_path / "checkpoint"), "own {{ messages[0].content[1].text }}"
    if name == "tokenizer_config.json":
        edit_json(copy / name, chat_template=own)
    else:
        (copy / name).write_text(own)
    folder = export_model(copy, tmp_path / "out", "fp32", verify="never").folder
    assert not (folder / "chat_template.json").exists()
    assert load(folder).processor.prompt_text("This is", 1) == "own This is"


def test_what_a_checkpoint_says_itself_is_kept(copy, tmp_path):
    (copy / "chat_template.jinja").write_text("own")
    edit_json(copy / "generation_config.json", eos_token_id=[7, 2], bad_words_ids=[[5], [260]], max_new_tokens=9)
    folder = export_model(copy, tmp_path / "out", "fp32", verify="never").folder
    assert not (folder / "chat_template.json").exists()
    assert (folder / "chat_template.jinja").read_text() == "own"
    options = generation(folder)
    assert (options["eos_token_id"], options["bad_words_ids"]) == ([7, 2, 261], [[5], [260], [259]])
    assert options["max_new_tokens"] == 9
    (copy / "generation_config.json").unlink()
    folder = export_model(copy, tmp_path / "other", "fp32", verify="never").folder
    assert generation(folder) == {"eos_token_id": [2, 261], "bad_words_ids": [[260], [259]]}


def test_additional_tokens_follow_the_others(checkpoint):
    """In the table and in the head, whose rows are then filled up with zeros; tied ones are stored once and read twice."""
    for name in ("idefics", "idefics_base", "idefics_four"):
        source = SourceModel.open(checkpoint(name))
        model = IdeficsForVisionText2Text.from_pretrained(checkpoint(name))
        more = source.config.additional_vocab_size
        table, head = (source.checkpoint.read_all(f"{key}.weight") for key in ("model.embed_tokens.joined", "lm_head.padded"))
        assert torch.equal(table, model.model.embed_tokens(torch.arange(259 + more)).to(table.dtype))
        assert torch.equal(head[:259], model.lm_head.weight.to(head.dtype))
        assert torch.equal(head[259 : 259 + more], model.lm_head.additional_fc.weight.to(head.dtype))
        assert head.shape == (320, 64)
        assert not head[259 + more :].any()


def test_adapters_are_merged_as_peft_does(checkpoint, tmp_path):
    """On gated layers, on what the images' keys are made of, on the encoder, and on additional words."""
    targets = r".*(cross_attn\.[kq]_proj|gated.*gate_proj|encoder.*fc1|layers\.1\.self_attn\.v_proj|additional_(fc|embedding))"
    base = IdeficsForVisionText2Text.from_pretrained(checkpoint("idefics"))
    tuned = get_peft_model(base, LoraConfig(init_lora_weights=False, target_modules=targets, r=3))
    tuned.save_pretrained(tmp_path)
    expected = dict(tuned.merge_and_unload().state_dict())
    source = SourceModel.open(checkpoint("idefics"), adapter=tmp_path)
    found = {name: source.checkpoint.read_all(source.names[name]) for name in source.names}
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in source.shapes)
    assert sum(source.names[name] != name for name in source.shapes) == 7
    for own, parts in (
        ("model.embed_tokens.joined", ("model.embed_tokens", "model.embed_tokens.additional_embedding")),
        ("lm_head.padded", ("lm_head", "lm_head.additional_fc")),
    ):
        rows = torch.cat([expected[f"{part}.weight"] for part in parts])
        assert torch.allclose(found[f"{own}.weight"][:262], rows, atol=1e-6)


def test_adapters_that_make_the_base_table_longer(checkpoint, tmp_path):
    model = IdeficsForVisionText2Text.from_pretrained(checkpoint("idefics"))
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    tuned.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    longer = {f"base_model.model.{name}.weight": torch.ones(263, 64) for name in ("model.embed_tokens", "lm_head")}
    save_file(load_file(path) | longer, path)
    refused(
        checkpoint("idefics"),
        tmp_path / "out",
        "has 263 rows in its tables, where the model has 259 and 3 additional ones after them",
        adapter=tmp_path / "adapter",
    )


def test_interrupted_exports_go_on(checkpoint, exported, tmp_path):
    class Stopped(Listener):
        def start(self, what: str, total: int) -> None:
            if what == "decoder":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint("idefics"), tmp_path / "out", "fp32", verify="never", listener=Stopped())
    cross = tmp_path / ".out.partial" / "folder" / "cross.onnx.data"
    assert cross.read_bytes() == (exported("idefics") / "cross.onnx.data").read_bytes()
    report = export_model(checkpoint("idefics"), tmp_path / "out", "fp32", verify="never")
    assert report.manifest.files == read_manifest(exported("idefics")).files


@pytest.mark.usefixtures("compared_here")
def test_an_export_compares_itself(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "checkpoint", SMALL_IDEFICS["idefics"].config, dtype=torch.bfloat16, seed=3)
    report = export_model(tmp_path / "checkpoint", tmp_path / "out", "fp32")
    assert report.verification is not None
    assert {d.graph for d in report.verification.differences} == {"vision", "cross", "embedding", "decoder"}
