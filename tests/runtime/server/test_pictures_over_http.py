"""Pictures that no request may have, in all the places where a request can name one: refused, and nothing was opened or asked."""

from __future__ import annotations

import json

from picture_addresses import ALLOWED, DATA_OF_OTHERS, DISGUISED, HERE, OTHERWISE
from touches import touches

REFUSED = [*HERE, *DISGUISED, *OTHERWISE, *DATA_OF_OTHERS]
TEXT = {"type": "text", "text": "What is it?"}


def item(kind, value):
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: value}, TEXT]}], "max_tokens": 1}


def post(client, path, body):
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def refused(client, path, body):
    with touches() as found:
        answer = post(client, path, body)
    assert answer.status_code == 400, (answer.status_code, answer.text)
    assert found == [], found
    return answer.json()["error"]


def test_no_address_is_followed(called):
    client = called(allow_image_urls=ALLOWED)
    post(client, "/v1/chat/completions", item("image_url", {"url": "warm:up"}))
    for url in REFUSED:
        for value in (url, {"url": url}, {"url": url, "detail": "low"}):
            error = refused(client, "/v1/chat/completions", item("image_url", value))
            assert error["param"].startswith("messages[0].content[0].image_url"), (url, error)
        assert refused(client, "/v1/tiles", {"image_url": url})["param"] == "image_url"


def test_no_other_name_of_a_picture_is_taken(called):
    client = called()
    post(client, "/v1/chat/completions", item("image_url", {"url": "warm:up"}))
    for path in ("/etc/passwd", "examples/sign.png", "file:///etc/passwd"):
        for kind in ("image", "input_image", "file", "input_file", "video", "image_path"):
            for value in (path, {"url": path}, {"path": path}):
                refused(client, "/v1/chat/completions", item(kind, value))
        for name in ("image", "images", "path", "url", "file"):
            refused(client, "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi", name: path}]})
            refused(client, "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], name: path})
            refused(client, "/v1/completions", {"prompt": "<image>Hi", name: path})
            refused(client, "/v1/tiles", {name: path})


def test_what_is_there_and_what_is_not_are_refused_alike(called, tmp_path):
    client, there, missing = called(), tmp_path / "aaaaa", tmp_path / "bbbbb"
    there.write_bytes(b"secret")
    for form in ("{}", "file://{}", "data:{}", "//{}"):
        one, other = (refused(client, "/v1/tiles", {"image_url": form.format(path)}) for path in (there, missing))
        assert one == other
