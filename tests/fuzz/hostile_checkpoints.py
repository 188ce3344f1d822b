"""Checkpoints and adapters from strangers, as far as an export reads them before it traces a graph; and a few whole exports."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_place import Attempt, Place
from hostile_values import NUMBERS, damaged, edited_json
from hostile_words import odd_tokenizer
from idefics2_onnx.demo import random_idefics
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import export_model
from idefics2_onnx.export.opening import check_files
from idefics2_onnx.export.processor_files import write_processor_files
from idefics2_onnx.export.processor_source import processor_source
from idefics2_onnx.export.source.architecture import choose_attention
from idefics2_onnx.export.source.source_model import SourceModel
from safetensors.numpy import save_file
from small_idefics import SMALL_IDEFICS
from small_models import SMALL_MODELS

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LORA = {
    "peft_type": "LORA", "task_type": None, "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "fc1"], "rank_pattern": {"fc1": 3}, "alpha_pattern": {r"layers.\d+.self_attn.q_proj": 9},
    "modules_to_save": ["modality_projection"], "use_dora": False, "use_rslora": True, "lora_bias": False, "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True,
    "trainable_token_indices": None, "target_parameters": None, "layers_to_transform": None, "base_model_name_or_path": "../checkpoint", "revision": None, "ensure_weight_tying": False,
}  # fmt: skip
_PATTERNS = [
    "([a-z_.0-9]+)+!",
    "(a|a)*$",
    "[",
    "",
    ".*",
    "(?R)",
    "x" * 9999,
    "(.*)*" * 9,
    "\\",
    "q_proj",
    "^",
    "(?i)Q_PROJ",
    "\ud800",
    "(" * 999 + ")" * 999,
    "a{99999}{99999}",
]


def checkpoints(rng: random.Random, place: Place) -> Attempt:
    """Configs, headers, index files and layouts that are not what they were."""
    return _reading(rng, place, _hostile_checkpoint(rng, place, place.checkpoint), None)


def idefics(rng: random.Random, place: Place) -> Attempt:
    """The same of the first model."""
    return _reading(rng, place, _hostile_checkpoint(rng, place, place.idefics), None)


def adapters(rng: random.Random, place: Place) -> Attempt:
    """LoRA adapters with other options, patterns, tensors and headers; at times for a checkpoint that is hostile, too."""
    checkpoint = (
        _hostile_checkpoint(rng, place, place.checkpoint)
        if rng.random() < 0.1
        else Path(shutil.copytree(place.checkpoint, place.folder / "checkpoint"))
    )
    adapter = Path(shutil.copytree(place.adapter, place.folder / "adapter"))
    config, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    match rng.randrange(6):
        case 0 | 1:
            config.write_bytes(edited_json(rng, config.read_bytes(), place.values))
        case 2:
            options = json.loads(config.read_bytes())
            options[rng.choice(["rank_pattern", "alpha_pattern"])] = {
                rng.choice(_PATTERNS): rng.choice([1, 2, *NUMBERS]) for _ in range(rng.choice([1, 3]))
            }
            config.write_text(json.dumps(options))
        case 3:
            options = json.loads(config.read_bytes())
            for name in rng.sample([*options], 2):
                options[name] = rng.choice(
                    [
                        True,
                        False,
                        None,
                        1,
                        0,
                        [],
                        ["q_proj"],
                        {},
                        "x",
                        [0, 5],
                        {"embed_tokens": [1, 2]},
                        [10**9],
                        rng.choice(_PATTERNS),
                        rng.choice(place.values),
                    ]
                )
            config.write_text(json.dumps(options))
        case 4:
            weights.write_bytes(_edited_weights(rng, place, weights.read_bytes()))
        case _:
            _relayout(rng, place, adapter)
    if rng.random() < 0.1:  # files of a processor beside it
        for name in rng.sample(["tokenizer.json", "tokenizer_config.json", "chat_template.json", "preprocessor_config.json"], 2):
            shutil.copyfile(place.checkpoint / name, adapter / name)
            with contextlib.suppress(ValueError):
                (adapter / name).write_bytes(edited_json(rng, (adapter / name).read_bytes(), place.values))
    return _reading(rng, place, adapter if rng.random() < 0.2 else checkpoint, adapter)


def exports(rng: random.Random, place: Place) -> Attempt:
    """From the command to the folder, which is there whole or not at all."""
    honest = rng.choice([place.checkpoint, place.idefics])
    source, target = _hostile_checkpoint(rng, place, honest), place.folder / "out" / "folder"
    precision = rng.choice(["fp32", "fp16", "bf16", "int8", "int4"])

    def export() -> object:
        try:
            return export_model(source, target, precision, verify="never")
        except Exception:
            left = [str(path) for path in target.parent.glob("*")] if target.parent.exists() else []
            assert not left, f"an export that failed left {left}"
            raise

    return export


def write_honest(folder: Path) -> tuple[Path, Path, Path]:
    """The small checkpoint, the adapter and the first model's checkpoint that the cases change."""
    checkpoint, adapter, older, small = folder / "checkpoint", folder / "adapter", folder / "idefics", SMALL_MODELS["plain"]
    write_checkpoint(checkpoint, small.config, image_options=small.image_options)
    random_idefics.write_checkpoint(older, SMALL_IDEFICS["idefics"].config)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(_LORA))
    random, tensors = np.random.default_rng(0), {}
    for module, rank, inputs, outputs in (
        ("text_model.layers.0.self_attn.q_proj", 2, 64, 64),
        ("vision_model.encoder.layers.0.mlp.fc1", 3, 48, 80),
    ):
        name = f"base_model.model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = random.normal(size=(rank, inputs)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = random.normal(size=(outputs, rank)).astype(np.float32)
    for name, shape in (("gate_proj", (96, 48)), ("up_proj", (96, 48)), ("down_proj", (64, 96))):
        tensors[f"base_model.model.model.connector.modality_projection.{name}.weight"] = np.zeros(shape, np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    return checkpoint, adapter, older


def _hostile_checkpoint(rng: random.Random, place: Place, honest: Path) -> Path:
    folder = Path(shutil.copytree(honest, place.folder / "checkpoint"))
    configs = sorted(folder.glob("*.json"))
    match rng.randrange(9):
        case 8:
            path = folder / "tokenizer.json"
            path.write_bytes(odd_tokenizer(rng, path.read_bytes(), place.values))
        case 0 | 1 | 2:
            path = folder / "config.json"
            path.write_bytes(edited_json(rng, path.read_bytes(), place.values))
        case 3:
            path = rng.choice(configs)
            path.write_bytes(
                edited_json(rng, path.read_bytes(), place.values) if rng.random() < 0.8 else damaged(rng, path.read_bytes())
            )
        case 4 | 5:
            path = folder / _WEIGHTS
            path.write_bytes(_edited_weights(rng, place, path.read_bytes()))
        case 6:
            _write_index(rng, place, folder)
        case _:
            _relayout(rng, place, folder)
    return folder


def _reading(rng: random.Random, place: Place, source: Path, adapter: Path | None) -> Attempt:
    """What `export_model` does before it traces, and some rows of some tensors."""
    share, out = rng.random(), place.folder / "out"
    out.mkdir()

    def read() -> object:
        model = SourceModel.open(source, None, adapter)
        choose_attention(model.sizes.head_dim, None)
        with processor_source(model.checkpoint, model.config, model.adapter) as (processor, _):
            write_processor_files(processor, model.config, out)
        check_files(out, model.checkpoint, model.sizes)
        names = sorted(model.names)
        for name in [names[int(share * len(names))], *[name for name in names if "q_proj" in name or "fc1.w" in name][:3]]:
            assert isinstance(model.stored(name).read(0, 1), torch.Tensor)
        return model

    return read


def _edited_weights(rng: random.Random, place: Place, content: bytes) -> bytes:
    """A safetensors file whose header, or data, says something else."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], bytearray(content[8 + length :])
    match rng.randrange(6):
        case 0:
            return damaged(rng, content)
        case 1:
            header = edited_json(rng, header, place.values)
        case 2 | 3:
            entries = json.loads(header)
            entry = entries[rng.choice([name for name in entries if name != "__metadata__"])]
            key, value = rng.choice([
                ("shape", [rng.choice([0, 1, -1, 1 << 62, 10**30, 1.5, "64", None, float("inf")]) for _ in range(rng.randrange(4))]), ("shape", [1] * 100_000), ("dtype", rng.choice(["F64", "F16", "BF16", "I32", "I64", "U8", "F8_E4M3", "BOOL", "x", 5, None, []])),
                ("data_offsets", rng.choice([[0, 0], [-8, 0], [0, 10**30], [5, 1], [0], [0, 1, 2], ["0", "4"], None, [float("nan"), 1], [1, 5]])), ("x", 1),
            ])  # fmt: skip
            entry[key] = value
            header = json.dumps(entries).encode()
        case 4:
            at = rng.randrange(max(1, len(data) // 4 - 9)) * 4
            data[at : at + 4] = np.array([rng.choice([np.nan, np.inf, 3e38, 1e-45])], np.float32).tobytes()
        case _:
            return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 1 << 40, (1 << 64) - 1])) + header + data
    return struct.pack("<Q", len(header)) + header + data


def _write_index(rng: random.Random, place: Place, folder: Path) -> None:
    content = (folder / _WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    shard = "model-00001-of-00001.safetensors"
    (folder / _WEIGHTS).rename(folder / shard)
    weight_map: dict[str, Any] = dict.fromkeys(json.loads(content[8 : 8 + length]), shard)
    weight_map.pop("__metadata__", None)
    name = rng.choice([*weight_map])
    match rng.randrange(4):
        case 0:
            weight_map[name] = rng.choice(
                [
                    "../canary/secret.txt",
                    "/nowhere/x.safetensors",
                    "a" * 5000 + ".safetensors",
                    "é.safetensors",
                    ".safetensors",
                    "\ud800.safetensors",
                    5,
                    None,
                    ["x"],
                    {},
                    "x\0.safetensors",
                    _INDEX,
                ]
            )
        case 1:
            weight_map = dict.fromkeys(weight_map, rng.choice(["../x.safetensors", "none.safetensors", shard.upper(), shard]))
        case 2:
            del weight_map[name]
    text = json.dumps({"metadata": {"total_size": rng.choice(NUMBERS)}, "weight_map": weight_map}).encode()
    (folder / _INDEX).write_bytes(edited_json(rng, text, place.values) if rng.random() < 0.5 else text)


def _relayout(rng: random.Random, place: Place, folder: Path) -> None:
    """One of the files missing, a folder, a link, or there twice."""
    path = rng.choice(sorted(folder.iterdir()))
    kept = path.read_bytes()
    path.unlink()
    match rng.randrange(6):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.symlink_to(rng.choice([place.canary / "secret.txt", place.canary, folder.parent]))
        case 3:
            path.write_bytes(b"")
        case 4:
            path.write_bytes(kept)
            (
                folder
                / rng.choice(
                    [
                        "adapter_config.json",
                        "pytorch_model.bin",
                        "tokenizer.model",
                        "chat_template.jinja",
                        "special_tokens_map.json",
                        "added_tokens.json",
                        "x.py",
                        _INDEX,
                    ]
                )
            ).write_bytes(kept[:100_000])
