"""The reference model without data: shapes and types only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...graphs.contract import Dtype

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CONNECTOR = "model.connector."


def parameter_dtype(name: str, dtype: Dtype) -> torch.dtype:
    """What a parameter takes part in the computation as: in the connector of fp16 all but matrices of products in fp32, though
    they are stored in half.
    """
    wide = dtype == "fp16" and name.startswith(CONNECTOR) and not name.endswith("_proj.weight")
    return torch.float32 if wide else TORCH_DTYPES[dtype]


def fake_model(reference: Any, config: Any, dtype: Dtype) -> Any:
    """A reference model of this class without data, computing with a type. Call under `fake_mode`."""
    model = reference(config).eval()
    # Not model.to(dtype), which fake parameters do not allow. Tied parameters come apart, as they do in the graphs.
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        typed = torch.empty(parameter.shape, dtype=parameter_dtype(name, dtype))
        setattr(model.get_submodule(owner), leaf, nn.Parameter(typed, requires_grad=False))
    return model


@contextmanager
def fake_mode() -> Iterator[None]:
    """Tensors made inside have shapes and dtypes but no data; tracing is quiet."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with FakeTensorMode(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
