"""The exporter: what it writes, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock
from idefics2_onnx import Idefics2, Idefics2OnnxError
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import Listener, export_model, verify_folder, weights
from idefics2_onnx.export.checkpoint import Checkpoint
from idefics2_onnx.export.errors import CheckpointError, ParityError
from idefics2_onnx.export.verify import Difference, verify_in_subprocess
from idefics2_onnx.graphs.contract import MANIFEST, Manifest, data_file
from safetensors.torch import load_file, save_file
from small_models import SMALL_MODELS
from transformers import AutoTokenizer


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint("plain"), tmp_path / "checkpoint"))


def edit_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = content
        for name in outer:
            place = place[name]
        place[last] = value
    path.write_text(json.dumps(content))


def refused(source, target, match, error=CheckpointError, **options) -> None:
    with pytest.raises(error, match=match) as caught:
        export_model(source, target, verify="never", **options)
    assert "\n" not in str(caught.value)
    assert not target.exists() or not any(target.iterdir())
    assert not list(target.parent.glob(".*partial*"))


def test_manifest_describes_every_file(exported, checkpoint):
    folder = exported("window", "fp16")
    manifest = Manifest.from_dict(json.loads((folder / MANIFEST).read_text()))
    assert {path.name for path in folder.iterdir()} == {*manifest.files, MANIFEST}
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
    assert {"torch", "transformers", "onnx-ir", "idefics2-onnx"} <= set(manifest.tools)
    assert manifest.model.sliding_window == 7
    stored = Checkpoint.open(checkpoint("window")).tensors  # tied: one table for embeddings and head
    assert manifest.model.num_parameters == sum(np.prod(tensor.shape) for tensor in stored.values())


@pytest.mark.parametrize("name", ["window", "bf16_checkpoint"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_the_checkpoints_cast_and_transposed(name, precision, exported, checkpoint):
    stored = Checkpoint.open(checkpoint(name))
    folder = exported(name, precision)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    found = {i.name: i for i in model.graph.initializer}
    data = (folder / data_file("decoder")).read_bytes()
    for initializer, source in (
        ("text_model.layers.1.mlp.down_proj.weight.T", "model.text_model.layers.1.mlp.down_proj.weight"),
        ("text_model.layers.0.input_layernorm.weight", "model.text_model.layers.0.input_layernorm.weight"),
        ("lm_head.weight.T", "model.text_model.embed_tokens.weight"),  # tied
    ):
        place = {e.key: e.value for e in found[initializer].external_data}
        offset, length = int(place["offset"]), int(place["length"])
        expected = stored.read_all(source).to(dtype)
        expected = expected.T.contiguous() if initializer.endswith(".T") else expected
        assert tuple(found[initializer].dims) == tuple(expected.shape)
        assert data[offset : offset + length] == expected.view(torch.uint8).numpy().tobytes()


def test_fp16_connector_is_stored_in_half_and_computes_in_fp32(exported):
    model = onnx.load(exported("plain", "fp16") / "vision.onnx", load_external_data=False)
    assert {initializer.data_type for initializer in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT64,
    }
    readers = {name: node for node in model.graph.node for name in node.input}
    connector = [i.name for i in model.graph.initializer if i.name.startswith("connector.")]
    assert connector
    for name in connector:
        assert readers[name].op_type == "Cast", name
        assert readers[name].attribute[0].i == onnx.TensorProto.FLOAT, name
    widened = {node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "SimplifiedLayerNormalization") and any("connector." in name for name in node.input):
            assert set(node.input) & widened, node.name


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "idefics3"}, "'idefics3'"),
        ({"model_type": "idefics"}, "'idefics'"),
        ({"text_config__model_type": "llama"}, "'llama' text model"),
        ({"text_config__rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
        ({"text_config__rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8, "factor": 2.0, "original_max_position_embeddings": 64}}, "'longrope'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"vision_config__hidden_act": "wobble"}, "'wobble'"),
        ({"vision_config__num_channels": 4}, "4 channels"),
        ({"vision_config__patch_size": [14, 14]}, "patch_size"),
        ({"vision_config__num_attention_heads": 5}, "48 by 5"),
        ({"text_config__num_hidden_layers": 3}, r"lacks the tensor .*layers\.2.* and \d+ more"),
        ({"text_config__hidden_size": "wide"}, "hidden_size"),
        ({"text_config": []}, "has no tensor|lacks|text_config"),
        ({"vision_config": 5}, "vision_config 5"),
        ({"text_config__num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"text_config__max_position_embeddings": 10**12}, "max_position_embeddings 1000000000000"),
        ({"text_config__sliding_window": 0}, "sliding_window 0"),
        ({"text_config__intermediate_size": 100}, r"\[96, 48\].*\[100, 48\]"),
        ({"image_token_id": 99}, "99"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(changes, match, copy, tmp_path):
    edit_json(copy / "config.json", **changes)
    refused(copy, tmp_path / "out", match)


def test_checkpoint_files_that_are_refused(copy, tmp_path):
    target, weights = tmp_path / "out", copy / "model.safetensors"
    refused(tmp_path / "nowhere", target, "neither a folder nor a hub id")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    refused(copy, target, "incomplete")
    weights.write_bytes(whole[:100])
    refused(copy, target, "damaged or incomplete")
    weights.write_bytes((20).to_bytes(8, "little") + b"{" * 20 + whole)
    refused(copy, target, "damaged header")
    weights.unlink()
    refused(copy, target, "neither model.safetensors nor")
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    refused(copy, target, "pickles")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    refused(copy, target, "not a safetensors file beside it")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    refused(copy, target, "lacks the weights file model-1.safetensors")
    (copy / "config.json").write_text("{")
    weights.write_bytes(whole)
    (copy / "model.safetensors.index.json").unlink()
    refused(copy, target, "not readable JSON")
    (copy / "config.json").unlink()
    refused(copy, target, "has no config.json")


def test_processor_files_that_are_refused(copy, tmp_path):
    target = tmp_path / "out"
    edit_json(copy / "processor_config.json", image_seq_len=64)
    refused(copy, target, "64 tokens, but its perceiver has 4 latents")
    edit_json(copy / "processor_config.json", image_seq_len=4)
    (copy / "preprocessor_config.json").rename(copy / "elsewhere.json")
    refused(copy, target, "no preprocessor_config.json")
    (copy / "elsewhere.json").rename(copy / "preprocessor_config.json")
    (copy / "tokenizer.json").unlink()
    refused(copy, target, "no tokenizer.json")


def test_missing_tensor_is_named(copy, tmp_path):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.connector.perceiver_resampler.latents"]
    save_file(tensors, copy / "model.safetensors")
    refused(copy, tmp_path / "out", r"lacks the tensor model\.connector\.perceiver_resampler\.latents\.")


def test_fused_attention_is_refused_where_it_cannot(checkpoint, tmp_path):
    refused(checkpoint("odd_heads"), tmp_path / "out", "multiple of 16, and this model's is 24", attention="fused")


def test_standard_attention_is_chosen_with_a_line(checkpoint, tmp_path):
    class Lines(Listener):
        said: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.said.append(line)

    report = export_model(checkpoint("odd_heads"), tmp_path / "out", "fp32", listener=Lines())
    assert report.manifest.attention == "standard"
    assert "head_dim 24" in Lines.said[0]
    assert [line.split()[0] for line in Lines.said[1:]] == ["vision", "embedding", "decoder"]


def test_output_folder_that_is_in_use(checkpoint, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="already exists"):
        export_model(checkpoint("plain"), target, verify="never")
    assert (target / "mine.txt").read_text() == "keep"
    (target / "mine.txt").unlink()
    assert export_model(checkpoint("plain"), target, verify="never").folder == target


def test_disk_that_is_too_small(checkpoint, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(checkpoint("plain"), tmp_path / "out", "needs 0.1 GB, but .* has 0.0 GB free")


EXPORT = (
    "import sys; from idefics2_onnx.export import export_model; export_model(sys.argv[1], sys.argv[2], 'fp32', verify='never')"
)


def test_write_that_fails_leaves_nothing(checkpoint, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
    run = subprocess.run(
        [sys.executable, "-c", limit + EXPORT, checkpoint("plain"), tmp_path / "out"], capture_output=True, text=True
    )
    assert "out cannot be written (File too large). Choose another with -o." in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_export(how, checkpoint, tmp_path):
    """Stopped half way, an export leaves no folder under its name, and the next run goes on from there."""
    target, part = tmp_path / "out", tmp_path / ".out.partial"
    process = subprocess.Popen([sys.executable, "-c", EXPORT, checkpoint("plain"), target], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (part / "folder" / "vision.onnx").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait() != 0
    assert not target.exists()

    class Lines(Listener):
        said: ClassVar[list[str]] = []

        def say(self, line):
            self.said.append(line)

    whole = export_model(checkpoint("plain"), tmp_path / "whole", "fp32", verify="never")
    resumed = export_model(checkpoint("plain"), target, "fp32", verify="never", listener=Lines())
    assert Lines.said == ["Going on with an export that was interrupted."]
    assert resumed.manifest.files == whole.manifest.files
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}
    assert Idefics2.from_pretrained(target).generate("Hello", max_new_tokens=2).token_ids


@pytest.mark.parametrize(("precision", "stop"), [("fp16", 7), ("int4", 40)])
def test_every_place_to_stop_is_as_good(precision, stop, checkpoint, tmp_path, monkeypatch):
    """After any number of parts, what is there is kept to the byte and the rest is made."""
    whole = export_model(checkpoint("plain"), tmp_path / "whole", precision, verify="never").manifest.files
    real = weights._ahead
    left = [stop]

    def some(parts, left=left):
        for part in real(parts):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield part

    monkeypatch.setattr(weights, "_ahead", some)
    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint("plain"), tmp_path / "out", precision, verify="never")
    left[0] = 10**6
    data = tmp_path / ".out.partial" / "folder" / "vision.onnx.data"
    with data.open("ab") as file:  # half a tensor
        file.write(b"torn")
    assert export_model(checkpoint("plain"), tmp_path / "out", precision, verify="never").manifest.files == whole


def test_another_plan_starts_afresh(checkpoint, tmp_path):
    for options in ({"precision": "fp32"}, {"precision": "fp16"}):
        part = tmp_path / ".out.partial"
        (part / "folder").mkdir(parents=True)
        (part / "plan.json").write_text('{"other": 1}')
        (part / "folder" / "stale").write_text("x")
        folder = export_model(checkpoint("plain"), tmp_path / "out", verify="never", **options).folder
        assert not (folder / "stale").exists()
        shutil.rmtree(folder)


def test_two_exports_to_one_place(checkpoint, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    with FileLock(tmp_path / ".out.partial" / "lock"), pytest.raises(CheckpointError, match="Another export to .*out is running"):
        export_model(checkpoint("plain"), tmp_path / "out", verify="never")
    assert export_model(checkpoint("plain"), tmp_path / "out", verify="never").folder.exists()


def test_an_interrupted_comparison_is_made_again(checkpoint, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("idefics2_onnx.export.pipeline.verify_in_subprocess", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    report = export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    assert report.verification is not None
    Idefics2.from_pretrained(report.folder)
    assert list(tmp_path.iterdir()) == [report.folder]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "layers"])
def test_verification_passes_and_fails(precision, whole, exported, checkpoint, tmp_path):
    folder = exported("window", precision)
    verification = verify_folder(folder, checkpoint("window"), whole)
    verification.raise_past_floor()
    assert {d.graph for d in verification.differences} == {"vision", "embedding", "decoder"}
    assert len(verification.lines()) == (3 if whole else 4)
    assert ("not run" in verification.lines()[-1]) == (not whole)
    small = SMALL_MODELS["window"]
    write_checkpoint(tmp_path / "other", small.config, image_options=small.image_options, seed=1)
    with pytest.raises(ParityError, match="more than"):
        verify_folder(folder, tmp_path / "other", whole).raise_past_floor()


def test_failed_verification_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    real = verify_in_subprocess

    def strict(*arguments, **options):
        found = real(*arguments, **options)
        return type(found)([type(d)(**{**vars(d), "passed": False}) for d in found.differences])

    monkeypatch.setattr("idefics2_onnx.export.pipeline.verify_in_subprocess", strict)
    with pytest.raises(ParityError):
        export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    assert list(tmp_path.iterdir()) == []


def test_difference_sees_nan_and_clear_tokens():
    expected = np.array([[0.0, 1.0, 0.5], [0.0, 1.0, 0.99]], np.float32)
    swapped = np.array([[0.0, 0.5, 1.0], [0.0, 0.99, 1.0]], np.float32)
    assert Difference.between("decoder", "logits", swapped, expected, "fp16").wrong_tokens == 1
    assert not Difference.between("decoder", "logits", expected * np.nan, expected, "fp16").passed
    assert Difference.between("decoder", "logits", expected, expected, "fp16").passed


def test_verify_names_another_checkpoint(exported, checkpoint):
    with pytest.raises(Idefics2OnnxError, match="other sizes"):
        verify_folder(exported("plain"), checkpoint("window"))


def test_files_beside_a_checkpoint_are_not_run(copy, tmp_path, monkeypatch):
    """Exporting from inside a stranger's folder imports nothing from there."""
    for name in ("psutil", "jinja2", "numpy", "onnxruntime"):
        (copy / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)")
    monkeypatch.chdir(copy)
    export_model(".", tmp_path / "out", "fp32", verify="always")
    assert not (tmp_path / "ran").exists()


