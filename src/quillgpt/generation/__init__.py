"""Sampling text from a model."""

from quillgpt.generation.generate import generate_ids
from quillgpt.generation.sample import (
    Sample,
    draw_samples,
    prompt_ids,
    read_start,
    with_known_start,
    without_unknown_end,
)

__all__ = [
    "Sample",
    "draw_samples",
    "generate_ids",
    "prompt_ids",
    "read_start",
    "with_known_start",
    "without_unknown_end",
]
