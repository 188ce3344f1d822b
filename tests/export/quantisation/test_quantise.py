"""Quantised folders: which weights become what, that the graphs compute what the stored numbers say, and who may quantise."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.export import Quantisation, export_model
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.models.family import Worth
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.compare import compare
from idefics2_onnx.export.verification.whole import compare_whole
from idefics2_onnx.graphs.contract import GRAPHS, MANIFEST
from idefics2_onnx.runtime.folder import read_manifest
from idefics2_onnx.runtime.model import Idefics2
from parity import photos

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
    # With two layers, int4 leaves both in 8 bits.
    folder = quantised(name, Quantisation(precision, target, smallest=precision == "int4"))
    for difference in compare_whole(folder, read_manifest(folder), SourceModel.open(checkpoint(name)), unrounded=True):
        limits = {"int8": {"vision": 0.05, "decoder": 0.06}, "int4": {"vision": 0.25, "decoder": 0.5}}
        limit = (limits[precision] | {"embedding": 0.02})[difference.graph]
        assert difference.ours.relative < limit, difference


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_matrix_is_quantised(precision, quantised):
    folder = quantised("bf16_checkpoint", Quantisation(precision))
    for name in GRAPHS:
        graph = graph_of(folder, name)
        wide = [i.name for i in graph.initializer if i.data_type in (1, 10, 16) and len(i.dims) == 2]
        kept = {"vision_model.embeddings.position_embedding.weight", "connector.perceiver_resampler.latents", "cos", "sin"}
        assert all(name in kept or name.endswith(".scales") for name in wide), wide
    multiplied = {node.op_type: set() for node in graph_of(folder, "decoder").node if node.op_type.startswith("MatMul")}
    for node in graph_of(folder, "decoder").node:
        if node.op_type in multiplied:
            multiplied[node.op_type].add(node.input[1].split(".self_attn")[0].split(".mlp")[0])
    ends, middle = {f"text_model.layers.{i}" for i in (0, 2)} | {"lm_head.padded.quantised"}, {"text_model.layers.1"}
    expected = {"MatMulNBits": ends, "MatMulIntegerToFloat": middle}
    assert multiplied == (expected if precision == "int8" else {"MatMulNBits": ends | middle})
    assert "GatherBlockQuantized" in {node.op_type for node in graph_of(folder, "embedding").node}


def test_four_bits_stand_where_they_cost_little(quantised):
    """Where they cost much for what they save was measured (benchmarks/sensitivity.py)."""

    def bits(quantisation, name):
        graph = graph_of(quantised("bf16_checkpoint", quantisation), name)  # it has three layers
        found = {}
        for node in graph.node:
            if node.op_type in ("MatMulNBits", "MatMulIntegerToFloat"):
                of = next((int(a.i) for a in node.attribute if a.name == "bits"), 8)
                found[node.input[1].removesuffix(".quantised")] = of
        return found

    vision, decoder = bits(Quantisation("int4"), "vision"), bits(Quantisation("int4"), "decoder")
    assert {name for name, of in vision.items() if of == 4} == {n for n in vision if "perceiver" in n and ".mlp." in n} != set()
    ends = ("text_model.layers.0.", "text_model.layers.2.")
    eight = {name for name in decoder if name.startswith(ends) or name.endswith("v_proj") or name == "lm_head.padded"}
    assert {name for name, of in decoder.items() if of == 8} == eight
    assert set(decoder) - eight
    vision, decoder = (bits(Quantisation("int4", smallest=True), name) for name in ("vision", "decoder"))
    assert {name for name, of in vision.items() if of == 4} == {n for n in vision if n.startswith("connector.")} != set()
    assert {name for name, of in decoder.items() if of == 8} == {"lm_head.padded"}


def test_queries_keys_and_values_are_one_product_on_gpus(quantised):
    """With 4 bits in small groups, but in 8 where all of a layer is, and nothing special in the smallest."""

    def products(quantisation):
        found = {}
        for node in graph_of(quantised("bf16_checkpoint", quantisation), "decoder").node:
            if node.op_type == "MatMulNBits" and ".self_attn." in node.input[1]:
                of = {a.name: int(a.i) for a in node.attribute}
                found[node.input[1].removeprefix("text_model.layers.").removesuffix(".quantised")] = of["bits"], of["block_size"]
        return found

    outer, inner = [f"{layer}.self_attn.{part}_proj" for layer in (0, 2) for part in ("qkv", "o")], "1.self_attn.{}_proj".format
    rest = dict.fromkeys(outer, (8, 128)) | {inner("o"): (4, 128)}
    assert products(Quantisation("int4", "cuda")) == rest | {inner("qkv"): (4, 16)}
    assert products(Quantisation("int4", "cuda", 32))[inner("qkv")] == (4, 32)
    assert set(products(Quantisation("int4", "cuda", smallest=True)).values()) == {(4, 128)}
    assert products(Quantisation("int8", "cuda")) == dict.fromkeys([*outer, inner("qkv"), inner("o")], (8, 128))
    assert inner("qkv") not in products(Quantisation("int4"))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_joined_products_have_the_integers_of_their_parts(precision, checkpoint, tmp_path):
    """ai.onnx's attention takes three tensors, so a folder with the standard one has them apart."""

    def stored(attention):
        folder = export_model(
            checkpoint("plain"), tmp_path / attention, Quantisation(precision, "cuda"), attention=attention, verify="never"
        ).folder
        graph = onnx.load(folder / "decoder.onnx").graph
        return {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer if "layers.0.self_attn" in i.name}

    joined, apart = stored("fused"), stored("standard")
    for part in ("quantised", "scales"):
        of = "text_model.layers.0.self_attn.{}_proj." + part
        assert np.array_equal(joined[of.format("qkv")], np.concatenate([apart[of.format(letter)] for letter in "qkv"]))


