"""Model folders beside transformers in bf16 on this processor: an image, a prompt, a token, and all three in one answer. Or, with
`--tasks what-people-do`: a phone's photo with the model's own options (five tiles), to the first token and to the 64th, a second
question about it, a turn of text alone, and eight photos at once.

    python benchmarks/cpu.py CHECKPOINT int8=FOLDER int4=FOLDER,openvino … [--rounds 5] [--alone] [--without-peer] [--json FILE]

Of IDEFICS, which has images of one size: an image, the first token of an answer about it, and 32 of them.

CHECKPOINT is what the folders were made from; weights of any size and depth will do (`make_checkpoint.py`). Every contestant is
a process of its own that stays; each round asks all of them in turn, so that the machine's moods meet all alike. Where the memory
does not hold all of them, `--alone` starts each anew in every round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, PROMPT, NEW = 980, 735, 384, 64
TASKS = ("image", "prompt", "step", "answer")
PHOTO, QUESTIONS = (4000, 3000), ("What is in the picture?", "Which colours does it have, and where are they?")
TEXT = "Tell me about the sea, the mountains and the weather between them."
WHAT_PEOPLE_DO = ("text", "second_question", "photo_first", "photo_answer", "eight_photos")
LONG = {"answer", "photo_first", "photo_answer", "eight_photos"}
"""What takes so long that it needs no warming up of its own where anything else was asked before."""
EIGHT_NEW = 16
"""Tokens of each of eight answers."""
IDEFICS_TASKS, IDEFICS_NEW = ("image", "first", "answer"), 32


def photo(seed: int = 0) -> Path:
    """A JPEG of 12 megapixels, drawn once: smooth colours with some grain, as large as a phone's."""
    from PIL import Image

    path = Path(tempfile.gettempdir()) / f"idefics2-onnx-photo-{seed}.jpg"
    if not path.exists():
        random = np.random.default_rng(seed)
        small = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        large = np.asarray(small.resize(PHOTO, Image.Resampling.BICUBIC), np.int16)
        grainy = np.clip(large + random.integers(-12, 13, large.shape, np.int16), 0, 255)
        Image.fromarray(grainy.astype(np.uint8)).save(path, quality=90)
    return path


def question(text: str, image: Any = None) -> list[dict[str, Any]]:
    """One turn in the chat format, about a picture if one is given."""
    pictures = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


class Ours:
    """A model folder."""

    def __init__(self, folder: str, device: str, session_options: Any = None) -> None:
        from idefics2_onnx.runtime.engine.decode_step import DecodeStep
        from idefics2_onnx.runtime.model import Idefics2

        start = time.perf_counter()
        self.model = Idefics2.from_pretrained(folder, device, image_cache=0, session_options=session_options)
        self.opening = time.perf_counter() - start
        self.engine, self.step_type = self.model.engine, DecodeStep
        self.sizes = self.engine.sizes
        random = np.random.default_rng(0)
        self.tile = random.uniform(-1, 1, (3, HEIGHT, WIDTH)).astype(np.float32)[:, : HEIGHT // 14 * 14, : WIDTH // 14 * 14]
        self.ids = random.integers(3, 200, (1, PROMPT))
        self.layers, self.asked = self.sizes.num_layers, 0

    def image(self) -> None:
        self.engine.encode_images([self.tile])

    def prompt(self) -> None:
        self.cache = self.engine.new_cache(1, 1024)
        self.engine.decode(self.engine.embed(self.ids), np.array([PROMPT]), self.cache, np.array([[PROMPT - 1]]), graph="prompt")
        self.stepper = self.step_type(self.engine, self.cache, 1)

    def step(self) -> None:
        self.cache.tokens[0] = PROMPT
        self.stepper([17])

    def answer(self) -> None:
        image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels = self.model.processor.image_processor(image, do_image_splitting=False)["pixel_values"]
        ids = np.concatenate([[1], np.full(self.sizes.tokens_per_image, self.sizes.image_token_id), self.ids[0, :100]])[None]
        self.model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=NEW, eos_token_id=[])

    def photo_first(self) -> None:
        self._ask(question(QUESTIONS[0], photo()), 1)

    def photo_answer(self) -> None:
        self._ask(question(QUESTIONS[0], photo()), NEW)

    def second_question(self) -> None:
        """To its first token; the first one was asked when this was warmed up."""
        self._ask(question(QUESTIONS[self.asked], photo()), 1, remembers=True)
        self.asked = 1

    def text(self) -> None:
        self._ask(question(TEXT), NEW)

    def eight_photos(self) -> None:
        self._ask([question(QUESTIONS[0], photo(seed)) for seed in range(8)], EIGHT_NEW)

    def _ask(self, messages: Any, new: int, remembers: bool = False) -> None:
        """Answer; if it `remembers`, with features of images that came before, as folders that are opened plainly do."""
        self.engine.feature_cache.max_bytes = 1 << 28 if remembers else 0
        self.model.generate(messages, max_new_tokens=new, eos_token_id=[])


