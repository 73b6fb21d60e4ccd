"""Profiles: the costliest operations, and a trace that Perfetto opens."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

COSTLIEST = 10


@dataclass(frozen=True)
class Operation:
    """The cost of one kind of operation in a profile.

    Attributes:
        name: PyTorch's name of it, or the file, line and name of a Python function.
        milliseconds: Its own time, without the functions that it calls; on a GPU, the time of its kernels.
        share: The share of the time of all operations.
        calls: How often it ran.
    """

    name: str
    milliseconds: float
    share: float
    calls: int


def profile_operations(work: Callable[[], object], device: torch.device, trace: Path) -> list[Operation]:
    """Run `work` under PyTorch's profiler, write its trace, and return the costliest operations, costliest first.

    Args:
        work: What is profiled; it has been warmed up.
        device: The device whose time counts.
        trace: The file to write, in Chrome's trace format, which https://ui.perfetto.dev opens. It is compressed if its
            name ends in .gz.
    """
    import torch
    from torch.profiler import ProfilerActivity

    on_gpu = device.type == "cuda"
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.open("ab").close()  # the profiler itself does not raise if it cannot write
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    profiler.export_chrome_trace(str(trace))

    def microseconds(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    # GPU kernels have rows besides the operations that launched them; their time must count only once.
    operations = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
    total = sum(map(microseconds, operations))
    return [
        Operation(event.key, microseconds(event) / 1e3, microseconds(event) / total if total else 0.0, event.count)
        for event in sorted(operations, key=microseconds, reverse=True)[:COSTLIEST]
    ]


def profile_functions(work: Callable[[], object]) -> list[Operation]:
    """Run `work` under Python's profiler and return the functions with the most time of their own."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    functions: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
    functions = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(seconds for _, _, seconds, _, _ in functions.values())
    costliest = sorted(functions.items(), key=lambda item: item[1][2], reverse=True)[:COSTLIEST]
    return [
        Operation(_place(*key), seconds * 1e3, seconds / total, calls) for key, (_, calls, seconds, _, _) in costliest
    ]


def _place(file: str, line: int, function: str) -> str:
    return function if file in ("~", "") else f"{Path(file).name}:{line} {function}"
