"""OpenAI's own client against a server that listens."""

from __future__ import annotations

import json
from typing import Annotated

import openai
import pydantic
import pytest
from live_server import EXAMPLES, KEY, live, our_messages, question

WHAT = "What is in the picture?"
SHAPES = "A red circle at the top left, a blue star on the right and a green square at the bottom."


@pytest.fixture(scope="module")
def server(lives):
    with lives(api_keys=("another", KEY)) as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    with server.client() as one:
        yield one


def ask(client, messages, **options):
    return client.chat.completions.create(model="idefics2-demo", messages=messages, **options)


def test_a_picture_and_a_question(client):
    said = ask(client, question(WHAT, "shapes.png"))
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == (SHAPES, "stop")
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    assert said.model == "idefics2-demo"
    timings = said.model_extra["timings"]
    assert timings["first_token"] > 0
    assert timings["tokens_per_second"] > 0


def test_streams_join_to_the_answer_and_end_with_what_it_took(client):
    stream = ask(client, question(WHAT, "shapes.png"), stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SHAPES
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len(chunks) > 10
    assert chunks[-1].usage.completion_tokens > 10
    assert chunks[-1].model_extra["timings"]["first_token"] > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_images_in_their_order(client, demo):
    for pictures in (("before.png", "after.png"), ("after.png", "before.png")):
        expected = demo.generate(our_messages("What changed?", *pictures))
        assert ask(client, question("What changed?", *pictures)).choices[0].message.content == expected.text


def test_a_turns_images_go_first_unless_asked_otherwise(client, demo):
    backwards = [{"role": "user", "content": question(WHAT, "shapes.png")[0]["content"][::-1]}]
    assert ask(client, backwards).choices[0].message.content == SHAPES
    as_given = [{"role": "user", "content": our_messages(WHAT, "shapes.png")[0]["content"][::-1]}]
    said = ask(client, backwards, extra_body={"image_order": "as_given"}).choices[0].message.content
    assert said == demo.generate(as_given).text != SHAPES


def test_turns_of_plain_text_and_a_system(client, demo):
    turns = [("system", "Be short."), ("user", "Hello"), ("assistant", "Hi."), ("user", "What is this?")]
    said = ask(client, [{"role": role, "content": text} for role, text in turns], max_tokens=20)
    expected = demo.generate(
        [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns], max_new_tokens=20
    )
    assert said.choices[0].message.content == expected.text
    echoed = said.choices[0].message.model_dump()
    again = ask(client, [{"role": "user", "content": "Hello"}, echoed, {"role": "developer", "content": "Go on."}], max_tokens=5)
    assert again.usage.completion_tokens <= 5


def test_detail_turns_splitting_off_and_on(client, demo):
    for detail, split in (("low", False), ("high", True), ("auto", None)):
        messages = question(WHAT, "shapes.png")
        messages[0]["content"][0]["image_url"]["detail"] = detail
        expected = demo.generate(our_messages(WHAT, "shapes.png"), do_image_splitting=split)
        said = ask(client, messages)
        assert (said.choices[0].message.content, said.usage.prompt_tokens) == (expected.text, expected.prompt_tokens)


def test_options_are_those_of_generate(client, demo):
    ours = {"max_new_tokens": 20, "do_sample": True, "temperature": 1.5, "seed": 3, "top_p": 0.9, "top_k": 20}
    ours |= {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {7: 3}}
    ours |= {"num_return_sequences": 2, "stop_strings": ["e", "zz"]}
    expected = demo.generate(our_messages(WHAT, "shapes.png"), **ours)
    said = ask(
        client, question(WHAT, "shapes.png"),
        max_completion_tokens=20, temperature=1.5, seed=3, top_p=0.9, frequency_penalty=0.5, presence_penalty=-0.5,
        logit_bias={"7": 3}, n=2, stop=["e", "zz"], extra_body={"top_k": 20, "repetition_penalty": 1.2},
    )  # fmt: skip
    found = [(choice.index, choice.message.content, choice.finish_reason) for choice in said.choices]
    assert found == [(index, answer.text, answer.finish_reason) for index, answer in enumerate(expected)]
    assert said.usage.completion_tokens == sum(len(answer.token_ids) for answer in expected)
    assert said.usage.prompt_tokens == expected[0].prompt_tokens


def test_several_answers_stream_side_by_side(client, demo):
    expected = demo.generate(our_messages(WHAT, "shapes.png"), do_sample=True, temperature=1.5, seed=3, num_return_sequences=3)
    texts, reasons = ["", "", ""], {}
    for chunk in ask(client, question(WHAT, "shapes.png"), stream=True, temperature=1.5, seed=3, n=3):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [answer.text for answer in expected]
    assert reasons == dict(enumerate(answer.finish_reason for answer in expected))


def test_json_by_a_schema(client):
    schema = json.loads((EXAMPLES / "receipt-schema.json").read_text())
    form = {"type": "json_schema", "json_schema": {"name": "receipt", "schema": schema, "strict": True}}
    said = ask(client, question("Give the receipt as JSON.", "receipt.png"), response_format=form)
    assert json.loads(said.choices[0].message.content)["milk"] == "1.19"

    class Receipt(pydantic.BaseModel):
        bread: Annotated[str, pydantic.Field(pattern=r"^\d+\.\d\d$")]
        milk: Annotated[str, pydantic.Field(pattern=r"^\d+\.\d\d$")]

    parsed = client.chat.completions.parse(
        model="idefics2-demo", messages=question("Give the receipt as JSON.", "receipt.png"), response_format=Receipt
    )
    assert parsed.choices[0].message.parsed.milk == "1.19"
    said = ask(client, question("Give the receipt as JSON.", "receipt.png"), response_format={"type": "json_object"})
    assert json.loads(said.choices[0].message.content)["milk"] == "1.19"
    plain = ask(client, question(WHAT, "shapes.png"), response_format={"type": "text"})
    assert plain.choices[0].message.content == SHAPES


def test_a_regular_expression_or_a_grammar(client):
    for form in ({"regex": "yes|no"}, {"grammar": 'start: "yes" | "no"'}):
        assert ask(client, question("Is it?", "shapes.png"), extra_body=form).choices[0].message.content in ("yes", "no")


def test_logprobs(client, demo):
    expected = demo.generate(our_messages(WHAT, "shapes.png"), logprobs=True, top_logprobs=2)
    said = ask(client, question(WHAT, "shapes.png"), logprobs=True, top_logprobs=2)
    content = said.choices[0].logprobs.content
    assert "".join(token.token for token in content) == SHAPES
    assert bytes(byte for token in content for byte in token.bytes).decode() == SHAPES
    assert [round(token.logprob, 3) for token in content] == [round(value, 3) for value in expected.logprobs[:-1]]
    assert all(len(token.top_logprobs) == 2 and token.top_logprobs[0].logprob >= token.logprob for token in content)
    chunks = list(ask(client, question(WHAT, "shapes.png"), logprobs=True, stream=True))
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in content]
    cut = ask(client, question(WHAT, "shapes.png"), logprobs=True, stop=" star").choices[0]
    assert "".join(token.token for token in cut.logprobs.content) == cut.message.content == SHAPES[: SHAPES.index(" star")]


