"""Which polynomial can take the place of exp on the arguments that a head has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from quillgpt.attention import KernelSpec
from quillgpt.attention.pointwise import pointwise
from quillgpt.config.schema.attention import LARGEST_POLY, PolyForm

TOLERANCE = 1e-2
"""Largest error of a weight, between 0 and 1, that a sufficient polynomial makes."""

NEGLIGIBLE = 12.0
"""exp(-12) is 6e-6: a weight that nobody misses."""

CHECKED = 2000
"""Arguments at which a polynomial is compared."""

FORMS: tuple[PolyForm, ...] = ("power2", "squared-taylor", "chebyshev", "taylor", "limit")


@dataclass(frozen=True)
class Polynomial:
    """A polynomial in place of exp.

    Attributes:
        spec: The kernel that it makes.
        error: Its largest error of a weight from the least argument at hand to 0.
    """

    spec: KernelSpec
    error: float

    def __str__(self) -> str:
        """Name it, with degree and depth."""
        reach = f" on [-{self.spec.poly_range:.3g}, 0]" if self.spec.poly_form == "chebyshev" else ""
        return f"{self.spec.poly_form} {self.spec.type.n}{reach}: degree {self.spec.degree}, depth {self.spec.depth}"


def smallest_n(minimum: float) -> int | None:
    """Return the least n for which no argument is below -2^n, where (1 + x/2^n)^(2^n) turns back; None: not even 14."""
    return next((n for n in range(1, LARGEST_POLY + 1) if -(2**n) <= minimum), None)


def shallowest(minimum: float) -> Polynomial | None:
    """Return the polynomial of least depth that errs by no more than TOLERANCE from an argument to 0.

    Of several it is the nearest; None: there is none. chebyshev is fitted to just that range.
    """
    # Errors are largest where exp is not 0 yet, which in a long range only few evenly spaced arguments are.
    spans = (minimum, max(minimum, -64.0))
    checked = torch.cat([torch.linspace(each, 0, CHECKED, dtype=torch.float64) for each in spans])
    exact = checked.exp()
    errors = ((spec, float((pointwise(spec).value(checked) - exact).abs().max())) for spec in _candidates(minimum))
    sufficient = [Polynomial(spec, error) for spec, error in errors if error <= TOLERANCE]
    return min(sufficient, key=lambda each: (each.spec.depth, each.error), default=None)


def turning_points(kernel: KernelSpec) -> tuple[float, float] | None:
    """Return below what (1 + x/N)^N, N = 2^n, turns back, and is no longer near 0; None for other kernels.

    For n up to 3 it is never near 0, and both are one.
    """
    if kernel.reach is None or kernel.poly_form != "power2":
        return None
    return -kernel.reach, min(-kernel.reach, -2 * kernel.reach + NEGLIGIBLE)


def _candidates(minimum: float) -> Iterator[KernelSpec]:
    reach = max(-minimum, 1.0)
    for form in FORMS:
        for n in range(1, LARGEST_POLY + 1):
            yield KernelSpec(f"GKpoly-{n}", poly_form=form, poly_range=reach)
