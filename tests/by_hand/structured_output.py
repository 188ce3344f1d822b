"""What structured answers come to: whether drawn ones are valid, how often a schema makes a receipt right, and what a mask takes.

python tests/by_hand/structured_output.py [ANSWERS [LARGE [RECEIPTS]]]     # 1000, 200 and 60

The demo's answers are drawn at temperature 3 from its own logits, those of Mistral's 32,003 pieces from random ones, which no model
is needed for. An answer that ends by itself and is not valid ends this with an error.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from idefics2_onnx import Idefics2
from idefics2_onnx.demo.tasks import case
from idefics2_onnx.runtime import parallel
from idefics2_onnx.runtime.sampling import matcher
from idefics2_onnx.runtime.sampling.generation_options import GenerationOptions
from idefics2_onnx.runtime.sampling.grammar import Grammars
from idefics2_onnx.runtime.sampling.token_chooser import History, TokenChooser
from tokenizers import Tokenizer


def object_of(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


SCHEMAS = {
    "enum": object_of(shape={"enum": ["circle", "star", "square"]}, colour={"enum": ["red", "blue", "grün"]}),
    "nested": object_of(place=object_of(at=object_of(x={"type": "boolean"}, y={"type": "null"}), name={"const": "top"})),
    "arrays": object_of(rows={"type": "array", "minItems": 1, "maxItems": 4, "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}),
    "numbers": object_of(whole={"type": "integer", "minimum": -5, "maximum": 120}, part={"type": "number", "minimum": 0, "maximum": 9.5}),
    "unicode": object_of(name={"type": "string", "minLength": 2, "maxLength": 12}, word={"type": "string", "pattern": "^[äöüß日本]{1,4}$"}),
    "optional": object_of(["a"], a={"type": "string", "maxLength": 4}, b={"type": "integer", "minimum": 0, "maximum": 9}, c={"type": "boolean"}),
}  # fmt: skip
TEMPERATURE, LONGEST = 3.0, 400
times: list[float] = []


def timed(function: Callable[[], Any]) -> Any:
    """What a mask takes, the token in front of it included, of this thread's own time."""

    def run() -> Any:
        start = time.thread_time()
        try:
            return function()
        finally:
            times.append(time.thread_time() - start)

    return parallel.begin(run)


def check(name: str, text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMAS[name])


def drawn_by_the_demo(model: Idefics2, name: str, count: int) -> tuple[int, int]:
    """How many ended by themselves, all of them valid, and how many are different."""
    options = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "max_new_tokens": LONGEST, "num_return_sequences": 50}
    found: list[str] = []
    for seed in range(-(-count // 50)):
        answers = model.generate(
            "Give the receipt as JSON.", "examples/receipt.png", json_schema=SCHEMAS[name], seed=seed, **options
        )
        found += [answer.text for answer in answers if answer.finish_reason == "stop"]
    for text in found:
        check(name, text)
    return len(found), len({*found})


def drawn_at_random(grammars: Grammars, tokenizer: Tokenizer, ends: list[int], name: str, count: int) -> tuple[int, int]:
    """The same from random logits."""
    options = GenerationOptions().replace(
        do_sample=True, temperature=TEMPERATURE, top_k=0, json_schema=SCHEMAS[name], eos_token_id=ends
    )
    size, random, found = tokenizer.get_vocab_size(), np.random.default_rng(0), []
    chooser = TokenChooser(options, size)
    for _ in range(count):
        history = History([], matcher=grammars.matcher(options))
        while len(history.ids) < LONGEST:
            logits = random.standard_normal((1, size)).astype(np.float32)
            history.append(chooser.choose(logits, [(history, random)])[0])
            if history.ids[-1] in ends:
                found.append(tokenizer.decode(history.ids))
                break
    for text in found:
        check(name, text)
    return len(found), len({*found})


def receipts_right(model: Idefics2, count: int, by_schema: bool) -> int:
    """Of the demo's held-out receipts asked for as JSON, those read without a mistake; by a schema of their names."""
    right = number = seen = 0
    while seen < count:
        one = case("receipt", "held-out", number)
        number += 1
        if not one.answer.startswith("{"):
            continue
        wanted = json.loads(one.answer)
        schema = object_of(**{name: {"type": "string", "pattern": r"^\d+\.\d\d$"} for name in wanted})
        text = model.generate(one.messages, max_new_tokens=150, **{"json_schema": schema} if by_schema else {}).text
        seen += 1
        try:
            right += json.loads(text) == wanted
        except ValueError:
            continue
    return right


def mistral_tokenizer(folder: Path) -> Tokenizer:
    """The real 32,000 pieces, and Idefics2's three."""
    from transformers import LlamaTokenizer

    shutil.copy(str(files("mistral_common") / "data" / "tokenizer.model.v1"), folder / "tokenizer.model")
    source = LlamaTokenizer.from_pretrained(str(folder))
    source.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]})
    source.save_pretrained(str(folder))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def row(vocabulary: str, name: str, count: int, ended: int, different: int) -> None:
    microseconds = np.array(times) * 1e6
    print(
        f"| {vocabulary} | {name} | {count} | {ended} | {different} | {len(times)} | {np.median(microseconds):.0f} | "
        f"{np.percentile(microseconds, 99):.0f} | {microseconds.max():.0f} |",
        flush=True,
    )
    times.clear()


if __name__ == "__main__":
    counts = [int(count) for count in sys.argv[1:]] + [1000, 200, 60][len(sys.argv) - 1 :]
    matcher.begin = timed  # type: ignore[assignment]
    demo = Idefics2.from_pretrained()
    print(
        "| vocabulary | schema | answers | ended, and valid | different | masks | p50 µs | p99 µs | most µs |\n|---|---|"
        + "---:|" * 7
    )
    for schema in SCHEMAS:
        each = -(-counts[0] // len(SCHEMAS) // 50) * 50
        row("438", schema, each, *drawn_by_the_demo(demo, schema, each))
    with tempfile.TemporaryDirectory() as folder:
        large = mistral_tokenizer(Path(folder))
    last = [2, large.token_to_id("<end_of_utterance>")]
    for schema in SCHEMAS:
        each = -(-counts[1] // len(SCHEMAS))
        row(
            f"{large.get_vocab_size():,}",
            schema,
            each,
            *drawn_at_random(Grammars(large, large.get_vocab_size(), (*last,)), large, last, schema, each),
        )
    print(
        f"\nReceipts right: {receipts_right(demo, counts[2], False)} of {counts[2]} free, {receipts_right(demo, counts[2], True)} by schema"
    )