class Theirs:
    """transformers in bf16."""

    def __init__(self, checkpoint: str, _: str) -> None:
        import torch
        from transformers import Idefics2ForConditionalGeneration, Idefics2Processor, PreTrainedTokenizerFast
        from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

        start = time.perf_counter()
        kind = Idefics2ForConditionalGeneration
        self.model = kind.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
        self.opening = time.perf_counter() - start
        self.torch, config = torch, self.model.config
        torch.set_grad_enabled(False)
        generator = torch.Generator().manual_seed(0)
        rows, columns = HEIGHT // 14, WIDTH // 14
        self.pixels = (torch.rand(1, 1, 3, rows * 14, columns * 14, generator=generator) * 2 - 1).bfloat16()
        self.grid = torch.ones(1, rows, columns, dtype=torch.bool)
        self.ids = torch.randint(3, 200, (1, PROMPT), generator=generator)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
        template = json.loads((Path(checkpoint) / "chat_template.json").read_text())["chat_template"]
        latents = config.perceiver_config.resampler_n_latents
        images = Idefics2ImageProcessorPil.from_pretrained(checkpoint)
        self.processor = Idefics2Processor(images, tokenizer, image_seq_len=latents, chat_template=template)
        self.image_ids = torch.full((1, config.perceiver_config.resampler_n_latents), config.image_token_id)
        self.layers = config.text_config.num_hidden_layers

    def image(self) -> None:
        seen = self.model.model.vision_model(pixel_values=self.pixels[0], patch_attention_mask=self.grid).last_hidden_state
        self.model.model.connector(seen, attention_mask=self.grid.flatten(1))

    def prompt(self) -> None:
        found = self.model.model.text_model(input_ids=self.ids, use_cache=True)
        self.model.lm_head(found.last_hidden_state[:, -1:])
        self.past = found.past_key_values

    def step(self) -> None:
        found = self.model.model.text_model(input_ids=self.ids[:, :1], past_key_values=self.past, use_cache=True)
        self.model.lm_head(found.last_hidden_state)
        self.past.crop(-1)

    def answer(self) -> None:
        ids = self.torch.cat([self.torch.ones(1, 1, dtype=self.torch.long), self.image_ids, self.ids[:, :100]], 1)
        self.model.generate(
            input_ids=ids, attention_mask=self.torch.ones_like(ids), pixel_values=self.pixels, do_sample=False,
            max_new_tokens=NEW, min_new_tokens=NEW,
        )  # fmt: skip

    def photo_first(self) -> None:
        self._ask([question(QUESTIONS[0], photo())], 1)

    def photo_answer(self) -> None:
        self._ask([question(QUESTIONS[0], photo())], NEW)

    def second_question(self) -> None:
        """It keeps nothing of the first."""
        self._ask([question(QUESTIONS[1], photo())], 1)

    def text(self) -> None:
        self._ask([question(TEXT)], NEW)

    def eight_photos(self) -> None:
        self._ask([question(QUESTIONS[0], photo(seed)) for seed in range(8)], EIGHT_NEW)

    def _ask(self, conversations: list[list[dict[str, Any]]], new: int) -> None:
        from PIL import Image

        texts = [self.processor.apply_chat_template(one, add_generation_prompt=True) for one in conversations]
        files = [[part["image"] for part in one[0]["content"] if part["type"] == "image"] for one in conversations]
        images = [[Image.open(file) for file in row] for row in files] if any(files) else None
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        if images:
            inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
        self.model.generate(**inputs, do_sample=False, max_new_tokens=new, min_new_tokens=new)


