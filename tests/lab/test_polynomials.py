"""The polynomials that can replace exp on a range."""

import math

import pytest
import torch

from quillgpt.attention import KernelSpec
from quillgpt.attention.pointwise import pointwise
from quillgpt.lab.polynomials import TOLERANCE, shallowest, smallest_n, turning_points


@pytest.mark.parametrize(
    ("minimum", "n"), [(-0.5, 1), (-2.0, 1), (-2.1, 2), (-16.0, 4), (-16.1, 5), (-16384, 14), (-16385, None)]
)
def test_the_smallest_n_reaches_the_least_argument(minimum, n):
    assert smallest_n(minimum) == n


@pytest.mark.parametrize("minimum", [-0.5, -4.0, -16.0, -40.0, -500.0])
def test_the_shallowest_polynomial_keeps_its_promise(minimum):
    polynomial = shallowest(minimum)
    assert polynomial is not None
    x = torch.linspace(minimum, 0, 777, dtype=torch.float64)
    assert (pointwise(polynomial.spec).value(x) - x.exp()).abs().max() <= polynomial.error * 1.01 <= TOLERANCE * 1.01
    for n in range(1, 15):  # no polynomial of less depth among the usual ones is good enough
        other = KernelSpec(f"GKpoly-{n}")
        if other.depth < polynomial.spec.depth:
            assert (pointwise(other).value(x) - x.exp()).abs().max() > TOLERANCE


def test_chebyshev_wins_on_a_short_range():
    # Degree 8 and 16 on [-16, 0] err by 4.4e-3 and 1.2e-7, and are of depth 4 and 5.
    polynomial = shallowest(-16.0)
    assert polynomial.spec.poly_form == "chebyshev"
    assert polynomial.spec.depth == 3 + 4


def test_the_error_is_that_of_the_worst_argument_however_long_the_range():
    polynomial = shallowest(-16000.0)
    x = -torch.arange(0, 64, 1e-3, dtype=torch.float64)
    assert polynomial.error == pytest.approx(
        float((pointwise(polynomial.spec).value(x) - x.exp()).abs().max()), rel=0.01
    )


def test_no_polynomial_reaches_arbitrarily_far():
    assert shallowest(-1e9) is None


def test_where_a_power_turns_back():
    formal, dangerous = turning_points(KernelSpec("GKpoly-6"))
    weight = pointwise(KernelSpec("GKpoly-6")).value
    assert float(weight(torch.tensor(formal))) == 0.0
    assert float(weight(torch.tensor(dangerous))) == pytest.approx(math.exp(-12), rel=3)
    assert turning_points(KernelSpec("GKpoly-3")) == (-8.0, -8.0)  # never near 0 behind its turn
    assert turning_points(KernelSpec("GK")) is turning_points(KernelSpec("GKpoly-6", poly_form="taylor")) is None
