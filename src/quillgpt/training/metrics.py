"""The record of a run: metrics.jsonl, and the line that a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quillgpt.files import atomic_path

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends rows of numbers to a file, one JSON object a line.

    Args:
        path: The file; None keeps no record.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, kind: str, **numbers: Any) -> None:
        """Add a row; it is in the operating system's hands when this returns."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, **numbers}) + "\n")

    def rewind(self, iteration: int) -> None:
        """Drop rows after an iteration, and a last row that a kill cut short."""
        if self._path is None or not self._path.is_file():
            return
        rows = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["iter"] <= iteration:
                rows.append(line)
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clock_time(seconds: float) -> str:
    """Write a duration as `m:ss` or `h:mm:ss`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
