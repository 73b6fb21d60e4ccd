"""Tracing: which spans of a text are copied from the training text, close to it, or new."""

from quillgpt.trace.index import seconds_to_index
from quillgpt.trace.matching import Kind
from quillgpt.trace.tracer import Span, Trace, Tracer, in_percent, open_tracer
from quillgpt.trace.training_text import check_has_text, text_of

__all__ = [
    "Kind",
    "Span",
    "Trace",
    "Tracer",
    "check_has_text",
    "in_percent",
    "open_tracer",
    "seconds_to_index",
    "text_of",
]
