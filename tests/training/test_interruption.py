"""How a run is stopped from outside: by signals in the main thread, by a program elsewhere."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import warm
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.stopping import words_on
from quillgpt.training import Interruption, RunSummary, train
from quillgpt.training.step import TrainStep

from .conftest import MakeSettings


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_is_noted_and_a_second_one_interrupts(name: str, status: int) -> None:
    if name not in signal.Signals.__members__:
        pytest.skip(f"this system has no {name}")
    number = signal.Signals[name]
    assert number in Interruption.SIGNALS
    before = signal.getsignal(number)
    with Interruption() as interruption:
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert interruption.signal == number
        assert interruption.exit_status == status
        if name == "SIGHUP":  # which a lost terminal sends twice
            os.kill(os.getpid(), number)
            number = signal.SIGTERM
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.args == (number,)
    assert signal.getsignal(signal.Signals[name]) is before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no hangup")
def test_a_hangup_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_before_there_is_something_to_save_ends_the_run_on_the_spot(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr(TrainStep, "__call__", step)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tiny(max_iters=10))
    assert words_on(caught.value) == "interrupted before the first iteration; nothing is lost"


class Unread(io.RawIOBase):
    """A pipe whose reader has gone."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_run_of_which_nobody_reads_a_word_goes_on_and_saves(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", io.TextIOWrapper(Unread(), write_through=True))
        assert train(tiny(max_iters=4)) is not None
    assert has_checkpoint(Path(tiny().out_dir))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")
@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGUSR1", 138)])
def test_the_second_signal_says_with_which_status_a_command_leaves(
    tiny: MakeSettings, number: str, status: int
) -> None:
    settings = tiny(max_iters=100_000, eval_interval=100_000, log_interval=1)
    flags = [f"--{name}={value}" for name, value in settings.model_dump(exclude_unset=True).items()]
    reader, writer = os.pipe()
    process = warm.start("train", *flags, stderr=writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as words:
        assert any(line.startswith("iter 3:") for line in words)
        process.send_signal(signal.SIGSTOP)  # so that both arrive before it can stop
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.Signals[number])
        process.send_signal(signal.SIGCONT)
        said = words.read()
    assert process.wait() in (status, 130)  # which of the two it hears first is the system's to say
    assert said.splitlines()[-1] == "quill: interrupted"
    assert "saved at" not in said


def test_a_run_in_another_thread_leaves_signals_alone_and_stops_when_it_is_asked_to(
    tiny: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in Interruption.SIGNALS]
    interruption = Interruption()
    summaries: list[RunSummary | None] = []
    run = threading.Thread(
        target=lambda: summaries.append(train(tiny(max_iters=10**6, keep_last=1), interruption=interruption))
    )
    run.start()
    while run.is_alive() and not has_checkpoint(Path(tiny().out_dir)):
        run.join(0.01)
    assert [signal.getsignal(number) for number in Interruption.SIGNALS] == handlers
    interruption.requested = True
    run.join(30)
    assert summaries == [None]
    logged = [line for line in capsys.readouterr().err.splitlines() if line.startswith("iter ")]
    assert len(logged) == len(set(logged))
    assert [line.split(":")[0] for line in logged[:3]] == ["iter 1", "iter 2", "iter 3"]


class SignallingStream(io.RawIOBase):
    """A file that is sent a signal in the middle of being written to."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return len(content)


def test_a_signal_in_the_middle_of_a_line_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BufferedWriter(SignallingStream()), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", stream)
    with Interruption() as interruption:
        print("iter 1: a line", file=sys.stderr)
        assert interruption.requested
    monkeypatch.undo()


def test_signals_are_noted_while_the_block_runs_and_again_in_the_next_run() -> None:
    interruption = Interruption()
    for _ in range(2):
        assert not interruption.heeded
        with interruption:
            assert interruption.heeded
    assert not interruption.heeded
