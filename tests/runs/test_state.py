"""What has become of a run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from quillgpt.runs.small_files import read_summary
from quillgpt.runs.state import LONGEST_PAUSE, seconds_left, state_of
from runs.folders import a_run, trained_elsewhere

LAST = {"kind": "train", "iter": 60}


def test_time_left_needs_a_pace() -> None:
    assert seconds_left([{"iter": 1, "seconds": 1.0}], 10) is None
    assert seconds_left([{"iter": 1, "seconds": 1.0}, {"iter": 1, "seconds": 2.0}], 10) is None
    assert seconds_left([{"iter": 5, "seconds": 1.0}, {"iter": 20, "seconds": 2.0}], 10) == 0


def test_states_by_what_a_run_has_written(tmp_path: Path) -> None:
    run = a_run(tmp_path / "out")
    assert state_of(run, {}, None) == state_of(run, {}, LAST) == "interrupted"
    assert state_of(run, {}, LAST | {"kind": "failed"}) == "failed"
    assert state_of(run, {"iterations": 60}, LAST) == "finished"
    assert state_of(run, {"iterations": 50}, LAST) == "interrupted"  # resumed for longer since
    (run / "summary.json").write_text('{"iterations": ')
    assert read_summary(run) == {}


def test_a_run_of_another_machine_is_believed_while_it_grows(tmp_path: Path) -> None:
    run = trained_elsewhere(a_run(tmp_path / "out"))
    assert state_of(run, {"iterations": 60}, LAST) == "running"
    old = (run / "metrics.jsonl").stat().st_mtime - LONGEST_PAUSE - 1
    os.utime(run / "metrics.jsonl", (old, old))
    assert state_of(run, {"iterations": 60}, LAST) == "finished"


HOLD = """
import os, socket, sys
from pathlib import Path
from filelock import FileLock
run = Path(sys.argv[1])
lock = FileLock(run / ".lock")
lock.acquire()
(run / ".running").write_text(f"{os.getpid()} {socket.gethostname()}\\n")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="the system does not tell who holds a file")
def test_a_copy_of_a_run_that_trains_does_not_train(tmp_path: Path) -> None:
    run, copy = a_run(tmp_path / "out"), a_run(tmp_path / "copy")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for name in (".lock", ".running"):
        (copy / name).write_bytes((run / name).read_bytes())
    assert state_of(run, {}, LAST) == "running"
    assert state_of(copy, {}, LAST) == "interrupted"
    holder.kill()
    holder.communicate()
    assert (run / ".running").read_text() == f"{holder.pid} {socket.gethostname()}\n"
    assert state_of(run, {}, LAST) == "interrupted"
    with FileLock(run / ".lock", timeout=0):  # looking has not taken it
        pass
