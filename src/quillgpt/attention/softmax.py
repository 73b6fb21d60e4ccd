"""Softmax attention (SM) by two paths that give the same result.

Shapes: B batch, H heads, G key and value heads (H is a multiple of G), T query position, S key position, D head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.attention.dropout import dropout as drop

QUERIES_AT_ONCE = 128
"""Queries of a piece in which attention is computed: of 64, 128 and 256 the fastest on two CPU cores."""


def causal_mask(query_length: int, key_length: int, device: torch.device | None = None) -> Tensor:
    """Let each query see itself and the past.

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


def causal_bias(query_length: int, key_length: int, like: Tensor) -> Tensor:
    """Return what `causal_mask` allows as a tensor to add: 0 where attention is allowed, -inf elsewhere.

    Choosing each score by the mask takes a compiled model more time than the softmax; adding takes little.

    Args:
        query_length: As for `causal_mask`.
        key_length: As for `causal_mask`.
        like: Has the type and the device of the result.

    Returns:
        (T, S).
    """
    forbidden = ~causal_mask(query_length, key_length, like.device)
    return like.new_zeros(query_length, key_length).masked_fill(forbidden, float("-inf"))


def in_groups(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values with as many heads as the queries have."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


def softmax_sdpa(query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None = None) -> Tensor:
    """Attend by PyTorch's fused scaled_dot_product_attention.

    Args:
        query: (B, H, T, D).
        key: (B, G, S, D).
        value: (B, G, S, D).
        dropout: Probability of dropping an attention weight.
        visible: Bool (1, S), the keys that a single query (T = 1) may see; None: all.

    Returns:
        (B, H, T, D).
    """
    T, S = query.shape[-2], key.shape[-2]
    mask = causal_mask(T, S, query.device) if 1 < T < S else visible
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=bool(T == S and T > 1),  # a bool too where lengths are symbols, as in an export
        enable_gqa=query.shape[1] != key.shape[1],
    )


def softmax_explicit(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None = None
) -> Tensor:
    """Attend by two matrix products with a softmax between them.

    It holds the weights in memory, and is the faster path on CPUs at short lengths, where the backward pass of the
    fused kernel is slow. Queries are taken in pieces, and no piece computes weights for keys after its last query:
    of long blocks that leaves out nearly half of the work. Arguments and result are those of `softmax_sdpa`.
    """
    key, value = in_groups(query, key, value)
    T, S = query.shape[-2], key.shape[-2]
    query = query * (1 / math.sqrt(query.shape[-1]))
    mixed = []
    for first in range(0, T, QUERIES_AT_ONCE):
        piece = query[..., first : first + QUERIES_AT_ONCE, :]
        last = S - T + first + piece.shape[-2]  # the key of the piece's last query, and one
        scores = piece @ key[..., :last, :].mT  # (B, H, piece, last)
        if T > 1:
            scores = scores + causal_bias(piece.shape[-2], last, like=scores)
        elif visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        mixed.append(drop(scores.softmax(-1), dropout) @ value[..., :last, :])
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=-2)
