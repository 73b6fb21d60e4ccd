"""One process at a time trains in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.training import train
from quillgpt.training.occupation import occupied

from .conftest import MakeSettings

HOLD = """
import sys, pathlib
from quillgpt.training.occupation import occupied
with occupied(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(out_dir: Path) -> subprocess.Popen[str]:
    """Start a process that occupies a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_process_is_refused_until_the_first_is_killed(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=4)
    out_dir = Path(settings.out_dir)
    train(settings)
    process = hold(out_dir)
    before = contents(out_dir)
    for changes in ({"overwrite": True}, {"init_from": "resume", "max_iters": 8}, {}):
        with pytest.raises(CheckpointError, match=rf"out is in use: process {process.pid} trains there"):
            train(settings.model_copy(update=changes))
    assert contents(out_dir) == before
    process.kill()
    process.communicate()
    assert train(settings.model_copy(update={"init_from": "resume", "max_iters": 8})) is not None
    assert not (out_dir / ".running").exists()


def test_a_folder_that_is_in_use_may_be_evaluated(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=4)
    train(settings)
    process = hold(Path(settings.out_dir))
    assert train(settings.model_copy(update={"init_from": "resume", "eval_only": True})) is None
    process.communicate("")


def test_a_run_that_never_began_leaves_no_folder(tiny: MakeSettings) -> None:
    settings = tiny(vocab_size=2)
    with pytest.raises(ConfigError, match="vocab_size"):
        train(settings)
    assert not Path(settings.out_dir).exists()


def test_a_folder_of_somebody_elses_stays(tmp_path: Path) -> None:
    with occupied(tmp_path):
        assert (tmp_path / ".running").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
