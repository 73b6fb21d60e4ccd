"""`quill train --devices`: several processes on this machine, by one command."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
import torch

import warm
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.cli import main
from quillgpt.distributed import launch
from quillgpt.distributed.launch import process_count
from quillgpt.errors import ConfigError, DeviceError
from quillgpt.process import usable_cores
from ranks import LONGEST_SECONDS, in_ranks, metrics, out_dir_of
from tolerances import SAME_RUN_IN_RANKS

from .conftest import Words

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")


class Launched:
    """A command that starts processes itself.

    Args:
        words: The command's, after `quill`.
    """

    def __init__(self, *words: str) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - read after it has ended
        self.process = warm.start(*words, stderr=self._said.fileno())

    def wait_until_it_says(self, text: str) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while text not in self.said():
            assert time.monotonic() < end, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def wait(self) -> int:
        end = time.monotonic() + LONGEST_SECONDS
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"it hangs; it has said: {self.said()}")
            time.sleep(0.05)
        return self.process.wait()

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode()


def test_two_processes_of_one_command_train_as_one_process_does(words: Words) -> None:
    one, two = words("one", max_iters=10), words("two", max_iters=10)
    in_ranks(1, *one)
    launched = Launched(*two, "--devices=2")
    assert launched.wait() == 0, launched.said()
    assert launched.said().startswith("done in ")
    assert launched.said().count("\n") == 1
    expected, losses = (metrics(out_dir_of(command), "train", "loss") for command in (one, two))
    assert losses == pytest.approx(expected, abs=SAME_RUN_IN_RANKS)


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130)])
def test_a_signal_is_handed_on_once_and_the_status_is_that_of_the_ranks(words: Words, number: str, status: int) -> None:
    command = words(number, max_iters=1_000_000, eval_interval=1_000_000, quiet=False)
    launched = Launched(*command, "--devices=2")
    launched.wait_until_it_says("iter 3:")
    launched.process.send_signal(signal.Signals[number])
    assert launched.wait() == status, launched.said()
    assert launched.said().count("stopping after this step and saving") <= 1
    assert launched.said().count("interrupted and saved at iter") == 1, launched.said()
    assert "Traceback" not in launched.said()
    assert has_checkpoint(out_dir_of(command))


@pytest.mark.parametrize("killed", [1, 2])
def test_killed_processes_are_one_line(words: Words, killed: int) -> None:
    command = words(f"{killed}-killed", max_iters=1_000_000, eval_interval=1_000_000, checkpoint_interval=2)
    launched = Launched(*command, "--devices=2")
    out_dir = out_dir_of(command)
    end = time.monotonic() + LONGEST_SECONDS
    while not has_checkpoint(out_dir):
        assert time.monotonic() < end, launched.said()
        time.sleep(0.02)
    for process in psutil.Process(launched.process.pid).children()[-killed:]:
        process.kill()
    assert launched.wait() == 1
    assert launched.said().count("\n") == 1, launched.said()
    assert "rank 1 on" in launched.said()
    assert "killed" in launched.said()
    assert f"go on with: quill train {out_dir}/config.toml --init_from=resume" in launched.said()


@dataclass
class Ended:
    """What the agent says of a rank that has ended."""

    exitcode: int
    pid: int = 1

    def signal_name(self) -> str:
        return signal.Signals(-self.exitcode).name


@pytest.mark.parametrize(
    ("exits", "status"),
    [
        ({0: 130, 1: 130}, 130),
        ({0: -signal.SIGTERM, 1: 130}, 130),  # the agent ends the others when one has ended
        ({0: 143, 1: 130}, 130),
        ({0: 143, 1: 143}, 143),
        ({0: 1, 1: -signal.SIGKILL}, 1),
        ({0: -signal.SIGTERM, 1: 2}, 2),
    ],
)
def test_the_status_of_all_is_that_of_the_one_that_ended_first(
    exits: dict[int, int], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch._status({rank: Ended(number) for rank, number in exits.items()}, lambda: "") == status  # type: ignore[misc]
    assert capsys.readouterr().err == ""


def test_a_rank_that_was_killed_is_named_where_the_others_only_follow(capsys: pytest.CaptureFixture[str]) -> None:
    ended = {0: Ended(143), 1: Ended(-signal.SIGKILL)}
    assert launch._status(ended, lambda: "; go on") == 1  # type: ignore[arg-type]
    assert re.fullmatch(r"quill: killed: rank 1 on \S+ \(process 1\) by SIGKILL; go on\n", capsys.readouterr().err)


def test_mistakes_are_answered_before_anything_is_started(
    words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "launch", lambda *_: pytest.fail("started"))
    for given, status, said in [
        ("--devices=0", 2, "--devices=0 must be"),
        ("--devices=-1", 2, "--devices=-1 must be"),
        ("--devices=some", 2, "--devices=some must be"),
        ("--devices=1000", 1, "devices = 1000, but there are no GPUs here"),
    ]:
        assert main([*words("mistakes"), given]) == status
        assert said in capsys.readouterr().err
    assert main([*words("mistakes"), "--devices=2", "--learning_rat=1"]) == 2
    assert "did you mean --learning_rate?" in capsys.readouterr().err


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    return None


@pytest.mark.usefixtures("four_gpus")
def test_there_is_a_process_for_each_gpu() -> None:
    assert process_count("auto", "auto") == process_count("auto", "cuda") == 4
    assert process_count(3, "cuda") == 3
    assert process_count(None, "cuda") == process_count(1, "cuda:3") == process_count("auto", "cuda:3") == 1
    with pytest.raises(DeviceError, match="devices = 5, but this machine has 4 GPUs"):
        process_count(5, "cuda")
    with pytest.raises(ConfigError, match="devices = 2 takes the first GPUs, device = cuda:1 only one"):
        process_count(2, "cuda:1")


def test_processes_share_the_cores_of_cpus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launch, "usable_cores", lambda: 2)
    assert process_count("auto", "cpu") == launch.FASTEST_ON_CPUS
    assert process_count(2, "cpu") == 2
    assert capsys.readouterr().err == ""
    assert process_count(4, "cpu") == 4
    assert "devices = 4 share 2 cores" in capsys.readouterr().err
    with pytest.raises(DeviceError, match="use --devices=2 or fewer"):
        process_count(9, "cpu")


def test_threads_are_divided_between_the_ranks_of_a_machine(words: Words) -> None:
    command = [word for word in words("threads", max_iters=1, quiet=False) if not word.startswith("--threads")]
    said = in_ranks(2, *command, environment={"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "torchrun's"})
    assert f"threads              {max(1, usable_cores() // 2)}\n" in said
