"""Many generations with random options, images and cancellations: memory must stay flat, and only our own errors may come.

    PYTHONPATH=tests/support python tests/by_hand/soak.py [GENERATIONS]          # 2,000 take some minutes; not a test

Prints the process's memory every tenth of the way; ends with 1 on any other exception, or if memory grew by more than 5% from
the middle to the end.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.errors import Idefics2OnnxError
from idefics2_onnx.runtime.model import Idefics2
from PIL import Image
from small_models import SMALL_MODELS

TEXTS = ["What is this?", "<image> and then", "x", "abc abc abc abc", "Compare <image> with <image>", "", "\udce9", "long " * 60]


def options(random: np.random.Generator) -> dict:
    """Options of every kind, some of them wrong or contradictory."""
    choices = {
        "max_new_tokens": [1, 5, 30, 600], "min_new_tokens": [0, 4], "do_sample": [True, False], "temperature": [0.5, 1.3, 0.0],
        "top_k": [0, 5], "top_p": [0.5, 2.0], "min_p": [0.1], "typical_p": [0.5], "repetition_penalty": [1.3, 0.5],
        "no_repeat_ngram_size": [2, 3], "suppress_tokens": [list(range(40)), list(range(262))], "stop_strings": ["a", ["b", "cd"]],
        "seed": [0, 1], "num_return_sequences": [1, 3], "num_beams": [1, 3], "length_penalty": [2.0], "early_stopping": [True],
        "prompt_lookup_num_tokens": [0, 6], "logprobs": [True], "top_logprobs": [3], "echo": [True],
        "eos_token_id": [list(range(60, 90))], "unknown": [1],
    }  # fmt: skip
    names = random.choice(list(choices), random.integers(0, 5), replace=False)
    return {"max_new_tokens": 12} | {name: choices[name][random.integers(len(choices[name]))] for name in names}


def image(random: np.random.Generator) -> Image.Image:
    height, width = random.integers(1, 200, 2)
    seed = np.random.default_rng(random.integers(0, 40))  # some come again
    return Image.fromarray(seed.integers(0, 256, (height, width, 3), dtype=np.uint8))


def once(model: Idefics2, random: np.random.Generator, chats: list) -> None:
    """One generation of a random kind."""
    count = int(random.integers(1, 4))
    texts = [TEXTS[i] for i in random.integers(0, len(TEXTS), count)]
    images = [[image(random) for _ in range(text.count("<image>") if random.random() < 0.9 else 1)] for text in texts]
    kind = random.integers(5)
    if kind == 0:
        model.generate(texts, images, raw=bool(random.integers(2)), **options(random))
    elif kind == 1:
        stream = model.stream(texts[0], images[0], **options(random))
        for _ in range(int(random.integers(0, 9))):
            next(stream, None)
        stream.close()
    elif kind == 2:
        chat = chats[0]
        if random.random() < 0.2:
            chat.reset() if random.random() < 0.5 else chat.undo()
        stream = chat.stream(texts[0], images[0], **options(random))
        for _ in range(int(random.integers(0, 20))):
            next(stream, None)
    elif kind == 3:
        model.score(texts[0], images[0], "an answer")
    else:
        threads = [
            threading.Thread(target=quietly, args=(model, text, own, options(random)))
            for text, own in zip(texts, images, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def quietly(model: Idefics2, text: str, images: list, chosen: dict) -> None:
    try:
        model.generate(text, images, **chosen)
    except Idefics2OnnxError:
        pass
    except BaseException as error:
        FAILURES.append(error)


FAILURES: list[BaseException] = []


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(
            Path(folder) / "checkpoint", SMALL_MODELS["window"].config, image_options=SMALL_MODELS["window"].image_options
        )
        export_model(Path(folder) / "checkpoint", Path(folder) / "model", "fp32", verify="never")
        model = Idefics2.from_pretrained(Path(folder) / "model", image_cache=1 << 20, prefix_cache=1 << 20)
        random, chats, memory, errors, start = np.random.default_rng(0), [model.chat()], [], 0, time.perf_counter()
        for done in range(1, count + 1):
            try:
                once(model, random, chats)
            except Idefics2OnnxError:
                errors += 1
            if FAILURES:
                raise FAILURES[0]
            if done % max(1, count // 10) == 0:
                memory.append(psutil.Process().memory_info().rss / 1e6)
                print(
                    f"{done:6} generations, {errors} refused, {memory[-1]:.1f} MB, {time.perf_counter() - start:.0f} s",
                    flush=True,
                )
    growth = memory[-1] / memory[len(memory) // 2] - 1
    print(f"memory from the middle to the end: {growth:+.1%}")
    sys.exit(growth > 0.05)


if __name__ == "__main__":
    main()
