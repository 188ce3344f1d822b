"""What a GPU does during a piece of work, by PyTorch's profiler, which sees the kernels of every library in the process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def traced(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """Kernels, copies and fills in the order of their starts, each with its name, and start (ts) and duration (dur) in µs."""
    import torch

    torch.zeros(1, device="cuda")  # starts CUDA
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        work()
        torch.cuda.synchronize()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profile.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    return sorted((event for event in events if event.get("cat") in _WORK), key=lambda event: event["ts"])
