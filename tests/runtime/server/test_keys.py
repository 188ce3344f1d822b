"""Who is let in."""

from __future__ import annotations

import pytest

MODELS = "/v1/models"


def test_all_but_a_few_addresses_ask_for_one(called):
    client = called(api_keys=("one", "two"))
    for path in ("/", "/health", "/ready"):
        assert client.get(path).status_code == 200
    for path in (MODELS, "/metrics", "/openapi.json", "/v1/models/x", "/nothing", "/health/"):
        assert client.get(path, follow_redirects=False).status_code == 401, path
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/tiles"):
        response = client.post(path, json={})
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("one", "two"):
        assert client.get(MODELS, headers={"authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize(
    "given", ["", "one", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "Bearer \xfc", "Bearer one two"]
)
def test_wrong_ones(called, given):
    assert called(api_keys=("one",)).get(MODELS, headers={"authorization": given.encode("latin-1")}).status_code == 401


def test_other_sites_pages_come_in_by_name_only(called):
    client = called(cors=("https://good.example",))
    asked = {
        "origin": "https://good.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    allowed = client.options("/v1/chat/completions", headers=asked)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert client.options("/v1/chat/completions", headers=asked | {"origin": "https://evil.example"}).status_code == 400
    assert client.get(MODELS, headers={"origin": "https://good.example"}).headers["access-control-allow-origin"]
    evil = client.get(MODELS, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in evil.headers
    assert (evil.status_code, evil.json()["error"]["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("app.localhost", 200),
        ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("[::1", 403), ("10.0.0.1", 403), ("localhost@evil", 403),
    ],
)  # fmt: skip
def test_without_a_key_only_this_machines_names(called, host, status):
    """A page whose name leads here (DNS rebinding) comes under its own name."""
    assert called().get(MODELS, headers={"host": host}).status_code == status
    assert called(any_host=True).get(MODELS, headers={"host": host}).status_code == 200
    assert called(api_keys=("one",)).get(MODELS, headers={"host": host, "authorization": "Bearer one"}).status_code == 200


def test_the_own_page_is_no_other_site(called):
    assert called().get(MODELS, headers={"host": "localhost:8000", "origin": "http://localhost:8000"}).status_code == 200
    assert called().get(MODELS, headers={"host": "localhost:8000", "origin": "null"}).status_code == 403
    assert called(cors=("*",)).get(MODELS, headers={"origin": "https://any.example"}).status_code == 200


def test_those_who_are_not_let_in_are_counted(called):
    client = called(api_keys=("one",))
    client.get(MODELS)
    said = client.get("/metrics", headers={"authorization": "Bearer one"}).text
    assert 'requests_rejected_total{reason="invalid_api_key"} 1.0' in said
    client = called()
    client.get(MODELS, headers={"host": "evil.example"})
    assert 'requests_rejected_total{reason="host_not_allowed"} 1.0' in client.get("/metrics").text
