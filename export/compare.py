"""The comparison itself: the three graphs in ONNX Runtime beside the reference in torch, on one small input."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Idefics2ForConditionalGeneration

from ..graphs.contract import GRAPHS, Dtype, GraphName, Manifest, data_file, graph_file, key_value_names
from .source_model import SourceModel
from .verify import Difference, Verification, read_manifest

Array = NDArray[Any]
_STEPS = 2
"""Decoder calls after the prompt."""


@dataclass(frozen=True)
class Example:
    """A small input: two images, one of them not a multiple of the patch, and two prompts of different lengths."""

    images: list[Tensor]
    """Pixels [3, height, width] each."""
    prompts: list[Tensor]
    """Token ids; the first holds both images, the second none."""

    @classmethod
    def for_model(cls, manifest: Manifest) -> Example:
        sizes, generator = manifest.model, torch.Generator().manual_seed(0)
        patch, side = sizes.patch_size, min(sizes.positions_per_side, 6)
        shapes = [(side * patch, max(1, side - 2) * patch), (max(1, side - 1) * patch + patch // 2, side * patch + patch - 1)]
        images = [torch.rand(3, *shape, generator=generator) * 2 - 1 for shape in shapes]

        def text(length: int) -> Tensor:
            ids = torch.randint(0, sizes.vocab_size, (length,), generator=generator)
            return torch.where(ids == sizes.image_token_id, (ids + 1) % sizes.vocab_size, ids)

        image = torch.full((sizes.image_seq_len,), sizes.image_token_id)
        room = max(2, min(8, (sizes.max_positions - 2 * sizes.image_seq_len - _STEPS) // 3))
        return cls(images, [torch.cat([text(room), image, text(room), image, text(room)]), text(room)])


def compare_whole(folder: Path, source: SourceModel) -> Verification:
    """Vision, embedding, a ragged prompt and a few steps, with all weights in memory."""
    manifest = read_manifest(folder)
    dtype, example = manifest.dtype, Example.for_model(manifest)
    reference = load_reference(source, dtype)
    differences = []
    with contextlib.ExitStack() as stack, torch.no_grad():
        if dtype == "bf16":
            folder = stack.enter_context(widened(folder))
        features = torch.cat([_reference_features(reference, image) for image in example.images])
        session = open_session(folder, "vision")
        actual = np.concatenate(
            [run(session, pixel_values=image[None], position_ids=position_ids(image, manifest))[0][0] for image in example.images]
        )
        differences.append(
            Difference.between("vision", "image_features", widen(actual), features.numpy(), manifest.precision["vision"])
        )

        session = open_session(folder, "embedding")
        image_token, embeds = manifest.model.image_token_id, []
        ids = torch.nn.utils.rnn.pad_sequence(example.prompts, batch_first=True)
        is_image = ids == image_token
        rows = torch.where(is_image, is_image.flatten().cumsum(0).reshape(ids.shape) - 1, -1)
        merged = run(session, input_ids=ids, image_features=features, feature_rows=rows)[0]
        for row, prompt in enumerate(example.prompts):
            expected = reference.get_input_embeddings()(prompt)
            expected[prompt == image_token] = features[: int((prompt == image_token).sum())]
            embeds.append(expected)
            what = f"inputs_embeds of prompt {row + 1}"
            differences.append(
                Difference.between(
                    "embedding", what, widen(merged[row, : len(prompt)]), expected.numpy(), manifest.precision["embedding"]
                )
            )
        decoders: tuple[GraphName, ...] = ("decoder", "prompt")
        for graph in decoders:
            if graph in manifest.graphs:
                differences += _compare_decoder(open_session(folder, graph), graph, reference, embeds, manifest)
    return Verification(differences)


def _compare_decoder(
    session: ort.InferenceSession,
    graph: GraphName,
    reference: Idefics2ForConditionalGeneration,
    embeds: list[Tensor],
    manifest: Manifest,
) -> Iterator[Difference]:
    sizes, precision = manifest.model, manifest.precision[graph]
    lengths = np.array([len(e) for e in embeds])
    width, batch = int(lengths.max()), len(embeds)
    padded = torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True)
    shape = (batch, sizes.num_key_value_heads, width + _STEPS, sizes.head_dim)
    cache = {name: np.zeros(shape, np.float32) for name in key_value_names(sizes.num_layers, "past_key_values")}
    presents = key_value_names(sizes.num_layers, "present")
    new_ids = torch.randint(0, sizes.vocab_size, (batch, _STEPS), generator=torch.Generator().manual_seed(1))
    x, positions = padded, np.broadcast_to(np.arange(width), (batch, width))
    for step in range(_STEPS + 1):
        mask = (np.arange(width + step) < (lengths + step)[:, None]).astype(np.int64)
        logits, *kv = run(session, inputs_embeds=x, attention_mask=mask, logit_positions=positions, **cache)
        cache = dict(zip(cache, kv, strict=True))
        assert len(kv) == len(presents)
        for row in range(batch):
            so_far = torch.cat([embeds[row], reference.get_input_embeddings()(new_ids[row, :step])])
            expected = reference.lm_head(reference.model.text_model(inputs_embeds=so_far[None]).last_hidden_state)[0]
            count = int(lengths[row]) if step == 0 else 1
            what = f"logits of prompt {row + 1}" + (f", step {step}" if step else "")
            yield Difference.between(graph, what, logits[row, :count], expected[-count:].numpy(), precision, sizes.num_layers)
        x = reference.get_input_embeddings()(new_ids[:, min(step, _STEPS - 1)])[:, None]
        positions = np.zeros((batch, 1), np.int64)


def load_reference(source: SourceModel, dtype: Dtype) -> Idefics2ForConditionalGeneration:
    kind, folder = Idefics2ForConditionalGeneration, source.checkpoint.folder
    if source.changed:  # transformers would need packages of its own to read these
        model = kind._from_config(source.config, dtype=torch.float32, attn_implementation="sdpa").eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(source.checkpoint.read_all(source.names[name]))
    else:
        model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    if dtype == "bf16":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
        # In bf16 the reference rounds its rotary tables, too.
        model.model.text_model.rotary_emb.register_forward_hook(lambda *hook: tuple(t.bfloat16().float() for t in hook[2]))
    return model


def _reference_features(reference: Idefics2ForConditionalGeneration, image: Tensor) -> Tensor:
    return torch.cat(reference.get_image_features(image[None, None]).pooler_output)


def position_ids(image: Tensor, manifest: Manifest) -> Tensor:
    """Positions of an image's patches, by the reference's own float32 formula."""
    side = manifest.model.positions_per_side
    edges = torch.arange(1 / side, 1.0, 1 / side)

    def buckets(pixels: int) -> Tensor:
        count = torch.tensor(pixels // manifest.model.patch_size)
        fractions = torch.arange(int(count), dtype=torch.float32) * (1.0 / count)
        return torch.bucketize(fractions.clamp(max=1.0 - 1e-6), edges, right=True)

    return (buckets(image.shape[1])[:, None] * side + buckets(image.shape[2])).flatten()


def open_session(folder: Path, graph: GraphName) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(folder / graph_file(graph), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, **inputs: Tensor | Array) -> list[Array]:
    """Run a session on tensors or arrays, floats cast to what the graph takes."""
    types = {spec.name: spec.type for spec in session.get_inputs()}
    feeds = {}
    for name, value in inputs.items():
        array = value.numpy() if isinstance(value, Tensor) else value
        feeds[name] = array.astype(np.float16) if types[name] == "tensor(float16)" else array
    outputs: list[Array] = session.run(None, feeds)
    return outputs


def widen(array: Array) -> NDArray[np.float32]:
    return array.astype(np.float32)


def load_graph(folder: Path, graph: GraphName) -> ir.Model:
    """A graph of a folder, whose files may be links, as the hub's cache has them: its library takes none for the weights."""
    model = ir.load((folder / graph_file(graph)).resolve())
    data = (folder / data_file(graph)).resolve()
    for initializer in model.graph.initializers.values():
        tensor = initializer.const_value
        if isinstance(tensor, ir.ExternalTensor):
            where: dict[str, Any] = {"location": data.name, "offset": tensor.offset, "length": tensor.length}
            what: dict[str, Any] = {"dtype": tensor.dtype, "shape": tensor.shape, "name": tensor.name}
            initializer.const_value = ir.ExternalTensor(**where, **what, base_dir=data.parent)
    return model


@contextlib.contextmanager
def widened(folder: Path) -> Iterator[Path]:
    """A copy of a bf16 folder's graphs in fp32, with the bf16 weights' values: ONNX Runtime has no bf16 kernels on CPU."""
    with tempfile.TemporaryDirectory() as name:
        for graph in GRAPHS:
            model = load_graph(folder, graph)
            widen_model(model)
            ir.save(model, Path(name) / f"{graph}.onnx", external_data=data_file(graph))
        yield Path(name)


def widen_model(model: ir.Model) -> None:
    """Turn every bfloat16 of a model into float32: values, weights, casts."""
    narrow, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    for value in [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]:
        if value.dtype == narrow:
            value.dtype = wide
        if value.const_value is not None and value.const_value.dtype == narrow:
            data = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(data, name=value.name)
    for node in model.graph:
        for key, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and key == "to" and attribute.as_int() == narrow:
                node.attributes[key] = ir.AttrInt64(key, int(wide))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == narrow:
                node.attributes[key] = ir.AttrTensor(key, ir.tensor(attribute.as_tensor().numpy().astype(np.float32)))
