"""What a server says of itself: /health, /ready, /metrics, /v1/models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..sampling.generation_options import DEFAULT_MAX_NEW_TOKENS
from .json_text import json_response
from .problem import Problem
from .served import Served


async def health(request: Request) -> Response:
    """200 unless it has to be started again."""
    served: Served = request.app.state.served
    return json_response({"status": served.state if served.is_healthy else "failed"}, 200 if served.is_healthy else 503)


async def ready(request: Request) -> Response:
    """200 while it takes requests."""
    served: Served = request.app.state.served
    try:
        served.check_open()
    except Problem as problem:
        return problem.response()
    return json_response({"status": "ready"})


async def metrics(request: Request) -> Response:
    served: Served = request.app.state.served
    return served.metrics.response()


async def models(request: Request) -> Response:
    served: Served = request.app.state.served
    served.check_open()
    return json_response({"object": "list", "data": [_model(served)]})


async def one_model(request: Request) -> Response:
    served: Served = request.app.state.served
    served.check_open()
    served.check_name(request.path_params["name"])
    return json_response(_model(served))


def _model(served: Served) -> dict[str, Any]:
    model = served.model
    images = model.processor.image_processor
    return {
        "id": served.name,
        "object": "model",
        "created": 0,
        "owned_by": "idefics2-onnx",
        "max_model_len": model.engine.sizes.max_positions,
        "idefics2_onnx": {
            "architecture": model.architecture,
            "default_max_tokens": model.options.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
            "image_splitting": bool(images.can_split and images.options.do_image_splitting),
            "can_split_images": images.can_split,
            "max_positions": model.engine.sizes.max_positions,
            "max_images": served.settings.max_images,
        },
    }
