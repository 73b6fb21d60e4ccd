"""Standard errors and intervals: by their definition, and by how often they are right."""

import math

import numpy as np
import pytest

from quillgpt.evaluation.uncertainty import Ratio, estimate
from quillgpt.student import student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (10, 2.2281), (30, 2.0423), (120, 1.9799)],
)
def test_students_quantiles_are_those_of_the_tables(degrees, quantile):
    assert student_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


def test_many_degrees_of_freedom_join_the_exact_quantiles_and_end_at_the_normal_one():
    assert student_quantile(1000) == pytest.approx(student_quantile(999), abs=1e-5)
    assert student_quantile(10**9) == pytest.approx(1.959964, abs=1e-6)


def test_units_of_equal_size_have_the_usual_standard_error_of_a_mean():
    losses = np.random.default_rng(0).normal(3, 1, 25)
    found = estimate(Ratio(losses * 8, np.full(25, 8)))
    assert found.value == pytest.approx(losses.mean())
    assert found.standard_error == pytest.approx(losses.std(ddof=1) / 5)
    assert (found.groups, found.degrees) == (25, 24)
    low, high = found.interval
    assert high - found.value == pytest.approx(2.0639 * found.standard_error, rel=1e-4)
    assert high + low == pytest.approx(2 * found.value)


def test_the_standard_error_is_the_jackknife_over_units():
    generator = np.random.default_rng(1)
    sizes, other_sizes = generator.integers(1, 50, (2, 12))
    totals, other_totals = sizes * generator.normal(3, 1, 12), other_sizes * generator.normal(2, 1, 12)

    def difference(kept):
        return totals[kept].sum() / sizes[kept].sum() - other_totals[kept].sum() / other_sizes[kept].sum()

    everything = np.arange(12)
    without = np.array([difference(everything != unit) for unit in everything])
    found = estimate(Ratio(totals, sizes), Ratio(other_totals, other_sizes))
    assert found.value == pytest.approx(difference(everything))
    assert found.standard_error == pytest.approx(math.sqrt(11 / 12 * np.square(without - found.value).sum()))


@pytest.mark.parametrize("units", [0, 1])
def test_one_unit_has_no_standard_error(units):
    found = estimate(Ratio(np.full(units, 6.0), np.full(units, 2)))
    assert (found.standard_error, found.interval, found.groups) == (None, None, units)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_standard_error(value):
    found = estimate(Ratio(np.array([1.0, value, 2.0]), np.array([1, 1, 1])))
    assert not math.isfinite(found.value)
    assert found.standard_error is None


@pytest.mark.parametrize("units", [4, 12, 60])
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_intervals_hold_the_truth_about_as_often_as_they_say(units, spread):
    """Documents of very different lengths, each with a difficulty of its own."""
    generator = np.random.default_rng(units)
    held, trials = 0, 1000
    for _ in range(trials):
        sizes = np.maximum(1, np.exp(generator.normal(5, spread, units))).astype(np.int64)
        totals = sizes * generator.normal(3, 0.3, units) + np.sqrt(sizes) * generator.normal(0, 2.5, units)
        low, high = estimate(Ratio(totals, sizes)).interval
        held += low <= 3 <= high
    assert 0.91 <= held / trials <= 0.995


def test_neighbours_that_resemble_each_other_do_not_make_an_interval_narrow():
    """Blocks of one book: the mood of the text changes slowly, so that single blocks would seem to say more."""
    generator = np.random.default_rng(0)
    held = {"in stretches": 0, "one by one": 0}
    for _ in range(300):
        losses = generator.normal(0, 1, 2000)
        for block in range(1, 2000):
            losses[block] += 0.8 * losses[block - 1]
        ratio = Ratio(losses, np.ones(2000, dtype=np.int64))
        for way, groups in {"in stretches": ratio.in_stretches(), "one by one": ratio}.items():
            low, high = estimate(groups).interval
            held[way] += low <= 0 <= high
    assert held["in stretches"] / 300 > 0.9
    assert held["one by one"] / 300 < 0.7


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100, 1742])
def test_stretches_hold_all_blocks_in_their_order(count):
    ratio = Ratio(np.arange(count, dtype=np.float64), np.ones(count, dtype=np.int64))
    stretches = ratio.in_stretches()
    assert len(stretches.weights) == min(count, 32)
    assert stretches.weights.sum() == count
    assert stretches.weights.max() - stretches.weights.min() <= 1
    assert stretches.value == pytest.approx(ratio.value)
    assert (np.diff(stretches.totals / stretches.weights) > 0).all()
