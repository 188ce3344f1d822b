"""What a program may be told to call with: messages, options, addresses, saved chats; the model itself is honest."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

import hostile_pictures
import numpy as np
from click.testing import CliRunner
from edge_fuzz import VALUES
from hostile_place import EXAMPLES, Attempt, Place
from hostile_values import TEXTS, argument, damaged, edited_json
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.errors import Idefics2OnnxError
from idefics2_onnx.runtime.images.options import ImageOptions
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.outside import download
from idefics2_onnx.runtime.sampling.generation_options import GenerationOptions

_PICTURE = (EXAMPLES / "shapes.png").read_bytes()
_SOUND: dict[str, list[Any]] = {
    "do_sample": [True], "num_beams": [2, 3, 100], "num_return_sequences": [2, 100], "temperature": [0.7, 1e-5, 1e5], "top_p": [0.0, 0.5], "top_k": [0, 1], "seed": [1],
    "stop_strings": ["a", ["b"], ["x" * 10_000], ["a"] * 9999], "bad_words_ids": [[[5]], [[i] for i in range(438)]], "suppress_tokens": [[*range(438)]], "logprobs": [True], "top_logprobs": [3, 10**6],
    "eos_token_id": [[2], [*range(438)]], "sequence_bias": [[[[5], -2.0]], [[[5], 1e300]], [[[10**8], 1.0]]], "no_repeat_ngram_size": [1, 3], "prompt_lookup_num_tokens": [3, 2**31 - 1],
    "repetition_penalty": [1e-5, 1e5], "max_length": [9, 10**6], "min_new_tokens": [1, 10**6], "echo": [True], "max_time": [0.0, 1e9], "early_stopping": [True, "never"],
    "logit_bias": [{5: 100}, {10**8: 1.0}], "frequency_penalty": [-2, 2], "presence_penalty": [0.5], "regex": ["[ab]*"], "json_schema": [{}, '{"enum": [1]}'],
}  # fmt: skip
"""Values that are right by themselves."""
_INPUTS = ["input_ids", "attention_mask", "pixel_values", "pixel_attention_mask", "inputs_embeds", "image_features", "labels"]
_GENERATE = [
    *GenerationOptions.__dataclass_fields__,
    "use_cache",
    "synced_gpus",
    "images",
    "raw",
    "do_image_splitting",
    "prompt",
    "nothing",
    *_INPUTS,
]
_PROCESSOR = [
    "images", "text", "padding", "padding_side", "pad_to_multiple_of", "truncation", "max_length", "add_special_tokens", "return_tensors", "return_length", "text_kwargs", "videos", "nothing",
    *ImageOptions.__dataclass_fields__,
]  # fmt: skip
_RIGHT = {
    "padding": [True, "max_length"], "max_length": [5, 400, 10**6, 10**9, 10**12], "pad_to_multiple_of": [64, 10**6, 10**12, -1], "truncation": [True], "return_tensors": [None], "padding_side": ["left"],
    "size": [{"height": 10**9, "width": 1}, {"height": 30_000, "width": 30_000}, {"shortest_edge": 1, "longest_edge": 10**6}, {"shortest_edge": 10**5, "longest_edge": 10**5}, {"height": 1, "width": 1}],
    "rescale_factor": [1e29, 0, -1], "image_mean": [1e29, [0.5], [0.5, 0.5, 0.5], [0.5] * 99], "image_std": [1e-29, [1, 1, 1]], "do_resize": [False], "do_rescale": [False], "do_normalize": [False],
    "do_pad": [False], "do_convert_rgb": [False], "resample": [0, 1, 3, 4, 5], "input_data_format": ["channels_first", "channels_last"], "do_image_splitting": [True],
    "images": [[np.zeros((3, 1, 1), np.uint8)], [np.zeros((1, 9000, 3), np.uint8)], [np.zeros((9, 9, 4))], [np.full((9, 9, 3), np.nan)], [np.zeros((9, 9), np.float16)], [_PICTURE] * 9, [b""], [[]]],
    "text": ["<image>" * 3, ["<image>", "Hi"], "x" * 10**6, [""], "\ud800"],
}  # fmt: skip
"""The same of the processor's."""
_OPEN = [
    "source",
    "device",
    "providers",
    "session_options",
    "spinning",
    "gpu_options",
    "revision",
    "allow_urls",
    "image_cache",
    "prefix_cache",
]


@cache
def model() -> Idefics2:
    """The model that ships with the package, opened once in each process."""
    return Idefics2.from_pretrained(device="cpu", image_cache=0)


