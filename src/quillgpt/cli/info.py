"""`quill info`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import MODEL_HELP


def info(model: Annotated[str, Parameter(name="MODEL", help=MODEL_HELP)], /) -> None:
    """Tell what a model is: configuration, parameters, tokenizer, where it came from."""
    from quillgpt.checkpoint import describe

    describe(model)
