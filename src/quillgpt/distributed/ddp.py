"""Data parallelism: each rank holds the whole model, and computes its part of every global batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from quillgpt.distributed.world import World


class Parallel:
    """A module whose gradients are summed over the ranks during the backward pass.

    Here it does nothing for that: in one process there is nothing to sum, and a module that `fsdp.shard` has divided
    sends the gradients of every micro-batch by itself, so that no rank ever holds all of them.

    Args:
        module: The module.

    Attributes:
        scale: What the objective must be multiplied by, so that gradients are summed and not averaged.
        keeps_gradients: Whether gradients stay in the memory from which they are sent. They are set to zero then, and
            not dropped: new ones would be added up beside it.
    """

    scale = 1.0
    keeps_gradients = False

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *arguments: Any) -> Any:
        """Compute the module."""
        return self._module(*arguments)

    def accumulating(self) -> AbstractContextManager[object]:
        """Return a context in which gradients are added up on this rank only, before those of the last micro-batch."""
        return nullcontext()


class Replicas(Parallel):
    """A module that each rank holds, by torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704).

    DDP divides the sum of gradients by the number of ranks. The loss of a rank is a part of the loss of the global
    batch, so its gradient is to be summed: `scale` undoes the division.

    Args:
        module: The module, on its device, equal on all ranks.
        world: The ranks.
        device: The device.
    """

    keeps_gradients = True

    def __init__(self, module: nn.Module, world: World, device: torch.device) -> None:
        self._replica = DistributedDataParallel(
            module,
            device_ids=[device.index or 0] if device.type == "cuda" else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )
        super().__init__(self._replica)
        self.scale = float(world.size)

    def accumulating(self) -> AbstractContextManager[object]:
        """Return a context in which no gradients are sent."""
        return self._replica.no_sync()
