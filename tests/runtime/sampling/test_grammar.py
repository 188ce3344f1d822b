"""Answers by a schema, an expression or a grammar, with the demo model: whole, valid, and what the model would have said anyway."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.sampling import grammar
from idefics2_onnx.runtime.sampling.grammar import Grammars
from pydantic import BaseModel, Field

RECEIPT = str(Path("examples/receipt.png").resolve())
QUESTION = "Give the receipt as JSON."
NAMES = ("bread", "milk", "apple", "tea")
PRICES = {
    "type": "object",
    "properties": {name: {"type": "string", "pattern": r"^\d+\.\d\d$"} for name in NAMES},
    "required": list(NAMES),
    "additionalProperties": False,
}
MIXED = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["fruit", "Gemüse"]},
        "price": {"type": "number", "minimum": 0, "maximum": 99.5},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["kind", "price"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


@pytest.fixture(scope="module")
def free(demo):
    """What the demo says by itself."""
    answer = demo.generate(QUESTION, RECEIPT)
    jsonschema.validate(json.loads(answer.text), PRICES)
    return answer


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 5}, {"logprobs": True}], ids=str)
def test_an_answer_that_was_valid_stays_what_it_was(way, demo, free):
    """Token by token, its end included: the likeliest one that the grammar allows is never another."""
    expected = demo.generate(QUESTION, RECEIPT, **way)
    answer = demo.generate(QUESTION, RECEIPT, json_schema=PRICES, **way)
    assert (answer.token_ids, answer.finish_reason) == (expected.token_ids, "stop")
    assert answer.logprobs == expected.logprobs


def test_streams_chats_and_tasks_follow_it_too(demo, free):
    assert "".join(demo.stream(QUESTION, RECEIPT, json_schema=PRICES)) == free.text
    chat = demo.chat(json_schema=PRICES)
    assert chat.send(QUESTION, RECEIPT).text == free.text
    jsonschema.validate(json.loads(chat.send("And in words?").text), PRICES)
    assert asyncio.run(demo.agenerate(QUESTION, RECEIPT, json_schema=PRICES)).text == free.text


def test_drawn_answers_are_valid(demo):
    """At a temperature at which free ones are nothing; each of several answers goes its own way."""
    options = {"do_sample": True, "temperature": 3.0, "top_k": 0, "seed": 7, "num_return_sequences": 8, "max_new_tokens": 400}
    answers = demo.generate(QUESTION, RECEIPT, json_schema=MIXED, **options)
    whole = [answer.text for answer in answers if answer.finish_reason == "stop"]
    for text in whole:
        jsonschema.validate(json.loads(text), MIXED)
    assert len({*whole}) > 6
    batch = demo.generate([QUESTION, "What is it?"], [[RECEIPT], []], json_schema=MIXED, **options)
    assert [answer.token_ids for answer in batch[:8]] == [answer.token_ids for answer in answers]


def test_an_answer_by_an_expression_or_a_grammar(demo):
    assert re.fullmatch(r"(yes|no), \d{1,3}", demo.generate(QUESTION, RECEIPT, regex=r"(yes|no), \d{1,3}").text)
    lark = 'start: colour " " shape\ncolour: "red" | "blue"\nshape: /circle|star|square/'
    answers = demo.generate("What is it?", grammar=lark, num_beams=4, num_return_sequences=3)
    assert len({answer.text for answer in answers}) > 1
    assert all(re.fullmatch("(red|blue) (circle|star|square)", answer.text) for answer in answers)


def test_beams_that_have_nothing_to_say_end(demo):
    """Two words, and more beams than ways to spell them at some step: none goes on behind its end."""
    rules = {"regex": "yes|no", "num_beams": 6, "num_return_sequences": 4}
    for more in ({}, {"renormalize_logits": True}, {"length_penalty": 3.0, "early_stopping": "never"}):
        assert {answer.text for answer in demo.generate("What is it?", **rules, **more)} == {"yes", "no"}


def test_an_end_token_comes_only_where_the_grammar_ends(demo):
    """And where the model has none, the answer ends by itself."""
    letters = [demo.processor.tokenizer.token_to_id(letter) for letter in "abc"]
    answer = demo.generate("x", regex="[abc]{5}", eos_token_id=letters, max_new_tokens=20)
    assert answer.finish_reason == "stop"
    assert len(answer.token_ids) >= 6  # letters in other spellings, and then one that ends it
    bare = demo.generate("x", regex="[abc]{5}", eos_token_id=[99999], max_new_tokens=20)
    assert bare.finish_reason == "stop"
    assert re.fullmatch("[abc]{5}", bare.text)
    beams = demo.generate("x", regex="[abc]{5}d*", logit_bias=dict.fromkeys(demo.options.eos_token_id, 50), num_beams=3)
    assert re.fullmatch("[abc]{5}d*", beams.text)


def test_other_options_hold_and_may_leave_nothing(demo):
    without = [i for i in range(438) if "e" in demo.processor.decode([i]) or "E" in demo.processor.decode([i])] + [0x65 + 3]
    assert demo.generate("x", regex="yes|no", suppress_tokens=without).text == "no"
    for options in ({"suppress_tokens": without}, {"min_new_tokens": 30}):
        for way in ({}, {"num_beams": 2}, {"do_sample": True}):
            with pytest.raises(PromptError, match="The regex and the other options forbid every token. Ease suppress_tokens"):
                demo.generate("x", regex="yes", **options, **way)
    assert demo.generate("x", regex="[ab]{30}", max_new_tokens=4).finish_reason == "length"


def test_recursion(demo):
    tree = {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}}
    jsonschema.validate(json.loads(demo.generate("x", json_schema=tree, logit_bias=dict.fromkeys(range(3, 400), 9)).text), tree)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"json_schema": {"type": "integer", "multipleOf": 123456789}}, "The json_schema takes more than 1 s to compile"),
        ({"json_schema": {"type": "string", "pattern": "^(a{1000}){1000}$"}}, "cannot be followed|takes more than 1 s"),
        ({"json_schema": {"type": "object", "properties": {f"k{i}": {"type": "null"} for i in range(1500)}}}, "cannot be followed"),
        ({"json_schema": {"$ref": "#"}}, "The json_schema cannot be followed"),
        ({"json_schema": {"$ref": "https://example.com/" + "x" * 9999}}, "not present in a registry|cannot be followed"),
        ({"json_schema": json.loads('{"items":' * 150 + "{}" + "}" * 150)}, "recursion limit"),
        ({"grammar": "start: A\nA: /.*a.{100}/ & /.*b.{99}/ & /.*c.{98}/"}, "The grammar takes more than 1 s"),
        ({"grammar": 'start: "a" start'}, "The grammar cannot be followed"),
        ({"regex": "(" * 5000 + "a" + ")" * 5000}, "The regex cannot be followed"),
        ({"regex": r"(?=a)b"}, "The regex cannot be followed .*look-around"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_hostile_grammars_end_in_one_sentence(options, words, demo):
    """Whatever they are, this process neither compiles for long nor holds much for them."""
    busy = time.process_time()
    with pytest.raises(PromptError, match=words) as caught:
        demo.generate("x", **options)
    assert time.process_time() - busy < 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_of_several_structures_one_is_given(demo):
    with pytest.raises(PromptError, match="json_schema and regex were both given. Give one of them."):
        demo.generate("x", json_schema={}, regex="a")
    with pytest.raises(PromptError, match="There is no 'regex' to score"):
        demo.score("x", answer="y", regex="a")


def test_a_pydantic_model_is_a_schema(demo):
    class Item(BaseModel):
        name: str = Field(max_length=8)
        price: float

    answer = demo.generate("x", json_schema=Item, do_sample=True, temperature=2.0, seed=3, max_new_tokens=400)
    Item.model_validate_json(answer.text)


def test_grammars_are_tried_once_and_the_latest_stay(demo, monkeypatch):
    tried = []
    monkeypatch.setattr(grammar, "_try_out", lambda kind, text: tried.append(text))
    monkeypatch.setattr(grammar, "KEPT", 2)
    grammars = Grammars(demo.processor.tokenizer, 438, (2,))
    for regex in ("a", "b", "a", "c", "a", "b"):
        grammars.matcher(demo.options.replace(regex=regex))
    assert [text[-20:] for text in tried] == [text[-20:] for text in (tried[0], tried[1], tried[2], tried[1])]
    assert len(tried) == 4
    assert grammars.matcher(demo.options) is None


def test_a_frozen_app_starts_no_other_process(monkeypatch):
    monkeypatch.setattr(grammar.subprocess, "run", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    grammar._try_out("regex", "{}")


def test_without_llguidance_one_sentence_says_how_to_get_it(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(PromptError, match=r"This needs llguidance, which is not installed. Run: pip install .*structured\]"):
        demo.generate("x", regex="a")
    assert demo.generate("x", max_new_tokens=1).token_ids


def test_masks_hold_for_a_vocabulary_that_is_longer_than_the_tokenizers(demo):
    """As models pad their tables: those rows are no words."""
    matcher = Grammars(demo.processor.tokenizer, 500, (2, 437)).matcher(demo.options.replace(regex="ab?"))
    scores = np.zeros(500, np.float32)
    matcher.apply(scores)
    allowed = {demo.processor.tokenizer.id_to_token(int(i)) for i in np.flatnonzero(scores == 0)}
    assert allowed == {"a", "▁a", "▁", "<0x20>", "<0x61>"}
