"""Which matrices four bits hurt: each kind and each layer of the trained demo model in 4 bits alone, the rest in fp32.

    python benchmarks/sensitivity.py CHECKPOINT FOLDER [--cases 16] [--json FILE]

FOLDER is a model folder of it, for its processor.
For each part: the mean Kullback-Leibler divergence from fp32, in nats, over the tokens of the right answers to held-out
questions; and its share of the real model's parameters, which 8 bits there would double.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.demo.tasks import TASKS, case
from idefics2_onnx.export.packing import Groups
from make_checkpoint import real_config
from torch import Tensor, nn
from transformers import Idefics2ForConditionalGeneration

LAYER = re.compile(r"(vision_model\.encoder|text_model)\.layers\.(\d+)\.")


def parts(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Matrices that are looked at together."""
    kinds = list(dict.fromkeys(name.split(".")[-2] for name in names if "text_model.layers" in name))
    for kind in kinds:
        yield f"decoder, {kind}", [name for name in names if "text_model.layers" in name and f".{kind}." in name]
    for number in sorted({int(found[2]) for name in names if (found := LAYER.search(name)) and found[1] == "text_model"}):
        yield f"decoder, layer {number}", [name for name in names if f"text_model.layers.{number}." in name]
    yield "decoder, all layers", [name for name in names if "text_model.layers" in name]
    for part in (
        "lm_head",
        "embed_tokens",
        "connector.modality_projection",
        "perceiver_resampler.layers",
        "vision_model.encoder",
    ):
        yield part, [name for name in names if f"{part}." in name]
    for part in ("self_attn", "mlp"):
        yield f"perceiver, {part}", [name for name in names if "perceiver_resampler.layers" in name and f".{part}." in name]


@contextmanager
def four_bits(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Weights rounded as `--int4` rounds them."""
    kept = {name: model.get_parameter(name).data for name in names}
    for name, weight in kept.items():
        model.get_parameter(name).data = Groups(4, 128, True, torch.float32).rounded(weight)
    yield
    for name, weight in kept.items():
        model.get_parameter(name).data = weight


def batches(processor: Idefics2Processor, cases: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Inputs, and which of their positions foretell an answer's tokens [batch, seq]."""
    for task in TASKS:
        found = [case(task, "held-out", number) for number in range(cases)]
        texts = [processor.apply_chat_template(one.messages, add_generation_prompt=True) for one in found]
        images = [[image for turn in one.turns for image in turn.images] for one in found]
        asked = processor(text=texts, images=images, padding=True)
        answered = processor(
            text=[f"{text} {one.answer}" for text, one in zip(texts, found, strict=True)], images=images, padding=True
        )
        inputs = {name: torch.from_numpy(array) for name, array in answered.items()}
        lengths = torch.from_numpy(asked["attention_mask"]).sum(1), inputs["attention_mask"].sum(1)
        place = torch.arange(inputs["input_ids"].shape[1])
        start = inputs["input_ids"].shape[1] - lengths[1] + lengths[0] - 1  # padded on the left
        yield inputs, (place >= start[:, None]) & (place < len(place) - 1)  # the last one foretells what follows an answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=16, help="Per task.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    model = Idefics2ForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    shown = list(batches(Idefics2Processor.from_pretrained(options.folder), options.cases))

    def answers() -> list[Tensor]:
        return [model(**inputs).logits[places].double().log_softmax(-1) for inputs, places in shown]

    expected = answers()
    with torch.device("meta"):
        real = dict(Idefics2ForConditionalGeneration._from_config(real_config()).named_parameters())
    total = sum(weight.numel() for weight in real.values())
    sizes = dict(parts([name for name, weight in real.items() if weight.ndim == 2]))
    results = {}
    for name, weights in parts([name for name, weight in model.named_parameters() if weight.ndim == 2]):
        with four_bits(model, weights):
            found = answers()
        divergence = torch.cat([(right.exp() * (right - mine)).sum(-1) for mine, right in zip(found, expected, strict=True)])
        share = 1000 * sum(real[weight].numel() for weight in sizes[name]) / total
        results[name] = {"divergence": float(divergence.mean()), "share": share, "tokens": len(divergence)}
        print(f"{name:22} KL {results[name]['divergence']:.2e}   {share:6.1f} ‰ of parameters", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
