"""The processor of a model folder, by the model that it holds."""

from __future__ import annotations

from ...graphs.contract import ModelSizes
from .idefics2_processor import Idefics2Processor
from .idefics_processor import IdeficsProcessor
from .processor import Processor


def processor_class(sizes: ModelSizes) -> type[Processor]:
    """The class whose arrays a model of these sizes takes: only IDEFICS has gated layers."""
    return IdeficsProcessor if sizes.num_cross_layers else Idefics2Processor
