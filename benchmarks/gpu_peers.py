"""What benchmarks/gpu.py measures of transformers, with the same weights, in fp16."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gpu_ours import PICTURES, difference, opened, prepared, question, some_inputs, some_logits
from gpu_results import STEPS, Results, medians
from idefics2_onnx import Idefics2Processor
from make_checkpoint import real_config
from repeat_layers import depths, shallow_name
from safetensors.torch import load_file
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, StaticCache


def model_of(place: Path, device: str, attention: str, dtype: torch.dtype, layers: tuple[int, int]) -> Any:
    """PLACE/full, or what PLACE/layers makes when its layers are repeated; without either, transformers' own first weights."""
    kind: Any = Idefics2ForConditionalGeneration
    if (place / "full").exists():
        return kind.from_pretrained(place / "full", dtype=dtype, attn_implementation=attention).eval().to(device)
    weights = {}
    for file in (place / "layers").glob("*.safetensors"):
        weights |= {name: tensor.to(device, dtype) for name, tensor in load_file(file).items()}
    config: Idefics2Config = real_config(*layers) if layers != (0, 0) else Idefics2Config.from_pretrained(place / "layers")
    config.dtype = dtype
    config._attn_implementation = attention
    with torch.device(device):
        model = kind._from_config(config, attn_implementation=attention, dtype=dtype).eval()
    shallow = depths(list(weights))
    for name, tensor in model.state_dict().items() if weights else ():
        tensor.copy_(weights[shallow_name(name, shallow)])
    return model


def timed(place: Path, device: str, results: Results, peer: str, layers: tuple[int, int]) -> None:
    """Images, the first token, steps and memory."""
    results.put("versions of the peer", lambda: {"torch": torch.__version__, "transformers": transformers.__version__})
    results.put("copy bandwidth", lambda: bandwidth(device))
    torch.set_grad_enabled(False)
    key = f"transformers: {peer}"
    decodes = results.cells(key)
    if not results.missing([*(cell for cell, *_ in decodes), f"{key}, memory"]):
        return
    model = model_of(place, device, "eager" if peer == "eager" else "sdpa", torch.float16, layers)
    if peer.startswith("compiled"):
        for cell, batch, context in decodes:
            if batch == 1:  # each takes a minute to compile
                results.put(cell, partial(compiled_steps, model, device, batch, context))
    else:
        for cell, batch, context in decodes:
            results.put(cell, partial(plain_steps, model, device, batch, context))
        for picture in PICTURES:
            asked = question_of(place, device, picture)
            encode = partial(model.get_image_features, asked["pixel_values"], asked["pixel_attention_mask"])
            results.put(f"{key}, image {picture}", lambda: medians(lambda: waited(encode, device), 5))  # noqa: B023
            first = partial(model.generate, **asked, do_sample=False, max_new_tokens=1)
            results.put(f"{key}, first token {picture}", lambda: medians(lambda: waited(first, device), 5))  # noqa: B023
    results.put(f"{key}, memory", lambda: torch.cuda.max_memory_reserved() if device != "cpu" else 0)


def folder_of(place: Path) -> Path:
    """One with the processor's files."""
    return next(folder for name in ("full", "layers", "full-fp16") if (folder := place / name).exists())


def question_of(place: Path, device: str, picture: str) -> dict[str, Any]:
    asked = {name: torch.from_numpy(np.asarray(array)).to(device) for name, array in question(folder_of(place), picture).items()}
    return asked | {"pixel_values": asked["pixel_values"].half()}


def waited(work: Callable[[], Any], device: str) -> None:
    work()
    if device != "cpu":
        torch.cuda.synchronize()


def bandwidth(device: str) -> float:
    """Bytes a second that a copy within the GPU reads and writes together."""
    source = torch.empty(1 << (32 if device != "cpu" else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / medians(lambda: waited(lambda: target.copy_(source), device), 9)


class _Clock:
    """Called with every new token, as a streamer: when each came to the host."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: Any) -> None:
        tokens.tolist()
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def plain_steps(model: Any, device: str, batch: int, context: int) -> dict[str, Any]:
    """`generate` as it comes, with its growing cache."""
    ids = torch.randint(3, 200, (batch, context), device=device)
    steps = []
    try:
        for _ in range(2):
            clock = _Clock()
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS,
                streamer=clock,
            )  # fmt: skip
            steps = np.diff(clock.times[2:]).tolist()  # the prompt and the first token came before
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    step = statistics.median(steps)
    return {"ids": 1000 * step, "tokens per second": batch / step}


def compiled_steps(model: Any, device: str, batch: int, context: int) -> dict[str, Any]:
    """The decoder alone over a static cache, compiled with CUDA graphs: `generate` does not do that for this model."""
    torch._dynamo.reset()
    text, head = model.model.text_model, model.lm_head
    cache = StaticCache(config=model.config.text_config, max_cache_len=context + 4 * STEPS)

    def forward(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = text(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state
        return head(hidden[:, -1:]).argmax(-1)

    ids = torch.randint(3, 200, (batch, context), device=device)
    token = forward(ids, torch.arange(context, device=device)[None]).clone()
    start = time.perf_counter()
    step = torch.compile(forward, mode="reduce-overhead" if device != "cpu" else "default", fullgraph=True)
    times = []
    for i in range(2 * STEPS):
        began = time.perf_counter()
        token = step(token, torch.full((1, 1), context + i, device=device)).clone()
        token.tolist()
        times.append(time.perf_counter() - began)
        if i == 0:
            compiling = time.perf_counter() - start
    middle = statistics.median(times[STEPS:])
    return {"ids": 1000 * middle, "compiling": compiling, "tokens per second": batch / middle}


def depth(place: Path, device: str, results: Results, names: list[str], layers: tuple[int, int]) -> None:
    """Logits of all layers: ours and transformers' own in half precision, beside transformers in fp32."""
    torch.set_grad_enabled(False)
    inputs = some_inputs(Idefics2Processor.from_pretrained(folder_of(place)))

    def logits(dtype: torch.dtype) -> Any:
        model = model_of(place, device, "sdpa", dtype, layers)
        tensors = {name: torch.from_numpy(np.asarray(array)).to(device) for name, array in inputs.items()}
        tensors["pixel_values"] = tensors["pixel_values"].to(dtype)
        return model(**tensors).logits.float().cpu().numpy()

    expected = logits(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        results.put(f"parity: full depth, transformers {str(dtype)[6:]}", lambda dtype=dtype: difference(logits(dtype), expected))
    if device != "cpu":
        torch.cuda.empty_cache()
    for name in names:
        if prepared(place / "full", name):
            results.put(
                f"parity: full depth, {name}",
                lambda name=name: difference(some_logits(opened(place / "full", name, device)), expected),
            )
