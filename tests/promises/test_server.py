"""Answers over HTTP are those of `generate`, whatever runs beside them, and clients that leave take nothing with them."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import openai
import pytest
from idefics2_onnx import Idefics2, ModelFolderError
from idefics2_onnx.runtime.engine.decode_step import DecodeStep
from idefics2_onnx.runtime.engine.engine import Engine
from idefics2_onnx.runtime.memory.prefix_cache import PrefixCache
from live_server import data_url, live, our_messages, question, until

LONG = {"max_tokens": 1800, "logit_bias": {"2": -100, "437": -100}}
"""Without an end token."""


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


def requests(count: int):
    """Questions, pictures and options, by OpenAI's names and ours."""
    chance = random.Random(1)
    for index in range(count):
        pictures = chance.choice([[], ["shapes.png"], ["sign.png"], ["before.png", "after.png"], ["receipt.png"]])
        text = chance.choice(["What is in the picture?", "What changed?", "Give the receipt as JSON.", "What does the sign say?"])
        theirs = {"max_tokens": chance.randrange(1, 60)}
        ours = {"max_new_tokens": theirs["max_tokens"]}
        if chance.random() < 0.4:
            theirs |= {"temperature": 1.3, "seed": index}
            ours |= {"do_sample": True, "temperature": 1.3, "seed": index}
            if chance.random() < 0.4:
                theirs["n"] = ours["num_return_sequences"] = 3
        if chance.random() < 0.2:
            theirs["stop"] = ours["stop_strings"] = ["e", "7"]
        if chance.random() < 0.2:
            theirs["frequency_penalty"] = ours["frequency_penalty"] = 0.7
        if chance.random() < 0.1:
            theirs["extra_body"], ours["regex"] = {"regex": "[A-Za-z ]{4,20}"}, "[A-Za-z ]{4,20}"
        yield (text, *pictures), theirs, ours


def answers(client: openai.OpenAI, asked: tuple[str, ...], options: dict, stream: bool):
    """Texts and reasons of all choices."""
    if not stream:
        said = client.chat.completions.create(model="idefics2-demo", messages=question(*asked), **options)
        return [(choice.message.content, choice.finish_reason) for choice in said.choices]
    texts, reasons = {}, {}
    for chunk in client.chat.completions.create(model="idefics2-demo", messages=question(*asked), stream=True, **options):
        choice = chunk.choices[0]
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        reasons[choice.index] = choice.finish_reason
    return [(texts[index], reasons[index]) for index in sorted(texts)]


def test_each_answer_is_that_of_generate(demo):
    """100 of all kinds, 16 at a time, whole and streamed, with known prefixes as `serve` has them."""
    made = list(requests(100))
    expected = []
    for asked, _, ours in made:
        found = demo.generate(our_messages(*asked), **ours)
        expected.append([(one.text, one.finish_reason) for one in (found if isinstance(found, list) else [found])])
    served = copy(demo)
    served.prefix_cache = PrefixCache(64 << 20)
    with live(served, rows=8) as server, server.client() as client, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: answers(client, made[i][0], made[i][1], stream=i % 2 == 1), range(100)))
        assert found == expected
        until(server.is_idle)
    assert served.prefix_cache.nbytes


def test_clients_that_leave_free_their_rows(demo, monkeypatch):
    """Before the first token, in a stream, while an answer is awaited whole, and in the queue."""
    gate = threading.Event()
    encode = Engine.encode_images
    with live(demo, rows=2) as server, server.client() as client:

        def ask(**more):
            return client.chat.completions.create(model="idefics2-demo", messages=question("What?"), **LONG, **more)

        stream = ask(stream=True)
        for _ in range(4):
            next(stream)
        assert server.served.scheduler.running == 1
        stream.close()
        until(server.is_idle, 5)
        with pytest.raises(openai.APITimeoutError):
            ask(timeout=0.3)
        until(server.is_idle, 5)
        monkeypatch.setattr(Engine, "encode_images", lambda *given: (gate.wait(30), encode(*given))[1])
        for _ in range(4):  # two are preparing, two wait for that
            with pytest.raises(openai.APITimeoutError):
                ask(timeout=0.2, stream=True)
        gate.set()
        until(server.is_idle, 5)
        assert "abort" in server.get("/metrics").text
        assert answers(client, ("What is in the picture?", "shapes.png"), {}, stream=False)[0][0].startswith("A red circle")


