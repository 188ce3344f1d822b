"""What an ONNX file refers to, read from its protobuf before anything else opens it: operators, weights, files.

Source: onnx.proto of ONNX, IR version 10. A message's fields may come more than once; every one of them is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...graphs.contract import OPERATORS, GraphName, ModelSizes, data_file
from ...graphs.errors import ModelFolderError

MAX_BYTES = 64 << 20
"""Largest graph, without its weights. Those of the real model have less than a megabyte."""
_LENGTH_DELIMITED, _FIXED = 2, {1: 8, 5: 4}
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 8, 13
_KEY, _VALUE = 1, 2


@dataclass
class GraphFile:
    """An ONNX file's references."""

    path: Path
    operators: set[tuple[str, str]] = field(default_factory=set)
    """Domain, empty for ai.onnx, and type of each node."""
    data_files: set[str] = field(default_factory=set)
    """Names of the files that hold weights."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The shape of each weight."""

    @classmethod
    def read(cls, path: Path) -> GraphFile:
        """Raises ModelFolderError for a file that is no ONNX graph, or holds what no graph of ours does."""
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ModelFolderError(f"{path} has {size:,} bytes, more than a graph without its weights takes. Export again.")
        graph = cls(path)
        try:
            graph._model(memoryview(path.read_bytes()))
        except (ValueError, IndexError) as error:
            raise ModelFolderError(f"{path} is not an ONNX graph ({error}). Export or download the model again.") from error
        return graph

    def check(self, name: GraphName, sizes: ModelSizes) -> None:
        """Raise ModelFolderError unless it takes weights from its own file alone, uses the operators that this package's graphs
        do, and has tables of the manifest's sizes.
        """
        if foreign := sorted(self.data_files - {data_file(name)}):
            raise ModelFolderError(
                f"{self.path} takes weights from {foreign[0]!r:.100}, which no hash in the manifest vouches for, instead of "
                f"{data_file(name)}. Export or download the model again."
            )
        if unknown := sorted(self.operators - OPERATORS):
            raise ModelFolderError(
                f"{self.path} has the operator {'.'.join(filter(None, unknown[0])):.60}, which this package's graphs do not use. "
                "Export or download the model again."
            )

        for weight, expected in _tables(name, sizes).items():
            found = self.shapes.get(weight, ())
            if len(found) != len(expected) or any(size not in (None, own) for size, own in zip(expected, found, strict=True)):
                wanted = ", ".join("any" if size is None else str(size) for size in expected)
                raise ModelFolderError(
                    f"{self.path} has {weight} of the shape {list(found)}, and the manifest's sizes make it [{wanted}]. "
                    "Export or download the model again."
                )

    def _model(self, message: memoryview) -> None:
        graphs = 0
        for number, value in _fields(message):
            if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
                raise ValueError("it has functions or a training graph")
            if number == _MODEL_GRAPH:
                graphs += 1
                self._graph(_bytes(value))
        if not graphs:
            raise ValueError("it has no graph")

    def _graph(self, message: memoryview) -> None:
        for number, value in _fields(message):
            if number == _GRAPH_NODE:
                self._node(_bytes(value))
            elif number == _GRAPH_INITIALIZER:
                self._tensor(_bytes(value))
            elif number == _GRAPH_SPARSE_INITIALIZER:
                self._sparse_tensor(_bytes(value))

    def _node(self, message: memoryview) -> None:
        operator = domain = ""
        for number, value in _fields(message):
            if number == _NODE_OPERATOR:
                operator = _text(value)
            elif number == _NODE_DOMAIN:
                domain = _text(value)
            elif number == _NODE_ATTRIBUTE:
                self._attribute(_bytes(value))
        self.operators.add(("" if domain == "ai.onnx" else domain, operator))

    def _attribute(self, message: memoryview) -> None:
        for number, value in _fields(message):
            if number in _ATTRIBUTE_GRAPHS:
                raise ValueError("an operator of it has a graph inside")
            if number in _ATTRIBUTE_TENSORS:
                self._tensor(_bytes(value))
            elif number in _ATTRIBUTE_SPARSE_TENSORS:
                self._sparse_tensor(_bytes(value))

    def _sparse_tensor(self, message: memoryview) -> None:
        for number, value in _fields(message):
            if number in _SPARSE_TENSORS:
                self._tensor(_bytes(value))

    def _tensor(self, message: memoryview) -> None:
        name, shape = "", []
        for number, value in _fields(message):
            if number == _TENSOR_DIMS:
                shape += [value] if isinstance(value, int) else list(_varints(value))
            elif number == _TENSOR_NAME:
                name = _text(value)
            elif number == _TENSOR_EXTERNAL:
                entry = dict(_fields(_bytes(value)))
                if _text(entry.get(_KEY, b"")) == "location":
                    self.data_files.add(_text(entry.get(_VALUE, b"")))
        self.shapes[name] = tuple(shape)


def _tables(name: GraphName, sizes: ModelSizes) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the weights whose sizes no input or output shows; None for any."""
    if name == "vision":
        embeddings, side = "vision_model.embeddings", sizes.patch_size
        patches = {f"{embeddings}.patch_embedding.weight": (None, 3, side, side)}
        positions = sizes.positions_per_side**2
        if sizes.image_size is not None:  # images of one size; one position more, of the class token
            return patches | {f"{embeddings}.position_embedding.weight": (positions + 1, None)}
        return patches | {
            f"{embeddings}.position_embedding.weight": (positions, None),
            "positions": (sizes.max_patches + 1, sizes.max_patches),
        }
    if name in ("embedding", "cross"):
        return {}
    return dict.fromkeys(("cos", "sin"), (sizes.max_positions, sizes.head_dim // 2))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message: a whole number, or bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            whole, place = _varint(message, place)
            yield number, whole
            continue
        if kind == _LENGTH_DELIMITED:
            length, place = _varint(message, place)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if length > len(message) - place:
            raise ValueError("it is cut off")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A whole number and the place after it."""
    whole = shift = 0
    while True:
        byte = message[place]
        place += 1
        whole |= (byte & 127) << shift
        if byte < 128:
            return whole, place
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _varints(packed: memoryview) -> Iterator[int]:
    place = 0
    while place < len(packed):
        whole, place = _varint(packed, place)
        yield whole


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def _text(value: int | memoryview | bytes) -> str:
    if isinstance(value, int):
        raise ValueError("a number stands where a text belongs")
    return bytes(value).decode("utf-8")
