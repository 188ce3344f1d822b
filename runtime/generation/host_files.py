"""What a host reads of a model folder besides its graphs: how to generate, and the processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...graphs.contract import ModelSizes
from ...graphs.errors import ModelFolderError
from ..folder import find_json
from ..image_tokens import IMAGE
from ..inputs.processor import Processor
from ..inputs.processors import processor_class
from ..outside.hosts import AllowUrls
from ..sampling.generation_options import GenerationOptions


@dataclass(frozen=True)
class HostFiles:
    """The configs, the tokenizer and the chat template of a folder, read and found to suit its graphs."""

    options: GenerationOptions
    processor: Processor

    @classmethod
    def read(cls, folder: Path, sizes: ModelSizes, allow_urls: AllowUrls = False) -> HostFiles:
        """Read the files for graphs of these sizes.

        Raises:
            ModelFolderError: one of them cannot be used, or is of another model.
        """
        options = GenerationOptions.from_configs(find_json(folder, "generation_config.json"), find_json(folder, "config.json"))
        processor = processor_class(sizes).from_pretrained(folder, allow_urls=allow_urls)
        if processor.image_seq_len != sizes.tokens_per_image:
            raise ModelFolderError(
                f"processor_config.json gives an image {processor.image_seq_len} tokens, the model {sizes.tokens_per_image}. "
                "Export or download the model again."
            )
        if (found := processor.tokenizer.token_to_id(IMAGE)) != sizes.image_token_id:
            raise ModelFolderError(
                f"tokenizer.json has {IMAGE} at {found}, the model at {sizes.image_token_id}. Export or download the model again."
            )
        return cls(options, processor)
