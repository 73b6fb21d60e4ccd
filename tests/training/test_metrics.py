"""The record of a run."""

from __future__ import annotations

from pathlib import Path

from quillgpt.plots.record import read_metrics
from quillgpt.training.metrics import MetricsLog, clock_time


def test_rewinding_drops_later_rows_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for iteration in range(1, 6):
        log.write("train", iter=iteration, loss=1.0)
    with path.open("a") as file:
        file.write('{"kind": "tra')
    log.rewind(3)
    assert [row["iter"] for row in read_metrics(path)] == [1, 2, 3]


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    MetricsLog(None).write("train", iter=1)
    assert list(tmp_path.iterdir()) == []


def test_times_as_a_clock_shows_them() -> None:
    assert [clock_time(seconds) for seconds in (0, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]
