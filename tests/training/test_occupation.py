"""One process at a time trains in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.training import train
from quillgpt.training.folder.occupation import occupied
from quillgpt.training.trainer import Trainer

from .conftest import MakeSettings

HOLD = """
import sys, pathlib
from quillgpt.training.folder.occupation import occupied
from quillgpt.training.trainer import Trainer
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


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be locked, as on some network shares."""

    def acquire(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", acquire)


@pytest.mark.parametrize(
    ("holder", "refused"),
    [
        ("{parent} {host}", "process {parent} trains there"),
        ("7 elsewhere", "process 7 on elsewhere trains there"),
        ("{dead} {host}", None),
        ("{own} {host}", None),
        ("99999999999999999999 {host}", None),
        ("-1 {host}", None),
        ("0 {host}", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_where_nothing_can_be_locked_a_process_that_says_it_trains_there_is_heeded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    holder: str,
    refused: str | None,
) -> None:
    without_locks(monkeypatch)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    known = {"parent": os.getppid(), "dead": gone.pid, "own": os.getpid(), "host": socket.gethostname()}
    note = tmp_path / ".running"
    note.write_text(holder.format(**known) + "\n")
    before = note.read_text()
    if refused is not None:
        with pytest.raises(CheckpointError, match=refused.format(**known)) as caught, occupied(tmp_path):
            pass
        assert f"if that has ended, remove {note}" in str(caught.value)
        assert note.read_text() == before
        return
    with occupied(tmp_path):
        assert "cannot be locked here" in capsys.readouterr().err
        assert note.read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert not note.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("name", [".running", ".lock"])
def test_links_in_the_place_of_lock_and_note_are_not_written_through(tmp_path: Path, name: str) -> None:
    other = tmp_path / "other.txt"
    other.write_text("a poem")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(other)
    with occupied(folder):
        pass
    assert other.read_text() == "a poem"


@pytest.mark.skipif(os.name == "nt", reason="has no named pipes in folders")
def test_a_pipe_in_the_place_of_the_note_is_not_waited_for(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=1)
    Path(settings.out_dir).mkdir()
    os.mkfifo(Path(settings.out_dir) / ".running")
    with pytest.raises(ConfigError, match=r"holds \.running"):
        train(settings)


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_whose_folder_is_removed_goes_on_in_a_new_one_and_says_what_is_lost(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moved: bool
) -> None:
    settings = tiny(max_iters=8, eval_interval=2, log_interval=1)
    out_dir = Path(settings.out_dir)
    iterate = Trainer.do_iteration

    def iterate_and_remove(trainer: Trainer) -> None:
        iterate(trainer)
        if trainer.run.state.iteration == 5:
            if moved:
                out_dir.rename(out_dir.with_name("moved"))
            else:
                shutil.rmtree(out_dir)

    monkeypatch.setattr(Trainer, "do_iteration", iterate_and_remove)
    summary = train(settings)
    assert summary is not None
    assert summary.best_iter in (6, 8)
    said = capsys.readouterr().err
    assert said.count(f"{out_dir} was removed or moved while the run trains") == 1
    monkeypatch.setattr(Trainer, "do_iteration", iterate)
    again = train(settings.model_copy(update={"init_from": "resume", "max_iters": 10}))
    assert again is not None
    assert again.iterations == 10


def test_a_run_whose_folder_another_one_has_taken_writes_nothing_into_it(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(max_iters=8, eval_interval=2, log_interval=1)
    out_dir = Path(settings.out_dir)
    iterate = Trainer.do_iteration
    others: list[subprocess.Popen[str]] = []

    def iterate_and_replace(trainer: Trainer) -> None:
        iterate(trainer)
        if trainer.run.state.iteration == 5:
            shutil.rmtree(out_dir)
            others.append(hold(out_dir))

    monkeypatch.setattr(Trainer, "do_iteration", iterate_and_replace)
    with pytest.raises(CheckpointError, match="was taken from this run"):
        train(settings)
    assert not (out_dir / "checkpoints").exists()
    assert (out_dir / ".running").read_text().split()[0] == str(others[0].pid)
    others[0].communicate("")
