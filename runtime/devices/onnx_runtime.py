"""The ONNX Runtime that is installed: whether its version is one that this package knows."""

from __future__ import annotations

import logging
import re
from functools import cache

from ..errors import ProviderError

OLDEST = (1, 25)
"""Has kernels for every graph and every test passes; 1.24 has none for the cache of standard graphs."""
NEWEST_TESTED = (1, 32)
_log = logging.getLogger("idefics2_onnx")


@cache  # warns once
def check_version() -> None:
    """Raise ProviderError for a version that is too old, and warn of one that is newer than those that were tested."""
    import onnxruntime as ort

    numbers = re.match(r"(\d+)\.(\d+)", ort.__version__)
    version = (int(numbers[1]), int(numbers[2])) if numbers else NEWEST_TESTED
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


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
