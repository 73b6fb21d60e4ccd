"""metrics.jsonl as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

METRICS = "metrics.jsonl"

Row = dict[str, Any]
Points = list[tuple[float, float]]
Axis = Literal["iter", "tokens", "seconds"]

AXES: dict[Axis, str] = {"iter": "iterations", "tokens": "tokens", "seconds": "seconds"}
"""What a row's numbers can be drawn over, in words."""

FEWEST_EVALUATIONS = 4
"""Below, evaluations say too little of the training loss, and the logged batches stand for it."""


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.jsonl.

    A line that a kill cut short, or that a run is writing at this moment, is left out.
    """
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "kind" in row and "iter" in row:
            rows.append(row)
    return rows


def curve(rows: Iterable[Row], kind: str, name: str, *, axis: Axis = "iter") -> Points:
    """Return one number of the rows of a kind over the axis, where both are there and finite."""
    pairs = ((row.get(axis), row.get(name)) for row in rows if row["kind"] == kind)
    return [
        (float(x), float(y))
        for x, y in pairs
        if isinstance(x, int | float) and isinstance(y, int | float) and math.isfinite(x) and math.isfinite(y)
    ]


def loss_curves(rows: list[Row], *, axis: Axis = "iter") -> dict[str, Points]:
    """Return the training and the validation loss, as evaluations measured them.

    Where there are few evaluations, the training loss is that of the logged batches.
    """
    train = curve(rows, "eval", "train_loss", axis=axis)
    if len(train) < FEWEST_EVALUATIONS:
        train = curve(rows, "train", "loss", axis=axis) or train
    return {"train": train, "val": curve(rows, "eval", "val_loss", axis=axis)}


def lowest(points: Points) -> tuple[float, float] | None:
    """Return the first of the lowest points; None where there is none."""
    return min(points, key=lambda point: point[1], default=None)
