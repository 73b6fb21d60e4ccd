"""Tracing: which spans of a text are copied from the training text, close to it, or new."""

from quillgpt.trace.matching import Kind
from quillgpt.trace.tracer import Span, Trace, Tracer, open_tracer

__all__ = ["Kind", "Span", "Trace", "Tracer", "open_tracer"]