def test_single_file_comes_before_a_stale_index(copy, tmp_path, checkpoint):
    """As in transformers: what an older, sharded save left behind is not read."""
    small = SMALL_MODELS["plain"]
    write_checkpoint(tmp_path / "sharded", small.config, image_options=small.image_options, shard_size="50KB", seed=1)
    for path in (tmp_path / "sharded").glob("model*"):
        shutil.copy(path, copy)
    export_model(copy, tmp_path / "out", "fp32", verify="always")
    assert (tmp_path / "out" / "decoder.onnx.data").read_bytes() != b""


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("preprocessor_config.json", "junk", "cannot read"),
        ("generation_config.json", "junk", "cannot read"),
        ("processor_config.json", "[]", "no JSON object"),
        ("tokenizer.json", "{}", "tokenizer cannot be read"),
        ("config.json", "[" * 100_000, "not readable JSON"),
    ],
)
def test_junk_beside_the_weights_is_refused(name, content, match, copy, tmp_path):
    (copy / name).write_text(content)
    refused(copy, tmp_path / "out", match)


def test_folders_that_cannot_be_made(checkpoint, tmp_path, monkeypatch):
    source = checkpoint("plain").resolve()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target, match in ((".", "cannot be replaced"), ("x" * 300, "File name too long"), ("/proc/x", "needs|cannot be written")):
        with pytest.raises(CheckpointError, match=match):
            export_model(source, target, verify="never")
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        export_model("y" * 300)
    edit_json(Path(shutil.copytree(source, tmp_path / "other")) / "processor_config.json", image_seq_len=3)
    with pytest.raises(CheckpointError):
        export_model(tmp_path / "other", "a/b/c", verify="never")
    assert not list((tmp_path / "here").iterdir())


