"""Requests that run together: each gets what it would get alone, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import time
import weakref

import numpy as np
import pytest
from idefics2_onnx import Cancelled, Idefics2, ImageError, ModelFolderError, Overloaded, PromptError, Scheduler
from idefics2_onnx.runtime.engine.decode_step import DecodeStep
from idefics2_onnx.runtime.generation.scheduler import piece_tokens
from idefics2_onnx.runtime.sampling.matcher import Matcher
from parity import photos
from PIL import Image

A, B, C = photos()
LONG = {"max_new_tokens": 64, "eos_token_id": []}


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


def requests(count: int, seed: int) -> list[tuple[str, list, dict]]:
    """Prompts with no to three images, and options that differ in everything a row has of its own."""
    random, made = np.random.default_rng(seed), []
    for index in range(count):
        images = [[], [A], [B, C], [C, A, B]][random.integers(4)]
        text = "<image>" * len(images) + "What is this? " * int(random.integers(1, 9))
        options = {"max_new_tokens": int(random.integers(1, 40)), "raw": True, "do_image_splitting": bool(random.integers(2))}
        if random.random() < 0.5:
            options |= {"do_sample": True, "seed": index, "temperature": 1.5}
            options |= {"num_return_sequences": 3} if random.random() < 0.3 else {}
        for chance, more in (
            (0.2, {"stop_strings": ["e", "7"]}),
            (0.2, {"prompt_lookup_num_tokens": 3}),
            (0.2, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}),
            (0.2, {"logprobs": True, "top_logprobs": 2, "echo": bool(random.integers(2))}),
            (0.2, {"min_new_tokens": 1, "bad_words_ids": [[5], [6, 7]]}),
        ):
            options |= more if random.random() < chance else {}
        if random.random() < 0.15:
            options = {"max_new_tokens": 30, "raw": True, "regex": "[A-Za-z0-9 ]{4,20}"}
        options["max_new_tokens"] = max(options["max_new_tokens"], options.get("min_new_tokens", 1))
        made.append((text, images, options))
    return made


def essence(answers: object) -> list[tuple]:
    """All of a result that must not depend on what ran beside it; log-probabilities by rounding."""
    found = answers if isinstance(answers, list) else [answers]
    rounded = [answer.logprobs and [value and round(value, 2) for value in answer.logprobs] for answer in found]
    return [
        (answer.text, answer.token_ids, answer.finish_reason, answer.prompt_tokens, logprobs)
        for answer, logprobs in zip(found, rounded, strict=True)
    ]


@pytest.mark.parametrize(
    "case",
    [
        ("plain", "fp32", "fused"),
        ("window", "fp32", "standard"),
        ("idefics", "fp32", "fused"),
        ("idefics_odd", "fp32", "standard"),
    ],
    ids="-".join,
)
def test_each_answer_is_what_it_would_be_alone(case, model):
    """A fifth are cancelled, at random moments."""
    ours, made, random = model(*case), requests(25, len(case[0])), np.random.default_rng(1)
    if "idefics" in case[0]:
        made = [(text, images, {k: v for k, v in options.items() if k != "do_image_splitting"}) for text, images, options in made]
    alone = [essence(ours.generate(text, images or None, **options)) for text, images, options in made]
    with Scheduler(ours, rows=5) as scheduler:
        handles = []
        for text, images, options in made:
            handles.append(scheduler.submit(text, images or None, **options))
            time.sleep(random.choice([0, 0, 0.01]))
            if random.random() < 0.2:
                random.choice(handles).cancel()
        for handle, expected in zip(handles, alone, strict=True):
            try:
                assert essence(handle.result(60)) == expected
            except Cancelled:
                assert handle.state == "cancelled"
        assert sum(handle.state == "done" for handle in handles) > 12
    assert (scheduler.running, scheduler.waiting) == (0, 0)


def test_text_comes_in_pieces(demo):
    alone = demo.generate("What is this?", [A], logprobs=True, echo=True)
    several = demo.generate("What is this?", [A], do_sample=True, seed=3, num_return_sequences=3, temperature=2.0)
    with Scheduler(demo) as scheduler:
        handle = scheduler.submit("What is this?", [A], logprobs=True, echo=True)
        assert "".join(handle.stream()) == "".join(handle) == handle.result().text == alone.text
        handle = scheduler.submit("What is this?", [A], do_sample=True, seed=3, num_return_sequences=3, temperature=2.0)
        texts = ["", "", ""]
        for index, piece in handle.pieces():
            texts[index] += piece
        assert texts == [answer.text for answer in several] == [answer.text for answer in handle.result()]


def test_timings_are_of_one_request(demo):
    with Scheduler(demo) as scheduler:
        handles = [scheduler.submit("What is this?", [A], **LONG) for _ in range(3)]
        for timings in (handle.result(60).timings for handle in handles):
            assert (timings.new_tokens, timings.first_tokens, timings.steps) == (64, 1, 63)
            assert min(timings.waiting, timings.prefill, timings.decode) > 0
            assert timings.cache_bytes > 0


def test_cancelling_in_every_state(demo, monkeypatch):
    """None of the others notices."""
    expected = demo.generate("What is this?", [A], **LONG).token_ids
    gate = threading.Event()
    encode = type(demo.engine).encode_images
    monkeypatch.setattr(type(demo.engine), "encode_images", lambda *given: (gate.wait(60), encode(*given))[1])
    with Scheduler(demo, rows=2, prepare_threads=1) as scheduler:
        first, preparing, queued = (scheduler.submit("What is this?", [A], **LONG) for _ in range(3))
        _until(lambda: first.state == "preparing")
        assert queued.state == "queued"
        queued.cancel()
        gate.set()
        _until(lambda: first.state == "running")
        preparing.cancel()
        running = scheduler.submit("What is this?", [A], **LONG)
        pieces = running.stream()
        next(pieces)
        pieces.close()
        after = scheduler.submit("What is this?", [A], **LONG)
        for handle in (preparing, queued, running):
            assert handle.state == "cancelled"
            with pytest.raises(Cancelled, match="was cancelled"):
                handle.result()
        assert first.result(60).token_ids == after.result(60).token_ids == expected
        first.cancel()
        assert first.state == "done"  # what is over stays as it is


def test_no_more_images_are_encoded_for_nobody(demo, monkeypatch):
    encode, calls, gate = type(demo.engine)._encode, [], threading.Event()
    monkeypatch.setattr(
        type(demo.engine), "_encode", lambda self, *given: (calls.append(given), gate.wait(60), encode(self, *given))[2]
    )
    demo.engine.feature_cache.clear()
    with Scheduler(demo) as scheduler:
        handle = scheduler.submit("What is this?", [A.resize((40 + i, 60)) for i in range(9)], do_image_splitting=True)
        _until(lambda: calls)
        handle.cancel()
        gate.set()
    assert len(calls) == 1


def test_a_full_queue_says_how_many_wait(demo, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(type(demo.engine), "encode_images", lambda *_: gate.wait(60) and [])
    with Scheduler(demo, queue=3) as scheduler:
        handles = [scheduler.submit("What is this?", max_new_tokens=1) for _ in range(3)]
        with pytest.raises(Overloaded, match=r"3 requests are waiting, as many as may\. Try again later\.") as caught:
            scheduler.submit("What is this?")
        assert caught.value.waiting == 3
        gate.set()
        assert all(handle.result(60).token_ids for handle in handles)


def test_closing_finishes_or_cancels(demo):
    scheduler = Scheduler(demo)
    handles = [scheduler.submit("What is this?", [A], **LONG) for _ in range(20)]
    scheduler.close()
    assert all(len(handle.result(0).token_ids) == 64 for handle in handles)
    with pytest.raises(PromptError, match="is closed"):
        scheduler.submit("What is this?")
    scheduler.close()
    scheduler = Scheduler(demo)
    handles = [scheduler.submit("What is this?", [A], **LONG) for _ in range(20)]
    scheduler.close(0)
    assert {handle.state for handle in handles} <= {"done", "cancelled"}
    assert sum(handle.state == "cancelled" for handle in handles) > 3
    handles = []

    def leave_early() -> None:
        with Scheduler(demo) as scheduler:
            handles.extend(scheduler.submit("What is this?", [A], **LONG) for _ in range(20))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_early()
    assert sum(handle.state == "cancelled" for handle in handles) > 3


def test_a_decoder_that_fails_ends_what_runs_and_nothing_else(demo, monkeypatch):
    expected = demo.generate("What is this?", [A], **LONG).token_ids
    step, calls = DecodeStep.__call__, []

    def failing(self: DecodeStep, tokens: list[int]) -> object:
        calls.append(len(tokens))
        if len(calls) == 20:
            raise ModelFolderError("The decoder failed.")
        return step(self, tokens)

    monkeypatch.setattr(DecodeStep, "__call__", failing)
    with Scheduler(demo, rows=2) as scheduler:
        handles = [scheduler.submit("What is this?", [A], **LONG) for _ in range(6)]
        failed = []
        for handle in handles:
            try:
                assert handle.result(60).token_ids == expected
            except ModelFolderError:
                failed.append(handle.state)
    assert 1 <= len(failed) <= 2
    assert set(failed) == {"failed"}


def test_what_is_wrong_with_one_request_is_its_own(demo, tmp_path):
    def criterion(ids: np.ndarray, _: object) -> bool:
        if ids.shape[1] % 7 == 0:
            raise ZeroDivisionError
        return False

    (tmp_path / "no.jpg").write_bytes(b"no picture")
    expected = demo.generate("What is this?", [A], **LONG).token_ids
    vocabulary = list(range(demo.engine.sizes.vocab_size))
    with Scheduler(demo) as scheduler:
        good = [scheduler.submit("What is this?", [A], **LONG)]
        wrong = {
            ZeroDivisionError: scheduler.submit("What is this?", [A], **LONG, stopping_criteria=[criterion]),
            ImageError: scheduler.submit("What is this?", [tmp_path / "no.jpg"]),
            PromptError: scheduler.submit("What is this?", [A], suppress_tokens=vocabulary),
        }
        good.append(scheduler.submit("What is this?", [A], **LONG))
        for kind, handle in wrong.items():
            with pytest.raises(kind):
                handle.result(60)
            assert handle.state == "failed"
        assert [handle.result(60).token_ids for handle in good] == [expected] * 2
        for options, reason in (
            ({"num_beams": 2}, "num_beams is 2, and a scheduler gives answers as they grow"),
            ({"num_return_sequences": 17, "do_sample": True}, "17, and this scheduler has 16 rows"),
            ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ):
            with pytest.raises(PromptError, match=reason):
                scheduler.submit("What is this?", [A], **options)
        with pytest.raises(PromptError, match="submit takes one prompt, and 2 were given"):
            scheduler.submit(["What is this?", "And this?"])
    for options in ({"rows": 0}, {"queue": 1.5}, {"cache_bytes": "1G"}, {"prompt_piece": 0}):
        with pytest.raises(PromptError, match=r"Give a whole number from 1\."):
            Scheduler(demo, **options)


class File(io.BytesIO):
    """One that can be referred to weakly."""


def test_a_picture_that_cannot_be_read_is_let_go(demo):
    """At once, and not when Python comes to collect the garbage: neither one of no shape nor a file that breaks off."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)).save(whole, "PNG")
    gc.disable()
    try:
        with Scheduler(demo) as scheduler:
            for make in (lambda: np.zeros(7), lambda: File(whole.getvalue()[:-100_000])):
                picture = make()
                handle, kept = scheduler.submit("What is this?", [picture]), weakref.ref(picture)
                del picture
                with pytest.raises(ImageError):
                    handle.result(60)
                assert kept() is None
    finally:
        gc.enable()


