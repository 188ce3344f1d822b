"""What an option's value may be: each check gives the value in its normal form, or raises PromptError with the name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import PromptError

Criterion: TypeAlias = Callable[[NDArray[np.int64], None], Any]
"""Says of a sequence [1, seq] whether it ends, by anything that is true or false."""

Check: TypeAlias = Callable[[str, Any], Any]
"""Takes an option's name and value."""


def checked(noun: str, checks: Mapping[str, Check], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in their normal form; PromptError if one is not in the table of checks, or wrong."""
    found = {}
    for name, value in options.items():
        if name not in checks:
            raise PromptError(f"There is no {noun} {name!r:.60}. The options are {', '.join(checks)}.")
        found[name] = checks[name](name, value)
    return found


def is_plain(value: Any) -> bool:
    """Whether a value equals another or does not; of an array, each number does or does not."""
    return isinstance(value, str | int | float | np.generic | None)


def is_one_of(value: Any, choices: Collection[Any]) -> bool:
    """Whether a plain value equals one of these."""
    return is_plain(value) and value in choices


def is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def whole(least: int, most: int = (1 << 31) - 1) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not is_whole(value) or not least <= value <= most:
            limit = f" to {most:,}" if most < (1 << 31) - 1 else ", below 2³¹"
            raise PromptError(f"{name} is {value!r:.60}. Give a whole number from {least}{limit}.")
        return int(value)

    return check


def number(low: float, high: float) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if not is_number(value) or not low <= value <= high:
            raise PromptError(f"{name} is {value!r:.60}. Give a number from {low:g} to {high:g}.")
        return float(value)

    return check


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise PromptError(f"{name} is {value!r:.60}. Give True or False.")
    return bool(value)


def cache_bytes(name: str, value: Any) -> int:
    """So many bytes, for a cache that 0 turns off."""
    if not is_whole(value) or value < 0:
        raise PromptError(f"{name} is {value!r:.60}. Give a number of bytes, 0 for none.")
    return int(value)


def choice(*choices: Any) -> Check:
    def check(name: str, value: Any) -> Any:
        if not is_one_of(value, choices):
            raise PromptError(f"{name} is {value!r:.60}. Give {' or '.join(repr(one) for one in choices if one is not None)}.")
        return value

    return check


def token_ids(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if is_whole(values):
        values = [values]
    if isinstance(values, list | tuple) and all(is_whole(v) and 0 <= v < 1 << 31 for v in values):
        return tuple(int(v) for v in values)
    raise PromptError(f"{name} has {values!r:.60}. Give whole numbers from 0.")


def words(name: str, values: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(word, list | tuple) for word in values):
        raise PromptError(f"{name} is {values!r:.60}. Give a list of lists of token ids.")
    found = tuple(token_ids(name, word) for word in values)
    if not all(found):
        raise PromptError(f"{name} has an empty sequence. Give at least one token id in each.")
    return found


def biases(name: str, values: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Biases by sequence of tokens; where a sequence comes twice, the last counts, as in the reference."""
    pairs = isinstance(values, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in values)
    if not pairs or not all(is_number(bias) and not np.isnan(bias) for _, bias in values):
        raise PromptError(f"{name} is {values!r:.60}. Give a list of pairs of token ids and a number: [[[7, 9], -2.0]].")
    return tuple(dict(zip(words(name, [ids for ids, _ in values]), (float(bias) for _, bias in values), strict=True)).items())


def token_biases(name: str, values: Any) -> tuple[tuple[int, float], ...]:
    """Biases by token; as JSON has no other keys, an id may be written in digits."""
    if not isinstance(values, Mapping):
        raise PromptError(f"{name} is {values!r:.60}. Give numbers from -100 to 100 by token id: {{7: -100, 9: 2.5}}.")
    found = {}
    for key, bias in values.items():
        token = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 11 else key
        if not is_whole(token) or not 0 <= token < 1 << 31 or not is_number(bias) or not -100 <= bias <= 100:
            raise PromptError(f"{name} has {key!r:.60}: {bias!r:.60}. Give token ids from 0, and numbers from -100 to 100.")
        found[int(token)] = float(bias)
    return tuple(found.items())


def strings(name: str, values: Any) -> tuple[str, ...]:
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) and v for v in values):
        raise PromptError(f"{name} is {values!r:.60}. Give a string that is not empty, or a list of such strings.")
    return tuple(values)


def criteria(name: str, values: Any) -> tuple[Criterion, ...]:
    values = [values] if callable(values) else values
    if not isinstance(values, list | tuple) or not all(callable(one) for one in values):
        raise PromptError(f"{name} is {values!r:.60}. Give a function of ids and scores, or a list of such functions.")
    return tuple(values)


def early(name: str, value: Any) -> bool | Literal["never"]:
    if isinstance(value, str) and value == "never":
        return "never"
    if not isinstance(value, bool | np.bool_):
        raise PromptError(f'{name} is {value!r:.60}. Give True, False or "never".')
    return bool(value)
