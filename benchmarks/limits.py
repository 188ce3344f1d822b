"""Where the time of a phone's photo with the model's own options goes, to the 64th token, beside what this processor could do.

    python benchmarks/limits.py FOLDER [--threads N] [--json FILE]

The seconds are those of one warm answer, operator by operator from ONNX Runtime's profile. "Products" are those with weights.
"Between operators" is what runs of graphs take beside their operators, the profile's own work included; "host" is what neither
runs nor the picture take. The same answer is timed again without a profile.

A part's limit is its multiply-adds at the best rate of a product of the same type alone, a graph of one operator in a session of
the same options. Attention counts as products in float32. The limit of steps is the bytes of their products' weights at the best
rate at which NumPy reads memory, with as many threads; weights that stay in the caches may be read faster. Parts without products
have none; nor has the decoder's attention, which is among its others.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from cpu import NEW, QUESTIONS, _machine, photo, question
from idefics2_onnx.runtime.devices.machine import Machine
from idefics2_onnx.runtime.devices.sessions import default_options
from idefics2_onnx.runtime.images import image_processor
from idefics2_onnx.runtime.model import Idefics2
from onnx.helper import make_empty_tensor_value_info, make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.helper import tensor_dtype_to_np_dtype as dtype_of

FLOAT_PRODUCTS = ("Conv", "Gemm", "MatMul", "FusedMatMul")
QUANTISED_PRODUCTS = ("MatMulNBits", "MatMulIntegerToFloat")
"""Both are with weights: attention, the only product without, is an operator of its own in these graphs."""
ATTENTION = ("MultiHeadAttention", "Attention")
NORMS = ("LayerNormalization", "SkipLayerNormalization")
"""The encoder's; the connector has others."""
BODIES = ("If", "Loop", "Scan")
"""Their seconds are those of the operators inside."""
PLAIN = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
PARTS = (
    "decode", "cut and resize", "vision, products", "vision, attention", "vision, other", "connector", "prompt, products",
    "prompt, other", "steps, products", "steps, other", "between operators", "host",
)  # fmt: skip
SIZES = ("rows", "inputs", "outputs")
SHAPES = 3
"""Products of each type that are measured alone: those with the most multiply-adds."""
ENOUGH = 0.5
"""Seconds of measuring one."""
MEMORY = 1 << 30
"""Bytes to read: more than caches hold."""


@dataclass(frozen=True)
class Product:
    """[rows, inputs] by a weight [inputs, outputs]."""

    kind: str
    """fp32, fp16, int8 with a scale per channel, or "4 bits" and "8 bits" with a scale per group."""
    type: int
    """ONNX's number of the rows' type."""
    rows: int
    inputs: int
    outputs: int
    node: onnx.NodeProto = field(compare=False)
    weights: list[onnx.TensorProto] = field(compare=False)
    """Types and shapes of what the node reads beside the rows."""

    @classmethod
    def plain(cls, type_: int, rows: int, inputs: int, outputs: int) -> Product:
        """One of float matrices."""
        weight = onnx.TensorProto(name="weight", data_type=type_, dims=(inputs, outputs))
        return cls(PLAIN[type_], type_, rows, inputs, outputs, make_node("MatMul", ["x", "weight"], ["y"]), [weight])

    @property
    def work(self) -> int:
        """Multiply-adds."""
        return self.rows * self.inputs * self.outputs

    @property
    def weight_bytes(self) -> int:
        return sum(math.prod(weight.dims) * dtype_of(weight.data_type).itemsize for weight in self.weights)

    def seconds_alone(self, options: ort.SessionOptions) -> float:
        """Of the product by itself, with random numbers."""
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        node.input[0], node.output[0] = "x", "y"
        weights = [onnx.numpy_helper.from_array(some(weight.data_type, weight.dims), weight.name) for weight in self.weights]
        x, y = make_tensor_value_info("x", self.type, (self.rows, self.inputs)), make_empty_tensor_value_info("y")
        opsets = [make_opsetid("", 22), make_opsetid("com.microsoft", 1)]
        model = make_model(make_graph([node], "product", [x], [y], weights), opset_imports=opsets, ir_version=10)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", some(self.type, (self.rows, self.inputs)))
        binding.bind_output("y")
        return fastest(lambda: session.run_with_iobinding(binding))


@dataclass(frozen=True)
class Operator:
    """One that ran."""

    name: str
    """Of its kind, as ONNX has it."""
    seconds: float
    product: Product | None = None
    attended: int = 0
    """Multiply-adds of an attention."""


