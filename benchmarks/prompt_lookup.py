"""Prompt lookup on an answer that copies: decoder calls and time with and without, on a random model of 100 million parameters.

    python benchmarks/prompt_lookup.py [--pairs 5]

A reward for tokens that were seen (repetition_penalty 0.2) makes a random model repeat itself, as a reader of documents repeats
the document. Times are of all tokens behind the first, medians of pairs run in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from idefics2_onnx.demo.random_model import byte_tokenizer, write_checkpoint
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.model import Idefics2
from transformers import Idefics2Config

PROMPT = "Item 17  pears    3.40\nItem 18  apples   2.10\nItem 19  plums    4.75\n" * 2


def model(folder: Path) -> Idefics2:
    text = {
        "model_type": "mistral", "vocab_size": 262, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8,
        "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 4096, "sliding_window": None,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 98,
        "patch_size": 14,
    }  # fmt: skip
    perceiver = {
        "hidden_size": 1024, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16,
        "num_key_value_heads": 2,
    }  # fmt: skip
    config = Idefics2Config(
        image_token_id=byte_tokenizer().token_to_id("<image>"), text_config=text, vision_config=vision, perceiver_config=perceiver
    )
    write_checkpoint(folder / "checkpoint", config)
    return Idefics2.from_pretrained(export_model(folder / "checkpoint", folder / "model", "fp32", verify="never").folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    options: dict[str, Any] = {"raw": True, "max_new_tokens": 200, "eos_token_id": [], "repetition_penalty": 0.2}
    with tempfile.TemporaryDirectory() as folder:
        opened = model(Path(folder))
        found: list[dict[str, Any]] = []
        for tokens in (4, 8, 16):
            plain, looked = [], []
            for _ in range(pairs + 1):
                plain.append(opened.generate(PROMPT, **options))
                looked.append(opened.generate(PROMPT, prompt_lookup_num_tokens=tokens, **options))
            assert all(answer.token_ids == plain[0].token_ids for answer in plain + looked)
            a, b = ([answer.timings for answer in answers[1:]] for answers in (plain, looked))
            found.append({
                "prompt_lookup_num_tokens": tokens,
                "decoder calls": [a[0].steps, b[0].steps],
                "guesses": b[0].drafted,
                "right": b[0].accepted,
                "seconds": [round(statistics.median(t.decode for t in times), 3) for times in (a, b)],
                "ratio": round(statistics.median(y.decode / x.decode for x, y in zip(a, b, strict=True)), 3),
            })  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
