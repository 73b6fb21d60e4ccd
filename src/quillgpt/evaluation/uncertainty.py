"""Standard errors and 95 % intervals of means over groups of unequal size.

A loss is a ratio: the sum of the groups' losses divided by the sum of their tokens. Its standard error is the
delete-one jackknife over groups (Efron and Stein 1981), which is right whatever the dependence within a group. For
groups of equal size it is the usual standard error of a mean. The interval uses Student's t, with Kish's effective
number of groups minus one as degrees of freedom: few groups, or a text that one of them dominates, make it wide instead
of wrong.

Documents are groups. Neighbouring blocks of one text resemble each other, so up to STRETCHES stretches of neighbours
are the groups (batch means, Schmeiser 1982). If blocks are independent, that makes the interval 4 % wider. On tiny
Shakespeare the standard error over single blocks would be a half to a third of the true one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quillgpt.student import student_quantile

STRETCHES = 32
"""Most stretches into which the blocks of a text are put together."""


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from groups of a text.

    Attributes:
        value: The number.
        standard_error: None: there are fewer than two groups, or a value is not finite.
        groups: Number of groups.
        degrees: Degrees of freedom of the standard error.
    """

    value: float
    standard_error: float | None
    groups: int
    degrees: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None without a standard error."""
        if self.standard_error is None:
            return None
        margin = student_quantile(self.degrees) * self.standard_error
        return self.value - margin, self.value + margin


@dataclass(frozen=True)
class Ratio:
    """What is summed over groups, and what the sum is divided by, (groups,) each."""

    totals: NDArray[np.float64]
    weights: NDArray[np.int64]

    def in_stretches(self) -> Ratio:
        """Return the ratio with neighbours put together, as evenly as possible, to at most STRETCHES groups."""
        count = len(self.weights)
        if count <= STRETCHES:
            return self
        starts = np.arange(STRETCHES) * count // STRETCHES
        return Ratio(np.add.reduceat(self.totals, starts), np.add.reduceat(self.weights, starts))

    @property
    def value(self) -> float:
        """The ratio of the sums."""
        return float(self.totals.sum() / self.weights.sum())

    @property
    def influences(self) -> NDArray[np.float64]:
        """How much smaller the ratio is without each group, (groups,)."""
        rest = self.weights.sum() - self.weights
        return np.asarray((self.totals - self.value * self.weights) / rest, dtype=np.float64)

    @property
    def effective_groups(self) -> float:
        """Kish's effective number of groups: how many of equal weight would tell as much."""
        weights = self.weights.astype(np.float64)
        return float(weights.sum() ** 2 / (weights**2).sum())


def estimate(ratio: Ratio, minus: Ratio | None = None) -> Estimate:
    """Estimate a ratio, or the difference of two ratios over the same groups."""
    groups = len(ratio.weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = ratio.value - (0.0 if minus is None else minus.value)
        if groups < 2:
            return Estimate(value, None, groups, 0)
        influences = ratio.influences - (0.0 if minus is None else minus.influences)
        variance = (groups - 1) / groups * float(np.square(influences).sum())
    error = math.sqrt(variance) if math.isfinite(variance) else None
    return Estimate(value, error, groups, max(1, round(ratio.effective_groups - 1)))
