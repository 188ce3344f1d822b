"""Try a grammar out in a process of its own, which can be ended: compiling one cannot be interrupted, and some never end.

A script: python grammar_trial.py LIMITS < GRAMMAR. It imports nothing of this package, so that it starts quickly. The exit status
is 0, or REFUSED with the reason on the standard output, or ENDLESS.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time

REFUSED, ENDLESS = 3, 4
SECONDS = 1.0
"""Of this process's own time. Schemas that people write take a few milliseconds."""
LETTERS = 64
"""How long an answer is tried: some grammars are compiled at once and come to nothing at their first letters."""


def main(limits: str) -> None:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    threading.Thread(target=_end_in_time, daemon=True).start()
    matcher = LLMatcher(
        LLTokenizer("byte"), sys.stdin.buffer.read().decode(), log_level=0, limits=LLParserLimits(**json.loads(limits))
    )
    chance = random.Random(0)  # noqa: S311  any answer will do
    for _ in range(LETTERS):
        if matcher.is_error() or matcher.is_stopped():
            break
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(256) if mask[i // 8] >> (i % 8) & 1]
        if not allowed:  # but for the end
            break
        matcher.consume_token(chance.choice(allowed))
    if matcher.is_error():
        sys.stdout.buffer.write(matcher.get_error()[:2000].encode())
        sys.stdout.flush()
        os._exit(REFUSED)


def _end_in_time() -> None:
    while time.process_time() < SECONDS:
        time.sleep(0.02)
    os._exit(ENDLESS)


if __name__ == "__main__":
    main(*sys.argv[1:])
