"""A decoder layer's queries, keys and values as one parameter, in the place of three."""

from __future__ import annotations

from .family import Rows, Shapes

_LETTERS = "qkv"


def joined_projection(attention: str, shapes: Shapes) -> dict[str, Rows]:
    """The one parameter of an attention, by its path."""
    parts = tuple(f"{attention}.{letter}_proj.weight" for letter in _LETTERS)
    return {f"{attention}.{_LETTERS}_proj.weight": Rows(parts, sum(shapes[part][0] for part in parts))}


def is_of_the_other_form(name: str, joined: bool) -> bool:
    """Whether a parameter is one of the three where the graph has the one (`joined`), or the other way round."""
    letters = _LETTERS if joined else (_LETTERS,)
    return any(name.endswith(f".self_attn.{letter}_proj.weight") for letter in letters)
