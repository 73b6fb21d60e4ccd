"""The polynomials that can replace exp on the arguments of a head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from quillgpt.attention import KernelSpec
from quillgpt.attention.pointwise import pointwise
from quillgpt.config.schema.attention import LARGEST_POLY, PolyForm

TOLERANCE = 1e-2
"""The largest allowed error of a weight; weights lie between 0 and 1."""

NEGLIGIBLE = 12.0
"""exp(-12) is 6e-6, a weight that can be left out."""

CHECKED = 2000
"""The number of arguments at which a polynomial is compared with exp."""

FORMS: tuple[PolyForm, ...] = ("power2", "squared-taylor", "chebyshev", "taylor", "limit")


@dataclass(frozen=True)
class Polynomial:
    """A polynomial that replaces exp.

    Attributes:
        spec: The kernel with this polynomial.
        error: The largest error of a weight, for arguments from the smallest one to 0.
    """

    spec: KernelSpec
    error: float

    def __str__(self) -> str:
        """Return its name, degree and depth."""
        span = f" on [-{self.spec.poly_range:.3g}, 0]" if self.spec.poly_form == "chebyshev" else ""
        return f"{self.spec.poly_form} {self.spec.type.n}{span}: degree {self.spec.degree}, depth {self.spec.depth}"


def smallest_n(minimum: float) -> int | None:
    """Return the smallest n with no argument below -2^n, where (1 + x/2^n)^(2^n) grows again; None above 14."""
    return next((n for n in range(1, LARGEST_POLY + 1) if -(2**n) <= minimum), None)


def shallowest(minimum: float) -> Polynomial | None:
    """Return the polynomial of smallest depth whose error from `minimum` to 0 is at most TOLERANCE; None if none is.

    Of several with this depth it is the one with the smallest error. chebyshev is fitted to exactly this range.
    """
    # Errors are largest where exp is not yet 0. In a long range, few evenly spaced arguments lie there.
    starts = (minimum, max(minimum, -64.0))
    checked = torch.cat([torch.linspace(start, 0, CHECKED, dtype=torch.float64) for start in starts])
    exact = checked.exp()
    errors = ((spec, float((pointwise(spec).value(checked) - exact).abs().max())) for spec in _candidates(minimum))
    sufficient = [Polynomial(spec, error) for spec, error in errors if error <= TOLERANCE]
    return min(sufficient, key=lambda polynomial: (polynomial.spec.depth, polynomial.error), default=None)


def turning_points(kernel: KernelSpec) -> tuple[float, float] | None:
    """Return below which arguments (1 + x/N)^N, N = 2^n, grows again, and is no longer near 0; None for other kernels.

    For n up to 3 it is never near 0, and both bounds are the same.
    """
    if kernel.reach is None or kernel.poly_form != "power2":
        return None
    return -kernel.reach, min(-kernel.reach, -2 * kernel.reach + NEGLIGIBLE)


def _candidates(minimum: float) -> Iterator[KernelSpec]:
    reach = max(-minimum, 1.0)
    for form in FORMS:
        for n in range(1, LARGEST_POLY + 1):
            yield KernelSpec(f"GKpoly-{n}", poly_form=form, poly_range=reach)
