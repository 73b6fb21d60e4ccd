"""The weight functions of pointwise kernels, with the slopes that the backward pass needs.

A key's weight is a function phi of one number u: the scaled product s = q.k / sqrt(D) of query and key (PA), or their
negative squared distance x = -|q-k|^2 / (2 sqrt(D)) <= 0 (GK, GKpoly). No weight depends on another one, so there is no
maximum and no sum over keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from quillgpt.activations import ACTIVATIONS, Activation
from quillgpt.attention.spec import KernelSpec


@dataclass(frozen=True)
class Pointwise:
    """A weight function.

    Attributes:
        value: phi(u), of any shape.
        slope: Given u and phi(u), returns phi'(u).
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


@lru_cache
def pointwise(spec: KernelSpec) -> Pointwise:
    """Return the weight function of a kernel other than SM.

    Its argument does not yet include `attn_bias`; rounding errors of distances above 0 are not cut off yet.
    """
    if spec.type.family == "PA":
        return _shifted(ACTIVATIONS[spec.type.activation], spec.attn_bias)
    if spec.type.family in ("GK", "GKn"):
        return EXPONENTIAL
    n = spec.type.n
    if spec.poly_form == "chebyshev":
        return _chebyshev(n, spec.poly_range)
    return {"power2": _power2, "limit": _limit, "taylor": _taylor, "squared-taylor": _squared_taylor}[spec.poly_form](n)


def _shifted(activation: Activation, bias: float) -> Pointwise:
    if bias == 0:
        return Pointwise(activation.value, activation.slope)
    return Pointwise(lambda u: activation.value(u + bias), lambda u, phi: activation.slope(u + bias, phi))


EXPONENTIAL = Pointwise(torch.exp, lambda _, phi: phi)


def _power2(n: int) -> Pointwise:
    """(1 + x/2^n)^(2^n) by n squarings."""

    def slope(x: Tensor, _: Tensor) -> Tensor:
        return _one_power_less(1 + x / 2**n, n)

    return Pointwise(lambda x: _square_times((x / 2**n).add_(1), n), slope)


def _squared_taylor(n: int) -> Pointwise:
    """(1 + y + y^2/2)^(2^n) with y = x/2^n, by n squarings; positive everywhere."""

    def base(y: Tensor) -> Tensor:
        return (y * 0.5).add_(1).mul_(y).add_(1)

    def slope(x: Tensor, _: Tensor) -> Tensor:
        y = x / 2**n
        return _one_power_less(base(y), n).mul_(1 + y)

    return Pointwise(lambda x: _square_times(base(x / 2**n), n), slope)


def _limit(n: int) -> Pointwise:
    """(1 + x/n)^n."""
    return Pointwise(lambda x: (1 + x / n).pow(n), lambda x, _: (1 + x / n).pow(n - 1))


def _taylor(n: int) -> Pointwise:
    """1 + x + x^2/2! + ... + x^n/n!; its derivative is the same series with one term less."""

    def value(x: Tensor, degree: int) -> Tensor:
        total = torch.ones_like(x)
        for k in range(degree, 0, -1):
            total.mul_(x).div_(k).add_(1)
        return total

    return Pointwise(lambda x: value(x, n), lambda x, _: value(x, n - 1))


def chebyshev_coefficients(degree: int, reach: float) -> list[float]:
    """Return the Chebyshev coefficients of exp on [-reach, 0], in t = 1 + 2x/reach, interpolated at the nodes."""
    fitted = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-reach, 0])
    return [float(coefficient) for coefficient in fitted.coef]


def _chebyshev(degree: int, reach: float) -> Pointwise:
    coefficients = chebyshev_coefficients(degree, reach)
    derived = [float(c) for c in np.polynomial.Chebyshev(coefficients).deriv().coef]

    def series(x: Tensor, of: list[float]) -> Tensor:
        """Return the sum, by Clenshaw's recurrence."""
        t = 1 + x * (2 / reach)
        one, two = torch.zeros_like(t), torch.zeros_like(t)
        for coefficient in of[:0:-1]:
            one, two = (2 * t).mul_(one).sub_(two).add_(coefficient), one
        return t.mul_(one).sub_(two).add_(of[0])

    return Pointwise(lambda x: series(x, coefficients), lambda x, _: series(x, derived).mul_(2 / reach))


def _square_times(base: Tensor, times: int) -> Tensor:
    for _ in range(times):
        base.square_()
    return base


def _one_power_less(base: Tensor, times: int) -> Tensor:
    """Return base^(2^times - 1), the product of the powers 1, 2, 4, ..., 2^(times-1); overwrites `base`."""
    product = base.clone()
    for _ in range(times - 1):
        product.mul_(base.square_())
    return product
