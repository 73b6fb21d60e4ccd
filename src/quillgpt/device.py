"""Chooses device, number format and thread count, and tells the memory and the peak rate of a device.

Measurements are made once per machine and kept under `QUILL_HOME`, so that two runs of one command choose alike.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor
from torch.utils import deterministic

from quillgpt import __version__
from quillgpt.console import warn
from quillgpt.errors import DeviceError, UserError
from quillgpt.files import quill_home, write_json
from quillgpt.process import memory_groups, peak_resident_bytes, usable_cores
from quillgpt.records import read_record

PROBE_SECONDS = 0.05

CROWD_TOLERANCE = 0.25
"""Cores; the system itself always does something."""

SWAPPED = 3
"""Assumed swap, as a multiple of memory, of a system that does not tell."""

Measurement = TypeVar("Measurement", float, dict[str, float])

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
        raise DeviceError(f"device = {name}, but PyTorch sees no CUDA device here; use --device=cpu or --device=auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"device = {name}, but there are {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device = mps, but PyTorch sees no Apple GPU here; use --device=cpu or --device=auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device = {name} is not supported; expected auto, cpu, cuda, cuda:N or mps")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn a `dtype` setting into a number format; `auto` takes bfloat16 if a short measurement finds it faster.

    Raises:
        DeviceError: float16 on a CPU, which has no fast float16 arithmetic.
    """
    if name == "float16" and device.type == "cpu":
        raise DeviceError("dtype = float16 is slow and imprecise on a CPU; use bfloat16, float32 or auto")
    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    rates = remember(
        f"matmul {device_description(device)} {torch.get_num_threads()} threads",
        lambda: {str(dtype): matmul_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)},
        of=("torch.float32", "torch.bfloat16"),
    )
    return torch.bfloat16 if rates["torch.bfloat16"] > rates["torch.float32"] else torch.float32


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


def peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """Return a GPU's published peak rate, or the measured rate of a large matrix product for CPUs and unknown GPUs."""
    name = device_description(device)
    if device.type == "cuda" and dtype != torch.float32:
        for part, rate in PUBLISHED_PEAKS.items():
            if part in name:
                return Peak(rate, f"published peak of {part}")
    key = f"peak {name} {dtype} {torch.get_num_threads()} threads"
    rate, crowd = _measured(key, lambda: matmul_rate(device, dtype, size=2048), better=max)
    crowded = "matrix product, measured while other programs used the processor"
    return Peak(rate, crowded if _is_in_the_way(crowd) else "measured matrix product")


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


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 512) -> float:
    """Measure the rate of products of square matrices, in FLOP/s."""
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / seconds_per_call(lambda: a @ a, device)


def seconds_per_call(function: Callable[[], object], device: torch.device) -> float:
    """Return the time of the fastest of several calls after a warm-up, measured for about PROBE_SECONDS."""
    function()
    synchronize(device)
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        before = time.perf_counter()
        function()
        synchronize(device)
        best = min(best, time.perf_counter() - before)
    return best


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


def remember(key: str, measure: Callable[[], Measurement], *, of: Collection[str] = ()) -> Measurement:
    """Return the earlier result for `key` with these versions of Quill and torch, or measure now and keep the result.

    Args:
        key: What is measured, with everything that the result depends on except the versions.
        measure: Measures it; returns a number above 0, or such numbers by name.
        of: The names of the numbers.
    """
    return _measured(key, measure, of)[0]


def _measured(
    key: str,
    measure: Callable[[], Measurement],
    of: Collection[str] = (),
    better: Callable[[Measurement, Measurement], Measurement] | None = None,
) -> tuple[Measurement, float]:
    """Return what `remember` does, and how many cores other programs used meanwhile.

    Args:
        key: As for `remember`.
        measure: As for `remember`.
        of: As for `remember`.
        better: The better of two results; then a result is measured again as long as other programs were in the way.
    """
    path = quill_home() / "measurements.json"
    full_key = f"{key} | quill {__version__} torch {torch.__version__}"
    try:
        known = read_record(path, dict[str, Any], UserError, mend="")
    except UserError:  # never measured, or a damaged cache
        known = {}
    kept = _kept(known.get(full_key), of)
    if kept is not None and (better is None or not _is_in_the_way(kept[1])):
        return kept
    result = _with_crowd(measure)
    if kept is not None and better is not None and better(kept[0], result[0]) == kept[0]:
        result = kept[0], min(kept[1], result[1])
    known[full_key] = {"result": result[0], "crowd": result[1]}
    with suppress(OSError):  # if the cache cannot be written, the next run measures again
        write_json(path, known)
    return result


def _kept(entry: object, of: Collection[str]) -> tuple[Any, float] | None:
    """Return a result that was kept, with its crowd; None if it is none."""
    if not isinstance(entry, dict) or not _is_measurement(entry.get("result"), of):
        return None
    crowd = entry.get("crowd")
    return entry["result"], float(crowd) if isinstance(crowd, int | float) else 0.0


def _with_crowd(measure: Callable[[], Measurement]) -> tuple[Measurement, float]:
    """Measure, and count the cores that other programs used meanwhile."""
    start, busy, own = time.perf_counter(), _busy_seconds(), time.process_time()
    result = measure()
    others = _busy_seconds() - busy - (time.process_time() - own)
    return result, max(0.0, round(others / (time.perf_counter() - start), 2))


def _busy_seconds() -> float:
    """Return the seconds that all cores have computed so far."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _is_in_the_way(crowd: float) -> bool:
    """Whether other programs that use so many cores leave fewer than the threads of this process need."""
    return crowd > (psutil.cpu_count() or 1) - torch.get_num_threads() + CROWD_TOLERANCE


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak memory of this process on a device, or None if it is unknown.

    On a CUDA device it is PyTorch's allocations; on a CPU the resident memory of the whole process, with Python and
    imported packages, but without child processes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes() if device.type == "cpu" else None


def _is_measurement(value: object, of: Collection[str]) -> bool:
    numbers = [value] if not of else [value.get(name) for name in of] if isinstance(value, dict) else [None]
    return all(isinstance(number, int | float) and 0 < number < 1e30 for number in numbers)


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
