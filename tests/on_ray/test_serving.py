"""The server in two replicas of Ray Serve, through its proxy."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from shutil import copytree

import httpx2
import openai
import psutil
import pytest
from idefics2_onnx import Idefics2, Idefics2OnnxError
from idefics2_onnx.runtime.folder import DEMO
from live_server import EXAMPLES, KEY, our_messages, question
from patience import until
from ray_here import MODEL, deploy, proxy

pytest.importorskip("ray")
pytestmark = pytest.mark.scale
LONG = {"max_tokens": 1800, "logit_bias": {"2": -100, "437": -100}}
"""Without an end token."""


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


@pytest.fixture(scope="module")
def address(on_ray):
    with proxy() as address:
        yield address


def served(replicas=2, **arguments):
    deploy(replicas, **{"rows": 4, "api_keys": [KEY], **arguments})


@pytest.fixture
def client(address):
    """OpenAI's own, which tries nothing twice, on two replicas."""
    served()
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def ask(client, text="What is in the picture?", *pictures, **options):
    return client.chat.completions.create(model=MODEL, messages=question(text, *pictures), **options)


def replicas():
    """Process ids."""
    return [each.pid for each in psutil.Process().children(recursive=True) if "Replica" in _title(each)]


def _title(process):
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):  # it has ended
        return ""


def running(address):
    """Answers that run in the only replica: of two, the one with less to do would answer."""
    text = httpx2.get(f"{address}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    (line,) = [line for line in text.splitlines() if line.startswith("idefics2_onnx:num_requests_running ")]
    return float(line.split()[1])


def test_clients_get_what_generate_gives(client, address, demo):
    asked = [
        ("What is in the picture?", "shapes.png"),
        ("What does the sign say?", "sign.png"),
        ("What changed?", "before.png", "after.png"),
    ] * 8
    expected = {one: demo.generate(our_messages(*one), max_new_tokens=40).text for one in set(asked)}

    def answer(index):
        one, stream = asked[index], index % 2
        said = ask(client, *one, max_tokens=40, stream=bool(stream))
        return "".join(chunk.choices[0].delta.content or "" for chunk in said) if stream else said.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, range(len(asked)))) == [expected[one] for one in asked]
    page = httpx2.get(address)
    assert "<html" in page.text
    assert "content-security-policy" in page.headers


def test_what_is_wrong_is_said_by_the_app(client, address):
    assert httpx2.get(f"{address}/v1/models").json()["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=[{"type": "function", "function": {"name": "f"}}])
    assert caught.value.param == "tools"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="another", messages=question("What?"))
    with pytest.raises(openai.BadRequestError, match="local|data:"):
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}],
        )


def test_streams_come_as_they_grow_and_clients_that_leave_free_their_rows(client, address):
    served(replicas=1)
    until(lambda: running(address) == 0)
    stream = ask(client, stream=True, **LONG)
    for _ in range(4):
        next(stream)
    until(lambda: running(address) == 1, 5)
    stream.close()
    until(lambda: running(address) == 0, 5)
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.5, **LONG)
    until(lambda: running(address) == 0, 5)


def test_the_app_refuses_what_its_queue_does_not_take(address):
    served(replicas=1, rows=1, queue=2)
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        said, refused = [], []

        def one(_):
            try:
                said.append(ask(client, max_tokens=200, logit_bias=LONG["logit_bias"]))
            except openai.RateLimitError as error:
                refused.append(error)

        with ThreadPoolExecutor(24) as pool:
            list(pool.map(one, range(24)))
    assert len(said) + len(refused) == 24
    assert len(said) >= 3
    assert refused
    assert all(error.code == "queue_full" and int(error.response.headers["retry-after"]) >= 1 for error in refused)


def test_a_replica_that_is_killed_takes_only_its_own_requests_with_it(client, address):
    before = replicas()
    assert len(before) == 2
    ended, killed = [], threading.Event()

    def one(index):
        begun = time.monotonic()
        try:
            response = httpx2.post(
                f"{address}/v1/chat/completions",
                json={"messages": question("What?"), "max_tokens": 300, "logit_bias": LONG["logit_bias"]},
                headers={"authorization": f"Bearer {KEY}"},
                timeout=60,
            )
            ended.append((begun, response.status_code, response.text))
        except httpx2.HTTPError as error:
            ended.append((begun, type(error).__name__, ""))
        if index == 12:
            os.kill(before[0], signal.SIGKILL)
            killed.set()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(120)))
    assert killed.is_set()
    lost = [each for each in ended if each[1] != 200]
    print("requests that the replica had:", [(status, text[:200]) for _, status, text in lost])
    assert 1 <= len(lost) <= 8
    assert {(status, json.loads(text)["error"]["code"]) for _, status, text in lost} == {(503, "replica_lost")}
    until(lambda: len(replicas()) == 2 and set(replicas()) != set(before), 60)
    assert ask(client, "What is in the picture?", "shapes.png").choices[0].message.content.startswith("A red circle")


def test_a_stream_of_a_replica_that_is_killed_ends_with_an_error(address):
    served(replicas=1)
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        until(lambda: len(replicas()) == 1, 60)
        stream = ask(client, stream=True, **LONG)
        next(stream)
        os.kill(*replicas(), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="Ask again"):
            list(stream)


def test_a_request_has_its_time(address):
    served(timeout=0.5)
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, **LONG)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="took longer"):
            list(ask(client, stream=True, **LONG))


def test_another_model_folder_takes_over_without_a_lost_request(client, address, tmp_path):
    copytree(DEMO, tmp_path / "another")
    manifest = next((tmp_path / "another").glob("idefics2_onnx.json"))
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"source": "another"}))
    statuses, over = [], threading.Event()

    def load():
        with httpx2.Client(headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
            while not over.is_set():
                body = {"messages": question("What is in the picture?", "shapes.png"), "max_tokens": 40}
                statuses.append(http.post(f"{address}/v1/chat/completions", json=body).status_code)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    before = set(replicas())
    served(model=str(tmp_path / "another"))
    until(lambda: len(replicas()) == 2 and not before & set(replicas()), 90)
    over.set()
    for thread in threads:
        thread.join()
    print(f"{len(statuses)} requests while replicas were replaced")
    assert set(statuses) == {200}
    assert len(statuses) > 10


def test_arguments_that_are_wrong(tmp_path):
    from idefics2_onnx.on_ray import deployment

    for arguments, said in (
        ({"speed": 1}, "There is no argument 'speed'"),
        ({"rows": "many"}, "rows is 'many'"),
        ({"model": str(tmp_path)}, "is no model folder|has no idefics2_onnx.json"),
        ({"device": "cuda:1"}, "names one by its number"),
        ({"options": {"num_beams": 3}}, "num_beams"),
    ):
        with pytest.raises(Idefics2OnnxError, match=said):
            deployment(arguments)
    assert deployment({"rows": "4", "cors": ["https://example.org"], "api_keys": []})


def test_the_file_for_serve_run_is_one():
    import yaml
    from idefics2_onnx.on_ray import deployment
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((EXAMPLES / "serving" / "ray-serve.yaml").read_text("utf-8"))
    (application,) = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == "idefics2_onnx.on_ray:deployment"
    assert deployment(application.args)._bound_deployment.name == application.deployments[0].name
    assert content["http_options"]["host"] == "127.0.0.1"
