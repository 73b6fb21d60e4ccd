"""Student's distribution, for intervals around what was estimated from few numbers."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95
NEARLY_NORMAL = 1000
"""Degrees of freedom from which two terms of the expansion give Student's quantile to 1e-6."""


def student_quantile(degrees: int) -> float:
    """Return the number t for which a value of Student's distribution lies within -t .. t with probability 95 %.

    Student's distribution is not in Python's library, and SciPy is larger than all that Quill installs beside PyTorch.
    """
    normal = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if degrees >= NEARLY_NORMAL:
        return normal + (normal**3 + normal) / (4 * degrees)
    low, high = normal, 13.0  # 12.71 with one degree of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability_within(middle, degrees) < CONFIDENCE else (low, middle)
    return high


def _probability_within(t: float, degrees: int) -> float:
    """Return the probability of -t .. t under Student's distribution (Abramowitz and Stegun 1964, 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))
