"""What the processes of a run send each other, as a function of its settings: tests count it in real runs.

Not counted are agreements on decisions, which are a few hundred bytes now and then: before an evaluation, a save or a
line of the log.

All tensors are float32, but the matrices that Muon exchanges are in the number format in which it orthogonalizes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quillgpt.config.schema import ChosenSettings
from quillgpt.distributed import World
from quillgpt.distributed.shards import held_values
from quillgpt.distributed.world import default_backend
from quillgpt.model import GPT
from quillgpt.model.cost import FLOAT32_BYTES
from quillgpt.optim.groups import ParameterGroups, group_parameters
from quillgpt.optim.linear_maps import maps_by_owner, maps_of
from quillgpt.optim.optimizers import orthogonalization_dtype, remembered_values

FLOAT64_BYTES = 8

VOTES = 4
"""Numbers of the small all-reduce of an iteration: the loss, and whether to stop, to save, and to change the length."""

FIRST_BUCKET_BYTES, BUCKET_BYTES = 1 << 20, 25 << 20
"""Bytes of gradients after which DistributedDataParallel sends a bucket."""

Operation = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all"]


@dataclass(frozen=True)
class Message:
    """A collective operation that all ranks take part in.

    Attributes:
        purpose: What it is for.
        operation: Its kind.
        payload: Bytes of the whole tensor that is summed up, gathered or scattered; of an all-to-all, the bytes that
            this rank gives to others.
        count: How many of these there are. If they differ in size, `payload` is their mean.
    """

    purpose: str
    operation: Operation
    payload: float
    count: int = 1

    def sent(self, size: int) -> float:
        """Return the bytes that a rank of `size` ranks sends for all of them, by the ring algorithms.

        No algorithm sends less, if each rank sends as much as every other.
        """
        rounds = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}.get(self.operation)
        share = 1.0 if rounds is None else rounds * (size - 1) / size
        return share * self.payload * self.count


@dataclass(frozen=True)
class Interconnect:
    """How fast a rank sends.

    Attributes:
        bytes_per_second: Its rate in long messages.
        latency_seconds: What each doubling of the ranks adds to any message, as in a tree.
        sharing: How many ranks share this connection in an all-to-all; in a ring, only one of them uses it.
    """

    bytes_per_second: float
    latency_seconds: float
    sharing: int = 1

    def seconds(self, messages: Iterable[Message], size: int) -> float:
        """Return the time of some messages, one after the other, among `size` ranks."""
        sent = count = 0.0
        for message in messages:
            sent += message.sent(size) * (self.sharing if message.operation == "all-to-all" else 1)
            count += message.count
        return sent / self.bytes_per_second + count * self.latency_seconds * math.ceil(math.log2(max(1, size)))


ASSUMED_WITHIN_A_MACHINE = {"nccl": Interconnect(50e9, 10e-6), "gloo": Interconnect(1e9, 100e-6)}
"""GPUs with a connection of their own, such as an older NVLink; and processes on the cores of a CPU."""

ASSUMED_BETWEEN_MACHINES = Interconnect(1.25e9, 100e-6)
"""Ethernet of 10 Gbit/s."""


def assumed_interconnect(world: World, device: torch.device, backend: str) -> tuple[Interconnect, str]:
    """Return how fast ranks are assumed to send, and what that is in words.

    Args:
        world: The ranks.
        device: Where they compute.
        backend: The setting.
    """
    if world.size > world.local_size:
        return ASSUMED_BETWEEN_MACHINES, "Ethernet of 10 Gbit/s between machines"
    library = default_backend(device) if backend == "auto" else backend
    interconnect = ASSUMED_WITHIN_A_MACHINE[library]
    return interconnect, f"{library} within a machine at {interconnect.bytes_per_second / 1e9:g} GB/s"


def total_sent(messages: Iterable[Message], size: int) -> float:
    """Return the bytes that a rank of `size` ranks sends in some messages."""
    return sum(message.sent(size) for message in messages)


def of_iteration(model: GPT, settings: ChosenSettings, world: World) -> list[Message]:
    """Return the messages of an iteration in which this rank takes part.

    Args:
        model: The model with whole tensors, which may be on the device `meta`.
        settings: The run's.
        world: The ranks.
    """
    if world.size == 1:
        return []
    sharded = settings.strategy == "fsdp"
    groups = group_parameters(model)
    micro_batches = math.ceil(settings.sequences_per_iteration // world.size / settings.micro_batch_size)
    messages = _of_shards(model, world, micro_batches) if sharded else _of_replicas(groups)
    messages.append(Message("loss and votes", "all-reduce", FLOAT32_BYTES * VOTES))
    if sharded:
        messages.append(Message("norm of the gradient", "all-reduce", FLOAT32_BYTES))
    if settings.optimizer == "muon":
        messages += _of_muon(groups, world, orthogonalization_dtype(settings).itemsize, sharded=sharded)
    return messages


def of_busiest_rank(model: GPT, settings: ChosenSettings, size: int) -> list[Message]:
    """Return the messages of an iteration for that of `size` ranks which sends most: only in Muon they differ."""
    ranks = range(size if settings.optimizer == "muon" else 1)
    worlds = (World(rank, size, rank, size) for rank in ranks)
    return max((of_iteration(model, settings, world) for world in worlds), key=lambda each: total_sent(each, size))


def of_evaluation(model: GPT, settings: ChosenSettings, world: World, blocks: Sequence[int]) -> list[Message]:
    """Return the messages of an evaluation.

    Args:
        model: The model with whole tensors.
        settings: The run's.
        world: The ranks.
        blocks: The blocks of each split that is evaluated.
    """
    if world.size == 1:
        return []
    batches = [math.ceil(math.ceil(count / world.size) / settings.batch_size) for count in blocks]
    messages = [
        Message("whether to stop", "all-reduce", FLOAT32_BYTES, sum(batches)),
        Message("loss of a split", "all-reduce", FLOAT64_BYTES, len(batches)),
    ]
    if settings.strategy == "fsdp":
        rest, *each_block = (padded_bytes(unit, world.size) for unit in gathered_together(model))
        messages.append(Message("weights of no block", "all-gather", rest, len(batches)))
        messages.append(_mean("weights of the blocks", "all-gather", each_block * sum(batches)))
    return messages


def of_save(model: GPT, settings: ChosenSettings, world: World) -> list[Message]:
    """Return the messages of a save, in which FSDP gathers tensor by tensor.

    Args:
        model: The model with whole tensors.
        settings: The run's.
        world: The ranks.
    """
    if world.size == 1 or settings.strategy != "fsdp":
        return []
    groups = group_parameters(model)
    remembered = remembered_values(groups, settings)
    tensors = [(tensor, 1) for tensor in model.state_dict().values()]  # a tied embedding is read as the head too
    tensors += [(parameter, remembered[name] // parameter.numel()) for name, parameter in groups.trained.items()]
    if settings.ema_decay or settings.lora_rank:  # the trained weights are kept apart
        tensors += [(parameter, 1) for parameter in groups.trained.values()]
    if settings.lora_rank:  # and the adapters in a file of their own
        tensors += [(parameter, 1) for parameter in groups.trained.values()]
    sizes = [padded_bytes([tensor], world.size) for tensor, count in tensors for _ in range(count)]
    return [_mean("tensors of the checkpoint", "all-gather", sizes)]


def gathered_together(model: GPT) -> list[list[Tensor]]:
    """Return the parameters that FSDP gathers at once: first those of no block, then those of each block."""
    blocks: list[list[Tensor]] = [list(block.parameters()) for block in model.blocks]
    in_blocks = {parameter for block in blocks for parameter in block}
    return [[parameter for parameter in model.parameters() if parameter not in in_blocks], *blocks]


def padded_bytes(tensors: Iterable[Tensor], size: int) -> int:
    """Return the bytes of tensors that `size` ranks gather: each sends as many rows as the first holds."""
    return FLOAT32_BYTES * size * sum(held_values(tensor, 0, size) for tensor in tensors)


def bucket_count(sizes: Iterable[int]) -> int:
    """Return how many buckets DistributedDataParallel makes of gradients of so many bytes, the last one first."""
    count, filled, limit = 0, 0, FIRST_BUCKET_BYTES
    for size in sizes:
        filled += size
        if filled >= limit:
            count, filled, limit = count + 1, 0, BUCKET_BYTES
    return count + (filled > 0)


def _of_replicas(groups: ParameterGroups) -> list[Message]:
    sizes = [FLOAT32_BYTES * parameter.numel() for parameter in groups.trained.values()]
    buckets = bucket_count(reversed(sizes))
    return [Message("gradients", "all-reduce", sum(sizes) / buckets, buckets)]


def _of_shards(model: GPT, world: World, micro_batches: int) -> list[Message]:
    """Return FSDP's messages: for each micro-batch, blocks are gathered twice, as the backward pass needs them too."""
    units = gathered_together(model)
    rest, *blocks = (padded_bytes(unit, world.size) for unit in units)
    trained = (padded_bytes((each for each in unit if each.requires_grad), world.size) for unit in units)
    return [
        Message("weights of no block", "all-gather", rest, micro_batches),
        _mean("weights of the blocks", "all-gather", blocks * 2 * micro_batches),
        _mean("gradients", "reduce-scatter", [size for size in trained if size] * micro_batches),
    ]


