"""The sandbox: a folder with texts, in which `quill` runs as a user would run it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from quillgpt.checkpoint.names import LAST, UNFINISHED, checkpoints_folder
from quillgpt.config.layers import ENVIRONMENT_PREFIX, NOT_SETTINGS
from quillgpt.errors import UserError
from quillgpt.plots.record import METRICS, read_metrics
from quillgpt.proof.proved_model import ProvedModel, write_texts
from quillgpt.records import read_record

QUILL = ("-m", "quillgpt")
FAULTY = ("-m", "quillgpt.proof.faulty")

TIMEOUT_SECONDS = 1800
POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Finished:
    """A process that has ended: its exit status and its output."""

    status: int
    out: str
    err: str


class Sandbox:
    """A folder in which models are trained by `quill`.

    Args:
        folder: An empty folder, in which texts are written.
        logs: The folder for the output of the processes.
        models: The models whose training is proved.
        draw: The source of random moments and bits.

    Attributes:
        folder: The folder.
        models: The models.
        draw: The source of random moments and bits.
    """

    def __init__(self, folder: Path, logs: Path, models: Sequence[ProvedModel], draw: random.Random) -> None:
        self.folder = folder
        self.models = models
        self.draw = draw
        self._logs = logs
        self._check = ""
        self._numbers = count(1)
        write_texts(folder, max(proved.settings.block_size for proved in models))
        self._files = {proved.name: proved.write(folder).name for proved in models}
        self._reference_runs: dict[str, Path] = {}
        self._log_of: dict[int, Path] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    def log_into(self, name: str) -> Path:
        """Start a folder for the output of all following processes, and return it."""
        self._check, self._numbers = name, count(1)
        return self._logs / name

    def train_arguments(self, proved: ProvedModel, run: str, **changes: object) -> list[str]:
        """Return the command line, without `quill`, that trains a model in a folder of the sandbox."""
        flags = [f"--{name}={value}" for name, value in changes.items()]
        return ["train", self._files[proved.name], f"--out_dir={run}", *flags]

    @contextmanager
    def running(
        self, arguments: Sequence[str], *, entry: Sequence[str] = QUILL, before: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process, and kill it at the end of the block if it still runs.

        Args:
            arguments: The command line, without `quill`.
            entry: The arguments with which Python runs `quill`.
            before: A command that starts Python, such as a shell.
        """
        log = self._logs / self._check / f"{next(self._numbers):02}"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            err.write(f"$ {' '.join([*before, 'python', *entry, *arguments])}\n".encode())
            err.flush()
            process = subprocess.Popen(
                [*before, sys.executable, *entry, *arguments],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self._log_of[process.pid] = log
        self._running.add(process)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            self._running.discard(process)

    def quill(
        self,
        *arguments: str,
        status: int = 0,
        entry: Sequence[str] = QUILL,
        before: Sequence[str] = (),
    ) -> Finished:
        """Run a command to its end.

        Args:
            *arguments: The command line, without `quill`.
            status: The expected exit status.
            entry: As in `running`.
            before: As in `running`.

        Raises:
            RuntimeError: The exit status is another; the message has the last line of the output.
        """
        with self.running(arguments, entry=entry, before=before) as process:
            process.wait(timeout=TIMEOUT_SECONDS)
        done = self.finished(process)
        if done.status != status:
            last_line = (done.err.strip().splitlines() or ["nothing"])[-1]
            raise RuntimeError(f"quill {arguments[0]} ended with status {done.status} instead of {status}: {last_line}")
        return done

    def finished(self, process: subprocess.Popen[bytes]) -> Finished:
        """Return the exit status and the output of a process of `running` that has ended."""
        log = self._log_of[process.pid]
        out, err = (log.with_suffix(end).read_text(encoding="utf-8", errors="replace") for end in (".out", ".err"))
        return Finished(process.returncode, out, err)

    def reference_run(self, proved: ProvedModel) -> Path:
        """Return the folder of an undisturbed run of a model, which is trained at the first call."""
        if proved.name not in self._reference_runs:
            name = f"{proved.stem}-reference"
            self.quill(*self.train_arguments(proved, name))
            self._reference_runs[proved.name] = self.folder / name
        return self._reference_runs[proved.name]

    def for_each_model(self, measure: Callable[[ProvedModel], str], *, at_once: bool = True) -> str:
        """Call a function for each model, and return its figures as one text.

        Args:
            measure: The function, which mostly waits for processes.
            at_once: Call it for all models at the same time.
        """
        with ThreadPoolExecutor(len(self.models) if at_once else 1) as pool:
            try:
                figures = list(pool.map(measure, self.models))
            except (KeyboardInterrupt, SystemExit):  # the pool would wait for all processes
                for process in [*self._running]:
                    process.kill()
                raise
        return "; ".join(f"{proved.name}: {figure}" for proved, figure in zip(self.models, figures, strict=True))


def environment() -> dict[str, str]:
    """Return this process's environment without Quill's settings, which are in the models' files."""
    settings = {name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS}
    return {name: value for name, value in os.environ.items() if name not in settings}


def wait_for_iteration(process: subprocess.Popen[bytes], run: Path, iteration: int) -> bool:
    """Wait until a run has recorded an iteration; return whether it is still running."""
    while process.poll() is None:
        if (run / METRICS).is_file() and any(row["iter"] >= iteration for row in read_metrics(run / METRICS)[-3:]):
            return True
        time.sleep(POLL_SECONDS)
    return False


def hold_while_saving(process: subprocess.Popen[bytes], run: Path, delay_seconds: float) -> bool:
    """Suspend a process between the first file of a checkpoint and its last rename; return whether that succeeded."""
    while process.poll() is None:
        if unfinished(run):
            time.sleep(delay_seconds)
            process.send_signal(signal.SIGSTOP)
            if unfinished(run):
                return True
            process.send_signal(signal.SIGCONT)
        time.sleep(POLL_SECONDS / 10)
    return False


def unfinished(run: Path) -> list[Path]:
    """Return the half-written checkpoints of a run."""
    return list(checkpoints_folder(run).glob(f"{UNFINISHED}*"))


def last_state(run: Path) -> dict[str, Any]:
    """Return the training state of a run's last checkpoint; empty if there is none."""
    state = checkpoints_folder(run) / LAST / "training" / "state.json"
    return read_record(state, dict[str, Any], UserError, mend="") if state.is_file() else {}
