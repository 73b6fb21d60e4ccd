"""Weights and their slopes in Triton: the functions of quillgpt.attention.pointwise, one by one.

Arguments: u of any shape, float32; coefficients and reach of Chebyshev's series; the bias that is added to attention
scores; the name of the function; the n of GKpoly.
"""

# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

from __future__ import annotations

import triton
import triton.language as tl

FORMS = frozenset(
    {
        *("exp", "power2", "squared-taylor", "limit", "taylor", "chebyshev"),
        *("gelu", "relu", "sigmoid", "square", "relu-square", "softplus", "tanh", "identity", "elu1", "silu"),
    }
)
"""The functions that `weight` and `slope` below have a case for; a kernel of another function has no Triton path."""


@triton.jit
def weight(u, coefficients, bias, reach, FORM: tl.constexpr, n: tl.constexpr):
    """Return phi(u)."""
    s = u + bias
    if FORM == "exp":
        phi = tl.exp(s)
    elif FORM == "power2":
        phi = 1 + u / (2**n)
        for _ in tl.static_range(n):
            phi = phi * phi
    elif FORM == "squared-taylor":
        y = u / (2**n)
        phi = 1 + y * (1 + 0.5 * y)
        for _ in tl.static_range(n):
            phi = phi * phi
    elif FORM == "limit":
        base = 1 + u / n
        phi = base
        for _ in tl.static_range(n - 1):
            phi = phi * base
    elif FORM == "taylor":
        phi = tl.full(u.shape, 1.0, tl.float32)
        for i in tl.static_range(n):
            phi = 1 + phi * u / (n - i)
    elif FORM == "chebyshev":
        phi = _series(u, coefficients, reach, n)
    elif FORM == "gelu":
        phi = 0.5 * s * (1 + tl.erf(s * 0.7071067811865476))
    elif FORM == "relu":
        phi = tl.maximum(s, 0.0)
    elif FORM == "sigmoid":
        phi = tl.sigmoid(s)
    elif FORM == "square":
        phi = s * s
    elif FORM == "relu-square":
        phi = tl.maximum(s, 0.0) * tl.maximum(s, 0.0)
    elif FORM == "softplus":
        phi = tl.maximum(s, 0.0) + tl.log(1 + tl.exp(-tl.abs(s)))
    elif FORM == "tanh":
        phi = 2 * tl.sigmoid(2 * s) - 1
    elif FORM == "identity":
        phi = s
    elif FORM == "elu1":
        phi = tl.where(s > 0, s + 1, tl.exp(tl.minimum(s, 0.0)))
    elif FORM == "silu":
        phi = s * tl.sigmoid(s)
    else:
        tl.static_assert(False, "FORM is none of FORMS")
    return phi


@triton.jit
def slope(u, phi, coefficients, bias, reach, FORM: tl.constexpr, n: tl.constexpr):
    """Return phi'(u), given phi(u)."""
    s = u + bias
    if FORM == "exp":
        derivative = phi
    elif FORM == "power2":
        base = 1 + u / (2**n)
        derivative = tl.full(u.shape, 1.0, tl.float32)
        for _ in tl.static_range(n):  # the product of the powers 1, 2, 4, ...
            derivative = derivative * base
            base = base * base
    elif FORM == "squared-taylor":
        y = u / (2**n)
        base = 1 + y * (1 + 0.5 * y)
        derivative = 1 + y
        for _ in tl.static_range(n):
            derivative = derivative * base
            base = base * base
    elif FORM == "limit":
        base = 1 + u / n
        derivative = tl.full(u.shape, 1.0, tl.float32)
        for _ in tl.static_range(n - 1):
            derivative = derivative * base
    elif FORM == "taylor":
        derivative = tl.full(u.shape, 1.0, tl.float32)
        for i in tl.static_range(n - 1):
            derivative = 1 + derivative * u / (n - 1 - i)
    elif FORM == "chebyshev":
        derivative = _series(u, coefficients + n + 1, reach, n - 1) * (2 / reach)
    elif FORM == "gelu":
        derivative = 0.5 * (1 + tl.erf(s * 0.7071067811865476)) + s * tl.exp(-0.5 * s * s) * 0.3989422804014327
    elif FORM == "relu":
        derivative = tl.where(s > 0, 1.0, 0.0)
    elif FORM == "sigmoid":
        derivative = phi * (1 - phi)
    elif FORM == "square":
        derivative = 2 * s
    elif FORM == "relu-square":
        derivative = 2 * tl.maximum(s, 0.0)
    elif FORM == "softplus":
        derivative = tl.sigmoid(s)
    elif FORM == "tanh":
        derivative = 1 - phi * phi
    elif FORM == "identity":
        derivative = tl.full(u.shape, 1.0, tl.float32)
    elif FORM == "elu1":
        derivative = tl.exp(tl.minimum(s, 0.0))
    elif FORM == "silu":
        derivative = tl.sigmoid(s) + phi * (1 - tl.sigmoid(s))
    else:
        tl.static_assert(False, "FORM is none of FORMS")
    return derivative


@triton.jit
def _series(u, coefficients, reach, n: tl.constexpr):
    """Return the sum of a series of Chebyshev polynomials of degree n, by Clenshaw's recurrence."""
    t = 1 + u * (2 / reach)
    one = tl.zeros(u.shape, tl.float32)
    two = tl.zeros(u.shape, tl.float32)
    for i in tl.static_range(n):
        kept = one
        one = 2 * t * one - two + tl.load(coefficients + n - i)
        two = kept
    return t * one - two + tl.load(coefficients)
