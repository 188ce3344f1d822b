"""The exact port of Idefics2's processor: prompts with image tags, and images → the arrays the model takes, and ids → text.

Source: transformers 5.23, Idefics2Processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import ModelSizes
from ...graphs.errors import ModelFolderError
from ..checks import flag, is_one_of, is_whole
from ..errors import PromptError
from ..folder import find_json
from ..image_tokens import IMAGE, tiles_per_image, whole_images
from ..images.idefics2_image_processor import Idefics2ImageProcessor
from ..sample import Sample
from ..text.prompt import expand_images
from ..text.tokenizer import Padding, Side, Truncation
from .arrays import Inputs
from .call_options import image_options_among
from .idefics2_arrays import INPUTS, samples_of
from .images_per_prompt import share_images
from .padding_options import PaddingOptions
from .processor import Processor, check_tags


class Idefics2Processor(Processor):
    """Prompts and images → a dict of arrays, like the reference's class of this name, and back from ids to text.

    Attributes:
        image_processor: used for the images; its options decide about splitting, in pixels and prompt alike.
        tokenizer: a `tokenizers.Tokenizer`; its padding_side and truncation_side may be set.
        image_seq_len: tokens per tile.
        chat_template: None where the folder has none.
    """

    image_processor_class = Idefics2ImageProcessor
    model_input_names = INPUTS

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        padding: Padding = False,
        padding_side: Side | None = None,
        pad_to_multiple_of: int | None = None,
        truncation: Truncation = None,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: Literal["np"] | None = "np",
        **image_options: Any,
    ) -> Inputs:
        """Prompts with image tags, and their images.

        Args:
            text: one prompt or several, with one ``<image>`` per image.
            images: one image, the images of all prompts in order, or one list per prompt.
            padding: True (or "longest") pads shorter prompts, "max_length" all of them to `max_length`.
            truncation: cut prompts to `max_length` tokens; a prompt whose image tokens would be cut is refused. None cuts
                where `max_length` is given and padding is not.
            image_options: options of the image processor for this call, do_image_splitting among them; the reference's other
                options may be given with values that change nothing.

        Returns:
            input_ids, attention_mask: int64 [batch, seq], with text.
            pixel_values: float32 [batch, num_tiles, 3, height, width], and pixel_attention_mask: int64, with images.

        Raises:
            PromptError, ImageError: tags and images do not match, or one of them cannot be used.
        """
        if text is None and images is None:
            raise PromptError("Neither text nor images were given. Give at least one of them.")
        if not is_one_of(return_tensors, ("np", None)):
            raise PromptError(f"return_tensors is {return_tensors!r:.60}. Leave it out: arrays are NumPy's.")
        options = PaddingOptions(padding, padding_side, pad_to_multiple_of, truncation, max_length)
        flag("add_special_tokens", add_special_tokens)
        image_options = image_options_among(image_options)
        if text is None:
            return Inputs(self.image_processor(images, return_tensors=return_tensors, upright=True, **image_options))
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) for t in texts):
            raise PromptError("text is not a string or a list of strings. Use apply_chat_template for messages.")
        own = share_images(texts, images)
        # The tiles are made in one go with their padding, so only the ids are asked for here.
        split = self.image_processor.options.replace(**image_options).do_image_splitting
        inputs = self.padded(self.ids(texts, own, split, add_special_tokens, options.limit), options)
        if any(own):
            inputs.update(self.image_processor(own, return_tensors=return_tensors, upright=True, **image_options))
        return inputs

    @staticmethod
    def tokens_per_tile(folder: Path) -> int:
        image_seq_len = find_json(folder, "processor_config.json").get("image_seq_len", 64)
        if not is_whole(image_seq_len) or image_seq_len < 1:
            raise ModelFolderError(
                f"{folder}'s processor_config.json has image_seq_len {image_seq_len!r:.60}. Download it again."
            )
        return int(image_seq_len)

    def ids(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[Any]],
        split: bool,
        add_special_tokens: bool = True,
        max_length: int | None = None,
    ) -> list[list[int]]:
        check_tags(texts, images)
        return self.tokenized([expand_images(text, self.image_seq_len, split) for text in texts], add_special_tokens, max_length)

    def tagged_inputs(self, texts: list[str], images: list[list[Any]], **options: Any) -> Inputs:
        return self(images if any(images) else None, texts, **options)

    def sample(self, ids: list[int], tiles: list[NDArray[Any]], reused: int = 0, skipped: int = 0) -> Sample:  # noqa: ARG002
        return Sample(ids, tiles, reused=reused)

    def samples(self, inputs: Mapping[str, Any], sizes: ModelSizes) -> list[Sample]:
        return samples_of(inputs, sizes)

    def image_of(self, ids: Sequence[int], split: bool) -> list[int]:
        """An image's own tokens stand for it, and no others."""
        image_token, per_image = self.tokenizer.token_to_id(IMAGE), self._tokens_per_image(split)
        found, seen = [], 0
        for token in ids:
            found.append(seen // per_image if token == image_token else -1)
            seen += token == image_token
        return found

    def image_of_answers(self, image_of: Sequence[int]) -> int:  # noqa: ARG002
        return -1

    def resume(self, ids: Sequence[int], length: int, split: bool) -> tuple[int, int]:
        """Whole images only, and those are done with: later tokens look at their tokens."""
        image_token = self.tokenizer.token_to_id(IMAGE)
        places = np.flatnonzero(np.array(ids) == image_token)
        return whole_images(places, self._tokens_per_image(split), length)

    def _tokens_per_image(self, split: bool) -> int:
        return self.image_seq_len * tiles_per_image(split)
