"""What a pipe gets while a run trains."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from quillgpt.runs import follow
from quillgpt.runs.follow import Followed
from quillgpt.runs.live import write_news
from runs.folders import a_run, evaluation, row, step, trained_elsewhere


def test_a_pipe_gets_a_line_for_what_is_new_until_nothing_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "STATE_SECONDS", 0.0)
    folder = trained_elsewhere(a_run(tmp_path / "out", evaluation(0, 5.0), step(10)))
    written = io.StringIO()

    def growth() -> Iterator[None]:
        record = folder / "metrics.jsonl"
        for lines in (step(20), evaluation(20, 3.0) + '{"kind": "ev', "", 'al"\n' + evaluation(30, 2.0)):
            with record.open("a") as file:
                file.write(lines)
            yield
        with record.open("a") as file:
            file.write(row("warning", iter=30, text="\x1b[2Jit overfits", seconds=60.0))
        yield
        (folder / "new").write_text(evaluation(0, 5.0))  # resumed
        (folder / "new").replace(record)
        yield
        record.unlink()
        yield
        (folder / "new").write_text(row("failed", iter=1, text="the disk is full"))
        (folder / "new").replace(record)
        (folder / ".running").unlink()
        yield

    steps = growth()
    before = len(list(folder.iterdir()))
    write_news([Followed("out", folder)], Console(file=written, width=200), wait=lambda _: next(steps))
    lines = written.getvalue().splitlines()
    assert lines[0] == "out   running   iter 10 of 100 (10%)"
    damaged = "out: warning a line of its record cannot be read, and what stood there is not shown"
    assert lines[4:] == [
        "out: running, iter 20 of 100 (20%), train 2.9000, val 3.0000, 2:40 left",
        "out: running, iter 30 of 100 (30%), train 1.9000, val 2.0000, 2:20 left",
        damaged,
        "out: running, iter 30 of 100 (30%), train 1.9000, val 2.0000, 2:20 left",
        "out: warning at iter 30: \\x1b[2Jit overfits",
        "out: running, iter 0 of 100 (0%), train 4.9000, val 5.0000",
        "out: failed, iter 1 of 100 (1%)",
        "out: warning at iter 1: the disk is full",
    ]
    assert len(list(folder.iterdir())) == before - 1
