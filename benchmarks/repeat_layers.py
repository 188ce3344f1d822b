"""Make a deep model folder out of a shallow one, whose layers it repeats: for speed, memory and depth, not for quality.

    python benchmarks/repeat_layers.py GRAPHS FOLDER [--shallow SHALLOW]

GRAPHS holds what an export of many layers makes, except for the data files. SHALLOW is a model folder of a few layers in the same
precision: layer i of FOLDER has the weights of its layer i mod n. Without it all weights are drawn, for speed and memory only.
Either takes seconds where exporting in 4 bits takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
from idefics2_onnx.runtime.folder import HASHED_UP_TO
from numpy.typing import NDArray

PART = 64 << 20
"""Bytes that are drawn at most; more of a tensor repeat them."""
LAYER = re.compile(r"(text_model\.layers|encoder\.layers)\.(\d+)\.")


def shallow_name(name: str, layers: dict[str, int]) -> str:
    """Of the tensor that stands for another in a model with so many layers of each kind."""
    return LAYER.sub(lambda found: f"{found[1]}.{int(found[2]) % layers.get(found[1], 1)}.", name)


def depths(names: list[str]) -> dict[str, int]:
    """How many layers of each kind tensors of these names belong to."""
    found: dict[str, int] = {}
    for name in names:
        if match := LAYER.search(name):
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def repeat(graphs: Path, shallow: Path | None, folder: Path) -> None:
    """Write FOLDER; numbers of a tensor that SHALLOW has not, or has in another size (in other bits, say), are drawn."""
    folder.mkdir()
    manifest = json.loads((graphs / "idefics2_onnx.json").read_text())
    sizes = {name: entry["size"] for name, entry in manifest["files"].items()}
    for name in sizes:
        if not name.endswith(".data"):
            shutil.copyfile(graphs / name, folder / name)
    for graph in sorted(name for name in sizes if name.endswith(".onnx")):
        if f"{graph}.data" in sizes:
            _fill(folder / graph, shallow and shallow / graph, sizes[f"{graph}.data"])
    for name, size in sizes.items():
        if size <= HASHED_UP_TO:
            manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "idefics2_onnx.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _fill(deep: Path, shallow: Path | None, size: int) -> None:
    there = {tensor.name: _place(tensor) for tensor in _external(shallow)} if shallow else {}
    here = np.memmap(f"{shallow}.data", np.uint8, "r") if shallow else np.empty(0, np.uint8)
    layers = depths(list(there))
    random, drawn = np.random.default_rng(0), []
    with Path(f"{deep}.data").open("wb") as file:
        file.truncate(size)
        for tensor in _external(deep):
            offset, length = _place(tensor)
            place, found = there.get(shallow_name(tensor.name, layers), (0, -1))
            file.seek(offset)
            if found == length:
                file.write(memoryview(here[place : place + length]))
                continue
            drawn.append(tensor.name)
            part = memoryview(_drawn(random, tensor, min(length, PART)))
            for start in range(0, length, PART):
                file.write(part[: length - start])
    if drawn and shallow:
        print(f"{deep.name}: {len(drawn)} tensors drawn, {', '.join(drawn[:4])} …")


def _drawn(random: np.random.Generator, tensor: onnx.TensorProto, length: int) -> NDArray[np.uint8]:
    """Numbers that keep activations near 1."""
    if tensor.data_type == onnx.TensorProto.UINT8:
        return random.integers(0, 256, length, dtype=np.uint8)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    numbers = random.random(length // dtype.itemsize, np.float32)
    if tensor.name.endswith(".scales"):
        numbers = 0.002 * numbers
    elif len(tensor.dims) > 1:
        numbers = (numbers - 0.5) * (12 / min(tensor.dims)) ** 0.5
    return numbers.astype(dtype).view(np.uint8)


def _external(graph: Path) -> list[onnx.TensorProto]:
    return [each for each in onnx.load(graph, load_external_data=False).graph.initializer if each.external_data]


def _place(tensor: onnx.TensorProto) -> tuple[int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries.get("offset", 0)), int(entries["length"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shallow", type=Path)
    chosen = parser.parse_args()
    repeat(chosen.graphs, chosen.shallow, chosen.folder)
