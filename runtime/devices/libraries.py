"""The shared libraries that ONNX Runtime's providers for GPUs load, and where to get those that are missing.

ONNX Runtime only says on stderr that a provider could not be loaded, and goes on without it. What it needs is in the dynamic
sections of its own libraries (release 1.31), cuDNN excepted, which it loads by itself for convolutions.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import io
import sys
from pathlib import Path

from .device import CUDA, TENSORRT

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
OLDEST_TENSORRT = "10.15"
"""Reads all operators of the standard flavour; its library's name is that of all 10s."""
DRIVER = "a driver for CUDA"
_DRIVER = ("libcuda.so.1",)
_CUDA = ("libcudart.so.{cuda}", "libcublasLt.so.{cuda}", "libcublas.so.{cuda}", "libcurand.so.10", "libcudnn.so.9")
_TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_NO_DEVICE = 100
"""cudaErrorNoDevice."""
_NEEDED = {CUDA: (*_DRIVER, *_CUDA), TENSORRT: (*_DRIVER, *_CUDA, *_TENSORRT)}


def missing_libraries(provider: str) -> list[str]:
    """Those of a provider that cannot be loaded, NVIDIA's wheels included, which come first; outside Linux none is known."""
    import onnxruntime as ort

    if provider not in _NEEDED:
        return []
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
            ort.preload_dlls()
    if sys.platform != "linux":
        return []
    if provider == TENSORRT:
        _preload_tensorrt()
    return [name for name in (name.format(cuda=cuda_major()) for name in _NEEDED[provider]) if not _loads(name)]


def _preload_tensorrt() -> None:
    """Load what NVIDIA's wheels have in a folder that neither the system nor ONNX Runtime looks into."""
    found = importlib.util.find_spec("tensorrt_libs")
    for folder in (found.submodule_search_locations or []) if found else []:
        for name in _TENSORRT:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(Path(folder) / name), ctypes.RTLD_GLOBAL)


def library_versions() -> dict[str, str]:
    """Versions of CUDA's and TensorRT's libraries that are here, and of the newest CUDA that the driver can run."""

    def asked(library: str, function: str) -> int:
        number = ctypes.c_int()
        try:
            getattr(ctypes.CDLL(library), function)(ctypes.byref(number))
        except (OSError, AttributeError):
            return 0
        return number.value

    def told(library: str, function: str) -> int:
        try:
            return int(getattr(ctypes.CDLL(library), function)())
        except (OSError, AttributeError):
            return 0

    def cuda(number: int) -> str:
        return f"{number // 1000}.{number % 1000 // 10}" if number else ""

    def dotted(number: int) -> str:
        return f"{number // 10_000}.{number % 10_000 // 100}.{number % 100}" if number else ""

    runtime = f"libcudart.so.{cuda_major()}"
    found = {
        "CUDA": cuda(asked(runtime, "cudaRuntimeGetVersion")),
        DRIVER: cuda(asked(runtime, "cudaDriverGetVersion")),
        "cuDNN": dotted(told("libcudnn.so.9", "cudnnGetVersion")),
        "TensorRT": dotted(told("libnvinfer.so.10", "getInferLibVersion")),
    }
    return {name: version for name, version in found.items() if version}


def gpu_count() -> int | None:
    """How many CUDA sees; None where it cannot be asked."""
    count = ctypes.c_int()
    try:
        status = ctypes.CDLL(f"libcudart.so.{cuda_major()}").cudaGetDeviceCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return None
    return count.value if status in (0, _NO_DEVICE) else None


def needed_versions() -> dict[str, str]:
    """By the names of `library_versions`: what this ONNX Runtime needs, TensorRT only for its own provider."""
    return {"CUDA": cuda_major(), DRIVER: cuda_major(), "cuDNN": "9", "TensorRT": OLDEST_TENSORRT}


def too_old(provider: str) -> str:
    """What of a provider's libraries or driver has too low a version and how to mend it, if anything has."""
    if provider not in _NEEDED:
        return ""
    here, major = library_versions(), cuda_major()
    driver, tensorrt = here.get(DRIVER, major), here.get("TensorRT", OLDEST_TENSORRT)
    if int(driver.split(".")[0]) < int(major):
        return f"NVIDIA's driver is for CUDA {driver}, and this ONNX Runtime needs CUDA {major}. Update the driver"
    if provider == TENSORRT and _numbers(tensorrt) < _numbers(OLDEST_TENSORRT):
        return f"TensorRT is {tensorrt}, and {OLDEST_TENSORRT} is needed. {advice([_TENSORRT[0]])}"
    return ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


def advice(missing: list[str]) -> str:
    """How to get them."""
    steps = []
    if any(name in _DRIVER for name in missing):
        steps.append("install NVIDIA's driver")
    if any(name not in (*_DRIVER, *_TENSORRT) for name in missing):
        steps.append("run: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    if any(name in _TENSORRT for name in missing):
        steps.append(f"run: pip install 'tensorrt-cu{cuda_major()}>={OLDEST_TENSORRT},<11'")
    text = ", and ".join(steps)
    return f"{text[:1].upper()}{text[1:]}"


def clashing_packages() -> str:
    """A sentence about packages of ONNX Runtime that are installed over each other, if there are any."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if len(found) < 2:
        return ""
    listed = (f"{name} {version}" for name, version in found.items())
    keep = "onnxruntime-gpu" if "onnxruntime-gpu" in found else next(iter(found))
    remove = f"pip uninstall -y {' '.join(found)}"
    return f"{' and '.join(listed)} are installed over each other. Run: {remove}, then: pip install {keep}"


def cuda_major() -> str:
    """The major number of the CUDA version that this ONNX Runtime was built for."""
    import onnxruntime as ort

    return str(getattr(ort, "cuda_version", "") or "13").split(".")[0]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
