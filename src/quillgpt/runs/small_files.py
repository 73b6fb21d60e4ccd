"""The small files of a run, which may be missing, damaged, or replaced while they are read."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any, Final, TypeGuard

from quillgpt.run_files import CHECKPOINTS, CONFIG, SUMMARY

LARGEST_FILE: Final = 1 << 20
LONGEST_NAME: Final = 200


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings in a run's config.toml; empty where there is none that can be read."""
    try:
        return tomllib.loads(read_text(run / CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}


def read_summary(run: Path) -> dict[str, Any]:
    """Return the content of a run's summary.json; empty where there is none that can be read."""
    return read_object(run / SUMMARY)


def read_origin(run: Path) -> dict[str, Any]:
    """Return what the best checkpoint of a run, or the last one, says of its data set and tokenizer; empty without one.

    The keys are those of `quill` in its config.json, which docs/formats.md lists.
    """
    for name in ("best", "last"):
        origin = read_object(run / CHECKPOINTS / name / "config.json").get("quill")
        if isinstance(origin, dict):
            return origin
    return {}


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def number(row: dict[str, Any], name: str) -> float | None:
    """Return a finite number by its name; None where there is none."""
    value = row.get(name)
    return float(value) if is_finite(value) and not isinstance(value, bool) else None


def word(content: dict[str, Any], name: str) -> str | None:
    """Return a text by its name, without its end if it is very long; None where there is none."""
    value = content.get(name)
    return value[:LONGEST_NAME] if isinstance(value, str) and value else None


def read_text(path: Path) -> str:
    """Return the text of a small file; a link, a large file and what is none are as good as empty.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8.
    """
    if not is_file(path) or path.stat().st_size > LARGEST_FILE:
        return ""
    return path.read_text(encoding="utf-8")


def is_file(path: Path) -> bool:
    """Whether a path is a plain file and no link; False where that cannot be told."""
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:
        return False


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty where there is none that can be read."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