class ProfiledSession(ort.InferenceSession):
    """A session with a profile of its own, which knows the seconds of its runs."""

    _opening = threading.Lock()

    def __init__(self, path: str, options: ort.SessionOptions, **others: Any) -> None:
        graph = onnx.load(path, load_external_data=False).graph
        self.nodes, self.weights = ({one.name: one for one in part} for part in (graph.node, graph.initializer))
        self.seconds: list[float] = []
        with self._opening:  # graphs are opened side by side, with the same options
            options.profile_file_prefix = str(Path(options.profile_file_prefix).with_name(Path(path).stem))
            super().__init__(path, options, **others)

    def run_with_iobinding(self, *arguments: Any) -> None:
        start = time.perf_counter()
        super().run_with_iobinding(*arguments)
        self.seconds.append(time.perf_counter() - start)

    def operators(self) -> list[list[Operator]]:
        """Those of the runs whose seconds are known, run by run. It ends the profile."""
        runs: list[list[Operator]] = []
        events = json.loads(Path(self.end_profiling()).read_text())
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            if event["name"] == "model_run":
                runs.append([])
            elif event["cat"] == "Node" and event["args"]["op_name"] not in BODIES:
                runs[-1].append(self._operator(event))
        return runs[-len(self.seconds) :]

    def _operator(self, event: dict[str, Any]) -> Operator:
        about, seconds = event["args"], event["dur"] / 1e6
        name = about["op_name"]
        if name not in FLOAT_PRODUCTS + QUANTISED_PRODUCTS + ATTENTION:
            return Operator(name, seconds)
        (type_, shape), *others = (next(iter(tensor.items())) for tensor in about["input_type_shape"])
        output = next(iter(about["output_type_shape"][0].values()))
        if name in ATTENTION:
            keys = others[0][1][-2]
            return Operator(name, seconds, attended=keys * (math.prod(shape) + math.prod(output)))
        inputs, outputs = shape[-1], output[-1]
        if name == "Conv":  # of patches that do not overlap; its name may be another than in the file
            (weight,) = (self.weights[node.input[1]] for node in self.nodes.values() if node.op_type == "Conv")
            inputs, outputs = math.prod(weight.dims[1:]), output[1]
        sizes = onnx.TensorProto.DataType.Value(type_.upper()), math.prod(output) // outputs, inputs, outputs
        if name in FLOAT_PRODUCTS:
            return Operator(name, seconds, Product.plain(*sizes))
        node = self.nodes[event["name"].removesuffix("_kernel_time")]
        kind = next((f"{attribute.i} bits" for attribute in node.attribute if attribute.name == "bits"), "int8")
        return Operator(name, seconds, Product(kind, *sizes, node, [self.weights[weight] for weight in node.input[1:]]))


def some(type_: int, shape: Sequence[int]) -> Any:
    """Random numbers of a type of ONNX's: bytes, or floats from 0 to 1."""
    random, dtype = np.random.default_rng(0), dtype_of(type_)
    if dtype.itemsize == 1:
        return random.integers(0, 256, shape, np.uint8).view(dtype)
    return random.random(shape, np.float32).astype(dtype, copy=False)


