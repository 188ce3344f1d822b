"""The page: what people do with it, by mouse, by keyboard and on a phone, and what it says when something goes wrong."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path

import pytest
from idefics2_onnx.runtime.generation.rows import Rows
from patience import until

pytestmark = pytest.mark.page
EXAMPLES = Path("examples")
SCHEMA = (EXAMPLES / "receipt-schema.json").read_text()
FILE = "([name, type, content]) => new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name, { type })"
TRANSFER = f"(files) => {{ const own = new DataTransfer(); for (const one of files) own.items.add(({FILE})(one)); return own; }}"
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}


def transfer(page, *paths):
    """A DataTransfer with these files, as a drop or a paste has it."""
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".txt": "text/plain"}
    files = [(path.name, kinds[path.suffix], base64.b64encode(path.read_bytes()).decode()) for path in paths]
    return page.evaluate_handle(TRANSFER, files)


def add(page, *names):
    before = page.locator("#pictures > li").count()
    page.set_input_files("#files", [EXAMPLES / name for name in names])
    for number in range(before + 1, before + len(names) + 1):
        page.locator(f"#pictures > li:nth-child({number}) summary", has_text="tile").wait_for()


def answered(page, number=None):
    """The answer to a question, the last one's unless said otherwise, once it has ended in whatever way."""
    number = page.locator(".turn").count() if number is None else number
    page.locator(f".turn:nth-child({number}) .answer[aria-busy='false'] .retry").wait_for()
    return page.locator(f".turn:nth-child({number}) .answer")


def ask(page, question):
    number = page.locator(".turn").count() + 1
    page.fill("#question", question)
    page.press("#question", "Enter")
    return answered(page, number)


def bodies(page):
    """What is sent to the model from here on."""
    sent = []
    page.on("request", lambda one: sent.append(one.post_data_json) if one.url.endswith("/v1/chat/completions") else None)
    return sent


def message(role, text, *names):
    images = [{"type": "image", "image": (EXAMPLES / name).read_bytes()} for name in names]
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


@pytest.fixture
def slow(monkeypatch):
    """A decoder that takes 50 ms for a step, so that there is something to stop."""
    step = Rows.step

    def slowly(self, *arguments, **options):
        time.sleep(0.05)
        return step(self, *arguments, **options)

    monkeypatch.setattr(Rows, "step", slowly)


@pytest.fixture
def failing(monkeypatch):
    """A decoder that fails at its fifth step, until it is mended."""
    step, state = Rows.step, {"steps": 0, "broken": True}

    def fail(self, *arguments, **options):
        state["steps"] += 1
        if state["broken"] and state["steps"] > 5:
            raise RuntimeError("the decoder failed")
        return step(self, *arguments, **options)

    monkeypatch.setattr(Rows, "step", fail)
    return state


def test_a_conversation(open_page, demo):
    page = open_page()
    sent = bodies(page)
    add(page, "shapes.png")
    page.click("#pictures summary")
    assert page.locator("#pictures .tiles img").count() == 5
    first = message("user", "What is in the picture?", "shapes.png")
    one = ask(page, "What is in the picture?")
    assert one.locator(".text").inner_text() == demo.generate([first]).text
    said = one.locator(".figures").inner_text()
    for part in (
        r"pictures\s+[\d.]+ s",
        r"first token\s+[\d.]+ s",
        r"in all\s+[\d.]+ s",
        r"tokens\s+23",
        r"tokens per second\s+[\d.,]+",
        r"of 2,048 tokens",
    ):
        assert re.search(part, said), (part, said)
    assert page.locator(".turn .picture > img").count() == 1
    assert page.locator("#pictures > li").count() == 0
    assert page.input_value("#question") == ""

    two = ask(page, "Is there a red square?")
    both = [first, message("assistant", one.locator(".text").inner_text()), message("user", "Is there a red square?")]
    assert two.locator(".text").inner_text() == demo.generate(both).text == "No, there is no red square."
    assert page.locator(".retry").count() == 1
    kinds = [
        [part["type"] for part in one["content"]] if isinstance(one["content"], list) else "text" for one in sent[-1]["messages"]
    ]
    assert kinds == [["image_url", "text"], "text", ["text"]]
    assert sent[-1]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")

    page.click(".retry")
    assert answered(page).locator(".text").inner_text() == "No, there is no red square."
    assert sent[-1] == sent[-2]
    assert len(sent) == 3

    page.click("#new")
    assert page.locator(".turn").count() == 0
    assert page.locator("#empty").is_visible()
    add(page, "sign.png")
    ask(page, "What does it say?")
    assert len(sent[-1]["messages"]) == 1


