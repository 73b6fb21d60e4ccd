"""Peak memory of a candidate in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quillgpt.bench.worker import Worker
from quillgpt.console import warn
from quillgpt.process import peak_resident_bytes

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a candidate held at one time.

    Attributes:
        bytes: The number of bytes; None if this system does not tell.
        of: What is counted, in words.
    """

    bytes: int | None
    of: str


def peak_memory(work: Callable[..., object], *arguments: object) -> PeakMemory:
    """Run `work` in a new process and return its peak memory on the CPU.

    Args:
        work: A function at the top level of a module, so that the new process can import it.
        arguments: Its arguments, which are pickled.
    """
    try:
        with Worker(work, *arguments) as worker:
            return worker.ask(peak_so_far, "cpu")
    except Exception as error:
        warn(f"peak memory could not be measured: {error}")
        return PeakMemory(None, NOT_MEASURED)


def peak_so_far(held: object, device: str) -> PeakMemory:  # noqa: ARG001
    """Return the most memory that this process has held at one time.

    On a CUDA device that is the memory that PyTorch allocated there. On a CPU it is the resident memory of the process
    with Python and the imported packages, but without child processes.
    """
    if device == "cpu":  # without PyTorch, which not every candidate imports
        peak, of = peak_resident_bytes(), "the whole process, Python and packages included"
    else:
        import torch

        from quillgpt.device import peak_memory_bytes

        peak, of = peak_memory_bytes(torch.device(device)), "on the GPU, as PyTorch allocated it"
    return PeakMemory(None, NOT_MEASURED) if peak is None else PeakMemory(peak, of)


def reset_peak() -> int | None:
    """Reset the peak of the resident memory, and return the present one; None if this system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return peak_resident_bytes()