@pytest.mark.parametrize("group", [16, 128, 256])
def test_groups_of_embeddings_divide_rows_for_cuda(group, quantised):
    """CUDA's GatherBlockQuantized counts groups through the whole table: a row's rest would take the next row's scale."""
    graph = graph_of(quantised("plain", Quantisation("int8", "cuda", group)), "embedding")
    (node,) = (node for node in graph.node if node.op_type == "GatherBlockQuantized")
    table, scales = (next(i for i in graph.initializer if i.name == node.input[index]) for index in (0, 2))
    size = next(a.i for a in node.attribute if a.name == "block_size")
    assert size <= group
    assert scales.dims[1] * size == table.dims[1]
    stored = type("Stored", (), {"shape": (8, 24)})()
    with pytest.raises(CheckpointError, match="24 numbers, which groups of 16 do not divide"):
        Quantisation("int4", "cuda", group).packing("embedding", stored, torch.float16, Worth())


def test_the_smallest_may_read_prompts_fast(quantised):
    folder = quantised("plain", Quantisation("int4", smallest=True, fast_prompts=True))
    assert Idefics2.from_pretrained(folder).engine.reads_apart


def test_activations_are_quantised_once_for_all_that_read_them(quantised):
    graph = graph_of(quantised("bf16_checkpoint", Quantisation("int8")), "decoder")
    # In the layer between the first and the last: for q, k and v; for o; for gate and up; for down.
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 4


def test_int8_rows_do_not_share_a_scale(quantised):
    """A row that is a thousand times larger leaves the others as they are."""
    model = Idefics2.from_pretrained(quantised("bf16_checkpoint", Quantisation("int8")))
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


def test_fast_prompts_are_read_by_a_graph_of_their_own(checkpoint, quantised):
    folder = quantised("plain", Quantisation("int4", fast_prompts=True))
    verification = compare(folder, SourceModel.open(checkpoint("plain")), whole=True)
    verification.raise_past_floor()
    assert {d.graph for d in verification.differences} == {"vision", "embedding", "decoder", "prompt"}
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
        (["--int8", "--smallest"], "goes with --int4"),
        (["--int8", "--fast-prompts"], "goes with --int4 on CPUs"),
        (["--int4", "--for", "cuda", "--fast-prompts"], "goes with --int4 on CPUs"),
    ],
)
def test_options_that_do_not_go_together(arguments, match, tmp_path):
    result = CliRunner().invoke(main, ["export", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert match in result.stderr


@pytest.mark.usefixtures("compared_here")
def test_int4_on_the_command_line(checkpoint, tmp_path):
    options = ["--int4", "--group-size", "32", "--asymmetric", "--smallest", "-o", str(tmp_path / "model")]
    result = CliRunner().invoke(main, ["export", str(checkpoint("plain")), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "model" / MANIFEST).read_text())["quantisation"]
    assert (found["group"], found["symmetric"], found["smallest"]) == (32, False, True)
    against = ["verify", str(tmp_path / "model"), "--against", str(checkpoint("plain"))]
    shown = CliRunner().invoke(main, against, catch_exceptions=False).stdout
    assert "next tokens: " in shown
    assert "nats" in shown


@pytest.mark.parametrize("wrong", [{"precision": "int2"}, {"group": 100}, {"target": "tpu"}])
def test_quantisations_are_checked(wrong):
    with pytest.raises(CheckpointError, match="Choose one of"):
        Quantisation(**{"precision": "int4", **wrong})