def test_pictures_are_dropped_pasted_and_removed(open_page, tmp_path):
    page = open_page()
    sent = bodies(page)
    dropped = transfer(page, EXAMPLES / "before.png")
    page.dispatch_event("#question", "dragenter", {"dataTransfer": dropped})
    assert page.locator("#drop").is_visible()
    page.dispatch_event("#question", "drop", {"dataTransfer": dropped})
    page.locator("#pictures summary", has_text="before.png · 5 tiles").wait_for()
    assert page.locator("#drop").is_hidden()
    pasted = transfer(page, EXAMPLES / "after.png")
    page.evaluate("(own) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: own, bubbles: true }))", pasted)
    page.locator("#pictures summary", has_text="after.png · 5 tiles").wait_for()

    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    page.dispatch_event(
        "body", "drop", {"dataTransfer": transfer(page, tmp_path / "notes.txt", tmp_path / "drawing.svg", EXAMPLES / "sign.png")}
    )
    page.locator("#pictures summary", has_text="sign.png").wait_for()
    assert page.inner_text("#problem") == (
        "notes.txt is no picture. drawing.svg is an SVG, which has to be rendered first. Add a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF."
    )
    assert page.locator("#pictures > li").count() == 3
    page.get_by_label("Remove sign.png").click()
    assert page.locator("#pictures > li").count() == 2
    assert ask(page, "What changed?").locator(".text").inner_text() == "The purple triangle is gone."
    assert [part["type"] for part in sent[0]["messages"][0]["content"]] == ["image_url", "image_url", "text"]


def test_a_drag_that_leaves_and_one_without_files(open_page):
    page = open_page()
    dragged = transfer(page, EXAMPLES / "sign.png")
    page.dispatch_event("body", "dragover", {"dataTransfer": dragged})
    assert page.locator("#drop").is_visible()
    page.dispatch_event("body", "dragleave", {"dataTransfer": dragged})
    assert page.locator("#drop").is_hidden()
    text = page.evaluate_handle("() => { const own = new DataTransfer(); own.setData('text/plain', 'words'); return own; }")
    page.dispatch_event("body", "dragover", {"dataTransfer": text})
    assert page.locator("#drop").is_hidden()


def test_formats_that_no_browser_shows(open_page, tmp_path):
    from PIL import Image

    Image.open(EXAMPLES / "sign.png").save(tmp_path / "sign.tiff")
    page = open_page()
    page.set_input_files("#files", [tmp_path / "sign.tiff"])
    page.locator("#pictures summary", has_text="sign.tiff · 5 tiles").wait_for()
    page.locator("#pictures .picture > img[src^='data:image/png']").wait_for()
    assert ask(page, "What does it say?").locator(".text").inner_text() == "house"


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop(how, open_page, serve, slow):
    page = open_page()
    sent = bodies(page)
    add(page, "shapes.png")
    page.fill("#question", "What is in the picture?")
    page.click("#send")
    page.locator(".answer .text", has_text="A red").wait_for()
    assert page.locator("#send").is_hidden()
    assert page.evaluate("document.activeElement.id") == "stop"
    if how == "button":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    answer = answered(page)
    text = answer.locator(".text").inner_text()
    assert "A red" in text and "bottom" not in text  # noqa: PT018
    assert answer.locator(".note").inner_text() == "Stopped here."
    assert page.locator("#send").is_visible()
    assert page.evaluate("document.activeElement.id") == "send"
    ask(page, "And?")
    assert [one["role"] for one in sent[-1]["messages"]] == ["user", "assistant", "user"]
    assert sent[-1]["messages"][1]["content"] == text


