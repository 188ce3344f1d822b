"""/openapi.json: the API as programs read it."""

from __future__ import annotations

from typing import Any

from ..outside.requirement import own_version

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_FLAG: Schema = {"type": "boolean", "default": False}


def description() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "idefics2-onnx",
            "version": own_version(),
            "description": "OpenAI's chat completions about pictures. docs/serving.md says what is offered, and what is not.",
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Chat": _chat(), "Completion": _completion(), "Error": _error(), "Tiles": _tiles()},
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": _post("Answer messages with pictures.", "Chat", form=True, streamed=True),
            "/v1/completions": _post("Go on with raw texts.", "Completion", streamed=True),
            "/v1/tiles": _post("The tiles that the model sees of a picture.", "Tiles", form=True),
            "/v1/models": _get("The model that is served."),
            "/v1/models/{name}": _get("The same by its name.") | {"parameters": [_in_path("name")]},
            "/health": _get("200 unless the server has to be started again."),
            "/ready": _get("200 while requests are taken, 503 while the model is loaded or the server shuts down."),
            "/metrics": _get("For Prometheus.", "text/plain"),
        },
    }


def _options() -> dict[str, Schema]:
    """What both interfaces take."""
    penalty: Schema = {"type": "number", "minimum": -2, "maximum": 2, "default": 0}
    return {
        "model": _TEXT,
        "max_tokens": {
            "type": "integer",
            "minimum": 1,
            "description": "256, or what fits, unless the model's folder says otherwise.",
        },
        "n": {"type": "integer", "minimum": 1, "default": 1},
        "temperature": {"type": "number", "minimum": 0, "description": "0 and left out: the likeliest tokens."},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "minimum": 0},
        "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "default": 1},
        "presence_penalty": penalty,
        "frequency_penalty": penalty,
        "logit_bias": {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
        "seed": {"type": "integer", "minimum": 0},
        "stop": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]},
        "response_format": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": _OBJECT},
        },
        "regex": _TEXT,
        "grammar": _TEXT | {"description": "Lark's."},
        "stream": _FLAG,
        "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}},
    }


def _chat() -> Schema:
    address: Schema = {
        "type": "object",
        "required": ["url"],
        "properties": {"url": _TEXT, "detail": {"enum": ["auto", "low", "high"]}},
    }
    item: Schema = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": ["text", "image_url"]}, "text": _TEXT, "image_url": {"oneOf": [_TEXT, address]}},
    }
    message: Schema = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"oneOf": [_TEXT, {"type": "array", "items": item, "minItems": 1}]},
        },
    }
    own: dict[str, Schema] = {
        "messages": {"type": "array", "items": message, "minItems": 1},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "logprobs": _FLAG,
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "image_order": {"enum": ["first", "as_given"], "default": "first", "description": "Of each turn's images."},
    }
    return {"type": "object", "required": ["messages"], "properties": _options() | own, "additionalProperties": False}


def _completion() -> Schema:
    own: dict[str, Schema] = {
        "prompt": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 128}]},
        "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    }
    return {"type": "object", "required": ["prompt"], "properties": _options() | own, "additionalProperties": False}


def _tiles() -> Schema:
    return {
        "type": "object",
        "required": ["image_url"],
        "properties": {"image_url": _TEXT, "detail": {"enum": ["auto", "low", "high"]}},
        "additionalProperties": False,
    }


def _error() -> Schema:
    maybe: Schema = {"type": ["string", "null"]}
    fields: dict[str, Schema] = {"message": _TEXT, "type": _TEXT, "param": maybe, "code": maybe}
    return {"type": "object", "properties": {"error": {"type": "object", "properties": fields}}}


def _post(summary: str, schema: str, *, form: bool = False, streamed: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    if form:
        parts: dict[str, Schema] = {
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "prompt": _TEXT,
            "detail": _TEXT,
            "request": _TEXT | {"description": "The other fields, as JSON."},
        }
        body["multipart/form-data"] = {"schema": {"type": "object", "properties": parts}}
    found: dict[str, Any] = {"application/json": {"schema": _OBJECT}} | (
        {"text/event-stream": {"schema": _TEXT}} if streamed else {}
    )
    return {"post": {"summary": summary, "requestBody": {"required": True, "content": body}, "responses": _responses(found)}}


def _get(summary: str, kind: str = "application/json") -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses({kind: {"schema": _TEXT if kind == "text/plain" else _OBJECT}})}}


def _responses(found: dict[str, Any]) -> dict[str, Any]:
    error = {"description": "An error.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"200": {"description": "Done.", "content": found}, "default": error}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}
