"""The contract between exporter and runtime: a model's graphs, their interfaces, and the manifest of a model folder.

Torch-free and NumPy-free on purpose, so that it also reads as the specification for hosts in other languages.
Axis names are symbolic sizes; an axis given as a number is fixed by the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import ModelFolderError

Dtype = Literal["fp32", "fp16", "bf16"]
"""What a graph computes with, and the type of its inputs and outputs."""
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""How a graph's weights are stored."""
AttentionFlavour = Literal["fused", "standard"]
Architecture = Literal["idefics2", "idefics"]
GraphName = Literal["vision", "cross", "embedding", "decoder", "prompt"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLAVOURS: tuple[AttentionFlavour, ...] = get_args(AttentionFlavour)
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
GRAPHS: tuple[GraphName, ...] = ("vision", "embedding", "decoder")
"""What every folder holds. Some also have "prompt": the decoder again, with weights that read prompts faster."""
GRAPHS_OF: dict[Architecture, tuple[GraphName, ...]] = {
    "idefics2": GRAPHS,
    "idefics": ("vision", "cross", "embedding", "decoder"),
}
"""What a folder of each model holds."""

FORMAT_VERSION = 3
MANIFEST = "idefics2_onnx.json"
TENSOR_TYPES: dict[Dtype, str] = {"fp32": "tensor(float)", "fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
FLOAT, INT = "tensor(float)", "tensor(int64)"

OPERATORS: frozenset[tuple[str, str]] = frozenset(
    {("", name) for name in (
        "Add", "And", "Attention", "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Conv", "Div", "Expand", "Gather",
        "GatherND", "Greater", "LayerNormalization", "Less", "LessOrEqual", "MatMul", "Max", "Min", "Mul", "Neg",
        "QuantizeLinear", "RMSNormalization", "Range", "ReduceMax", "ReduceMin", "ReduceSum", "Reshape", "RotaryEmbedding",
        "Shape", "Sigmoid", "SimplifiedLayerNormalization", "Slice", "Squeeze", "Sub", "TensorScatter", "Transpose", "Unsqueeze",
        "Where",
        # of the activations that a config may name
        "Clip", "Erf", "Exp", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Pow", "Relu", "Softplus", "Sqrt", "Tanh",
    )}
    | {("com.microsoft", name) for name in (
        "GatherBlockQuantized", "GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention",
        "SkipSimplifiedLayerNormalization",
    )}
)  # fmt: skip
"""Domain, empty for ai.onnx, and type of every operator that a graph may have. None of them holds a graph of its own, so a graph
runs as many operators as it has nodes."""

Axis = int | str


ARGMAX = "argmax.onnx"
"""A graph beside this file, the same for every model: logits float32 [batch, 1, vocab] and a bias [vocab] for them → token_ids
int64 [batch, 1], of several equals the first, and total float32 [batch, 1], the sum of the logits without the bias."""


def graph_file(graph: GraphName) -> str:
    """Name of a graph's file in the model folder; its weights lie beside it under the same name plus ``.data``."""
    return f"{graph}.onnx"


def data_file(graph: GraphName) -> str:
    """Name of the file that holds a graph's weights (ONNX external data)."""
    return f"{graph}.onnx.data"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: name, ONNX Runtime type string, and one symbolic or fixed size per axis."""

    name: str
    type: str
    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.type} [{', '.join(map(str, self.axes))}]"

    def admits(self, found: TensorSpec) -> bool:
        """Whether `found` has this type and rank, and this size on every axis that is a number in both."""
        same = (self.name, self.type, len(self.axes)) == (found.name, found.type, len(found.axes))
        numbers = ((a, b) for a, b in zip(self.axes, found.axes, strict=False) if isinstance(a, int))
        return same and all(a == b for a, b in numbers if isinstance(b, int))


@dataclass(frozen=True)
class ModelSizes:
    """The numbers of a model that a host needs to drive its graphs; all from the checkpoint's config.json."""

    hidden_size: int
    vocab_size: int
    num_layers: int
    num_key_value_heads: int
    head_dim: int
    max_positions: int
    """Longest sequence, prompt and answer together, in tokens."""
    sliding_window: int | None
    """A token attends to this many last tokens, itself included; None for all of them."""
    num_cross_layers: int
    """Gated layers, which look at images apart from their tokens; none in Idefics2, and never none in IDEFICS."""
    image_token_id: int
    tokens_per_image: int
    """Image tokens in a prompt per image (or tile of a split image)."""
    image_seq_len: int
    """Rows of image_features per image (or tile)."""
    vision_width: int
    """Width of a row of image_features; hidden_size in Idefics2."""
    image_size: int | None
    """Side of every image, in pixels; None where the vision graph takes images of any size."""
    patch_size: int
    """Side of a patch, in pixels."""
    positions_per_side: int
    """Side of the square table of patch positions."""
    num_parameters: int

    @property
    def max_patches(self) -> int:
        """Most patches along a side of an image: so far goes the table of positions in a vision graph that takes any size."""
        return max(4 * self.positions_per_side, 128)


def key_value_names(layers: int, prefix: Literal["past_key_values", "present", "cross"]) -> list[str]:
    """Names of the cache tensors, or of the gated layers' keys and values, key before value, layer by layer."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check(self, graph: GraphName, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
        """Raise ModelFolderError, naming the tensor, what was found and what was expected, unless both sides match."""
        for side, expected, found in (("input", self.inputs, tuple(inputs)), ("output", self.outputs, tuple(outputs))):
            by_name = {tensor.name: tensor for tensor in found}
            for tensor in expected:
                actual = by_name.pop(tensor.name, None)
                if actual is None or not tensor.admits(actual):
                    raise ModelFolderError(
                        f"{graph_file(graph)} has {f'the {side} {actual}' if actual else f'no {side} {tensor.name}'}, "
                        f"but the contract is {tensor}. Export the model again with this version of idefics2-onnx."
                    )
            if by_name:
                raise ModelFolderError(
                    f"{graph_file(graph)} has the {side} {next(iter(by_name.values()))}, which the contract does not "
                    "know. Export the model again with this version of idefics2-onnx."
                )


def interface(graph: GraphName, dtype: Dtype, sizes: ModelSizes) -> Interface:
    """The interface of one graph of a model.

    vision     pixel_values of images of one size, unpadded → image_seq_len rows of image_features each.
    embedding  token ids and, for each, the row of image_features that stands in its place (−1: the token's own row of
               the embedding table).
    decoder    Rows are right-padded. attention_mask counts a row's tokens, the new ones included, and is at least as wide
               as the longest row; in a prompt (empty cache) it is exactly as wide as inputs_embeds. The new tokens are
               written after the row's old ones. Past and present have one shape when the past has room for
               attention_mask's width, and may then be one buffer, which has to be zero at first; otherwise the
               present is that wide. logits are taken at logit_positions, counted from the first new token.
    prompt     the same, over the same cache. What it wrote and what the decoder wrote differ a little.

    IDEFICS has no images among its embeddings, but gated layers that look at them:

    vision     images all have one size.
    cross      features of the images of each row, one image after another → keys and values of every gated layer.
    embedding  token ids alone.
    decoder    also takes, for each new token, which of its row's images it sees (image_attention_mask, 0 or 1), and the images'
               keys and values. image_rows is num_images × image_seq_len; num_images is at least 1: a row without images has
               features of zeros in their place, that no token sees.
    """
    type_ = TENSOR_TYPES[dtype]
    hidden, gated = sizes.hidden_size, sizes.num_cross_layers
    heads, head_dim, layers = sizes.num_key_value_heads, sizes.head_dim, sizes.num_layers
    cross = tuple(TensorSpec(n, type_, ("batch_size", heads, "image_rows", head_dim)) for n in key_value_names(gated, "cross"))
    if graph == "vision":
        sides = ("height", "width") if sizes.image_size is None else (sizes.image_size, sizes.image_size)
        return Interface(
            inputs=(
                # NumPy has no bfloat16, so pixels stay float32 there.
                TensorSpec("pixel_values", FLOAT if dtype == "bf16" else type_, ("num_images", 3, *sides)),
            ),
            outputs=(TensorSpec("image_features", type_, ("num_images", sizes.image_seq_len, sizes.vision_width)),),
        )
    if graph == "cross":
        features = TensorSpec("image_features", type_, ("batch_size", "image_rows", sizes.vision_width))
        return Interface(inputs=(features,), outputs=cross)
    if graph == "embedding":
        merged = (
            TensorSpec("image_features", type_, ("num_rows", hidden)),
            TensorSpec("feature_rows", INT, ("batch_size", "seq")),
        )
        return Interface(
            inputs=(TensorSpec("input_ids", INT, ("batch_size", "seq")), *(() if gated else merged)),
            outputs=(TensorSpec("inputs_embeds", type_, ("batch_size", "seq", hidden)),),
        )
    past = (TensorSpec(n, type_, ("batch_size", heads, "past", head_dim)) for n in key_value_names(layers, "past_key_values"))
    present = (TensorSpec(n, type_, ("batch_size", heads, "present", head_dim)) for n in key_value_names(layers, "present"))
    return Interface(
        inputs=(
            TensorSpec("inputs_embeds", type_, ("batch_size", "seq", hidden)),
            TensorSpec("attention_mask", INT, ("batch_size", "total_seq")),
            *((TensorSpec("image_attention_mask", INT, ("batch_size", "seq", "num_images")),) if gated else ()),
            TensorSpec("logit_positions", INT, ("batch_size", "k")),
            *past,
            *cross,
        ),
        outputs=(TensorSpec("logits", FLOAT, ("batch_size", "k", sizes.vocab_size)), *present),
    )


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (lower-case hex) of one file of a model folder."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """``idefics2_onnx.json``: what a model folder holds, where it came from, and the hash of each of its files."""

    architecture: Architecture
    precision: dict[GraphName, Precision]
    dtype: Dtype
    quantisation: dict[str, Any] | None
    """What was chosen for an int8 or int4 folder."""
    attention: AttentionFlavour
    opset: int
    source: str
    """Folder name or hub id of the checkpoint."""
    revision: str | None
    """Commit of a hub checkpoint."""
    tools: dict[str, str]
    """Version of each package that took part in the export."""
    model: ModelSizes
    files: dict[str, FileEntry]
    format_version: int = FORMAT_VERSION

    @property
    def graphs(self) -> tuple[GraphName, ...]:
        """The graphs of this folder."""
        return tuple(self.precision)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> Manifest:
        """Read a parsed manifest. ModelFolderError names the first key that is missing, unknown or of a wrong type."""
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise ModelFolderError(
                f"{MANIFEST} has format version {version!r:.60}, but this version of idefics2-onnx reads {FORMAT_VERSION}. "
                "Export the model again."
            )
        fields = _fields(cls, content, "")
        _expect(fields["architecture"] in ARCHITECTURES, "architecture", fields["architecture"])
        graphs, needed = fields["precision"], GRAPHS_OF[fields["architecture"]]
        for graph in (*needed, *graphs):
            _expect(graphs.get(graph) in PRECISIONS, f"precision.{graph}", graphs.get(graph))
        _expect(set(graphs) <= {*needed, "prompt"}, "precision", sorted(graphs))
        _expect(fields["dtype"] in DTYPES, "dtype", fields["dtype"])
        _expect(fields["attention"] in FLAVOURS, "attention", fields["attention"])
        fields["model"] = sizes = ModelSizes(**_fields(ModelSizes, fields["model"], "model."))
        for name, value in dataclasses.asdict(sizes).items():
            limit = _MAX_LAYERS if name in ("num_layers", "num_cross_layers") else _MAX_SIZE
            least = 0 if name in ("image_token_id", "num_cross_layers") else 1
            _expect(value is None or least <= value <= limit, f"model.{name}", value)
        _expect(sizes.image_token_id < sizes.vocab_size, "model.image_token_id", sizes.image_token_id)
        gated = sizes.num_cross_layers > 0 and sizes.image_size is not None
        _expect(gated == (fields["architecture"] == "idefics"), "model.num_cross_layers", sizes.num_cross_layers)
        fields["files"] = {
            name: FileEntry(**_fields(FileEntry, entry, f"files.{name}.")) for name, entry in fields["files"].items()
        }
        for name in fields["files"]:
            _expect(bool(name) and not set(name) & set("/\\:\0") and name not in (".", ".."), "files", name)
        for graph in graphs:
            for name in (graph_file(graph), data_file(graph)):
                _expect(name in fields["files"], "files", f"no {name}")
        return cls(**fields)


_MAX_SIZE, _MAX_LAYERS = 10**12, 10_000
"""No honest manifest comes near; a hostile one would make a host build lists of any length."""
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,), "str": (str,), "int | None": (int, type(None)), "str | None": (str, type(None)),
    "dict[str, Any] | None": (dict, type(None)),
    "Dtype": (str,), "Architecture": (str,), "AttentionFlavour": (str,), "ModelSizes": (dict,),
}  # fmt: skip


def _fields(cls: type, content: Any, prefix: str) -> dict[str, Any]:
    """The values of a dataclass in parsed JSON, each of its annotated type, none missing and none unknown."""
    _expect(isinstance(content, dict), prefix.rstrip(".") or "the whole file", content)
    types = {field.name: _JSON_TYPES.get(str(field.type), (dict,)) for field in dataclasses.fields(cls)}
    for name, kinds in types.items():
        _expect(name in content, prefix + name, "nothing")
        _expect(isinstance(content[name], kinds) and not isinstance(content[name], bool), prefix + name, content[name])
    unknown = sorted(set(content) - set(types))
    _expect(not unknown, prefix + (unknown[0] if unknown else ""), "a key that this format version does not have")
    return dict(content)


def _expect(condition: bool, key: str, found: object) -> None:
    if not condition:
        raise ModelFolderError(f"{MANIFEST} is damaged: {key} is {found!r:.80}. Export or download the model again.")