def idefics_ids(image_token: int) -> NDArray[np.int64]:
    """A prompt about one image, of 104 tokens [1, seq]."""
    random = np.random.default_rng(0)
    return np.array([[1, image_token - 1, image_token, image_token - 1, *random.integers(3, 200, 100)]])


class OurIdefics:
    """A model folder of IDEFICS."""

    def __init__(self, folder: str, device: str) -> None:
        from idefics2_onnx import load

        start = time.perf_counter()
        self.model = load(folder, device, image_cache=0)
        self.opening = time.perf_counter() - start
        sizes = self.model.engine.sizes
        self.layers = sizes.num_layers
        random = np.random.default_rng(0)
        self.tile = random.uniform(-1, 1, (3, sizes.image_size, sizes.image_size)).astype(np.float32)
        self.ids = idefics_ids(sizes.image_token_id)
        self.seen = (self.ids == sizes.image_token_id).cumsum(1)[..., None]

    def image(self) -> None:
        self.model.engine.encode_images([self.tile])

    def first(self) -> None:
        self._answer(1)

    def answer(self) -> None:
        self._answer(IDEFICS_NEW)

    def _answer(self, new: int) -> None:
        inputs = {"input_ids": self.ids, "pixel_values": self.tile[None, None], "image_attention_mask": self.seen}
        self.model.generate(**inputs, max_new_tokens=new, eos_token_id=[])


class TheirIdefics:
    """transformers in bf16."""

    def __init__(self, checkpoint: str, _: str) -> None:
        import torch
        from transformers import IdeficsForVisionText2Text

        start = time.perf_counter()
        kind = IdeficsForVisionText2Text
        self.model = kind.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
        self.opening = time.perf_counter() - start
        torch.set_grad_enabled(False)
        config = self.model.config
        self.layers, side = config.num_hidden_layers, config.vision_config.image_size
        generator = torch.Generator().manual_seed(0)
        self.pixels = (torch.rand(1, 1, 3, side, side, generator=generator) * 2 - 1).bfloat16()
        self.ids = torch.from_numpy(idefics_ids(config.image_token_id))
        self.seen = (self.ids == config.image_token_id).cumsum(1)[..., None]

    def image(self) -> None:
        self.model.model.perceiver_resampler(self.model.model.vision_model(pixel_values=self.pixels[0]).last_hidden_state)

    def first(self) -> None:
        self._answer(1)

    def answer(self) -> None:
        self._answer(IDEFICS_NEW)

    def _answer(self, new: int) -> None:
        self.model.generate(
            input_ids=self.ids, attention_mask=self.ids.new_ones(self.ids.shape), pixel_values=self.pixels,
            image_attention_mask=self.seen, do_sample=False, max_new_tokens=new, min_new_tokens=new,
        )  # fmt: skip


CONTESTANTS: dict[str, tuple[type, type, tuple[str, ...]]] = {
    "idefics2": (Ours, Theirs, TASKS),
    "idefics": (OurIdefics, TheirIdefics, IDEFICS_TASKS),
}
"""By a checkpoint's kind of model."""


