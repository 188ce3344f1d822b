"""How schemas and grammars are given."""

from __future__ import annotations

import json

import pytest
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.sampling.generation_options import GenerationOptions
from pydantic import BaseModel

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}


class Size(BaseModel):
    metres: float


def test_a_schema_in_every_form(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), "utf-8-sig")
    for given in (SCHEMA, json.dumps(SCHEMA), file):
        assert json.loads(GenerationOptions().replace(json_schema=given).json_schema) == SCHEMA
    assert json.loads(GenerationOptions().replace(json_schema=Size).json_schema) == Size.model_json_schema()
    file.write_text("start: /a/", "utf-8")
    assert GenerationOptions().replace(grammar=file).grammar == "start: /a/"
    assert GenerationOptions().replace(grammar=file).structure == "grammar"


def cyclic():
    made = {}
    made["properties"] = made
    return made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"json_schema": "schema.json"}, "json_schema is no JSON"),
        ({"json_schema": "[" * 20_000}, "json_schema is no JSON"),
        ({"json_schema": "[1]"}, r"json_schema is '\[1\]'. Give a schema that is an object"),
        ({"json_schema": ["type"]}, r"json_schema is \['type'\]. Give a dict, JSON text, a pathlib.Path of a file"),
        ({"json_schema": int}, "json_schema is <class 'int'>"),
        ({"json_schema": {"type": object()}}, "json_schema cannot be written as JSON"),
        ({"json_schema": {"minimum": float("nan")}}, "json_schema cannot be written as JSON"),
        ({"json_schema": cyclic()}, "json_schema cannot be written as JSON"),
        ({"json_schema": {"properties": {f"k{i}": {"type": "string"} for i in range(10_000)}}}, "has 2.., more than 65,536. Ask for"),
        ({"json_schema": {"const": "\ud800"}}, "half a surrogate pair"),
        ({"regex": ""}, "regex is ''. Give text"),
        ({"regex": 7}, "regex is 7. Give text"),
        ({"regex": "a" * 70_000}, "regex has 70,000 bytes, more than 65,536"),
        ({"grammar": b"start: /a/"}, "grammar is b'start"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_schema_or_grammar(options, words):
    words = words.replace("2..", r"\d+,\d+ bytes")
    with pytest.raises(PromptError, match=words) as caught:
        GenerationOptions().replace(**options)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read(tmp_path):
    for path, words in (
        (tmp_path / "none.json", "cannot be read .*Check the path"),
        (tmp_path, "cannot be read"),
        (tmp_path / "long", "has more than 65,536 bytes"),
        (tmp_path / "binary", "cannot be read"),
    ):
        (tmp_path / "long").write_bytes(b" " * 70_000)
        (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(PromptError, match=words):
            GenerationOptions().replace(json_schema=path)
