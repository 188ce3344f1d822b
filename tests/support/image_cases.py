"""Random images and options for the image processor, and the comparison with the reference.

    python tests/support/image_cases.py 5000 [SEED]     # the long run: prints what was compared

Where the reference fails, ours has to fail with an error of its own kind, and the other way round.
"""

from __future__ import annotations

import collections
import sys
import warnings
from typing import Any

import numpy as np
from idefics2_onnx import Idefics2ImageProcessor, ImageError
from idefics2_onnx.runtime.errors import PromptError
from PIL import Image
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.utils import logging

logging.set_verbosity_error()

AWKWARD = [1, 2, 3, 27, 28, 377, 378, 379, 741, 756, 757, 979, 980, 981, 1959, 1960, 1961]
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F", "RGBX", "transparent P"]
FILTERS = [0, 1, 2, 3, 4, 5]


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: awkward, 10:1, or any; seldom above a million pixels, to keep a case short."""
    kind = rng.integers(10)
    if kind < 4:
        return int(rng.choice(AWKWARD)), int(rng.choice(AWKWARD))
    if kind < 6:
        short = int(rng.integers(1, 120))
        long = short * 10 + int(rng.integers(0, 9))
        return (short, long) if rng.integers(2) else (long, short)
    return int(rng.integers(1, 700)), int(rng.integers(1, 700))


def smooth(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    """uint8 [height, width, channels] with gradients and noise; pure noise would hide errors of half a pixel."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / rng.uniform(2, 60) + c) + np.cos(x / rng.uniform(2, 60)) for c in range(channels)], -1)
    return np.clip(waves * 60 + 128 + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


def random_pillow(rng: np.random.Generator) -> Image.Image:
    height, width = random_size(rng)
    mode = MODES[rng.integers(len(MODES))]
    rgba = Image.fromarray(smooth(rng, height, width, 4), "RGBA")
    if mode == "transparent P":
        image = rgba.convert("RGB").convert("P")
        image.info["transparency"] = int(rng.integers(256))
    elif mode == "I;16":
        image = Image.fromarray(smooth(rng, height, width, 1)[..., 0].astype(np.uint16) * int(rng.choice([1, 257])))
    elif mode == "F":
        image = Image.fromarray(smooth(rng, height, width, 1)[..., 0].astype(np.float32) / float(rng.choice([1, 255, 100])))
    elif mode == "PA":
        image = rgba.convert("LA").convert("PA")
    elif mode in ("YCbCr", "HSV", "CMYK", "RGBX"):
        image = rgba.convert("RGB").convert(mode)
    else:
        image = rgba.convert(mode)
    if rng.integers(6) == 0:
        image.getexif()[0x0112] = int(rng.integers(1, 9))
    return image


def random_array(rng: np.random.Generator) -> np.ndarray:
    height, width = random_size(rng)
    channels = int(rng.choice([1, 3, 3, 3, 4, 4, 2, 5]))
    array: np.ndarray = smooth(rng, height, width, channels)
    kind = rng.integers(8)
    if kind == 0:
        array = array.astype(rng.choice([np.float16, np.float32, np.float64])) / 255
    elif kind == 1:
        array = array.astype(rng.choice([np.float32, np.int32, np.uint16, np.int64]))
    elif kind == 2:
        array = array.astype(np.float32) / float(rng.choice([100, -255, 0.5]))
    elif kind == 3:
        array = array > 128
    if rng.integers(8) == 0:
        array = array[..., 0]
    elif rng.integers(2):
        array = np.moveaxis(array, -1, 0)
    return array


def random_images(rng: np.random.Generator) -> Any:
    """One image, a list, or a list of lists, some of them empty."""
    kind = rng.integers(5)
    one = random_array if kind == 4 else random_pillow
    if kind in (0, 4):
        return one(rng)
    if kind == 1:
        return [one(rng) for _ in range(rng.integers(1, 3))]
    if kind == 2:
        array = smooth(rng, int(rng.integers(20, 300)), int(rng.integers(20, 300)), 3)
        return np.stack([array, array[::-1]])
    return [[one(rng) for _ in range(rng.integers(0, 3))] for _ in range(rng.integers(1, 4))]


def random_options(rng: np.random.Generator) -> dict[str, Any]:
    """Each option drawn, or left at its default."""
    shortest, longest = sorted(int(n) for n in rng.integers(10, 500, 2))
    choices: dict[str, list[Any]] = {
        "do_convert_rgb": [True, True, True, False],
        "do_resize": [True, True, True, False],
        "size": [
            {"shortest_edge": 378, "longest_edge": 980},
            {"shortest_edge": shortest, "longest_edge": longest},
            {"height": int(rng.integers(1, 300)), "width": int(rng.integers(1, 300))},
        ],
        "resample": FILTERS,
        "do_rescale": [True, True, False],
        "rescale_factor": [1 / 255, 1 / 127.5, 0.3],
        "do_normalize": [True, True, False],
        "image_mean": [[0.5, 0.5, 0.5], [0.48145466, 0.4578275, 0.40821073], 0.5, [0.1]],
        "image_std": [[0.5, 0.5, 0.5], [0.26862954, 0.26130258, 0.27577711], 0.25],
        "do_pad": [True, True, True, False],
        "do_image_splitting": [True, False],
        "data_format": ["channels_first", "channels_last"],
        "input_data_format": ["channels_first", "channels_last", None, None],
    }
    rare = ("image_mean", "image_std", "rescale_factor", "input_data_format", "data_format", "do_convert_rgb")
    return {
        name: values[rng.integers(len(values))] for name, values in choices.items() if rng.integers(4 if name in rare else 2) == 0
    }


def compare(images: Any, options: dict[str, Any]) -> str:
    """Run both processors; "equal", or what both of them raised. AssertionError where they differ."""
    split_options = dict(options)
    in_constructor = {name: split_options.pop(name) for name in list(split_options)[::2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = dict(Idefics2ImageProcessorPil(**in_constructor)(images, return_tensors=None, **split_options))
        except Exception as error:
            expected = None
            reason = type(error).__name__
        try:
            found = Idefics2ImageProcessor(**in_constructor)(images, return_tensors=None, **split_options)
        except (ImageError, PromptError) as error:
            assert expected is None, f"only ours refused: {error}"
            assert "\n" not in str(error)
            return f"both refused ({reason})"
    assert expected is not None, f"only the reference refused: {reason}"
    assert list(found) == list(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            _same(found[name], value)
        else:
            assert [len(sample) for sample in found[name]] == [len(sample) for sample in value]
            for ours, theirs in zip((t for s in found[name] for t in s), (t for s in value for t in s), strict=True):
                _same(ours, theirs)
    return "equal" if options.get("do_pad", True) else "equal, unpadded"


def _same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")


def run_case(seed: int) -> str:
    rng = np.random.default_rng(seed)
    images, options = random_images(rng), random_options(rng)
    if rng.integers(40) == 0:  # alone: padded to each other without resizing, such images would fill the memory
        shape = (int(rng.integers(1, 40)), 10_007)[:: 1 if rng.integers(2) else -1]
        images = Image.fromarray(smooth(rng, *shape, 3))
    return compare(images, options)


def main(count: int, seed: int = 0) -> None:
    results: collections.Counter[str] = collections.Counter()
    for case in range(seed, seed + count):
        try:
            results[run_case(case)] += 1
        except Exception as error:
            results[f"DIFFERENT in case {case}: {error!r}"] += 1
    for result, times in results.most_common():
        print(f"{times:6} {result}")
    sys.exit(any("DIFFERENT" in result for result in results))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