def test_stop_before_the_first_word(open_page, monkeypatch, slow):
    page = open_page()
    sent = bodies(page)
    page.route("**/v1/chat/completions", lambda route: None)  # no answer comes
    page.fill("#question", "What is in the picture?")
    page.press("#question", "Enter")
    page.locator("#stop").wait_for()
    page.keyboard.press("Escape")
    assert answered(page).locator(".note").inner_text() == "Stopped before the first word, and left out of the conversation."
    page.unroute("**/v1/chat/completions")
    ask(page, "Is there a star?")
    assert [part["text"] for one in sent[-1]["messages"] for part in one["content"]] == ["Is there a star?"]


def test_an_answer_that_fails_midway_is_tried_again(open_page, failing):
    page = open_page()
    add(page, "shapes.png")
    answer = ask(page, "What is in the picture?")
    assert answer.locator(".text").inner_text().startswith("A red")
    problem = answer.locator(".problem").inner_text()
    assert problem.endswith(".") and len(problem) > 20  # noqa: PT018
    failing["broken"] = False
    page.click(".retry")
    assert answered(page).locator(".problem").count() == 0
    assert page.locator(".answer .text").inner_text().endswith("a green square at the bottom.")


def test_errors_are_sentences(open_page, tmp_path):
    page = open_page()
    page.click("#send")
    assert page.inner_text("#problem") == "There is nothing to ask yet. Write a question."
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((EXAMPLES / "sign.png").read_bytes()[:200])
    page.set_input_files("#files", [damaged])
    page.locator("#pictures .cannot", has_text="damaged").wait_for()
    page.click("#send")
    assert page.inner_text("#problem") == "Write what you want to know about the picture."
    assert "damaged" in ask(page, "What is it?").locator(".problem").inner_text()
    page.click("#new")

    page.fill("#schema", '{"type": "object", "uniqueItems": true, "not": {}}')
    assert "not" in ask(page, "What is it?").locator(".problem").inner_text()
    page.fill("#schema", "{")
    assert page.inner_text("#schema-problem").startswith("This is not JSON yet")
    page.fill("#question", "And now?")
    page.press("#question", "Enter")
    assert page.inner_text("#problem") == "The JSON schema is not right. Correct it, or choose plain text."
    assert page.input_value("#question") == "And now?"
    page.fill("#schema", "[1]")
    assert page.inner_text("#schema-problem") == "A schema is a JSON object, in braces."
    page.click("#clear-schema")
    assert page.inner_text("#schema-problem") == ""
    page.fill("#tokens", "0")
    page.press("#question", "Enter")
    assert page.inner_text("#problem") == "The most tokens of an answer are a whole number above 0."
    page.fill("#tokens", "3000")
    assert "more than the model's 2048" in ask(page, "And now?").locator(".problem").inner_text()
    page.fill("#tokens", "")

    page.context.set_offline(True)
    assert ask(page, "And now?").locator(".problem").inner_text() == (
        "The server cannot be reached. See whether it still runs, then try again."
    )
    page.context.set_offline(False)
    page.click(".retry")
    assert answered(page).locator(".problem").count() == 0


def fulfilled(page, *events, status=200, kind="text/event-stream"):
    """Have the next questions answered with these events."""
    body = "".join(event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n" for event in events)
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=status, content_type=kind, body=body))