def test_the_cache_grows_and_shrinks_within_its_bytes(model):
    """A long request makes room beside a short one that runs; afterwards many short ones get that room."""
    ours = model("plain", "fp32", "fused")
    token = ours.engine.cache_bytes_per_token
    texts = ["Tell me about " + "it and " * count for count in (1, 20, 1, 1, 1, 1, 1)]
    options = {"raw": True, "eos_token_id": [], "max_new_tokens": 30}
    alone = [ours.generate(text, **options) for text in texts]
    longest = max(answer.prompt_tokens for answer in alone) + 29
    with Scheduler(ours, cache_bytes=2 * longest * token) as scheduler:
        handles = [scheduler.submit(text, **options) for text in texts]
        most = 0
        while any(handle.state not in ("done", "failed") for handle in handles):
            most = max(most, scheduler.cache_bytes)
            time.sleep(0.001)
        assert [handle.result().token_ids for handle in handles] == [answer.token_ids for answer in alone]
        assert most <= 2 * longest * token
        with pytest.raises(PromptError, match=r"need [\d,]+ bytes of keys and values, and this scheduler has"):
            scheduler.submit("It", raw=True, max_new_tokens=100, num_return_sequences=4, do_sample=True).result(60)


def test_prefixes_are_reused(checkpoint, exported):
    from idefics2_onnx import load

    ours = load(exported("plain", "fp32"), prefix_cache=1 << 24)
    text = "<image>" + "The same beginning. " * 4
    alone = [ours.generate(text + end, [A], raw=True, max_new_tokens=8).token_ids for end in ("One?", "Two?")]
    with Scheduler(ours) as scheduler:
        for end, expected in zip(("One?", "Two?"), alone, strict=True):
            answer = scheduler.submit(text + end, [A], raw=True, max_new_tokens=8).result(60)
            assert answer.token_ids == expected
            assert answer.timings.prompt_tokens_reused > 50


