"""POST /v1/tiles: what the model sees of a picture."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .. import checks as values
from ..inputs.preview import Preview, preview
from .body import Body, read_body
from .conversation import Picture
from .disconnect import unless_gone
from .exchange import Exchange
from .fields import Fields, text
from .json_text import json_response
from .pictures import picture_bytes
from .problem import Problem
from .served import Served


async def tiles(request: Request) -> Response:
    """`{"tiles": [{"width", "height", "image": "data:image/png;base64,…"}]}`, in the order in which the model reads them."""
    served: Served = request.app.state.served
    exchange = Exchange(request, served, "image_url")
    try:
        async with asyncio.timeout_at(exchange.deadline):
            served.check_open()
            body = await read_body(request, served.settings, exchange.hold)
            return json_response(await unless_gone(request, _tiles(served, exchange, body)))
    except Exception as error:
        return exchange.failed(error)
    finally:
        exchange.end()


async def _tiles(served: Served, exchange: Exchange, body: Body) -> dict[str, Any]:
    fields = Fields(body.value)
    detail = fields.checked("detail", values.choice("auto", "low", "high"))
    if len(body.uploads) > 1:
        raise Problem(400, f"There are {len(body.uploads)} images. Send one.", "too_many_images", "image")
    source = body.uploads[0] if body.uploads else fields.required("image_url", text)
    fields.end()
    processor = served.model.processor
    options = {}
    if processor.image_processor.can_split and detail in ("low", "high"):
        options["do_image_splitting"] = detail == "high"
    (content,) = await picture_bytes([Picture(source, "image_url")], served.urls, served.settings.max_pixels, exchange.hold)
    async with served.drawing:
        return await run_in_threadpool(lambda: {"tiles": _drawn(preview(processor, [content], **options))})


def _drawn(shown: Preview) -> list[dict[str, Any]]:
    sizes = [tile.size for image in shown.images for tile in image.tiles]
    return [
        {"width": size.width, "height": size.height, "image": _as_url(pixels[:, : size.height, : size.width])}
        for size, pixels in zip(sizes, shown.pixels, strict=True)
    ]


def _as_url(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """Pixels [3, height, width] as a PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1))).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
