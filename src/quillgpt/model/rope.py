"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of GPT-NeoX and Qwen."""

from __future__ import annotations

import torch
from torch import Tensor


class Rotations:
    """The turns of all positions of a context, computed when they are first needed.

    Contexts may be far longer than any text, and the tables of all their positions larger than the model.

    Args:
        block_size: Positions of the context.
        head_dim: Width of a head.
        theta: Base of the angles.
    """

    def __init__(self, block_size: int, head_dim: int, theta: float) -> None:
        self._block_size, self._head_dim, self._theta = block_size, head_dim, theta
        self._tables: list[tuple[Tensor, Tensor]] = []  # a step that a GPU has recorded goes on reading an older one

    def first(self, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of at least the first so many positions, each (S, D)."""
        for cosines, sines in reversed(self._tables):
            if len(cosines) >= positions and cosines.device == device:
                return cosines, sines
        before = max((len(cosines) for cosines, _ in self._tables), default=0)
        length = min(self._block_size, max(positions, 2 * before))
        with torch.inference_mode(False):  # an evaluation may come first, and training needs them too
            cosines, sines = rotation_table(length, self._head_dim, self._theta)
            self._tables.append((cosines.to(device), sines.to(device)))
        return self._tables[-1]


def rotation_table(block_size: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of position * theta^(-2i/D), each (block_size, D), float32.

    The D/2 angles stand twice, once for each half of the head.
    """
    cpu = torch.device("cpu")  # whose cosines are the same on every machine that goes on with a run
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device=cpu) / head_dim)
    angles = torch.outer(torch.arange(block_size, dtype=torch.float32, device=cpu), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) by its position's angle.

    Args:
        x: (B, H, T, D).
        cosines: (T, D).
        sines: (T, D).

    Returns:
        (B, H, T, D), in the type of x.
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cosines.to(x.dtype) + turned * sines.to(x.dtype)
