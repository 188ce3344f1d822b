"""What a server says of itself."""

from __future__ import annotations

import threading

import pytest
from idefics2_onnx import ModelFolderError
from idefics2_onnx.runtime.server import Settings, create_app
from idefics2_onnx.runtime.server.served import Served
from live_server import question, until
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

ASKED = {"messages": question("What is in the picture?", "shapes.png"), "max_tokens": 3}


def test_while_a_model_is_loaded(demo):
    gate = threading.Event()
    app = create_app(lambda: (gate.wait(30), demo)[1])
    with TestClient(app, "http://localhost") as client:
        assert (client.get("/health").status_code, client.get("/health").json()) == (200, {"status": "loading"})
        for response in (client.get("/ready"), client.get("/v1/models"), client.post("/v1/chat/completions", json=ASKED)):
            assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")
            assert response.headers["retry-after"] == "2"
        assert client.get("/metrics").status_code == 200
        gate.set()
        until(lambda: client.get("/ready").status_code == 200)
        assert client.post("/v1/chat/completions", json=ASKED).status_code == 200


def test_a_model_that_cannot_be_loaded():
    def fail() -> None:
        raise ModelFolderError("/a/path is no model.")

    app = create_app(fail)
    until(lambda: app.state.served.state == "failed")
    with TestClient(app, "http://localhost") as client:
        assert client.get("/health").status_code == 503
        response = client.get("/ready")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_died")
        assert "path" not in response.text
    assert isinstance(app.state.served.failure, ModelFolderError)


def test_closed_just_before_the_first_answer_is_asked_for(demo, monkeypatch):
    """Which is no failure to load."""
    show = Served._show
    monkeypatch.setattr(Served, "_show", lambda self, *given: (self.close(0), show(self, *given)))
    served = create_app(demo).state.served
    served._loading.join(30)
    assert (served.state, served.failure) == ("closing", None)


def test_while_it_shuts_down(called):
    client = called()
    client.app.state.served.close_doors()
    assert (client.get("/health").status_code, client.get("/health").json()) == (200, {"status": "closing"})
    for response in (client.get("/ready"), client.post("/v1/chat/completions", json=ASKED)):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")


def test_a_request_that_comes_to_a_scheduler_that_was_just_closed(called, monkeypatch):
    client = called()
    served = client.app.state.served
    check = served.check_length
    monkeypatch.setattr(served, "check_length", lambda texts: (check(texts), served.close(0)))
    assert client.post("/v1/chat/completions", json=ASKED).json()["error"]["code"] == "shutting_down"


def test_when_the_scheduler_has_died(called):
    client = called()
    client.app.state.served.scheduler.close()
    assert client.get("/health").status_code == 503
    assert client.post("/v1/chat/completions", json=ASKED).json()["error"]["code"] == "model_died"


def test_the_model(called):
    client = called(name="mine")
    (model,) = client.get("/v1/models").json()["data"]
    assert model == client.get("/v1/models/mine").json()
    assert model["idefics2_onnx"] == {
        "architecture": "idefics2", "default_max_tokens": 256, "image_splitting": True, "can_split_images": True,
        "max_positions": 2048, "max_images": 64,
    }  # fmt: skip
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/v1/chat/completions", 405), ("/v1", 404)])
def test_addresses_that_there_are_not(called, path, status):
    response = called().get(path)
    assert (response.status_code, response.json()["error"]["type"]) == (status, "invalid_request_error")


def test_an_app_inside_of_another(demo):
    """Whose lifespan is not run."""
    app = create_app(demo, Settings(api_keys=("one",)))
    outer = Starlette(routes=[Mount("/pictures", app=app)])
    until(lambda: app.state.served.state == "ready")
    with TestClient(outer, "http://localhost") as client:
        assert client.get("/pictures/health").status_code == 200
        assert client.get("/pictures/v1/models").status_code == 401
        headers = {"authorization": "Bearer one"}
        assert client.post("/pictures/v1/chat/completions", json=ASKED, headers=headers).status_code == 200
    app.state.served.close()


def test_metrics(called):
    client = called(queue=7)
    for body in (ASKED, ASKED, ASKED | {"n": 2, "temperature": 1}, ASKED | {"top_a": 1}):
        client.post("/v1/chat/completions", json=body)
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    own = {name.removeprefix("idefics2_onnx:"): float(value) for name, value in lines.items()}
    assert own['request_success_total{finished_reason="length"}'] == 4
    assert own['requests_rejected_total{reason="unsupported"}'] == 1
    assert own["generation_tokens_total"] == 12
    assert own["e2e_request_latency_seconds_count"] == own["request_prefill_time_seconds_count"] == 3
    assert own["time_to_first_token_seconds_count"] == 3
    assert own["mm_cache_queries_total"] == 15
    assert own["mm_cache_hits_total"] >= 10
    assert own["num_requests_running"] == own["num_requests_waiting"] == own["held_bytes"] == 0
    assert 0 <= own["kv_cache_usage_perc"] <= 1
    assert own["kv_cache_budget_bytes"] > own["kv_cache_bytes"] > 0


def test_openapi_names_each_address_and_field(called):
    client = called()
    made = client.get("/openapi.json").json()
    served = {route.path.replace(":path", "") for route in client.app.routes} - {"/", "/page.js", "/page.css", "/openapi.json"}
    assert set(made["paths"]) == served
    for name, path in (("Chat", "/v1/chat/completions"), ("Completion", "/v1/completions"), ("Tiles", "/v1/tiles")):
        for field in made["components"]["schemas"][name]["properties"]:
            response = client.post(path, json={field: [[]]})
            assert "not offered" not in response.json()["error"]["message"] or field in response.json()["error"]["message"]
            assert response.json()["error"]["code"] != "unsupported", field
