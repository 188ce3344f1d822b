"""The patterns of an adapter's rank_pattern and alpha_pattern: regular expressions by a stranger, matched with a time limit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

_SECONDS = 10
"""For all patterns and modules. Those that peft writes take milliseconds; some expressions take longer than anyone can wait."""
_MATCH = r"""
import json, re, sys
patterns, modules = json.load(sys.stdin)
compiled = [(pattern, re.compile(rf"(.*\.)?({pattern})$")) for pattern in patterns]
json.dump([next((pattern for pattern, own in compiled if own.match(module)), None) for module in modules], sys.stdout)
"""
"""As peft matches them (utils/other.py, get_pattern_key): the first pattern that fits counts."""


def by_pattern(patterns: Mapping[str, Any], modules: Iterable[str]) -> dict[str, Any]:
    """For each module that a pattern fits, the value of the first pattern that does.

    Matched in another process, because Python cannot stop a match that it has begun. Raises ValueError for what is no regular
    expression or takes too long.
    """
    names = list(modules)
    if not patterns:
        return {}
    command = [sys.executable, "-I", "-c", _MATCH]
    try:
        done = subprocess.run(
            command, input=json.dumps([list(patterns), names]), capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"takes more than {_SECONDS} s to match") from error
    except subprocess.CalledProcessError as error:
        raise ValueError((error.stderr.strip() or "is no regular expression").splitlines()[-1]) from error
    return {name: patterns[pattern] for name, pattern in zip(names, json.loads(done.stdout), strict=True) if pattern is not None}
