"""The automatic choices of a run: made once, by measurement, and written down as values.

A resumed run takes them from its checkpoint, so it is the same run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from rich.filesize import decimal

from quillgpt.attention import Attend
from quillgpt.config.schema import ChosenSettings, TrainSettings
from quillgpt.console import say, warn
from quillgpt.device import (
    choose_device,
    choose_dtype,
    choose_threads,
    compute_deterministically,
    device_description,
    dtype_rates,
    keep_freed_memory,
    memory,
    return_freed_memory,
    seconds_per_call,
)
from quillgpt.distributed import ALONE, World
from quillgpt.errors import ConfigError
from quillgpt.measuring import Allowance, OutOfTimeError, remember
from quillgpt.model import GPTConfig, attention_paths, count_parameters
from quillgpt.native import compiled_folder, why_unavailable
from quillgpt.process import usable_cores
from quillgpt.training.start.memory import fits, memory_needed, memory_of_rank

CPU_TOKENS_AT_ONCE = 4096
"""Tokens of a micro-batch on a CPU: activations stay near the cores, and matrix products are still large."""

TOKENS_AT_ONCE = {"cpu": CPU_TOKENS_AT_ONCE, "cuda": 49_152}
"""Tokens of a micro-batch by kind of device, if there is memory. An H100 is a tenth slower at GPT-2 with 12,288."""

LARGEST_RECORDED = 5e10
"""Parameters times tokens of a micro-batch up to which launching kernels takes a big GPU longer than computing them."""

NEVER_SECONDS = 1e9

SHARE_OF_PATHS = 0.25
"""Share of the time for measurements that trying the paths of attention may take."""

CALLS_OF_A_PATH = 3
"""Calls that tell its time: one warms up."""

LARGEST_ERROR = 0.02
"""Largest relative difference of two paths in bfloat16; above it, one of them is wrong."""

EXPECTED_UTILISATION = 0.3
"""Share of the peak rate that training reaches uncompiled: small models reach less, large ones more."""


@dataclass(frozen=True)
class Machine:
    """What a run computes on.

    Attributes:
        device: The device.
        dtype: The number format.
        world: The processes that train it.
        allowance: The time for measuring them.
        reasons: Why settings that nobody has set have their values, by their names; kept with the run.
    """

    device: torch.device
    dtype: torch.dtype
    world: World = ALONE
    allowance: Allowance = field(default_factory=Allowance, compare=False)
    reasons: dict[str, str] = field(default_factory=dict, compare=False)

    def because(self, reason: str, *names: str) -> None:
        """Note why settings have the values that were chosen for them."""
        self.reasons.update(dict.fromkeys(names, reason))

    @property
    def description(self) -> str:
        """The device in words."""
        return f"{self.device} ({device_description(self.device)})"


def device_of(settings: TrainSettings, world: World) -> torch.device:
    """Return the device that this rank computes on: of several ranks on a machine with GPUs, each has one.

    Raises:
        DeviceError: It does not exist.
    """
    device = choose_device(settings.device)
    if device.type == "cuda" and world.size > 1:
        return choose_device(f"cuda:{world.local_rank}")
    return device


def choose_machine(settings: TrainSettings, world: World = ALONE) -> tuple[TrainSettings, Machine]:
    """Choose threads, device and dtype, and return the settings with these values in place of `auto`."""
    compiled_folder(compiling=settings.compile is not False)
    threads = choose_threads(settings.threads, processes=world.local_size)
    compute_deterministically(settings.deterministic)
    device = device_of(settings, world)
    if settings.strategy == "fsdp" and settings.dtype == "float16" and world.size > 1:
        raise ConfigError("strategy = fsdp does not scale the gradients of dtype = float16; use bfloat16, or ddp")
    allowance = Allowance(settings.minutes)
    dtype = choose_dtype(settings.dtype, device, allowance)
    if settings.cuda_graph is True and dtype == torch.float16:
        raise ConfigError("cuda_graph = true, but the scaler of dtype = float16 waits for each step; use bfloat16")
    if settings.cuda_graph is True and world.size > 1:
        raise ConfigError(f"cuda_graph = true records one process, and {world.size} train; use --cuda_graph=False")
    if device.type == "cpu" and settings.strategy == "fsdp" and world.size > 1:
        return_freed_memory()  # of weights that are gathered and dropped again
    elif device.type == "cpu":
        keep_freed_memory()
    machine = Machine(device, dtype, world, allowance)
    if settings.threads is None:
        cores = f"this process may use {usable_cores()} cores"
        machine.because(cores + (f", of {world.local_size} processes" if world.local_size > 1 else ""), "threads")
    if settings.device == "auto":
        machine.because(f"the fastest device here: {device_description(device)}", "device")
    if settings.dtype == "auto":
        rates = {str(name).removeprefix("torch."): rate / 1e12 for name, rate in dtype_rates(device, allowance).items()}
        machine.because(
            "measured: " + ", ".join(f"{rate:.2g} TFLOP/s in {name}" for name, rate in rates.items()), "dtype"
        )
    name = str(device) if world.size == 1 else device.type
    chosen = {"threads": threads, "device": name, "dtype": str(dtype).removeprefix("torch.")}
    return settings.model_copy(update=chosen), machine


def choose_paths(
    settings: TrainSettings, config: GPTConfig, machine: Machine, *, measuring: bool = True
) -> ChosenSettings:
    """Choose micro-batch, attention path and CUDA graph, and return the settings with these values.

    Args:
        settings: The run's.
        config: Configuration of its model.
        machine: What it runs on.
        measuring: Try the paths, for which there must be memory; else the usual one is taken.
    """
    given = settings.micro_batch_size
    at_once = _fastest_micro_batch(settings, machine) if given == "auto" else given
    if given == "auto":
        most = TOKENS_AT_ONCE.get(machine.device.type, 0)
        machine.because(
            f"up to {most:,} tokens at once, where so many are in an iteration: more are no faster", "micro_batch_size"
        )
    why_not_fused = _why_not_fused(settings, config, machine, building=measuring)
    if settings.attn_path == "fused" and why_not_fused:
        others = attention_paths(config.kernel, block_size=config.block_size, dropout=settings.dropout > 0)
        raise ConfigError(f"attn_path = fused does not work here: {why_not_fused}; give {' or '.join(others)}")
    if settings.attn_path == "auto" and not why_not_fused:
        machine.because("each block is computed as one step, which is the fastest way on a CPU", "attn_path")
        settings = settings.model_copy(update={"attn_path": "fused"})
    elif settings.attn_path == "auto":
        usual = next(iter(attention_paths(config.kernel, block_size=config.block_size, dropout=settings.dropout > 0)))
        attn_path = _fastest_attention(config, at_once, settings.dropout, machine) if measuring else usual
        settings = settings.model_copy(update={"attn_path": attn_path})
    if given == "auto":
        at_once = _fitting_micro_batch(settings, config, machine, at_once)
    chosen = {"micro_batch_size": at_once, "cuda_graph": _records_graph(settings, config, machine, at_once)}
    return ChosenSettings.of(settings.model_copy(update=chosen))


def _records_graph(settings: TrainSettings, config: GPTConfig, machine: Machine, at_once: int) -> bool:
    """Whether an iteration is recorded as a CUDA graph: as the setting says, or where its kernels are short."""
    if settings.cuda_graph != "auto":
        return settings.cuda_graph
    possible = machine.world.size == 1 and machine.dtype != torch.float16 and not settings.gradient_checkpointing
    work = count_parameters(config, positions=False) * at_once * settings.block_size
    if machine.device.type == "cuda":
        limit = f"up to {LARGEST_RECORDED:.0e} it pays where one process trains in another format than float16"
        machine.because(f"parameters times tokens at once are {work:.1e}; {limit}", "cuda_graph")
    else:
        machine.because("only GPUs of Nvidia record graphs", "cuda_graph")
    return machine.device.type == "cuda" and possible and work <= LARGEST_RECORDED


def _why_not_fused(settings: TrainSettings, config: GPTConfig, machine: Machine, *, building: bool) -> str | None:
    """Return why the run's blocks cannot be computed as one step; None if they can, and then that is the fastest.

    Args:
        settings: The run's.
        config: Configuration of its model.
        machine: What it runs on.
        building: Compile the kernels; else a compiler is enough.
    """
    if settings.attn_path not in ("auto", "fused"):
        return "another path is given"
    if machine.device.type != "cpu":
        return "its kernels are for CPUs"
    if not config.fusible:
        return "it is for softmax attention"
    if settings.lora_rank:
        return "it trains no adapters"
    if settings.strategy == "fsdp" and machine.world.size > 1:
        return "strategy = fsdp divides the weights"
    return why_unavailable(machine.dtype, building=building)


def _fastest_micro_batch(settings: TrainSettings, machine: Machine) -> int:
    total = _sequences_of_a_rank(settings, machine)
    least = 1 if machine.device.type == "cpu" else min(settings.batch_size, total)
    most = min(total, TOKENS_AT_ONCE.get(machine.device.type, 0) // settings.block_size)
    return next((size for size in range(most, least, -1) if total % size == 0), least)


def _sequences_of_a_rank(settings: TrainSettings, machine: Machine) -> int:
    rows = range(settings.sequences_per_iteration)
    return len(rows[machine.world.slice_of(len(rows))])


def _fitting_micro_batch(settings: TrainSettings, config: GPTConfig, machine: Machine, most: int) -> int:
    """Return the largest micro-batch of at most `most` sequences that fits into the memory; at least one sequence."""
    available = memory_of_rank(memory(machine.device), machine.device, machine.world)
    needed = memory_needed(settings, config, device=machine.device, dtype=machine.dtype, world=machine.world)
    total = _sequences_of_a_rank(settings, machine)
    sizes = [size for size in range(most, 0, -1) if size == most or total % size == 0]
    fitting = next((size for size in sizes if fits(needed(size), available)), 1)
    if fitting < most:
        reason = f"computing {fitting} sequences at once instead of {most}: the memory has no room for more"
        machine.because(reason, "micro_batch_size")
        say(reason)
    if available is not None and not fits(needed(fitting), available):
        recompute = "" if settings.gradient_checkpointing else "--gradient_checkpointing, "
        warn(
            f"a step needs about {decimal(needed(fitting).total)}, {decimal(available.free)} are free; "
            f"less take --block_size, {recompute}--lora_rank where a model is finetuned, or a smaller model"
        )
    return fitting


def _fastest_attention(config: GPTConfig, batch_size: int, dropout: float, machine: Machine) -> str:
    paths = attention_paths(config.kernel, block_size=config.block_size, dropout=dropout > 0)
    machine.because("usually the fastest way here", "attn_path")
    if config.kernel.type.family == "SM":
        if machine.device.type != "cpu":
            return "sdpa"
        if dropout:
            return "explicit"  # which `sdpa` leaves the work to
    sequences = min(batch_size, max(1, CPU_TOKENS_AT_ONCE // config.block_size))  # the order is that of more, too
    sizes = (config.n_head, config.block_size, config.head_dim)
    key = f"attention {config.kernel} {machine.description} {(sequences, *sizes)} {machine.dtype} dropout {dropout > 0}"
    usual = next(iter(paths))

    def seconds_of(name: str, sequences: int, within: float) -> float:
        attend = paths[name]
        inputs = [
            torch.randn(sequences, *sizes, dtype=machine.dtype, device=machine.device, requires_grad=True)
            for _ in range(3)
        ]
        seeds = torch.zeros(sequences, dtype=torch.int64, device=machine.device)

        def forward_and_backward() -> None:
            attend(*inputs, dropout, None, seeds).sum().backward()  # type: ignore[call-arg, arg-type, no-untyped-call]

        try:
            right = name != "triton" or _agree(attend, paths[usual], inputs)
            return seconds_per_call(forward_and_backward, machine.device, within) if right else NEVER_SECONDS
        except Exception as error:  # a GPU's kernel can fail in any way; then it is not chosen
            if name == usual:
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            warn(f"attn_path = {name} does not work here ({reason}); another is taken")
            return NEVER_SECONDS

    def measure() -> dict[str, float]:
        """Try one sequence, and from its time as many as there is time for."""
        with machine.allowance.spending(SHARE_OF_PATHS) as seconds:
            if seconds <= 0:
                raise OutOfTimeError
            started = time.perf_counter()
            one = CALLS_OF_A_PATH * len(paths) * seconds_of(usual, 1, seconds / len(paths))
            left = seconds - (time.perf_counter() - started)
            if one > left:
                raise OutOfTimeError
            fitting = min(sequences, int(left / one))
            return {name: seconds_of(name, fitting, left / len(paths)) for name in paths}

    try:
        times = remember(f"{key} {torch.get_num_threads()} threads", measure, of=paths)
    except OutOfTimeError:
        reason = "by rule: there was no time to measure"
        machine.because(reason, "attn_path")
        say(f"attn_path = {usual} {reason}")
        return usual
    compared = ", ".join(
        f"{1000 * seconds:.3g} ms with {name}" for name, seconds in times.items() if seconds < NEVER_SECONDS
    )
    machine.because(f"measured: {compared}", "attn_path")
    return min(paths, key=lambda name: times[name])


def _agree(attend: Attend, other: Attend, inputs: list[torch.Tensor]) -> bool:
    """Whether two paths give nearly the same results and gradients."""
    outcomes = []
    for path in (attend, other):
        result = path(*inputs, 0.0)  # type: ignore[call-arg, arg-type]
        outcomes.append([result, *torch.autograd.grad(result.float().square().sum(), inputs)])
    errors = [(own - truth).float().norm() / truth.float().norm() for own, truth in zip(*outcomes, strict=True)]
    return bool(torch.stack(errors).max() <= LARGEST_ERROR)
