"""The processes that train together, and what they tell each other.

Each process is a rank. In one process, every operation here returns what it was given.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from quillgpt.errors import ConfigError, RankError

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees it.

    Attributes:
        rank: The number of this process, counted from 0.
        size: How many processes there are.
        local_rank: Its number among those on this machine.
        local_size: How many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """Return the world that torchrun describes in the environment; one process where it does not.

        Raises:
            ConfigError: The variables are no numbers, or contradict each other.
        """
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            return ALONE
        rank, size = _number("RANK"), _number("WORLD_SIZE")
        world = cls(rank, size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size))
        if not (0 <= rank < size and 0 <= world.local_rank < world.local_size <= size):
            raise ConfigError(
                f"RANK = {rank}, WORLD_SIZE = {size}, LOCAL_RANK = {world.local_rank} and LOCAL_WORLD_SIZE = "
                f"{world.local_size} contradict each other; torchrun sets them, or unset all for one process"
            )
        return world

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints, logs, writes, and makes the choices."""
        return self.rank == 0

    def slice_of(self, total: int) -> slice:
        """Return this rank's part of `total` things; all parts are equally long.

        Raises:
            ConfigError: `total` does not divide.
        """
        if total % self.size:
            fitting = [n for n in range(1, total + 1) if total % n == 0]
            multiples = [total - total % self.size, total - total % self.size + self.size]
            raise ConfigError(
                f"the global batch has {total} sequences (batch_size * gradient_accumulation_steps), which {self.size} "
                f"processes cannot share evenly; start {_in_words(fitting)} processes, or make it "
                f"{_in_words([number for number in multiples if number])}"
            )
        share = total // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors that the ranks give, on every rank; it may change the one given."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Value | None) -> Value:
        """Return the value that rank 0 gives; the values of the others do not matter."""
        if self.size == 1:
            return value  # type: ignore[return-value]
        values = [value if self.is_main else None]
        dist.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Value] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def main_first(self, name: str) -> Iterator[None]:
        """Let the other ranks wait before the block until rank 0 has left it, however long that takes.

        Args:
            name: Of the block; no other one has it.
        """
        if self.size == 1:
            yield
            return
        store = dist.distributed_c10d._get_default_store()
        if not self.is_main:
            store.wait([name], timedelta(days=365))  # ended by `watch.py` where rank 0 fails or hangs
        try:
            yield
        finally:
            if self.is_main:
                store.set(name, "done")

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """Let the block succeed on all ranks, or fail on all of them.

        Raises:
            RankError: The block failed on another rank; where it failed, its own error is raised.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            failure = error
        message = None if failure is None else str(failure) or type(failure).__name__
        status = 2 if isinstance(failure, ConfigError) else 1  # as the command line has it
        failures = self.gather(message and (message, status, socket.gethostname()))
        if failure is not None:
            raise failure
        for rank, told in enumerate(failures):
            if told:
                message, status, host = told
                raise RankError(f"rank {rank} on {host}: {message}", status, key=message)


ALONE = World()
"""One process."""


def threads_per_process(cores: int, world: World) -> int:
    """Return the threads of each process if those of one machine share its cores; at least one."""
    return max(1, cores // world.local_size)


def default_backend(device: torch.device) -> str:
    """Return the library that carries messages between processes on a kind of device."""
    return "nccl" if device.type == "cuda" else "gloo"


def _number(name: str, otherwise: int | None = None) -> int:
    given = os.environ.get(name, "")
    if given == "" and otherwise is not None:
        return otherwise
    if not (given.isascii() and given.isdecimal()):
        raise ConfigError(f"the environment variable {name} = {given!r}, expected a number; torchrun sets it")
    return int(given)


def _in_words(numbers: list[int]) -> str:
    shown = [*numbers[:6], *([] if len(numbers) <= 6 else [numbers[-1]])]
    return ", ".join(map(str, shown[:-1])) + f" or {shown[-1]}" if len(shown) > 1 else str(shown[0])
