"""The parity ladder's tolerances, in one table, and the reference it is measured against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from transformers import AutoTokenizer, Idefics2ForConditionalGeneration, Idefics2Processor
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

RELATIVE = 1e-2
MARGIN = 0.05
TOLERANCES: dict[str, dict[str, float]] = {
    # rung              fp32: largest difference     fp16: L2 norm of the difference over that of the reference
    "pixels": {"fp32": 0, "fp16": 0},
    "ids": {"fp32": 0, "fp16": 0},
    "vision": {"fp32": 1e-5, "fp16": RELATIVE},
    "embedding": {"fp32": 1e-5, "fp16": RELATIVE},
    "decoder prefill": {"fp32": 1e-5, "fp16": RELATIVE},
    "decoder step": {"fp32": 1e-5, "fp16": RELATIVE},
}


def assert_close(rung: str, precision: str, actual: NDArray[Any], expected: NDArray[Any]) -> None:
    """Compare one rung; fp16 logits [..., vocab] also by their likeliest token wherever that is clear."""
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    tolerance = TOLERANCES[rung][precision]
    difference = actual.astype(np.float64) - expected
    if precision == "fp32" or tolerance == 0:
        assert np.abs(difference).max(initial=0) <= tolerance, rung
        return
    assert np.linalg.norm(difference) <= tolerance * np.linalg.norm(expected), rung
    if rung.startswith("decoder"):
        second, first = np.moveaxis(np.sort(expected, axis=-1)[..., -2:], -1, 0)
        assert ((actual.argmax(-1) == expected.argmax(-1)) | (first - second <= MARGIN)).all(), rung


@dataclass(frozen=True)
class Reference:
    """transformers' model and processor of a checkpoint."""

    model: Idefics2ForConditionalGeneration
    processor: Idefics2Processor

    @classmethod
    def load(cls, checkpoint: Path) -> Reference:
        model = Idefics2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        image_processor = Idefics2ImageProcessorPil.from_pretrained(checkpoint)
        latents = model.config.perceiver_config.resampler_n_latents
        written = checkpoint / "chat_template.json"
        template = json.loads(written.read_text())["chat_template"] if written.exists() else None
        return cls(model, Idefics2Processor(image_processor, tokenizer, image_seq_len=latents, chat_template=template))

    def inputs(self, texts: list[str], images: list[list[Image.Image]], splitting: bool) -> dict[str, NDArray[Any]]:
        self.processor.image_processor.do_image_splitting = splitting
        pictures = images if any(images) else None
        return dict(self.processor(text=texts, images=pictures, padding=True, return_tensors="np"))

    @torch.no_grad()
    def logits(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        return self.model(**tensors(inputs)).logits.numpy()

    @torch.no_grad()
    def generate(self, inputs: dict[str, NDArray[Any]], **options: Any) -> NDArray[np.int64]:
        return self.model.generate(**tensors(inputs), do_sample=False, **options).numpy()


def tensors(inputs: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()}


def photo(name: str, height: int | None = None, width: int | None = None) -> Image.Image:
    """A real photograph, maybe cropped."""
    image = Image.fromarray(getattr(data, name)())
    return image.crop((0, 0, width or image.width, height or image.height))


def photos() -> list[Image.Image]:
    """Three photographs of different shapes; none of their tiles is a multiple of the patch on both sides."""
    return [photo("chelsea"), photo("astronaut", 512, 301), photo("coffee", 97, 233)]
