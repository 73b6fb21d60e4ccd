"""How fast the interconnect is: sums over all ranks, of growing tensors, as nccl-tests measures them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.filesize import decimal

from quillgpt.console import muted, say
from quillgpt.device import choose_device, synchronize
from quillgpt.distributed import World
from quillgpt.distributed.join import joined
from quillgpt.errors import ConfigError
from quillgpt.training.planning.communication import Message

SECONDS_OF_A_ROUND = 0.3
MOST_SUMS = 200


@dataclass(frozen=True)
class SumResult:
    """The numbers of one size; `--json` prints them under these names.

    Attributes:
        bytes: Size of the tensor.
        microseconds: Time of a sum, the median over the rounds, of the slowest rank.
        algorithm_gigabytes_per_second: The size divided by the time.
        bus_gigabytes_per_second: What each rank sends, divided by the time: the rate of the slowest connection, which
            is to be compared with the hardware's, and does not depend on the number of ranks.
    """

    bytes: int
    microseconds: float
    algorithm_gigabytes_per_second: float
    bus_gigabytes_per_second: float


def bench_allreduce(
    sizes: Sequence[int], rounds: int, *, device: str, backend: str
) -> tuple[World, str, list[SumResult]]:
    """Time sums of float32 tensors over all ranks; all of them call this.

    Args:
        sizes: Bytes of the tensors.
        rounds: Counted rounds of each size.
        device: The setting `device`.
        backend: The setting `backend`.

    Returns:
        The ranks, the device of this one, and the results.

    Raises:
        ConfigError: There is one process only.
    """
    world = World.from_environment()
    if world.size == 1:
        raise ConfigError(
            "one process has nobody to send to; start several: "
            "torchrun --standalone --nproc_per_node=2 -m quillgpt bench allreduce"
        )
    place = choose_device(device)
    if place.type == "cuda":
        place = choose_device(f"cuda:{world.local_rank}")
    with muted(not world.is_main), joined(world, place, backend):
        results = []
        for size in sizes:
            say(f"summing up {decimal(size)} over {world.size} ranks")
            results.append(measure(world, size, rounds, place))
    return world, str(place), results


def measure(world: World, size: int, rounds: int, device: torch.device) -> SumResult:
    """Time the sum of one size."""
    tensor = torch.zeros(max(1, size // 4), device=device)

    def seconds(count: int) -> float:
        """Return the time of one of `count` sums, on the slowest rank."""
        world.gather(None)  # all begin together
        synchronize(device)
        before = time.perf_counter()
        for _ in range(count):
            world.sum(tensor)
        synchronize(device)
        return max(world.gather((time.perf_counter() - before) / count))

    warm = seconds(3)
    count = max(1, min(MOST_SUMS, int(SECONDS_OF_A_ROUND / warm)))
    taken = median(seconds(count) for _ in range(rounds))
    sent = Message("", "all-reduce", tensor.nbytes).sent(world.size)
    return SumResult(tensor.nbytes, taken * 1e6, tensor.nbytes / taken / 1e9, sent / taken / 1e9)


def describe(result: SumResult) -> str:
    """Return a result in words."""
    return (
        f"{result.microseconds:,.0f} us, {result.algorithm_gigabytes_per_second:.3g} GB/s of tensor, "
        f"{result.bus_gigabytes_per_second:.3g} GB/s on the bus"
    )
