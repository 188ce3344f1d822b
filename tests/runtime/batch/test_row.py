"""Columns of an answer whose form a JSON schema gave."""

from __future__ import annotations

from idefics2_onnx.runtime.batch.row import fields_of, json_line


def test_fields_of_an_answer_become_columns():
    schema = {"json_schema": {"type": "object"}}
    answer = '{"total": "3.40", "id": 7, "answer_id": null, "items": [1]}'
    assert fields_of(answer, schema) == {"total": "3.40", "answer_id": 7, "answer_answer_id": None, "items": [1]}
    assert fields_of(answer, {}) == fields_of('{"cut', schema) == fields_of("[1]", schema) == {}


def test_a_line_is_utf8_whatever_a_file_is_called():
    assert json_line({"id": "é"}) == '{"id": "é"}\n'.encode()
    assert json_line({"id": "\udcff"}) == b'{"id": "\\udcff"}\n'
