"""Raw prompts, through OpenAI's client."""

from __future__ import annotations

import openai
import pytest

PROMPTS = ["User: What is this?<end_of_utterance>\nAssistant:", "A red", "User:"]


@pytest.fixture(scope="module")
def client(lives):
    with lives() as server, server.client() as client:
        yield client


def test_prompts_are_taken_literally(client, demo):
    expected = [demo.generate(prompt, raw=True, max_new_tokens=12) for prompt in PROMPTS]
    one = client.completions.create(model="idefics2-demo", prompt=PROMPTS[0], max_tokens=12)
    assert (one.choices[0].text, one.choices[0].finish_reason) == (expected[0].text, expected[0].finish_reason)
    several = client.completions.create(model="idefics2-demo", prompt=PROMPTS, max_tokens=12)
    assert [(choice.index, choice.text) for choice in several.choices] == [(i, answer.text) for i, answer in enumerate(expected)]
    assert several.usage.prompt_tokens == sum(answer.prompt_tokens for answer in expected)
    texts = ["", "", ""]
    for chunk in client.completions.create(model="idefics2-demo", prompt=PROMPTS, max_tokens=12, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [answer.text for answer in expected]


def test_each_prompt_may_be_as_long_as_fits(client):
    long = "word " * 300
    said = client.completions.create(model="idefics2-demo", prompt=[long] * 40, max_tokens=1)
    assert len(said.choices) == 40
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="idefics2-demo", prompt=["x", "x" * 3_000_000], max_tokens=1)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_more_prompts_than_the_queue_ever_takes(called):
    response = called(queue=2).post("/v1/completions", json={"prompt": ["x"] * 3, "max_tokens": 1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")


def test_several_answers_to_each(client, demo):
    ours = {"max_new_tokens": 8, "do_sample": True, "temperature": 1.5, "seed": 2, "num_return_sequences": 2}
    expected = [answer.text for prompt in PROMPTS[:2] for answer in demo.generate(prompt, raw=True, **ours)]
    said = client.completions.create(model="idefics2-demo", prompt=PROMPTS[:2], max_tokens=8, temperature=1.5, seed=2, n=2)
    assert [choice.text for choice in said.choices] == expected
    texts = [""] * 4
    stream = client.completions.create(
        model="idefics2-demo", prompt=PROMPTS[:2], max_tokens=8, temperature=1.5, seed=2, n=2, stream=True
    )
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected


def test_logprobs(client):
    choice = client.completions.create(model="idefics2-demo", prompt="A red", max_tokens=12, logprobs=2).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text
    assert [choice.text[at:][:1] for at in choice.logprobs.text_offset] == [token[:1] for token in choice.logprobs.tokens]
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)


def test_logprobs_of_characters_of_several_bytes(client):
    """Each byte is a token of this model's, and begins where its character does; a stop string ends them with the text."""
    written = {"extra_body": {"regex": "aé😀 x stop"}, "stop": "top"}
    choice = client.completions.create(model="idefics2-demo", prompt="A red", logprobs=0, **written).choices[0]
    assert choice.text == "aé😀 x s"
    starts = dict.fromkeys(zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True))
    assert [*starts][-8:] == [*((2, rf"bytes:\x{byte:02x}") for byte in "😀".encode()), (3, " "), (4, "x"), (5, " "), (6, "s")]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": "<image>what?"}, None),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
    ],
)
def test_what_is_wrong_is_named(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="idefics2-demo", **options)
    assert caught.value.param == param
