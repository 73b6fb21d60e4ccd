"""Fully sharded data parallelism: each rank holds some rows of every tensor, and computes its part of every batch.

By torch's fully_shard (Zhao et al. 2023, arXiv 2304.11277; in its second version, FSDP2). The ranks gather the weights
of a block when it is computed, and drop them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from quillgpt.distributed.world import World


def shard(model: nn.Module, blocks: Iterable[nn.Module], world: World, device: torch.device) -> None:
    """Divide the weights of a model between the ranks.

    Args:
        model: The model, equal on all ranks.
        blocks: The modules whose weights are gathered together; those of none are gathered first and stay longest.
        world: The ranks.
        device: Where the weights go.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world.size,))
    # The embedding is tied to the head, which comes last: the backward pass needs it at once.
    for module, reshard in [*((block, True) for block in blocks), (model, False)]:
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
        # A rank's loss is a part of that of the global batch, so gradients are summed and not averaged.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def drop_gathered(model: nn.Module) -> None:
    """Drop the weights that a forward pass has gathered and no backward pass drops: they would not follow updates."""
    if (reshard := getattr(model, "reshard", None)) is not None:
        reshard()
