"""Slow truth: attention written as its formula, in whatever precision its inputs have.

Nothing here is fast or used in training; the tests hold every fast path against it, values and gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute y_i = sum_{j <= i} softmax_j(q_i . k_j / sqrt(D)) v_j, query by query.

    Args:
        query: (B, H, T, D); the queries are the last T of the S positions.
        key: (B, H, S, D).
        value: (B, H, S, D).

    Returns:
        (B, H, T, D).
    """
    T, S = query.shape[-2], key.shape[-2]
    rows = []
    for t in range(T):
        visible = S - T + t + 1
        scores = torch.einsum("bhd,bhsd->bhs", query[:, :, t], key[:, :, :visible]) / math.sqrt(query.shape[-1])
        rows.append(torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), value[:, :, :visible]))
    return torch.stack(rows, dim=2)
