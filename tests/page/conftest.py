"""The page in Chromium, from the server that people run, with the demo model behind it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import until

EXAMPLES = Path("examples")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-page does that")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        print(f"Chromium {browser.version}")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def demo() -> Iterator[Any]:
    from idefics2_onnx import Idefics2

    with Idefics2.from_pretrained(device="cpu") as model:
        yield model


@pytest.fixture(scope="session")
def serve(demo: Any) -> Iterator[Callable[..., str]]:
    """Starts a server with these settings, once for each; gives its address."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed: make test-page does that")
    from idefics2_onnx.runtime.server import Settings, create_app

    servers: dict[Settings, tuple[Any, threading.Thread, str]] = {}

    def start(**options: Any) -> str:
        settings = Settings(**options)
        if settings not in servers:
            server = uvicorn.Server(uvicorn.Config(create_app(demo, settings), port=0, log_level="warning", ws="none"))
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            until(lambda: server.started)
            served = server.config.loaded_app
            port = server.servers[0].sockets[0].getsockname()[1]
            servers[settings] = (server, thread, f"http://127.0.0.1:{port}/")
            assert served is not None
        return servers[settings][2]

    yield start
    for server, _, _ in servers.values():
        server.should_exit = True
    for _, thread, _ in servers.values():
        thread.join(20)


@pytest.fixture
def open_page(browser: Any, serve: Callable[..., str]) -> Iterator[Callable[..., Any]]:
    """Opens the page in a tab of its own; at the end, nothing may have gone wrong in it or been asked of another server."""
    opened: list[tuple[Any, Any, str]] = []
    wrong: list[str] = []

    def start(settings: dict[str, Any] | None = None, loaded: bool = True, **options: Any) -> Any:
        address = serve(**(settings or {}))
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: asked.url.startswith((address, "data:")) or wrong.append(f"elsewhere: {asked.url}"))
        opened.append((context, page, address))
        page.goto(address)
        if loaded:
            page.locator("#model", has_text="idefics2-demo").wait_for()
        return page

    start.wrong = wrong  # type: ignore[attr-defined]
    yield start
    for context, _, _ in opened:
        context.close()
    # What a browser says of an answer that is no success is not the page's.
    assert [one for one in wrong if "Failed to load resource" not in one] == []
