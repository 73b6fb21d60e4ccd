"""Folders of runs, written as a run writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row(kind: str = "train", **values: Any) -> str:
    """Return a line of a record."""
    return json.dumps({"kind": kind} | values) + "\n"


def evaluation(iteration: int, loss: float, **values: Any) -> str:
    """Return the line of an evaluation."""
    numbers = {"iter": iteration, "train_loss": loss - 0.1, "val_loss": loss, "seconds": iteration * 2.0}
    return row("eval", **(numbers | {"val_bits_per_byte": loss / 2} | values))


def step(iteration: int, **values: Any) -> str:
    """Return the line of an iteration."""
    numbers = {"iter": iteration, "loss": 5 - iteration / 50, "lr": 0.01, "grad_norm": 0.5, "seconds": iteration * 2.0}
    return row("train", **(numbers | {"tokens_per_second": 1234.0, "mfu": 0.25} | values))


def a_run(
    folder: Path, *lines: str, settings: str = "max_iters = 100\n", summary: dict[str, Any] | None = None
) -> Path:
    """Write a run's record, settings and summary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(settings, encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def trained_elsewhere(folder: Path) -> Path:
    """Let a run be trained by another machine, as its note says."""
    (folder / ".running").write_text("1 another-machine\n", encoding="utf-8")
    return folder
