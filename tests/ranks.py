"""Several processes that train together, as torchrun starts them, but without the start of Python and PyTorch."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import warm
from quillgpt.plots.record import METRICS, curve, read_metrics

LONGEST_SECONDS = 300
"""How long a test waits for ranks; they take seconds, or minutes on a machine that is very busy."""


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    """Make a folder the current one while the block runs."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Ranks:
    """Ranks 0 .. count - 1 of one command, which have been started.

    Args:
        count: How many.
        words: The command's, after `quill`.
        environment: Further variables.
        own: Further variables of single ranks.
        folders: The current folder of each rank; None: this process's.
        started: The ranks to start; None: all.
    """

    def __init__(
        self,
        count: int,
        *words: str,
        environment: Mapping[str, object] | None = None,
        own: Mapping[int, Mapping[str, object]] | None = None,
        folders: Sequence[Path] | None = None,
        started: Sequence[int] | None = None,
    ) -> None:
        world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        numbers = range(count) if started is None else started
        self._said = [tempfile.TemporaryFile() for _ in numbers]  # noqa: SIM115 - read after they have ended
        self.processes = []
        for rank, said in zip(numbers, self._said, strict=True):
            variables = world | {"RANK": rank, "LOCAL_RANK": rank} | dict(environment or {}) | (own or {}).get(rank, {})
            there = chdir(folders[rank]) if folders else nullcontext()
            with there, patch.dict(os.environ, {name: str(value) for name, value in variables.items()}):
                self.processes.append(warm.start(*words, stderr=said.fileno()))

    def wait_for_iteration(self, out_dir: Path, iteration: int) -> None:
        """Wait until the ranks have recorded an iteration."""
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end:
            assert all(process.poll() is None for process in self.processes), self.said()
            record = out_dir / "metrics.jsonl"
            if record.is_file() and any(row["iter"] >= iteration for row in read_metrics(record)[-3:]):
                return
            time.sleep(0.01)
        raise AssertionError(f"iteration {iteration} is not reached; the ranks have said: " + " | ".join(self.said()))

    def wait(self) -> list[int]:
        """Return the exit status of each rank, once all have ended."""
        end = time.monotonic() + LONGEST_SECONDS
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > end:
                for process in self.processes:
                    process.kill()
                raise AssertionError("the ranks hang; they have said: " + " | ".join(self.said()))
            time.sleep(0.05)
        return [process.wait() for process in self.processes]

    def said(self) -> list[str]:
        """Return what each rank has written to standard error so far."""
        texts = []
        for file in self._said:
            file.seek(0)
            texts.append(file.read().decode())
        return texts


def in_ranks(count: int, *words: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in several ranks, check that all succeed and only the first says something; return what it says."""
    ranks = Ranks(count, *words, environment=environment)
    statuses, (said, *others) = ranks.wait(), ranks.said()
    assert statuses == [0] * count, (statuses, said, others)
    assert not any(others), others
    return said


def settings_as_flags(settings: Mapping[str, object]) -> list[str]:
    """Return settings as the words of a command."""
    return [f"--{name}={value}" for name, value in settings.items()]


def out_dir_of(words: Sequence[str]) -> Path:
    """Return the folder of the run that the words of a command train."""
    return Path(next(word.removeprefix("--out_dir=") for word in words if word.startswith("--out_dir=")))


def metrics(out_dir: Path, kind: str, name: str) -> list[float]:
    """Return one of the numbers that a run has recorded."""
    return [value for _, value in curve(read_metrics(out_dir / METRICS), kind, name)]
