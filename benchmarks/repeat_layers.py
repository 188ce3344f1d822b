"""Make a deep model folder out of a shallow one, whose layers it repeats: for speed, memory and depth, not for quality.

    python benchmarks/repeat_layers.py GRAPHS SHALLOW FOLDER

SHALLOW is a model folder of a few layers. GRAPHS holds what an export of many layers in the same precision makes, except for the
data files. Layer i of FOLDER has the weights of layer i mod n. That takes seconds where exporting in 4 bits takes minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

LAYER = re.compile(r"(text_model\.layers|encoder\.layers)\.(\d+)\.")


def shallow_name(name: str, layers: dict[str, int]) -> str:
    """Of the tensor that stands for another in a model with so many layers of each kind."""
    return LAYER.sub(lambda found: f"{found[1]}.{int(found[2]) % layers[found[1]]}.", name)


def depths(names: list[str]) -> dict[str, int]:
    """How many layers of each kind tensors of these names belong to."""
    found: dict[str, int] = {}
    for name in names:
        if match := LAYER.search(name):
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def repeat(graphs: Path, shallow: Path, folder: Path) -> None:
    """Write FOLDER; numbers of a tensor that has another size in SHALLOW (in other bits, say) are drawn at random."""
    folder.mkdir()
    sizes = {name: entry["size"] for name, entry in json.loads((graphs / "idefics2_onnx.json").read_text())["files"].items()}
    for name in sizes:
        if not name.endswith(".data"):
            shutil.copyfile(graphs / name, folder / name)
    shutil.copyfile(graphs / "idefics2_onnx.json", folder / "idefics2_onnx.json")
    for graph in sorted(name for name in sizes if name.endswith(".onnx")):
        if f"{graph}.data" in sizes:
            _fill(folder / graph, shallow / graph, sizes[f"{graph}.data"])


def _fill(deep: Path, shallow: Path, size: int) -> None:
    here = np.memmap(f"{shallow}.data", np.uint8, "r")
    there = {tensor.name: _place(tensor) for tensor in _external(shallow)}
    layers = depths(list(there))
    random, drawn = np.random.default_rng(0), []
    with Path(f"{deep}.data").open("wb") as file:
        file.truncate(size)
        for tensor in _external(deep):
            offset, length = _place(tensor)
            found = there.get(shallow_name(tensor.name, layers), (0, -1))
            if found[1] == length:
                numbers: NDArray[Any] = here[found[0] : found[0] + length]
            else:
                drawn.append(tensor.name)
                numbers = _drawn(random, tensor.data_type, length)
            file.seek(offset)
            file.write(memoryview(numbers))
    if drawn:
        print(f"{deep.name}: {len(drawn)} tensors drawn, {', '.join(drawn[:4])} …")


def _drawn(random: np.random.Generator, kind: int, length: int) -> NDArray[np.uint8]:
    if kind == onnx.TensorProto.UINT8:
        return random.integers(0, 256, length, dtype=np.uint8)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return (random.random(length // dtype.itemsize, np.float32) * 0.004 + 0.001).astype(dtype).view(np.uint8)


def _external(graph: Path) -> list[onnx.TensorProto]:
    return [each for each in onnx.load(graph, load_external_data=False).graph.initializer if each.external_data]


def _place(tensor: onnx.TensorProto) -> tuple[int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries.get("offset", 0)), int(entries["length"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("graphs", "shallow", "folder"):
        parser.add_argument(name, type=Path)
    chosen = parser.parse_args()
    repeat(chosen.graphs, chosen.shallow, chosen.folder)
