"""The whole server as an ASGI app."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..vision_language_model import VisionLanguageModel
from .chat_completions import chat_completions
from .completions import completions
from .json_text import json_response
from .keys import Keys
from .openapi import description
from .page_files import FILES, page_routes
from .problem import Problem, problem_of
from .request_log import RequestLog, client_left, request_id
from .served import Served
from .settings import Settings
from .sites import OwnSites
from .state import health, metrics, models, one_model, ready
from .tiles import tiles

WITHOUT_KEY = ("/health", "/ready", *FILES)
"""What a load balancer asks, and what a browser loads before anybody could type a key."""


def create_app(model: VisionLanguageModel | Callable[[], VisionLanguageModel], settings: Settings | None = None) -> Starlette:
    """OpenAI's API on a model, with a scheduler of its own.

    The model is warmed up at once in a thread, where a function that opens it is called, too; until it has answered, requests get
    a 503. `app.state.served.close()` ends the scheduler where no lifespan does, as in an app that is mounted in another.

    Args:
        model: one that is open, or what opens it.
        settings: None for the usual ones. A key, or what stands in front of the app, has to keep strangers out.
    """
    served = Served(model, settings or Settings())
    settings, refused = served.settings, served.metrics.refused
    middleware = [
        Middleware(RequestLog),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        ),
        *([] if settings.api_keys or settings.any_host else [Middleware(OwnSites, origins=settings.cors, refused=refused)]),
        Middleware(Keys, keys=settings.api_keys, free=WITHOUT_KEY, refused=refused),
    ]
    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/tiles", tiles, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/openapi.json", _openapi),
        *page_routes(),
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={ClientDisconnect: _left, Problem: _failed, Exception: _failed, 404: _failed, 405: _failed},
        lifespan=_lifespan,
    )
    app.state.served = served
    served.start()
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    yield
    await run_in_threadpool(app.state.served.close)


async def _left(request: Request, _: Exception) -> Response:
    """Nobody reads it."""
    client_left(request.scope)
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    return problem_of(error, request_id(request)).response()


async def _openapi(_: Request) -> Response:
    return json_response(description())
