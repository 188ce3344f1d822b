"""Bounds that every model's config is held to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.activations import ACT2FN

from ..errors import CheckpointError

ROPE_TYPES = ("default", "linear", "yarn", "llama3")
"""Rope types whose angles depend on the position alone, and so fit one table."""
MAX_WIDTH = 1 << 24
MAX_POSITIONS = 1 << 20
MAX_THETA = 1 << 62


def check_rope(rope: Any, source: str) -> None:
    if rope not in ROPE_TYPES:
        raise CheckpointError(
            f"{source} has the rope type {rope!r:.60}, whose angles depend on the prompt's length. "
            f"Only {', '.join(ROPE_TYPES)} can be exported."
        )


def check_activation(part: str, activation: Any, source: str) -> None:
    if activation not in ACT2FN:
        raise CheckpointError(f"{source}'s {part} model has the activation {activation!r:.60}, which transformers does not know.")


def check_vision(vision: Any, source: str) -> None:
    """Images and patches are squares of RGB."""
    for key, value in (("image_size", vision.image_size), ("patch_size", vision.patch_size)):
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{source}'s vision model has the {key} {value}. Only one positive number can be exported.")
    if vision.image_size < vision.patch_size:
        raise CheckpointError(
            f"{source} has images of {vision.image_size} pixels, but patches of {vision.patch_size}. Check config.json."
        )
    if vision.num_channels != 3:
        raise CheckpointError(f"{source}'s vision model takes {vision.num_channels} channels. Only 3 (RGB) can be exported.")


def check_sizes(sizes: Iterable[tuple[str, str, Any, int, int]], source: str, tensors: int) -> None:
    """Each of (part, name, value, least, most); what no checkpoint of so many `tensors` has is said to be that."""
    for part, name, size, least, most in sizes:
        if not isinstance(size, int | float) or not least <= size <= most:
            why = ", the number of its tensors" if most == tensors else ""
            raise CheckpointError(
                f"{source}'s {part} config has the {name} {size!r:.40}, not from {least} to {most}{why}. Check config.json."
            )


def check_divides(quotients: Iterable[tuple[str, int, int]], source: str) -> None:
    """Each of (what by what, number, divisor)."""
    for name, total, by in quotients:
        if by < 1 or total % by:
            raise CheckpointError(f"{source}'s config does not divide {name}: {total} by {by}. Check config.json.")