def work(model_type: str, kind: str, source: str, device: str) -> None:
    """Answer tasks named on stdin by their seconds, and "end" by the memory they took."""
    contestant: Any = CONTESTANTS[model_type][kind == "theirs"](source, device)
    print(json.dumps({"opening": contestant.opening, "layers": contestant.layers}), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            status = Path("/proc/self/status").read_text()
            print(int(status.split("VmHWM:")[1].split()[0]) * 1024, flush=True)
            return
        start = time.perf_counter()
        getattr(contestant, line.strip())()
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A contestant's process."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, __file__, "--worker", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self._line())
        self.warm: set[str] = set()

    def ask(self, task: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        return float(self._line())

    def end(self, result: dict[str, Any]) -> None:
        result["layers"] = self.about["layers"]
        result["opening"].append(self.about["opening"])
        result["memory"].append(self.ask("end"))
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A contestant ended early; see above.")
        return line


def _ask(worker: Worker, task: str, result: dict[str, Any]) -> None:
    """Warm up where it was not yet, and measure."""
    time.sleep(0.3)  # until the other's threads have stopped waiting busily
    if task not in worker.warm and not (task in LONG and worker.warm):
        worker.ask(task)
        worker.warm.add(task)
    result["seconds"][task].append(statistics.median(worker.ask(task) for _ in range(8 if task == "step" else 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("folders", nargs="+", help="NAME=FOLDER[,DEVICE]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", help="Some of them, between commas, or what-people-do.")
    parser.add_argument("--alone", action="store_true", help="One contestant in memory at a time.")
    parser.add_argument("--without-peer", action="store_true", help="Folders alone.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model_type = json.loads((Path(options.checkpoint) / "config.json").read_text())["model_type"]
    peer = "transformers bf16"
    contestants = {} if options.without_peer else {peer: (model_type, "theirs", options.checkpoint, "")}
    for named in options.folders:
        name, _, place = named.partition("=")
        folder, _, device = place.partition(",")
        contestants[name] = (model_type, "ours", folder, device or "cpu")
    tasks: Sequence[str] = options.tasks.split(",") if options.tasks else CONTESTANTS[model_type][2]
    if options.tasks == "what-people-do":
        tasks = WHAT_PEOPLE_DO
    results: dict[str, Any] = {
        name: {"opening": [], "memory": [], "seconds": {task: [] for task in tasks}} for name in contestants
    }
    if options.alone:
        for _ in range(options.rounds):
            for name, arguments in contestants.items():
                worker = Worker(*arguments)
                for task in tasks:
                    _ask(worker, task, results[name])
                worker.end(results[name])
    else:
        workers = {name: Worker(*arguments) for name, arguments in contestants.items()}
        for task in tasks:
            for _ in range(options.rounds):
                for name, worker in workers.items():
                    _ask(worker, task, results[name])
        for name, worker in workers.items():
            worker.end(results[name])
    shape = {"width": WIDTH, "height": HEIGHT, "prompt": PROMPT, "new": NEW} if model_type == "idefics2" else {"new": IDEFICS_NEW}
    text = {"machine": _machine(), "model": model_type, **shape, "results": results}
    if options.json:
        options.json.write_text(json.dumps(text, indent=1) + "\n")
    for name, result in results.items():
        opening, memory = (statistics.median(result[what]) for what in ("opening", "memory"))
        print(f"{name:24} opens in {opening:.1f} s, {memory / 1e9:.2f} GB")
        for task, seconds in result["seconds"].items():
            ratios = [a / b for a, b in zip(results[peer]["seconds"][task], seconds, strict=True)] if peer in results else []
            times = f"   {statistics.median(ratios):5.2f} × as fast" if ratios else ""
            print(f"  {task:15} {statistics.median(seconds):9.4f} s{times}")


def _machine() -> dict[str, Any]:
    import importlib.metadata

    names = ("onnxruntime", "torch", "transformers", "openvino", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    from idefics2_onnx.runtime.devices.machine import Machine

    here = Machine.here()
    about = {"processor": here.processor, "cores": here.cores, "memory": here.memory, "instructions": here.instructions}
    return about | {"python": platform.python_version(), "versions": versions}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
