"""What this machine is made of, as far as it decides how a model runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_INSTRUCTIONS = {
    # name in the kernel's list → how people call it
    "amx_int8": "AMX", "avx512_bf16": "AVX512-BF16", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512",
    "avx2": "AVX2", "i8mm": "I8MM", "asimddp": "DOTPROD", "asimd": "NEON",
}  # fmt: skip
_OF_NUMPY = {
    "AVX512VNNI": "avx512_vnni", "AVX512F": "avx512f", "AVX2": "avx2", "ASIMDDP": "asimddp", "ASIMD": "asimd",
}  # fmt: skip
"""NumPy's names of those that it asks the processor for itself, on every system."""
INT8_UNITS = frozenset({"AMX", "AVX512-VNNI", "AVX-VNNI", "I8MM", "DOTPROD"})
"""Instructions that multiply 8-bit integers several times as fast as floats."""
BF16_UNITS = frozenset({"AMX", "AVX512-BF16"})
"""Instructions for bfloat16, which OpenVINO uses and ONNX Runtime does not."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by NVIDIA."""

    name: str
    driver: str
    memory: int
    """Bytes."""
    free: int


@dataclass(frozen=True)
class Machine:
    """Processor, memory and GPUs."""

    system: str
    processor: str
    cores: int
    """That this process may use."""
    memory: int | None
    """Bytes; None where the system does not say."""
    free: int | None
    """What new programs may take."""
    instructions: list[str] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        processor, _ = _processor()
        memory, free = _memory()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(f"{platform.system()} {platform.machine()}", processor, cores, memory, free, instructions(), _gpus())


def instructions() -> list[str]:
    """What the processor has for models, as people call it; as far as the system tells."""
    _, flags = _processor()
    return [name for flag, name in _INSTRUCTIONS.items() if flag in flags]


def _processor() -> tuple[str, set[str]]:
    """Its name, and the kernel's names of what it can do."""
    if platform.system() == "Linux":
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        return found[1] if found else platform.machine(), set(flags[1].split()) if flags else set()
    name = _output("sysctl", "-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else platform.processor()
    return name, {flag for feature, flag in _OF_NUMPY.items() if _numpy_features().get(feature)}


def _numpy_features() -> dict[str, bool]:
    """What NumPy found that the processor can do; its table is private, so maybe nothing."""
    for core in ("numpy._core", "numpy.core"):  # of NumPy 2 and 1
        with contextlib.suppress(ImportError, AttributeError):
            return dict(importlib.import_module(f"{core}._multiarray_umath").__cpu_features__)
    return {}


@cache
def total_memory() -> int | None:
    """Bytes that this machine has; None where the system does not say."""
    return _memory()[0]


def _memory() -> tuple[int | None, int | None]:
    if platform.system() == "Linux":
        text = Path("/proc/meminfo").read_text("utf-8")
        sizes = {key: 1024 * int(size) for key, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
        return sizes.get("MemTotal"), sizes.get("MemAvailable")
    if platform.system() == "Windows":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), *((f"m{i}", ctypes.c_ulonglong) for i in range(7))]

        status = Status()
        status.length = ctypes.sizeof(status)
        kernel: Any = getattr(ctypes, "windll")  # noqa: B009  known on Windows only
        if kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status.m0), int(status.m1)
        return None, None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (ValueError, OSError):
        return None, None


def _gpus() -> list[Gpu]:
    fields = "name,driver_version,memory.total,memory.free"
    text = _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in text.splitlines()]
    return [Gpu(r[0], r[1], int(r[2]) << 20, int(r[3]) << 20) for r in rows if len(r) == 4 and r[2].isdigit() and r[3].isdigit()]


def _output(*command: str) -> str:
    """What a command prints, or nothing where there is none or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603  ours, fixed
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