def test_one_more_than_the_queue_takes_is_told_when_to_come_back(demo, monkeypatch):
    gate = threading.Event()
    encode = Engine.encode_images
    with live(demo, rows=1, queue=2) as server, server.client() as client:
        monkeypatch.setattr(Engine, "encode_images", lambda *given: (gate.wait(30), encode(*given))[1])
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(answers, client, ("What?",), {"max_tokens": 2}, stream) for stream in (False, True)]
            until(lambda: server.served.scheduler.waiting == 2)
            for stream in (False, True):
                with pytest.raises(openai.RateLimitError, match="2 requests are waiting") as caught:
                    answers(client, ("What?",), {}, stream)
                assert caught.value.code == "queue_full"
                assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
            gate.set()
            assert all(one.result() for one in waiting)


def test_a_decoder_that_fails_is_a_500_with_an_id_and_the_next_request_is_answered(demo, monkeypatch):
    step, broken = DecodeStep.__call__, threading.Event()

    def failing(self, tokens):
        if broken.is_set():
            raise ModelFolderError("/a/secret/path failed.")
        return step(self, tokens)

    monkeypatch.setattr(DecodeStep, "__call__", failing)
    monkeypatch.setattr(DecodeStep, "greedy", lambda *_: None)
    with live(demo) as server, server.client() as client:
        asked = ("What is in the picture?", "shapes.png")
        broken.set()
        with pytest.raises(openai.InternalServerError) as caught:
            answers(client, asked, {}, stream=False)
        assert caught.value.code == "internal_error"
        assert caught.value.response.headers["x-request-id"] in caught.value.message
        assert "secret" not in caught.value.message
        for _ in range(2):  # a stream that has begun ends with an event
            with pytest.raises(openai.APIError, match="The server failed") as caught:
                answers(client, asked, {}, stream=True)
            assert not isinstance(caught.value, openai.APIStatusError)
        assert server.get("/health").status_code == 503
        broken.clear()
        assert answers(client, asked, {}, stream=True)[0][0].startswith("A red circle")
        assert server.get("/health").status_code == 200
        until(server.is_idle)


def test_a_request_has_its_time(demo):
    with live(demo, timeout=0.5) as server, server.client() as client:
        start = time.monotonic()
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="idefics2-demo", messages=question("What?"), **LONG)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="took longer"):
            list(client.chat.completions.create(model="idefics2-demo", messages=question("What?"), **LONG, stream=True))
        assert time.monotonic() - start < 5
        until(server.is_idle)


def test_the_first_model_is_served_too(model):
    idefics = model("idefics")
    asked = ("What is this?", "shapes.png", "sign.png")
    expected = idefics.generate(our_messages(*asked), max_new_tokens=12)
    with live(idefics, name="idefics2-demo") as server, server.client() as client:
        for stream in (False, True):
            assert answers(client, asked, {"max_tokens": 12}, stream) == [(expected.text, expected.finish_reason)]
        own = client.models.retrieve("idefics2-demo").model_extra["idefics2_onnx"]
        assert (own["architecture"], own["image_splitting"], own["can_split_images"]) == ("idefics", False, False)
        messages = question(*asked)
        for detail, status in (("low", 200), ("high", 400)):
            messages[0]["content"][0]["image_url"]["detail"] = detail
            response = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 2})
            assert response.status_code == status, response.text
        tiles = server.post("/v1/tiles", {"image_url": data_url("shapes.png")}).json()["tiles"]
        assert len(tiles) == 1