def piece(text, reason=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


def test_streams_that_end_otherwise(open_page):
    page = open_page()
    broken = "The answer broke off: the connection to the server ended. Try again."
    for events, wanted in (
        (["data: {\n\n"], broken),
        ([piece("A")], broken),
        (["", "data: "], broken),
        ([{"error": {"message": "The decoder failed. Try again."}}], "The decoder failed. Try again."),
    ):
        fulfilled(page, *events)
        assert ask(page, "What is it?").locator(".problem").inner_text() == wanted
    fulfilled(page, "no JSON", status=502, kind="text/html")
    assert ask(page, "What is it?").locator(".problem").inner_text() == "The server answered 502 (Bad Gateway). Try again."
    fulfilled(
        page, ": still working\n\n", "data:" + json.dumps(piece("A")) + "\r\n\r\n", piece(" dog", "length"), "data: [DONE]\n\n"
    )
    answer = ask(page, "What is it?")
    assert answer.locator(".text").inner_text() == "A dog"
    assert answer.locator(".note").inner_text() == "Cut at the limit. Allow more in the settings."
    fulfilled(page, piece("", "stop"), "data: [DONE]\n\n")
    assert ask(page, "What is it?").locator(".note").inner_text() == "The answer is empty."


def test_a_schema_gives_a_table(open_page):
    page = open_page()
    sent = bodies(page)
    add(page, "receipt.png")
    page.fill("#schema", SCHEMA)
    answer = ask(page, "Give the receipt as JSON.")
    rows = answer.locator("table tr").all_inner_texts()
    assert rows == ["bread\t2.45", "milk\t1.19", "apple\t0.80", "tea\t3.60"]
    assert sent[0]["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)
    answer.locator(".json summary").click()
    assert json.loads(answer.locator("pre").inner_text())["milk"] == "1.19"


def test_the_example_schema_is_one(open_page):
    page = open_page()
    page.click("#example")
    assert page.inner_text("#schema-problem") == ""
    answer = ask(page, "What is it?")
    assert answer.locator(".problem").count() == 0


def test_answers_are_never_html(open_page):
    page = open_page()
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    fulfilled(page, piece(hostile, "stop"), "data: [DONE]\n\n")
    answer = ask(page, hostile)
    assert answer.locator(".text").inner_text() == hostile
    assert page.locator(".question p").inner_text() == hostile
    value = {
        hostile: [{"a": hostile, "b": 1}, {"b": 2.5, "c": None}],
        "plain": ["x", 2],
        "yes": True,
        "none": [],
        "deep": {"er": [[1], [2]]},
    }
    page.fill("#schema", "{}")
    fulfilled(page, piece(json.dumps(value), "stop"), "data: [DONE]\n\n")
    answer = ask(page, "As JSON?")
    assert answer.locator("img, script").count() == 0
    assert answer.locator("th").first.inner_text() == hostile
    assert answer.locator("table table thead th").all_inner_texts() == ["a", "b", "c"]
    assert answer.locator("table table tbody tr").all_inner_texts()[:2] == [f"{hostile}\t1\t–", "–\t2.5\t–"]
    cells = [one.inner_text() for one in answer.locator("table:not(table table) > tbody > tr > td").all()]
    assert cells[1:4] == ["x, 2", "yes", "–"]
    fulfilled(page, piece('{"cut', "length"), "data: [DONE]\n\n")
    assert ask(page, "As JSON?").locator(".text").inner_text() == '{"cut'


def test_settings_reach_the_model(open_page):
    page = open_page()
    sent = bodies(page)
    assert page.get_attribute("#tokens", "placeholder") == "256"
    assert page.is_checked("#splitting")
    add(page, "shapes.png")
    page.uncheck("#splitting")
    page.locator("#pictures summary", has_text="shapes.png · 1 tile").wait_for()
    page.locator("#temperature").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#temperature-shown") == "0.3"
    page.fill("#tokens", "4")
    answer = ask(page, "What is in the picture?")
    assert answer.locator(".note").inner_text() == "Cut at the limit of 4 tokens. Allow more in the settings."
    assert (sent[0]["temperature"], sent[0]["max_tokens"], sent[0]["stream_options"]) == (0.3, 4, {"include_usage": True})
    assert sent[0]["messages"][0]["content"][0]["image_url"]["detail"] == "low"
    page.check("#splitting")
    page.locator(".turn summary", has_text="5 tiles").wait_for()


def test_an_api_key_is_asked_for_and_kept_in_this_tab(open_page):
    page = open_page({"api_keys": ("sesame",)}, loaded=False)
    page.locator("#key-dialog").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.click("#key-cancel")
    page.locator("#model", has_text="API key only").wait_for()
    page.fill("#question", "Is there a star?")
    page.press("#question", "Enter")
    page.locator("#key-dialog").wait_for()
    page.keyboard.press("Escape")
    assert answered(page).locator(".problem").inner_text() == (
        "The server answers with an API key only. Give the key, then try again."
    )
    page.click("#give-key")
    page.fill("#key", "sesame\u2026")  # no header can hold it
    page.keyboard.press("Enter")
    page.locator("#key-problem", has_text="ASCII").wait_for()
    page.fill("#key", "sesam")
    page.keyboard.press("Enter")
    page.locator("#key-problem", has_text="wrong").wait_for()
    page.click("#key-cancel")
    page.click(".retry")
    page.locator("#key-problem", has_text="wrong").wait_for()
    page.fill("#key", "sesame")
    page.keyboard.press("Enter")
    assert answered(page).locator(".problem").count() == 0  # without another Retry
    page.locator("#model", has_text="idefics2-demo").wait_for()
    assert page.locator("#give-key").is_hidden()
    page.reload()
    page.locator("#model", has_text="idefics2-demo").wait_for()
    add(page, "sign.png")
    assert ask(page, "What does it say?").locator(".text").inner_text() == "house"
    assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [["sesame"], 0, ""]
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#key-dialog").wait_for()


SIDEWAYS = """() => [document.documentElement.scrollWidth - innerWidth, ...[...document.querySelectorAll('body *')]
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.table, pre, .unseen')).map((one) => one.outerHTML.slice(0, 80))]"""


def test_a_phone(open_page):
    page = open_page(**PHONE)
    assert page.evaluate(SIDEWAYS) == [0]
    assert page.locator("#settings").get_attribute("open") is None
    add(page, "before.png", "table-top.jpg", "receipt.png")
    page.locator("#pictures summary").nth(1).click()
    assert page.evaluate(SIDEWAYS) == [0]
    ask(page, "What changed?")
    page.tap("#settings > summary")
    assert page.evaluate(SIDEWAYS) == [0]
    page.fill("#schema", "{}")
    wide = {f"a rather long column {number}": "word " * 9 for number in range(9)}
    fulfilled(page, piece(json.dumps([wide, wide]), "stop"), "data: [DONE]\n\n")
    ask(page, "y" * 300).locator(".json summary").click()
    assert page.evaluate(SIDEWAYS) == [0]
    page.click("#clear-schema")
    fulfilled(page, piece("x" * 500, "stop"), "data: [DONE]\n\n")
    ask(page, "What is it?")
    assert page.evaluate(SIDEWAYS) == [0]
    for one in page.locator("button:visible, summary:visible").all():
        assert one.bounding_box()["height"] >= 20


LUMINANCE = """(selector) => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colours) => { for (const one of colours) { canvas.fillStyle = one; canvas.fillRect(0, 0, 1, 1); } return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([...own]) => own.slice(0, 3).map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const found = document.querySelector(selector), behind = [];
  for (let one = found; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
  const [back, front] = [light(rgb(behind)), light(rgb([...behind, getComputedStyle(found).color]))];
  return (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme, open_page):
    page = open_page(color_scheme=scheme)
    add(page, "receipt.png")
    page.fill("#schema", SCHEMA)
    ask(page, "Give the receipt as JSON.")
    page.fill("#schema", "{")
    page.click("#send")
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 249)") == (scheme == "light")
    for selector in ("body", "#model", ".about", ".question p", ".figures dt", ".figures dd", "th", "td", ".json summary", "#problem",
                     "#send", "#new", "#question", "summary", ".turn summary", "#temperature-shown"):  # fmt: skip
        assert page.evaluate(LUMINANCE, selector) >= 4.5, selector


NAME = "() => { const one = document.activeElement; return one === document.body ? '' : one.id || one.getAttribute('aria-label') || one.textContent; }"
OUTLINE = "() => { const own = getComputedStyle(document.activeElement); return own.outlineStyle !== 'none' && parseFloat(own.outlineWidth) >= 2; }"


def test_keyboard_alone(open_page, slow):
    page = open_page()
    assert page.evaluate(NAME) == "question"
    add(page, "shapes.png")  # a file dialog is the system's
    passed = []
    for key in ("Shift+Tab", "Tab"):
        page.focus("#question")
        for _ in range(40):
            passed.append(page.evaluate(NAME))
            assert page.evaluate(OUTLINE), passed
            page.keyboard.press(key)
            if not page.evaluate(NAME):
                break
    for wanted in ("new", "Settings", "temperature", "tokens", "splitting", "schema", "example", "clear-schema", "shapes.png · 5 tiles",
                   "Remove shapes.png", "question", "pick", "send"):  # fmt: skip
        assert wanted in passed, wanted
    page.focus("#pictures summary")
    page.keyboard.press("Enter")
    assert page.locator("#pictures .tiles img").first.is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#pictures > li").count() == 0
    assert page.evaluate(NAME) == "question"
    add(page, "shapes.png")
    assert page.evaluate(NAME) == "question"
    page.keyboard.type("What is in")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the picture?")
    assert page.input_value("#question") == "What is in\nthe picture?"
    page.keyboard.press("Enter")
    page.locator(".answer .text", has_text="A red").wait_for()
    page.keyboard.press("Escape")
    assert answered(page).locator(".note").inner_text() == "Stopped here."
    while page.evaluate(NAME) != "Retry":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(NAME) == "question"
    assert answered(page).locator(".text").inner_text().endswith("bottom.")
    page.keyboard.press("Control+A")
    with page.expect_file_chooser():
        page.focus("#pick")
        page.keyboard.press("Space")


def test_what_screen_readers_are_told(open_page, slow):
    page = open_page()
    add(page, "shapes.png")
    page.fill("#question", "What is in the picture?")
    page.press("#question", "Enter")
    busy = page.locator(".answer[aria-live='polite'][aria-busy='true']")
    busy.wait_for()
    assert page.inner_text("#status") == "Answering…"
    answered(page)
    assert page.inner_text("#status") == "23 tokens"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([hidden]), textarea, summary, img')]
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute('aria-label') || one.alt)).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("html[lang=en] h1").count() == 1


LEFT = "document.documentElement.scrollHeight - innerHeight - scrollY"


def at_the_end(page):
    """The page scrolls there once it has been laid out."""
    until(lambda: page.evaluate(LEFT) < 2, 5)


def test_an_answer_is_followed_unless_one_has_scrolled_away(open_page, slow):
    page = open_page(viewport={"width": 900, "height": 500})
    lines = [piece(f"line {number}\n") for number in range(60)]
    fulfilled(page, *lines, "data: [DONE]\n\n")
    ask(page, "Many lines?")
    at_the_end(page)
    page.unroute("**/v1/chat/completions")
    add(page, "shapes.png")
    page.fill("#question", "What is in the picture?")
    page.press("#question", "Enter")
    page.locator(".turn:nth-child(2) .text", has_text=re.compile(".")).wait_for()
    at_the_end(page)
    page.evaluate("scrollTo(0, 0)")
    answered(page)
    assert page.evaluate("scrollY") == 0
    page.fill("#question", "Is there a star?")
    page.press("#question", "Enter")
    answered(page)
    at_the_end(page)
    page.locator(".turn:nth-child(2) summary").click()
    assert page.evaluate(LEFT) > 100


def test_a_model_that_cuts_nothing(open_page):
    page = open_page()
    sent = bodies(page)
    about = {"architecture": "idefics", "default_max_tokens": 32, "image_splitting": False, "can_split_images": False}
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "idefics2-demo", "idefics2_onnx": about}]}))
    page.reload()
    page.locator("#model", has_text="idefics2-demo · idefics").wait_for()
    assert page.locator("#splitting").is_hidden()
    assert page.get_attribute("#tokens", "placeholder") == "32"
    add(page, "sign.png")
    ask(page, "What does it say?")
    assert list(sent[0]["messages"][0]["content"][0]["image_url"]) == ["url"]


def test_the_model_is_waited_for(open_page):
    page = open_page(loaded=False)
    page.context.route(
        "**/v1/models",
        lambda route: route.fulfill(status=503, json={"error": {"message": "The model is being loaded. Try again soon."}}),
    )
    page.reload()
    page.locator("#model", has_text="The model is being loaded. Try again soon.").wait_for()
    page.context.unroute("**/v1/models")
    page.locator("#model", has_text="idefics2-demo").wait_for()


def test_headers_let_nothing_else_in(open_page):
    page = open_page()
    policy = page.request.get(page.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.evaluate(
        "() => { const own = document.createElement('script'); own.textContent = 'window.ran = 1'; document.body.append(own); }"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in one for one in open_page.wrong)
    open_page.wrong.clear()
