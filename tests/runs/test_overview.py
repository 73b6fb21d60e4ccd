"""Runs side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quillgpt.runs.find import find_runs
from quillgpt.runs.overview import ORDERS, Order, overview, overviews, table
from runs.folders import a_run, evaluation, row, step, trained_elsewhere


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    traced = evaluation(10, 2.5, copied_share=0.25, expected_copied_share=0.2)
    a_run(tmp_path / "a", evaluation(0, 4.0), traced, step(20), evaluation(20, 2.75), summary={"iterations": 20})
    run = a_run(tmp_path / "b", evaluation(30, 2.0), step(30), settings='tokenizer = "bpe:512"\n')
    (run / "checkpoints" / "best").mkdir(parents=True)
    about = {"quill": {"tokenizer": "char", "data_fingerprint": "0"}}
    (run / "checkpoints" / "best" / "config.json").write_text(json.dumps(about))
    trained_elsewhere(a_run(tmp_path / "c", "{damaged\n"))
    a_run(tmp_path / "d", step(5), row("failed", iter=6, text="no memory"), settings='tokenizer = "byte"\n')
    for age, name in enumerate("dcba"):
        if name != "c":
            os.utime(tmp_path / name / "metrics.jsonl", (10**9 - age, 10**9 - age))
    return tmp_path


def test_what_a_run_has_reached(folder: Path) -> None:
    a = overview("a", folder / "a")
    assert (a.state, a.iteration, a.best_loss, a.best_iteration, a.bits_per_byte) == ("finished", 20, 2.5, 10, 1.25)
    assert (a.minutes, a.copied_share, a.expected_copied_share, a.tokenizer) == (40 / 60, 0.25, 0.2, None)
    (folder / "a" / "summary.json").write_text('{"iterations": 20, "copied_share": 0.5, "val_loss_full": 2.6}')
    a = overview("a", folder / "a")
    assert (a.copied_share, a.expected_copied_share, a.full_loss) == (0.5, None, 2.6)
    assert [overview(name, folder / name).state for name in "bcd"] == ["interrupted", "running", "failed"]
    assert [overview(name, folder / name).tokenizer for name in "bd"] == ["char", "byte"]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("newest", "cdba"),
        ("name", "abcd"),
        ("state", "cabd"),
        ("loss", "bacd"),
        ("bits", "bacd"),
        ("minutes", "dabc"),
        ("tokenizer", "dbca"),
        ("copied", "acdb"),
    ],
)
def test_orders(folder: Path, order: Order, names: str) -> None:
    assert "".join(run.run for run in overviews(find_runs(folder), order)) == names
    assert order in ORDERS


def test_a_table_has_nothing_but_text(folder: Path) -> None:
    (folder / "b").rename(folder / "b[red]é")
    shown = table(overviews(find_runs(folder), "name"), "runs").text()
    header, first, second, *_ = shown.splitlines()[1:]
    assert " ".join(header.split()) == "run state iter best loss at bits/byte minutes tokenizer copied"
    assert " ".join(first.split()) == "a finished 20 2.5000 10 1.250 0.7 - 25.0%"
    assert " ".join(second.split()) == "b[red]é interrupted 30 2.0000 30 1.000 1.0 char -"
