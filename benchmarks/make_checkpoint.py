"""Write a synthetic checkpoint with the real model's widths, streaming: one tensor in memory at a time.

    python benchmarks/make_checkpoint.py FOLDER [--model idefics2-8b] [--text-layers 32] [--vision-layers 27] [--dtype bf16]
                                         [--no-outliers] [--tokenizer FILE]

Weights are random, drawn so that activations keep a standard deviation near 1. All layers in bf16 take 16.8 GB for idefics2-8b
and 17.9 GB for idefics-9b, which has the sizes of the first model's instruct checkpoint (32 text and 32 vision layers). Some
channels are made as loud as real decoders have them: a few of the residual stream (in embeddings and image features), a few
neurons of each MLP, a few channels of each norm of the encoder. The tokenizer's pieces are single bytes unless another is given:
with them a text has several times as many tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from idefics2_onnx.demo import random_idefics
from idefics2_onnx.demo.random_model import CHAT_TEMPLATE, byte_tokenizer
from idefics2_onnx.export.source.architecture import model_sizes
from tokenizers import Tokenizer
from transformers import Idefics2Config, IdeficsConfig

Config = Idefics2Config | IdeficsConfig
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


def real_idefics_config(text_layers: int = 32, vision_layers: int = 32) -> IdeficsConfig:
    """HuggingFaceM4/idefics-9b-instruct's config, with as many layers as asked for, a multiple of four of the text's."""
    return IdeficsConfig(
        image_token_id=260,  # the checkpoints' own lack it; what loads one takes the tokenizer's
        vocab_size=32000,
        additional_vocab_size=3,
        num_hidden_layers=text_layers,
        cross_layer_interval=4,
        qk_layer_norms=True,
        use_resampler=True,
        pad_token_id=0,
        vision_config={"embed_dim": 1280, "num_hidden_layers": vision_layers},
        perceiver_config={"qk_layer_norms_perceiver": True},
    )


CONFIGS: dict[str, tuple[Callable[[int, int], Config], int, int]] = {
    "idefics2-8b": (real_config, 32, 27),
    "idefics-9b": (real_idefics_config, 32, 32),
}
"""Of each model: its config by the number of layers, and how many it has of the text's and the encoder's."""


def write_checkpoint(folder: Path, config: Config, dtype: str, outliers: bool = True, device: str = "cpu") -> None:
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
    if isinstance(config, IdeficsConfig):
        random_idefics.write_processor_files(folder, config)
    else:
        _write_processor_files(folder, config)
    config.save_pretrained(folder)  # last: with it the checkpoint is whole


def _write_processor_files(folder: Path, config: Idefics2Config) -> None:
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<unk>", "padding_side": "left"},
        "preprocessor_config.json": {
            "image_processor_type": "Idefics2ImageProcessor",
            **dict.fromkeys(("do_convert_rgb", "do_image_splitting", "do_normalize", "do_pad", "do_rescale", "do_resize"), True),
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": 980, "shortest_edge": 378},
        },
        "processor_config.json": {"image_seq_len": config.perceiver_config.resampler_n_latents},
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "generation_config.json": {"eos_token_id": [2, 261], "bad_words_ids": [[259], [260]], "pad_token_id": 0},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


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
    if "embed_tokens" in name:
        return [(1, some(shape[1], 0), 40.0)]
    if "perceiver_resampler.norm" in name or ("perceiver_resampler.layer_norm" in name and len(shape) == 1):
        return [(0, some(shape[0], 0), 40.0)]
    if "vision" not in name and "connector" not in name and ("gate_proj" in name or "up_proj" in name):
        return [(0, some(shape[0], layer + 1), 6.0)]
    if "vision_model" in name and "layer_norm" in name:
        return [(0, some(shape[0], layer + 1), 8.0)]
    return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=CONFIGS, default="idefics2-8b")
    parser.add_argument("--text-layers", type=int)
    parser.add_argument("--vision-layers", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--no-outliers", action="store_true")
    parser.add_argument("--device", default="cpu", help="What draws the numbers, a GPU 20 times as fast.")
    parser.add_argument("--tokenizer", type=Path, help="A tokenizer.json of the model's vocabulary.")
    options = parser.parse_args()
    make, text_layers, vision_layers = CONFIGS[options.model]
    config = make(options.text_layers or text_layers, options.vision_layers or vision_layers)
    if options.tokenizer:
        config.image_token_id = Tokenizer.from_file(str(options.tokenizer)).token_to_id("<image>")
    write_checkpoint(options.folder, config, options.dtype, not options.no_outliers, options.device)
    if options.tokenizer:
        shutil.copy(options.tokenizer, options.folder / "tokenizer.json")
