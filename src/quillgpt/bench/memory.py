"""Peak memory of a candidate, which has a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quillgpt.bench.worker import Worker
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


def peak_memory(work: Callable[..., object], *arguments: object) -> PeakMemory:
    """Run `work` in a fresh process and return the peak of the memory that it holds on the CPU.

    Args:
        work: A function that the fresh process can import, so one at the top of a module.
        arguments: Its arguments, which are pickled.
    """
    try:
        with Worker(work, *arguments) as worker:
            return worker.ask(peak_so_far, "cpu")
    except Exception as error:
        warn(f"peak memory could not be measured: {error}")
        return PeakMemory(None, NOT_MEASURED)


def peak_so_far(held: object, device: str) -> PeakMemory:  # noqa: ARG001
    """Return the most memory that this process has held at one time, for whatever it holds.

    On a CUDA device it is what PyTorch allocated there; on a CPU the resident memory of the whole process, in which
    Python and the imported packages count too, and processes that it starts itself do not.
    """
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


def reset_peak() -> int | None:
    """Forget the highest resident memory so far, and return that of now; None where this system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return peak_resident_bytes()
