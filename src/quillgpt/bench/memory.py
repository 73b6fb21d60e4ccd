"""Peak memory of one candidate: it runs once more, alone, in a process of its own.

Candidates share a process while they are timed, and the peak of a process cannot be divided among them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from quillgpt.console import warn

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a candidate held at one time.

    Attributes:
        bytes: How much; None where this system does not tell.
        of: What is counted, in words.
    """

    bytes: int | None
    of: str


def peak_memory(work: Callable[..., object], *arguments: object, device: str = "cpu") -> PeakMemory:
    """Run `work` in a fresh process and return the peak of its memory.

    On a CUDA device it is what PyTorch allocated there; on a CPU the resident memory of the whole process, in which
    Python and the imported packages count too, and processes that it starts itself do not.

    Args:
        work: A function that the fresh process can import, so one at the top of a module.
        arguments: Its arguments, which are pickled.
        device: The device that it computes on.
    """
    spawn = get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run_and_report, args=(sender, work, arguments, device))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:  # it was killed, most likely for its memory
        answer = "the process was killed"
    except BaseException:
        process.terminate()
        raise
    process.join()
    if isinstance(answer, str):
        warn(f"peak memory could not be measured: {answer}")
        return PeakMemory(None, NOT_MEASURED)
    assert isinstance(answer, PeakMemory)
    return answer


def _run_and_report(
    sender: Connection, work: Callable[..., object], arguments: tuple[object, ...], device: str
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            work(*arguments)
            answer: PeakMemory | str = _peak_so_far(device)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
    sender.send(answer)


def _peak_so_far(device: str) -> PeakMemory:
    if device.startswith("cuda"):
        import torch

        return PeakMemory(torch.cuda.max_memory_allocated(device), "on the GPU, as PyTorch allocated it")
    resident = peak_resident_bytes() if device == "cpu" else None
    return PeakMemory(resident, NOT_MEASURED if resident is None else "the whole process, Python and packages included")


def peak_resident_bytes() -> int | None:
    """Return the highest resident memory of this process so far; None on systems other than Linux and macOS.

    Linux carries the figure of `getrusage` over from the process that started this one, so its own record is read.
    """
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kibibytes is None else int(kibibytes) * 1024
