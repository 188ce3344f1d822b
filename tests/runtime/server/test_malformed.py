"""Bodies that nobody would send on purpose: each gets a stated status and one sentence, and the next request is answered.

HOSTILE_BODIES=1000 tries so many instead of a few hundred.
"""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idefics2_onnx.runtime.server.openapi import description
from live_server import EXAMPLES, question, until

COUNT = int(os.environ.get("HOSTILE_BODIES", "200"))
STATED = {200, 400, 404, 413, 415, 429}
FIELDS = {
    name: [*description()["components"]["schemas"][name]["properties"], "tools", "echo", "user", "top_a"]
    for name in ("Chat", "Completion", "Tiles")
}
ADDRESSES = {"/v1/chat/completions": "Chat", "/v1/completions": "Completion", "/v1/tiles": "Tiles"}
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308, -0.0, 1e-320, float("nan"), float("inf")]),
)
texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "\ud800", "\0", "<image>", "<image>" * 50, "</s>", "<end_of_utterance>", "data:", "data:image/png;base64,", "file:///etc/passwd",
         "/etc/passwd", "http://[::1", "auto", "user", "system", "text", "image_url", "json_object", "a" * 5000, "(" * 200, "\u202e"]
    ),
)  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
items = st.fixed_dictionaries(
    {"type": st.one_of(st.sampled_from(["text", "image_url"]), values)},
    optional={
        "text": st.one_of(texts, values),
        "image_url": st.one_of(texts, st.fixed_dictionaries({"url": texts}), values),
        "image": values,
    },
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.one_of(st.sampled_from(["user", "system", "assistant"]), values)},
        optional={"content": st.one_of(texts, st.lists(items, max_size=4), values), "name": values, "tool_calls": values},
    ),
    max_size=4,
)
forms = st.fixed_dictionaries(
    {"type": st.sampled_from(["json_schema", "json_object", "text"])},
    optional={"json_schema": st.one_of(values, st.fixed_dictionaries({"schema": values}))},
)


@st.composite
def requests(draw):
    """An address and a body, mostly of the right shape."""
    address = draw(st.sampled_from(list(ADDRESSES)))
    body = draw(st.dictionaries(st.sampled_from(FIELDS[ADDRESSES[address]]), values, max_size=4))
    body.setdefault("max_tokens", 3)
    if "model" in body and draw(st.booleans()):
        del body["model"]
    if ADDRESSES[address] == "Chat":
        body["messages"] = draw(st.one_of(messages, st.just(question("?", "shapes.png"))))
        if draw(st.booleans()):
            body["response_format"] = draw(forms)
    else:
        body["prompt" if ADDRESSES[address] == "Completion" else "image_url"] = draw(st.one_of(texts, values))
    content = json.dumps(body).encode()
    damage = draw(st.integers(0, 9))
    if damage == 0:
        content = content[: draw(st.integers(0, len(content)))]
    elif damage == 1:
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.binary(min_size=1, max_size=3)) + content[place + 1 :]
    return address, content


@pytest.fixture(scope="module")
def client(demo):
    from idefics2_onnx.runtime.server import Settings, create_app
    from starlette.testclient import TestClient

    app = create_app(demo, Settings())
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as one:
        until(lambda: app.state.served.state == "ready")
        yield one


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), derandomize=COUNT == 200)
@given(requests())
def test_each_gets_a_stated_status_and_a_sentence(client, made):
    address, content = made
    response = client.post(address, content=content, headers={"content-type": "application/json"})
    assert response.status_code in STATED, (response.status_code, response.text, content)
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"].isprintable(), error
        assert 10 < len(error["message"]) < 1000, error
        assert "passwd" not in error["message"] or "exist" not in error["message"]
    served = client.app.state.served
    assert (served.under_way, served.budget.held) == (0, 0)


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    + (EXAMPLES / "shapes.png").read_bytes()
    + b'\r\n--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nWhat?\r\n--b\r\n'
    b'Content-Disposition: form-data; name="request"\r\n\r\n{"max_tokens": 2}\r\n--b--\r\n'
)
BORDERS = [place for place in range(len(FORM)) if FORM[place : place + 2] in (b"--", b"\r\n", b"na", b"; ", b'"\r')]


@settings(max_examples=COUNT // 4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=COUNT == 200)
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/tiles", "/v1/completions"]),
    st.lists(st.tuples(st.sampled_from(BORDERS), st.integers(0, 30), st.binary(max_size=8)), max_size=3),
    st.sampled_from(
        ["", "; boundary=b", "; boundary=b", "; boundary=b", "; boundary=", "; boundary=b; charset=utf-7", "; boundary=\xff"]
    ),
)
def test_damaged_forms(client, address, damages, kind):
    content = FORM
    for place, length, bytes_ in damages:
        content = content[:place] + bytes_ + content[place + length :]
    response = client.post(address, content=content, headers={"content-type": f"multipart/form-data{kind}".encode("latin-1")})
    assert response.status_code in STATED, (response.text, content)
    if response.status_code != 200:
        assert response.json()["error"]["message"].isprintable()
    assert client.app.state.served.budget.held == 0


def test_the_next_request_is_answered(client):
    said = client.post("/v1/chat/completions", json={"messages": question("What is in the picture?", "shapes.png")}).json()
    assert said["choices"][0]["message"]["content"].startswith("A red circle")
    until(lambda: not client.app.state.served.scheduler.running)
