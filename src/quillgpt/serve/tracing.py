"""Tracing for clients: what a text has from the training text of a served model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from quillgpt.serve.completion import ServedModel
from quillgpt.serve.protocol import Choice, TraceAnswer
from quillgpt.serve.turns import FullError
from quillgpt.trace import Span, Trace

MOST_TRACES: Final = 32
"""Requests that are traced or wait for it."""


class Tracing:
    """Traces texts one after the other, beside what is generated.

    The first request for a model opens its index, and makes it if it is missing.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._room = threading.BoundedSemaphore(MOST_TRACES)

    async def trace(self, served: ServedModel, texts: Sequence[str]) -> list[TraceAnswer]:
        """Return what is found in each text; without texts, only the index is opened.

        Raises:
            FullError: Too many wait already.
            UserError: It is not known on what the model was trained, its text is gone, or the extra trace is missing.
        """
        if not self._room.acquire(blocking=False):
            raise FullError
        asked: Future[list[TraceAnswer]] = Future()
        # A daemon, unlike the threads of an executor: the server ends without waiting for an index.
        threading.Thread(target=self._work, args=(served, texts, asked), name="tracing", daemon=True).start()
        return await asyncio.wrap_future(asked)

    async def mark(self, served: ServedModel, choices: Sequence[Choice]) -> list[Choice]:
        """Return samples with what is found in their texts."""
        traces = await self.trace(served, [choice.text for choice in choices])
        return [choice.model_copy(update={"x_trace": found}) for choice, found in zip(choices, traces, strict=True)]

    def _work(self, served: ServedModel, texts: Sequence[str], asked: Future[list[TraceAnswer]]) -> None:
        with suppress(InvalidStateError):  # the client left at this moment
            try:
                with self._turn:
                    if asked.cancelled():
                        return
                    tracer = served.tracer
                    found = []
                    for text in texts:
                        if asked.cancelled():
                            return
                        found.append(described(tracer.trace(text)))
                asked.set_result(found)
            except Exception as error:
                asked.set_exception(error)
            finally:
                self._room.release()


def described(trace: Trace) -> TraceAnswer:
    """Return a traced text as clients read it."""
    spans = [_without_folder(span) for span in trace.spans]
    shown = replace(trace, spans=spans)
    return TraceAnswer(
        sentence=shown.sentence,
        shares=shown.shares,
        expected=shown.expected,
        least_characters=trace.calibration.least,
        spans=spans,
    )


def _without_folder(span: Span) -> Span:
    """Return a span whose source is named from the server's folder on, or by its name: the rest is not for clients."""
    path = Path(span.source or "")
    if not path.is_absolute():
        return span
    here = Path.cwd()
    return replace(span, source=str(path.relative_to(here)) if path.is_relative_to(here) else path.name)
