"""The description of the API for programs, made from the classes of protocol.py."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import models_json_schema

from quillgpt import __version__
from quillgpt.serve.chat import ChatCompletion, ChatRequest
from quillgpt.serve.protocol import (
    Completion,
    CompletionRequest,
    ErrorAnswer,
    ModelCard,
    ModelList,
    TraceAnswer,
    TraceRequest,
)
from quillgpt.serve.runs import MOST_LINES, RunList, RunRows

ERRORS = {
    400: "the request is impossible",
    401: "the key is missing or wrong",
    403: "the request comes from another site",
    404: "there is no such model or place",
    408: "the request took too long to come",
    413: "the request is too large",
    429: "too many requests wait",
    500: "the model failed",
    503: "the server ends",
}

EVENT: Final = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "such an answer as JSON, or [DONE]"}},
}
"""An event of a stream; programs that read descriptions expect that of one event."""


def document() -> dict[str, Any]:
    """Return the description in the form of OpenAPI 3.1."""
    requests = (CompletionRequest, ChatRequest, TraceRequest)
    answers = (Completion, ChatCompletion, TraceAnswer, ModelList, ModelCard, RunList, RunRows, ErrorAnswer)
    modes: list[Any] = [*((each, "validation") for each in requests), *((each, "serialization") for each in answers)]
    _, schemas = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    after = {"name": "after", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": MOST_LINES}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "quill serve", "version": __version__},
        "paths": {
            "/v1/models": {"get": _operation("List the models.", ModelList, (401, 403))},
            "/v1/models/{name}": {
                "get": _operation("Describe a model.", ModelCard, (401, 403, 404)) | {"parameters": [name]}
            },
            "/v1/completions": {
                "post": _operation("Continue a text.", Completion, tuple(ERRORS), events=True)
                | {"requestBody": {"required": True, "content": _json("CompletionRequest")}}
            },
            "/v1/chat/completions": {
                "post": _operation(
                    "Answer a message, by a model with a chat template.", ChatCompletion, tuple(ERRORS), events=True
                )
                | {"requestBody": {"required": True, "content": _json("ChatRequest")}}
            },
            "/health": {"get": {"summary": "Whether the server lives.", "responses": _plain("application/json")}},
            "/metrics": {"get": {"summary": "Numbers for Prometheus.", "responses": _plain("text/plain")}},
            "/openapi.json": {"get": {"summary": "This description.", "responses": _plain("application/json")}},
            "/x/trace": {
                "post": _operation("Say what a text has from the training text.", TraceAnswer, tuple(ERRORS))
                | {"requestBody": {"required": True, "content": _json("TraceRequest")}}
            },
            "/x/runs": {"get": _operation("List the runs below the server's folder.", RunList, (401, 403))},
            "/x/runs/{name}": {
                "get": _operation("Read what a run has recorded.", RunRows, (400, 401, 403, 404))
                | {"parameters": [name, after]}
            },
            "/": {"get": {"summary": "The page.", "responses": _plain("text/html")}},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _operation(summary: str, body: type, errors: tuple[int, ...], *, events: bool = False) -> dict[str, Any]:
    content = _json(body.__name__)
    if events:
        content["text/event-stream"] = {"schema": EVENT}
    return {
        "summary": summary,
        "responses": {"200": {"description": "the answer", "content": content}} | _errors(errors),
    }


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): {"description": ERRORS[status], "content": _json("ErrorAnswer")} for status in statuses}


def _plain(media_type: str) -> dict[str, Any]:
    return {"200": {"description": "the answer", "content": {media_type: {}}}} | _errors((401, 403))
