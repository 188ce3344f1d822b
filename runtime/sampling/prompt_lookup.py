"""Drafts for an answer that repeats its prompt or itself: what followed the same tokens before."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_MATCH = 3
"""Tokens at the end that are looked for, then fewer: long matches are right more often."""
SHORTEST_MATCH = 2
"""One token alone is followed by the same ones too rarely to be worth a wider decoder call."""


def draft(ids: Sequence[int], tokens: int) -> list[int]:
    """At most `tokens` tokens that followed the latest earlier occurrence of the last ones; [] without one."""
    if tokens < 1:
        return []
    for size in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        end = list(ids[-size:])
        for start in range(len(ids) - size - 1, -1, -1):
            if ids[start] == end[0] and ids[start : start + size] == end:
                return list(ids[start + size : start + size + tokens])
    return []
