"""Curves from the rows of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from quillgpt.plots.record import curve, loss_curves, lowest, read_metrics

ROWS = [
    {"kind": "eval", "iter": 0, "train_loss": 4.0, "val_loss": 4.1, "tokens": 0, "seconds": 0.5},
    {"kind": "train", "iter": 5, "loss": 3.0, "tokens": 50, "seconds": 1.0},
    {"kind": "train", "iter": 10, "loss": float("nan"), "tokens": 100, "seconds": 2.0},
    {"kind": "eval", "iter": 10, "train_loss": 2.0, "val_loss": 2.1, "tokens": 100, "seconds": 2.5},
]


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"kind": "train", "iter": 1')
    assert [row["iter"] for row in read_metrics(path)] == [0, 5, 10, 10]
    path.write_text('17\n{"iter": 3}\n\n')
    assert read_metrics(path) == []


def test_a_curve_holds_finite_numbers_of_its_kind() -> None:
    assert curve(ROWS, "train", "loss") == [(5, 3.0)]
    assert curve(ROWS, "eval", "val_loss", axis="tokens") == [(0, 4.1), (100, 2.1)]
    assert curve(ROWS, "eval", "val_loss", axis="seconds") == [(0.5, 4.1), (2.5, 2.1)]
    assert curve(ROWS, "train", "lr") == []


def test_batches_stand_for_few_evaluations() -> None:
    assert loss_curves(ROWS) == {"train": [(5, 3.0)], "val": [(0, 4.1), (10, 2.1)]}
    evaluations = [ROWS[0] | {"iter": iteration, "train_loss": 4.0 - iteration} for iteration in range(4)]
    assert loss_curves(evaluations)["train"] == [(0, 4.0), (1, 3.0), (2, 2.0), (3, 1.0)]
    assert loss_curves(ROWS[:1])["train"] == [(0, 4.0)]


def test_the_lowest_point_is_the_first_of_equals() -> None:
    assert lowest([(0, 3.0), (1, 2.0), (2, 2.0)]) == (1, 2.0)
    assert lowest([]) is None


def test_numbers_that_no_run_has_are_left_out() -> None:
    rows = [ROWS[0] | {"iter": iteration} for iteration in (10**400, 1e300, float("inf"), True, 1)]
    assert [x for x, _ in curve(rows, "eval", "val_loss")] == [1, 1]


def test_a_line_of_brackets_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("[" * 100_000 + "\n" + json.dumps(ROWS[0]))
    assert read_metrics(tmp_path / "metrics.jsonl") == ROWS[:1]
