"""Reading metrics.jsonl, and its values as curves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeGuard

from quillgpt.run_files import METRICS as METRICS

Row = dict[str, Any]
Points = list[tuple[float, float]]
Axis = Literal["iter", "tokens", "seconds"]

AXES: dict[Axis, str] = {"iter": "iterations", "tokens": "tokens", "seconds": "seconds"}
"""The possible x axes, with their labels."""

LARGEST_NUMBER = 1e18
"""Far above what a run can count or measure; a larger number comes from a damaged line."""

FEWEST_EVALUATIONS = 4
"""With fewer evaluations than this, the training loss is drawn from logged batches."""


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.jsonl, without damaged lines and without an incomplete last line."""
    rows, _ = read_rows(path)
    return rows


def read_rows(path: Path) -> tuple[list[Row], list[int]]:
    """Return the rows of a metrics.jsonl, and the line numbers of damaged ones; an incomplete last line is neither."""
    rows, damaged = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif line.strip() and number < len(lines):
            damaged.append(number)
    return rows, damaged


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("iter"), int | float):
        return row
    return None


def curve(rows: Iterable[Row], kind: str, name: str, *, axis: Axis = "iter") -> Points:
    """Return one value over an axis, from the rows of a kind that have both as finite numbers."""
    pairs = ((row.get(axis), row.get(name)) for row in rows if row["kind"] == kind)
    return [(float(x), float(y)) for x, y in pairs if _can_be_drawn(x) and _can_be_drawn(y)]


def _can_be_drawn(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and -LARGEST_NUMBER < value < LARGEST_NUMBER


def loss_curves(rows: list[Row], *, axis: Axis = "iter") -> dict[str, Points]:
    """Return the training and the validation loss of evaluations.

    With few evaluations, the training loss is that of logged batches.
    """
    train = curve(rows, "eval", "train_loss", axis=axis)
    if len(train) < FEWEST_EVALUATIONS:
        train = curve(rows, "train", "loss", axis=axis) or train
    return {"train": train, "val": curve(rows, "eval", "val_loss", axis=axis)}


def lowest(points: Points) -> tuple[float, float] | None:
    """Return the first of the lowest points; None if there are no points."""
    return min(points, key=lambda point: point[1], default=None)
