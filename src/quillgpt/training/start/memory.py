"""The memory that an iteration needs, and how many sequences fit into a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from rich.filesize import decimal

from quillgpt.config.schema import TrainSettings
from quillgpt.device import Memory, most_memory
from quillgpt.distributed import ALONE, World
from quillgpt.errors import ConfigError
from quillgpt.model import GPTConfig, count_parameters, empty_model
from quillgpt.model.cost import FLOAT32_BYTES, TrainingMemory, training_memory
from quillgpt.optim.groups import group_parameters
from quillgpt.optim.optimizers import remembered_values
from quillgpt.training.start.adapter_base import with_adapters

HALF_BYTES, INDEX_BYTES = 2, 8
"""Bytes of the smallest number format, and of a token id or a position."""

USABLE_SHARE = 0.9
"""Share of the free memory that may be planned with."""


def memory_needed(
    settings: TrainSettings, config: GPTConfig, *, device: torch.device, dtype: torch.dtype
) -> Callable[[int], TrainingMemory]:
    """Return a function from the sequences of a micro-batch to the memory that an iteration needs.

    Args:
        settings: The run's, with the attention path chosen.
        config: Configuration of the model.
        device: Where it is trained.
        dtype: Number format of the products.
    """
    config = replace(config, block_size=settings.block_size)
    model = with_adapters(empty_model(config), settings)
    groups = group_parameters(model)
    remembered = sum(remembered_values(groups, settings).values())

    def needed(sequences: int) -> TrainingMemory:
        return training_memory(
            config,
            parameters=model.parameter_count(),
            trained=sum(parameter.numel() for parameter in groups.trained.values()),
            remembered=remembered,
            averaged=settings.ema_decay > 0,
            sequences=sequences,
            attn_path=settings.attn_path,
            dropout=settings.dropout > 0,
            recomputed=settings.gradient_checkpointing,
            value_bytes=dtype.itemsize,
            gpu=device.type != "cpu",
        )

    return needed


def fits(needed: TrainingMemory, available: Memory | None) -> bool:
    """Whether an iteration fits into the free memory; it does where that is unknown."""
    return available is None or needed.total <= USABLE_SHARE * available.free


def check_memory(settings: TrainSettings, config: GPTConfig, device: torch.device, world: World = ALONE) -> None:
    """Check that a run may fit into the memory, before anything large is made.

    Raises:
        ConfigError: It cannot; see `lack_of_memory`.
    """
    if (lack := lack_of_memory(settings, config, device, world)) is not None:
        raise lack


def lack_of_memory(
    settings: TrainSettings, config: GPTConfig, device: torch.device, world: World = ALONE
) -> ConfigError | None:
    """Return the error of a run that cannot fit into the memory; None where it may fit.

    Only what every run needs is counted, so that no run is refused that would work.

    Args:
        settings: The run's.
        config: Configuration of its model.
        device: Where it computes.
        world: The processes that train it, each on a device of its own or in its own part of the memory.
    """
    limit = most_memory(device)
    parts = _least_memory(settings, config, world)
    least = sum(parts.values())
    if limit is None or least <= limit:
        return None
    largest = max(parts, key=lambda name: parts[name])
    return ConfigError(
        f"the run needs at least {decimal(least)} of memory, {decimal(parts[largest])} of them for {largest}, "
        f"and {device} has {decimal(limit)}; choose a smaller model, vocabulary, context or batch"
    )


def least_remembered(settings: TrainSettings, config: GPTConfig) -> int:
    """Return how many values the optimizer remembers of every parameter; of some it may remember more."""
    groups = group_parameters(empty_model(replace(config, n_layer=1)))
    values = remembered_values(groups, settings)
    return min(values[name] // parameter.numel() for name, parameter in groups.trained.items())


def _least_memory(settings: TrainSettings, config: GPTConfig, world: World = ALONE) -> dict[str, int]:
    """Return the bytes that a process of a run needs at least, by their purpose."""
    parameters = count_parameters(config)
    trains = not settings.eval_only and (settings.max_iters > 0 or settings.minutes is not None)
    trained = parameters if trains and not settings.lora_rank else 0
    remembered = trained * least_remembered(settings, config) if trained else 0
    copies = 2 if settings.ema_decay else 1
    at_once = 1 if settings.micro_batch_size == "auto" else settings.micro_batch_size
    at_once = min(at_once, settings.sequences_per_iteration)
    rotations = 2 * config.block_size * config.head_dim if trains and config.architecture.positions == "rotary" else 0
    values = copies * parameters + trained + remembered  # trained: a gradient for each
    if settings.strategy == "fsdp":  # at its start, each process still has the whole model
        values = max(copies * parameters, values // world.size)
    values += rotations
    needed = {f"a model of {parameters:,} parameters": FLOAT32_BYTES * values}
    if trains:
        logits = f"the logits of {at_once:,} x {settings.block_size:,} tokens over {config.vocab_size:,} others"
        needed[logits] = HALF_BYTES * at_once * settings.block_size * config.vocab_size
        batch = f"a batch of {settings.sequences_per_iteration:,} sequences"
        needed[batch] = INDEX_BYTES * settings.sequences_per_iteration * (settings.block_size + 1)
    return needed