def test_neutral_fields_are_taken(client):
    said = ask(
        client, question(WHAT, "shapes.png"),
        user="me", store=True, metadata={"a": "b"}, tools=[], parallel_tool_calls=False, tool_choice="auto", n=1, stop=[],
        service_tier="auto", modalities=["text"], logit_bias={}, seed=7, temperature=0, top_p=1,
    )  # fmt: skip
    assert said.choices[0].message.content == SHAPES


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not offered here"),
        ({"extra_body": {"top_a": 0.5}}, "top_a", "top_a is 0.5, which is not offered here. Leave it out."),
        ({"extra_body": {"echo": True}}, "echo", "not offered"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not offered"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0. Give a whole number from 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "max_tokens is 5 and max_completion_tokens 6"),
        ({"temperature": -1}, "temperature", "from 0"),
        ({"n": 17, "temperature": 1}, "n", "from 1 to 16"),
        ({"n": 2, "temperature": 0}, "n", "would be equal"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"stop": ["x" * 257]}, "stop", "257 characters"),
        ({"stop": ["x"] * 17}, "stop", "17 texts"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs is not true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
        ({"seed": -1}, "seed", "whole number from 0"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema", "missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}}, "response_format", "strin"),
        ({"extra_body": {"regex": "("}}, "regex", "regex"),
        ({"extra_body": {"regex": "a", "grammar": "b"}}, "grammar", "Give one"),
        ({"extra_body": {"image_order": "last"}}, "image_order", "as_given"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"frequency_penalty": 3}, "frequency_penalty", "from -2 to 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client, options, param, said):
    with pytest.raises(openai.BadRequestError, match=r"\. \w.*\.'?") as caught:
        ask(client, question(WHAT, "shapes.png"), **options)
    assert said in caught.value.message
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": "x", "image": "/etc/passwd"}]}], "messages[0].content[0].image"),
        ([{"role": "user", "content": [{"type": "image", "path": "/etc/passwd"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": "a <image> b"}], "messages[0].content"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 7}}]}], "messages[0].content[0].image_url.url"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls"),
    ],
)  # fmt: skip
def test_a_message_that_is_wrong_is_named(server, messages, param):
    body = json.dumps({"messages": messages})
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    response = server.post("/v1/chat/completions", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "address", ["/etc/hostname", "/no/such/file", "file:///etc/hostname", "data:image/png;base64,AAAA", "x" * 1000, ""]
)
def test_an_image_that_is_none(client, address, stream):
    """A status, of a stream too, and the same sentence whether a file is there or not."""
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "?"}]}
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages, stream=stream)
    assert caught.value.param == "messages[0].content[0].image_url"
    assert "such" not in caught.value.message


def test_a_prompt_that_does_not_fit(client):
    for messages, options in (
        (question("word " * 3000), {}),
        (question("hi", "shapes.png"), {"max_tokens": 2048}),
        (question("x" * 3_000_000), {}),  # not even tokenised
    ):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(client, messages, stream=stream, **options)
            assert caught.value.code == "context_length_exceeded"


def test_another_models_name(client, demo):
    with pytest.raises(openai.NotFoundError, match="idefics2-demo") as caught:
        client.chat.completions.create(model="gpt-5", messages=question(WHAT, "shapes.png"))
    assert caught.value.code == "model_not_found"
    with live(demo, any_model=True, name="mine") as server, server.client() as other:
        said = other.chat.completions.create(model="gpt-5", messages=question(WHAT, "shapes.png"))
        assert (said.choices[0].message.content, said.model) == (SHAPES, "mine")


def test_keys(server):
    with server.client(api_key="wrong") as wrong, pytest.raises(openai.AuthenticationError) as caught:
        ask(wrong, question(WHAT, "shapes.png"))
    assert caught.value.code == "invalid_api_key"
    with server.client(api_key="another") as other:
        assert [model.id for model in other.models.list()] == ["idefics2-demo"]
        assert other.models.retrieve("idefics2-demo").model_extra["idefics2_onnx"]["max_positions"] == 2048


def test_uploads(server):
    headers, content = {"authorization": f"Bearer {KEY}"}, (EXAMPLES / "shapes.png").read_bytes()
    said = server.post("/v1/chat/completions", headers=headers, files={"image": content}, data={"prompt": WHAT}).json()
    assert said["choices"][0]["message"]["content"] == SHAPES
    request = json.dumps({"messages": question(WHAT), "max_tokens": 3})
    said = server.post("/v1/chat/completions", headers=headers, files={"image": content}, data={"request": request}).json()
    assert said["choices"][0]["finish_reason"] == "length"
    tokens = [
        server.post("/v1/chat/completions", headers=headers, files={"image": content}, data={"prompt": WHAT} | detail).json()[
            "usage"
        ]["prompt_tokens"]
        for detail in ({"detail": "high"}, {"detail": "low"})
    ]
    assert tokens[0] > 2 * tokens[1]
    assert SHAPES.startswith(said["choices"][0]["message"]["content"])