def fastest(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls."""
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < ENOUGH:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def reading_rates(threads: int) -> dict[str, float]:
    """Bytes a second that NumPy's functions read."""
    pieces = np.array_split(np.ones(MEMORY // 4, np.float32), threads)
    ways: dict[str, Callable[[Any], Any]] = {"sum": np.sum, "max": np.max, "dot": lambda piece: np.dot(piece, piece)}
    with ThreadPoolExecutor(threads) as pool:
        return {name: MEMORY / fastest(lambda way=way: list(pool.map(way, pieces))) for name, way in ways.items()}


@contextmanager
def clocked(owner: Any, name: str) -> Iterator[list[float]]:
    """Seconds of each call of a function, as long as this is open."""
    function, seconds = getattr(owner, name), list[float]()

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = function(*arguments, **options)
        seconds.append(time.perf_counter() - start)
        return found

    with patch.object(owner, name, timed):
        yield seconds


def by_part(sessions: Any, steps: int) -> dict[str, list[Operator]]:
    """The operators of an answer with so many steps after its prompt."""
    found: dict[str, list[Operator]] = defaultdict(list)
    for run in sessions.vision.operators():
        end = max(index for index, one in enumerate(run) if one.name in NORMS)
        for index, one in enumerate(run):
            kind = "products" if one.product else "attention" if one.attended else "other"
            found["connector" if index > end else f"vision, {kind}"].append(one)
    embedding, decoder = sessions.embedding.operators(), sessions.decoder.operators()
    prompt = decoder[:-steps] if sessions.prompt is sessions.decoder else sessions.prompt.operators()
    for name, runs in (("prompt", embedding[:-steps] + prompt), ("steps", embedding[-steps:] + decoder[-steps:])):
        for one in (one for run in runs for one in run):
            found[f"{name}, {'products' if one.product else 'other'}"].append(one)
    return found


def to_measure(operators: Sequence[Operator], vision: Iterable[Operator]) -> list[Product]:
    """The products with the most multiply-adds of each type, of all and of those with one row; the encoder's in float32, too."""
    totals: Counter[Product] = Counter()
    for one in operators:
        if one.product:
            totals[one.product] += one.product.work
    largest = max((one.product for one in vision if one.product), key=lambda product: product.work)
    chosen = {Product.plain(onnx.TensorProto.FLOAT, largest.rows, largest.inputs, largest.outputs): None}
    for kind in sorted({product.kind for product in totals}):
        own = [product for product, _ in totals.most_common() if product.kind == kind]
        chosen |= dict.fromkeys(own[:SHAPES] + [product for product in own if product.rows == 1][:1])
    return list(chosen)


def answered(folder: str, options: ort.SessionOptions) -> tuple[dict[str, Any], dict[str, list[Operator]]]:
    """Seconds of an answer and of its parts, with counts of what it had to do; and its operators by part."""
    with patch.object(ort, "InferenceSession", ProfiledSession):
        model = Idefics2.from_pretrained(folder, "cpu", session_options=options, image_cache=0)
    opened = model.engine.sessions
    sessions = {id(one): one for one in (opened.vision, opened.embedding, opened.prompt, opened.decoder)}.values()

    def answer(new: int) -> Any:
        return model.generate(question(QUESTIONS[0], photo()), max_new_tokens=new, eos_token_id=[])

    answer(2)
    for session in sessions:
        session.seconds.clear()
    with clocked(image_processor, "open_image") as decoding, clocked(image_processor.ImageProcessor, "tiles") as picture:
        start = time.perf_counter()
        timings = answer(NEW).timings
        whole = time.perf_counter() - start
    runs = sum(sum(session.seconds) for session in sessions)
    operators = by_part(opened, timings.steps)
    start = time.perf_counter()
    answer(NEW)
    unprofiled = time.perf_counter() - start
    parts = {name: sum(one.seconds for one in own) for name, own in operators.items()}
    parts |= {"decode": sum(decoding), "cut and resize": sum(picture) - sum(decoding)}
    parts |= {"between operators": runs - sum(parts[name] for name in operators), "host": whole - runs - sum(picture)}
    found = {
        "layers": model.engine.sizes.num_layers, "tiles": timings.images_encoded, "prompt": timings.prompt_tokens, "new": NEW,
        "seconds": whole, "unprofiled": unprofiled, "runs": runs, "parts": {name: {"seconds": parts[name]} for name in PARTS},
    }  # fmt: skip
    return found, operators


def limit(name: str, operators: Iterable[Operator], rates: Mapping[str, float], reading: float) -> dict[str, Any]:
    """Multiply-adds of a part by type, bytes of its weights, and seconds that it takes at least."""
    work, weight_bytes = Counter[str](), 0
    for one in operators:
        work["fp32"] += one.attended
        if one.product:
            work[one.product.kind] += one.product.work
            weight_bytes += one.product.weight_bytes
    computing = sum(count / rates[kind] for kind, count in work.items())
    least = weight_bytes / reading if name.startswith("steps") else computing
    return {"work": +work, "weight_bytes": weight_bytes, "limit": least}


def measure(folder: str, threads: int) -> dict[str, Any]:
    """An answer's parts in seconds with their limits, memory in bytes a second, and products alone in seconds."""
    options = default_options(["CPUExecutionProvider"])
    options.intra_op_num_threads = threads  # 0: as many as ONNX Runtime chooses
    with tempfile.TemporaryDirectory() as place:
        options.enable_profiling, options.profile_file_prefix = True, f"{place}/profile"
        found, operators = answered(folder, options)
    options.enable_profiling = False
    threads = threads or Machine.here().cores
    reading = reading_rates(threads)
    chosen = to_measure([one for own in operators.values() for one in own], operators["vision, products"])
    alone = {product: product.seconds_alone(options) for product in chosen}
    rates: dict[str, float] = {}
    for product, seconds in alone.items():
        rates[product.kind] = max(rates.get(product.kind, 0), product.work / seconds)
    for name, own in operators.items():
        if not name.endswith("other"):
            found["parts"][name] |= limit(name, own, rates, max(reading.values()))
    names = ("kind", *SIZES, "weight_bytes")
    rows = [{name: getattr(one, name) for name in names} | {"seconds": seconds} for one, seconds in alone.items()]
    return {"machine": _machine(), "threads": threads, **found, "reading": reading, "alone": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.folder, options.threads)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    whole = found["seconds"]
    print(f"{'':20} {'seconds':>9} {'share':>7} {'limit':>9} {'ratio':>6}")
    for name, part in found["parts"].items():
        least = f" {part['limit']:9.4f} {part['seconds'] / part['limit']:6.2f}" if "limit" in part else ""
        print(f"{name:20} {part['seconds']:9.4f} {part['seconds'] / whole:7.1%}{least}")
    between = found["parts"]["between operators"]["seconds"]
    print(f"{'all':20} {whole:9.4f}, without a profile {found['unprofiled']:.4f}")
    print(f"Of {found['runs']:.4f} s of runs, the profile's operators are {found['runs'] - between:.4f}.")
    print("Memory is read at", ", ".join(f"{speed / 1e9:.1f} GB/s by {way}" for way, speed in found["reading"].items()))
    for one in found["alone"]:
        shape = f"{one['rows']} × {one['inputs']} × {one['outputs']}"
        work, read = (count / one["seconds"] / 1e9 for count in (math.prod(one[n] for n in SIZES), one["weight_bytes"]))
        print(f"{one['kind']:6} {shape:22} {work:7.1f} thousand million multiply-adds a second, {read:6.1f} GB/s of weights")


if __name__ == "__main__":
    main()
