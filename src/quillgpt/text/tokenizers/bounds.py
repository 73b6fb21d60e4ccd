"""Bounds on the time and memory that a tokenizer.json may ask for.

A file of a kilobyte can double a text at every step, and the library does so until the memory is full. So the largest
possible growth is computed before the file is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quillgpt.errors import TokenizerError, shorten

MOST_GROWTH = 100
"""Factor by which a text may grow; sentencepiece's files make three bytes of one."""

MOST_STEPS = 200
MOST_ADDED_TOKENS = 100_000
LONGEST_PREFIX = 1000
LONGEST_WORD = 10_000
_PROBE = 200

_PARTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def check_bounds(content: dict[str, Any], name: str) -> None:
    """Check that a tokenizer.json does not ask for more memory or time than any tokenizer needs.

    Args:
        content: The content of the file, not yet validated.
        name: Its name in messages.

    Raises:
        TokenizerError: It asks for more.
    """

    def refuse(what: str) -> TokenizerError:
        return TokenizerError(f"{name} {what}, which would fill the memory or take for ever; do not use it")

    for part, sequence in _PARTS.items():
        steps = list(_steps(content.get(part), sequence))
        if len(steps) > MOST_STEPS:
            raise refuse(f"has more than {MOST_STEPS} steps in its {part}")
        prefixes = sum(len(step["prepend"]) for step in steps if isinstance(step.get("prepend"), str))
        if prefixes > LONGEST_PREFIX:
            raise refuse(f"puts {prefixes:,} characters before each text")
        if _grows_too_far([step for step in steps if step.get("type") == "Replace"]):
            raise refuse(f"has a {part} that makes a text more than {MOST_GROWTH} times as long")
    added = content.get("added_tokens")
    if isinstance(added, list) and len(added) > MOST_ADDED_TOKENS:
        raise refuse(f"has {len(added):,} added tokens")
    model = content.get("model")
    longest = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
    if isinstance(longest, int | float) and longest > LONGEST_WORD:
        raise refuse(f"looks for tokens in words of up to {shorten(longest)} characters")


def _steps(part: Any, sequence: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part, including those of nested sequences."""
    if not isinstance(part, dict):
        return
    inner = part.get(sequence)
    if part.get("type") != "Sequence" or not isinstance(inner, list):
        yield part
        return
    for step in inner:
        yield from _steps(step, sequence)


def _grows_too_far(replacements: list[dict[str, Any]]) -> bool:
    """Return whether replacements, applied in turn, can make a text too long.

    Patterns that are plain text are tried on each other; a regular expression is assumed to match every byte.
    """
    plain: list[tuple[str, str]] = []
    factor = 1
    for step in replacements:
        pattern, content = step.get("pattern"), step.get("content")
        if not isinstance(pattern, dict) or not isinstance(content, str):
            continue  # the library refuses it
        text = pattern.get("String")
        if isinstance(text, str):
            plain.append((text, content))
        else:
            factor *= max(1, len(content.encode("utf-8", "replace")))
        if factor > MOST_GROWTH:
            return True
    probes = {text[:_PROBE] for pair in plain for text in pair if text} | {"a"}
    return any(_growth(probe, plain) * factor > MOST_GROWTH for probe in probes)


def _growth(text: str, replacements: list[tuple[str, str]]) -> float:
    length = len(text)
    for old, new in replacements:
        grown = len(text) + text.count(old) * (len(new) - len(old))
        if grown > MOST_GROWTH * length:
            return float("inf")
        text = text.replace(old, new)
    return len(text) / length
