"""Small things that all attention kernels share: the causal mask, and key heads that several query heads share."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(query_length: int, key_length: int, device: torch.device | None = None) -> Tensor:
    """Return a bool mask (T, S) that lets each query see itself and the past.

    With a key-value cache the queries are the last `query_length` of `key_length` positions.

    Args:
        query_length: Number of query positions, T.
        key_length: Number of key positions, S; at least T.
        device: Where to put the mask.

    Returns:
        Bool tensor (T, S), True where attention is allowed.
    """
    allowed = torch.ones(query_length, key_length, dtype=torch.bool, device=device)
    return allowed.tril(diagonal=key_length - query_length)


def repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values (B, G, S, D) with as many heads as the queries (B, H, T, D) have: (B, H, S, D)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