def _of_muon(groups: ParameterGroups, world: World, itemsize: int, *, sharded: bool) -> list[Message]:
    """Return Muon's messages: matrices go to the ranks that orthogonalize them, if they are in parts, and come back."""
    maps = [
        linear_map
        for number, (name, matrix) in enumerate(groups.block_matrices.items())
        for linear_map in maps_of(number, matrix.shape, groups.fused_maps.get(name), sharded=sharded)
    ]
    own = maps_by_owner(maps, world.size)[world.rank]
    others_of_own, own_of_others = 0, 0
    for number, linear_map in enumerate(maps):
        held = len(linear_map.held_by(world.rank, world)) * linear_map.columns
        if number not in own:
            own_of_others += held
        elif sharded:
            others_of_own += len(linear_map.rows) * linear_map.columns - held
        else:
            others_of_own += (world.size - 1) * held
    messages = [Message("Muon's directions", "all-to-all", itemsize * others_of_own)]
    if sharded:
        messages.append(Message("Muon's matrices", "all-to-all", itemsize * own_of_others))
    return messages


def _mean(purpose: str, operation: Operation, sizes: Sequence[int]) -> Message:
    """Return one entry for messages of different sizes."""
    return Message(purpose, operation, sum(sizes) / max(1, len(sizes)), len(sizes))
