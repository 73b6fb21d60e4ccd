"""Tensors of which each rank holds some rows, as torch's fully_shard divides them.

Everything here takes whole tensors too, and then returns what it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quillgpt.distributed.world import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # importing it takes a second, which one process does not need


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds some rows of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return all values of a tensor; all ranks must call it together."""
    sharded: DTensor = tensor.detach()  # type: ignore[assignment]
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def own_rows(tensor: Tensor) -> Tensor:
    """Return the rows of a tensor that this rank holds, in the same memory."""
    sharded: DTensor = tensor.detach()  # type: ignore[assignment]
    return sharded.to_local() if is_sharded(tensor) else tensor


def rows_of(rank: int, size: int, rows: int) -> range:
    """Return which of the rows of a tensor a rank of `size` ranks holds; the last ranks may hold fewer, or none."""
    share = -(-rows // size)
    return range(min(rank * share, rows), min((rank + 1) * share, rows))


def divided_like(value: Tensor, model: Tensor, world: World) -> Tensor:
    """Return a copy of a whole tensor, divided between the ranks as another one of its shape is, and on its device."""
    if not is_sharded(model) or not value.ndim:
        return value.to(model.device, copy=True)
    from torch.distributed.tensor import DTensor

    sharded: DTensor = model  # type: ignore[assignment]
    rows = rows_of(world.rank, world.size, len(value))
    own = value[rows.start : rows.stop].to(model.device, copy=True)
    return DTensor.from_local(
        own, sharded.device_mesh, sharded.placements, run_check=False, shape=sharded.shape, stride=sharded.stride()
    )


@torch.no_grad()
def fill(model: nn.Module, values: Iterable[tuple[str, Tensor]], world: World) -> None:
    """Give tensors of a module, by name, the values of whole tensors, of which each rank takes its rows."""
    targets = model.state_dict()
    for name, value in values:
        target = targets[name]
        rows = rows_of(world.rank, world.size, len(target)) if is_sharded(target) else range(len(target))
        own_rows(target).copy_(value[rows.start : rows.stop])


Matrices = Sequence[Sequence[Tensor]]


def exchange(given: Matrices, shapes: Sequence[Sequence[tuple[int, int]]], like: Tensor) -> Matrices:
    """Send matrices to each rank, and return those that each rank has sent to this one.

    Args:
        given: The matrices for each rank, of the number format and on the device of `like`.
        shapes: Rows and columns of the matrices that each rank sends to this one.
        like: Any tensor.
    """
    flat = [matrix.reshape(-1) for matrices in given for matrix in matrices]
    sent = torch.cat(flat) if flat else like.new_empty(0)
    sizes = [sum(rows * columns for rows, columns in of_rank) for of_rank in shapes]
    received = like.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, [sum(matrix.numel() for matrix in matrices) for matrices in given])
    return [
        [
            values.view(shape)
            for values, shape in zip(
                torch.split(part, [rows * columns for rows, columns in of_rank]), of_rank, strict=True
            )
        ]
        for part, of_rank in zip(torch.split(received, sizes), shapes, strict=True)
    ]
