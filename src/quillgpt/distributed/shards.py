"""Tensors of which each rank holds some rows, as torch's fully_shard divides them.

Everything here takes whole tensors too, and then returns what it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # importing it takes a second, which one process does not need


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds some rows of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return all values of a tensor; all ranks must call it together."""
    if not is_sharded(tensor):
        return tensor
    sharded: DTensor = tensor.detach()  # type: ignore[assignment]
    return sharded.full_tensor()


def own_rows(tensor: Tensor) -> Tensor:
    """Return the rows of a tensor that this rank holds, in the same memory."""
    if not is_sharded(tensor):
        return tensor
    sharded: DTensor = tensor.detach()  # type: ignore[assignment]
    return sharded.to_local()


def rows_of(rank: int, size: int, rows: int) -> range:
    """Return which of the rows of a tensor a rank of `size` ranks holds; the last ranks may hold fewer, or none."""
    share = -(-rows // size)
    return range(min(rank * share, rows), min((rank + 1) * share, rows))


def divided_like(value: Tensor, divided: Tensor) -> Tensor:
    """Return a copy of a whole tensor, divided between the ranks as another one of its shape is, and on its device."""
    if not is_sharded(divided) or not value.ndim:
        return value.to(divided.device, copy=True)
    from torch.distributed.tensor import DTensor

    example: DTensor = divided  # type: ignore[assignment]
    own = _own_part(value, divided).to(divided.device, copy=True)
    return DTensor.from_local(
        own, example.device_mesh, example.placements, run_check=False, shape=value.shape, stride=value.stride()
    )


@torch.no_grad()
def fill(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Give tensors of a module, by name, the values of whole tensors, of which each rank takes its rows."""
    tensors = model.state_dict()
    for name, value in values:
        own_rows(tensors[name]).copy_(_own_part(value, tensors[name]))


def _own_part(value: Tensor, divided: Tensor) -> Tensor:
    """Return the rows of a whole tensor that this rank holds of a divided one; all where that is whole too."""
    if not is_sharded(divided):
        return value
    sharded: DTensor = divided  # type: ignore[assignment]
    rows = rows_of(sharded.device_mesh.get_local_rank(), sharded.device_mesh.size(), len(value))
    return value[rows.start : rows.stop]


def held_values(tensor: Tensor, rank: int, size: int) -> int:
    """Return how many values of a whole tensor one of `size` ranks holds where they share it by rows."""
    rows = len(tensor)
    return len(rows_of(rank, size, rows)) * (tensor.numel() // rows) if rows else 0


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
