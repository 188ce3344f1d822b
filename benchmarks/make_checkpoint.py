"""Write a synthetic checkpoint with the real model's widths, streaming: one tensor in memory at a time.

    python benchmarks/make_checkpoint.py FOLDER [--text-layers 32] [--vision-layers 27] [--dtype bf16] [--no-outliers]

Weights are random, drawn so that activations keep a standard deviation near 1; all layers: 16.8 GB in bf16. Some channels are
made as loud as real decoders have them: a few of the residual stream (in embeddings and image features), a few neurons of each
MLP, a few channels of each norm of the encoder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from idefics2_onnx.demo.random_model import CHAT_TEMPLATE, byte_tokenizer
from idefics2_onnx.export.source.architecture import model_sizes
from transformers import Idefics2Config

DTYPES = {"fp32": (torch.float32, "F32"), "fp16": (torch.float16, "F16"), "bf16": (torch.bfloat16, "BF16")}
SHARD = 2_500_000_000
"""Bytes a shard, about; the real model has seven in bf16."""
CHUNK = 1 << 24
"""Numbers drawn at once."""


def real_config(text_layers: int = 32, vision_layers: int = 27) -> Idefics2Config:
    """HuggingFaceM4/idefics2-8b's config, with as many layers as asked for."""
    return Idefics2Config(
        image_token_id=260,
        text_config={
            "model_type": "mistral",
            "vocab_size": 32003,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 16,
            "image_size": 980,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": 4096,
            "resampler_n_latents": 64,
            "resampler_depth": 3,
            "resampler_n_heads": 16,
            "resampler_head_dim": 96,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-5,
        },
    )


def write_checkpoint(folder: Path, config: Idefics2Config, dtype: str, outliers: bool = True, device: str = "cpu") -> None:
    """config, tokenizer, processor files and safetensors shards with an index; goes on where it was interrupted.

    `device` draws the numbers; each device draws others.
    """
    if (folder / "config.json").exists():
        raise SystemExit(f"{folder} holds a checkpoint already. Remove it or name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    _, shapes, tied = model_sizes(config)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size, itemsize = 0, DTYPES[dtype][0].itemsize
    for name, shape in shapes.items():
        if name in tied:
            continue
        length = torch.Size(shape).numel() * itemsize
        if size and size + length > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += length
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for index, (name, shard) in enumerate(zip(names, shards, strict=True)):
        _write_shard(folder / name, shard, dtype, index, outliers, device)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<unk>", "padding_side": "left"},
        "preprocessor_config.json": {"do_image_splitting": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "processor_config.json": {"image_seq_len": config.perceiver_config.resampler_n_latents},
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "generation_config.json": {"eos_token_id": [2, 261], "bad_words_ids": [[259], [260]], "pad_token_id": 0},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    config.save_pretrained(folder)  # last: with it the checkpoint is whole


def _write_shard(path: Path, shard: dict[str, tuple[int, ...]], dtype: str, seed: int, outliers: bool, device: str) -> None:
    kind, code = DTYPES[dtype]
    header, offset = {}, 0
    for name, shape in shard.items():
        end = offset + torch.Size(shape).numel() * kind.itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    if path.exists() and path.stat().st_size == 8 + len(encoded) + offset:
        return  # written before an interruption
    generator = torch.Generator(device).manual_seed(seed)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shard.items():
            mean, std = _distribution(name, shape)
            loud = _loud(name, shape) if outliers else []
            width = torch.Size(shape[1:]).numel()
            step = max(1, CHUNK // width)
            for start in range(0, shape[0], step):
                rows = min(step, shape[0] - start)
                part = torch.randn(rows, width, generator=generator, device=device).mul_(std).add_(mean)
                for axis, channels, factor in loud:
                    if axis:
                        part[:, channels] *= factor
                    else:
                        part[[c - start for c in channels if start <= c < start + len(part)]] *= factor
                file.write(part.to(kind).cpu().view(torch.uint8).numpy())


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's numbers."""
    if ("latents" in name and len(shape) == 2) or ("embed" in name and "patch" not in name):
        return 0.0, 1.0
    if len(shape) > 1:
        return 0.0, torch.Size(shape[1:]).numel() ** -0.5
    return (0.0, 0.02) if name.endswith("bias") else (1.0, 0.02)


def _loud(name: str, shape: tuple[int, ...]) -> list[tuple[int, list[int], float]]:
    """Channels of a tensor that are louder than the rest: (axis, channels, factor)."""

    def some(count: int, seed: int) -> list[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: max(1, count // 700)].tolist()

    layer = int(next((part for part in name.split(".") if part.isdigit()), "0"))
    if "text_model.embed_tokens" in name:
        return [(1, some(shape[1], 0), 40.0)]
    if "perceiver_resampler.norm" in name:
        return [(0, some(shape[0], 0), 40.0)]
    if "text_model" in name and ("gate_proj" in name or "up_proj" in name):
        return [(0, some(shape[0], layer + 1), 6.0)]
    if "vision_model" in name and "layer_norm" in name:
        return [(0, some(shape[0], layer + 1), 8.0)]
    return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text-layers", type=int, default=32)
    parser.add_argument("--vision-layers", type=int, default=27)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--no-outliers", action="store_true")
    parser.add_argument("--device", default="cpu", help="What draws the numbers, a GPU 20 times as fast.")
    options = parser.parse_args()
    write_checkpoint(
        options.folder,
        real_config(options.text_layers, options.vision_layers),
        options.dtype,
        not options.no_outliers,
        options.device,
    )
