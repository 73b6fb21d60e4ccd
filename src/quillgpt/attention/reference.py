"""Slow truth: attention written as its formula, in whatever precision its inputs have.

Nothing here is fast or used in training; the tests hold every fast path against it, values and gradients. Gradients
are autograd's, and the weights are written apart from those of the fast paths.

Shapes: B batch, H heads, T query position, S key position, D head width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

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
        spec: The kernel, which says what A is.
        block_size: What PA's `len_scale = "block"` divides by.
        factors: What dropout multiplies the weights by, (B, H, T, S).

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
    phi = _of_distance(argument, spec) if spec.of_distance else _of_product(argument, spec.type.activation)
    weights = torch.where(seen, phi, 0)
    if spec.normalized:
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    if spec.type.family != "PA" or spec.len_scale == "none":
        return weights
    position = torch.arange(S - T + 1, S + 1, dtype=query.dtype, device=query.device)[:, None]
    constant = position.new_tensor(block_size if spec.len_scale == "block" else S)
    return weights / torch.pow(position if spec.len_scale == "pos" else constant, spec.len_alpha)


def _of_distance(x: Tensor, spec: KernelSpec) -> Tensor:
    n = spec.type.n
    N = float(2**n)
    if spec.type.family != "GKpoly":
        return x.exp()
    if spec.poly_form == "power2":
        return torch.pow(1 + x / N, N)
    if spec.poly_form == "limit":
        return torch.pow(1 + x / n, n)
    if spec.poly_form == "squared-taylor":
        return torch.pow(1 + x / N + (x / N).square() / 2, N)
    if spec.poly_form == "taylor":
        return torch.stack([x**k / math.factorial(k) for k in range(n + 1)]).sum(0)
    fitted = np.polynomial.Chebyshev.interpolate(np.exp, n, domain=[-spec.poly_range, 0])
    t, polynomials = 1 + 2 * x / spec.poly_range, [torch.ones_like(x)]
    for k in range(1, n + 1):
        polynomials.append(t if k == 1 else 2 * t * polynomials[-1] - polynomials[-2])
    return torch.stack([float(c) * each for c, each in zip(fitted.coef, polynomials, strict=True)]).sum(0)


def _of_product(s: Tensor, activation: str) -> Tensor:
    match activation:
        case "relu":
            return s.clamp(min=0)
        case "square":
            return s * s
        case "relu-square":
            return s.clamp(min=0) ** 2
        case "gelu":
            return 0.5 * s * (1 + torch.erf(s / math.sqrt(2)))
        case "sigmoid":
            return 1 / (1 + torch.exp(-s))
        case "softplus":
            return torch.log1p(torch.exp(-s.abs())) + s.clamp(min=0)
        case "tanh":
            return 2 / (1 + torch.exp(-2 * s)) - 1
        case "exp":
            return torch.exp(s)
        case "identity":
            return s
        case "elu1":
            return torch.where(s > 0, s + 1, torch.exp(s.clamp(max=0)))
        case _:  # silu
            return s / (1 + torch.exp(-s))
