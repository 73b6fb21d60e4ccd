"""The record of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quillgpt.console import clock_time
from quillgpt.plots.record import read_metrics
from quillgpt.training.record.metrics import MetricsLog


def test_rewinding_drops_later_rows_and_a_cut_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for iteration in range(1, 6):
        log.write("train", iter=iteration, loss=1.0)
    with path.open("a") as file:
        file.write('{"kind": "tra')
    log.rewind(3, evaluated=True)
    assert [row["iter"] for row in read_metrics(path)] == [1, 2, 3]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_row_of_an_evaluation_that_is_done_again_goes(tmp_path: Path, evaluated: bool) -> None:
    """As after a signal in an evaluation, which saves without it, a resume, and a kill before the next save."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for iteration in (1, 2):
        log.write("train", iter=iteration, loss=1.0)
        log.write("eval", iter=iteration, val_loss=1.0)
    log.keep("warning", iter=2, text="it overfits")
    log.keep("failed", iter=2, text="the disk is full")
    log.rewind(2, evaluated=evaluated)
    expected = [("train", 1), ("eval", 1), ("train", 2), *([("eval", 2)] if evaluated else []), ("warning", 2)]
    assert [(row["kind"], row["iter"]) for row in read_metrics(path)] == expected


def test_damaged_rows_are_named_when_they_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for iteration in range(1, 12):
        log.write("train", iter=iteration, loss=1.0)
    lines = path.read_text().splitlines(keepends=True)
    for number, damage in enumerate(['{"kind": "train", "it\n', "\0\0\0\n", "[]\n", "7\n", '{"iter": 5}\n', "x\n"]):
        lines[number] = damage
    path.write_text("".join(lines))
    log.rewind(11, evaluated=True)
    assert [row["iter"] for row in read_metrics(path)] == [7, 8, 9, 10, 11]
    said = capsys.readouterr().err
    assert f"{path} is damaged in line 1, 2, 3, 4, 5 and more: what stood there is left out from now on" in said


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_in_its_place_is_not_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other.txt"
    other.write_text('{"kind": "train", "iter": 1}\n')
    path.symlink_to(other)
    log = MetricsLog(path)
    log.write("train", iter=2)
    assert other.read_text() == '{"kind": "train", "iter": 1}\n'
    assert "takes no rows now" in capsys.readouterr().err
    log.rewind(1, evaluated=True)
    assert f"{path} is a link: the run goes on in a file of its own, and {other} stays" in capsys.readouterr().err
    log.write("train", iter=3)
    assert other.read_text() == '{"kind": "train", "iter": 1}\n'
    assert [row["iter"] for row in read_metrics(path)] == [1, 2, 3]


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    MetricsLog(None).write("train", iter=1)
    assert list(tmp_path.iterdir()) == []


def test_times_as_a_clock_shows_them() -> None:
    assert [clock_time(seconds) for seconds in (0, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]