def messages(rng: random.Random, place: Place) -> Attempt:
    """Conversations with rubbish at every depth, in prompts of every kind."""
    draw = rng.randrange(10)
    prompt: Any = rng.choice(place.messages) if draw < 6 else rng.choice(place.values) if draw < 7 else _long(rng)
    images = rng.choice([None, None, None, [], [_PICTURE], _PICTURE, [[_PICTURE], []], argument(rng, place.values)])
    use = rng.randrange(6)

    def send() -> object:
        if use == 0:
            return model().chat(prompt, max_new_tokens=1).send("Hi").text
        if use == 1:
            return model().processor.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True)
        if use == 2:
            return model().score(prompt, images, "Yes")
        if use == 3:
            return "".join(model().stream(prompt, images, max_new_tokens=1))
        if use == 4:
            return model().chat(max_new_tokens=1).send(prompt, images).text
        return model().generate(prompt, images, max_new_tokens=1)

    return send


def options(rng: random.Random, place: Place) -> Attempt:
    """Every option of generate, stream, chat and score with values that are odd, or right and large."""
    names = rng.choice([_GENERATE, [*_SOUND]])
    chosen: dict[str, Any] = {"max_new_tokens": 2}
    for name in rng.sample(names, rng.choice([1, 1, 2, 3])):
        chosen[name] = rng.choice(_SOUND[name]) if name in _SOUND and rng.random() < 0.5 else argument(rng, place.values)
    if not chosen.keys() & {"prompt", *_INPUTS} or rng.random() < 0.1:
        chosen.setdefault("prompt", rng.choice(["Hi", "What is it?", ["Hi", "A longer one"]]))
    prompt = chosen.pop("prompt", None)
    use: Callable[..., Any] = rng.choice(
        [Idefics2.generate] * 4 + [Idefics2.stream, Idefics2.chat, Idefics2.score, Idefics2.logits, Idefics2.encode_images]
    )

    def call() -> object:
        if use is Idefics2.chat:
            return model().chat(**chosen).send(prompt if isinstance(prompt, str) else "Hi")
        if use is Idefics2.stream:
            return list(model().stream(prompt, **chosen))
        if use is Idefics2.score:
            del chosen["max_new_tokens"]
            return model().score(prompt, **{"answer": "Yes", **chosen} if prompt is not None else chosen)
        if use is Idefics2.logits:
            return model().logits({name: value for name, value in chosen.items() if name in _INPUTS})
        if use is Idefics2.encode_images:
            return model().encode_images(chosen.get("images"), chosen.get("do_image_splitting"))
        return model().generate(prompt, **chosen)

    return call


def processors(rng: random.Random, place: Place) -> Attempt:
    """Every option of the processor, of its image processor and of opening a model."""
    use = rng.randrange(8)
    names = _OPEN if use == 0 else _PROCESSOR
    chosen: dict[str, Any] = {"text": "<image>What?", "images": [_PICTURE]} if use else {}
    for name in rng.sample(names, rng.choice([1, 1, 2, 3])):
        chosen[name] = rng.choice(_RIGHT[name]) if name in _RIGHT and rng.random() < 0.5 else argument(rng, place.values)

    def call() -> object:
        if use == 0:
            return Idefics2.from_pretrained(**chosen)
        if use == 1:
            return model().processor.image_processor(**{name: value for name, value in chosen.items() if name != "text"})
        if use == 2:
            return model().processor.batch_decode(chosen.get("max_length", [[1, 2]]), chosen.get("truncation", True))
        if use == 3:
            return model().processor.apply_chat_template(
                [{"role": "user", "content": "Hi"}],
                tokenize=True,
                **{name: value for name, value in chosen.items() if name not in ("text", "images")},
            )
        return model().processor(**chosen)

    return call


def command_lines(rng: random.Random, place: Place) -> Attempt:
    """`run -O` with every option and values of all kinds, and `export`'s and `preview`'s numbers."""
    words = ["run", rng.choice(["Hi", "What is it? " * 300, "é"]), "--max-new-tokens", "2"]
    for _ in range(rng.choice([1, 1, 2])):
        words += ["-O", f"{rng.choice([*GenerationOptions.__dataclass_fields__])}={rng.choice(VALUES)}"]
    return lambda: run_command([*words, *rng.choice([[], ["--json"], ["--raw"]])])


def chats(rng: random.Random, place: Place) -> Attempt:
    """Files that no chat was saved to."""
    picture = "data:image/png;base64," + base64.b64encode(_PICTURE).decode()
    honest = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]},
    ]
    content, draw = json.dumps(honest).encode(), rng.randrange(10)
    if draw < 6:
        content = edited_json(rng, content, place.values)
    elif draw < 8:
        content = damaged(rng, content)
    elif draw < 9:
        content = json.dumps(rng.choice(place.messages), default=repr).encode()
    else:
        addresses = [
            str(place.canary / "secret.png"),
            "http://10.0.0.1/x",
            "file:///nowhere/x",
            "../canary/secret.png",
            "DATA:x",
            "data:",
            {"url": picture},
        ]
        item = rng.choice(
            [
                {"type": "image", "image": rng.choice(addresses)},
                {"type": "image_url", "image_url": rng.choice(addresses)},
                {"type": "image", "path": rng.choice(addresses)},
            ]
        )
        content = json.dumps([{"role": "user", "content": [item]}]).encode()
    path = place.folder / "chat.json"
    path.write_bytes(content)

    def go_on() -> object:
        chat = model().chat(max_new_tokens=1)
        chat.load(path)
        chat.send("And?")
        chat.save(place.folder / "saved.json")
        return chat.messages

    return go_on


