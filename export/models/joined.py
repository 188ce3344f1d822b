"""A decoder layer's queries, keys and values as one parameter, in the place of three."""

from __future__ import annotations

from itertools import accumulate

from .family import Rows, Shapes

_LETTERS = "qkv"
_PARTS, _JOINED = tuple(f".self_attn.{letter}_proj.weight" for letter in _LETTERS), f".self_attn.{_LETTERS}_proj.weight"


def joined_projection(attention: str, shapes: Shapes) -> dict[str, Rows]:
    """The one parameter of an attention, by its path."""
    parts = tuple(f"{attention}.{letter}_proj.weight" for letter in _LETTERS)
    return {f"{attention}.{_LETTERS}_proj.weight": Rows(parts, sum(shapes[part][0] for part in parts))}


def is_of_the_other_form(name: str, joined: bool) -> bool:
    """Whether a parameter is one of the three where the graph has the one (`joined`), or the other way round."""
    return name.endswith(_PARTS if joined else _JOINED)


def joined_name(name: str) -> str:
    """The one parameter that one of the three is part of; another parameter's own name."""
    return next((name.removesuffix(part) + _JOINED for part in _PARTS if name.endswith(part)), name)


def rows_of_parts(name: str, shapes: Shapes) -> dict[str, range]:
    """The three of a joined parameter, each with its rows of it; none of another parameter."""
    parts = [name.removesuffix(_JOINED) + part for part in _PARTS] if name.endswith(_JOINED) else []
    ends = list(accumulate(shapes[part][0] for part in parts))
    return {part: range(end - shapes[part][0], end) for part, end in zip(parts, ends, strict=True)}
