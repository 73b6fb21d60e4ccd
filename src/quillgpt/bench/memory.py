"""Peak memory of a candidate, which has a process of its own."""

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
    if device == "cpu":  # without PyTorch, which not every candidate imports
        found, of = peak_resident_bytes(), "the whole process, Python and packages included"
    else:
        import torch

        from quillgpt.device import peak_memory_bytes

        found, of = peak_memory_bytes(torch.device(device)), "on the GPU, as PyTorch allocated it"
    return PeakMemory(None, NOT_MEASURED) if found is None else PeakMemory(found, of)


def reset_peak() -> int | None:
    """Forget the highest resident memory so far, and return that of now; None where this system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return peak_resident_bytes()
