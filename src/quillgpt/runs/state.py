"""What has become of a run: it trains, is finished, was interrupted or has failed."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, Final, Literal

from quillgpt.plots.record import Row
from quillgpt.process import has_open, is_running
from quillgpt.run_files import HOLDER, LOCK, METRICS
from quillgpt.runs.small_files import number, read_text

State = Literal["running", "finished", "interrupted", "failed"]

PACE_ROWS: Final = 20
"""Rows whose pace the time left is reckoned from, evaluations included."""

LONGEST_PAUSE: Final = 600.0
"""Seconds without a new row after which a run that another machine is said to train is not believed to run."""


def state_of(run: Path, summary: dict[str, Any], last: Row | None) -> State:
    """Return what has become of a run.

    Args:
        run: Its folder.
        summary: The content of its summary.json.
        last: The last row of its record.
    """
    if is_training(run):
        return "running"
    if last is None:
        return "interrupted"
    if last["kind"] == "failed":
        return "failed"
    return "finished" if number(summary, "iterations") == last["iter"] else "interrupted"


def is_training(run: Path) -> bool:
    """Whether the process that a note of `training/folder/occupation.py` names trains there.

    The lock itself is left alone, since a look at it could keep a run from starting. But the process must have it open:
    a copy of a run has a copy of the note. One on another machine is believed as long as the record grows.
    """
    try:
        process, host = read_text(run / HOLDER).split()
        holder = int(process)
    except (OSError, ValueError):
        return False
    if host != socket.gethostname():
        return quiet_seconds(run) < LONGEST_PAUSE
    return is_running(holder) and has_open(holder, run / LOCK) is not False


def quiet_seconds(run: Path) -> float:
    """Return how long ago a run's record was last written to; 0 where there is none."""
    try:
        return max(0.0, time.time() - (run / METRICS).stat().st_mtime)
    except OSError:
        return 0.0


def seconds_left(rows: list[Row], length: int | None) -> float | None:
    """Return how long the iterations that are left take if they are as fast as the latest, evaluations included."""
    numbers = ((row["iter"], number(row, "seconds")) for row in rows)
    timed = [(float(done), seconds) for done, seconds in numbers if seconds is not None][-PACE_ROWS:]
    if length is None or len(timed) < 2 or timed[-1][0] <= timed[0][0]:
        return None
    pace = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
    return max(0.0, (length - timed[-1][0]) * pace)
