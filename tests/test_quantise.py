"""Quantised folders: which weights become what, that the graphs compute what the stored numbers say, and who may quantise."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from idefics2_onnx import Idefics2
from idefics2_onnx.cli import main
from idefics2_onnx.export import Quantisation, export_model
from idefics2_onnx.export.compare import compare_whole
from idefics2_onnx.export.compare_layers import compare_layers
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.packing import Groups
from idefics2_onnx.export.source_model import SourceModel
from idefics2_onnx.graphs.contract import GRAPHS, MANIFEST
from parity import photos
from safetensors.torch import load_file, save_file

NAMES = ("plain", "window", "wide_heads", "odd_heads", "bf16_checkpoint", "fp16_checkpoint")


def graph_of(folder, name):
    return onnx.load(folder / f"{name}.onnx", load_external_data=False).graph


@pytest.fixture(scope="module")
def quantised(checkpoint, tmp_path_factory):
    """A folder of a small model, made once per Quantisation."""
    folders = {}

    def make(name, quantisation):
        if (name, quantisation) not in folders:
            target = tmp_path_factory.mktemp("quantised") / "model"
            folders[name, quantisation] = export_model(checkpoint(name), target, quantisation, verify="never").folder
        return folders[name, quantisation]

    return make


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(("name", "target"), [("plain", "cuda"), *((name, "cpu") for name in NAMES)])
def test_quantised_graphs_are_near_the_reference(name, precision, target, quantised, checkpoint):
    """Of random weights, whose rounding errors add up more than trained ones' do."""
    folder = quantised(name, Quantisation(precision, target))
    model = SourceModel.open(checkpoint(name))
    for verification in (compare_whole(folder, model), compare_layers(folder, model)):
        for difference in verification.differences:
            limit = {"vision": 0.05, "embedding": 0.02, "decoder": 0.06 if precision == "int8" else 0.5}[difference.graph]
            assert difference.relative < limit, difference
            assert difference.passed


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_matrix_is_quantised(precision, quantised):
    folder = quantised("plain", Quantisation(precision))
    for name in GRAPHS:
        graph = graph_of(folder, name)
        wide = [i.name for i in graph.initializer if i.data_type in (1, 10, 16) and len(i.dims) == 2]
        kept = {"vision_model.embeddings.position_embedding.weight", "connector.perceiver_resampler.latents", "cos", "sin"}
        assert all(name in kept or name.endswith(".scales") for name in wide), wide
    operators = {node.op_type for node in graph_of(folder, "decoder").node}
    assert ("MatMulNBits" in operators, "MatMulIntegerToFloat" in operators) == (precision == "int4", precision == "int8")
    assert "GatherBlockQuantized" in {node.op_type for node in graph_of(folder, "embedding").node}


def test_activations_are_quantised_once_for_all_that_read_them(quantised):
    graph = graph_of(quantised("plain", Quantisation("int8")), "decoder")
    # Per layer: for q, k and v; for o; for gate and up; for down. And one for the head.
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 4 * 2 + 1


def test_int8_rows_do_not_share_a_scale(quantised):
    """A row that is a thousand times larger leaves the others as they are."""
    model = Idefics2.from_pretrained(quantised("plain", Quantisation("int8")))
    text = model.processor(text="Some text of a few tokens")["input_ids"]
    alone = model.logits({"input_ids": text})
    session = model.engine.sessions.decoder
    names = [i.name for i in session.get_inputs() if i.name.startswith("past")]
    embeds = np.random.default_rng(0).standard_normal((1, 6, model.engine.sizes.hidden_size)).astype(np.float32)
    cache = np.zeros((1, model.engine.sizes.num_key_value_heads, 6, model.engine.sizes.head_dim), np.float32)

    def logits(x):
        feeds = {"inputs_embeds": x, "attention_mask": np.ones((1, 6), np.int64), "logit_positions": np.arange(6)[None]}
        return session.run(["logits"], feeds | dict.fromkeys(names, cache))[0][0]

    loud = embeds.copy()
    loud[0, 5] *= 1000
    assert np.array_equal(logits(loud)[:5], logits(embeds)[:5])
    assert np.isfinite(alone).all()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_folders_run_and_say_what_they_are(precision, quantised):
    folder = quantised("plain", Quantisation(precision))
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["dtype"] == "fp32"
    assert manifest["precision"]["decoder"] == precision
    assert manifest["quantisation"] == asdict(Quantisation(precision))
    model = Idefics2.from_pretrained(folder)
    answers = model.generate(["Look", "And?"], [photos()[:2], []], max_new_tokens=5)
    assert [answer.token_ids for answer in answers] == [
        model.generate(text, images, max_new_tokens=5).token_ids for text, images in (("Look", photos()[:2]), ("And?", None))
    ]


def dequantised(folder, graph, stem, size):
    """A matrix of MatMulNBits with zeros, as integers, scales and zeros [outputs, groups, …]."""
    model = onnx.load(folder / f"{graph}.onnx")
    parts = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    data, scales, zeros = (parts[f"{stem}.{part}"] for part in ("quantised", "scales", "zeros"))
    integers = np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:2], size)
    return integers, scales, np.stack([zeros & 15, zeros >> 4], -1).reshape(len(zeros), -1)[:, : scales.shape[1]]


