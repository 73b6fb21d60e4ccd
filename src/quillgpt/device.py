"""Chooses device, number format and thread count, and tells the memory and the peak rate of a device."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils import deterministic

from quillgpt.console import warn
from quillgpt.errors import DeviceError
from quillgpt.measuring import Allowance, measured, remember
from quillgpt.process import memory_groups, peak_resident_bytes, usable_cores

PROBE_SECONDS = 0.05

SHARE_OF_A_RATE = 0.1
"""Share of the time for measurements that measuring a rate may take."""

FIRST_SIDE = 128
"""Rows of the first matrices whose product is tried; its time says whether larger ones can be."""

SWAPPED = 3
"""Assumed swap, as a multiple of memory, of a system that does not tell."""

# Dense bfloat16 tensor-core rates by the vendor's datasheets, in FLOP/s; the key is part of the device's name.
PUBLISHED_PEAKS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
    "V100": 125e12,
}


MMAP_MAX, TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = (-4, 0), (-1, 2**31 - 1), (-2, 64 << 20), (-3, 1 << 20)
"""Parameters of glibc's mallopt: number (malloc.h) and value; all but the first are in bytes."""


@dataclass(frozen=True)
class Peak:
    """A device's peak rate of floating-point operations: 100 % of model FLOPs utilisation (MFU)."""

    flops_per_second: float
    source: str


def compute_deterministically(wanted: bool) -> None:
    """Let PyTorch use only deterministic algorithms, or all; to be called before the first work on a GPU.

    Those of a CPU are deterministic anyway. Some of the fastest of a GPU add up in an order that is not fixed.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # not needed here, and slow
    if wanted != torch.are_deterministic_algorithms_enabled():  # the function imports the compiler, which takes seconds
        torch.use_deterministic_algorithms(wanted)


def choose_device(name: str) -> torch.device:
    """Turn a `device` setting into a device that exists.

    Raises:
        DeviceError: The device does not exist, or the name is unknown.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device = {name} is no device; expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device = {name}, but PyTorch sees no CUDA device here; use --device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"device = {name}, but there are {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device = mps, but PyTorch sees no Apple GPU here; use --device=cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device = {name} is not supported; expected auto, cpu, cuda, cuda:N or mps")
    return device


def choose_dtype(name: str, device: torch.device, allowance: Allowance | None = None) -> torch.dtype:
    """Turn a `dtype` setting into a number format; `auto` takes bfloat16 if a short measurement finds it faster.

    Args:
        name: The setting.
        device: Where it is computed with.
        allowance: The time that measuring may take; None: that of a run without minutes.

    Raises:
        DeviceError: float16 on a CPU, which has no fast float16 arithmetic.
    """
    if name == "float16" and device.type == "cpu":
        raise DeviceError("dtype = float16 is slow and imprecise on a CPU; use bfloat16 or float32")
    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    rates = dtype_rates(device, allowance or Allowance())
    return torch.bfloat16 if rates["torch.bfloat16"] > rates["torch.float32"] else torch.float32


def dtype_rates(device: torch.device, allowance: Allowance) -> dict[str, float]:
    """Return the operations per second of large matrix products by number format, measured once."""

    def measure() -> dict[str, float]:
        with allowance.spending(SHARE_OF_A_RATE) as seconds:
            return {
                str(dtype): matmul_rate(device, dtype, within=seconds / 2) for dtype in (torch.float32, torch.bfloat16)
            }

    return remember(
        f"matmul {device_description(device)} {torch.get_num_threads()} threads",
        measure,
        of=("torch.float32", "torch.bfloat16"),
    )


FEW_THREADS = 64
"""Threads that may be asked for on every machine: too many for its cores are slow, but harmless."""


