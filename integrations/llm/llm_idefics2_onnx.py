"""Idefics2 and IDEFICS as a model of llm: ``llm -m idefics2 "What is this?" -a photo.jpg``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import llm
from llm.parts import AttachmentPart, ReasoningPart, TextPart
from pydantic import Field

VARIABLE = "IDEFICS2_ONNX_MODEL"
"""Also what the package's own commands read."""
PREFIX_CACHE = 256 << 20
"""Bytes, so that `llm chat` does not read earlier turns again: 2,000 tokens of the 8B model, of 131 kB each in half precision."""
FORMATS = (
    "jpeg", "png", "webp", "gif", "bmp", "x-ms-bmp", "tiff", "x-portable-pixmap", "x-portable-graymap", "x-portable-bitmap",
    "avif", "heic", "heif",
)  # fmt: skip
"""What the package opens, by the names that llm finds in files; the last two need a plug-in of Pillow's."""
_DRAWING = {"temperature", "top_p", "top_k"}
"""Options that say how tokens are drawn."""


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Offer the model; nothing is opened before the first question."""
    register(Idefics2(), aliases=("idefics2",))


class Idefics2(llm.Model):
    """Answers about pictures of any turn, from the model folder that an option or a variable names.

    The folder stays open for the next question of this process; the one before it is let go, once no answer is made with it.
    """

    model_id = "idefics2-onnx"
    can_stream = True
    attachment_types = frozenset(f"image/{name}" for name in FORMATS)

    class Options(llm.Options):
        """What `llm -o NAME VALUE` takes, on top of the folder's generation_config.json."""

        folder: str | None = Field(
            None, description=f"Model folder, or a hub id such as owner/name:int8 [default: ${VARIABLE}, else the demo model]"
        )
        device: str = Field("auto", description="auto, cpu, cuda, tensorrt or openvino")
        max_tokens: int | None = Field(None, ge=1, description="Longest answer in tokens [default: 256]")
        temperature: float | None = Field(
            None, ge=0, description="Above 0, draw tokens, the higher the wilder; 0 takes the likeliest, as without it"
        )
        top_p: float | None = Field(None, gt=0, le=1, description="Draw from the likeliest that hold this share")
        top_k: int | None = Field(None, ge=0, description="Draw from this many of the likeliest; 0 draws from all")
        seed: int | None = Field(None, ge=0, description="Same seed, same draws")
        stop: str | None = Field(None, min_length=1, description="Text that ends the answer and is cut off it")
        split: bool | None = Field(
            None,
            description="Cut pictures into four tiles, for small print; IDEFICS does not [default: as the folder says]",
        )

    def __init__(self) -> None:
        self._opened: Any = None
        self._opened_from: tuple[str | None, str] | None = None
        self._opening = threading.Lock()

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Yield the answer, in pieces if `stream`.

        Raises:
            llm.ModelError: the folder, a picture, an option or the conversation cannot be used; one sentence.
        """
        from idefics2_onnx import Idefics2OnnxError  # not above: every call of llm imports this file

        try:
            messages, images = messages_of(prompt)
            with self._model(prompt.options).stream(messages, images, **generation_options(prompt.options)) as pieces:
                if stream:
                    yield from pieces
                else:
                    yield "".join(pieces)
                answer = pieces.result
        except (Idefics2OnnxError, ImportError) as error:
            raise llm.ModelError(sentence(error)) from error
        reused = answer.timings.prompt_tokens_reused
        details = {"input_reused": reused} if reused else None
        response.set_usage(input=answer.prompt_tokens, output=len(answer.token_ids), details=details)
        response.response_json = {"finish_reason": answer.finish_reason}

    def _model(self, options: Any) -> Any:
        """The model that the options ask for, opened unless it is open."""
        from idefics2_onnx import load

        wanted = options.folder or os.environ.get(VARIABLE) or None, options.device
        with self._opening:
            if self._opened is None or self._opened_from != wanted:
                if wanted[0] is None:
                    click.echo(
                        "Using the demo model, which knows drawn shapes and short texts. Name another with -o folder.", err=True
                    )
                self._opened = None  # and not closed: another thread's answer may still need it
                folder = wanted[0] and os.path.expanduser(wanted[0])  # noqa: PTH111  a Path's has no ./, and ./owner/name is no hub id
                self._opened = load(folder, wanted[1], prefix_cache=PREFIX_CACHE)
                self._opened_from = wanted
            return self._opened


def messages_of(prompt: llm.Prompt) -> tuple[list[dict[str, Any]], list[Any]]:
    """The conversation with this turn at its end, as `generate` takes it, and the pictures of all turns in order."""
    messages: list[dict[str, Any]] = []
    images: list[Any] = []
    for message in prompt.messages:
        pictures, texts = [], []
        for part in message.parts:
            if isinstance(part, AttachmentPart) and part.attachment is not None:
                pictures.append(picture(part.attachment))
            elif isinstance(part, TextPart):
                texts.append(part.text)
            elif not isinstance(part, ReasoningPart):  # another model's; it is no part of what was said
                raise llm.ModelError(
                    "The conversation has a tool's call or result, which the model does not take. Begin another."
                )
        items: list[dict[str, str]] = [{"type": "image"} for _ in pictures]  # in front of the text, as `generate` puts them
        messages.append({"role": message.role, "content": [*items, {"type": "text", "text": "\n".join(texts)}]})
        images += pictures
    if not messages:
        raise llm.ModelError("The prompt is empty. Write a question, or attach a picture.")
    return messages, images


def picture(attachment: llm.Attachment) -> Path | bytes:
    """What `generate` takes for an attachment. Only an attachment that the user gave as a URL is downloaded."""
    if attachment.content:
        return attachment.content
    if attachment.path:
        return Path(attachment.path)
    if attachment.url:
        # Not attachment.content_bytes(): this has limits of time and size.
        from idefics2_onnx.runtime.outside.download import as_typed, download

        return download(attachment.url, as_typed(attachment.url))
    raise llm.ModelError("An attachment is empty. Give a picture's path, URL or bytes.")


def generation_options(options: Any) -> dict[str, Any]:
    """llm's options under the names of `generate`; those that were not given stay the folder's."""
    named = {
        "max_new_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": options.seed,
        "stop_strings": [options.stop] if options.stop else None,
        "do_image_splitting": options.split,
    }
    chosen = {name: value for name, value in named.items() if value is not None}
    if options.temperature == 0:  # whatever else was set, maybe as a default
        chosen = {name: value for name, value in chosen.items() if name not in _DRAWING}
        chosen["do_sample"] = False
    elif _DRAWING & {*chosen}:
        chosen["do_sample"] = True
    return chosen


def sentence(error: Exception) -> str:
    """An error in one sentence; for a package that is missing, how to install it."""
    from idefics2_onnx.runtime.outside.requirement import explain

    return (isinstance(error, ImportError) and explain(error, "cpu")) or str(error)
