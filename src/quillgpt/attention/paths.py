"""The implementations (paths) of every kernel but softmax.

Shapes: B batch, H heads, G key and value heads (H is a multiple of G), T query position, S key position, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.attention.masks import causal_mask, repeat_heads
from quillgpt.attention.recompute import Operation, Piece, Rows, unrounded, weighted_sums
from quillgpt.attention.spec import KernelSpec
from quillgpt.errors import ConfigError

SMALLEST_TOTAL = 1e-30
"""A query whose weights add up to less gets 0."""


class Attend(Protocol):
    """One path of a kernel. It is causal: the queries are the last of the keys."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float,
        visible: Tensor | None = None,
        seeds: Tensor | None = None,
        /,
    ) -> Tensor:
        """Return the weighted values: (B,H,T,D), (B,G,S,D), (B,G,S,D), dropout to (B,H,T,D).

        `visible`: bool (1, S), the keys that a single query (T = 1) may see; None: all.
        `seeds`: int64 (B,), what the dropout of a sequence depends on; None: PyTorch's generator.
        """
        ...


PathType = TypeVar("PathType")


def path_named(name: str, paths: Mapping[str, PathType], *, kernel: str) -> PathType:
    """Return one of a kernel's paths by its name; `auto` is the first.

    Raises:
        ConfigError: The kernel has no such path.
    """
    if name == "auto":
        return next(iter(paths.values()))
    if name not in paths:
        raise ConfigError(f"attn_path = {name} is no way to compute {kernel}; give {' or '.join(paths)}")
    return paths[name]


class Recompute:
    """The path of any kernel but softmax, in memory that grows with the length; see quillgpt.attention.recompute.

    Args:
        spec: The kernel.
        block_size: Context of the model; `len_scale = "block"` divides by it.
        operation: The implementation; None: plain PyTorch.
    """

    def __init__(self, spec: KernelSpec, block_size: int, operation: Operation | None = None) -> None:
        self.spec, self.block_size, self.operation = spec, block_size, operation

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float,
        visible: Tensor | None = None,
        seeds: Tensor | None = None,
        /,
    ) -> Tensor:
        """Return the weighted values; arguments and result are those of `Attend`."""
        key, value = repeat_heads(query, key, value)
        if visible is None:
            sums, totals = weighted_sums(
                query, key, value, self.spec, dropout=dropout, seeds=seeds, operation=self.operation
            )
        else:
            sums, totals = _sums_of_one(query, key, value, self.spec, visible)
        if self.spec.normalized:
            totals = totals.unsqueeze(-1)
            weighed = totals > SMALLEST_TOTAL
            sums = torch.where(weighed, sums / torch.where(weighed, totals, 1), 0)
        lengths = self._lengths(query.shape[2], key.shape[2], visible, sums)
        if lengths is not None:
            sums = sums / lengths**self.spec.len_alpha
        return sums.to(value.dtype)

    def _lengths(self, queries: int, keys: int, visible: Tensor | None, like: Tensor) -> Tensor | float | None:
        """Return the divisor of the sums, a number or (T, 1), or None if they stay as they are."""
        how = self.spec.len_scale if self.spec.type.family == "PA" and not self.spec.normalized else "none"
        if how == "none":
            return None
        if how == "block":
            return float(self.block_size)
        if visible is not None:
            return visible.sum().to(like.dtype)
        if how == "seq":
            return float(keys)
        assert how == "pos"
        return torch.arange(keys - queries + 1, keys + 1, device=like.device, dtype=like.dtype).unsqueeze(-1)


class Augmented:
    """GK and GKn by PyTorch's fused softmax attention, with columns that make the squared distance a product.

    Softmax of q.k - |k|^2/2 is GKn: terms of the query alone cancel. GK's weights are those of a softmax with one
    more key, whose attention score is 0 and whose value is a column of its own: the result is (sum, 1) / (1 + total),
    and the ratio of the two is the sum.

    Fused attention draws its dropout from PyTorch's generator. On a CPU, seeds are honoured by the recomputing path; on
    a GPU they are not.

    Args:
        spec: GK or GKn.
        block_size: Context of the model.
    """

    def __init__(self, spec: KernelSpec, block_size: int) -> None:
        self.normalized = spec.normalized
        self._recompute = Recompute(spec, block_size)

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float,
        visible: Tensor | None = None,
        seeds: Tensor | None = None,
        /,
    ) -> Tensor:
        """Return the weighted values; arguments and result are those of `Attend`.

        Raises:
            ValueError: There is dropout, and the kernel is GK: fused softmax cannot drop its weights.
        """
        if dropout and not self.normalized:
            raise ValueError("the augmented path of GK drops no weights")
        if dropout and seeds is not None and query.device.type == "cpu":
            return self._recompute(query, key, value, dropout, visible, seeds)
        key, value = repeat_heads(query, key, value)
        exact = query.dtype if query.dtype == torch.float64 else torch.float32
        T, S, D = query.shape[2], key.shape[2], value.shape[-1]
        q, k, v = query.to(exact), key.to(exact), value.to(exact)
        key_half = k.square().sum(-1, keepdim=True) * -0.5
        if self.normalized:
            q, k, v = torch.cat([q, torch.ones_like(q[..., :1])], -1), torch.cat([k, key_half], -1), F.pad(v, (0, 1))
        else:
            query_half = q.square().sum(-1, keepdim=True) * -0.5
            q = torch.cat([q, torch.ones_like(query_half), query_half], -1)
            k = torch.cat([k, key_half, torch.ones_like(key_half)], -1)
            # The key before all others, and a query in front of the first, so that causality still lines up.
            q, k = F.pad(q, (0, 0, 1, 0)), F.pad(k, (0, 0, 1, 0))
            own = F.one_hot(torch.tensor(D, device=v.device), D + 2).to(exact)
            v = torch.cat([own.expand(*v.shape[:2], 1, D + 2), F.pad(v, (0, 2))], 2)
        extra = 0 if self.normalized else 1
        mask = None
        if visible is not None or T != S:
            seen = causal_mask(T, S, query.device) if visible is None else visible
            mask = F.pad(seen, (extra, 0, extra, 0), value=True)
        with unrounded(q):
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=query.shape[-1] ** -0.5
            )
        if self.normalized:
            return mixed[..., :D].to(value.dtype)
        return (mixed[:, :, 1:, :D] / mixed[:, :, 1:, D : D + 1]).to(value.dtype)


def _sums_of_one(query: Tensor, key: Tensor, value: Tensor, spec: KernelSpec, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `weighted_sums` for a single query that sees the keys `visible`, bool (1, S)."""
    rows = Rows(query.flatten(0, 1), key.flatten(0, 1), spec)
    everything = Piece(0, slice(None), slice(None), key.shape[2])
    with unrounded(query):
        weights = rows.weight.value(rows.argument(everything, visible)).masked_fill_(~visible, 0)
        weights = weights.view(*query.shape[:2], 1, -1)
        return weights @ value.to(weights.dtype), weights.sum(-1)