def choose_threads(threads: int | None, *, processes: int = 1) -> int:
    """Set and return the number of CPU threads; None takes one for each core that the process may use.

    Thousands of threads would crash the process, so a number far above that of the cores is reduced to it.

    Args:
        threads: The number.
        processes: How many processes share the cores of this machine.
    """
    cores = usable_cores()
    if threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        if processes > 1 and given == "1":  # which torchrun sets, where the user has set nothing
            given = ""
        threads = (int(given[:9]) if given.isascii() and given.isdecimal() else 0) or max(1, cores // processes)
    if threads > max(FEW_THREADS, os.cpu_count() or 1):
        warn(f"threads = {threads}, but this machine has {os.cpu_count()} cores; {cores} are used")
        threads = cores
    torch.set_num_threads(threads)
    return threads


def return_freed_memory() -> None:
    """Let glibc return memory that PyTorch frees to the system, for building a model part by part.

    By default it keeps ever larger freed blocks, which add up to half of the model's size.
    """
    set_allocator(MMAP_THRESHOLD)


def use_large_pages() -> None:
    """Let PyTorch ask Linux for pages of 2 MiB for tensors of that size, unless the user decided otherwise.

    Weights that are read once for each token then take an eighth less time. It has an effect only in a process that has
    made no tensor yet.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Let glibc keep memory that PyTorch frees, for training.

    By default it returns large blocks to the system at once, and using them again costs a page fault for every 4 KiB:
    a tenth of a training step. The next step needs the same blocks.
    """
    set_allocator(MMAP_MAX, TRIM_THRESHOLD, TOP_PAD)


def set_allocator(*parameters: tuple[int, int]) -> None:
    """Set parameters of glibc's mallopt; without glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in parameters:
            mallopt(parameter, value)


def peak(device: torch.device, dtype: torch.dtype, allowance: Allowance | None = None) -> Peak:
    """Return a GPU's published peak rate, or the measured rate of a large matrix product for CPUs and unknown GPUs.

    Args:
        device: The device.
        dtype: Number format of the products.
        allowance: The time that measuring may take; None: that of a run without minutes.
    """
    allowance = allowance or Allowance()
    name = device_description(device)
    if device.type == "cuda" and dtype != torch.float32:
        for part, rate in PUBLISHED_PEAKS.items():
            if part in name:
                return Peak(rate, f"published peak of {part}")

    def measure() -> float:
        with allowance.spending(SHARE_OF_A_RATE) as seconds:
            return matmul_rate(device, dtype, size=2048, within=seconds)

    kept = measured(f"peak {name} {dtype} {torch.get_num_threads()} threads", measure, better=max)
    crowded = "matrix product, measured while other programs used the processor"
    return Peak(kept.result, crowded if kept.was_crowded else "measured matrix product")


@dataclass(frozen=True)
class Memory:
    """Memory of a device, in bytes.

    Attributes:
        total: All of it.
        free: The part that is not in use.
        swap: Swap space; None if it is unknown.
    """

    total: int
    free: int
    swap: int | None = None


def memory(device: torch.device) -> Memory | None:
    """Return the memory of a GPU, or of the machine within the limits of its container; None if it is unknown."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return Memory(total, total - torch.mps.driver_allocated_memory())
    try:
        machine, swap = psutil.virtual_memory(), psutil.swap_memory().total
    except OSError:  # a Linux without /proc
        return None
    groups = memory_groups()
    total = min([machine.total, *(group.limit for group in groups)])
    free = min([machine.available, *(max(0, group.limit - group.used) for group in groups)])
    return Memory(total, free, swap=swap if sys.platform == "linux" else None)  # elsewhere it grows when needed


def most_memory(device: torch.device) -> int | None:
    """Return the most bytes that a program could ever use on a device, with swap; None if unknown."""
    if device.type == "cuda":
        if sys.platform == "win32":  # there a GPU borrows memory of the machine
            return None
        return torch.cuda.mem_get_info(device)[1]
    machine = memory(torch.device("cpu"))
    if machine is None:
        return None
    return machine.total + (SWAPPED * machine.total if machine.swap is None else machine.swap)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 512, within: float = math.inf) -> float:
    """Measure the rate of products of square matrices, in FLOP/s.

    Args:
        device: Where they are computed.
        dtype: Their number format.
        size: Their rows; fewer are taken where a product would take too long.
        within: Seconds that measuring may take.
    """
    started, side = time.perf_counter(), min(size, FIRST_SIDE)
    while True:
        a = torch.randn(side, side, device=device).to(dtype)
        left = within - (time.perf_counter() - started)
        multiply = partial(torch.matmul, a, a)
        fastest = min(times_of_calls(multiply, device, seconds=PROBE_SECONDS if side == size else 0.0, within=left))
        left = within - (time.perf_counter() - started)
        larger = min(size, 2 * side)
        if side == size or 2 * fastest * (larger / side) ** 3 > left:
            return 2 * side**3 / fastest
        side = larger


def seconds_per_call(function: Callable[[], object], device: torch.device, within: float = math.inf) -> float:
    """Return the time of the fastest of several calls after a warm-up, measured for about PROBE_SECONDS.

    Where `within` seconds are not enough for a second call, it is the time of the first one.
    """
    times = times_of_calls(function, device, seconds=PROBE_SECONDS, within=within)
    return min(times[1:] or times)


def times_of_calls(
    function: Callable[[], object], device: torch.device, *, seconds: float, within: float = math.inf
) -> list[float]:
    """Return the time of a call that warms up, and of those after it.

    Args:
        function: What is called.
        device: Where it computes.
        seconds: After the warm-up, calls begin for as long; there is at least one.
        within: Seconds in which all calls should end. As a call cannot be interrupted, none begins after the warm-up
            that would take longer, were it as slow as the fastest one so far.
    """
    times: list[float] = []
    passed, fastest = 0.0, math.inf
    while not times or (passed + fastest <= within and (len(times) == 1 or passed - times[0] < seconds)):
        before = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - before)
        passed, fastest = passed + times[-1], min(fastest, times[-1])
    return times


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work, so that times can be measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which matrix products of float32 weights are computed in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; for a GPU without waiting for the copy."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def device_description(device: torch.device) -> str:
    """Return the product name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return f"{device.type} {processor}" if device.type == "mps" else processor


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak memory of this process on a device, or None if it is unknown.

    On a CUDA device it is PyTorch's allocations; on a CPU the resident memory of the whole process, with Python and
    imported packages, but without child processes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes() if device.type == "cpu" else None


def warm_up(compute: Callable[[], object], *, times: int = 1) -> None:
    """Compute on another stream, as a CUDA graph requires of what it is to record."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for _ in range(times):
            compute()
    here.wait_stream(aside)


def record_graph(compute: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Record what a function launches on the GPU, so that it can be replayed.

    Raises:
        RuntimeError: The device or its driver cannot record it.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph
