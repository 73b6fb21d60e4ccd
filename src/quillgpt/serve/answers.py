"""Answers as JSON, and errors in the form that clients of OpenAI read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from quillgpt.serve.protocol import ErrorAnswer, ErrorBody


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(body.model_dump_json(exclude_none=False), status, headers, "application/json")


def refusal(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return an answer that says what is wrong with a request.

    Args:
        status: Of HTTP.
        message: What was given, what was expected, what to do.
        param: The setting that it is about.
        code: A word for programs.
        headers: Of the answer, besides the usual ones.
    """
    kind: Any = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return answer(ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code)), status, headers)


class RefusedError(Exception):
    """A request that is answered by a refusal; the arguments are those of `refusal`."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.response = refusal(status, message, **more)