def urls(rng: random.Random, place: Place) -> Attempt:
    """Addresses of every kind as images, and servers of this machine that answer anything; downloads end after 3 s instead of 60."""
    allowed = rng.choice([True, True, False, ["127.0.0.1"], ["*"], ["example.org"], []])
    literal = rng.choice(hostile_pictures.LITERALS)
    closing = ExitStack()
    served = rng.random() < 0.6
    address = (
        _serve(closing, _answer(rng, literal), rng.choice([0, 0, 0, 0.05]))
        + rng.choice(["/a.png", "", "/é", "?x= ", "/%zz", "/a#b", "/\udcff", "/a\nb"])
        if served
        else literal
    )
    kind = rng.choice(["image", "url", "image_url"])
    item = {"type": "image_url", "image_url": {"url": address}} if kind == "image_url" else {"type": "image", kind: address}
    prompt: Any = [{"role": "user", "content": [item, {"type": "text", "text": "What?"}]}]

    def fetch() -> object:
        before, download.DEADLINE = download.DEADLINE, 3
        processor = model().processor.image_processor
        processor.allow_urls = allowed
        try:
            return model().generate(prompt, max_new_tokens=1)
        finally:
            processor.allow_urls, download.DEADLINE = False, before
            closing.close()

    return fetch


def pictures(rng: random.Random, place: Place) -> Attempt:
    """The damaged files and odd addresses of hostile_pictures."""
    ((_, attempt),) = hostile_pictures.cases(rng.getrandbits(64), 1)
    return attempt


def run_command(words: list[str]) -> None:
    """The command line in this process; what it says of a failure as an Idefics2OnnxError."""
    result = CliRunner().invoke(main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), result.exit_code
    assert "Traceback" not in result.output
    if result.exit_code:
        raise Idefics2OnnxError(result.stderr.strip().splitlines()[-1])


def _long(rng: random.Random) -> Any:
    text = rng.choice(
        ["x" * 3_000_000, "<image>" * 99_999, "é" * 500_000, " " * 1_000_000, "a " * 500_000, "</s>" * 100_000, *TEXTS]
    )
    return rng.choice(
        [
            text,
            [text, "Hi"],
            [{"role": "user", "content": text}],
            [{"role": text, "content": [{"type": "text", "text": "Hi"}]}],
            [{"role": "user", "content": [{"type": "text", "text": text}]}],
        ]
    )


def _answer(rng: random.Random, literal: str) -> bytes:
    body = _PICTURE if rng.random() < 0.4 else rng.choice([b"", b"<html>", b"x" * 100_000, damaged(rng, _PICTURE)])
    status = (
        b"200 OK"
        if rng.random() < 0.4
        else rng.choice(
            [
                b"200 OK",
                b"200 OK",
                b"302 Found",
                b"301 M",
                b"307 T",
                b"308 P",
                b"404 No",
                b"999 \xff",
                b"200",
                b"abc",
                b"100 Continue",
                b"204 No",
                b"206 Part",
                b"304 Same",
            ]
        )
    )
    targets = [
        literal,
        "/",
        "file:///nowhere/x",
        "ftp://127.0.0.1:9/x",
        "http://[",
        "//",
        "data:image/png;base64,AAAA",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:9/" + "x" * 9999,
        "\udcff",
        "http://127.0.0.1:9@[::1]/",
    ]
    headers = rng.sample(
        [
            b"Content-Length: %d" % len(body), b"Content-Length: 999999999999", b"Content-Length: -5", b"Content-Length: x", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip",
            b"X: " + b"y" * 70_000, b"no colon", b": empty", b"Content-Type: \xff; charset=nope", b"Set-Cookie: \xff", b"Refresh: 0; url=/", *[b"X: y"] * 200,
            *[b"Location: " + target.encode("utf-8", "surrogateescape") for target in targets] * 5,
        ], rng.randrange(5),
    )  # fmt: skip
    answer = b"HTTP/1.1 " + status + b"\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body
    return damaged(rng, answer) if rng.random() < 0.3 else answer


def _serve(closing: ExitStack, answer: bytes, seconds: float) -> str:
    """A server's address: it answers all that is asked, a few bytes at a time where `seconds` lie between them."""
    listening = closing.enter_context(socket.create_server(("127.0.0.1", 0)))

    def loop() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65536)
                    for at in range(0, len(answer), 20) if seconds else ():
                        connection.sendall(answer[at : at + 20])
                        threading.Event().wait(seconds)
                    if not seconds:
                        connection.sendall(answer)

    threading.Thread(target=loop, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"
