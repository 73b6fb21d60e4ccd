"""The memory that an iteration needs on each rank, and whether it is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from rich.filesize import decimal
from torch import Tensor

from quillgpt.config.schema import TrainSettings
from quillgpt.device import Memory, most_memory
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.shards import held_values
from quillgpt.errors import ConfigError
from quillgpt.model import GPT, GPTConfig, count_parameters, empty_model
from quillgpt.model.cost import FLOAT32_BYTES, TrainingMemory, training_memory
from quillgpt.model.loss import TOKENS_AT_ONCE, is_in_parts
from quillgpt.optim.groups import ParameterGroups, group_parameters
from quillgpt.optim.optimizers import remembered_values
from quillgpt.training.planning.communication import gathered_together
from quillgpt.training.start.adapter_base import with_adapters

HALF_BYTES, INDEX_BYTES = 2, 8
"""Bytes of the smallest number format, and of a token id or a position."""

CPU = torch.device("cpu")

USABLE_SHARE = 0.9
"""Share of the free memory that may be planned with."""


def memory_needed(
    settings: TrainSettings, config: GPTConfig, *, device: torch.device, dtype: torch.dtype, world: World = ALONE
) -> Callable[[int], TrainingMemory]:
    """Return a function from the sequences of a micro-batch to the memory that an iteration needs on a rank.

    Args:
        settings: The run's, with the attention path chosen.
        config: Configuration of the model.
        device: Where it is trained.
        dtype: Number format of the products.
        world: The processes that train it. The first rank counts, which holds at least as much as the others.
    """
    config = replace(config, block_size=settings.block_size)
    model = with_adapters(empty_model(config), settings)
    groups = group_parameters(model)
    remembered = remembered_values(groups, settings)
    taught = settings.teachers is not None or settings.teacher_iters > 0

    def needed(sequences: int) -> TrainingMemory:
        tokens = sequences * config.block_size
        memory = training_memory(
            config,
            parameters=model.parameter_count(),
            trained=sum(parameter.numel() for parameter in groups.trained.values()),
            remembered=sum(remembered.values()),
            averaged=settings.ema_decay > 0,
            sequences=sequences,
            attn_path=settings.attn_path,
            dropout=settings.dropout > 0,
            recomputed=settings.gradient_checkpointing,
            value_bytes=dtype.itemsize,
            gpu=device.type != "cpu",
            in_parts=taught or is_in_parts(tokens, config.vocab_size, device_type=device.type, dtype=dtype),
            head_trained=model.head.weight.requires_grad,
            taught=taught,
            own_teachers=settings.models - 1,
        )
        if world.size > 1 and settings.strategy == "fsdp":
            return divided(memory, model, groups, remembered, world.size, averaged=settings.ema_decay > 0)
        return memory

    return needed


def divided(
    memory: TrainingMemory,
    model: GPT,
    groups: ParameterGroups,
    remembered: Mapping[str, int],
    size: int,
    *,
    averaged: bool,
) -> TrainingMemory:
    """Return the memory of an iteration on the first of `size` ranks that share the weights.

    Gathered are the weights of no block, and those of two blocks: one that is computed, and the next. In the backward
    pass there are also the gradients of no block, and of one block with a copy that is sent; or at its end, those of no
    block with such a copy. Copies of weights in 16 bits are not divided, as autograd keeps them for the backward pass.

    Args:
        memory: What the iteration would need in one process.
        model: The model, with whole tensors.
        groups: Its parameters.
        remembered: The values that the optimizer keeps of each parameter.
        size: How many ranks there are.
        averaged: Whether an average of the weights is kept.
    """

    def padded(tensors: Iterable[Tensor]) -> int:
        return size * sum(held_values(tensor, 0, size) for tensor in tensors)

    rest, *blocks = gathered_together(model)
    trained_rest, *trained_blocks = ([each for each in unit if each.requires_grad] for unit in (rest, *blocks))
    two_blocks = sum(sorted(map(padded, blocks))[-2:]) + 2 * max(map(padded, trained_blocks))
    gathered = padded(rest) + padded(trained_rest) + max(two_blocks, padded(trained_rest))
    copies = 2 if averaged else 1
    saved = copies * sum(each.numel() - held_values(each, 0, size) for each in model.parameters())
    return replace(
        memory,
        weights=memory.weights - FLOAT32_BYTES * saved,
        gradients=FLOAT32_BYTES * sum(held_values(each, 0, size) for each in groups.trained.values()),
        optimizer=FLOAT32_BYTES
        * sum(
            remembered[name] // max(1, each.numel()) * held_values(each, 0, size)
            for name, each in groups.trained.items()
        ),
        gathered=FLOAT32_BYTES * gathered,
    )


def share_of_rank(bytes_there: int, device: torch.device, world: World) -> int:
    """Return the part of a device's memory that one rank has: the ranks of a machine share that of its CPU."""
    return bytes_there // world.local_size if device.type == "cpu" else bytes_there


