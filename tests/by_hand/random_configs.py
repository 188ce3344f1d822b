"""Random models of all kinds, exported right: how many the comparison refuses, and how the graphs' errors stand to the reference's.

PYTHONPATH=tests/support python tests/by_hand/random_configs.py [--count 40] [--first 0] [--precisions fp32 fp16] [--idefics]

Kernels can be forced with ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA (torch's), as in `ATEN_CPU_CAPABILITY=default`.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from idefics2_onnx.demo import random_idefics
from idefics2_onnx.demo.random_model import byte_tokenizer, write_checkpoint
from idefics2_onnx.export import Quantisation, export_model
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.compare import compare
from safetensors.torch import load_file, save_file
from transformers import Idefics2Config, IdeficsConfig

PRECISIONS: dict[str, Any] = {
    "fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": Quantisation("int8"), "int4": Quantisation("int4"),
}  # fmt: skip


def random_config(seed: int) -> tuple[Idefics2Config, dict[str, Any]]:
    """A config that varies in everything, and image options that suit it."""
    dice = random.Random(seed)
    head_dim = dice.choice([16, 16, 32, 48, 64, 24])
    heads = dice.choice([2, 4, 6, 8])
    hidden = dice.choice([32, 48, 64, 96, 128, 160])
    rope: dict[str, Any] = {"rope_theta": dice.choice([1e4, 5e5, 1e6]), "rope_type": "default"}
    kind = dice.choice(["default", "default", "linear", "yarn", "llama3"])
    if kind == "linear":
        rope |= {"rope_type": kind, "factor": 2.0}
    elif kind == "yarn":
        rope |= {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 64}
    elif kind == "llama3":
        rope |= {
            "rope_type": kind, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }  # fmt: skip
    vision_heads, patch = dice.choice([1, 2, 3, 4]), dice.choice([4, 7, 14])
    latents = dice.choice([1, 3, 4, 9])
    kv_heads = dice.choice([k for k in (1, 2, heads) if heads % k == 0])
    perceiver_heads = dice.choice([2, 4])
    config = Idefics2Config(
        image_token_id=byte_tokenizer().token_to_id("<image>"),
        tie_word_embeddings=dice.random() < 0.3,
        text_config={
            "model_type": "mistral",
            "vocab_size": dice.choice([262, 264, 300]),
            "hidden_size": hidden,
            "intermediate_size": dice.choice([48, 100, 200]),
            "num_hidden_layers": dice.choice([1, 2, 3, 5]),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": 256,
            "sliding_window": dice.choice([None, None, 3, 8, 17]),
            "rms_norm_eps": dice.choice([1e-5, 1e-6]),
            "hidden_act": dice.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"]),
            "rope_parameters": rope,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16 * vision_heads,
            "intermediate_size": dice.choice([40, 90]),
            "num_hidden_layers": dice.choice([1, 2, 3]),
            "num_attention_heads": vision_heads,
            "image_size": patch * dice.choice([4, 7, 9]),
            "patch_size": patch,
            "hidden_act": dice.choice(["gelu_pytorch_tanh", "gelu", "relu"]),
            "layer_norm_eps": dice.choice([1e-6, 1e-5]),
        },
        perceiver_config={
            "hidden_size": hidden,
            "rms_norm_eps": dice.choice([1e-6, 1e-5]),
            "resampler_n_latents": latents,
            "resampler_depth": dice.choice([1, 2, 3]),
            "resampler_n_heads": perceiver_heads,
            "resampler_head_dim": dice.choice([8, 12, 16]),
            "num_key_value_heads": dice.choice([1, perceiver_heads]),
        },
    )
    return config, {"size": {"shortest_edge": patch, "longest_edge": 4 * patch}}


def random_idefics_config(seed: int) -> IdeficsConfig:
    """The same of IDEFICS."""
    dice = random.Random(seed)
    heads, interval, vision_heads = dice.choice([1, 2, 4]), dice.choice([1, 2, 4]), dice.choice([1, 2, 3])
    rope: dict[str, Any] = {"rope_theta": dice.choice([500.0, 1e4, 1e6]), "rope_type": "default"}
    if dice.random() < 0.3:
        rope |= {"rope_type": "linear", "factor": 2.0}
    patch = dice.choice([4, 7])
    return random_idefics.tiny_config(
        {
            "embed_dim": vision_heads * dice.choice([8, 16, 20]),
            "num_attention_heads": vision_heads,
            "num_hidden_layers": dice.choice([1, 2, 3]),
            "intermediate_size": dice.choice([40, 81]),
            "patch_size": patch,
            "image_size": patch * dice.choice([2, 4]) + dice.choice([0, 1]),
            "hidden_act": dice.choice(["gelu", "quick_gelu", "relu"]),
            "layer_norm_eps": dice.choice([1e-5, 1e-6]),
        },
        {
            "resampler_n_latents": dice.choice([1, 3, 7]),
            "resampler_depth": dice.choice([1, 2]),
            "resampler_n_heads": dice.choice([1, 2]),
            "resampler_head_dim": dice.choice([8, 12]),
            "qk_layer_norms_perceiver": dice.random() < 0.5,
        },
        hidden_size=heads * dice.choice([16, 16, 32, 48, 24]),
        num_attention_heads=heads,
        num_hidden_layers=interval * dice.choice([1, 2]),
        cross_layer_interval=interval,
        intermediate_size=dice.choice([48, 100]),
        additional_vocab_size=dice.choice([0, 2, 3]),
        tie_word_embeddings=dice.random() < 0.3,
        use_resampler=dice.random() < 0.6,
        qk_layer_norms=dice.random() < 0.5,
        alpha_type=dice.choice(["float", "vector"]),
        hidden_act=dice.choice(["silu", "gelu"]),
        rms_norm_eps=dice.choice([1e-5, 1e-6]),
        rope_parameters=rope,
    )


def make_loud(folder: Path, seed: int) -> None:
    """A few channels of every norm and of the embeddings 30 to 300 times as large, as trained models have them."""
    path, dice = folder / "model.safetensors", random.Random(seed)
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ("norm" in name and name.endswith("weight")) or "embed_tokens" in name:
            for channel in dice.sample(range(tensor.shape[-1]), 2):
                tensor[..., channel] *= dice.choice([30, 100, 300])
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16"], choices=PRECISIONS)
    parser.add_argument("--idefics", action="store_true", help="the first model in the place of Idefics2")
    chosen = parser.parse_args()
    refused = compared = too_loud = 0
    ratios: list[float] = []
    print(f"torch's kernels: {torch.backends.cpu.get_cpu_capability()}", flush=True)
    for seed in range(chosen.first, chosen.first + chosen.count):
        with tempfile.TemporaryDirectory() as place:
            checkpoint = Path(place) / "checkpoint"
            dtype = (torch.float32, torch.float16, torch.bfloat16)[seed % 3]
            if chosen.idefics:
                random_idefics.write_checkpoint(checkpoint, random_idefics_config(seed), dtype=dtype, seed=seed)
            else:
                config, image_options = random_config(seed)
                write_checkpoint(checkpoint, config, image_options=image_options, dtype=dtype, seed=seed)
            if seed % 4 == 3:
                make_loud(checkpoint, seed)
            source = SourceModel.open(checkpoint)
            for name in chosen.precisions:
                standard = source.sizes.head_dim % 16 or seed % 2
                flavour: Any = ("standard" if standard else "fused") if name in ("fp32", "fp16", "bf16") else None
                folder = Path(place) / f"{name}-{flavour}"
                export_model(checkpoint, folder, PRECISIONS[name], attention=flavour, verify="never")
                found = compare(folder, source, whole=True)
                compared += 1
                worst = max(found.differences, key=lambda difference: difference.excess)
                wrong = [d for d in found.differences if not d.passed]
                # A loud model may be too loud for its type in the reference, too: to refuse that is right.
                unfit = any(d.overflows and not math.isfinite(d.reference.relative) for d in wrong) and not found.faults
                too_loud += unfit
                refused += bool(wrong or found.faults) and not unfit
                ratios += [
                    max(d.ours.relative / d.reference.relative, d.ours.largest / d.reference.largest)
                    for d in found.differences
                    if d.reference.relative > d.least.relative
                ]
                mark = "too loud" if unfit else "REFUSED" if wrong or found.faults else "passed"
                print(
                    f"{mark} {seed} {name} {flavour} {worst.excess:.2f} of what is allowed: {worst} {found.faults[:2]}",
                    flush=True,
                )
    print(
        f"{compared} exports of {chosen.count} models, {refused} refused, {too_loud} past their type in the reference, too; a graph's error over the reference's: ",
        end="",
    )
    print(f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "–")


if __name__ == "__main__":
    main()
