"""The ONNX Runtime that is installed: whether its version is one that this package knows."""

from __future__ import annotations

import logging
import re
from functools import cache

from ..errors import ProviderError

OLDEST = (1, 25)
"""Has kernels for every graph; 1.24 has none for the cache of standard graphs."""
_CAREFUL_SUMS = (1, 30)
"""Older ones end the process (an assertion) as they open products of integers with session.x64quantprecision."""
_WIDE_SQUARES = (1, 30)
"""Older ones may add up the squares of a sum's norm in fp16 on CUDA, where large ones overflow, unless they are told not to."""
NEWEST_TESTED = (1, 32)
_log = logging.getLogger("idefics2_onnx")


@cache  # warns once
def check_version() -> None:
    """Raise ProviderError for a version that is too old, and warn of one that is newer than those that were tested."""
    import onnxruntime as ort

    version = _version()
    if version < OLDEST:
        raise ProviderError(
            f"ONNX Runtime {ort.__version__} is older than {_dotted(OLDEST)}, and lacks operators of these graphs. "
            "Run: pip install --upgrade onnxruntime (or onnxruntime-gpu)."
        )
    if version > NEWEST_TESTED:
        _log.warning(
            "ONNX Runtime %s is newer than %s, the newest that was tested. If answers look wrong, run `idefics2-onnx doctor`.",
            ort.__version__,
            _dotted(NEWEST_TESTED),
        )


def check_careful_sums() -> None:
    """Raise ProviderError for a version that cannot take sums of 8-bit products with care."""
    import onnxruntime as ort

    if _version() < _CAREFUL_SUMS:
        raise ProviderError(
            f"This processor has no 8-bit units, and ONNX Runtime {ort.__version__} cannot add products of integers without "
            f"overflow; {_dotted(_CAREFUL_SUMS)} can. Run: pip install --upgrade onnxruntime, or export with --fp16."
        )


def narrow_squares() -> bool:
    """Whether norms of sums have to be told to add up squares in fp32 on CUDA."""
    return _version() < _WIDE_SQUARES


def _version() -> tuple[int, int]:
    import onnxruntime as ort

    numbers = re.match(r"(\d+)\.(\d+)", ort.__version__)
    return (int(numbers[1]), int(numbers[2])) if numbers else NEWEST_TESTED


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
