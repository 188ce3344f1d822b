"""The demo model behind an app, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import pytest
from idefics2_onnx import Idefics2
from live_server import Live, live, until
from starlette.testclient import TestClient


@pytest.fixture(scope="session")
def demo() -> Idefics2:
    return Idefics2.from_pretrained()


@pytest.fixture(scope="module", params=["alone", pytest.param("on_ray", marks=pytest.mark.scale)])
def lives(request: pytest.FixtureRequest, demo: Idefics2) -> Callable[..., AbstractContextManager[Live]]:
    """Starts a server with these settings: by itself, or in two replicas behind Ray Serve's proxy."""
    if request.param == "alone":
        return partial(live, demo)
    pytest.importorskip("ray")
    from ray_here import live_on_ray

    return live_on_ray


@pytest.fixture
def called(demo: Idefics2) -> Iterator[Callable[..., TestClient]]:
    """Makes a client of an app with these settings, ready to answer; its app is `client.app`."""
    from idefics2_onnx.runtime.server import Settings, create_app

    with ExitStack() as stack:

        def make(model: Any = demo, **settings: Any) -> TestClient:
            app = create_app(model, Settings(**settings))
            client = stack.enter_context(TestClient(app, "http://localhost", raise_server_exceptions=False))
            until(lambda: app.state.served.state != "loading")
            return client

        yield make
