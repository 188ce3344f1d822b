"""How fast a model folder is here: images of several sizes, prompts of several lengths, batches of several rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...graphs.errors import ModelFolderError
from ..engine.timings import Timings
from ..generation.generator import Generator
from ..model import Idefics, Idefics2
from ..outside.requirement import install
from ..sample import Sample
from .own_picture import SOFTWARE


@dataclass(frozen=True)
class ImageSpeed:
    """Encoding one image."""

    width: int
    height: int
    tiles: int
    tokens: int
    """What it takes of a prompt."""
    preparing: float
    """Seconds from a picture to tiles."""
    encoding: float
    """Seconds from tiles to features."""


@dataclass(frozen=True)
class TextSpeed:
    """Reading a batch of prompts and answering."""

    batch: int
    prompt_tokens: int
    new_tokens: int
    first_token: float
    """Seconds until every row has its first token."""
    prompt_tokens_per_second: float
    seconds_per_token: float
    """Seconds of one step, which gives a token to every row."""
    tokens_per_second: float
    """Tokens per second of all rows, after their first tokens."""
    cache_bytes: int


def image_speeds(model: Idefics2 | Idefics, sizes: Sequence[tuple[int, int]], rounds: int) -> Iterator[ImageSpeed]:
    """Medians of so many rounds, after one that does not count, whole and split if the model can; sizes are (width, height)."""
    random, engine, processor = np.random.default_rng(0), model.engine, model.processor.image_processor
    splits = (False, True) if processor.can_split else (False,)
    for width, height in sizes:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for split in splits:
            options = processor.options.replace(do_image_splitting=split)
            preparing, encoding = [], []
            for _ in range(rounds + 1):
                start = time.perf_counter()
                (tiles,) = processor.tiles([image], options, dtype=engine.pixel_type)
                middle = time.perf_counter()
                engine.feature_cache.clear()
                engine.encode_images(tiles)
                preparing.append(middle - start)
                encoding.append(time.perf_counter() - middle)
            yield ImageSpeed(
                width,
                height,
                len(tiles),
                len(tiles) * engine.sizes.tokens_per_image,
                statistics.median(preparing[1:]),
                statistics.median(encoding[1:]),
            )


def text_speeds(
    model: Idefics2 | Idefics, batches: Sequence[int], lengths: Sequence[int], new_tokens: int, rounds: int
) -> Iterator[TextSpeed]:
    """Medians of so many rounds, after one that does not count.

    Raises:
        PromptError: a length does not fit the model.
    """
    sizes, random = model.engine.sizes, np.random.default_rng(0)
    words = [i for i in range(sizes.vocab_size) if i != sizes.image_token_id]
    options = model.options.replace(max_new_tokens=new_tokens, do_sample=False, eos_token_id=[])
    for batch in batches:
        for length in lengths:
            samples = [Sample(random.choice(words, length).tolist()) for _ in range(batch)]
            found: list[Timings] = []
            for _ in range(rounds + 1):
                generator = Generator(model, samples, options)
                for _ in generator.steps():
                    pass
                found.append(generator.timings)
            prefill = statistics.median(timings.prefill for timings in found[1:])
            decode = statistics.median(timings.decode for timings in found[1:])
            steps = max(1, new_tokens - 1)
            yield TextSpeed(
                batch,
                length,
                new_tokens,
                prefill,
                batch * length / prefill,
                decode / steps,
                batch * steps / decode if decode else 0.0,
                found[-1].cache_bytes,
            )


def table(images: Sequence[ImageSpeed], texts: Sequence[TextSpeed]) -> str:
    """Both as text."""
    lines = ["image          tiles  tokens   prepare     encode"] if images else []
    for i in images:
        size = f"{i.width}×{i.height}"
        lines.append(f"{size:13}  {i.tiles:5}  {i.tokens:6}  {1000 * i.preparing:5.0f} ms  {1000 * i.encoding:6.0f} ms")
    if texts:
        lines += ["", "batch  prompt  answer  first token  prompt tokens/s  ms/token  tokens/s  cache"]
    for t in texts:
        prompt = f"{1000 * t.first_token:8.0f} ms  {t.prompt_tokens_per_second:15.0f}"
        answer = f"{1000 * t.seconds_per_token:8.2f}  {t.tokens_per_second:8.1f}  {t.cache_bytes / 1e6:.1f} MB"
        lines.append(f"{t.batch:5}  {t.prompt_tokens:6}  {t.new_tokens:6}  {prompt}  {answer}")
    return "\n".join(lines)


def as_dict(images: Sequence[ImageSpeed], texts: Sequence[TextSpeed]) -> dict[str, Any]:
    """Both as JSON takes them."""
    return {"images": [asdict(i) for i in images], "texts": [asdict(t) for t in texts]}


def plot(images: Sequence[ImageSpeed], texts: Sequence[TextSpeed], path: Path) -> None:
    """Both as a picture; ModelFolderError without matplotlib, or if the file cannot be written."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise ModelFolderError(f"A plot needs matplotlib, which is not installed. Run: {install('bench')}") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    left.bar([f"{i.width}×{i.height}\n{i.tiles} tiles" for i in images], [i.encoding for i in images])
    left.set(title="Encoding an image", ylabel="seconds")
    for batch in sorted({t.batch for t in texts}):
        own = [t for t in texts if t.batch == batch]
        lengths = [t.prompt_tokens for t in own]
        middle.plot(lengths, [t.prompt_tokens_per_second for t in own], marker="o", label=f"batch {batch}")
        right.plot(lengths, [t.tokens_per_second for t in own], marker="o", label=f"batch {batch}")
    middle.set(title="Reading prompts", xlabel="prompt tokens", ylabel="tokens/s")
    right.set(title="Answering", xlabel="prompt tokens", ylabel="tokens/s, all rows")
    for axes in (middle, right) if texts else ():
        axes.set_ylim(bottom=0)
        axes.legend()
    try:
        figure.savefig(path, metadata={"Software": SOFTWARE} if path.suffix.lower() == ".png" else None)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} cannot be written ({error}). Choose another file, ending in .png or .svg.") from error
    finally:
        pyplot.close(figure)
