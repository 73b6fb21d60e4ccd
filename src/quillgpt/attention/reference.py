"""The slow reference: attention written as its formula, in the precision of its inputs.

Training does not use it. The tests compare every fast path with it, values and gradients. Gradients are autograd's, and
the weights are written apart from those of the fast paths.

Shapes: B batch, H heads, T query position, S key position, D head width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from quillgpt.activations import ACTIVATIONS
from quillgpt.attention.spec import KernelSpec


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spec: KernelSpec,
    *,
    block_size: int,
    factors: Tensor | None = None,
) -> Tensor:
    """Compute y_i = sum_{j <= i} A_ij v_j.

    Args:
        query: (B, H, T, D); the queries are the last T of the S positions.
        key: (B, H, S, D).
        value: (B, H, S, D).
        spec: The kernel, which defines A.
        block_size: Context of the model; `len_scale = "block"` divides by it.
        factors: Dropout factors of the weights, (B, H, T, S).

    Returns:
        (B, H, T, D).
    """
    weights = reference_weights(query, key, spec, block_size=block_size)
    return (weights if factors is None else weights * factors) @ value


def reference_weights(query: Tensor, key: Tensor, spec: KernelSpec, *, block_size: int) -> Tensor:
    """Return A of `reference_attention`, (B, H, T, S)."""
    T, S, D = query.shape[-2], key.shape[-2], query.shape[-1]
    seen = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
    products = torch.einsum("bhtd,bhsd->bhts", query, key) / math.sqrt(D)
    argument = products + spec.attn_bias
    if spec.of_distance:
        argument = -(query[:, :, :, None] - key[:, :, None]).square().sum(-1) / (2 * math.sqrt(D))
    if spec.is_softmax:
        return argument.masked_fill(~seen, -math.inf).softmax(-1)
    phi = _of_distance(argument, spec) if spec.of_distance else ACTIVATIONS[spec.type.activation].formula(argument)
    weights = torch.where(seen, phi, 0)
    if spec.normalized:
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    if spec.type.family != "PA":
        return weights
    position = torch.arange(S - T + 1, S + 1, dtype=query.dtype, device=query.device)[:, None]
    return weights / torch.pow(_lengths(spec, position, S, block_size), spec.len_alpha)


def _of_distance(x: Tensor, spec: KernelSpec) -> Tensor:
    n = spec.type.n
    N = float(2**n)
    if spec.type.family != "GKpoly":
        return x.exp()
    match spec.poly_form:
        case "power2":
            return torch.pow(1 + x / N, N)
        case "limit":
            return torch.pow(1 + x / n, n)
        case "squared-taylor":
            return torch.pow(1 + x / N + (x / N).square() / 2, N)
        case "taylor":
            return torch.stack([x**k / math.factorial(k) for k in range(n + 1)]).sum(0)
        case "chebyshev":
            return _chebyshev(x, n, spec.poly_range)
        case unknown:
            raise ValueError(f"{unknown} is no poly_form")


def _chebyshev(x: Tensor, degree: int, reach: float) -> Tensor:
    fitted = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-reach, 0])
    t, polynomials = 1 + 2 * x / reach, [torch.ones_like(x)]
    for k in range(1, degree + 1):
        polynomials.append(t if k == 1 else 2 * t * polynomials[-1] - polynomials[-2])
    return torch.stack([float(c) * p for c, p in zip(fitted.coef, polynomials, strict=True)]).sum(0)


def _lengths(spec: KernelSpec, position: Tensor, keys: int, block_size: int) -> Tensor:
    """Return the divisors of PA's sums, given the number of keys that each query sees, (T, 1)."""
    match spec.len_scale:
        case "none":
            return torch.ones_like(position)
        case "pos":
            return position
        case "seq":
            return torch.full_like(position, keys)
        case "block":
            return torch.full_like(position, block_size)
        case unknown:
            raise ValueError(f"{unknown} is no len_scale")
