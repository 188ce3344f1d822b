"""The server in replicas, by Ray Serve."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ray import serve
from starlette.applications import Starlette

from ..runtime.commands.serve import KEY_VARIABLE
from ..runtime.errors import PromptError, ServerError, first_line
from ..runtime.folder import ModelFolder
from ..runtime.generation.host_files import HostFiles
from ..runtime.server import Settings, create_app
from ..runtime.vision_language_model import VisionLanguageModel
from .opening import Opening

_NAME = "Idefics2"
_REFUSED = 64
"""Requests above rows and queue that a replica is handed, to refuse them in OpenAI's form, with a 429: what Ray holds back it
refuses in none, or lets wait without an end."""
_HEALTH = 2.0
"""Seconds between looks at a replica, and in which a dead one is replaced."""


@dataclass(frozen=True)
class Arguments:
    """What `deployment` takes besides the server's settings."""

    model: str | None = None
    """A folder that lies at this path on every node, a hub id, or None for the demo model."""
    device: str = "auto"
    gpu_options: dict[str, Any] = field(default_factory=dict)
    cpus: int = 1
    """Cores of a replica."""
    prefix_cache: int = 256 << 20
    """Bytes of known prompts; 0 for none."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of generating, where a request does not say otherwise, such as max_new_tokens."""


def deployment(arguments: Mapping[str, Any] | None = None) -> serve.Application:
    """The app of `serve`, as `serve.run` and `serve run idefics2_onnx.on_ray:deployment NAME=VALUE` take it.

    One model and scheduler a replica. How many there are, and what changes that, is Ray Serve's to say, under the name Idefics2.

    Args:
        arguments: by the names of `Arguments` and of `runtime.server.Settings`. Without `api_keys`, those of
            $IDEFICS2_ONNX_API_KEY where this is called.

    Raises:
        PromptError, ModelFolderError, ProviderError: one of them is wrong.
    """
    given = {name: _value(value) for name, value in (arguments or {}).items()}
    own = {name: given.pop(name) for name in [each.name for each in fields(Arguments)] if name in given}
    known = {each.name for each in fields(Settings)}
    if unknown := [name for name in given if name not in known]:
        names = ", ".join([*(each.name for each in fields(Arguments)), *sorted(known)])
        raise PromptError(f"There is no argument {unknown[0]!r:.60}. The arguments are {names}.")
    asked = Arguments(**own)
    given.setdefault("api_keys", tuple(os.environ.get(KEY_VARIABLE, "").split()))
    settings = Settings(**given)
    folder = ModelFolder.open(asked.model)
    HostFiles.read(folder.path, folder.manifest.model).options.replace(**asked.options).check_one_answer()
    opening = Opening.of(folder, asked.device, asked.cpus, settings.rows, asked.gpu_options)
    if settings.name is None and asked.model is not None:
        settings = replace(settings, name=folder.path.resolve().name)
    application: serve.Application = _Replica.options(  # type: ignore[attr-defined]  # a Deployment: Ray is not read for its types
        max_ongoing_requests=settings.rows + settings.queue + _REFUSED,
        ray_actor_options=opening.resources,
        graceful_shutdown_timeout_s=settings.timeout,
    ).bind(opening, settings, asked.prefix_cache, asked.options)
    return application


@serve.deployment(name=_NAME, max_queued_requests=-1, health_check_period_s=_HEALTH)
@serve.ingress()
class _Replica:
    """A model behind the app; it is started once a first answer was computed."""

    def __init__(self, opening: Opening, settings: Settings, prefix_cache: int, options: dict[str, Any]) -> None:
        self._given = opening, settings, prefix_cache, options

    def __serve_build_asgi_app__(self) -> Starlette:
        opening, settings, prefix_cache, options = self._given

        def open_it() -> VisionLanguageModel:
            model = opening.open(prefix_cache)
            model.options = model.options.replace(**options)
            return model

        app = create_app(open_it, settings)
        self._served = app.state.served
        while self._served.state == "loading":
            time.sleep(0.05)
        if self._served.failure is not None:
            raise ServerError(f"The model cannot be served: {first_line(self._served.failure)}.")
        return app

    def check_health(self) -> None:
        """Ray replaces a replica whose scheduler has ended or whose decoder fails for each request."""
        if not self._served.is_healthy:
            raise ServerError("The model does not answer any more.")


def _value(value: Any) -> Any:
    """An argument as it was meant: a shell has text only, YAML no tuples."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return tuple(value) if isinstance(value, list) else value
