"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of GPT-NeoX and Qwen."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_table(block_size: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of position * theta^(-2i/D), each (block_size, D), float32.

    The D/2 angles stand twice, once for each half of the head.
    """
    cpu = torch.device("cpu")  # said, because a model that is about to be loaded is made without memory
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