def memory_of_rank(available: Memory | None, device: torch.device, world: World) -> Memory | None:
    """Return the part of a device's memory that one rank has; None if the device's is unknown."""
    if available is None:
        return None
    total, free = (share_of_rank(number, device, world) for number in (available.total, available.free))
    return replace(available, total=total, free=free)


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
        world: The processes that train it, each on a GPU of its own, or with its part of the machine's memory.
    """
    limit = most_memory(device)
    parts = _least_memory(settings, config, world, device)
    least = sum(parts.values())
    if limit is None or least <= share_of_rank(limit, device, world):
        return None
    largest = max(parts, key=lambda name: parts[name])
    who, less = "the run", "a smaller model, vocabulary, context or batch"
    if world.size > 1:
        who = f"each of {world.size} processes"
        less = f"{'' if settings.strategy == 'fsdp' else '--strategy=fsdp, '}fewer processes here, or {less}"
    shared = f", which {world.local_size} processes share" if device.type == "cpu" and world.local_size > 1 else ""
    return ConfigError(
        f"{who} needs at least {decimal(least)} of memory, {decimal(parts[largest])} of them for {largest}, "
        f"and {device} has {decimal(limit)}{shared}; choose {less}"
    )


def least_remembered(settings: TrainSettings, config: GPTConfig) -> int:
    """Return how many values the optimizer remembers of every parameter; of some it may remember more."""
    groups = group_parameters(empty_model(replace(config, n_layer=1)))
    values = remembered_values(groups, settings)
    return min(values[name] // parameter.numel() for name, parameter in groups.trained.items())


def _least_memory(
    settings: TrainSettings, config: GPTConfig, world: World = ALONE, device: torch.device = CPU
) -> dict[str, int]:
    """Return the bytes that a rank of a run needs at least, by their purpose."""
    parameters = count_parameters(config)
    trains = not settings.eval_only and (settings.max_iters > 0 or settings.minutes is not None)
    trained = parameters if trains and not settings.lora_rank else 0
    remembered = trained * least_remembered(settings, config) if trained else 0
    copies = 2 if settings.ema_decay else 1
    at_once = 1 if settings.micro_batch_size == "auto" else settings.micro_batch_size
    at_once = min(at_once, math.ceil(settings.sequences_per_iteration / world.size))
    rotations = 2 * config.block_size * config.head_dim if trains and config.architecture.positions == "rotary" else 0
    copies += settings.models - 1
    values = copies * parameters + trained + remembered  # trained: a gradient for each
    if settings.strategy == "fsdp":  # at its start, each process still has the whole model
        values = max(copies * parameters, values // world.size)
    values += rotations
    needed = {f"a model of {parameters:,} parameters": FLOAT32_BYTES * values}
    if trains:
        tokens = at_once * settings.block_size
        described = f"{at_once:,} x {settings.block_size:,}"
        if is_in_parts(tokens, config.vocab_size, device_type=device.type, dtype=torch.bfloat16):
            tokens = min(tokens, TOKENS_AT_ONCE)
            described = f"{tokens:,}"
        needed[f"the logits of {described} tokens over {config.vocab_size:,} others"] = (
            HALF_BYTES * tokens * config.vocab_size
        )
        batch = f"a batch of {settings.sequences_per_iteration:,} sequences"
        needed[batch] = INDEX_BYTES * settings.sequences_per_iteration * (settings.block_size + 1)
    return needed
