"""What a kernel makes of its argument, in Triton: the functions of quillgpt.attention.pointwise, one by one.

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
        found = tl.exp(s)
    elif FORM == "power2":
        found = 1 + u / (2**n)
        for _ in tl.static_range(n):
            found = found * found
    elif FORM == "squared-taylor":
        y = u / (2**n)
        found = 1 + y * (1 + 0.5 * y)
        for _ in tl.static_range(n):
            found = found * found
    elif FORM == "limit":
        base = 1 + u / n
        found = base
        for _ in tl.static_range(n - 1):
            found = found * base
    elif FORM == "taylor":
        found = tl.full(u.shape, 1.0, tl.float32)
        for i in tl.static_range(n):
            found = 1 + found * u / (n - i)
    elif FORM == "chebyshev":
        found = _series(u, coefficients, reach, n)
    elif FORM == "gelu":
        found = 0.5 * s * (1 + tl.erf(s * 0.7071067811865476))
    elif FORM == "relu":
        found = tl.maximum(s, 0.0)
    elif FORM == "sigmoid":
        found = tl.sigmoid(s)
    elif FORM == "square":
        found = s * s
    elif FORM == "relu-square":
        found = tl.maximum(s, 0.0) * tl.maximum(s, 0.0)
    elif FORM == "softplus":
        found = tl.maximum(s, 0.0) + tl.log(1 + tl.exp(-tl.abs(s)))
    elif FORM == "tanh":
        found = 2 * tl.sigmoid(2 * s) - 1
    elif FORM == "identity":
        found = s
    elif FORM == "elu1":
        found = tl.where(s > 0, s + 1, tl.exp(tl.minimum(s, 0.0)))
    elif FORM == "silu":
        found = s * tl.sigmoid(s)
    else:
        tl.static_assert(False, "FORM is none of FORMS")
    return found


@triton.jit
def slope(u, phi, coefficients, bias, reach, FORM: tl.constexpr, n: tl.constexpr):
    """Return phi'(u), given phi(u)."""
    s = u + bias
    if FORM == "exp":
        found = phi
    elif FORM == "power2":
        base = 1 + u / (2**n)
        found = tl.full(u.shape, 1.0, tl.float32)
        for _ in tl.static_range(n):  # the product of the powers 1, 2, 4, ...
            found = found * base
            base = base * base
    elif FORM == "squared-taylor":
        y = u / (2**n)
        base = 1 + y * (1 + 0.5 * y)
        found = 1 + y
        for _ in tl.static_range(n):
            found = found * base
            base = base * base
    elif FORM == "limit":
        base = 1 + u / n
        found = tl.full(u.shape, 1.0, tl.float32)
        for _ in tl.static_range(n - 1):
            found = found * base
    elif FORM == "taylor":
        found = tl.full(u.shape, 1.0, tl.float32)
        for i in tl.static_range(n - 1):
            found = 1 + found * u / (n - 1 - i)
    elif FORM == "chebyshev":
        found = _series(u, coefficients + n + 1, reach, n - 1) * (2 / reach)
    elif FORM == "gelu":
        found = 0.5 * (1 + tl.erf(s * 0.7071067811865476)) + s * tl.exp(-0.5 * s * s) * 0.3989422804014327
    elif FORM == "relu":
        found = tl.where(s > 0, 1.0, 0.0)
    elif FORM == "sigmoid":
        found = phi * (1 - phi)
    elif FORM == "square":
        found = 2 * s
    elif FORM == "relu-square":
        found = 2 * tl.maximum(s, 0.0)
    elif FORM == "softplus":
        found = tl.sigmoid(s)
    elif FORM == "tanh":
        found = 1 - phi * phi
    elif FORM == "identity":
        found = tl.full(u.shape, 1.0, tl.float32)
    elif FORM == "elu1":
        found = tl.exp(tl.minimum(s, 0.0))
    elif FORM == "silu":
        found = tl.sigmoid(s) + phi * (1 - tl.sigmoid(s))
    else:
        tl.static_assert(False, "FORM is none of FORMS")
    return found


@triton.jit
def _series(u, coefficients, reach, n: tl.constexpr):
    """Add up a series of Chebyshev polynomials of degree n, by Clenshaw's recurrence."""
    t = 1 + u * (2 / reach)
    one = tl.zeros(u.shape, tl.float32)
    two = tl.zeros(u.shape, tl.float32)
    for i in tl.static_range(n):
        kept = one
        one = 2 * t * one - two + tl.load(coefficients + n - i)
        two = kept
    return t * one - two + tl.load(coefficients)
