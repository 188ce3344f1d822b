"""A server on 127.0.0.1, in a thread: what clients of any kind can be pointed at."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from idefics2_onnx.runtime.server import Settings, create_app
from openai import OpenAI

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "a-key"


class Live:
    """One that listens.

    Attributes:
        address: without a path.
        served: what its requests share.
    """

    def __init__(self, address: str, served: Any) -> None:
        self.address, self.served = address, served

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's own, which tries nothing twice."""
        return OpenAI(base_url=f"{self.address}/v1", **{"api_key": KEY, "max_retries": 0, "timeout": 60} | options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.address + path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        return httpx2.post(self.address + path, json=json, timeout=60, **options)

    def is_idle(self) -> bool:
        """Whether nothing of any request is left."""
        scheduler = self.served.scheduler
        return not (scheduler.running or scheduler.waiting or self.served.under_way or self.served.budget.held)


@contextmanager
def live(model: Any, **settings: Any) -> Iterator[Live]:
    app = create_app(model, Settings(**settings))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # so that slow readers are soon noticed
        config = uvicorn.Config(app, access_log=False, log_config=None, ws="none", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            until(lambda: app.state.served.state in ("ready", "failed"))
            until(lambda: server.started)
            yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.served)
        finally:
            server.should_exit = True
            thread.join(30)
            app.state.served.close(0)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def data_url(name: str) -> str:
    """A picture of examples/ as an address."""
    return "data:image/png;base64," + base64.b64encode((EXAMPLES / name).read_bytes()).decode()


def question(text: str, *pictures: str) -> list[Any]:
    """One user's turn with pictures of examples/, as OpenAI's API has it."""
    images = [{"type": "image_url", "image_url": {"url": data_url(name)}} for name in pictures]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def our_messages(text: str, *pictures: str) -> list[Any]:
    """The same as `generate` takes it."""
    images = [{"type": "image", "image": (EXAMPLES / name).read_bytes()} for name in pictures]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