def test_asynchronously(demo):
    expected = demo.generate("What is this?", [A], **LONG)

    async def use() -> None:
        handles = [scheduler.submit("What is this?", [A], **LONG) for _ in range(3)]
        await handles[0].prepared()
        assert handles[0].state in ("ready", "reading", "running")
        assert "".join([piece async for piece in handles[0]]) == expected.text
        assert (await handles[1]).token_ids == expected.token_ids
        task = asyncio.ensure_future(_await(scheduler.submit("What is this?", [A], **LONG)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        dropped = scheduler.submit("What is this?", [A], **LONG)
        pieces = dropped.apieces()
        await anext(pieces)
        await pieces.aclose()
        assert dropped.state == "cancelled"
        assert (await handles[2]).text == expected.text
        with pytest.raises(ImageError):
            await scheduler.submit("What is this?", ["no.jpg"]).prepared()

    with Scheduler(demo) as scheduler:
        asyncio.run(use())


async def _await(handle: object) -> object:
    return await handle  # type: ignore[misc]


def _until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_first_mask_that_takes_long_holds_nobody_up(demo, monkeypatch):
    mask, begun, go_on = Matcher._mask, threading.Event(), threading.Event()

    def slow(self):
        begun.set()
        assert go_on.wait(60)
        return mask(self)

    with Scheduler(demo) as scheduler:
        monkeypatch.setattr(Matcher, "_mask", slow)
        waiting = scheduler.submit("Say a number.", regex="[0-9]{2}", max_new_tokens=9)
        assert begun.wait(60)
        assert scheduler.submit("Tell me.", **LONG).result(60).token_ids
        assert waiting.state == "preparing"
        go_on.set()
        assert len(waiting.result(60).text.strip()) == 2


def test_a_piece_of_a_prompt_takes_about_as_long_as_some_steps():
    assert piece_tokens(0, 0) == piece_tokens(0.1, 0) == 64
    assert piece_tokens(step_seconds=0.1, token_seconds=0.001) == 64
    assert piece_tokens(step_seconds=0.2, token_seconds=0.04) == 20
    assert piece_tokens(step_seconds=0.001, token_seconds=0.001) == 50
    assert piece_tokens(step_seconds=0.001, token_seconds=1) == 16


def test_where_nobody_watches_prompts_are_read_whole(demo, monkeypatch):
    """As `map` asks for, whose pieces are beside those of a scheduler with people in front of it."""
    lengths, read = [], Scheduler._read_piece
    monkeypatch.setattr(Scheduler, "_read_piece", lambda *given: (lengths.append(found := read(*given)), found)[1])
    prompts = [f"What is this? {'Look well. ' * 12}{number}" for number in range(6)]
    assert [one.answer.text for one in demo.map([(prompt, None) for prompt in prompts])] == [
        demo.generate(p).text for p in prompts
    ]
    assert len(lengths) < 9  # three of most prompts
    lengths.clear()
    with Scheduler(demo) as scheduler:
        first = scheduler.submit("Tell me.", **LONG)
        _until(lambda: first.state == "running")
        assert scheduler.submit(prompts[0], max_new_tokens=2).result(60)
    assert max(lengths[1:]) <= 64 < sum(lengths[1:])
