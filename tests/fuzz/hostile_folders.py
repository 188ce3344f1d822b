"""Model folders from strangers: edited JSON, damaged and edited graphs, files that are missing, links or too many."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from hostile_place import EXAMPLES, Attempt, Place
from hostile_values import NUMBERS, damaged, edited_json
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.graphs.contract import GRAPHS, MANIFEST, OPERATORS
from idefics2_onnx.runtime.commands.check import check_folder
from idefics2_onnx.runtime.folder import DEMO, PROCESSOR_FILES, ModelFolder
from idefics2_onnx.runtime.model import Idefics2
from onnx import GraphProto, TensorProto, helper

PICTURE = EXAMPLES / "shapes.png"


def json_files(rng: random.Random, place: Place) -> Attempt:
    """JSON with other values, whether the manifest vouches for it or not; or the manifest itself."""
    folder = demo_copy(place)
    for name in rng.sample([name for name in (*PROCESSOR_FILES, MANIFEST) if (folder / name).exists()], rng.choice([1, 1, 1, 2])):
        content = (folder / name).read_bytes()
        changed = edited_json(rng, content, place.values) if rng.random() < 0.8 else damaged(rng, content)
        replace(folder, name, changed, vouched=name != MANIFEST and rng.random() < 0.9)
    return using(rng, folder)


def graphs(rng: random.Random, place: Place) -> Attempt:
    """Graphs and weights with flipped bytes, and graphs that someone has edited as protobufs."""
    folder, graph = demo_copy(place), rng.choice(GRAPHS)
    name, kind = f"{graph}.onnx", rng.randrange(10)
    if kind == 0:
        name += ".data"
    content = (folder / name).read_bytes()
    if kind < 3:
        changed = damaged(rng, content)
    else:
        model = onnx.load_model_from_string(content)
        for _ in range(rng.choice([1, 1, 2])):
            with contextlib.suppress(TypeError, ValueError):  # of a number that protobuf does not hold
                rng.choice(_EDITS)(rng, model.graph)
        if rng.random() < 0.05:
            model.ir_version = rng.choice([0, 3, 99, 1 << 40])
        if rng.random() < 0.05:
            model.opset_import[0].version = rng.choice([0, 7, 99])
        changed = model.SerializeToString()
    replace(folder, name, changed, vouched=rng.random() < 0.95)
    return using(rng, folder)


def layouts(rng: random.Random, place: Place) -> Attempt:
    """Files that are missing, folders, links inside and outside and in circles, files beside them that no one asked for."""
    folder = demo_copy(place)
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice([path.name for path in folder.iterdir()])
        path, other = folder / name, rng.choice([*folder.iterdir()])
        kept = path.read_bytes() if path.is_file() else b""
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        match rng.randrange(9):
            case 0:
                path.mkdir()
            case 1:
                path.symlink_to(name)
            case 2:
                path.symlink_to(rng.choice([place.canary / "secret.txt", place.canary, folder, folder.parent, "/nowhere/x"]))
            case 3:
                (place.folder / name).write_bytes(kept)  # the honest file, beside the folder
                path.symlink_to(rng.choice([f"../{name}", place.folder / name]))
            case 4:
                (folder / "kept").write_bytes(kept)
                path.symlink_to("kept")
            case 5:
                path.symlink_to(other.name)
            case 6:
                path.write_bytes(kept)
                path.chmod(rng.choice([0, 0o200, 0o777]))
            case 7:
                path.write_bytes(kept)
                (
                    folder
                    / rng.choice(
                        ["chat_template.jinja", "prompt.onnx", "x.py", ".hidden", "\udcff", "model.safetensors", "x" * 200]
                    )
                ).write_bytes(kept)
    return using(rng, folder)


def demo_copy(place: Place) -> Path:
    return Path(shutil.copytree(DEMO, place.folder / "model"))


def replace(folder: Path, name: str, content: bytes, vouched: bool = True) -> None:
    """Another content, and with `vouched` its size and hash in the manifest, as far as that can be read."""
    (folder / name).write_bytes(content)
    if vouched:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            manifest = json.loads((folder / MANIFEST).read_bytes())
            manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (folder / MANIFEST).write_text(json.dumps(manifest))


def using(rng: random.Random, folder: Path) -> Attempt:
    """What someone does with a folder: mostly, opens it and asks about a picture."""

    def ask() -> object:
        with Idefics2.from_pretrained(folder, "cpu") as model:
            return model.generate("What is it? é画", images=[PICTURE], max_new_tokens=2).text

    def talk() -> object:
        with Idefics2.from_pretrained(folder, "cpu") as model:
            return model.chat(max_new_tokens=2).send("Hi").text

    def prepare() -> object:
        processor = Idefics2Processor.from_pretrained(folder)
        inputs = processor(text=["<image>What?", "Hi"], images=[[PICTURE], []], padding=True)
        return processor.batch_decode(inputs["input_ids"])

    def verify() -> object:
        return list(check_folder(ModelFolder.open(folder), "cpu"))

    return rng.choice([ask, ask, ask, ask, talk, prepare, verify, verify])


def _operator(rng: random.Random, graph: GraphProto) -> None:
    node = rng.choice(graph.node)
    domain, name = rng.choice(
        [*sorted(OPERATORS), ("", "Loop"), ("", "If"), ("", "Scan"), ("x", "Nothing"), ("com.microsoft", "Odd")]
    )
    node.op_type, node.domain = name, domain


def _attribute(rng: random.Random, graph: GraphProto) -> None:
    node = rng.choice([node for node in graph.node if node.attribute] or graph.node)
    if rng.random() < 0.2 and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    if not node.attribute or rng.random() < 0.2:
        node.attribute.append(
            helper.make_attribute(
                rng.choice(["axis", "to", "perm", "scale", "value", "num_heads"]), rng.choice([0, -1, 1.5, [1], "x", 10**12])
            )
        )
        return
    attribute = rng.choice(node.attribute)
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice([0, -1, 1, 2, 3, 7, 100, 10**9, -(10**12), (1 << 63) - 1])
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = float(rng.choice(NUMBERS))
    elif attribute.type == onnx.AttributeProto.INTS and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([0, -1, 1, 5, 10**9, -(10**12), 1 << 40])
    else:
        attribute.type = rng.choice([1, 2, 3, 6, 7, 8])


def _wiring(rng: random.Random, graph: GraphProto) -> None:
    at = rng.randrange(len(graph.node))
    node, other = graph.node[at], rng.choice(graph.node)
    match rng.randrange(5):
        case 0:
            del graph.node[at]
        case 1:
            graph.node.append(node)
        case 2 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(
                ["", "nothing", *other.output, *[i.name for i in graph.input], *[i.name for i in graph.initializer][:50]]
            )
        case 3 if node.output:
            node.output[0] = rng.choice(["", "other", *other.output])
        case _:
            node.input.append(rng.choice([*other.output, ""]))


def _weight(rng: random.Random, graph: GraphProto) -> None:
    tensor = rng.choice(graph.initializer)
    match rng.randrange(5):
        case 0 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, 1, -1, 2, 10**9, 1 << 62, (1 << 63) - 1])
        case 1:
            del tensor.dims[:]
            tensor.dims.extend(rng.choice([[], [1], [1 << 32, 1 << 32], [0], [7, 7, 7]]))
        case 2:
            tensor.data_type = rng.choice([0, 1, 2, 7, 8, 10, 11, 16, 22, 99])
        case 3 if tensor.external_data:
            entry = rng.choice(tensor.external_data)
            entry.value = rng.choice(
                [
                    "../canary/secret.txt",
                    "vision.onnx.data",
                    "decoder.onnx.data",
                    "/nowhere/x",
                    "",
                    "-1",
                    "0",
                    "1",
                    str(10**18),
                    "x",
                    "9" * 40,
                    "1e3",
                    "./vision.onnx.data",
                ]
            )
        case _:
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
            tensor.raw_data = rng.randbytes(rng.randrange(40))


def _constant(rng: random.Random, graph: GraphProto) -> None:
    """Another number in one of the small tensors that say shapes, axes and bounds."""
    small = [
        tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT64 and len(tensor.raw_data) in range(8, 200)
    ]
    inside = [
        a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR and len(a.t.raw_data) >= 8
    ]
    if small or inside:
        tensor = rng.choice([*small, *inside])
        values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 8 * 8], np.int64).copy()
        values[rng.randrange(len(values))] = rng.choice([0, 1, -1, 2, 100, 10**6, 10**9, 10**12, (1 << 63) - 1, -(1 << 63)])
        tensor.raw_data = values.tobytes()


def _interface(rng: random.Random, graph: GraphProto) -> None:
    sides = [side for side in (graph.input, graph.output) if side]  # another edit may have emptied one
    if not sides:
        return
    side = rng.choice(sides)
    value = rng.choice(side)
    shape = value.type.tensor_type.shape
    match rng.randrange(5):
        case 0:
            value.name = rng.choice(["x", "", value.name + "x"])
        case 1:
            value.type.tensor_type.elem_type = rng.choice([0, 1, 7, 10, 99])
        case 2:
            side.remove(value)
        case 3 if shape.dim:
            shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice([0, -1, 1, 7, 1 << 40])
        case _:
            shape.dim.add().dim_param = "more"


def _bomb(rng: random.Random, graph: GraphProto) -> None:
    """Much memory by operators that our graphs have, too, at opening or at the first call, for a number that is 0 in the end."""
    many, places = (
        rng.choice([10**6, 10**8, 10**9, 10**10, 10**13]),
        [node for node in graph.node if node.op_type in ("Add", "Gather", "Slice", "Reshape", "Expand")],
    )
    node = rng.choice([*places, *graph.node])
    constants = {"many": [many], "one": [1], "nothing": 0, "step": 1, "zero": [0]}
    graph.initializer.extend(
        helper.make_tensor(
            f"bomb_{name}",
            TensorProto.INT64,
            [len(value)] if isinstance(value, list) else [],
            value if isinstance(value, list) else [value],
        )
        for name, value in constants.items()
    )
    make, size = helper.make_node, "bomb_many"
    made = []
    if rng.random() < 0.6:  # by an input's size, so that nothing is known before the first call
        made += [
            make("Shape", [graph.input[0].name], ["bomb_shape"]),
            make("Slice", ["bomb_shape", "bomb_zero", "bomb_one"], ["bomb_first"]),
            make("Mul", ["bomb_first", "bomb_many"], ["bomb_size"]),
        ]
        size = "bomb_size"
    made += rng.choice([
        [make("ConstantOfShape", [size], ["bomb"])],
        [make("Squeeze", [size], ["bomb_stop"]), make("Range", ["bomb_nothing", "bomb_stop", "bomb_step"], ["bomb"])],
        [make("Expand", ["bomb_nothing", size], ["bomb"])],
        [make("Concat", [size if i == 0 else f"bomb_{i}"] * 2, [f"bomb_{i + 1}"] if i < 33 else ["bomb"], axis=0) for i in range(34)],
        [make("Cast", [size if i == 0 else f"bomb_{i}"], [f"bomb_{i + 1}"] if i < 5000 else ["bomb"], to=1 + 6 * (i % 2 == 1)) for i in range(5001)],
    ])  # fmt: skip
    made += [
        make("ReduceMax", ["bomb"], ["bomb_end"], keepdims=0),
        make("Cast", ["bomb_end"], ["bomb_whole"], to=7),
        make("Min", ["bomb_whole", "bomb_nothing"], ["bomb_least"]),
        make("Max", ["bomb_least", "bomb_nothing"], ["bomb_0"]),
    ]
    at = rng.randrange(len(node.input)) if node.input else 0
    if node.input:
        kind = rng.choice([1, 7, 10])
        made += [make("Cast", ["bomb_0"], ["bomb_typed"], to=kind), make("Add", [node.input[at], "bomb_typed"], ["bomb_sum"])]
        where = list(graph.node).index(node)
        before = [*made, *graph.node] if size == "bomb_many" and where == 0 else [*graph.node[:where], *made, *graph.node[where:]]
        node.input[at] = "bomb_sum"
        nodes = [type(node).FromString(each.SerializeToString()) for each in before]
        del graph.node[:]
        graph.node.extend(nodes)


_EDITS: list[Callable[[random.Random, GraphProto], None]] = [
    _operator,
    _attribute,
    _attribute,
    _wiring,
    _weight,
    _weight,
    _constant,
    _constant,
    _interface,
    _bomb,
]
