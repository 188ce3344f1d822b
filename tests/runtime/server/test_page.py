"""What the page's files are, as far as no browser is needed to tell; tests/page has the rest."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

PAGE = files("idefics2_onnx.runtime.server") / "page"
NAMES = ("index.html", "page.css", "page.js")
VOID = frozenset({"meta", "link", "input", "br", "img"})


class Read(HTMLParser):
    """The tags of a page with their attributes, and whether each that was opened was closed."""

    def __init__(self):
        super().__init__()
        self.tags, self._open, self.texts_of_scripts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if self._open and self._open[-1] in ("script", "style"):
            self.texts_of_scripts.append(text)

    def close(self):
        super().close()
        assert not self._open


@pytest.fixture(scope="module")
def page():
    read = Read()
    read.feed((PAGE / "index.html").read_text("utf-8"))
    read.close()
    return read


def text(name):
    return (PAGE / name).read_text("utf-8")


def test_the_package_has_the_files():
    assert sorted(one.name for one in PAGE.iterdir()) == sorted(NAMES)


def test_one_script_of_fewer_than_600_lines():
    assert len(text("page.js").splitlines()) < 600
    assert max(map(len, text("page.js").splitlines())) <= 130
    assert "import" not in re.sub(r"//.*|/\*.*?\*/", "", text("page.js"), flags=re.DOTALL).split()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_comes_from_elsewhere(name):
    assert not re.search(r"(https?:)?//[a-z0-9]+\.[a-z]", re.sub(r"^ *//.*$", "", text(name), flags=re.MULTILINE), re.IGNORECASE)
    assert not re.search(r"@import|url\(|@font-face", text(name))


def test_it_can_be_mounted_below_a_path():
    assert set(re.findall(r'call\("([^"]+)"', text("page.js"))) == {"v1/models", "v1/tiles", "v1/chat/completions"}


def test_no_inline_script_or_style(page):
    assert page.texts_of_scripts == []
    for tag, attributes in page.tags:
        assert tag not in ("style", "iframe", "object", "embed", "base"), tag
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
        address = attributes.get("src") or attributes.get("href") or attributes.get("action") or ""
        assert address in ("", *NAMES) or address.startswith("data:image/png;base64,"), address


def test_answers_cannot_become_html():
    """Text alone: none of what parses HTML, runs a text or keeps a key for longer than a tab lives."""
    never = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|localStorage|document\.cookie|\.style\b"
    assert not re.search(never, text("page.js"))


def test_what_the_script_looks_for_is_there(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', text("page.js"))) <= set(ids)
    for _, attributes in page.tags:
        for name in ("for", "aria-describedby", "aria-labelledby"):
            assert attributes.get(name, ids[0]) in ids
    labelled = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    for tag, attributes in page.tags:
        if tag in ("input", "textarea") and "hidden" not in attributes and attributes.get("type") != "checkbox":
            assert attributes["id"] in labelled
