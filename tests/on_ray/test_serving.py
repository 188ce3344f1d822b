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
from pydantic import BaseModel, Field

pytest.importorskip("ray")
pytestmark = pytest.mark.scale
MODEL = "idefics2-demo"
LONG = {"max_tokens": 1800, "logit_bias": {"2": -100, "437": -100}}
"""Without an end token."""


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


@pytest.fixture(scope="module")
def address(on_ray):
    """Of the proxy; no application is there yet."""
    import socket

    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def served(replicas=2, **arguments):
    """Run, or go over to, an application with these arguments."""
    from idefics2_onnx.on_ray import deployment
    from ray import serve

    application = deployment({"name": MODEL, "rows": 4, "api_keys": [KEY], **arguments})
    deployed = application._bound_deployment.options(num_replicas=replicas)
    serve.run(deployed.bind(*application._bound_deployment.init_args), name="pictures")


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


class Receipt(BaseModel):
    milk: str = Field(pattern=r"^\d+\.\d\d$")


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
    (usage,) = [
        chunk.usage for chunk in ask(client, stream=True, max_tokens=4, stream_options={"include_usage": True}) if chunk.usage
    ]
    assert usage.completion_tokens <= 4
    assert [each.id for each in client.models.list()] == [MODEL]
    parsed = client.chat.completions.parse(
        model=MODEL, messages=question("Give the receipt as JSON.", "receipt.png"), response_format=Receipt
    )
    assert parsed.choices[0].message.parsed.milk
    form = httpx2.post(
        f"{address}/v1/chat/completions",
        headers={"authorization": f"Bearer {KEY}"},
        files={"image": (EXAMPLES / "shapes.png").read_bytes()},
        data={"prompt": "What is in the picture?"},
        timeout=60,
    )
    assert form.json()["choices"][0]["message"]["content"].startswith("A red circle")
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
    assert len(lost) <= 8
    assert all(text for _, _, text in lost)
    until(lambda: len(replicas()) == 2 and set(replicas()) != set(before), 60)
    assert ask(client, "What is in the picture?", "shapes.png").choices[0].message.content.startswith("A red circle")


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
