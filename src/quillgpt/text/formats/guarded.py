"""The process that reads files which others made: whatever they do to a parser, it ends with it, and nothing else does.

A file has so much time of a processor and so much memory; then the system ends the process, and the file is refused.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from quillgpt.text.formats.limits import MOST_MEMORY_BYTES, MOST_SECONDS
from quillgpt.text.formats.opened import Opened, Tally
from quillgpt.text.formats.take_out import take_out
from quillgpt.worker import Worker

Job = tuple[Opened, Path]

_running: dict[int, Worker] = {}
"""The process that reads, by the process that asks it: one that was forked needs another."""


def take_out_guarded(opened: Opened, kept: Path) -> Tally:
    """Do what `take_out` does, in another process.

    Raises:
        DataError: The file is damaged, not made to be read, or has no text.
        UserError: An optional package is missing.
    """
    worker = _worker()
    try:
        tally: Tally = worker.do((opened, kept))
    except ChildProcessError as error:
        status = worker.status
        end_reading()
        if hasattr(signal, "SIGXCPU") and status == -signal.SIGXCPU:
            raise opened.refused(f"takes more than {MOST_SECONDS:g} s to read, as no document does") from None
        if status is not None and status < 0:
            raise opened.refused("needs more memory than documents do, or makes what reads it fail") from None
        raise opened.refused(f"could not be read ({error})") from error
    return tally


def end_reading() -> None:
    """End the process, if there is one; the next file starts another."""
    worker = _running.pop(os.getpid(), None)
    if worker is not None:
        worker.close()


atexit.register(end_reading)


def reader() -> Callable[[Job], Tally]:
    """Return what does the jobs of the process, which limits itself."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # of systems without such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def read(job: Job) -> Tally:
        opened, kept = job
        opened.limit_time(MOST_SECONDS)
        return take_out(opened, kept)

    return read


def _worker() -> Worker:
    worker = _running.get(os.getpid())
    if worker is None:
        worker = _running[os.getpid()] = Worker(reader)
    return worker
