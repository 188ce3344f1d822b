"""The page and the host in Chromium: pixels and answers equal Python's; what else runs is shown."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from idefics2_onnx.runtime.images.source import open_image
from PIL import Image

pytestmark = pytest.mark.javascript
HOST = Path("examples/javascript")
EQUAL, SHOWN = ("fp16", "fp32"), ("int8", "int4", "standard")
WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
FILE = "const file = (content) => new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], 'picture');"
ASK = (
    "async ([provider, questions]) => {"
    + FILE
    + """
  const { openUrl, readPicture } = await import('./web.mjs');
  const model = await openUrl(new URL('./model/', location.href).href, provider), found = [];
  for (const { images, question } of questions) {
    const pictures = await Promise.all(images.map((content) => readPicture(file(content)))), answer = { ids: [], text: '' };
    for await (const { id, text } of model.answer(pictures, question, 96)) {
      answer.ids.push(id);
      answer.text += text;
    }
    found.push(answer);
  }
  return found;
}"""
)
READ = (
    "async (content) => {"
    + FILE
    + """
  const { data, width, height } = await (await import('./web.mjs')).readPicture(file(content));
  return { width, height, data: Array.from(data, (byte) => String.fromCharCode(byte)).join('') };
}"""
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-js does that")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=WEBGPU)
        print(f"Chromium {browser.version}")
        yield browser
        browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The page's address."""
    server = subprocess.Popen(["node", HOST / "serve.mjs", folder, "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


@contextmanager
def opened(browser, folder: Path) -> Iterator:
    with served(folder) as address:
        page = browser.new_page()
        page.goto(address)
        page.set_default_timeout(60_000)
        yield page
        page.close()


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def as_json(asked) -> list[dict]:
    return [{"images": [encoded(path) for path in one.images], "question": one.question} for one in asked]


def differences(found, wanted) -> str:
    return "".join(f"\n  {a['text']!r} is {b['text']!r} in Python" for a, b in zip(found, wanted, strict=True) if a != b)


def test_pictures(browser, folder_of, pictures):
    with opened(browser, folder_of("fp16")) as page:
        for path in pictures:
            found, wanted = page.evaluate(READ, encoded(path)), np.asarray(open_image(path))
            assert (found["height"], found["width"]) == wanted.shape[:2], path.name
            pixels = np.frombuffer(found["data"].encode("latin-1"), np.uint8).reshape(wanted.shape)
            if path.name.startswith("grey-16"):  # Python cuts it at 255
                wanted = np.asarray(Image.open(path))[..., None] >> 8
            off = 1 if path.name == "inks.jpg" else 0  # Chromium rounds products of inks otherwise
            assert np.abs(pixels.astype(int) - wanted).max() <= off, path.name


@pytest.mark.parametrize("name", [*EQUAL, *SHOWN])
def test_answers(browser, name, folder_of, asked, expected):
    some = slice(None, None, 1 if name in EQUAL else 3)
    with opened(browser, folder_of(name)) as page:
        found, wanted = page.evaluate(ASK, ["wasm", as_json(asked[some])]), expected(name)[some]
    same = sum(own == other for own, other in zip(found, wanted, strict=True))
    print(f"Chromium, wasm, {name}: {same} of {len(wanted)} answers equal Python's{differences(found, wanted)}")
    assert found == wanted or name in SHOWN


@pytest.mark.sweep  # a software adapter takes a minute for one question
@pytest.mark.parametrize("name", [*EQUAL, *SHOWN])
def test_webgpu_is_shown(browser, name, folder_of, asked, expected):
    some = slice(5, 6)
    with opened(browser, folder_of(name)) as page:
        if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
            pytest.skip("this Chromium has no WebGPU adapter")
        try:
            found, wanted = page.evaluate(ASK, ["webgpu", as_json(asked[some])]), expected(name)[some]
        except Exception as error:  # of the page's own, whatever it says
            print(f"Chromium, WebGPU, {name}: does not run ({str(error).splitlines()[0]:.200})")
            return
    same = sum(own == other for own, other in zip(found, wanted, strict=True))
    print(f"Chromium, WebGPU, {name}: {same} of {len(wanted)} answers equal Python's{differences(found, wanted)}")


def test_page_answers_and_says_what_is_wrong(browser, folder_of, tmp_path):
    with opened(browser, folder_of("fp16")) as page:
        failures = []
        page.on("pageerror", lambda failure: failures.append(failure))
        page.click(".row button")
        page.wait_for_function("document.querySelector('#error').textContent.startsWith('There is nothing to ask about')")
        page.set_input_files("[type=file]", ["examples/before.png"])
        dropped = page.evaluate_handle(
            "(content) => {" + FILE + "const dropped = new DataTransfer(); dropped.items.add(file(content)); return dropped; }",
            encoded(Path("examples/after.png")),
        )
        page.wait_for_selector("li img")
        page.dispatch_event(".drop", "drop", {"dataTransfer": dropped})
        page.wait_for_selector("li:nth-child(2)")
        page.fill("[name=question]", "What changed?")
        page.press("[name=question]", "Enter")
        page.wait_for_function("document.querySelector('#status').textContent.includes('tokens in')")
        assert page.inner_text("#answer") == "The purple triangle is gone."

        page.click("li button")
        assert page.locator("li").count() == 1
        page.fill("[name=question]", "What is in the picture?")
        page.click(".row button")
        page.wait_for_function("document.querySelector('#status').textContent.includes('tokens in')")
        assert page.inner_text("#answer").startswith("A white circle")

        (tmp_path / "text.png").write_text("no picture")
        page.set_input_files("[type=file]", [tmp_path / "text.png"])
        page.wait_for_function("document.querySelector('#error').textContent.startsWith('text.png is no picture')")
        page.click("summary")
        page.fill("[name=folder]", "./other")
        page.click(".row button")
        page.wait_for_function(
            "document.querySelector('#error').textContent.includes('other/idefics2_onnx.json cannot be read (404)')"
        )
        assert not failures


def test_server_serves_the_page_and_the_folder_only(folder_of):
    with served(folder_of("fp16")) as address:
        for path, wanted in (
            ("", 200),
            ("model/idefics2_onnx.json", 200),
            ("..%2f..%2fREADME.md", 404),
            ("model/..%2fREADME.md", 404),
        ):
            command = ["curl", "--silent", "--path-as-is", "--output", "/dev/null", "--write-out", "%{http_code}", address + path]
            assert subprocess.run(command, capture_output=True, text=True).stdout == str(wanted), path