def test_tokenizer_defaults_are_written_down(copy, tmp_path):
    """A config without padding_side is the reference's right, and a pad token may stand in an older file only."""
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["padding_side"], config["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    (copy / "special_tokens_map.json").write_text('{"pad_token": "</s>"}')
    export_model(copy, tmp_path / "out", "fp32", verify="never")
    processor = Idefics2.from_pretrained(tmp_path / "out").processor
    tokenizer = AutoTokenizer.from_pretrained(copy)
    assert (processor.padding_side, processor.pad_token_id) == (tokenizer.padding_side, tokenizer.pad_token_id)


def test_hub_ids_are_downloaded(copy, tmp_path, monkeypatch):
    """The hub hands out a folder named after the commit; both names go into the manifest."""
    snapshot = copy.rename(copy.parent / "0a1b2c")
    asked = {}

    def download(repo_id, revision=None, allow_patterns=None):
        asked.update(repo_id=repo_id, revision=revision, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("idefics2_onnx.export.checkpoint.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    report = export_model("owner/some-idefics2", precision="fp32", revision="main", verify="never")
    assert report.folder == Path("some-idefics2-fp32")
    assert (report.manifest.source, report.manifest.revision) == ("owner/some-idefics2", "0a1b2c")
    assert (asked["repo_id"], asked["revision"]) == ("owner/some-idefics2", "main")
    assert "*.bin" not in asked["patterns"]


def test_hub_ids_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="could not be downloaded from the hub"):
        export_model("nobody/no-such-checkpoint", tmp_path / "out")


def test_comparison_that_cannot_run_keeps_the_folder(checkpoint, tmp_path, monkeypatch):
    """Out of memory, say: "auto" says so and keeps the export, "always" fails."""
    monkeypatch.setattr("idefics2_onnx.export.verify.sys.executable", "/bin/false")
    said = []
    listener = Listener()
    monkeypatch.setattr(listener, "say", said.append)
    report = export_model(checkpoint("plain"), tmp_path / "out", "fp32", listener=listener)
    assert report.verification is None
    assert "Not compared, but kept" in said[-1]
    assert Idefics2.from_pretrained(report.folder).generate("Hi", max_new_tokens=1).token_ids
    with pytest.raises(CheckpointError, match="could not be compared"):
        export_model(checkpoint("plain"), tmp_path / "strict", "fp32", verify="always")
    assert not (tmp_path / "strict").exists()