def awq_checkpoint(source, folder, group=32):
    """The checkpoint with its text model quantised in AWQ's GEMM layout; and the integers of each matrix."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors, kept = load_file(source / "model.safetensors"), {}
    for name in [n for n in tensors if "text_model.layers" in n and tensors[n].ndim == 2]:
        matrix, stem = tensors.pop(name).float(), name.removesuffix(".weight")
        outputs, inputs = matrix.shape
        integers, scales, zeros = Groups(4, group, False, torch.float16).round(matrix.view(outputs, inputs // group, group))
        kept[stem] = integers.numpy(), scales.numpy(), zeros.numpy()
        tensors[f"{stem}.qweight"] = gemm(integers.flatten(1).T)
        tensors[f"{stem}.qzeros"] = gemm(zeros.T)
        tensors[f"{stem}.scales"] = scales.T.contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    (folder / "config.json").write_text(json.dumps(config))
    return kept


def gemm(numbers):
    """uint8 [rows, columns] → int32 [rows, columns / 8], in AWQ's order."""
    eights = numbers.reshape(len(numbers), -1, 8).long()
    packed = sum(eights[..., column] << (4 * place) for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32).contiguous()


def test_awq_checkpoints_keep_their_integers(checkpoint, tmp_path):
    kept = awq_checkpoint(checkpoint("plain"), tmp_path / "awq")
    folder = export_model(tmp_path / "awq", tmp_path / "int4", "int4", verify="always").folder
    assert len(kept) == 14
    for stem, (integers, scales, zeros) in kept.items():
        found = dequantised(folder, "decoder", stem.removeprefix("model."), 32)
        assert np.array_equal(found[0], integers)
        assert np.array_equal(found[1], scales.astype(np.float32))
        assert np.array_equal(found[2], zeros)


def test_awq_checkpoints_in_floats_are_the_integers_times_their_scales(checkpoint, tmp_path):
    kept = awq_checkpoint(checkpoint("plain"), tmp_path / "awq")
    folder = export_model(tmp_path / "awq", tmp_path / "fp32", "fp32", verify="always").folder
    parts = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(folder / "decoder.onnx").graph.initializer}
    for stem, (integers, scales, zeros) in kept.items():
        expected = (integers.astype(np.float32) - zeros[..., None]) * scales[..., None].astype(np.float32)
        found = parts[f"{stem.removeprefix('model.')}.weight.T"].T
        assert np.array_equal(found, expected.reshape(found.shape).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]}, None),
        ({"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear"}, None),
        ({"r": 4, "target_modules": ["embed_tokens", "lm_head", "k_proj"]}, None),
        ({"r": 2, "target_modules": ["v_proj"], "alpha_pattern": {"layers.0.self_attn.v_proj": 9}, "modules_to_save": ["lm_head"]}, "lm_head"),
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


def test_fast_prompts_are_read_by_a_graph_of_their_own(checkpoint, quantised):
    folder = quantised("plain", Quantisation("int4", fast_prompts=True))
    verification = compare_whole(folder, SourceModel.open(checkpoint("plain")))
    assert {d.graph for d in verification.differences} == {"vision", "embedding", "decoder", "prompt"}
    assert all(d.relative < 0.06 for d in verification.differences if d.graph == "prompt")
    both, int8, int4 = (
        Idefics2.from_pretrained(quantised("plain", q))
        for q in (Quantisation("int4", fast_prompts=True), Quantisation("int8"), Quantisation("int4"))
    )
    inputs = int8.processor(text="User: Hello there")
    found, expected = both.logits(inputs), int8.logits(inputs)
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    assert both.engine.reads_apart
    assert not int4.engine.reads_apart


def test_chats_equal_fresh_answers_where_prompts_are_read_apart(quantised):
    """What the int4 graph wrote of an answer is read again by the int8 one, as it would be afresh."""
    model = Idefics2.from_pretrained(quantised("plain", Quantisation("int4", fast_prompts=True)))
    chat, read = model.chat(max_new_tokens=12), 0
    for turn in range(3):
        answer = chat.send(f"Turn {turn}", photos()[turn] if turn < 2 else None)
        fresh = model.generate(chat.messages[:-1], max_new_tokens=12)
        assert answer.token_ids == fresh.token_ids
        reused = answer.timings.prompt_tokens_reused
        assert reused == (read if turn else 0)  # all that was a prompt, nothing of the answer
        read = fresh.prompt_tokens


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--fp16", "--for", "cuda"], "go with --int8 or --int4"),
        (["--asymmetric"], "go with --int8 or --int4"),
        (["--int8", "--fast-prompts"], "goes with --int4 on CPUs"),
        (["--int4", "--for", "cuda", "--fast-prompts"], "goes with --int4 on CPUs"),
    ],
)
def test_options_that_do_not_go_together(arguments, match, tmp_path):
    result = CliRunner().invoke(main, ["export", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert match in result.stderr


def test_int4_on_the_command_line(checkpoint, tmp_path):
    options = ["--int4", "--group-size", "32", "--asymmetric", "--connector-bits", "4", "-o", str(tmp_path / "model")]
    result = CliRunner().invoke(main, ["export", str(checkpoint("plain")), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "model" / MANIFEST).read_text())["quantisation"]
    assert (found["group"], found["symmetric"], found["connector_bits"]) == (32, False, 4)
    against = ["verify", str(tmp_path / "model"), "--against", str(checkpoint("plain"))]
    shown = CliRunner().invoke(main, against, catch_exceptions=False).stdout
    assert "next tokens: " in shown
    assert "nats" in shown


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


@pytest.mark.parametrize("wrong", [{"precision": "int2"}, {"group": 100}, {"connector_bits": 5}, {"target": "tpu"}])
def test_quantisations_are_checked(wrong):
    with pytest.raises(CheckpointError, match="Choose one of"):
        Quantisation(**{"precision": "int4", **wrong})
