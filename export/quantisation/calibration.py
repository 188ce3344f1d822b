"""What a model is shown so that its activations can be measured: a few pictures and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from torch import Tensor

from ...graphs.contract import ModelSizes
from ..errors import CheckpointError
from ..models.family import Family

PROMPTS = "prompts.txt"
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MOST_PICTURES, _MOST_PROMPTS, _MOST_TOKENS, _MOST_CHARACTERS = 8, 16, 64, 2000
_LONGEST_SIDE, _LONGEST_SEQUENCE = 224, 768
"""Of pictures whose size a model leaves open, in pixels; of all prompts together, in tokens."""
_BUILT_IN = (
    "What is in this picture? Describe the people, the objects and the background.",
    "User: Read the text on the sign.\nAssistant: The sign says that the road is closed until Monday, 7 a.m.",
    "How much is the total on this receipt, and what was bought? Answer in JSON.",
    "The chart shows the revenue of five companies from 1998 to 2023; which of them grew fastest, and by how many percent?",
    "def area(radius: float) -> float:\n    return 3.14159 * radius**2",
    "Die Katze sitzt auf dem Dach. Le chat est sur le toit. El gato está en el tejado.",
    "Once upon a time there was a king who had three daughters; the youngest was so beautiful that the sun itself wondered.",
    "1. Preheat the oven to 180 °C. 2. Mix the flour with the butter. 3. Bake for 25 minutes.",
)


@dataclass(frozen=True)
class CalibrationSet:
    """Pictures of one size, and prompts."""

    pixels: Tensor
    """float32 [pictures, 3, side, side], normalised."""
    prompts: list[Tensor]
    """Token ids of each."""

    @classmethod
    def load(cls, folder: Path | None, tokenizer_file: Path, sizes: ModelSizes) -> CalibrationSet:
        """Pictures and prompts.txt (one a line) of a folder; what it lacks, or None, is built in."""
        side = sizes.image_size or min(sizes.positions_per_side * sizes.patch_size, _LONGEST_SIDE)
        pixels, texts = _drawn(side), list(_BUILT_IN)
        if folder is not None:
            paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _ENDINGS)[:_MOST_PICTURES]
            prompts = folder / PROMPTS
            if not paths and not prompts.is_file():
                raise CheckpointError(f"{folder} has neither pictures nor {PROMPTS} to calibrate with. Put some there.")
            if paths:
                pixels = torch.stack([_pixels(path, side) for path in paths])
            if prompts.is_file():
                with prompts.open(encoding="utf-8", errors="replace") as file:
                    lines = file.read(_MOST_PROMPTS * _MOST_CHARACTERS).splitlines()
                texts = [line[:_MOST_CHARACTERS] for line in lines if line.strip()][:_MOST_PROMPTS]
                if not texts:
                    raise CheckpointError(f"{prompts} is empty. Write a prompt a line.")
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        ids = [tokenizer.encode(text).ids[:_MOST_TOKENS] for text in texts]
        return cls(pixels, [torch.tensor([i for i in row if i < sizes.vocab_size], dtype=torch.int64) for row in ids])

    def sequence(self, family: Family, sizes: ModelSizes) -> tuple[Tensor, Tensor]:
        """All prompts one after another, every second one after a picture: ids [seq], and what of the pictures each is or sees
        (`Family.places`).
        """
        image = torch.full((sizes.tokens_per_image,), sizes.image_token_id)
        ids, pictures = [], []
        for index, prompt in enumerate(self.prompts):
            if index % 2 == 0:
                pictures.append(index // 2 % len(self.pixels))
                ids.append(image)
            ids.append(prompt)
        whole = torch.cat(ids)[: min(_LONGEST_SEQUENCE, sizes.max_positions)]
        return whole, family.places(whole, pictures, sizes)


def _drawn(side: int) -> Tensor:
    """Soft colours with hard-edged blocks."""
    random = torch.Generator().manual_seed(0)
    soft = torch.nn.functional.interpolate(torch.rand(4, 3, 5, 5, generator=random), (side, side), mode="bicubic")
    blocks = torch.nn.functional.interpolate(torch.rand(4, 3, 9, 9, generator=random), (side, side), mode="nearest")
    return (0.6 * soft + 0.4 * blocks).clamp(0, 1) * 2 - 1


def _pixels(path: Path, side: int) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = ImageOps.exif_transpose(image).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise errors of every kind
        raise CheckpointError(f"{path} cannot be opened as a picture ({error}). Remove it.") from error
    flat = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
    return flat.view(side, side, 3).permute(2, 0, 1).float() / 127.5 - 1
