"""What one matrix product of the decoder costs on a GPU: weights as [K, N] and as [N, K], packed in one, and in 4 and 8 bits.

    python benchmarks/gpu_products.py [--json FILE]

Each graph multiplies one x [rows, K] by several weights, so that none is still in the GPU's cache when it comes again. Times
are of the GPU's kernels, by PyTorch's profiler.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from gpu_trace import traced
from onnx import TensorProto, helper, numpy_helper

SHAPES = {
    "k": (4096, 1024), "q": (4096, 4096), "qkv": (4096, 6144), "gate": (4096, 14336), "gate and up": (4096, 28672),
    "down": (14336, 4096), "head": (4096, 32003), "padded head": (4096, 32064), "vision fc1": (1152, 4304),
}  # fmt: skip
KINDS = ("NN", "NT", "4 bits 16", "4 bits 32", "4 bits 128", "8 bits 128", "4 bits 32 mixed", "8 bits 32 mixed")
BYTES = 128 << 20
"""Of weights a graph, in fp16."""


def graph(kind: str, k: int, n: int, copies: int) -> bytes:
    random = np.random.default_rng(0)
    nodes, weights = [], []
    plain, domain = kind in ("NN", "NT"), {"domain": "com.microsoft"}
    if plain:
        arrays = {"w": (random.random((k, n) if kind == "NN" else (n, k), np.float32) / 64).astype(np.float16)}
    else:
        bits, size = int(kind[0]), int(kind.split()[2])
        arrays = {
            "w": random.integers(0, 256, (n, k // size, size * bits // 8), dtype=np.uint8),
            "s": (random.random((n, k // size), np.float32) / 1000).astype(np.float16),
        }
    for i in range(copies):
        arrays["w"].reshape(-1)[0] = i  # or else they might be taken for one
        weights += [numpy_helper.from_array(array, f"{name}{i}") for name, array in arrays.items()]
        inputs, outputs = ["x", *(f"{name}{i}" for name in arrays)], [f"y{i}"]
        if kind == "NN":
            nodes.append(helper.make_node("MatMul", inputs, outputs))
        elif kind == "NT":
            nodes.append(helper.make_node("FusedMatMul", inputs, outputs, **domain, transB=1))
        else:
            nodes.append(helper.make_node("MatMulNBits", inputs, outputs, **domain, K=k, N=n, bits=bits, block_size=size))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["rows", k])
    results = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT16, ["rows", n]) for i in range(copies)]
    made = helper.make_graph(nodes, "products", [x], results, weights)
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString())


def milliseconds(session: Any, rows: int, k: int, copies: int, device: str) -> tuple[float, list[str]]:
    """Of one product, and the kernels' names."""
    binding = session.io_binding()
    x = np.random.default_rng(1).random((rows, k), np.float32).astype(np.float16)
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, device, 0))
    for i in range(copies):
        binding.bind_output(f"y{i}", device)
    for _ in range(3):
        session.run_with_iobinding(binding)
    if device == "cpu":
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        return 1000 * (time.perf_counter() - start) / copies, []

    def thrice() -> None:
        for _ in range(3):
            session.run_with_iobinding(binding)

    dear: Counter[str] = Counter()
    for event in traced(thrice):
        dear[event["name"]] += event["dur"]
    return sum(dear.values()) / 1000 / 3 / copies, [name[:120] for name, _ in dear.most_common(2)]


def measure(device: str, rows: list[int], found: dict[str, Any], path: Path, shapes: list[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    for kind in KINDS:
        for name in shapes:
            k, n = SHAPES[name]
            if "bits" in kind and (k % 128 or name == "padded head"):
                continue
            copies = max(2, BYTES // (2 * k * n)) if device != "cpu" else 1
            options = ort.SessionOptions()
            options.log_severity_level = 3
            if "mixed" in kind:
                options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
            provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
            try:
                session = ort.InferenceSession(graph(kind, k, n, copies), options, providers=[provider])
                for count in rows:
                    ms, kernels = milliseconds(session, count, k, copies, device)
                    size = k * n * (2 if kind in ("NN", "NT") else int(kind[0]) / 8 + 2 / int(kind.split()[2]))
                    found[f"{kind}, {name}, {count}"] = {
                        "ms": ms, "GB/s": size / ms / 1e6, "TFLOP/s": 2 * count * k * n / ms / 1e9, "kernels": kernels,
                    }  # fmt: skip
                    print(f"{kind:16}{name:14}{count:6}{ms:10.4f} ms{size / ms / 1e6:9.0f} GB/s  {kernels[:1]}"[:150], flush=True)
            except Exception as error:
                found[f"{kind}, {name}"] = {"failed": str(error)[:300]}
                print(kind, name, str(error)[:200], flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            if time.monotonic() > end:
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", default="1,8,32,576")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path, default=Path("gpu-products.json"))
    chosen = parser.parse_args()
    measure(
        chosen.device, [int(count) for count in chosen.rows.split(",")], {}, chosen.json, chosen.shapes.split(","), chosen.seconds
    )
