"""Compiling a run's model in a process of its own, while the run trains uncompiled.

The process builds the model, compiles it, which fills PyTorch's cache, and keeps how fast it is. It ends with the
process that started it, in whatever way that ends. What it prints is shown to nobody.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from quillgpt.attention import KernelSpec
from quillgpt.config.schema import ChosenSettings, TrainSettings
from quillgpt.errors import DeviceError, UserError
from quillgpt.model import GPT, GPTConfig
from quillgpt.process import why_it_ended
from quillgpt.training.start.adapter_base import with_adapters
from quillgpt.training.start.choices import choose_machine
from quillgpt.training.start.compile_choice import failed_speed, keep_speed, measure_speed
from quillgpt.training.start.model_config import limit_kernel_range

NICENESS = 5
"""Of the process: a quarter of a core where training has all of them."""


class CompileProcess:
    """A process that compiles a model as a run computes it.

    Args:
        settings: The run's.
        config: Configuration of its model.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, settings: ChosenSettings, config: GPTConfig) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                env=os.environ | {"PYTHONPATH": paths},
                start_new_session=True,  # so that Ctrl-C goes to the run alone, and that its compilers end with it
            )
        except OSError:
            self._complaints.close()
            raise
        order = {"settings": settings.model_dump(mode="json"), "config": asdict(config)}
        with suppress(OSError):  # it has ended, which `failure` tells
            self._stdin.write(json.dumps(order).encode() + b"\n")
            self._stdin.flush()

    def is_running(self) -> bool:
        """Whether it still works."""
        return self._process.poll() is None

    def failure(self) -> str | None:
        """Return why it ended without having compiled; None if it has."""
        status = self._process.wait()
        return why_it_ended(status, self._complaints) if status else None

    def stop(self) -> None:
        """End it, and the compilers that it has started."""
        if self.is_running():  # else its number may be another's by now
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._stdin, self._complaints):
            with suppress(OSError):  # what it did not read
                file.close()

    @property
    def _stdin(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdin)


def main() -> NoReturn:
    """Compile the model that standard input describes."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = 0
    try:
        _compile(order["settings"], order["config"])
    except UserError as error:
        print(error, file=sys.stderr)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # without waiting for the thread, which waits for standard input


def _compile(stored: dict[str, Any], stored_config: dict[str, Any]) -> None:
    """Compile a model, and keep what that gains.

    Raises:
        DeviceError: The compiler has failed.
    """
    settings, machine = choose_machine(TrainSettings(**stored | {"defaults": "fixed"}))
    chosen = ChosenSettings.of(settings)
    config = GPTConfig(**stored_config | {"kernel": KernelSpec(**stored_config["kernel"])})
    model = with_adapters(GPT(config, dropout=chosen.dropout, attn_path=chosen.attn_path, seed=0), chosen)
    model.gradient_checkpointing = chosen.gradient_checkpointing
    limit_kernel_range(model, chosen)
    try:
        speed = measure_speed(chosen, model, machine)
    except DeviceError:
        keep_speed(chosen, config, machine, failed_speed(chosen, config, machine))
        raise
    keep_speed(chosen, config, machine, speed)


def _end_with_parent() -> None:
    """Wait until the process that started this one has ended, and end this one then, with its compilers."""
    os.read(sys.stdin.fileno(), 1)
    if os.name != "nt":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
