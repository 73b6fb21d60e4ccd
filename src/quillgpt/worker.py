"""A process that does jobs for this one."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self, cast

from quillgpt.errors import UserError
from quillgpt.process import why_it_ended

_PROCESS = Path(__file__).with_name("worker_process.py")


class Worker:
    """A process that does one job after the other, and ends with this one, in whatever way this one ends.

    Args:
        maker: A function of a module that returns what does a job.
        arguments: Its arguments, which can be pickled.
    """

    def __init__(self, maker: Callable[..., Callable[..., object]], *arguments: object) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,  # so that Ctrl-C goes to this process alone, which ends the others
        )
        self._order: object = (sys.path, maker.__module__, maker.__name__, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and wait until it has ended."""
        self.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(OSError):  # what the process did not read
                cast("IO[bytes]", file).close()

    def do(self, job: object) -> Any:
        """Return the result of a job.

        Raises:
            UserError: The job has raised it.
            ChildProcessError: The process was killed or has failed.
        """
        try:
            if self._order is not None:
                self._send(self._order)
                self._order = None
            self._send(job)
            assert self._process.stdout is not None
            result = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.kill()
            raise ChildProcessError(
                f"a worker process ended: {why_it_ended(self._process.wait(), self._complaints)}"
            ) from error
        if isinstance(result, UserError):
            raise result
        return result

    @property
    def status(self) -> int | None:
        """The exit status of the process, negative if a signal killed it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End the process."""
        self._process.kill()

    def _send(self, content: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(content, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()
