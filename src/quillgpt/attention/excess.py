"""How far arguments of a Gaussian kernel lie below a limit, which training can penalise.

Shapes: B batch, H heads, G key and value heads, T position, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quillgpt.attention.masks import repeat_heads
from quillgpt.attention.recompute import weighted_sums
from quillgpt.attention.spec import KernelSpec


def excess_kernel(limit: float) -> KernelSpec:
    """Return the kernel whose weights are max(0, -x - limit)^2."""
    return KernelSpec("PA_relu-square", attn_bias=-limit, len_scale="none")


def range_excess(query: Tensor, key: Tensor, kernel: KernelSpec) -> Tensor:
    """Return the mean of max(0, -x - limit)^2 over heads and all pairs of a query and a key it sees, summed over texts.

    x = -|q-k|^2 / (2 sqrt D). The excess is itself a kernel of a product,
    -x = (-q, 1, |q|^2/2).(k, |k|^2/2, 1) / sqrt D, with all values 1, so it takes no more memory than attention.

    Args:
        query: (B, H, T, D).
        key: (B, G, T, D).
        kernel: The kernel of a limit above 0, from `excess_kernel`.

    Returns:
        A scalar, float32 or finer.
    """
    exact = query.dtype if query.dtype == torch.float64 else torch.float32
    q, k = query.to(exact), repeat_heads(query, key, key)[0].to(exact)
    T, D = q.shape[-2:]
    ones = torch.ones_like(q[..., :1])
    scale = math.sqrt((D + 2) / D)  # the kernel divides by the root of its width, which is larger by two
    left = torch.cat([-q, ones, q.square().sum(-1, keepdim=True) * 0.5], -1) * scale
    right = torch.cat([k, k.square().sum(-1, keepdim=True) * 0.5, ones], -1)
    sums, _ = weighted_sums(left, right, ones, kernel)
    return sums.sum() / (query.shape[1] * T * (T + 1) / 2)
