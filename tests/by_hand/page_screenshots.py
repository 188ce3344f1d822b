"""Draws the screenshots in docs/ of the server's page, with the demo model: python tests/by_hand/page_screenshots.py [FOLDER]

Needs the extra `serve`, playwright and Chromium. They are made small by 128 colours, enough for a page.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import uvicorn
from idefics2_onnx import Idefics2
from idefics2_onnx.runtime.server import create_app
from patience import until
from PIL import Image
from playwright.sync_api import sync_playwright

EXAMPLES = Path(__file__).parents[2] / "examples"
COLOURS = 128
LONGEST = 150_000
"""Bytes of a file."""


def light(page: Any) -> None:
    """A picture with its tiles, and a second turn."""
    add(page, "shapes.png")
    ask(page, "What is in the picture?")
    page.click(".turn summary")
    ask(page, "Is there a red square?")
    page.evaluate("scrollTo(0, 0)")


def dark(page: Any) -> None:
    """An answer by a schema."""
    add(page, "receipt.png")
    page.fill("#schema", (EXAMPLES / "receipt-schema.json").read_text())
    page.evaluate("document.querySelector('#schema').scrollTop = 0")
    ask(page, "Give the receipt as JSON.")


def phone(page: Any) -> None:
    """Two pictures."""
    add(page, "before.png", "after.png")
    ask(page, "What changed?")
    page.evaluate("scrollTo(0, 0)")


SCENES = {
    "page.png": (light, {"viewport": {"width": 1180, "height": 1030}}),
    "page-dark.png": (dark, {"viewport": {"width": 1180, "height": 780}, "color_scheme": "dark"}),
    "page-phone.png": (phone, {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}),
}


def add(page: Any, *names: str) -> None:
    page.set_input_files("#files", [EXAMPLES / name for name in names])
    page.locator(f"#pictures > li:nth-child({len(names)}) summary", has_text="tiles").wait_for()


def ask(page: Any, question: str) -> None:
    number = page.locator(".turn").count() + 1
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.locator(f".turn:nth-child({number}) .answer[aria-busy='false'] .retry").wait_for()
    page.wait_for_timeout(200)


def main(folder: Path) -> None:
    server = uvicorn.Server(uvicorn.Config(create_app(Idefics2.from_pretrained()), port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name, (act, options) in SCENES.items():
                page = browser.new_page(**options)
                page.goto(address)
                page.locator("#model", has_text="idefics2-demo").wait_for()
                act(page)
                image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
                image.save(folder / name, optimize=True)
                size = (folder / name).stat().st_size
                print(f"{name}: {size:,} bytes")
                assert size <= LONGEST, name
            browser.close()
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs")
