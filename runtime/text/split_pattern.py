"""Which regular expressions a tokenizer may split or replace by: those that read a text in time linear in its length.

The library's engine backtracks without a limit, and a folder's patterns are a stranger's. A pattern is taken if it is an
alternation of pieces in a row, each a character, a class or an escape with at most one quantifier, where everything after an
unbounded quantifier may be empty. Then nothing that such a quantifier reads is ever given back, and in front of it an alternative
goes 64 characters and tries 16 ways at most: 1,024 steps per character of a text and alternative, and mostly a few. What public
tokenizers have besides is listed below with the reason why it is linear, too.
"""

from __future__ import annotations

import re
from math import prod

_LENGTH, _WAYS, _AHEAD = 2000, 16, 64
_LETTERS = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAPITALS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = tuple(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_LETTERS}+{end}|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_LETTERS}*{end}|"
    for end in ("", rf"{_ENGLISH}?")
)
"""Alternatives of GPT-4o and Mistral's Tekken: capitals that the first one gives back are read by the second, for good."""
_SPACES = (r"\s*[\r\n]+|\s+(?!\S)|\s+", r"\s+(?!\S)|\s+")
"""Alternatives of GPT-2 and all that came after it: a run of spaces is given back at most twice, and then read for good."""
_PIECE = re.compile(
    r"""
    (?: \(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)  (?P<optional>\??)
    |   (?: \\[pP]\{\^?\w+\} | \\[^pPkgGKRXAzZbByYNO0-9ux] | (?P<set>\[) | [^\\\[\](){}*+?|] )
        (?: (?P<sign>[?*+]) | \{ (?P<least>\d{0,4}) (?P<comma>,?) (?P<most>\d{0,4}) \} )?
    )
    """,
    re.VERBOSE,
)


def is_linear(pattern: str) -> bool:
    """Whether a regular expression of Oniguruma's is known to take time linear in the text."""
    if len(pattern) > _LENGTH:
        return False
    for words in _WORDS:
        pattern = pattern.removeprefix(words)
    for spaces in _SPACES:
        if pattern == spaces or pattern.endswith("|" + spaces):
            pattern = pattern.removesuffix(spaces).removesuffix("|")
    lengths: list[tuple[int, int | None]] = []
    at = 0
    while at < len(pattern):
        if pattern[at] == "|":
            lengths, at = [], at + 1
            continue
        found = _piece(pattern, at)
        if found is None:
            return False
        at, length = found
        lengths.append(length)
        if not _is_bounded(lengths):
            return False
    return True


def _is_bounded(lengths: list[tuple[int, int | None]]) -> bool:
    """Whether an alternative is, by how often each of its pieces must and may stand there."""
    first = next((i for i, (_, most) in enumerate(lengths) if most is None), len(lengths))
    ahead = [(least, most) for least, most in lengths[:first] if most is not None]
    ways, length = prod(most - least + 1 for least, most in ahead), sum(most for _, most in ahead)
    return ways <= _WAYS and length <= _AHEAD and all(least == 0 for least, _ in lengths[first + 1 :])


def _piece(pattern: str, at: int) -> tuple[int, tuple[int, int | None]] | None:
    """Where a piece ends, and how often it may stand there; None for what is not known."""
    start = pattern[at:]
    if start.startswith("["):
        end = _end_of_set(pattern, at)
        if end is None:
            return None
        start, skipped = "." + pattern[end:], end - 1
    else:
        skipped = at
    match = _PIECE.match(start)
    if match is None or start[match.end() : match.end() + 1] in ("?", "*", "+", "{"):
        return None
    return skipped + match.end(), _times(match)


def _times(match: re.Match[str]) -> tuple[int, int | None]:
    if match["optional"] is not None:
        return (0 if match["optional"] else 1), 3
    if match["sign"] is not None:
        return {"?": (0, 1), "*": (0, None), "+": (1, None)}[match["sign"]]
    if match["least"] is None:
        return 1, 1
    least = int(match["least"] or 0)
    return least, int(match["most"]) if match["most"] else (None if match["comma"] else least)


def _end_of_set(pattern: str, at: int) -> int | None:
    """Behind the bracket that closes a set, which may hold others."""
    depth, place = 0, at
    while place < len(pattern):
        if pattern[place] == "\\":
            place += 1
        else:
            depth += {"[": 1, "]": -1}.get(pattern[place], 0)
        place += 1
        if depth == 0:
            return place
    return None
