"""What strangers put in the place of honest bytes, JSON and arguments; the same for the same random numbers."""

from __future__ import annotations

import decimal
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

NUMBERS = [
    0, -1, 1, 2, 3, 7, 64, 255, 4096, 65537, 1 << 31, -(1 << 31), (1 << 63) - 1, 1 << 63, 10**6, 10**9, 10**12, 10**30, -(10**18),
    0.5, -0.5, 1.0, 1e-9, 1e30, 1e308, float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
TEXTS = [
    "", " ", "x", "é", "画像", "\ud800", "\udcff", "a\0b", "a\nb", "\x1b[2J", "%s%n", "{x}", "{{ x }}", "{% if", "<image>", "<image><image>", "</s><s>",
    "<end_of_utterance>", "x" * 300, "x" * 100_000, "../x", "a/b", "data:", "null", "NaN", "True", "1", "fp16", "cpu", "auto", "\u202e", "\ufeff",
]  # fmt: skip
RAW = [
    "1e999", "-1e999", "NaN", "Infinity", "9" * 5000, "-" + "9" * 4000, "1.0", "-0", "1e-400", '"\\ud800"', '"\\u0000"', "01", "'x'", "",
    "[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '"' + "x" * 1_000_000 + '"',
    "[" + ",".join(["0"] * 100_000) + "]", '{"a": 1, "a": 2}',
]  # fmt: skip
"""JSON as text: what no Python object writes."""


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Cut off, exchanged, longer, or with a few bytes flipped."""
    data = bytearray(content)
    match rng.randrange(6):
        case 0:
            return bytes(data[: rng.randrange(len(data) + 1)])
        case 1:
            return rng.randbytes(rng.randrange(200))
        case 2:
            return bytes(data) + rng.randbytes(rng.randrange(1, 100))
        case 3:
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randrange(50)] = rng.randbytes(rng.randrange(50))
        case _:
            for _ in range(rng.randrange(1, 10) if data else 0):
                data[rng.randrange(min(len(data), rng.choice([100, 10**9])))] = rng.randrange(256)
    return bytes(data)


def edited_json(rng: random.Random, content: bytes, pool: list[Any]) -> bytes:
    """Valid JSON with one to three of its values taken out, exchanged, put in, or of another type."""
    whole, raw = json.loads(content), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = _somewhere(rng, whole)
        if isinstance(place, dict):
            _edit_object(rng, place, pool, raw)
        elif isinstance(place, list) and place:
            _edit_list(rng, place, pool, raw)
    text = json.dumps(whole)
    for number, written in enumerate(raw):
        text = text.replace(f'"@{number}@"', written)
    return text.encode("utf-8", "surrogatepass")


def _somewhere(rng: random.Random, place: Any) -> Any:
    """The outermost object or list, or one inside of it."""
    while rng.random() < 0.65:
        inner = [each for each in (place.values() if isinstance(place, dict) else place) if isinstance(each, dict | list)]
        if not inner:
            break
        place = rng.choice(inner)
    return place


def _edit_object(rng: random.Random, place: dict[str, Any], pool: list[Any], raw: list[str]) -> None:
    key = rng.choice([*place, *place, "new"]) if place else "new"
    match rng.randrange(5):
        case 0:
            place.pop(key, None)
        case 1:
            place[rng.choice(["new", key.upper(), f"{key} ", "", "é", "\ud800"])] = place.pop(key, 1)
        case 2 if len(place) > 1:
            other = rng.choice([*place])
            place[key], place[other] = place[other], place.get(key)
        case _:
            place[key] = _in_place_of(rng, place.get(key), pool, raw)


def _edit_list(rng: random.Random, place: list[Any], pool: list[Any], raw: list[str]) -> None:
    at = rng.randrange(len(place))
    match rng.randrange(5):
        case 0:
            del place[at]
        case 1:
            place.append(place[at])
        case 2:
            place[at:at] = place[:100] * rng.choice([1, 100])
        case _:
            place[at] = _in_place_of(rng, place[at], pool, raw)


def _in_place_of(rng: random.Random, value: Any, pool: list[Any], raw: list[str]) -> Any:
    number = isinstance(value, int | float)
    match rng.randrange(8):
        case 0:
            raw.append(rng.choice(RAW))
            return f"@{len(raw) - 1}@"
        case 1:
            return rng.choice([[value], {"a": value}, [[value] * 3], str(value), bool(value), None])
        case 2 if number:
            return rng.choice([-value, value * 2, value * 1000, value + 1, value - 1, value / 2, float(value)])
        case 2 | 3 | 4 if isinstance(value, str):
            return rng.choice([value + "x", value.upper(), value[:-1], value * 1000, *TEXTS])
        case 2 | 3 | 4:
            return rng.choice(NUMBERS)
        case 5:
            return rng.choice([*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [None]])
        case _:
            return rng.choice(pool)


def argument(rng: random.Random, pool: list[Any]) -> Any:
    """Anything that a Python program may pass, by mistake or not; nothing of it names a file that is there."""
    match rng.randrange(6):
        case 0 | 1:
            return rng.choice(NUMBERS)
        case 2:
            return rng.choice(TEXTS)
        case 3:
            return rng.choice(pool)
    return rng.choice([
        None, True, False, [], {}, (), set(), b"", b"x" * 100, object(), len, int, 1j, range(3), iter([1]), decimal.Decimal(2), Path("none"), ...,
        np.int64(3), np.float16(0.5), np.bool_(True), np.array([]), np.array(3), np.array([1, 2]), np.array([[1, 2]]), np.array([[1.5, np.nan]]),
        np.array(["a"]), np.array([None]), np.zeros((0, 3)), np.zeros((1, 2, 3)), np.zeros((2, 2, 3), np.uint8), np.zeros((1, 1, 3, 28, 28), np.float32),
        np.full((1, 5), 1 << 40), np.full((1, 3), -1), np.zeros((1, 4, 192), np.float32), np.zeros((5, 16, 192)), np.zeros((1, 1), "datetime64[s]"),
        [1, 2], [-1], [[1], [2, 3]], [[]], [["a"]], ["a", "b"], [None], [[7, 9], 2.0], [[[7, 9], -2.0]], [[[], 1]], {"a": 1}, {"height": 28, "width": 28},
        {"height": 10**9, "width": 1}, {"shortest_edge": 1, "longest_edge": 10**6}, [10**9, 10**9], [30, 20], lambda *_: False, lambda *_: np.zeros(3),
    ])  # fmt: skip


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_ITEM_TYPES = ["text", "image", "image_url", "input_image", "input_text", "video", "", None, 5]
_ADDRESSES = st.sampled_from(
    ["data:image/png;base64,AAAA", "data:", "file:none.png", "none.png", "", "http://127.0.0.1:9/x", "//none", "\ud800"]
)
_ITEM = _JSON | st.fixed_dictionaries(
    {"type": st.sampled_from(_ITEM_TYPES)},
    optional={
        "text": st.text(max_size=20) | _JSON,
        "image": st.sampled_from([b"", b"GIF89a", None, 5, "none.png", [], np.zeros((4, 4, 3), np.uint8), np.zeros(3)]) | _JSON,
        "image_url": _ADDRESSES | st.fixed_dictionaries({"url": _ADDRESSES | _JSON}) | _JSON,
        "url": _ADDRESSES, "path": st.just("none.png"), "base64": st.text("Aa9+/=", max_size=9) | _JSON, "content": _JSON,
    },
)  # fmt: skip
_MESSAGE = _JSON | st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "assistant", "system", "", "é"]) | _JSON},
    optional={"content": st.text(max_size=30) | st.lists(_ITEM, max_size=4) | _JSON, "name": _JSON, "tool_calls": _JSON},
)
_CONVERSATION = st.lists(_MESSAGE, max_size=4) | st.lists(st.lists(_MESSAGE, max_size=2), max_size=3) | _JSON


def drawn(kind: str, number: int, count: int) -> list[Any]:
    """So many values of hypothesis by this seed: "json", or "messages" as they might be given to `generate`."""
    found: list[Any] = []

    @seed(number)
    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None)
    @given({"json": _JSON, "messages": _CONVERSATION}[kind])
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found
