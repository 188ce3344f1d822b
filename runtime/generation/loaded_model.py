"""What generating needs of a model, whichever class that is."""

from __future__ import annotations

from typing import Protocol

from ..engine.engine import Engine
from ..inputs.processor import Processor
from ..memory.prefix_cache import PrefixCache
from ..sampling.generation_options import GenerationOptions
from ..sampling.grammar import Grammars


class LoadedModel(Protocol):
    """A model whose graphs are open."""

    @property
    def engine(self) -> Engine:
        """Its graphs."""

    @property
    def processor(self) -> Processor:
        """Its prompts, images and text."""

    @property
    def options(self) -> GenerationOptions:
        """How it generates unless a call says otherwise."""

    @property
    def grammars(self) -> Grammars:
        """What answers can be made to follow."""

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """Keys and values of earlier prompts, if they are kept."""
